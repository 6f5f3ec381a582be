"""The field from EPIs of opposite phase, against truth, for every phase axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import write_series
from neurostorm_app.pipelines.preprocess.field.epi import Epi, read_epi
from neurostorm_app.pipelines.preprocess.field.pepolar import estimate_pepolar
from neurostorm_app.pipelines.preprocess.field.splinefield import Basis
from neurostorm_app.pipelines.preprocess.field.unwarp import Distorted, unwarp, unwarp_mask
from neurostorm_app.pipelines.stage import Scan
from neurostorm_app.pipelines.xfm import Affine

READOUT = 0.03
LAS = Grid((32, 36, 30), from_matvec(np.diag([-6.0, 6, 6]), [93, -105, -87]))
NOWHERE = Affine.identity()


def brain_at(points):
    """Tell how bright a head is at points (..., 3), mm, and where its brain is."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    radius = np.sqrt((x / 62) ** 2 + (y / 76) ** 2 + (z / 58) ** 2)
    folds = np.sin(x / 7 + 1) * np.sin(y / 8) * np.cos(z / 9 + 0.5)
    brain = 1 / (1 + np.exp((radius - 1) * 25))
    return 1000 * brain * (0.8 + 0.3 * folds + 0.15 * np.cos(y / 17)), radius < 0.97


def hertz_at(points):
    """Tell the field at points (..., 3), mm: two places near air, and a slope."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    sinus = np.exp(-(x**2 + (y - 45) ** 2 + (z + 25) ** 2) / (2 * 18**2))
    ear = np.exp(-((x - 42) ** 2 + (y + 14) ** 2 + (z + 28) ** 2) / (2 * 16**2))
    return 70 * sinus - 50 * ear + 0.1 * y + 3


def push(volume, shift, axis, fine=12):
    """Move signal to where the field takes it: pieces of voxels are dropped into bins."""
    rows = np.moveaxis(volume, axis, -1)
    n = rows.shape[-1]
    at = (np.arange(n * fine) + 0.5) / fine - 0.5
    out = np.zeros(rows.shape)
    moved = np.moveaxis(shift, axis, -1)
    for index in np.ndindex(rows.shape[:-1]):
        mass = np.interp(at, np.arange(n), rows[index]) / fine
        where = at + np.interp(at, np.arange(n), moved[index])
        low = np.floor(where).astype(int)
        for cell, share in ((low, 1 - (where - low)), (low + 1, where - low)):
            there = (cell >= 0) & (cell < n)
            out[index] += np.bincount(cell[there], (mass * share)[there], minlength=n)
    return np.moveaxis(out, -1, axis)


def epi(direction, *, grid=LAS, readout=READOUT, xfm=NOWHERE, rng=None, name=None):
    """Take an EPI of a head moved by `xfm`, whose field moves with it."""
    there = xfm.inverse()(grid.world())
    bright, _ = brain_at(there)
    axis, sign = "ijk".index(direction[0]), -1 if direction.endswith("-") else 1
    seen = push(bright, sign * readout * hertz_at(there), axis)
    if rng is not None:
        seen = seen + rng.normal(0, 10, seen.shape)
    return Epi(
        name=name or f"dir-{direction}_epi.nii.gz",
        volume=np.maximum(seen, 0).astype(np.float32),
        grid=grid,
        phase=(axis, sign),
        readout=readout,
    )


def error_of(found, grid=LAS, *, readout=READOUT, centred=False):
    """Give the 95th percentile of the shift's error in the brain, voxels."""
    field = Basis(grid, found.knots).field(found.coefficients)
    away = (field - hertz_at(grid.world()))[brain_at(grid.world())[1]]
    if centred:
        away = away - np.median(away)
    return np.percentile(np.abs(away), 95) * readout


def largest_shift(grid=LAS):
    return np.percentile(np.abs(hertz_at(grid.world())[brain_at(grid.world())[1]]), 95) * READOUT


@pytest.mark.parametrize("pair", [("i", "i-"), ("j-", "j"), ("k", "k-")], ids=lambda p: p[0])
def test_a_pair_along_each_axis_gives_the_field(pair, rng):
    assert largest_shift() > 0.6  # voxels
    found = estimate_pepolar([epi(direction, rng=rng) for direction in pair])
    assert error_of(found) < 0.15  # voxels
    assert found.qc["alike_after"] > 0.98 > found.qc["alike_before"]
    assert found.qc["verdict"] == "pass"
    assert found.qc["phase_encoding"] == list(pair)


def test_the_first_scan_may_be_either_of_the_pair():
    one = estimate_pepolar([epi("j"), epi("j-")])
    other = estimate_pepolar([epi("j-"), epi("j")])
    away = Basis(LAS, one.knots).field(one.coefficients - other.coefficients)
    assert np.abs(away[brain_at(LAS.world())[1]]).max() * READOUT < 0.1  # voxels


def test_the_same_scans_give_the_same_bits():
    scans = [epi("j"), epi("j-")]
    one, other = estimate_pepolar(scans), estimate_pepolar(scans)
    assert np.array_equal(one.coefficients, other.coefficients)


def test_readout_times_may_differ():
    found = estimate_pepolar([epi("j-"), epi("j", readout=0.02)])
    assert error_of(found) < 0.15  # voxels


