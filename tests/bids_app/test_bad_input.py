"""Bad input at the door of the command, with the real pipelines behind it.

Series in standard space, 8 mm voxels, so that embedding takes no time; each bad case stands
beside a good run that must be finished.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.cli import main, main_inner
from neurostorm_app.bids_app.engines import real_engines
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.bids_app.inputs.entities import check_clashes, parse_name, read_filters
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.bids_app.words.options import Selection
from neurostorm_app.errors import DataError, NoInputError, UsageError

from .conftest import Dataset

SPACE = "space-MNI152NLin6Asym_res-2"
AFFINE = np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
GOOD, BAD = "sub-01_task-rest_run-1", "sub-01_task-rest_run-2"


def blank_page(root, label):
    """Stand in for the page: drawing it takes longer than all the rest."""
    path = root / f"sub-{label}.html"
    path.write_text("<html></html>")
    return path


ENGINES = replace(real_engines(), write_subject_page=blank_page)


def write_series(folder, run, *, n_volumes=60, seed=0):
    """Write noise on a coarse grid of the standard space, its mask and its sidecar."""
    shape = (23, 28, 23)
    data = np.random.default_rng(seed).normal(500, 20, (*shape, n_volumes)).astype(np.float32)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((8, 8, 8, 2.0))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run}_{SPACE}_desc-preproc_bold.nii.gz"
    nib.save(image, path)
    mask = nib.Nifti1Image(np.ones(shape, np.uint8), AFFINE)
    nib.save(mask, folder / f"{run}_{SPACE}_desc-brain_mask.nii.gz")
    sidecar = folder / f"{run}_{SPACE}_desc-preproc_bold.json"
    sidecar.write_text('{"RepetitionTime": 2.0}')
    return path


class Study:
    """A dataset whose runs are all preprocessed, and a call of the command on it."""

    def __init__(self, root, capsys):
        self.dataset, self.capsys = Dataset(root / "bids"), capsys
        self.dataset.participant("01")
        self.tree, self.out = root / "prep", root / "out"
        self.func = self.tree / "sub-01" / "func"
        self.good = write_series(self.func, GOOD, seed=1)
        self.bad = write_series(self.func, BAD, seed=2)

    def call(self, *words, out=None, level="participant"):
        """Call the command; exit code, and all that it said."""
        places = [str(self.dataset.root), str(out or self.out), level]
        words = [*places, "-d", f"prep={self.tree}", "--skip-bids-validation", *words]
        code = guarded("neurostorm-app", partial(main_inner, engines=ENGINES), words)
        shown = self.capsys.readouterr()
        return code, shown.out + shown.err

    def embedded(self, run, label="connectome"):
        table = f"{run}_{SPACE}_desc-{label}_embedding.tsv"
        return (self.out / "sub-01" / "func" / table).is_file()

    def report(self, run):
        return json.loads((self.out / "logs" / f"{run}_report.json").read_text())


@pytest.fixture
def study(tmp_path, capsys):
    return Study(tmp_path, capsys)


def test_good_input_is_embedded(study):
    code, said = study.call()
    assert code == 0
    assert study.embedded(GOOD)
    assert study.embedded(BAD)
    assert "2 runs: 2 done, 0 reused, 0 failed" in said
    code, said = study.call()
    assert code == 0
    assert "nothing to do: 2 runs have their results already" in said


def test_no_dataset(study):
    assert main(["/nowhere", str(study.out), "participant"]) == 66
    assert "/nowhere does not exist" in study.capsys.readouterr().err


def test_a_folder_that_is_not_bids(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path.parent / "out"), "participant"]) == 16
    assert "is not a BIDS dataset" in capsys.readouterr().err


def test_no_bold(tmp_path, capsys):
    dataset = Dataset(tmp_path / "bids")
    dataset.participant("01", runs=())
    words = [str(dataset.root), str(tmp_path / "out"), "participant", "--skip-bids-validation"]
    assert main(words) == 66
    assert "holds no BOLD run" in capsys.readouterr().err


def test_an_unknown_participant(study):
    code, said = study.call("--participant-label", "O1")
    assert code == 18
    assert "participant 'O1' is not in" in said
    code, said = study.call("--participant-label", "O1", "01")
    assert code == 18
    assert study.embedded(GOOD)


def test_output_inside_input(study):
    for inside in (study.dataset.root, study.dataset.root / "sub-01" / "out"):
        code, said = study.call(out=inside)
        assert code == 73
        assert "is inside the input" in said


def test_no_write_permission(study):
    (study.out.parent / "file").touch()
    code, said = study.call(out=study.out.parent / "file" / "out")
    assert code == 73
    assert "cannot be written" in said


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99], ids=["empty", "header", "half", "end"])
def test_a_truncated_series(study, kept):
    content = study.bad.read_bytes()
    study.bad.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    code, said = study.call()
    assert code == 65
    assert str(study.bad) in said
    assert study.report(BAD)["exit_code"] == 65
    assert study.embedded(GOOD)
    assert not study.embedded(BAD)


# What a damaged stream decodes to is anything, NaN among it.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_corrupt_series(study):
    content = bytearray(study.bad.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    study.bad.write_bytes(content)
    code, _ = study.call()
    assert code == 65
    assert study.embedded(GOOD)


def test_a_run_too_short(study):
    write_series(study.func, BAD, n_volumes=5)
    code, said = study.call()
    assert code == 65
    assert "5 volumes" in said
    assert study.embedded(GOOD)


def test_missing_weights(study):
    code, said = study.call("--models", "neurostorm", "connectome")
    assert code == 66
    assert "the weights of neurostorm are not on this machine" in said
    assert "--weights neurostorm=PATH" in said
    assert study.embedded(GOOD)
    assert study.embedded(BAD)


def test_weights_that_are_none(study, tmp_path):
    (tmp_path / "weights.ckpt").write_bytes(b"not weights")
    code, said = study.call(
        "--models", "neurostorm", "connectome", "--weights", f"neurostorm={tmp_path}/weights.ckpt"
    )
    assert code == 65
    assert "weights.ckpt" in said
    assert study.embedded(GOOD)


def test_weights_of_another_model(study, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"linear.weight": torch.zeros(3, 4)}, tmp_path / "other.safetensors")
    code, said = study.call(
        "--models",
        "neurostorm",
        "connectome",
        "--weights",
        f"neurostorm={tmp_path}/other.safetensors",
    )
    assert code == 65
    assert "linear.weight" in said
    assert study.embedded(GOOD)


def test_weights_for_a_model_without_any(study, tmp_path):
    (tmp_path / "x").touch()
    code, said = study.call("--weights", f"connectome={tmp_path}/x")
    assert code == 64
    assert "connectome has no weights" in said


def test_an_atlas_for_a_model_of_volumes(study, tmp_path):
    (tmp_path / "x").touch()
    code, said = study.call("--models", "neurostorm", "--atlas", f"neurostorm={tmp_path}/x")
    assert code == 64
    assert "takes volumes" in said


def test_a_link_in_the_output_folder_leads_nowhere_else(study, tmp_path):
    """A folder of results that is a link to another place is refused, and nothing lands there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (study.out / "sub-01").mkdir(parents=True)
    (study.out / "sub-01" / "func").symlink_to(outside)
    code, said = study.call()
    assert code == 73
    assert "would leave the output folder" in said
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["logs", "prov"])
def test_a_link_of_a_folder_of_records_leads_nowhere_else(study, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    study.out.mkdir()
    (study.out / name).symlink_to(outside)
    code, said = study.call()
    assert code == 73
    assert "would leave the output folder" in said
    assert list(outside.iterdir()) == []


def test_a_link_of_the_index_leads_nowhere_else(study, tmp_path):
    assert study.call()[0] == 0
    outside = tmp_path / "outside"
    outside.mkdir()
    (study.out / "retrieval").symlink_to(outside)
    code, said = study.call(level="group")
    assert code == 73
    assert "would leave the output folder" in said
    assert [path for path in outside.iterdir() if path.stat().st_size] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sub-01_task-a b_bold.nii.gz", "is not a BIDS name"),
        ("sub-01_task-rest_bold.nii.gz\n", "is not a BIDS name"),
        ("sub-01_run-1_run-2_bold.nii.gz", "names an entity twice"),
        (f"sub-01_task-{'a' * 140}_bold.nii.gz", "letters before its suffix; expected 140 at most"),
    ],
)
def test_names_that_are_none_are_refused(name, words):
    with pytest.raises(DataError, match=words):
        parse_name(Path("/data/sub-01/func") / name.replace(".nii.gz\n", "\n.nii.gz"))


