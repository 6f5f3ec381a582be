"""From parcel series of a cohort to answers, by the commands a user types."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

from neurostorm_app.bids_app import cli, tools
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.pipelines.phantom.cohort import make_cohort

QUICK = ["--permutations", "99", "--repeats", "1", "--skip-bids-validation"]


def write_cohort(root, cohort, *, first=0):
    """Write a dataset with its table of people, and series as XCP-D writes them."""
    table, bids, series = cohort.table, root / "bids", root / "series"
    bids.mkdir(parents=True)
    (bids / "dataset_description.json").write_text('{"Name": "cohort", "BIDSVersion": "1.10.0"}')
    lines = ["participant_id\tage\tgroup\tsite\trestlessness"]
    files = []
    for i in range(len(table.participants)):
        who = f"sub-{first + i:03d}"
        cells = (table.age[i], table.group[i], table.site[i], table.restlessness[i])
        lines.append("\t".join([who, *map(str, cells)]))
        folder = series / who / "func"
        folder.mkdir(parents=True)
        for run in range(2):
            stem = f"{who}_task-rest_run-{run + 1}"
            path = folder / f"{stem}_space-MNI152NLin6Asym_res-2_atlas-GreyParcels100_stat-mean"
            path = path.with_name(f"{path.name}_timeseries.npy")
            np.save(path, cohort.series[i, run].T)
            path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": cohort.tr}))
            rows = ["framewise_displacement", "n/a", f"{cohort.motion[i, run]:.4f}"]
            (folder / f"{stem}_desc-confounds_timeseries.tsv").write_text("\n".join(rows) + "\n")
            files.append(path)
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")
    return bids, [str(path) for path in files]


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Forty people, embedded, collected and evaluated."""
    root = tmp_path_factory.mktemp("cohort")
    bids, files = write_cohort(root, make_cohort(40, 2, n_volumes=160, seed=6))
    out = root / "out"
    words = ["--out", str(out), "--models", "connectome", "brainlm-demo"]
    assert tools.main(["embed-series", *files, *words]) == 0
    words = ["--target", "age,group", "--save-heads", *QUICK]
    assert cli.main([str(bids), str(out), "group", *words]) == 0
    return bids, out


def test_every_source_stands_beside_the_others(world):
    _, out = world
    for target in ("age", "group"):
        rows = read_table(out / "prediction" / f"target-{target}_evaluation.tsv")
        sources = {row["source"] for row in rows}
        wanted = {"connectome", "brainlmDemo", "brainlmDemoUntrained", "baseline", "confounds"}
        assert wanted | {"confounds-motion", "confounds-site"} <= sources
    said = json.loads((out / "prediction" / "target-group_evaluation.json").read_text())
    assert said["Verdicts"]["connectome"]["effect"] == "found"
    assert said["Verdicts"]["brainlmDemo"]["sentence"].startswith("DEMO WEIGHTS")
    assert said["Sources"]["brainlmDemoUntrained"]["Model"]["Role"] == "control with random weights"


def test_a_control_says_that_it_is_one(world):
    _, out = world
    path = next(out.glob("sub-*/func/*_desc-brainlmDemoUntrained_embedding.json"))
    said = json.loads(path.read_text())
    assert said["Control"] is True
    assert said["Description"].startswith("CONTROL, RANDOM WEIGHTS.")


def test_the_output_is_bids_and_holds_no_label_of_anybody(world):
    bids, out = world
    validate(out, [], everyone=True)
    people = read_table(bids / "participants.tsv")
    told = {row["age"] for row in people} | {row["restlessness"] for row in people}
    for path in (*out.glob("phenotype/*"), *out.glob("prediction/*.[jt]s*"), *out.glob("logs/*")):
        text = path.read_text()
        assert not [value for value in told if len(value) > 5 and value in text]


def test_a_second_call_computes_nothing(world, capsys):
    bids, out = world
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    words = ["--target", "age,group", "--save-heads", *QUICK]
    assert cli.main([str(bids), str(out), "group", *words]) == 0
    assert "nothing to do" in capsys.readouterr().out
    changed = {p.name for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert not {name for name in changed if not name.endswith(".log")}


def test_a_head_tells_the_groups_of_people_it_never_saw(world, tmp_path):
    _, out = world
    cohort = make_cohort(30, 2, n_volumes=160, seed=6_000)
    bids, files = write_cohort(tmp_path, cohort, first=500)
    words = ["--out", str(tmp_path / "out"), "--models", "connectome"]
    assert tools.main(["embed-series", *files, *words]) == 0
    head = out / "prediction" / "target-group_desc-connectome_head.safetensors"
    assert tools.main(["predict", str(tmp_path / "out"), "--head", str(head)]) == 0
    path = tmp_path / "out" / "prediction" / "target-group_desc-connectomeNew_prediction.tsv"
    rows = {row["participant_id"]: row["predicted"] for row in read_table(path)}
    truth = {row["participant_id"]: row["group"] for row in read_table(bids / "participants.tsv")}
    right = np.mean([rows[who] == truth[who] for who in truth])
    assert len(rows) == 30
    assert right > 0.6  # 0.5 by chance


def test_the_runs_most_like_a_run_are_asked_for(world, capsys):
    _, out = world
    like = ["--like", "sub-007_task-rest_run-1", "-k", "3", "--json"]
    assert tools.main(["query", str(out), *like]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["matches"]) == 3
    assert said["matches"][0]["run"] == "sub-007_task-rest_run-2"


def test_without_controls_none_is_made(world, tmp_path):
    bids, out = world
    fresh = tmp_path / "out"
    for path in out.glob("sub-*/func/*"):
        if "Untrained" not in path.name:
            copy = fresh / path.relative_to(out)
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, copy)
    words = ["--target", "group", "--no-controls", *QUICK]
    assert cli.main([str(bids), str(fresh), "group", *words]) == 0
    assert not list(fresh.rglob("*Untrained*"))
    said = json.loads((fresh / "prediction" / "target-group_evaluation.json").read_text())
    assert any("no untrained control" in note for note in said["Notes"])
