"""Standard brains: TemplateFlow's where its home holds them, else those in the package.

Nothing is fetched and nothing is written. Of MNI152NLin6Asym the package holds no voxel: what
stands for it is the MNI152NLin2009cAsym brain, carried over by a field that was computed once
(``scripts/make_templates.py``; its accuracy is in the JSON file beside it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib

from neurostorm_app.errors import NoInputError
from neurostorm_app.pipelines.grid import STANDARD_GRIDS, Grid, standard_grid
from neurostorm_app.pipelines.spacemaps import DATA, HUB, SPACES, between
from neurostorm_app.pipelines.templatehome import (
    find_images,
    find_resolutions,
    read_described_grid,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DATA",
    "HUB",
    "SPACES",
    "Template",
    "between",
    "find_grid",
    "load_parcellation_path",
    "load_template",
]

TISSUES = ("GM", "WM", "CSF")
FINE_GRIDS: dict[tuple[str, str], Grid] = {
    ("MNI152NLin6Asym", "1"): Grid.from_rows(
        (182, 218, 182), [[1, 0, 0, -91], [0, 1, 0, -126], [0, 0, 1, -72]]
    ),
    (HUB, "1"): Grid.from_rows((193, 229, 193), [[1, 0, 0, -96], [0, 1, 0, -132], [0, 0, 1, -78]]),
}
"""Grids on which output may be wanted, beside those with an embedded brain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A standard brain, as files on one grid.

    Parameters
    ----------
    space, res : str
        TemplateFlow name and resolution index, such as ``MNI152NLin6Asym`` and ``2``.
    grid : Grid
        The grid of all the images.
    t1w : Path
        T1w image; the brain is where `mask` is, and there may be a head around it.
    mask : Path
        Brain mask.
    gm, wm, csf : Path or None
        Tissue probabilities, 0 to 1, if there are any.
    source : str
        ``TemplateFlow`` or ``embedded``, and which part is not.
    """

    space: str
    res: str
    grid: Grid
    t1w: Path
    mask: Path
    gm: Path | None = None
    wm: Path | None = None
    csf: Path | None = None
    source: str


def find_grid(space: str, res: str) -> Grid:
    """Find the grid of a template at a resolution.

    Parameters
    ----------
    space, res : str
        TemplateFlow name and resolution index.

    Returns
    -------
    Grid
        As TemplateFlow stores it (RAS+).

    Raises
    ------
    NoInputError
        If neither the package nor TemplateFlow's home knows it.

    Examples
    --------
    >>> find_grid("MNI152NLin6Asym", "1").shape
    (182, 218, 182)
    """
    if (space, res) in STANDARD_GRIDS:
        return standard_grid(space, res)
    if (space, res) in FINE_GRIDS:
        return FINE_GRIDS[space, res]
    found = read_described_grid(space, res)
    if found is None:
        raise _unknown(space, res)
    return found


def load_template(space: str, res: str = "2") -> Template:
    """Find the files of a standard brain.

    TemplateFlow's home is asked when ``TEMPLATEFLOW_HOME`` names a folder; its files count
    when they are there, not empty, and on the standard grid.

    Parameters
    ----------
    space, res : str
        TemplateFlow name and resolution index.

    Returns
    -------
    Template
        T1w image and mask are there. Its ``res`` is another if only another one is at hand.

    Raises
    ------
    NoInputError
        If neither source has the template.
    """
    found = _in_templateflow(space, res)
    if found is not None:
        return found
    if (space, "2") in STANDARD_GRIDS and (space, res) in STANDARD_GRIDS | FINE_GRIDS:
        files, grid = _embedded(space, "2"), standard_grid(space, "2")
        return Template(space=space, res="2", grid=grid, source="embedded", **files)
    for index in find_resolutions(space):
        found = _in_templateflow(space, index)
        if found is not None:
            return found
    raise _unknown(space, res)


def _unknown(space: str, res: str) -> NoInputError:
    known = ", ".join(f"{name} res {index}" for name, index in STANDARD_GRIDS | FINE_GRIDS)
    return NoInputError(
        f"there is no template {space} at resolution {res}; there are {known}, and what the folder"
        " TEMPLATEFLOW_HOME holds",
        fix="ask for one of these with --output-spaces, or fetch the template's T1w image and brain"
        " mask into TemplateFlow's home",
    )


def load_parcellation_path(name: str = "GreyParcels100") -> Path:
    """Find a parcellation of the package.

    Parameters
    ----------
    name : str
        ``GreyParcels100``: compact parcels of the template's grey matter, made by us.

    Returns
    -------
    Path
        Labels (0 is background) on the grid of MNI152NLin6Asym, 2 mm. The JSON file beside it
        says how it was made.

    Raises
    ------
    NoInputError
        If the package has no such parcellation.
    """
    path = DATA / f"tpl-MNI152NLin6Asym_res-02_atlas-{name}_dseg.nii.gz"
    if not path.is_file():
        there = ", ".join(sorted(p.name.split("atlas-")[1].split("_")[0] for p in _atlases()))
        raise NoInputError(
            f"there is no parcellation {name!r} in the package; there is {there}",
            fix="use that one, or give the path of a label image with --atlas",
        )
    return path


def _atlases() -> list[Path]:
    return list(DATA.glob("tpl-*_atlas-*_dseg.nii.gz"))


def _embedded(space: str, res: str) -> dict[str, Path]:
    stem = f"tpl-{space}_res-{int(res):02d}"
    files = {
        "t1w": DATA / f"{stem}_desc-brain_T1w.nii.gz",
        "mask": DATA / f"{stem}_desc-brain_mask.nii.gz",
    }
    return files | {
        tissue.lower(): DATA / f"{stem}_label-{tissue}_probseg.nii.gz" for tissue in TISSUES
    }


def _in_templateflow(space: str, res: str) -> Template | None:
    """Find a template in TemplateFlow's home; tissue maps that are not there are embedded ones."""
    found = find_images(space, res)
    if not {"t1w", "mask"} <= found.keys():
        return None
    known = (STANDARD_GRIDS | FINE_GRIDS).get((space, res))
    grid = known or Grid.of(nib.Nifti1Image.from_filename(found["t1w"]), found["t1w"])
    found = {role: path for role, path in found.items() if _lies_on(path, grid)}
    if not {"t1w", "mask"} <= found.keys():
        return None
    source = "TemplateFlow"
    tissues = {role: found[role] for role in ("gm", "wm", "csf") if role in found}
    if len(tissues) < 3:
        own = (space, res) in STANDARD_GRIDS
        source = f"TemplateFlow (tissue maps: {'embedded' if own else 'none'})"
        embedded = _embedded(space, res) if own else {}
        tissues = {role: embedded[role] for role in ("gm", "wm", "csf") if own}
    return Template(
        space=space,
        res=res,
        grid=grid,
        source=source,
        t1w=found["t1w"],
        mask=found["mask"],
        **tissues,
    )


def _lies_on(path: Path, grid: Grid) -> bool:
    return Grid.of(nib.Nifti1Image.from_filename(path), path) == grid
