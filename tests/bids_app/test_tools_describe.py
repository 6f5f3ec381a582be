"""The verbs ``describe`` and ``describe-reference``: series of others, and a cohort of them."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest

from neurostorm_app.bids_app.tools import main_inner
from neurostorm_app.bids_app.verbs.describe import add_describe, call_describe
from neurostorm_app.bids_app.verbs.describe_reference import (
    add_describe_reference,
    call_describe_reference,
)
from neurostorm_app.errors import CannotCreateError, DataError, NoInputError, UsageError
from neurostorm_app.pipelines.describe_reference import LEAST, read_reference

TR, N = 2.0, 120
OF = ("Vis",) * 4 + ("Cont",) * 4 + ("Default",) * 4
NAMES = [f"7Networks_LH_{name}_{i}" for i, name in enumerate(OF)]


def planted(seed: int, *, joined: float = 0.0) -> np.ndarray:
    """Draw parcels of three networks, (T, V); Cont and Default may share their signal."""
    rng = np.random.default_rng(seed)
    t = np.arange(N) * TR
    vis, cont, own = (np.sin(2 * np.pi * (f * t + rng.random())) for f in (0.02, 0.033, 0.051))
    default = joined * cont + np.sqrt(1 - joined**2) * own
    signals = {"Vis": vis, "Cont": cont, "Default": default}
    return (np.stack([signals[name] for name in OF]) + 0.7 * rng.normal(size=(len(OF), N))).T


def write_series(root, label, values, *, task="rest", run=None, names=NAMES, atlas="Small"):
    """Write a table as XCP-D does."""
    folder = root / f"sub-{label}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "series"}')
    part = f"_run-{run}" if run else ""
    path = folder / f"sub-{label}_task-{task}{part}_space-x_atlas-{atlas}_stat-mean_timeseries.tsv"
    rows = ["\t".join(repr(float(x)) for x in row) for row in values]
    path.write_text("\n".join(["\t".join(names), *rows]) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": TR}))
    return path


def describe_tables(*words):
    parser = argparse.ArgumentParser()
    add_describe(parser)
    call_describe(parser.parse_args([str(word) for word in words]))


def make_reference(*words):
    parser = argparse.ArgumentParser()
    add_describe_reference(parser)
    call_describe_reference(parser.parse_args([str(word) for word in words]))


def said_of(out, label, *, task="rest", run=None):
    part = f"_run-{run}" if run else ""
    name = f"sub-{label}_task-{task}{part}_space-x_atlas-Small_desc-connectivity_descriptors.json"
    return json.loads((out / f"sub-{label}" / "func" / name).read_text())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Describe one run of each of 20 people, and a second one of the first."""
    root = tmp_path_factory.mktemp("cohort")
    paths = [write_series(root / "xcp", f"{i:02d}", planted(i), run=1) for i in range(LEAST)]
    paths.append(write_series(root / "xcp", "00", planted(900), run=2))
    describe_tables(*paths, "--out", root / "out")
    return root


@pytest.fixture(scope="module")
def reference(cohort):
    path = cohort / "references" / "small.tsv"
    path.parent.mkdir()
    make_reference(path, cohort / "out", "--pipeline", "made up")
    return path


def test_a_table_is_described_by_the_names_of_its_columns(cohort):
    said = said_of(cohort / "out", "03", run=1)
    assert said["Networks"] == ["Cont", "Default", "Vis"]
    assert said["Values"]["fc_Vis-Vis"] > 0.4 > abs(said["Values"]["fc_Cont-Default"])
    assert said["Sources"] == [
        "bids:xcp:sub-03/func/sub-03_task-rest_run-1_space-x_atlas-Small_stat-mean_timeseries.tsv"
    ]
    assert any("series of parcels of Small" in note for note in said["Input"]["notes"])
    links = json.loads((cohort / "out" / "dataset_description.json").read_text())["DatasetLinks"]
    assert links == {"xcp": "../xcp"}


def test_a_reference_counts_one_run_of_each_and_says_who_is_in_it(cohort, reference):
    found = read_reference(reference)
    about = json.loads(reference.with_suffix(".json").read_text())
    assert found.participants == tuple(f"sub-{i:02d}" for i in range(LEAST))
    assert (about["N"], about["Pipeline"], about["Basis"]["Atlas"]) == (20, "made up", "Small")
    expected = [
        said_of(cohort / "out", f"{i:02d}", run=1)["Values"]["modularity"] for i in range(LEAST)
    ]
    mean, sd = found.values["modularity"]
    assert (mean, sd) == pytest.approx((np.mean(expected), np.std(expected, ddof=1)), rel=1e-6)
    assert not any(name.endswith("_Vis_mean") for name in found.values)
    assert str(cohort) not in reference.with_suffix(".json").read_text()


