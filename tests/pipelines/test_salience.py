"""Salient windows are ranked first, whatever their loudness and place; nothing is learnt."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.card import GridSpec
from neurostorm_app.pipelines.prepare_volumes import prepare_volumes
from neurostorm_app.pipelines.salience import BlockMeans, rank_windows
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries
from neurostorm_app.pipelines.tile import window_starts
from neurostorm_app.pipelines.train.matching import find_hits
from neurostorm_app.pipelines.train.parcel_phantoms import ParcelPhantoms

N, WINDOW, PLANTED = 15, 40, 3
STARTS = [i * WINDOW for i in range(N)]
MARGINS = {"ridge": 0.1, "connectivity": 0.02}
METHODS = list(MARGINS)
SIDE, MM = 16, 12.0


@pytest.fixture(scope="module")
def phantoms() -> ParcelPhantoms:
    return ParcelPhantoms(read_card("brainlm-demo"), 5)


def plant(phantoms: ParcelPhantoms, person: int, *, quiet: float = 0.2):
    """Bury all windows of a phantom's run in noise but a few; give the series and those few."""
    rng = np.random.default_rng(person)
    run = phantoms.run(person, 1, n_volumes=N * WINDOW).numpy().astype(np.float64)
    planted = sorted(int(i) for i in rng.choice(N, PLANTED, replace=False))
    noise = np.ones(N)
    noise[planted] = quiet
    return run + rng.normal(size=run.shape) * run.std() * np.repeat(noise, WINDOW), planted


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("person", [1, 2, 3])
def test_windows_in_which_networks_show_are_ranked_first(phantoms, person, method) -> None:
    series, planted = plant(phantoms, person)
    found = rank_windows(series, STARTS, window=WINDOW, most=PLANTED, method=method)
    assert found.chosen == tuple(planted)
    assert sorted(found.ranking[:PLANTED]) == planted
    ordered = np.sort(found.scores)
    assert ordered[-PLANTED] - ordered[-PLANTED - 1] > MARGINS[method]
    assert found.saved == pytest.approx(1 - PLANTED / N)
    assert found.as_facts()["selector"].startswith("ours")


def test_without_anything_planted_no_window_stands_out(phantoms) -> None:
    series, planted = plant(phantoms, 1, quiet=1.0)
    even = rank_windows(series, STARTS, window=WINDOW, most=PLANTED).scores
    clear, _ = plant(phantoms, 1)
    uneven = rank_windows(clear, STARTS, window=WINDOW, most=PLANTED).scores
    others = [i for i in range(N) if i not in planted]
    assert np.ptp(even) < 0.5 * (uneven[planted].min() - np.median(uneven[others]))


@pytest.mark.parametrize("method", METHODS)
def test_loudness_and_units_do_not_make_a_window_salient(phantoms, rng, method) -> None:
    series, planted = plant(phantoms, 2)
    found = rank_windows(series, STARTS, window=WINDOW, most=PLANTED, method=method)
    unit = rank_windows(7 * series + 900, STARTS, window=WINDOW, most=PLANTED, method=method)
    np.testing.assert_allclose(unit.scores, found.scores, atol=1e-9)
    noise = rng.normal(size=series.shape)
    first = next(i for i in range(N) if i not in planted)
    loud = slice(STARTS[first], STARTS[first] + WINDOW)
    series[:, loud] = 4 * series.std() * noise[:, loud]
    again = rank_windows(series, STARTS, window=WINDOW, most=PLANTED, method=method)
    assert first not in again.chosen


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_windows_and_regions_does_not_matter(phantoms, rng, method) -> None:
    series, _ = plant(phantoms, 3)
    found = rank_windows(series, STARTS, window=WINDOW, most=4, method=method).scores
    regions = series[rng.permutation(len(series))]
    same = rank_windows(regions, STARTS, window=WINDOW, most=4, method=method).scores
    np.testing.assert_allclose(same, found, atol=1e-9)
    windows = series.reshape(len(series), N, WINDOW)[:, ::-1].reshape(series.shape)
    turned = rank_windows(windows, STARTS, window=WINDOW, most=4, method=method).scores
    np.testing.assert_allclose(turned[::-1], found, atol=1e-9)


def test_the_reconstruction_is_that_of_a_ridge_regression_region_by_region(rng) -> None:
    series = rng.normal(size=(5, 60)) + rng.normal(size=(1, 60))
    found = rank_windows(series, [0, 20, 40], window=20, most=1).scores
    scaled = (series - series.mean(axis=1, keepdims=True)) / series.std(axis=1, keepdims=True)
    windows = [scaled[:, s : s + 20] for s in (0, 20, 40)]
    windows = [w - w.mean(axis=1, keepdims=True) for w in windows]
    penalty = 0.3 * np.mean([row @ row / 20 for row in windows[0]])
    lacking, there = 0.0, 0.0
    for i in range(5):
        rest = [j for j in range(5) if j != i]
        x, y = windows[0][rest], windows[0][i]
        weights = np.linalg.solve(x @ x.T / 20 + penalty * np.eye(4), x @ y / 20)
        for other in windows[1:]:
            lacking += ((other[i] - weights @ other[rest]) ** 2).sum()
            there += (other[i] ** 2).sum()
    assert found[0] == pytest.approx(1 - lacking / there, abs=1e-9)