def test_a_file_in_the_folder_of_another_participant_is_refused():
    name = "sub-01_ses-1_bold.nii.gz"
    for folder in ("sub-02", "sub-02/func", "sub-01/ses-2/func"):
        with pytest.raises(DataError, match=r"lies in the folder .* expected one label in both"):
            parse_name(Path("/data") / folder / name)
    assert parse_name(Path("/data/sub-02/sub-01/ses-1/func") / name)["sub"] == "01"


def test_names_that_a_disk_or_bids_takes_for_one_are_found():
    names = ["task-a_run-1", "task-A_run-1", "task-a_run-01", "task-a_run-2", "task-a_run-10"]
    paths = [Path(f"sub-01_{name}_bold.nii.gz") for name in names]
    paths.append(Path("sub-01_task-a_run-10_bold.nii"))
    found = check_clashes(paths)
    assert sorted(paths.index(path) for path in found) == [0, 1, 2, 4, 5]
    assert "are one name to a disk or to BIDS" in found[paths[4]].what
    assert paths[5].name in found[paths[4]].what


def test_a_sidecar_that_is_none_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.mkdir()
    with pytest.raises(DataError, match="is no ordinary file; expected a JSON object"):
        read_object(path)
    path.rmdir()
    path.write_text('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}")
    with pytest.raises(DataError, match="nests lists or objects too deep to be a sidecar"):
        read_object(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(NoInputError, match="this user may not read the sidecar"):
        read_object(path)


def test_a_filter_file_is_small_and_may_be_read(tmp_path, monkeypatch):
    path = tmp_path / "filter.json"
    path.write_text(" " * (2**20 + 1))
    selection = Selection(bids_filter_file=path)
    with pytest.raises(UsageError, match="is larger than 1 MiB: no filter file is"):
        read_filters(selection)
    path.write_text("{}")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(NoInputError, match="this user may not read the filter file"):
        read_filters(selection)
