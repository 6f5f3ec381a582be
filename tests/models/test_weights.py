"""Every way a file of weights can be wrong has its own message."""

from __future__ import annotations

import pickle
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


def broken(state: dict[str, torch.Tensor]) -> None:
    state[KEY] = torch.full_like(state[KEY], torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"1 missing: layers.0.blocks.0.norm1.weight; 1 unknown: layers.0.*norm9"),
        (reshaped, r"1 of another shape: layers.0.*norm1.weight is \(5,\), expected \(4,\)"),
        (extended, r"NeuroStorm: 1 unknown: layers.0.blocks.0.mamba.in_proj.lora_A.weight"),
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
