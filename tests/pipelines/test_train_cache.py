"""Runs kept ready for training: what comes out is what embedding is given, and nothing is half."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neurostorm_app.errors import CannotCreateError, DataError, NoInputError, SeriesTooShortError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.prepare_parcels import prepare_parcels
from neurostorm_app.pipelines.prepare_volumes import prepare_volumes
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries
from neurostorm_app.pipelines.train import cache as cache_module
from neurostorm_app.pipelines.train.cache import CacheRecipe, build_cache, estimate_bytes
from neurostorm_app.pipelines.train.cache_file import CachedRun, open_cached

if TYPE_CHECKING:
    from neurostorm_app.models.card import VolumeContract

spec = importlib.util.spec_from_file_location(
    "train_cohort", Path(__file__).parents[1] / "train_cohort.py"
)
assert spec is not None
assert spec.loader is not None
cohort: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cohort)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    cohort.write_model(folder / "tiny")
    cohort.write_cohort(folder / "deriv", people=2)
    return folder


@pytest.fixture(scope="module")
def contract(place) -> VolumeContract:
    return read_card(str(place / "tiny")).contract


def run_of(place: Path, label: str = "01") -> StandardSeries:
    stem = f"sub-{label}_task-rest_run-1_space-MNI152NLin6Asym_res-2"
    folder = place / "deriv" / f"sub-{label}" / "func"
    return StandardSeries(
        name=f"sub-{label}_task-rest_run-1",
        bold=folder / f"{stem}_desc-preproc_bold.nii.gz",
        mask=folder / f"{stem}_desc-brain_mask.nii.gz",
        confounds=None,
        tr=2.0,
        space="MNI152NLin6Asym",
        res="2",
    )


def made(run: StandardSeries, recipe: CacheRecipe, folder: Path) -> CachedRun:
    [found] = build_cache([run], recipe, folder)
    assert isinstance(found, CachedRun), found
    return found


def test_windows_are_those_of_embedding(place, contract, tmp_path):
    run = run_of(place)
    found = made(run, CacheRecipe(contract=contract, dtype="float32"), tmp_path)
    prepared = prepare_volumes(run, contract, InputOptions())
    assert prepared.starts == [0, 4, 6]
    for start, window in zip(prepared.starts, prepared.windows, strict=True):
        np.testing.assert_array_equal(found.window(start, 4), window)


def test_half_the_bytes_round_by_one_in_two_thousand(place, contract, tmp_path):
    run = run_of(place)
    half = made(run, CacheRecipe(contract=contract), tmp_path)
    whole = made(run, CacheRecipe(contract=contract, dtype="float32"), tmp_path)
    exact = whole.window(3, 4)
    np.testing.assert_allclose(half.window(3, 4), exact, rtol=1 / 2000, atol=1e-7)
    assert half.path != whole.path
    assert half.path.stat().st_size < 0.6 * whole.path.stat().st_size


def test_parcels_are_those_of_embedding(place, tmp_path):
    import nibabel as nib

    demo = read_card("brainlm-demo").contract
    contract = demo.model_copy(
        update={"n_parcels": 8, "window": 4, "stride": 4, "min_volumes": 4, "shortest": 4,
                "multiple": 4, "coordinates": False}
    )  # fmt: skip
    run = run_of(place)
    image = nib.load(run.mask)
    grid = np.indices(image.shape)
    octants = 1 + (grid[0] > 7) + 2 * (grid[1] > 7) + 4 * (grid[2] > 7)
    atlas = tmp_path / "atlas.nii.gz"
    nib.save(
        nib.Nifti1Image((octants * (image.get_fdata() > 0)).astype(np.int16), image.affine), atlas
    )
    found = made(run, CacheRecipe(contract=contract, atlas=atlas, dtype="float32"), tmp_path)
    prepared = prepare_parcels(run, contract, atlas, InputOptions())
    for start, window in zip(prepared.starts, prepared.windows, strict=True):
        np.testing.assert_array_equal(found.window(start, 4), window)
    [missing] = build_cache([run], CacheRecipe(contract=contract), tmp_path)
    assert "no parcellation was given to make" in str(missing)


def test_a_run_is_made_ready_one_time(place, contract, tmp_path, monkeypatch):
    recipe = CacheRecipe(contract=contract)
    first = made(run_of(place), recipe, tmp_path)
    stamp = first.path.stat().st_mtime_ns
    monkeypatch.setattr(cache_module, "_cache_run", None)  # a call would be an error
    assert made(run_of(place), recipe, tmp_path).path.stat().st_mtime_ns == stamp


def test_the_name_tells_all_that_went_in(place, contract):
    recipe, run = CacheRecipe(contract=contract), run_of(place)
    others = [
        recipe.key(run_of(place, "02")),
        recipe.key(replace(run, tr=2.5)),
        recipe.key(replace(run, mask=None)),
        replace(recipe, dtype="float32").key(run),
        replace(recipe, contract=contract.model_copy(update={"tr": 1.0})).key(run),
    ]
    assert len({recipe.key(run), *others}) == 6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:-10], "its header says"),
        (lambda content: content[:100] + b"x" + content[101:], "its header is damaged"),
        (lambda content: b"", "its header is damaged"),
    ],
)
def test_a_damaged_file_is_seen_and_made_again(place, contract, tmp_path, spoil, message):
    recipe = CacheRecipe(contract=contract)
    path = made(run_of(place), recipe, tmp_path).path
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    with pytest.raises(DataError, match=message):
        open_cached(path)
    assert made(run_of(place), recipe, tmp_path).path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(NoInputError, match="is not in the cache"):
        open_cached(tmp_path / "x.windows")


def test_a_run_that_fails_leaves_the_others(place, contract, tmp_path):
    long = contract.model_copy(update={"window": 40})
    gone = replace(run_of(place), bold=tmp_path / "none.nii.gz")
    found = build_cache([run_of(place)], CacheRecipe(contract=long), tmp_path)
    assert isinstance(found[0], SeriesTooShortError)
    assert "a window of training takes 40" in str(found[0])
    found = build_cache([gone, run_of(place)], CacheRecipe(contract=contract), tmp_path)
    assert isinstance(found[0], NoInputError)
    assert isinstance(found[1], CachedRun)


def test_no_window_reaches_beyond_the_run(place, contract, tmp_path):
    found = made(run_of(place), CacheRecipe(contract=contract), tmp_path)
    for start in (-1, 7):
        with pytest.raises(DataError, match="were asked for"):
            found.window(start, 4)


def test_space_is_told_and_asked_for_before(place, contract, tmp_path, monkeypatch, caplog):
    recipe, run = CacheRecipe(contract=contract), run_of(place)
    with caplog.at_level("INFO"):
        size = made(run, recipe, tmp_path / "a").path.stat().st_size
    assert "1 runs are to be made ready" in caplog.text
    assert 0.9 * size < estimate_bytes([run], recipe) < 1.6 * size
    no_mask = estimate_bytes([replace(run, mask=None)], recipe)
    assert no_mask == 10 * 2 * round(0.35 * 16**3)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: type("D", (), {"free": 9}))
    with pytest.raises(CannotCreateError, match="the cache takes about"):
        build_cache([run], recipe, tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError, match="the cache cannot be made there"):
        build_cache([run], recipe, tmp_path / "file" / "folder")


def test_models_of_whole_runs_have_no_windows_to_train_on():
    recipe = CacheRecipe(contract=read_card("connectome").contract)
    with pytest.raises(DataError, match="the model takes whole runs"):
        _ = recipe.window
