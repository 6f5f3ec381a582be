"""One interpolation: the numbers are scipy's, and places in the world are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines import resample
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.kernels import __main__ as ahead
from neurostorm_app.pipelines.kernels.spline import spline_coefficients
from neurostorm_app.pipelines.kernels.taps import METHODS, taps_of
from neurostorm_app.pipelines.resample import (
    Distortion,
    VolumeSampler,
    resample_series,
    resample_volume,
)
from neurostorm_app.pipelines.xfm import Affine

SHAPE = (21, 23, 19)
ROTATED = euler2mat(0.2, -0.1, 0.3) @ np.diag([3.0, 3, 4])
ORIENTATIONS = {
    "RAS": from_matvec(np.diag([3.0, 3, 4]), [-30, -33, -36]),
    "LAS": from_matvec(np.diag([-3.0, 3, 4]), [30, -33, -36]),
    "LPS": from_matvec(np.diag([-3.0, -3, 4]), [30, 33, -36]),
    "oblique": from_matvec(ROTATED, -ROTATED @ [10, 11, 9]),
}
OBLIQUE = Grid(SHAPE, ORIENTATIONS["oblique"])
TARGET = Grid((25, 24, 26), from_matvec(np.diag([2.0, 2, 2]), [-24, -24, -25]))
ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}
MOTION = [
    np.eye(4),
    from_matvec(euler2mat(0.03, -0.02, 0.05), [1.5, -2, 1]),
    from_matvec(euler2mat(-0.04, 0.02, 0.01), [-1, 0.5, 2]),
    from_matvec(euler2mat(1.2, -0.5, 0.8), [25, 30, -28]),
]
in_four_orientations = pytest.mark.parametrize(
    "affine", ORIENTATIONS.values(), ids=ORIENTATIONS.keys()
)
by_every_method = pytest.mark.parametrize("method", METHODS)


def blob(points):
    """Draw a smooth, lopsided picture as a function of the world (mm)."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    return 100 * np.exp(-((x - 4) ** 2 / 300 + (y + 5) ** 2 / 400 + (z - 2) ** 2 / 350))


def waves(points):
    """Draw a picture whose shortest waves are 10 mm: more than three voxels of 3 mm."""
    x, y, z = (2 * np.pi * np.moveaxis(np.asarray(points), -1, 0)).astype(np.float64)
    return 50 + 20 * np.sin(x / 14) * np.cos(y / 15 + 1) + 10 * np.sin(z / 12 + y / 18)


def voxels_of(points, affine):
    """Bring points (..., 3) to voxel coordinates, axis first."""
    return np.moveaxis(apply_affine(np.linalg.inv(affine), points), -1, 0)


def near(where, shape=SHAPE):
    """Tell which voxel coordinates lie less than a voxel outside."""
    return ((where > -1) & (where < np.reshape(shape, (3,) + (1,) * (where.ndim - 1)))).all(axis=0)


def smooth_shift(grid, size=2.0):
    """Draw how far voxels go (voxels), as a field of a head would move them."""
    x, y, z = np.moveaxis(grid.world(), -1, 0)
    return (size * np.sin(x / 25 + 1) * np.cos(y / 20) * np.cos(z / 30)).astype(np.float32)


@in_four_orientations
def test_a_picture_keeps_its_place_in_the_world(affine):
    source = Grid(SHAPE, affine)
    out = resample_volume(blob(source.world()), source=source, target=TARGET)
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(out[inner], blob(TARGET.world())[inner], atol=0.3)  # of 100


@in_four_orientations
def test_a_moved_head_is_brought_back_by_its_motion(affine):
    source = Grid(SHAPE, affine)
    # A voxel of volume t shows the place of the head that motion[t] sends there.
    moved = (blob(Affine(m).inverse()(source.world())) for m in MOTION[:3])
    inner = (slice(4, -4),) * 3
    for volume in resample_series(moved, source=source, target=TARGET, motion=MOTION[:3]):
        np.testing.assert_allclose(volume[inner], blob(TARGET.world())[inner], atol=0.4)  # of 100


@pytest.mark.parametrize("method", ORDERS)
@in_four_orientations
def test_the_numbers_are_those_of_scipy_in_float64_and_zero_outside(affine, method, rng):
    source = Grid(SHAPE, affine)
    series = rng.normal(1000, 300, (4, *SHAPE)).astype(np.float32)
    to_bold = Affine(from_matvec(euler2mat(0.1, 0.05, -0.1), [2, -14, 21]))
    volumes = resample_series(
        series, source=source, target=TARGET, to_bold=to_bold, motion=MOTION, method=method
    )
    for given, volume, matrix in zip(series, volumes, MOTION, strict=True):
        where = voxels_of(Affine(matrix)(to_bold(TARGET.world())), affine)
        theirs = ndimage.map_coordinates(
            given.astype(np.float64), where, order=ORDERS[method], mode="grid-constant"
        )
        inside = near(where)
        assert 0.1 < inside.mean() < 1
        np.testing.assert_allclose(volume[inside], theirs[inside], atol=1e-6 * np.ptp(given))
        assert not volume[~inside].any()


