"""What the user's home of TemplateFlow holds: files by their names, nothing fetched or written.

The ``templateflow`` package is not asked: importing it makes a home where there is none.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec

from neurostorm_app.errors import CorruptImageError
from neurostorm_app.pipelines.grid import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["find_images", "find_resolutions", "read_described_grid"]

TISSUES = ("GM", "WM", "CSF")
NAMES = {
    "t1w": ("desc-brain_T1w", "T1w"),
    "mask": ("desc-brain_mask",),
} | {tissue.lower(): (f"label-{tissue}_probseg",) for tissue in TISSUES}
"""What is looked for, and under which names, the best first."""


def find_images(space: str, res: str) -> dict[str, Path]:
    """Find the images of a template that are really there.

    Parameters
    ----------
    space, res : str
        TemplateFlow name and resolution index.

    Returns
    -------
    dict
        By ``t1w``, ``mask``, ``gm``, ``wm`` and ``csf``, as far as they are there and not empty,
        as those of a skeleton are. Empty without a home.
    """
    found: dict[str, Path] = {}
    folder = _folder(space)
    if folder is None:
        return found
    for role, suffixes in NAMES.items():
        for suffix in suffixes:
            for index in _spellings(res):
                path = folder / f"tpl-{space}_res-{index}_{suffix}.nii.gz"
                if path.is_file() and path.stat().st_size > 0:
                    found.setdefault(role, path)
    return found


def find_resolutions(space: str) -> tuple[str, ...]:
    """List the resolution indices for which there is a T1w image and a brain mask."""
    folder = _folder(space)
    if folder is None:
        return ()
    named = {name.partition("_res-")[2].partition("_")[0] for name in _names(folder)}
    indices = sorted({str(int(res)) for res in named if res.isdigit()}, key=int)
    return tuple(res for res in indices if {"t1w", "mask"} <= find_images(space, res).keys())


def read_described_grid(space: str, res: str) -> Grid | None:
    """Read a grid of a template: from an image, else from ``template_description.json``.

    Returns
    -------
    Grid or None
        None if the home has neither.

    Raises
    ------
    CorruptImageError
        If the description of the grid makes no sense.
    """
    images = find_images(space, res)
    for role in ("t1w", "mask"):
        if role in images:
            return Grid.of(nib.Nifti1Image.from_filename(images[role]), images[role])
    folder = _folder(space)
    path = folder / "template_description.json" if folder else None
    if path is None or not path.is_file():
        return None
    try:
        described = json.loads(path.read_text(encoding="utf-8")).get("res", {})
        entry = next((described[index] for index in _spellings(res) if index in described), None)
        return None if entry is None else _grid(entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptImageError(
            f"{path}: the grid of resolution {res} cannot be read ({error}); shape, zooms and"
            " origin of three numbers each were expected",
            fix="fetch the template anew, or ask for another resolution",
        ) from error


def _grid(entry: dict[str, Any]) -> Grid:
    """Build a grid along R, A and S from TemplateFlow's words."""
    i, j, k = (int(n) for n in entry["shape"])
    zooms = np.asarray(entry["zooms"], dtype=np.float64).reshape(3)
    origin = np.asarray(entry["origin"], dtype=np.float64).reshape(3)
    return Grid((i, j, k), from_matvec(np.diag(zooms), origin))


def _folder(space: str) -> Path | None:
    home = os.environ.get("TEMPLATEFLOW_HOME", "")
    folder = Path(home) / f"tpl-{space}"
    return folder if home and folder.is_dir() else None


def _names(folder: Path) -> Iterator[str]:
    return (path.name for path in folder.iterdir())


def _spellings(res: str) -> tuple[str, ...]:
    """Write an index as TemplateFlow does, and as people do."""
    return (f"{int(res):02d}", res) if res.isdigit() else (res,)