def test_three_scans_along_two_axes_give_the_field():
    found = estimate_pepolar([epi("j-"), epi("j"), epi("i")])
    assert error_of(found) < 0.15  # voxels


def test_the_head_may_move_between_the_scans():
    moved = Affine(from_matvec(euler2mat(0.02, -0.015, 0.02), [1.5, 0.4, -1.0]))
    found = estimate_pepolar([epi("j-"), epi("j", xfm=moved)])
    assert found.qc["motion_mm"][1] > 1  # mm
    # What moved along the phase axis is a constant field: nothing can tell them apart.
    assert error_of(found, centred=True) < 0.15  # voxels


def test_grids_and_orientations_may_differ():
    turned = from_matvec(np.diag([6.0, -6, 6]), [-96, 108, -90])
    ras = Grid((33, 37, 31), turned)
    found = estimate_pepolar([epi("j-"), epi("j-", grid=ras)])
    assert not found.qc["same_grid"]
    assert error_of(found) < 0.2  # voxels


def test_equal_directions_are_refused():
    with pytest.raises(DataError, match=r"are encoded alike .*j-, 0\.03 s.* says nothing"):
        estimate_pepolar([epi("j-"), epi("j-", name="other_epi.nii.gz")])


def test_one_scan_is_refused():
    with pytest.raises(DataError, match="told from two EPIs of different phase encodings"):
        estimate_pepolar([epi("j-")])


def test_slices_that_are_tilted_are_refused():
    affine = from_matvec(euler2mat(0.4, 0, 0) @ np.diag([-6.0, 6, 6]), [93, -105, -50])
    tilted = Grid(LAS.shape, affine)
    with pytest.raises(DataError, match="its phase axis is tilted by 23 degrees against"):
        estimate_pepolar([epi("j-"), epi("j", grid=tilted)])


def test_a_scan_that_shows_part_of_the_brain_asks_for_a_look():
    half = epi("j")
    half.volume[:, :, 15:] = 0
    found = estimate_pepolar([epi("j-"), half])
    assert found.qc["seen_share"] < 0.85
    assert found.qc["verdict"] != "pass"
    assert found.qc["reasons"][0].startswith(("the head in one scan", "the scans are less alike"))


def test_scans_of_two_objects_are_not_called_ok(rng):
    other = epi("j")
    noise = ndimage.gaussian_filter(rng.normal(size=LAS.shape), 1.5)
    other = Epi(
        name=other.name,
        volume=np.where(brain_at(LAS.world())[1], 500 + 2000 * noise, 0).astype(np.float32),
        grid=LAS,
        phase=other.phase,
        readout=READOUT,
    )
    assert estimate_pepolar([epi("j-"), other]).qc["verdict"] != "pass"


def test_a_series_is_averaged_at_rest(tmp_path):
    moved = Affine(from_matvec(euler2mat(0.01, 0.02, 0), [0.8, -0.5, 0.6]))
    volumes = [epi("j-").volume, epi("j-", xfm=moved).volume]
    path = tmp_path / "sub-01_dir-AP_epi.nii.gz"
    write_series(path, volumes, grid=LAS, n_volumes=2, tr=1.0)
    metadata = {"PhaseEncodingDirection": "j-", "EffectiveEchoSpacing": READOUT / 35}
    found = read_epi(Scan(path=path, metadata=metadata))
    assert found.phase == (1, -1)
    assert found.readout == pytest.approx(READOUT)
    assert found.source == "EffectiveEchoSpacing"
    inside = brain_at(LAS.world())[1]
    at_rest = np.abs(found.volume - volumes[0])[inside].mean()
    assert at_rest < 0.5 * np.abs(np.mean(volumes, axis=0) - volumes[0])[inside].mean()


def test_a_scan_without_direction_is_refused_by_name():
    path = Path("nowhere_epi.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"nowhere_epi\.nii\.gz: there is no such file"):
        read_epi(Scan(path=path))


@pytest.mark.parametrize("direction", ["i", "i-", "j", "j-", "k", "k-"])
def test_unwarping_puts_signal_back(direction):
    scan = epi(direction)
    bright, inside = brain_at(LAS.world())
    image = Distorted(volume=scan.volume, axis=scan.phase[0], per_hz=scan.phase[1] * READOUT)
    flat = unwarp(image, hertz_at(LAS.world()))
    before = np.abs(scan.volume - bright)[inside].mean()
    assert np.abs(flat - bright)[inside].mean() < 0.35 * before
    squeezed = unwarp(image, hertz_at(LAS.world()), jacobian=False)
    assert np.abs(squeezed - bright)[inside].mean() > np.abs(flat - bright)[inside].mean()


def test_a_mask_goes_back_too():
    brain = brain_at(LAS.world())[1]
    shift = READOUT * hertz_at(LAS.world())
    distorted = push(brain.astype(float), shift, 1) > 0.5
    image = Distorted(volume=distorted, axis=1, per_hz=READOUT)
    back = unwarp_mask(distorted, hertz_at(LAS.world()), image)
    assert np.count_nonzero(back ^ brain) < 0.6 * np.count_nonzero(distorted ^ brain)
