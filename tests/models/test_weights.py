"""Every way a file of weights can be wrong has its own message."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from neurostorm_app.errors import ExitCode, MissingWeightsError, WrongWeightsError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.models.weights import find_weights, hash_file, load_strictly, read_checkpoint

KEY = "model.layers.0.blocks.0.norm1.weight"


@pytest.fixture
def checkpoint(small: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    state = NeuroStorm(Config.of(small)).state_dict()
    return {
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "hyper_parameters": small | {"model": "neurostorm", "learning_rate": 1e-3},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }


def save(content: object, tmp_path: Path) -> Path:
    path = tmp_path / "some.ckpt"
    torch.save(content, path)
    return path


def test_a_checkpoint_brings_its_own_configuration(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    model = create_model("neurostorm", weights=save(checkpoint, tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][f"model.{name}"])


def test_tensors_and_safetensors_are_weights_too(
    checkpoint: dict[str, Any], small: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "some.safetensors"
    save_file(checkpoint["state_dict"], path)
    x = torch.rand(1, 2, 16, 32, 48, 6)
    found = [
        create_model("neurostorm", config=small, weights=weights).embed(x)
        for weights in (checkpoint["state_dict"], path, str(path))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def renamed(state: dict[str, torch.Tensor]) -> None:
    state[KEY.replace("norm1", "norm9")] = state.pop(KEY)


def reshaped(state: dict[str, torch.Tensor]) -> None:
    state[KEY] = torch.ones(5)


def extended(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.0.blocks.0.mamba.in_proj.lora_A.weight"] = torch.ones(5)


def retyped(state: dict[str, torch.Tensor]) -> None:
    state[KEY] = torch.ones_like(state[KEY], dtype=torch.int64)


def broken(state: dict[str, torch.Tensor]) -> None:
    state[KEY] = torch.full_like(state[KEY], torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"1 missing: layers.0.blocks.0.norm1.weight; 1 unknown: layers.0.*norm9"),
        (reshaped, r"1 of another shape: layers.0.*norm1.weight is \(5,\), expected \(4,\)"),
        (extended, r"NeuroStorm: 1 unknown: layers.0.blocks.0.mamba.in_proj.lora_A.weight"),
        (retyped, r"1 of another type: layers.0.*norm1.weight is torch.int64, expected torch.fl"),
        (broken, r"1 not finite: layers.0.blocks.0.norm1.weight"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    checkpoint: dict[str, Any], tmp_path: Path, change: Any, message: str
) -> None:
    change(checkpoint["state_dict"])
    path = save(checkpoint, tmp_path)
    with pytest.raises(WrongWeightsError, match=message) as caught:
        create_model("neurostorm", weights=path)
    assert str(path) in caught.value.what
    assert caught.value.exit_code == ExitCode.DATA


def test_many_names_are_counted_and_the_first_are_shown() -> None:
    module = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(3)))
    with pytest.raises(
        WrongWeightsError, match=r"6 missing: 0.weight, 0.bias, 1.weight and 3 more$"
    ):
        load_strictly(module, {}, source="nothing")


def test_an_encoder_is_no_autoencoder(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    path = save(checkpoint, tmp_path)
    with pytest.raises(
        WrongWeightsError, match=r"these are not the weights of this .*NeuroStormMae: .*missing"
    ):
        create_model("neurostorm-mae", weights=path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_a_truncated_file_is_refused(
    checkpoint: dict[str, Any], tmp_path: Path, share: float, kind: str
) -> None:
    path = tmp_path / f"some.{kind}"
    if kind == "ckpt":
        torch.save(checkpoint, path)
    else:
        save_file(checkpoint["state_dict"], path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WrongWeightsError, match=r"truncated or damaged.* bytes") as caught:
        create_model("neurostorm", weights=path)
    assert "fetch the file again" in caught.value.fix


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.ckpt"
    path.write_text("<html>not found</html>")
    with pytest.raises(WrongWeightsError, match="truncated or damaged, or not a file of weights"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"epoch": 3}, torch.ones(2)])
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(WrongWeightsError, match="no state dict in it"):
        read_checkpoint(save(content, tmp_path))


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("torch", r"its pickle asks for \S+, which is code; it was not run"),
        ("plain pickle", "is a bare pickle, which may hold code; it was not run"),
    ],
)
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(
    checkpoint: dict[str, Any], tmp_path: Path, how: str, message: str
) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "some.ckpt"
    checkpoint["callbacks"] = Payload(trace)
    if how == "torch":
        torch.save(checkpoint, path)
    else:
        path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(WrongWeightsError, match=message) as caught:
        create_model("neurostorm", weights=path)
    assert not trace.exists()
    assert "plain tensors" in caught.value.fix


def test_a_wrong_hash_is_refused(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    path = save(checkpoint, tmp_path)
    right = hash_file(path)
    assert len(right) == 64
    assert read_checkpoint(path, sha256=right).config is not None
    with pytest.raises(WrongWeightsError, match=f"its SHA-256 is {right}; the card says 0000"):
        read_checkpoint(path, sha256="0" * 64)


def test_a_configuration_that_contradicts_the_file_is_refused(
    checkpoint: dict[str, Any], small: dict[str, Any], tmp_path: Path
) -> None:
    path = save(checkpoint, tmp_path)
    other = small | {"first_window_size": [2, 2, 2, 2]}  # leaves no trace in the weights
    with pytest.raises(
        WrongWeightsError,
        match=r"differs from the one stored with the weights in .*_size \(2, 2, 3, 2\) and",
    ):
        create_model("neurostorm", config=other, weights=path)
    create_model("neurostorm", config=small | {"mask_ratio": 0.8}, weights=path)


def test_missing_weights_tell_where_they_were_looked_for(tmp_path: Path) -> None:
    card = read_card("neurostorm")
    with pytest.raises(MissingWeightsError) as caught:
        find_weights(card, weights_dir=tmp_path)
    assert str(tmp_path / "pt_neurostorm_mae_5ds.ckpt") in caught.value.what
    assert "--weights neurostorm=PATH" in caught.value.fix
    assert "zxcvb20001/NeuroSTORM, revision 90ab5a43b07c" in caught.value.fix
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_weights_are_never_made_up() -> None:
    with pytest.raises(MissingWeightsError, match="neither a file nor a folder was given"):
        create_model("neurostorm")


@pytest.mark.parametrize("place", ["{file}", "neurostorm/{file}", "pretraining/{file}"])
def test_a_folder_of_weights_is_searched(tmp_path: Path, place: str) -> None:
    card = read_card("neurostorm")
    path = tmp_path / place.format(file=card.file)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert find_weights(card, weights_dir=tmp_path) == path


def test_a_named_file_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "pt_neurostorm_mae_5ds.ckpt").touch()
    with pytest.raises(MissingWeightsError, match=r"looked at .*/other.ckpt$"):
        find_weights(read_card("neurostorm"), given=tmp_path / "other.ckpt", weights_dir=tmp_path)
    with pytest.raises(MissingWeightsError, match="there is no such file of weights"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_model_without_weights_has_no_file() -> None:
    with pytest.raises(MissingWeightsError, match="connectome has no weights"):
        find_weights(read_card("connectome"))


def test_weights_of_an_image_are_found_after_those_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = read_card("neurostorm")
    baked, mine = tmp_path / "baked/neurostorm", tmp_path / "mine"
    for folder in (baked, mine):
        folder.mkdir(parents=True)
        (folder / str(card.file)).touch()
    monkeypatch.setenv("NEUROSTORM_WEIGHTS", str(tmp_path / "baked"))
    assert find_weights(card) == baked / str(card.file)
    assert find_weights(card, weights_dir=mine) == mine / str(card.file)
    assert find_weights(card, weights_dir=tmp_path / "none") == baked / str(card.file)


def test_a_name_that_many_models_share_counts_only_in_the_folder_of_the_model(
    tmp_path: Path,
) -> None:
    card = read_card("brainlm")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(MissingWeightsError, match="brainlm are not on this machine"):
        find_weights(card, weights_dir=tmp_path)
    for place in ("old_13M", "brainlm"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "pytorch_model.bin").touch()
        found = find_weights(card, weights_dir=tmp_path)
        assert found == tmp_path / place / "pytorch_model.bin"


def test_missing_weights_tell_how_to_fetch_them() -> None:
    with pytest.raises(MissingWeightsError) as caught:
        find_weights(read_card("brainlm"))
    assert "neurostorm-tools weights fetch brainlm --weights-dir DIR" in caught.value.fix
    with pytest.raises(MissingWeightsError) as caught:
        find_weights(read_card("neurostorm-mae-ratio0.5-later"))
    assert "revision unknown" in caught.value.fix
    assert "weights fetch" not in caught.value.fix


def test_finding_and_hashing_do_not_wait_for_torch() -> None:
    script = (
        "import sys; from neurostorm_app.models import read_card; "
        "from neurostorm_app.models.weights import find_weights, hash_file, check_hash; "
        "card = read_card('neurostorm-demo'); check_hash(find_weights(card), card.sha256); "
        "assert not {'torch', 'huggingface_hub'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_configuration_beside_plain_weights_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(2)}, path)
    assert read_checkpoint(path).config is None
    (tmp_path / "config.json").write_text('{"hidden_size": 512}')
    assert read_checkpoint(path).config == {"hidden_size": 512}
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path / "model.safetensors").config == {"hidden_size": 512}
    torch.save({"state_dict": {"x": torch.ones(2)}, "hyper_parameters": {"a": 1}}, path)
    assert read_checkpoint(path).config == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config.json: truncated or damaged.*its configuration is not JSON"),
        ("[" * 100_000, r"its configuration is not JSON"),
        ("[1]", r"config.json: its configuration is a list, not names and values"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = save({"x": torch.ones(2)}, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WrongWeightsError, match=message):
        read_checkpoint(path)


def test_hyper_parameters_may_be_a_namespace_but_nothing_else(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    state = checkpoint["state_dict"]
    stored = argparse.Namespace(**checkpoint["hyper_parameters"])
    path = save({"state_dict": state, "hyper_parameters": stored}, tmp_path)
    assert read_checkpoint(path).config == checkpoint["hyper_parameters"]
    create_model("neurostorm", weights=path)
    path = save({"state_dict": state, "hyper_parameters": [1, 2]}, tmp_path)
    with pytest.raises(WrongWeightsError, match="its hyper-parameters are a list, not names"):
        read_checkpoint(path)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = save({"x": torch.zeros(1_000_000)}, tmp_path)
    bomb = tmp_path / "bomb.ckpt"
    with (
        zipfile.ZipFile(path) as plain,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(WrongWeightsError, match=r"entries unpack to 4\d+ bytes; the file has \d+"):
        read_checkpoint(bomb)


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = save({"x": torch.zeros(1).expand(10**12)}, tmp_path)
    assert path.stat().st_size < 3000
    with pytest.raises(WrongWeightsError, match="x claims 4000000000000 bytes; 4 are in the file"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.ones(2, device="meta")])
def test_tensors_must_be_plain(tmp_path: Path, value: torch.Tensor) -> None:
    with pytest.raises(WrongWeightsError, match="x is not a plain tensor"):
        read_checkpoint(save({"x": value}, tmp_path))


def test_an_absurd_header_of_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(WrongWeightsError, match="its header claims 1152921504606846976 bytes"):
        read_checkpoint(path)
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(WrongWeightsError, match="truncated or damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "some.safetensors"])
def test_a_pointer_of_git_lfs_is_not_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 30000000\n")
    with pytest.raises(WrongWeightsError, match="stands for the weights in a git repository"):
        read_checkpoint(path)


NATIVE = "vit.embeddings.signal_embedding_projection.weight"
VIT = "vit.embeddings.patch_embeddings.projection.weight"
STORM = "model.layers.0.blocks.0.mamba.A_log"
SWIFT = "model.layers.0.blocks.0.attn.relative_position_bias_table"


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        ("neurostorm", NATIVE, "names of its tensors are those of BrainLM, not of NeuroSTORM"),
        ("neurostorm-mae", VIT, r"are those of BrainLM \(ViT-MAE\), not of NeuroSTORM"),
        ("neurostorm", SWIFT, "are those of SwiFT, not of NeuroSTORM"),
        ("brainlm", STORM, "are those of NeuroSTORM, not of BrainLM"),
        ("brainlm-650m", STORM, "are those of NeuroSTORM, not of BrainLM"),
    ],
)
def test_weights_of_another_family_are_called_by_their_name(
    model: str, name: str, message: str
) -> None:
    with pytest.raises(WrongWeightsError, match=message):
        create_model(model, weights={name: torch.ones(2)})


def test_strict_loading_names_the_family_of_the_file() -> None:
    class Shell(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            *path, last = name.split(".")
            here: torch.nn.Module = self
            for step in path:
                here.add_module(step, torch.nn.Module())
                here = here.get_submodule(step)
            here.register_parameter(last, torch.nn.Parameter(torch.ones(2)))

    with pytest.raises(WrongWeightsError, match=r"those of BrainLM; this is BrainLM \(ViT-MAE\)"):
        load_strictly(Shell(VIT), {NATIVE: torch.ones(2)}, source="a file")


def test_large_weights_are_mapped_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "large.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(25_000_000)}, "optimizer_states": [1]}, path)
    script = (
        "import re, sys, torch; from pathlib import Path; "
        "from neurostorm_app.models.weights import read_checkpoint; "
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', "
        "Path('/proc/self/status').read_text())[1]) // 1024; "
        "read_checkpoint(Path(sys.argv[2])); before = peak(); "
        "state = read_checkpoint(Path(sys.argv[1])).state; assert peak() - before < 50, peak(); "
        "assert float(state['x'].sum()) == 0"
    )
    small = save({"x": torch.ones(2)}, tmp_path)
    subprocess.run([sys.executable, "-c", script, path, small], check=True)


@pytest.mark.parametrize("name", ["mae", "sex", "age", "mae_2025_layout"])
def test_genuine_lightning_files_are_read(golden: Path, name: str) -> None:
    found = read_checkpoint(golden / f"lightning_{name}.ckpt")
    assert found.config is not None
    assert found.config["embed_dim"] == 4
    assert all(key.startswith(("model.", "output_head.")) for key in found.state)


@pytest.mark.parametrize(("at", "byte", "what"), [(6, 255, "version"), (46, 255, "codec")])
def test_wrong_bytes_in_the_list_of_an_archive_say_what_is_wrong(tmp_path, at, byte, what):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(2)}, path)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\1\2") + at] = byte  # version needed; first letter of a name
    path.write_bytes(content)
    with pytest.raises(WrongWeightsError, match=f"no zip archive: .*{what}"):
        read_checkpoint(path)


def test_a_list_that_would_begin_before_the_file_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(2)}, path)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\6\6") + 40  # size of the list, 8 bytes
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    # Older Pythons cannot even seek there: an OverflowError.
    with pytest.raises(WrongWeightsError, match="no zip archive"):
        read_checkpoint(path)
