from __future__ import annotations

import json
import subprocess
import sys

import pytest

from neurostorm_app.bids_app.tools import main, main_inner
from neurostorm_app.errors import ExitCode, MissingWeightsError, UsageError, WrongWeightsError
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.atlases import list_atlases
from neurostorm_app.models.weights import EMBEDDED

COMMIT = "90ab5a43b07c" + "1" * 28
FILE = "pretraining/pt_neurostorm_mae_5ds.ckpt"


def test_list_tells_of_everything_where_it_lies(capsys, tmp_path):
    (tmp_path / "neurostorm").mkdir()
    (tmp_path / "neurostorm/pt_neurostorm_mae_5ds.ckpt").write_bytes(b"1234567")
    main_inner(["weights", "list", "--weights-dir", str(tmp_path)])
    said = capsys.readouterr().out
    for name in [*list_models(), *list_atlases()]:
        assert f"\n{name}: " in "\n" + said
    assert f"    in --weights-dir: {tmp_path}/neurostorm/pt_neurostorm_mae_5ds.ckpt, 7 b" in said
    assert f"    in the package: {EMBEDDED}/neurostorm-demo.safetensors, 2 MB" in said
    assert "trained on phantoms [DEMO, not for science]" in said
    assert "    missing, 93 MB\n    licence: MIT, commercial use allowed" in said
    assert "    no weights needed" in said
    assert "    missing, and cannot be fetched" in said
    assert "licence: CC-BY-NC-ND-4.0, no commercial use" in said
    assert "licence: GPL-3.0, use not stated" in said


def test_list_as_json_holds_the_cards_and_the_places(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROSTORM_WEIGHTS", str(tmp_path))
    (tmp_path / "pt_neurostorm_mae_5ds.ckpt").touch()
    main_inner(["weights", "list", "neurostorm", "connectome", "A424", "--json"])
    storm, connectome, atlas = json.loads(capsys.readouterr().out)
    assert storm["found"] == "in NEUROSTORM_WEIGHTS"
    assert storm["path"] == str(tmp_path / "pt_neurostorm_mae_5ds.ckpt")
    assert storm["contract"]["window"] == 20
    assert connectome["found"] == "no weights needed"
    assert (atlas["found"], atlas["path"]) == ("missing", None)


def test_verify_loads_what_is_in_the_package(capsys):
    main_inner(["weights", "verify", "neurostorm-demo"])
    said = capsys.readouterr().out
    assert "loads as neurostorm-demo; SHA-256 " in said
    assert said.endswith("as its card says\n")
    main_inner(["weights", "verify", "neurostorm-demo", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "loads as neurostorm-demo"


def test_verify_tells_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "demo.safetensors"
    path.write_bytes((EMBEDDED / "neurostorm-demo.safetensors").read_bytes()[:-1])
    with pytest.raises(WrongWeightsError, match=r"demo.safetensors: its SHA-256 is"):
        main_inner(["weights", "verify", "neurostorm-demo", "--weights", str(path)])
    with pytest.raises(MissingWeightsError):
        main_inner(["weights", "verify", "brainlm", "--weights-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify"], "weights verify: which model"),
        (["verify", "brainlm", "neurostorm", "--weights", "x"], "--weights is one file; 2 names"),
        (["fetch"], "weights fetch: which models or atlases, and where to"),
        (["fetch", "brainlm"], "weights fetch: which models or atlases, and where to"),
        (["list", "a424"], "there is no model or atlas 'a424'"),
        (["list", "brainml"], "there is no model 'brainml'"),
        (["send", "brainlm"], "invalid choice"),
    ],
)
def test_wrong_words_are_refused(words, message):
    with pytest.raises(UsageError, match=message) as caught:
        main_inner(["weights", *words])
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_licence_that_forbids_something_has_to_be_accepted(hub, tmp_path, capsys):
    words = ["weights", "fetch", "neurostorm", "brainlm", "A424", "--weights-dir", str(tmp_path)]
    assert main(words) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "neurostorm: licence MIT, commercial use allowed" in said
    assert "brainlm: licence CC-BY-NC-ND-4.0, no commercial use" in said
    assert "no sharing of changed or fine-tuned" in said
    assert "A424: licence GPL-3.0" in said
    assert "has to be accepted before fetching brainlm (CC-BY-NC-ND-4.0), A424 (GPL-3.0)" in said
    assert "--accept-licence" in said
    assert hub.log == []
    assert list(tmp_path.iterdir()) == []


def test_fetch_shows_the_licence_the_progress_and_the_hash(hub, tmp_path, capsys):
    hub.put("zxcvb20001/NeuroSTORM", COMMIT, FILE, bytes(2_000_000), lfs=True)
    words = ["weights", "fetch", "neurostorm", "--weights-dir", str(tmp_path)]
    main_inner(words)
    said = capsys.readouterr()
    assert "neurostorm: licence MIT" in said.err
    assert "2 MB of 2 MB" in said.err
    path = tmp_path / "neurostorm/pt_neurostorm_mae_5ds.ckpt"
    assert f"{path}: fetched, 2 MB, SHA-256 " in said.out
    main_inner([*words, "--json"])
    (file,) = json.loads(capsys.readouterr().out)
    assert (file["name"], file["path"]) == ("neurostorm", str(path))


def test_fetched_weights_that_do_not_load_are_told_by_verify(hub, tmp_path, capsys):
    hub.put("zxcvb20001/NeuroSTORM", COMMIT, FILE, b"no weights", lfs=True)
    folder = ["--weights-dir", str(tmp_path)]
    main_inner(["weights", "fetch", "neurostorm", *folder])
    with pytest.raises(WrongWeightsError, match="truncated or damaged"):
        main_inner(["weights", "verify", "neurostorm", *folder])


def test_fetch_names_the_atlas_that_is_needed_too(hub, tmp_path, capsys):
    source = read_card("brainlm").source
    for file in (source.file, *source.also):
        hub.put(source.repository, source.revision, file, b"{}")
    words = ["weights", "fetch", "brainlm", "--accept-licence", "--weights-dir", str(tmp_path)]
    main_inner(words)
    hint = f"neurostorm-tools weights fetch A424 --weights-dir {tmp_path}"
    assert hint in capsys.readouterr().out


def test_listing_waits_neither_for_torch_nor_for_the_hub():
    script = (
        "import sys; from neurostorm_app.bids_app.tools import main_inner; "
        "main_inner(['weights', 'list']); "
        "assert not {'torch', 'huggingface_hub'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
