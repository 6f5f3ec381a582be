"""Grey, white and fluid told apart on a brain that was drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.anatomy.tissue import LABELS, classify, segment

GRID = Grid.from_rows((46, 52, 48), [[3, 0, 0, -67], [0, 3, 0, -76], [0, 0, 3, -70]])
BRIGHTNESS = {"CSF": 150.0, "GM": 450.0, "WM": 750.0}


@pytest.fixture
def brain(rng):
    """Draw a folded brain: white inside, grey around, fluid outside and in the middle."""
    points = GRID.world()
    folds = ndimage.gaussian_filter(rng.normal(size=GRID.shape), 2)
    far = np.linalg.norm(points / [56, 66, 58], axis=-1) + 0.12 * folds / folds.std()
    names = np.select([far < 0.2, far < 0.7, far < 0.9], ["CSF", "WM", "GM"], "CSF")
    mask = np.linalg.norm(points / [56, 66, 58], axis=-1) < 1.05
    truth = np.where(mask, np.vectorize(LABELS.get)(names), 0)
    clean = np.vectorize(BRIGHTNESS.get)(names)
    return (clean + rng.normal(0, 40, clean.shape)).astype(np.float32), mask, truth


def _dice(found, truth):
    return [
        2 * np.sum((found == k) & (truth == k)) / np.sum((found == k) * 1 + (truth == k))
        for k in (1, 2, 3)
    ]


def _files(tmp_path, volume, mask):
    write_volume(tmp_path / "t1w.nii.gz", volume, grid=GRID)
    write_volume(tmp_path / "mask.nii.gz", mask, grid=GRID, dtype=np.uint8)
    return tmp_path / "t1w.nii.gz", tmp_path / "mask.nii.gz"


def _segment(tmp_path, volume, mask, **options):
    maps = {name: tmp_path / f"{name}.nii.gz" for name in LABELS}
    report = segment(
        *_files(tmp_path, volume, mask),
        out_dseg=tmp_path / "dseg.nii.gz",
        out_probsegs=maps,
        **options,
    )
    return report, read_volume(tmp_path / "dseg.nii.gz")[0], maps


def test_tissues_are_found(brain, tmp_path):
    volume, mask, truth = brain
    report, labels, maps = _segment(tmp_path, volume, mask)
    assert min(_dice(labels, truth)) > 0.97
    total = sum(read_volume(path)[0] for path in maps.values())
    np.testing.assert_allclose(total[mask], 1, atol=1e-5)  # probability
    assert not total[~mask].any()
    assert not labels[~mask].any()
    assert report["gm_brightness"] == pytest.approx(450, rel=0.05)
    litres = np.sum(truth == LABELS["WM"]) * 27 / 1e6
    assert report["wm_litres"] == pytest.approx(litres, rel=0.05)


def test_an_uneven_coil_does_not_matter(brain):
    volume, mask, truth = brain
    x, y, z = np.moveaxis(GRID.world() / 70, -1, 0)
    uneven = volume * np.exp(0.3 * x + 0.2 * y - 0.15 * z * x).astype(np.float32)
    posterior, _, _ = classify(uneven, mask)
    labels = np.where(mask, np.array([3, 1, 2])[posterior.argmax(axis=0)], 0)
    assert min(_dice(labels, truth)) > 0.95


def test_brightness_has_no_unit(brain):
    volume, mask, _ = brain
    one, _, _ = classify(volume, mask)
    other, _, _ = classify(volume * 0.01, mask)
    np.testing.assert_allclose(one, other, atol=0.02)  # probability


def test_the_template_decides_where_brightness_does_not(brain, rng):
    _, mask, _ = brain
    # Deep grey: as bright as what lies between grey and white matter, where the template knows.
    left = GRID.world()[..., 0] < 0
    volume = np.where(left, 600.0, 450.0) + rng.normal(0, 30, GRID.shape)
    volume[::6] = 150.0
    volume[3::6] = 750.0
    expected = np.stack([np.full(GRID.shape, share, np.float32) for share in (0.05, 0.9, 0.05)])
    alone, _, _ = classify(volume.astype(np.float32), mask)
    told, _, _ = classify(volume.astype(np.float32), mask, expected)
    where = mask & left
    assert told[1][where].mean() > alone[1][where].mean()


def test_a_brain_without_contrast_is_refused(brain):
    _, mask, _ = brain
    with pytest.raises(DataError, match="all voxels of the brain have a brightness of 7"):
        classify(np.full(GRID.shape, 7, np.float32), mask)


def test_a_mask_on_another_grid_is_refused(brain, tmp_path):
    volume, mask, _ = brain
    t1w, _ = _files(tmp_path, volume, mask)
    shifted = Grid(GRID.shape, GRID.affine @ np.diag([1, 1, 1.1, 1]))
    write_volume(tmp_path / "other.nii.gz", mask, grid=shifted, dtype=np.uint8)
    with pytest.raises(CorruptImageError, match=r"other\.nii\.gz: the mask's grid"):
        segment(t1w, tmp_path / "other.nii.gz", out_dseg=tmp_path / "d.nii.gz", out_probsegs={})
