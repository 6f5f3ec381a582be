"""Numbers that training asks about are those of the descriptions of runs, cleaned as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import DataError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.describe_networks import Networks, read_networks
from neurostorm_app.pipelines.describe_run import describe_run
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.train import described
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.described import measure_runs
from neurostorm_app.pipelines.train.material import Material, gather

V, T, SIDE, TR = 6, 100, 8, 2.0
NAME = "fc_Cont-Vis"
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "white_matter", "csf")
AFFINE = np.diag([12.0, 12, 12, 1])
AFFINE[:3, 3] = (-40, -50, -40)


def save(data: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((12.0, 12.0, 12.0, TR))
    nib.save(image, path)


def write_run(folder: Path, person: int, *, n: int = T) -> StandardSeries:
    """Write a run whose parcels share nothing but the head's motion."""
    rng = np.random.default_rng(person)
    labels = np.asarray(nib.load(folder / "atlas.nii.gz").dataobj)
    motion = rng.normal(size=(len(MOTION), n))
    series = 1000 + 5 * rng.normal(size=(V, n)) + 20 * motion[0]
    data = np.zeros((*labels.shape, n), np.float32)
    data[labels > 0] = series[labels[labels > 0] - 1]
    stem = folder / f"sub-0{person}"
    save(data, stem.with_suffix(".bold.nii.gz"))
    save((labels > 0).astype(np.uint8), stem.with_suffix(".mask.nii.gz"))
    rows = ["\t".join(MOTION), *("\t".join(f"{x:.6f}" for x in row) for row in motion.T)]
    stem.with_suffix(".tsv").write_text("\n".join(rows) + "\n")
    return StandardSeries(
        name=f"sub-0{person}_task-rest", bold=stem.with_suffix(".bold.nii.gz"),
        mask=stem.with_suffix(".mask.nii.gz"), confounds=stem.with_suffix(".tsv"), tr=TR,
        space="MNI152NLin6Asym", res="2",
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    labels = np.zeros((SIDE,) * 3, np.int16)
    inner = labels[1:-1, 1:-1, 1:-1]
    inner[:] = 1 + np.arange(inner.size).reshape(inner.shape) * V // inner.size
    save(labels, tmp_path / "atlas.nii.gz")
    rows = [f"{n}\t{'Vis' if n <= V // 2 else 'Cont'}" for n in range(1, V + 1)]
    (tmp_path / "networks.tsv").write_text("\n".join(["index\tnetwork", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def networks(folder) -> Networks:
    return read_networks(folder / "networks.tsv")


def make_material(folder: Path, runs: list[StandardSeries]) -> Material:
    change = {"n_parcels": V, "window": 16, "stride": 16, "shortest": 16, "multiple": 8}
    contract = read_card("fmri-lm").contract.model_copy(update=change | {"min_volumes": 10})
    recipe = CacheRecipe(contract=contract, atlas=folder / "atlas.nii.gz", dtype="float32")
    given = [(run.name.partition("_")[0], run) for run in runs]
    return gather(given, recipe, folder / "cache", device="cpu")[1]


def test_numbers_are_those_of_the_description_and_not_of_the_head_s_motion(folder, networks):
    run = write_run(folder, 1)
    material = make_material(folder, [run])
    ((found,),) = measure_runs(material, networks, device="cpu")
    expected = describe_run(run, label="", networks=networks, atlas=folder / "atlas.nii.gz")
    assert found == pytest.approx(expected.description.comparable, abs=1e-9)
    assert found.keys() == expected.description.comparable.keys()
    eaten = material.people[0][0].window(0, T)
    uncleaned = np.corrcoef(eaten)[: V // 2, V // 2 :].mean()
    assert uncleaned > 0.8
    assert abs(found[NAME]) < 0.3


def test_what_was_measured_is_kept_until_something_changes(folder, networks, monkeypatch):
    material = make_material(folder, [write_run(folder, 1)])
    calls = []

    def count(*words, **more):
        calls.append(words)
        return describe_run(*words, **more)

    monkeypatch.setattr(described, "describe_run", count)
    first = measure_runs(material, networks, device="cpu")
    assert measure_runs(material, networks, device="cpu") == first
    assert len(calls) == 1
    (kept,) = (folder / "cache").glob("*.described.json")
    assert b"sub-" not in kept.read_bytes()
    for damaged in ("{", '{"values": null, "lacking": []}'):  # measured anew
        kept.write_text(damaged)
        assert measure_runs(material, networks, device="cpu") == first
    assert len(calls) == 3
    other = replace(networks, by_index={**networks.by_index, 1: "Cont"})
    assert measure_runs(material, other, device="cpu") != first
    write_run(folder, 2).bold.replace(material.people[0][0].source.bold)
    again = make_material(folder, [material.people[0][0].source])
    assert measure_runs(again, networks, device="cpu") != first
    assert len(calls) == 5


def test_a_cache_that_may_only_be_read_is_used(folder, networks, monkeypatch, caplog):
    material = make_material(folder, [write_run(folder, 1)])
    expected = measure_runs(material, networks, device="cpu")
    (kept,) = (folder / "cache").glob("*.described.json")
    kept.unlink()

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", deny)
    assert measure_runs(material, networks, device="cpu") == expected
    assert "what was measured is not kept: Permission denied" in caplog.text
    assert not list((folder / "cache").glob("*described*"))


def test_a_run_that_cannot_be_described_is_named_and_the_others_go_on(folder, networks, caplog):
    runs = [write_run(folder, 1, n=18), replace(write_run(folder, 2), confounds=None)]
    short, bare = measure_runs(make_material(folder, runs), networks, device="cpu")
    assert short == [{}]
    assert NAME in bare[0]
    assert "sub-01_task-rest: nothing is asked about its description" in caplog.text
    assert "sub-02_task-rest: described without trans_x" in caplog.text


def test_a_run_of_which_nothing_is_known_is_refused(folder, networks):
    material = make_material(folder, [write_run(folder, 1)])
    lost = tuple(tuple(replace(run, source=None) for run in runs) for runs in material.people)
    with pytest.raises(DataError, match="was made of is not known, so it cannot be described"):
        measure_runs(replace(material, people=lost), networks, device="cpu")
