"""An image without its face."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.brain_only import write_brain
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume

GRID = Grid((7, 8, 9), from_matvec(np.diag([-3.0, 3, 4]), [30, -40, -50]))


@pytest.fixture
def head(rng, tmp_path):
    """Write a head of noise and its brain; return both arrays and the folder."""
    image, brain = rng.normal(100, 20, GRID.shape).astype(np.float32), np.zeros(GRID.shape, bool)
    brain[2:5, 2:6, 3:7] = True
    write_volume(tmp_path / "head.nii.gz", image, grid=GRID, code=4)
    write_volume(tmp_path / "mask.nii.gz", brain, grid=GRID, dtype=np.uint8)
    return image, brain, tmp_path


def test_what_is_not_brain_is_zero_and_the_brain_is_what_it_was(head):
    image, brain, folder = head
    write_brain(folder / "head.nii.gz", folder / "mask.nii.gz", folder / "brain.nii.gz")
    written, grid = read_volume(folder / "brain.nii.gz")
    assert grid == GRID
    np.testing.assert_array_equal(written, np.where(brain, image, 0))
    assert int(nib.load(folder / "brain.nii.gz").header["sform_code"]) == 4


@pytest.mark.parametrize("grid", [Grid((7, 8, 8), GRID.affine), Grid(GRID.shape, np.eye(4))])
def test_a_mask_of_another_grid_writes_no_face(head, grid):
    _, _, folder = head
    write_volume(folder / "other.nii.gz", np.ones(grid.shape), grid=grid)
    with pytest.raises(DataError, match="cannot be masked by"):
        write_brain(folder / "head.nii.gz", folder / "other.nii.gz", folder / "brain.nii.gz")
    assert not (folder / "brain.nii.gz").exists()


def test_an_empty_mask_is_refused(head):
    _, _, folder = head
    write_volume(folder / "none.nii.gz", np.zeros(GRID.shape), grid=GRID)
    with pytest.raises(DataError, match="and 0 voxels of brain"):
        write_brain(folder / "head.nii.gz", folder / "none.nii.gz", folder / "brain.nii.gz")
