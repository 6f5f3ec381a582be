"""The map to the standard brain: both ways, the same every time, and nothing left behind."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.itk import read_itk_composite, write_itk_composite
from neurostorm_app.pipelines.preprocess import normalization
from neurostorm_app.pipelines.preprocess.normalization import normalize, to_standard
from neurostorm_app.pipelines.preprocess.registration import register_rigidly, register_syn
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.templates import load_template
from neurostorm_app.pipelines.xfm import Affine, Chain

SPACE = "MNI152NLin6Asym"
POSE = from_matvec(
    Rotation.from_euler("xyz", [5, -4, 8], degrees=True).as_matrix() * 1.06, [4.0, -7, 9]
)
"""Template points to points of the participant."""


@pytest.fixture(scope="module")
def participant(tmp_path_factory):
    """Place the template's brain elsewhere, on voxels of 3 mm in another order of axes."""
    folder = tmp_path_factory.mktemp("participant")
    template = load_template(SPACE)
    linear = np.array([[0.0, -3, 0], [0, 0, 3], [-3, 0, 0]])
    grid = Grid((64, 58, 74), from_matvec(linear, [86, -104, 86]))
    back = Affine(POSE).inverse()
    for name, path in (
        ("t1w", template.t1w),
        ("mask", template.mask),
        ("GM", template.gm),
        ("WM", template.wm),
        ("CSF", template.csf),
    ):
        volume, source = read_volume(path)
        smooth = ndimage.gaussian_filter(volume, 0.6)
        moved = resample_volume(smooth, source=source, target=grid, xfm=back, order=1)
        write_volume(folder / f"{name}.nii.gz", moved > 0.5 if name == "mask" else moved, grid=grid)
    return folder


