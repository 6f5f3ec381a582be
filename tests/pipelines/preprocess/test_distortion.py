"""The field of each kind of field map onto the BOLD reference, against truth."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.itk import read_itk_affines
from neurostorm_app.pipelines.phantom import make_phantom
from neurostorm_app.pipelines.preprocess.field.distortion import (
    estimate_field,
    place_field,
    shift_of,
)
from neurostorm_app.pipelines.preprocess.field.fieldjudge import judged, shift_range
from neurostorm_app.pipelines.preprocess.field.fieldless import estimate_field_from_anatomy
from neurostorm_app.pipelines.stage import Fieldmap, Scan
from neurostorm_app.pipelines.xfm import Affine

READOUT = 0.03
BOLD = Grid((30, 34, 28), from_matvec(np.diag([-6.0, 6, 6]), [87, -99, -81]))
GRE = Grid((48, 54, 44), from_matvec(np.diag([4.0, 4, 4]), [-94, -106, -86]))
MOVED = Affine(from_matvec(euler2mat(0.03, -0.02, 0.02), [2.0, 1.5, -2.5]))
"""Points of the BOLD reference to points of the field map."""
APART = 0.00246


def tissues_at(points):
    """Tell grey, white and fluid at points (..., 3), mm, and the brain they make."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    radius = np.sqrt((x / 62) ** 2 + (y / 76) ** 2 + (z / 58) ** 2)
    depth = radius + 0.07 * np.sin(x / 9 + 1) * np.sin(y / 10) * np.cos(z / 11)
    brain = 1 / (1 + np.exp((radius - 1) * 25))
    white = brain / (1 + np.exp((depth - 0.7) * 30))
    middle = brain / (1 + np.exp((np.sqrt((x / 12) ** 2 + (y / 28) ** 2 + (z / 14) ** 2) - 1) * 8))
    white = white * (1 - middle / np.maximum(brain, 1e-6))
    return np.clip(brain - white - middle, 0, 1), white, middle, brain


def hertz_at(points):
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    sinus = np.exp(-(x**2 + (y - 45) ** 2 + (z + 25) ** 2) / (2 * 18**2))
    ear = np.exp(-((x - 42) ** 2 + (y + 14) ** 2 + (z + 28) ** 2) / (2 * 16**2))
    return 70 * sinus - 50 * ear + 0.1 * y + 3


def seen_in_epi(points):
    grey, white, fluid, _ = tissues_at(points)
    return 600 * grey + 450 * white + 900 * fluid


def boldref(direction="j-", xfm=MOVED):
    """Distort by the truth: what is acquired at y came from x with x + shift(x) = y."""
    axis, sign = "ijk".index(direction[0]), -1 if direction.endswith("-") else 1
    points = BOLD.world()
    way = BOLD.affine[:3, axis]
    shift = np.zeros(BOLD.shape)
    for _ in range(30):
        shift = sign * READOUT * hertz_at(xfm(points - shift[..., None] * way))
    ahead = sign * READOUT * hertz_at(xfm(points - (shift - 0.01)[..., None] * way))
    here = sign * READOUT * hertz_at(xfm(points - shift[..., None] * way))
    squeezed = 1 / (1 + (ahead - here) / 0.01)
    return (seen_in_epi(xfm(points - shift[..., None] * way)) * squeezed).astype(np.float32)


@pytest.fixture
def epi(tmp_path, rng):
    """Write a distorted BOLD reference and its mask."""
    volume = boldref()
    paths = {"boldref": tmp_path / "boldref.nii.gz", "mask": tmp_path / "mask.nii.gz"}
    noisy = np.maximum(volume + rng.normal(0, 4, volume.shape), 0)
    write_volume(paths["boldref"], noisy, grid=BOLD)
    write_volume(paths["mask"], volume > 150, grid=BOLD, dtype=np.uint8)
    return paths


def gre(folder, kind, rng):
    """Write a field map of a kind, as a Siemens scanner would."""
    points = GRE.world()
    grey, white, fluid, brain = tissues_at(points)
    magnitude = 500 * grey + 620 * white + 350 * fluid
    field = hertz_at(points)
    noise = [8 * (rng.normal(size=GRE.shape) + 1j * rng.normal(size=GRE.shape)) for _ in "12"]
    times = (0.00492, 0.00492 + APART)
    one, two = (
        magnitude * np.exp(2j * np.pi * field * time + 0.7j) + n
        for time, n in zip(times, noise, strict=True)
    )
    files = {
        "magnitude1": (np.abs(one), np.float32),
        "phasediff": (_integers(np.angle(two * one.conj()), 0), np.int16),
        "phase1": (_integers(np.angle(one), -4096), np.int16),
        "phase2": (_integers(np.angle(two), -4096), np.int16),
        "fieldmap": (2 * np.pi * np.where(brain > 0.1, field, 0), np.float32),
    }
    for name, (volume, dtype) in files.items():
        write_volume(folder / f"sub-01_{name}.nii.gz", volume, grid=GRE, dtype=dtype)

    def scan(name, **metadata):
        return Scan(path=folder / f"sub-01_{name}.nii.gz", metadata=metadata)

    scans = {
        "phasediff": (scan("phasediff", EchoTime1=times[0], EchoTime2=times[1]),),
        "phases": (scan("phase1", EchoTime=times[0]), scan("phase2", EchoTime=times[1])),
        "direct": (scan("fieldmap", Units="rad/s"),),
    }
    return Fieldmap(name="fmap", kind=kind, scans=(*scans[kind], scan("magnitude1")))