def test_what_the_choice_costs_in_retrieval(phantoms) -> None:
    """Three salient windows of ten find the participant's other run as all ten do."""
    people, n, k = 8, 10, 3
    model, window = create_model("brainlm-demo"), phantoms.window
    rng, starts = np.random.default_rng(6), [i * phantoms.window for i in range(n)]
    of = [person for person in range(1, people + 1) for _ in (1, 2)]
    chosen: dict[str, list] = {"all": [], "salient": [], "random": []}
    for i, person in enumerate(of):
        series = phantoms.run(person, 1 + i % 2, n_volumes=n * window).numpy().astype(np.float64)
        loud = np.repeat(3.0 * (rng.permutation(n) < n // 2), window)  # half of it is noise
        series += rng.normal(size=series.shape) * series.std() * loud
        windows = torch.from_numpy(np.stack([series[:, s : s + window] for s in starts])).float()
        with torch.inference_mode():
            vectors = model.embed(windows, phantoms.places.expand(n, -1, -1)).numpy()
        best = rank_windows(series, starts, window=window, most=k)
        assert best.saved == pytest.approx(0.7)
        chosen["all"].append(vectors.mean(axis=0))
        chosen["salient"].append(vectors[list(best.chosen)].mean(axis=0))
        chosen["random"].append(vectors[rng.choice(n, k, replace=False)].mean(axis=0))
    hits = {how: find_hits(np.stack(rows), of).sum() for how, rows in chosen.items()}
    assert hits["salient"] >= hits["all"] - 1
    assert hits["salient"] >= hits["random"] + 4
    assert hits["salient"] >= 14


@pytest.mark.parametrize("method", METHODS)
def test_in_noise_the_windows_that_share_volumes_are_not_favoured(method) -> None:
    """Of 404 volumes the last two of 11 windows share 36; each score is as good as any other."""
    starts = window_starts(404, window=WINDOW, stride=WINDOW)
    scores, taken = [], 0
    for seed in range(60):
        series = np.random.default_rng(seed).normal(size=(30, 404))
        found = rank_windows(series, starts, window=WINDOW, most=2, method=method)
        scores.append(found.scores)
        taken += bool({9, 10} & set(found.chosen))
        assert not {9, 10} <= set(found.chosen)
    spread = np.std(scores) / np.sqrt(60)
    assert np.abs(np.mean(scores, axis=0) - np.mean(scores)).max() < 4 * spread
    assert taken < 30  # 2 of about 10 windows: 12 times by chance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("person", [1, 2, 3])
def test_salient_windows_are_found_in_a_run_of_no_whole_number_of_windows(
    phantoms, person, method
) -> None:
    series, planted = plant(phantoms, person)
    short = series[:, : -WINDOW + 4]  # the last window begins 4 volumes after the one before it
    starts = window_starts(short.shape[1], window=WINDOW, stride=WINDOW)
    assert starts[-1] - starts[-2] == 4
    clear = {i for i in planted if i < N - 2}  # the last two windows are nearly one
    rest = {N - 2, N - 1} if {N - 2, N - 1} & set(planted) else set()
    found = rank_windows(short, starts, window=WINDOW, most=len(clear), method=method)
    assert set(found.chosen) <= clear | rest
    assert len({N - 2, N - 1} & set(found.chosen)) < 2


@pytest.mark.parametrize("method", METHODS)
def test_a_window_is_judged_by_those_that_share_no_volume_with_it(method, rng) -> None:
    series = rng.normal(size=(6, 90)) + rng.normal(size=(1, 90))
    changed = series.copy()
    changed[:, 60:70] = rng.permuted(series[:, 60:70], axis=1)  # of the last window alone
    one, other = (
        rank_windows(values, [0, 20, 40, 50], window=20, most=1, method=method).scores
        for values in (series, changed)
    )
    assert np.isclose(one, other, atol=1e-9).tolist() == [False, False, True, False]


def test_windows_that_share_volumes_are_chosen_last(phantoms) -> None:
    series, _ = plant(phantoms, 1)
    starts = [0, 40, 80, 120, 124]
    best = [rank_windows(series, starts, window=40, most=k).chosen for k in range(1, 6)]
    assert [len(chosen) for chosen in best] == [1, 2, 3, 4, 5]
    assert not any({3, 4} <= set(chosen) for chosen in best[:4])


def test_few_windows_are_all_chosen() -> None:
    series = np.random.default_rng(0).normal(size=(5, 60))
    found = rank_windows(series, [0, 30], window=30, most=9)
    assert (found.chosen, found.saved) == ((0, 1), 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("starts", [[0], [0, 20]])
def test_windows_that_all_overlap_have_no_score_and_the_first_is_chosen(starts, method) -> None:
    series = np.random.default_rng(0).normal(size=(5, 60))
    found = rank_windows(series, starts, window=40, most=1, method=method)
    assert np.isnan(found.scores).all()
    assert found.chosen == (0,)
    assert found.as_facts()["scores"] == [None] * len(starts)


def test_a_window_that_cannot_be_judged_is_ranked_last() -> None:
    series = np.random.default_rng(0).normal(size=(5, 60))
    found = rank_windows(series, [0, 15, 30], window=30, most=2)  # scores of noise are below 0
    assert np.isnan(found.scores).tolist() == [False, True, False]
    assert found.ranking[-1] == 1
    assert found.chosen == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"most": 0}, "0 windows of a run cannot be embedded"),
        ({"window": 2}, "are needed to tell which windows are salient"),
        ({"series": np.zeros((5, 60))}, "0 regions change over time; 3 or more are needed"),
        ({"series": np.full((5, 60), np.nan)}, "a region's series holds NaN or infinity"),
        ({"series": np.ones((2, 60))}, "windows of 30 volumes of 2 regions"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change, message) -> None:
    given = {"series": np.random.default_rng(0).normal(size=(5, 60)), "window": 30, "most": 1}
    given |= change
    with pytest.raises((DataError, UsageError), match=message):
        rank_windows(given.pop("series"), [0, 30], **given)


def test_blocks_are_means_of_the_brain_in_them(rng) -> None:
    mask = np.zeros((8, 4, 4), dtype=bool)
    mask[:, :, 1:] = True
    mask[6, 1, 1] = False
    blocks = BlockMeans(mask, side=4)
    volumes = [rng.normal(size=mask.sum()).astype(np.float32) for _ in range(3)]
    assert len(list(blocks.watch(volumes))) == 3
    painted = np.full(mask.shape, np.nan)
    painted[mask] = volumes[2]
    # Two blocks are fewer than what is needed: those at the edge are taken too.
    expected = [np.nanmean(painted[:4]), np.nanmean(painted[4:])]
    np.testing.assert_allclose(blocks.series()[:, 2], expected, atol=1e-6)


@pytest.fixture
def run(tmp_path, phantoms):
    """A run of 8 windows of 10 volumes on a grid of 12 mm; two of them are clear."""
    rng = np.random.default_rng(4)
    grid = np.indices((SIDE,) * 3)
    mask = np.linalg.norm((grid - 7.5).reshape(3, -1), axis=0).reshape((SIDE,) * 3) < 6.5
    signals = phantoms.run(2, 1, n_volumes=80).numpy()[rng.integers(0, 6, mask.shape)]
    noise = np.repeat([3, 3, 0.2, 3, 3, 3, 0.2, 3], 10) * rng.normal(size=(*mask.shape, 80))
    series = (1000 + 5 * signals / signals.std() + 5 * noise) * mask[..., None]
    affine = np.diag([MM, MM, MM, 1.0])
    affine[:3, 3] = -90, -110, -80
    image = nib.Nifti1Image(series.astype(np.float32), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((MM, MM, MM, 2.0))
    nib.save(image, tmp_path / "bold.nii.gz")
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), tmp_path / "mask.nii.gz")
    contract = read_card("slim-brain").contract.model_copy(
        update={
            "grid": GridSpec(shape=(SIDE,) * 3, affine=tuple(map(tuple, affine[:3].tolist()))),
            "tr": 2.0, "tr_range": None, "window": 10, "stride": 10,
        }
    )  # fmt: skip
    series = StandardSeries(
        name="sub-01", bold=tmp_path / "bold.nii.gz", mask=tmp_path / "mask.nii.gz",
        confounds=None, tr=2.0, space="MNI152NLin6Asym", res="2",
    )  # fmt: skip
    return series, contract


def test_only_the_salient_windows_of_a_run_are_made(run, monkeypatch) -> None:
    series, contract = run
    monkeypatch.setattr(BlockMeans.__init__, "__kwdefaults__", {"side": 4})
    whole = prepare_volumes(series, contract, InputOptions())
    few = prepare_volumes(series, contract, InputOptions(max_windows=2))
    assert few.starts == [20, 60]
    windows = list(whole.windows)
    for found, expected in zip(few.windows, (windows[2], windows[6]), strict=True):
        np.testing.assert_array_equal(found, expected)
    facts = few.findings.facts
    assert (facts["n_windows"], facts["n_unused"], few.n_unused) == (2, 60, 60)
    assert facts["salience"]["saved"] == 0.75
    assert len(facts["salience"]["scores"]) == 8
    assert "salience" not in whole.findings.facts
    with pytest.raises(UsageError, match="upstream's own arithmetic knows no choice of windows"):
        prepare_volumes(series, contract, InputOptions(parity="upstream", max_windows=2))
    with pytest.raises(UsageError, match="0 windows of a run cannot be embedded"):
        prepare_volumes(series, contract, replace(InputOptions(), max_windows=0))