@pytest.fixture(scope="module")
def done(participant, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(normalization, "SYN", normalization.SYN | {"reg_iterations": (15, 0, 0)})
    folder = tmp_path_factory.mktemp("normalized")
    yield normalize(
        participant / "t1w.nii.gz",
        participant / "mask.nii.gz",
        space=SPACE,
        res="2",
        out_dir=folder,
    )
    patch.undo()


@pytest.fixture
def points(rng):
    template = load_template(SPACE)
    inside = template.grid.world()[read_volume(template.mask)[0] > 0]
    return rng.choice(inside, 3000, replace=False)


def test_the_known_pose_is_found(done, points):
    found = read_itk_composite(done.to_std_xfm)(points)
    astray = np.linalg.norm(found - apply_affine(POSE, points), axis=1)
    assert np.median(astray) < 1.5  # mm: half a voxel, after a few coarse iterations


def test_the_way_back_is_the_inverse(done, points):
    there = read_itk_composite(done.to_std_xfm)(points)
    back = read_itk_composite(done.from_std_xfm)(there)
    assert np.percentile(np.linalg.norm(back - points, axis=1), 95) < 0.2  # mm


def test_the_template_comes_back_onto_the_participant(done, participant):
    mask, grid = read_volume(participant / "mask.nii.gz")
    carried, own = read_volume(done.template_mask)
    assert own == grid
    dice = 2 * np.sum((mask > 0) & (carried > 0)) / (mask.sum() + carried.sum())
    assert dice > 0.96
    for name, path in done.priors.items():
        prior, own = read_volume(path)
        assert own == grid
        truth, _ = read_volume(participant / f"{name}.nii.gz")
        assert np.corrcoef(prior.ravel(), truth.ravel())[0, 1] > 0.9


def test_the_report_says_how_well_it_went(done):
    assert done.qc["verdict"] == "ok"
    assert done.qc["correlation_with_template"] > 0.85
    assert done.qc["folded_voxels"] == 0
    assert done.qc["template_source"] == "embedded"
    assert done.qc["brain_masks"]["verdict"] == "ok"


def test_only_results_are_left(done):
    left = {path.name for path in done.to_std_xfm.parent.iterdir()}
    assert left == {
        f"from-T1w_to-{SPACE}_mode-image_xfm.h5",
        f"from-{SPACE}_to-T1w_mode-image_xfm.h5",
        "desc-template_mask.nii.gz",
        "label-GM_desc-prior_probseg.nii.gz",
        "label-WM_desc-prior_probseg.nii.gz",
        "label-CSF_desc-prior_probseg.nii.gz",
    }


def test_the_anatomy_comes_onto_the_standard_grid(participant, tmp_path):
    write_itk_composite(tmp_path / "pose.h5", Chain((Affine(POSE),)))
    maps = {name: participant / f"{name}.nii.gz" for name in ("GM", "WM", "CSF")}
    written = to_standard(
        participant / "t1w.nii.gz",
        participant / "mask.nii.gz",
        maps,
        tmp_path / "pose.h5",
        space=SPACE,
        res="2",
        out_dir=tmp_path,
    )
    template = load_template(SPACE)
    mask, grid = read_volume(written["mask"])
    assert grid == template.grid
    expected = read_volume(template.mask)[0]
    assert 2 * np.sum(mask * expected) / (mask.sum() + expected.sum()) > 0.96
    t1w = read_volume(written["t1w"])[0]
    assert np.corrcoef(t1w.ravel(), read_volume(template.t1w)[0].ravel())[0, 1] > 0.97
    labels = read_volume(written["dseg"])[0]
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    stack = np.stack([read_volume(written[name])[0] for name in ("GM", "WM", "CSF")])
    sure = stack.max(axis=0) > 0.6
    np.testing.assert_array_equal(labels[sure], stack.argmax(axis=0)[sure] + 1)
    assert not stack[:, mask == 0].any()


def test_a_mask_of_another_image_is_refused(participant, tmp_path):
    write_volume(tmp_path / "mask.nii.gz", np.ones((7, 8, 9)), grid=Grid((7, 8, 9), np.eye(4)))
    with pytest.raises(CorruptImageError, match=r"mask\.nii\.gz: the mask's grid"):
        normalize(
            participant / "t1w.nii.gz",
            tmp_path / "mask.nii.gz",
            space=SPACE,
            res="2",
            out_dir=tmp_path,
        )


def test_a_brain_that_got_lost_is_an_error():
    flat = np.zeros(50, dtype=np.float32)
    with pytest.raises(DataError, match="the normalised brain is empty"):
        normalization._judge(flat, np.arange(50, dtype=np.float32), None)


@pytest.fixture
def blobs(rng):
    grid = Grid.from_rows((32, 36, 34), [[4, 0, 0, -62], [0, 4, 0, -70], [0, 0, 4, -66]])
    volume = ndimage.gaussian_filter(rng.normal(size=grid.shape), 2)
    ball = np.linalg.norm(grid.world(), axis=-1) < 50
    return ((volume / volume.std() + 4) * ball * 100).astype(np.float32), grid


def test_a_rigid_motion_is_found_and_nothing_is_left(blobs, tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    volume, grid = blobs
    motion = from_matvec(
        Rotation.from_euler("xyz", [3, 2, -4], degrees=True).as_matrix(), [5.0, -3, 2]
    )
    moved = resample_volume(volume, source=grid, target=grid, xfm=Affine(motion).inverse())
    found = register_rigidly((volume, grid), (moved, grid), work_dir=tmp_path / "work")
    points = grid.world()[volume > 0]
    astray = np.linalg.norm(found(points) - apply_affine(motion, points), axis=1)
    assert np.percentile(astray, 95) < 0.5  # mm; voxels are 4 mm
    assert not list((tmp_path / "work").iterdir())
    assert not list(temporary.iterdir())
    assert tempfile.tempdir == str(temporary)


def test_a_registration_gives_the_same_numbers_twice(blobs, tmp_path):
    volume, grid = blobs
    moving = (np.roll(volume, 1, axis=1), grid)
    twice = [
        register_syn((volume, grid), moving, work_dir=tmp_path, reg_iterations=(10, 5, 0))
        for _ in range(2)
    ]
    points = grid.world()[volume > 0]
    np.testing.assert_array_equal(twice[0].forward(points), twice[1].forward(points))
    np.testing.assert_array_equal(twice[0].backward(points), twice[1].backward(points))