def _integers(phase, low):
    steps = np.floor((phase + np.pi) / (2 * np.pi) * 4096).clip(0, 4095)
    return steps if low == 0 else 2 * steps + low


def error_of(field, truth, brain):
    return np.percentile(np.abs(field - truth)[brain], 95) * READOUT


@pytest.mark.parametrize("kind", ["phasediff", "phases", "direct"])
def test_each_kind_of_field_map_gives_the_field(kind, tmp_path, rng):
    found = estimate_field(gre(tmp_path, kind, rng), folder=tmp_path / "out")
    field, grid = read_volume(found["fieldmap"])
    assert grid == GRE
    brain = tissues_at(GRE.world())[3] > 0.5
    assert error_of(field, hertz_at(GRE.world()), brain) < 0.1  # voxels
    assert found["qc"]["verdict"] == "pass"
    assert found["qc"]["kind"] == kind
    assert {"fieldmap", "reference", "mask", "coefficients"} <= set(found)


def test_the_median_of_a_measured_field_may_be_taken_off(tmp_path, rng):
    fieldmap = gre(tmp_path, "direct", rng)
    found = estimate_field(fieldmap, folder=tmp_path / "out", demean=True)
    assert found["qc"]["demeaned"]
    inside = read_volume(found["mask"])[0] > 0
    assert abs(np.median(read_volume(found["fieldmap"])[0][inside])) < 0.5  # Hz
    assert found["qc"]["median_hz"] > 2


def test_a_field_map_finds_its_place_and_corrects(epi, tmp_path, rng):
    files = estimate_field(gre(tmp_path, "phasediff", rng), folder=tmp_path / "fmap")
    placed = place_field(
        files,
        boldref=epi["boldref"],
        mask=epi["mask"],
        phase=(1, -1),
        readout=READOUT,
        folder=tmp_path / "run",
    )
    there = MOVED(BOLD.world())
    brain = tissues_at(there)[3] > 0.5
    before = error_of(np.zeros(BOLD.shape), hertz_at(there), brain)
    assert error_of(read_volume(placed["field"])[0], hertz_at(there), brain) < 0.2 < before
    truth = seen_in_epi(there)
    raw = np.abs(read_volume(epi["boldref"])[0] - truth)[brain].mean()
    assert np.abs(read_volume(placed["boldref"])[0] - truth)[brain].mean() < 0.6 * raw
    qc = placed["qc"]
    assert qc["verdict"] == "pass"
    assert qc["placed_by"] == "registration"
    assert qc["alike_after"] > qc["alike_before"]
    (matrix,) = read_itk_affines(placed["fmap_xfm"])
    centre = np.array([[0.0, -10, 5]])
    away = Affine(matrix).inverse()(centre) - MOVED(centre)
    assert np.linalg.norm(away) < 1.0  # mm


def test_a_field_map_that_shows_half_the_brain_asks_for_a_look_or_is_refused(epi, tmp_path, rng):
    files = estimate_field(gre(tmp_path, "direct", rng), folder=tmp_path / "fmap")
    options = {**epi, "phase": (1, -1), "readout": READOUT, "folder": tmp_path / "run"}
    for low, refused in ((17, False), (24, True)):
        cut = dict(files)
        for name in ("reference", "mask"):
            volume, _ = read_volume(files[name])
            affine = GRE.affine.copy()
            affine[2, 3] += 4 * low
            part = Grid((GRE.shape[0], GRE.shape[1], GRE.shape[2] - low), affine)
            cut[name] = tmp_path / f"{name}-{low}.nii.gz"
            write_volume(cut[name], volume[:, :, low:], grid=part)
        if refused:
            with pytest.raises(DataError, match=r"the field map shows .* of the brain in"):
                place_field(cut, **options)
        else:
            qc = place_field(cut, **options)["qc"]
            assert qc["covered_share"] < 0.95
            assert "of the brain; elsewhere the field is a guess" in qc["reasons"][0]


