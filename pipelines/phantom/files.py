"""Folders, images and JSON of a phantom."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import nibabel as nib

from neurostorm_app.errors import CannotCreateError
from neurostorm_app.pipelines.phantom.settings import TR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["claim_folder", "write_image", "write_json"]


def claim_folder(folder: Path) -> None:
    """Make a folder, which must not hold anything yet.

    Raises
    ------
    CannotCreateError
        If it is not empty or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise CannotCreateError(
            f"{folder}: the folder of a phantom cannot be made: {error.strerror}",
            fix="choose a place where you may write",
        ) from error
    if not is_empty:
        raise CannotCreateError(
            f"{folder}: a phantom needs an empty folder, and this one is not",
            fix="choose another folder, or remove this one first",
        )


def write_image(
    stem: Path,
    voxels: NDArray[np.generic],
    grid: Grid,
    *,
    sidecar: Mapping[str, Any] | None = None,
) -> None:
    """Write ``<stem>.nii.gz`` and its sidecar; a fourth axis is time."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, grid.affine)
    image.set_qform(grid.affine, code="scanner")
    image.set_sform(grid.affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    if voxels.ndim == 4:
        image.header.set_zooms((*grid.zooms, TR))
        image.header.set_dim_info(freq=0, phase=1, slice=2)
    image.to_filename(stem.with_name(f"{stem.name}.nii.gz"))
    if sidecar is not None:
        write_json(stem.with_name(f"{stem.name}.json"), sidecar)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON that people can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