def test_who_differs_is_told_beside_a_reference_and_only_there(cohort, reference, tmp_path):
    path = write_series(tmp_path / "other", "99", planted(99, joined=0.95))
    describe_tables(path, "--out", tmp_path / "out")
    assert said_of(tmp_path / "out", "99")["Z"] is None
    describe_tables(path, "--out", tmp_path / "out", "--reference-descriptors", reference)
    said = said_of(tmp_path / "out", "99")
    assert said["Z"]["fc_Cont-Default"] > 5
    assert "fc_Cont-Default markedly elevated (z=+" in said["Text"]
    assert said["Reference"]["HoldsThisRun"] is False
    again = cohort / "xcp" / "sub-05" / "func"
    describe_tables(*again.glob("*.tsv"), "--out", tmp_path / "out", "--reference-descriptors",
                    reference.parent)  # fmt: skip
    assert said_of(tmp_path / "out", "05", run=1)["Reference"]["HoldsThisRun"] is True
    assert "this run is one of them" in said_of(tmp_path / "out", "05", run=1)["Text"]


def test_a_second_call_does_nothing_and_other_files_are_not_replaced(cohort, tmp_path):
    path = write_series(tmp_path / "one", "01", planted(1))
    out = tmp_path / "out"
    describe_tables(path, "--out", out)
    (sidecar,) = out.rglob("sub-01/func/*_descriptors.json")
    first = sidecar.stat().st_mtime_ns
    describe_tables(path, "--out", out)
    assert sidecar.stat().st_mtime_ns == first
    other = write_series(tmp_path / "two", "01", planted(2))
    with pytest.raises(
        DataError, match=r"were not described, the first is .* describes other files"
    ):
        describe_tables(other, "--out", out)
    assert sidecar.stat().st_mtime_ns == first


def test_networks_may_come_from_a_table(tmp_path):
    names = [f"p{i}" for i in range(len(OF))]
    path = write_series(tmp_path / "xcp", "01", planted(1), names=names)
    with pytest.raises(NoInputError, match="the names of its columns tell no networks"):
        describe_tables(path, "--out", tmp_path / "out")
    table = tmp_path / "atlas.tsv"
    rows = [f"{i}\t{names[i]}\t{name}" for i, name in enumerate(OF)]
    table.write_text("\n".join(["index\tlabel\tnetwork_label", *rows]) + "\n")
    describe_tables(path, "--out", tmp_path / "out", "--networks", table)
    assert said_of(tmp_path / "out", "01")["Networks"] == ["Cont", "Default", "Vis"]
    with pytest.raises(NoInputError, match="is no folder of time courses of components"):
        describe_tables(path, "--out", tmp_path / "out", "--networks", table, "--components", table)


def test_one_table_that_cannot_be_described_does_not_stop_the_others(tmp_path):
    good = write_series(tmp_path / "xcp", "01", planted(1))
    short = write_series(tmp_path / "xcp", "02", planted(2)[:15])
    with pytest.raises(DataError, match=r"1 of 2 tables were not described.*has 15 volumes"):
        describe_tables(good, short, "--out", tmp_path / "out")
    assert said_of(tmp_path / "out", "01")["NumberOfVolumes"] == N


def test_references_that_cannot_be_are_refused(cohort, reference, tmp_path):
    out = tmp_path / "reference.tsv"
    with pytest.raises(UsageError, match="a reference is a table"):
        make_reference(tmp_path / "reference.csv", cohort / "out")
    with pytest.raises(UsageError, match="a reference was asked for of 2 participants"):
        make_reference(
            out, cohort / "out", "--participant-label", "01", "--participant-label", "02"
        )
    with pytest.raises(NoInputError, match="is no folder with descriptions"):
        make_reference(out, tmp_path / "none")
    with pytest.raises(NoInputError, match="holds no descriptions that were asked for"):
        make_reference(out, cohort / "out", "--task-label", "faces")
    mixed = tmp_path / "mixed"
    shutil.copytree(cohort / "out", mixed)
    path = max(mixed.rglob("*_descriptors.json"))
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "Basis": {**said["Basis"], "ConfoundsMissing": []}}))
    with pytest.raises(DataError, match=r"was made otherwise than .*: ConfoundsMissing differs"):
        make_reference(out, mixed)
    path.write_text(json.dumps({**said, "Basis": {**said["Basis"], "Atlas": "Other"}}))
    with pytest.raises(UsageError, match="descriptions by the atlases Other, Small; a reference"):
        make_reference(out, mixed)
    path.write_text("[]")
    with pytest.raises(DataError, match="no description of a run can be read"):
        make_reference(out, mixed)
    assert not out.exists()


def test_cohorts_of_several_folders_are_joined(cohort, tmp_path):
    for name, people in (("a", range(10)), ("b", range(10, LEAST))):
        for person in people:
            part = f"sub-{person:02d}"
            shutil.copytree(cohort / "out" / part, tmp_path / name / part)
    path = tmp_path / "reference.tsv"
    make_reference(path, tmp_path / "a", tmp_path / "b", "--atlas-name", "Small")
    assert read_reference(path).participants[9:11] == ("a/sub-09", "b/sub-10")


def test_the_verbs_are_among_the_tools(cohort, tmp_path, capsys):
    path = next((cohort / "xcp" / "sub-07").rglob("*.tsv"))
    main_inner(["describe", str(path), "--out", str(tmp_path / "out")])
    assert "1 runs of 1 participants described" in capsys.readouterr().out
    with pytest.raises(UsageError, match="was asked for of 1 participants"):
        main_inner(["describe-reference", str(tmp_path / "x.tsv"), str(tmp_path / "out")])
    with pytest.raises(CannotCreateError, match="is inside the input"):
        main_inner(["describe", str(path), "--out", str(cohort / "xcp" / "deep")])