def test_a_correction_that_makes_worse_or_folds_asks_for_a_look():
    brain = np.ones((5, 9, 4), dtype=bool)
    flat = shift_range(np.zeros(brain.shape), brain, 1)
    assert judged({**flat, "alike_before": 1.2, "alike_after": 1.25})["verdict"] == "pass"
    worse = judged({**flat, "alike_before": 1.2, "alike_after": 1.1})["reasons"][0]
    assert "less like the field map's after correction" in worse
    steep = -1.5 * np.arange(9.0)[:, None] * np.ones(brain.shape)
    folded = shift_range(steep, brain, 1)
    assert folded["folded_share"] == 1.0
    verdict = judged({**folded, "alike_before": 1.2, "alike_after": 1.25})["reasons"][0]
    assert "lies on top of other parts" in verdict


def test_a_field_map_without_magnitude_is_refused(tmp_path, rng):
    whole = gre(tmp_path, "phasediff", rng)
    alone = Fieldmap(name="fmap", kind="phasediff", scans=whole.scans[:1])
    with pytest.raises(DataError, match="the field map has no magnitude image"):
        estimate_field(alone, folder=tmp_path / "out")


def test_phase_and_magnitude_of_two_grids_are_refused(tmp_path, rng):
    whole = gre(tmp_path, "phasediff", rng)
    write_volume(whole.scans[1].path, np.ones(BOLD.shape), grid=BOLD)
    with pytest.raises(DataError, match="phase and magnitude of one acquisition were expected"):
        estimate_field(whole, folder=tmp_path / "out")


@pytest.mark.parametrize(("axis", "sign"), [(a, s) for a in range(3) for s in (1, -1)])
def test_a_shift_has_the_sign_of_the_phase_encoding(axis, sign):
    field = np.full((3, 4, 5), 20.0)
    shift = shift_of(field, phase=(axis, sign), readout=READOUT)
    assert shift.dtype == np.float32
    np.testing.assert_allclose(shift, sign * 0.6, rtol=1e-6)  # voxels


def test_the_anatomy_alone_lowers_the_error(tmp_path, rng):
    volume = boldref()
    there = MOVED(BOLD.world())
    paths = {"boldref": tmp_path / "boldref.nii.gz", "mask": tmp_path / "boldmask.nii.gz"}
    write_volume(paths["boldref"], volume + rng.normal(0, 4, volume.shape), grid=BOLD)
    write_volume(paths["mask"], volume > 150, grid=BOLD, dtype=np.uint8)
    grey, white, fluid, brain = tissues_at(GRE.world())
    anatomy = {"gm": grey, "wm": white, "csf": fluid, "mask": brain > 0.5}
    anatomy["t1w"] = 500 * grey + 800 * white + 150 * fluid
    files = {name: tmp_path / f"{name}.nii.gz" for name in anatomy}
    for name, image in anatomy.items():
        write_volume(files[name], image, grid=GRE)
    found = estimate_field_from_anatomy(
        paths["boldref"],
        paths["mask"],
        files,
        phase=(1, -1),
        readout=READOUT,
        folder=tmp_path / "run",
    )
    inside = tissues_at(there)[3] > 0.5
    truth = hertz_at(there) - np.median(hertz_at(there)[inside])
    field = read_volume(found["field"])[0]
    field = field - np.median(field[inside])  # a shift of the whole head is none of its matters
    assert error_of(field, truth, inside) < 0.8 * error_of(0 * truth, truth, inside)
    assert found["qc"]["experimental"]
    assert {"fmap_xfm", "field", "boldref", "mask", "coefficients"} <= set(found)


def test_the_pair_of_the_phantom_gives_its_field(tmp_path):
    """The phantom says: with phase encoding j- signal moves by -field * readout along j."""
    truth = make_phantom(
        tmp_path / "people",
        participants=1,
        runs=1,
        n_volumes=4,
        scale="tiny",
        fieldmap="pepolar",
    )
    folder = tmp_path / "people" / "sub-01" / "fmap"
    scans = tuple(
        Scan(
            path=folder / f"sub-01_dir-{label}_epi.nii.gz",
            metadata={"PhaseEncodingDirection": direction, "TotalReadoutTime": READOUT},
        )
        for label, direction in (("AP", "j-"), ("PA", "j"))
    )
    found = estimate_field(
        Fieldmap(name="pepolar", kind="pepolar", scans=scans), folder=tmp_path / "out"
    )
    true_field = truth.root / "sub-01" / "sub-01_task-rest_run-1_fieldmap.nii.gz"
    field, grid = read_volume(found["fieldmap"])
    expected, true_grid = read_volume(true_field)
    assert grid == true_grid
    brain = read_volume(found["mask"])[0] > 0
    assert error_of(0 * expected, expected, brain) > 0.4  # voxels
    assert error_of(field, expected, brain) < 0.3  # voxels