def test_lanczos_is_its_definition(rng):
    volume = rng.normal(100, 30, SHAPE).astype(np.float32)
    points = rng.uniform(-30, 30, (300, 3))
    found = VolumeSampler(points, source=OBLIQUE, method="lanczos")(volume, MOTION[1])
    padded = np.pad(volume.astype(np.float64), 3)
    where = voxels_of(apply_affine(MOTION[1], points), OBLIQUE.affine).T
    for place, value in zip(where, found, strict=True):
        if not near(place):
            assert value == 0
            continue
        weights = []
        for x, n in zip(place, SHAPE, strict=True):
            away = x - np.arange(-3, n + 3)
            raw = np.where(np.abs(away) < 3, np.sinc(away) * np.sinc(away / 3), 0)
            weights.append(raw / raw[np.abs(away) < 3].sum())
        expected = np.einsum("xyz,x,y,z->", padded, *weights)
        assert value == pytest.approx(expected, abs=float(1e-6 * np.ptp(volume)))


@by_every_method
def test_weights_sum_to_one_at_every_point(method):
    polynomial = np.array(taps_of(method).polynomial, dtype=np.float64)
    t = np.linspace(-0.5, 0.5, 101)
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(t, polynomial.sum(1)), 1, atol=1e-7)


def test_coefficients_are_those_of_the_spline_through_all_voxels_and_zeros_around(rng):
    volume = rng.normal(0, 1, (6, 5, 4)).astype(np.float32)
    for given in (volume, np.asfortranarray(volume), volume[::-1, :, ::-1]):
        found = spline_coefficients(given)
        for axis in range(3):
            found = ndimage.convolve1d(found, np.array([1, 4, 1]) / 6, axis=axis)
        expected = np.pad(given, 1)
        np.testing.assert_allclose(found[1:-1, 1:-1, 1:-1], expected, atol=2e-6)  # of 6


@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shift_and_width_are_those_of_composed_coordinates(axis, jacobian, rng):
    volume = rng.normal(1000, 300, SHAPE).astype(np.float32)
    shift = smooth_shift(OBLIQUE) + rng.normal(0, 0.1, SHAPE).astype(np.float32)
    distortion = Distortion(shift=shift, axis=axis, jacobian=jacobian)
    whole = np.pad(shift.astype(np.float64), 20, mode="edge")
    size = np.reshape(SHAPE, (3, 1, 1, 1))
    place = np.clip(voxels_of(TARGET.world(), OBLIQUE.affine), 0, size - 1) + 20
    step = np.reshape(np.eye(3)[axis] / 2, (3, 1, 1, 1))
    middle, after, before = (
        ndimage.map_coordinates(whole, place + away, order=3) for away in (0 * step, step, -step)
    )
    found = resample_series(
        [volume] * 4, source=OBLIQUE, target=TARGET, motion=MOTION, distortion=distortion
    )
    for values, matrix in zip(found, MOTION, strict=True):
        where = voxels_of(Affine(matrix)(TARGET.world()), OBLIQUE.affine)
        where[axis] += middle
        theirs = ndimage.map_coordinates(
            volume.astype(np.float64), where, order=3, mode="grid-constant"
        )
        theirs *= near(where) * (1 + after - before if jacobian else 1)
        sure = ~(np.abs(where - np.where(where < 5, -1, size)) < 1e-5).any(axis=0)
        # The shift is float32: it moves a place by 1e-6 of a voxel.
        np.testing.assert_allclose(values[sure], theirs[sure], atol=1e-5 * np.ptp(volume))


def test_a_distorted_picture_is_restored_with_its_brightness():
    shape, axis = (12, 60, 14), 1
    grid = Grid(shape, np.diag([2.0, 2, 2, 1]))
    undistorted = np.arange(60.0)
    shift = 1.5 * np.sin(undistorted / 6)
    line = np.exp(-((undistorted - 30) ** 2) / 60)
    # What lies at x is acquired at x + shift(x), and thinned out by the derivative of that.
    fine = np.linspace(0, 59, 60001)
    gone = fine + 1.5 * np.sin(fine / 6)
    dense = np.exp(-((fine - 30) ** 2) / 60) / (1 + 0.25 * np.cos(fine / 6))
    acquired = np.interp(undistorted, gone, dense)
    volume, shifts = (np.tile(x[None, :, None], (12, 1, 14)) for x in (acquired, shift))
    restored, unscaled = (
        VolumeSampler(
            grid.world().reshape(-1, 3),
            source=grid,
            distortion=Distortion(shift=shifts.astype("f4"), axis=axis, jacobian=jacobian),
        )(volume, np.eye(4)).reshape(shape)[6, :, 7]
        for jacobian in (True, False)
    )
    np.testing.assert_allclose(restored, line, atol=2e-3)  # of 1
    assert np.abs(unscaled - line).max() > 0.1
    assert restored.sum() == pytest.approx(acquired.sum(), rel=1e-3)


