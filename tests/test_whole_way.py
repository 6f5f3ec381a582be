"""The whole way with nothing faked: a tiny phantom through both levels of the app."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app import run
from neurostorm_app.pipelines.phantom import make_phantom

BIN = Path(sys.executable).parent
MODELS = ("connectome", "neurostorm-demo")
RUN = "sub-01_task-rest_run-1"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """One person with two runs of 24 volumes, through both levels."""
    folder = tmp_path_factory.mktemp("whole")
    make_phantom(folder / "bids", participants=1, runs=2, seed=5, scale="tiny")
    first = run(folder / "bids", folder / "out", "participant", models=MODELS)
    assert first.exit_code == 0
    assert run(folder / "bids", folder / "out", "group").exit_code == 0
    again(folder)  # the pages now show the neighbours that the group level found
    return folder


def again(folder: Path):
    return run(folder / "bids", folder / "out", "participant", models=MODELS)


def stamps(folder: Path) -> dict[str, int]:
    out = folder / "out"
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent.name != "logs"
    }


def test_every_run_has_preprocessed_files_and_embeddings_of_each_model(tree):
    func = tree / "out/sub-01/func"
    stem = f"{RUN}_space-MNI152NLin6Asym_res-2"
    for label in ("connectome", "neurostormDemo"):
        table = np.loadtxt(func / f"{stem}_desc-{label}_embedding.tsv", skiprows=1, ndmin=2)
        assert table.shape[0] == 1
        assert np.isfinite(table).all()
    assert (func / f"{stem}_desc-preproc_bold.nii.gz").is_file()
    assert (func / f"{RUN}_desc-confounds_timeseries.tsv").is_file()


def test_what_comes_of_demo_weights_says_so_everywhere(tree):
    sidecars = list((tree / "out/sub-01/func").glob("*neurostormDemo*_embedding.json"))
    sidecars += (tree / "out/retrieval").glob("*neurostormDemo*.json")
    assert len(sidecars) == 4 + 3
    for path in sidecars:
        about = json.loads(path.read_text())
        assert about["Demo"] is True, path
        assert about["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE"), path
    for page in ("sub-01.html", "group.html"):
        assert "DEMO" in (tree / "out" / page).read_text()


def test_phantom_and_output_are_valid_bids(tree):
    for name in ("bids", "out"):
        command = [BIN / "bids-validator-deno", tree / name, "--ignoreWarnings"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def test_every_file_is_on_the_page_of_output_files(tree):
    spec = importlib.util.spec_from_file_location("told", Path(__file__).parent / "docs_outputs.py")
    told = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(told)
    assert told.untold(tree / "out") == []


def test_the_other_run_of_the_person_is_the_nearest(tree):
    command = [BIN / "neurostorm-tools", "query", tree / "out", "--like", RUN, "-k", "1", "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert [match["run"] for match in answer["matches"]] == ["sub-01_task-rest_run-2"]


def test_a_rerun_does_nothing_and_says_so(tree):
    before = stamps(tree)
    report = again(tree)
    assert "nothing to do" in report.summary()
    assert stamps(tree) == before


def test_an_embedding_that_was_removed_is_made_again_and_nothing_else_is(tree):
    lost = next((tree / "out").rglob(f"{RUN}_*_desc-connectome_embedding.tsv"))
    content, before = lost.read_bytes(), stamps(tree)
    lost.unlink()
    assert again(tree).exit_code == 0
    assert lost.read_bytes() == content
    touched = {name for name, stamp in stamps(tree).items() if before.get(name) != stamp}
    assert touched, "something was written"
    allowed = ("desc-connectome", "sub-01.html", "_report.json")
    assert [name for name in touched if not any(word in name for word in allowed)] == []


def test_nothing_is_left_behind_but_results(tree):
    hidden = [path.name for path in (tree / "out").iterdir() if path.name.startswith(".")]
    assert hidden == [".bidsignore"]
