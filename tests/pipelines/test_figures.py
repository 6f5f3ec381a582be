"""Figures: the left is on the left, the numbers are right, the bytes are the same each time."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurostorm_app.errors import CorruptImageError, DataError, NoInputError, SeriesTooShortError
from neurostorm_app.pipelines.figures import (
    Contour,
    Picture,
    Trace,
    Volume,
    carpet_figure,
    cohort_figure,
    confound_figure,
    connectome_figure,
    correlate,
    draw_mosaic,
    mask_overlap,
    motion_figure,
    near,
    position_figure,
    project,
    read_volume,
    similarity,
    similarity_figure,
    summarise_series,
    trajectory_figure,
)
from neurostorm_app.pipelines.figures.slices import brain_box, cut
from neurostorm_app.pipelines.grid import Grid, vox2vox

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (30, 36, 28)
RAS = np.array([[4.0, 0, 0, -58], [0, 4, 0, -70], [0, 0, 4, -54], [0, 0, 0, 1]])
LAS = RAS @ np.array([[-1.0, 0, 0, 29], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
LPI = LAS @ np.array([[1.0, 0, 0, 0], [0, -1, 0, 35], [0, 0, -1, 27], [0, 0, 0, 1]])
ASR = RAS @ np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
ANGLE = np.deg2rad(11)
TURN = np.array(
    [
        [np.cos(ANGLE), -np.sin(ANGLE), 0, 0],
        [np.sin(ANGLE), np.cos(ANGLE), 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
)
OBLIQUE = TURN @ RAS
ORIENTATIONS = pytest.mark.parametrize(
    ("affine", "shape"),
    [(RAS, SHAPE), (LAS, SHAPE), (LPI, SHAPE), (ASR, (36, 28, 30)), (OBLIQUE, SHAPE)],
    ids=["RAS", "LAS", "LPI", "ASR", "oblique"],
)
BOX = np.array([[-50.0, -60, -45], [50, 60, 45]])


def ball(centre: tuple[float, float, float], radius: float, shape, affine) -> np.ndarray:
    world = Grid(shape, affine).world()
    return (np.linalg.norm(world - np.asarray(centre), axis=-1) < radius).astype(np.float32)


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def centre_of(picture: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(picture > 0.5 * picture.max())
    return float(rows.mean()), float(columns.mean())


@ORIENTATIONS
def test_what_is_left_in_the_world_is_left_in_the_picture(affine, shape):
    volume = Volume(ball((-30, 20, 10), 12, shape, affine), Grid(shape, affine))
    row, column = centre_of(cut(volume, "axial", 10, box=BOX))
    assert column == pytest.approx(-30 + 50, abs=1.5)  # mm from the left edge
    assert row == pytest.approx(60 - 20, abs=1.5)  # mm from the top edge, which is anterior


@ORIENTATIONS
def test_up_is_up_and_the_front_is_at_the_right_of_a_sagittal_slice(affine, shape):
    volume = Volume(ball((-30, 20, 10), 12, shape, affine), Grid(shape, affine))
    row, column = centre_of(cut(volume, "sagittal", -30, box=BOX))
    assert column == pytest.approx(20 + 60, abs=1.5)  # mm
    assert row == pytest.approx(45 - 10, abs=1.5)  # mm
    row, column = centre_of(cut(volume, "coronal", 20, box=BOX))
    assert column == pytest.approx(-30 + 50, abs=1.5)  # mm
    assert row == pytest.approx(45 - 10, abs=1.5)  # mm


@ORIENTATIONS
def test_a_mosaic_has_the_bright_side_where_it_says_left(affine, shape):
    brain = Volume(ball((0, 0, 0), 45, shape, affine), Grid(shape, affine))
    world = Grid(shape, affine).world()
    bright_left = np.where(world[..., 0] < 0, 100, 20).astype(np.float32) * brain.data
    picture = Picture(key="t1w", label="T1w", volume=Volume(bright_left, brain.grid))
    mosaic = draw_mosaic([picture], [], brain=brain)
    canvas = pixels(mosaic.images["t1w"])[..., 0].astype(float)
    left, right = (
        float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*>[LR]<', mosaic.overlay)[6:8]
    )
    middle = int(left + right) // 2
    tile = canvas[: int(brain_box(brain)[1, 1] * 2), int(left) : int(right)]
    assert tile[:, : tile.shape[1] // 2].mean() > 2 * tile[:, tile.shape[1] // 2 :].mean()
    assert left < middle < right


def test_a_contour_goes_around_its_region_and_nothing_else():
    brain = Volume(ball((0, 0, 0), 45, SHAPE, RAS), Grid(SHAPE, RAS))
    core = Volume(ball((-15, 0, 0), 20, SHAPE, RAS), brain.grid)
    picture = Picture(key="a", label="a", volume=brain)
    mosaic = draw_mosaic([picture], [Contour(key="wm", label="w", volume=core)], brain=brain)
    path = re.search(r'class="contour wm"[^>]*d="([^"]+)"', mosaic.overlay)
    assert path is not None
    starts = re.findall(r"M(\d+) (\d+)l", path[1])
    assert 8 <= len(starts) <= 18  # slices through the core, of twenty
    assert all(int(x) / 2 <= mosaic.width and int(y) / 2 <= mosaic.height for x, y in starts)


def test_layers_on_different_grids_show_the_same_place():
    brain = Volume(ball((0, 0, 0), 45, SHAPE, RAS), Grid(SHAPE, RAS))
    flipped = Volume(ball((0, 0, 0), 45, SHAPE, LAS), Grid(SHAPE, LAS))
    pictures = [
        Picture(key="a", label="a", volume=brain),
        Picture(key="b", label="b", volume=flipped),
    ]
    mosaic = draw_mosaic(pictures, [], brain=brain)
    difference = pixels(mosaic.images["a"]).astype(int) - pixels(mosaic.images["b"])
    assert np.abs(difference).max() <= 3  # grey levels of 255: compression with loss


def test_a_coloured_picture_keeps_what_is_zero_black():
    brain = Volume(ball((0, 0, 0), 45, SHAPE, RAS), Grid(SHAPE, RAS))
    picture = Picture(key="t", label="t", volume=brain, limits=(0, 2), colours="magma")
    mosaic = draw_mosaic([picture], [], brain=brain)
    canvas = pixels(mosaic.images["t"])
    assert canvas[2, 2].max() < 12  # grey levels
    assert mosaic.limits["t"] == (0, 2)


def test_an_empty_mask_still_gives_a_mosaic():
    nothing = Volume(np.zeros(SHAPE, dtype=np.float32), Grid(SHAPE, RAS))
    mosaic = draw_mosaic([Picture(key="a", label="a", volume=nothing)], [], brain=nothing)
    assert mosaic.width > 100


@ORIENTATIONS
def test_the_overlap_of_masks_does_not_depend_on_their_orientation(affine, shape):
    reference = Volume(ball((0, 0, 0), 40, SHAPE, RAS), Grid(SHAPE, RAS))
    mask = Volume(ball((0, 0, 0), 40, shape, affine), Grid(shape, affine))
    mask.data[mask.grid.world()[..., 2] < 0] = 0
    dice, coverage = mask_overlap(mask, reference)
    assert coverage == pytest.approx(0.5, abs=0.05)
    assert dice == pytest.approx(2 / 3, abs=0.05)


def write(path: Path, data: np.ndarray, affine: np.ndarray = RAS) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def test_what_is_near_a_mask_is_kept_in_millimetres():
    """Of a voxel of 2 x 3 x 4 mm in the middle, on a mask of half that pitch."""
    grid = Grid((21, 21, 21), np.diag([2.0, 3, 4, 1]))
    fine = Grid(
        (42, 42, 42), np.array([[1, 0, 0, -0.5], [0, 1.5, 0, -0.75], [0, 0, 2, -1], [0, 0, 0, 1]])
    )
    inside = np.zeros(fine.shape, np.float32)
    inside[20:22, 20:22, 20:22] = 1
    kept = near(Volume(np.ones(grid.shape, np.float32), grid), Volume(inside, fine), 8.0)
    steps = (np.indices(grid.shape) - 10).transpose(1, 2, 3, 0) * [2.0, 3, 4]
    np.testing.assert_array_equal(kept.data > 0, np.linalg.norm(steps, axis=-1) <= 8)
    nothing = Volume(np.zeros(fine.shape, np.float32), fine)
    assert not near(Volume(np.ones(grid.shape, np.float32), grid), nothing, 8.0).data.any()


def test_the_summary_of_a_series_has_the_numbers_of_numpy(tmp_path, rng):
    shape = (9, 8, 7)
    dseg = rng.integers(0, 4, shape).astype(np.int16)
    t = np.arange(41)
    series = 500 + 3 * t + rng.normal(0, 5, (*shape, t.size))
    series = series.astype(np.float32)
    found = summarise_series(
        write(tmp_path / "bold.nii.gz", series),
        mask=write(tmp_path / "mask.nii.gz", (dseg > 0).astype("u1")),
        dseg=write(tmp_path / "dseg.nii.gz", dseg),
        rows=90,
    )
    inside = series[dseg > 0].astype(float)
    fit = np.polynomial.polynomial.polyfit(t, inside.T, 1)
    residual = inside - (fit[0][:, None] + fit[1][:, None] * t)
    expected = inside.mean(1) / np.sqrt((residual**2).sum(1) / (t.size - 2))
    np.testing.assert_allclose(found.tsnr.data[dseg > 0], expected, rtol=1e-4)
    np.testing.assert_allclose(found.mean.data[dseg > 0], inside.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.tissue_means["CSF"], series[dseg == 3].mean(0), rtol=1e-5)
    assert not found.tsnr.data[dseg == 0].any()
    assert list(found.bands) == ["grey matter", "white matter", "CSF"]
    assert sum(found.bands.values()) == len(found.carpet)
    np.testing.assert_allclose(found.carpet.mean(1), 0, atol=0.1)  # standard deviations


def test_a_constant_series_has_no_signal_to_noise_and_no_warning(tmp_path):
    bold = write(tmp_path / "bold.nii.gz", np.full((5, 6, 7, 9), 3, dtype=np.float32))
    found = summarise_series(bold)
    assert not found.tsnr.data.any()
    assert not found.carpet.any()
    assert found.bands == {"brain": 210}


def test_a_single_volume_or_a_damaged_file_is_no_series(tmp_path):
    with pytest.raises(SeriesTooShortError, match="1 volumes"):
        summarise_series(write(tmp_path / "one.nii.gz", np.ones((5, 6, 7, 1), dtype="f4")))
    whole = write(tmp_path / "bold.nii.gz", np.random.default_rng(1).random((9, 8, 7, 30)))
    (tmp_path / "half.nii.gz").write_bytes(whole.read_bytes()[:20_000])
    with pytest.raises(CorruptImageError, match="half"):
        summarise_series(tmp_path / "half.nii.gz")
    with pytest.raises(NoInputError):
        read_volume(tmp_path / "none.nii.gz")


@pytest.fixture(scope="module")
def charts() -> dict[str, str]:
    rng = np.random.default_rng(5)
    carpet = rng.normal(size=(60, 50)).astype(np.float32)
    fd = np.abs(rng.normal(0.3, 0.2, 50))
    windows = np.cumsum(rng.normal(size=(9, 12)), axis=0)
    onsets = np.arange(9) * 14.0
    matrix = similarity(rng.normal(size=(6, 12)))
    return {
        "carpet": carpet_figure(
            carpet,
            {"grey matter": 40, "white matter": 20},
            traces=[Trace(name="FD", values=fd, unit="mm", threshold=0.5)],
            tr=2.0,
            label="carpet & traces",
        ),
        "motion": motion_figure(
            rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), tr=2.0, label="motion"
        ),
        "similarity": similarity_figure(windows, onsets, label="similarity"),
        "trajectory": trajectory_figure(windows, onsets, label="trajectory"),
        "connectome": connectome_figure(rng.normal(size=45), label="connectome"),
        "cohort": cohort_figure(matrix, ["01", "01", "02", "02", "03", "03"], label="cohort"),
    }


def test_a_chart_is_one_svg_that_loads_nothing_and_follows_the_page(charts):
    for svg in charts.values():
        assert svg.startswith("<svg viewBox=")
        assert "http" not in svg
        assert "var(--ink" in svg or "var(--muted" in svg
        assert "#0102f" not in svg
        assert "DejaVu" not in svg
    assert 'aria-label="carpet &amp; traces"' in charts["carpet"]


def test_ids_of_charts_are_unique_across_charts(charts):
    ids = re.findall(r'\sid="([^"]+)"', "".join(charts.values()))
    assert len(ids) == len(set(ids))


def test_every_reference_in_a_chart_finds_its_id(charts):
    for svg in charts.values():
        ids = set(re.findall(r'\sid="([^"]+)"', svg))
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= ids


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    code = (
        "import numpy as np; from neurostorm_app.pipelines.figures import *;"
        "r = np.random.default_rng(3); v = r.normal(size=(7, 5));"
        "print(trajectory_figure(v, np.arange(7.0), label='x') + carpet_figure("
        "r.normal(size=(9, 20)).astype('f4'), {'brain': 9},"
        " traces=[Trace(name='GS', values=r.normal(size=20))], tr=2.0, label='y'))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MPLCONFIGDIR"}
    environment |= {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
    (tmp_path / "home").mkdir()
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert first == second
    assert len(first) > 2000
    assert not list((tmp_path / "home").iterdir()), "matplotlib wrote into the home folder"


def test_a_carpet_without_rows_draws_the_traces_alone():
    svg = carpet_figure(
        np.zeros((0, 30), dtype=np.float32),
        {},
        traces=[Trace(name="FD", values=np.full(30, np.nan), threshold=0.5)],
        tr=2.0,
        label="traces",
    )
    assert "<image" not in svg


def test_projecting_finds_the_direction_of_most_variance(rng):
    direction = np.array([0.0, 3, 4]) / 5
    scores = rng.normal(size=20) * 10
    places, explained = project(scores[:, None] * direction + rng.normal(0, 0.01, (20, 3)))
    assert abs(np.corrcoef(places[:, 0], scores)[0, 1]) == pytest.approx(1, abs=1e-4)
    assert explained[0] > 0.99


def test_projecting_two_vectors_leaves_the_second_component_empty():
    places, explained = project(np.array([[0.0, 0, 0], [0, 3, 4]]))
    np.testing.assert_allclose(np.abs(places[:, 0]), 2.5)
    np.testing.assert_allclose(places[:, 1], 0, atol=1e-12)
    assert explained[0] == pytest.approx(1)


def test_similarity_of_centred_vectors_is_the_correlation(rng):
    vectors = rng.normal(size=(5, 30)) + 4
    np.testing.assert_allclose(similarity(vectors, centre=True), np.corrcoef(vectors), atol=1e-12)
    assert similarity(np.zeros((2, 3))).tolist() == [[0, 0], [0, 0]]


def test_numbers_that_are_no_triangle_say_so():
    with pytest.raises(DataError, match="not the pairs of any number of parcels") as caught:
        connectome_figure(np.ones(7), label="x")
    assert "upper triangle" in caught.value.fix


def test_the_orientations_of_these_tests_are_what_they_say():
    codes = ["".join(nib.aff2axcodes(a)) for a in (RAS, LAS, LPI, ASR)]
    assert codes == ["RAS", "LAS", "LPI", "ASR"]
    np.testing.assert_allclose(vox2vox(RAS, RAS), np.eye(4), atol=1e-12)


def test_confounds_are_correlated_over_the_rows_that_both_have(rng):
    a = rng.normal(size=50)
    b = 2 * a + rng.normal(size=50)
    b[0] = np.nan
    still = np.full(50, 3.0)
    matrix = correlate({"a": a, "b": b, "still": still})
    assert matrix[0, 1] == pytest.approx(np.corrcoef(a[1:], b[1:])[0, 1])
    assert matrix[0, 2] == 0
    assert np.array_equal(matrix, matrix.T)


def test_the_chart_of_confounds_tells_each_correlation_with_the_first(rng):
    columns = {name: rng.normal(size=30) for name in ("GS", "FD", "yaw")}
    drawn = confound_figure(columns, label="Confounds.")
    for value in correlate(columns)[0, 1:]:
        assert f"{value:+.2f}".replace("-", "\u2212") in drawn or f"{value:+.2f}" in drawn
    assert drawn == confound_figure(columns, label="Confounds.")


def test_the_position_of_a_run_is_marked_among_the_others(rng):
    places = rng.normal(size=(9, 2))
    own = np.arange(9) < 2
    shares = np.array([0.5, 0.2])
    drawn = position_figure(places, shares, own=own, here=1, label="Position.")
    for words in ("this run", "same participant", "other runs", "50% of variance"):
        assert words in drawn