@by_every_method
@pytest.mark.parametrize("distorted", [False, True])
def test_torch_gives_the_numbers_of_the_loops(distorted, method, rng):
    series = rng.normal(1000, 300, (9, *SHAPE)).astype(np.float32)
    motion = [MOTION[t % 4] for t in range(9)]
    distortion = Distortion(shift=smooth_shift(OBLIQUE), axis=1) if distorted else None
    ours, theirs = (
        np.stack(
            [
                *resample_series(
                    series, source=OBLIQUE, target=TARGET, motion=motion, method=method,
                    distortion=distortion, device=device,
                )
            ]
        )
        for device in ("cpu", "torch:cpu")
    )  # fmt: skip
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.ptp(series))
    assert ours.any(axis=(1, 2, 3)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@by_every_method
def test_a_gpu_gives_the_numbers_of_the_loops(method, rng):
    series = rng.normal(1000, 300, (9, *SHAPE)).astype(np.float32)
    given = {"source": OBLIQUE, "target": TARGET, "motion": [MOTION[t % 4] for t in range(9)]}
    given |= {"distortion": Distortion(shift=smooth_shift(OBLIQUE), axis=1), "method": method}
    ours, theirs = (
        np.stack([*resample_series(series, device=device, **given)]) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.ptp(series))


@by_every_method
def test_threads_and_reruns_do_not_change_the_bits(method, rng):
    series = rng.normal(100, 30, (5, *SHAPE)).astype(np.float32)
    motion = [from_matvec(np.eye(3), [t, 0, -t]) for t in range(5)]
    distortion = Distortion(shift=smooth_shift(OBLIQUE), axis=2)
    several = [
        np.stack(
            [
                *resample_series(
                    series, source=OBLIQUE, target=TARGET, motion=motion, method=method,
                    distortion=distortion, n_threads=n_threads,
                )
            ]
        )
        for n_threads in (1, 4, 1)
    ]  # fmt: skip
    np.testing.assert_array_equal(several[0], several[1])
    np.testing.assert_array_equal(several[0], several[2])


def test_parts_of_the_points_in_threads_do_not_change_the_bits(rng):
    points = rng.uniform(-35, 35, (70_001, 3))
    volume = rng.normal(100, 30, SHAPE)
    one, four = (
        VolumeSampler(points, source=OBLIQUE, n_threads=n_threads)(volume, MOTION[1])
        for n_threads in (1, 4)
    )
    np.testing.assert_array_equal(one, four)


@pytest.mark.parametrize(("method", "order", "gain"), [("cubic", 3, 1.9), ("linear", 1, 1.7)])
def test_composing_two_maps_beats_interpolating_twice(method, order, gain):
    """Head motion taken off on the native grid and then to 2 mm, beside both at once."""
    source = Grid((30, 30, 30), from_matvec(np.diag([3.0, 3, 3]), [-43.5, -43.5, -43.5]))
    still = Affine(from_matvec(euler2mat(0.02, -0.03, 0.04), [1.4, -1.1, 1.6]))
    to_bold = Affine(from_matvec(euler2mat(-0.05, 0.1, 0.2), [-0.6, 1.1, 0.9]))
    points = to_bold(TARGET.world())
    volume = waves(still.inverse()(source.world()))
    sampler = VolumeSampler(points.reshape(-1, 3), source=source, method=method)
    once = sampler(volume, still.matrix).reshape(TARGET.shape)
    halfway = resample_volume(volume, source=source, target=source, xfm=still, order=order)
    twice = resample_volume(halfway, source=source, target=TARGET, xfm=to_bold, order=order)
    where = voxels_of(points, source.affine)
    inside = ((where > 4) & (where < 25)).all(axis=0)
    assert inside.mean() > 0.5
    wrong = [np.sqrt(np.mean((found - waves(points))[inside] ** 2)) for found in (once, twice)]
    print(
        f"{method}: rms error once {wrong[0]:.3f}, twice {wrong[1]:.3f}; waves {volume.std():.0f}"
    )
    assert wrong[1] > gain * wrong[0]


def test_points_that_only_one_volume_reaches_are_not_lost(rng):
    series = rng.normal(100, 30, (2, *SHAPE)).astype(np.float32)
    away = Grid(TARGET.shape, from_matvec(np.eye(3) * 2, [170, -24, -25]))
    motion = [np.eye(4), from_matvec(np.eye(3), [-194.0, 0, 0])]
    here, there = resample_series(series, source=OBLIQUE, target=away, motion=motion)
    assert not here.any()
    expected = resample_volume(series[1], source=OBLIQUE, target=TARGET)
    np.testing.assert_allclose(there, expected, atol=1e-3)  # of 100
    shift = Distortion(shift=np.full(SHAPE, -60, "f4"), axis=0, jacobian=False)
    _, back = resample_series(
        series, source=OBLIQUE, target=away, motion=[np.eye(4)] * 2, distortion=shift
    )
    assert back.any()


def test_voxels_outside_the_mask_stay_zero(rng):
    volume = rng.normal(100, 5, SHAPE)
    mask = rng.random(TARGET.shape) < 0.3
    given = {"source": OBLIQUE, "target": TARGET, "motion": [np.eye(4)]}
    (whole,) = resample_series([volume], **given)
    (part,) = resample_series([volume], mask=mask, **given)
    np.testing.assert_allclose(part, np.where(mask, whole, 0), rtol=1e-6)


def test_slabs_make_the_whole(rng, monkeypatch):
    volume = rng.normal(100, 5, SHAPE)
    given = {"source": OBLIQUE, "target": TARGET, "motion": [np.eye(4)]}
    given["to_bold"] = Affine(MOTION[2])
    (whole,) = resample_series([volume], **given)
    monkeypatch.setattr(resample, "SLAB", 7 * 24 * 26)
    (slabs,) = resample_series([volume], **given)
    np.testing.assert_array_equal(slabs, whole)


@by_every_method
@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
def test_small_and_empty_inputs_work(device, method):
    one = Grid((1, 1, 1), np.eye(4))
    points = np.array([[0.0, 0, 0], [0.9, 0, 0], [1, 0, 0], [-1, 0, 0], [0, np.nan, 0]])
    values = VolumeSampler(points, source=one, method=method, device=device)(
        np.full((1, 1, 1), 7.0), np.eye(4)
    )
    assert values[0] == pytest.approx(7)
    assert not values[2:].any()
    sampler = VolumeSampler(np.empty((0, 3)), source=one, method=method, device=device)
    assert sampler(np.ones((1, 1, 1)), np.eye(4)).shape == (0,)
    given = {"source": one, "target": TARGET, "method": method, "device": device}
    assert list(resample_series([], motion=[], **given)) == []
    far = [from_matvec(np.eye(3), [0, 1e9, 0])]
    (volume,) = resample_series([np.ones((1, 1, 1))], motion=far, **given)
    assert volume.shape == TARGET.shape
    assert not volume.any()


def test_a_series_and_its_motion_have_the_same_length():
    volumes = [np.ones(SHAPE)] * 2
    with pytest.raises(ValueError, match="zip"):
        list(resample_series(volumes, source=OBLIQUE, target=TARGET, motion=MOTION[:3]))


@by_every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_voxel_that_is_not_finite_is_an_error(bad, method):
    volume = np.ones(SHAPE)
    volume[3, 4, 5] = volume[6, 7, 8] = bad
    with pytest.raises(
        DataError, match=r"2 of 9177 voxels of a volume .* NaN or infinite"
    ) as found:
        VolumeSampler(np.zeros((1, 3)), source=OBLIQUE, method=method)(volume, np.eye(4))
    assert "write numbers" in found.value.fix


def test_a_volume_of_another_grid_is_an_error():
    with pytest.raises(DataError, match=r"a volume has \(2, 3, 4\) voxels; its grid has \(21, 23"):
        resample_volume(np.ones((2, 3, 4)), source=OBLIQUE, target=TARGET)


def test_a_shift_of_another_grid_is_an_error():
    distortion = Distortion(shift=np.zeros((2, 3, 4), "f4"), axis=1)
    with pytest.raises(DataError, match=r"the shift of voxels has \(2, 3, 4\) voxels"):
        VolumeSampler(np.zeros((1, 3)), source=OBLIQUE, distortion=distortion)


def test_labels_stay_labels():
    labels = (blob(OBLIQUE.world()) > 50) * 7
    out = resample_volume(labels, source=OBLIQUE, target=TARGET, order=0)
    assert set(np.unique(out)) == {0, 7}


def test_the_loops_can_be_compiled_ahead(capsys):
    ahead.main()
    assert "neurostorm-app-" in capsys.readouterr().out
