"""Standard brains: TemplateFlow's where its home holds them, else those in the package.

Nothing is fetched and nothing is written. Of MNI152NLin6Asym the package holds no voxel: what
stands for it is the MNI152NLin2009cAsym brain, carried over by a field that was computed once
(``scripts/make_templates.py``; its accuracy is in the JSON file beside it).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from neurostorm_app.errors import NoInputError
from neurostorm_app.pipelines.grid import STANDARD_GRIDS, Grid, standard_grid
from neurostorm_app.pipelines.xfm import Affine, Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["Template", "between", "load_parcellation_path", "load_template"]

DATA = Path(__file__).parent / "data"
HUB = "MNI152NLin2009cAsym"
SPACES = ("MNI152NLin6Asym", HUB, "MNI152NLin2009aSym")
FROM_SPACE = "tpl-{space}_from-{hub}_mode-image_xfm"
TO_SPACE = "tpl-{hub}_from-{space}_mode-image_xfm"
"""Stored maps: points of the space after ``tpl-`` to points of the space after ``from-``."""
SOLVED_MM = 1e-3
N_ITERATIONS = 60
TISSUES = ("GM", "WM", "CSF")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A standard brain, as files on one grid.

    Parameters
    ----------
    space, res : str
        TemplateFlow name and resolution index, such as ``MNI152NLin6Asym`` and ``2``.
    t1w : Path
        T1w image; the brain is where `mask` is, and there may be a head around it.
    mask : Path
        Brain mask.
    gm, wm, csf : Path
        Tissue probabilities, 0 to 1.
    source : str
        ``TemplateFlow`` or ``embedded``, and which part is not.
    """

    space: str
    res: str
    t1w: Path
    mask: Path
    gm: Path
    wm: Path
    csf: Path
    source: str

    @property
    def grid(self) -> Grid:
        """The grid of all the images."""
        return standard_grid(self.space, self.res)


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
        All files are there.

    Raises
    ------
    NoInputError
        If neither source has the template.
    """
    if (space, res) not in STANDARD_GRIDS:
        known = ", ".join(f"{name} res {index}" for name, index in STANDARD_GRIDS)
        raise NoInputError(
            f"there is no template {space} at resolution {res}; there are {known}",
            fix="ask for one of these with --output-spaces",
        )
    embedded = _embedded(space, res)
    found = _in_templateflow(space, res)
    if not {"t1w", "mask"} <= found.keys():
        return Template(space=space, res=res, source="embedded", **embedded)
    whole = {"gm", "wm", "csf"} <= found.keys()
    tissues = {name: (found if whole else embedded)[name] for name in ("gm", "wm", "csf")}
    return Template(
        space=space,
        res=res,
        source="TemplateFlow" if whole else "TemplateFlow (tissue maps: embedded)",
        t1w=found["t1w"],
        mask=found["mask"],
        **tissues,
    )


def between(source_space: str, target_space: str) -> PointMap:
    """Map points of one standard space to the same place in another.

    Parameters
    ----------
    source_space, target_space : str
        ``MNI152NLin6Asym``, ``MNI152NLin2009cAsym`` or ``MNI152NLin2009aSym``.

    Returns
    -------
    callable
        Points (..., 3) of `source_space` to points of `target_space`, RAS+ mm. Resampling an
        image of `target_space` onto a grid of `source_space` takes this map.

    Raises
    ------
    NoInputError
        If a space is not one of the three.

    Examples
    --------
    >>> there = between("MNI152NLin6Asym", "MNI152NLin2009cAsym")
    >>> there(np.array([[-46.0, -22.0, 54.0]])).shape
    (1, 3)
    """
    if source_space == target_space:
        return Affine.identity()
    unknown = {source_space, target_space} - set(SPACES)
    if unknown:
        raise NoInputError(
            f"there is no map of {', '.join(sorted(unknown))} to other standard spaces",
            fix=f"the package knows {', '.join(SPACES)}",
        )
    steps = [*_hub_steps(source_space, towards=True), *_hub_steps(target_space, towards=False)]
    return _Steps(tuple(steps))


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


@dataclass(frozen=True, slots=True)
class _Steps:
    """Maps of points, one after the other."""

    steps: tuple[PointMap, ...]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        for step in self.steps:
            points = step(points)
        return points


@dataclass(frozen=True, slots=True)
class _Solved:
    """The inverse of a field followed by an affine, solved anew for each point.

    A stored inverse would add the error of its own sampling, 0.1 mm here and there.
    """

    field: Field
    affine: Affine

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        ends = self.affine.inverse()(points).reshape(-1, 3)
        starts = ends.copy()
        moving = np.arange(len(ends))
        for _ in range(N_ITERATIONS):
            update = ends[moving] - self.field.at(starts[moving])
            step = np.abs(update - starts[moving]).max(axis=1)
            starts[moving] = update
            moving = moving[step > SOLVED_MM]
            if not moving.size:
                break
        return starts.reshape(np.shape(points))


def _hub_steps(space: str, *, towards: bool) -> list[PointMap]:
    """Map points of a space to MNI152NLin2009cAsym, where all fields meet, or back."""
    if space == HUB:
        return []
    named = FROM_SPACE if space == "MNI152NLin6Asym" else TO_SPACE
    field, affine = _read_field(named.format(space=space, hub=HUB))
    forward = (named == FROM_SPACE) == towards
    return [field, affine] if forward else [_Solved(field, affine)]


@cache
def _read_field(stem: str) -> tuple[Field, Affine]:
    """Read a stored field (NIfTI vectors, RAS+ mm, int16 of 1/100 mm) and its affine (JSON)."""
    image = nib.Nifti1Image.from_filename(DATA / f"{stem}.nii.gz")
    vectors = np.asarray(image.dataobj, dtype=np.float32).reshape((*image.shape[:3], 3))
    about = json.loads((DATA / f"{stem}.json").read_text(encoding="utf-8"))
    return Field(Grid.of(image), vectors), Affine(np.asarray(about["Affine"]))


def _embedded(space: str, res: str) -> dict[str, Path]:
    stem = f"tpl-{space}_res-{int(res):02d}"
    files = {
        "t1w": DATA / f"{stem}_desc-brain_T1w.nii.gz",
        "mask": DATA / f"{stem}_desc-brain_mask.nii.gz",
    }
    return files | {
        tissue.lower(): DATA / f"{stem}_label-{tissue}_probseg.nii.gz" for tissue in TISSUES
    }


def _in_templateflow(space: str, res: str) -> dict[str, Path]:
    """Find real files by their names, without importing a package that would make a home."""
    home = os.environ.get("TEMPLATEFLOW_HOME", "")
    folder = Path(home) / f"tpl-{space}"
    if not home or not folder.is_dir():
        return {}
    stem = f"tpl-{space}_res-{int(res):02d}"
    names = {
        "t1w": (f"{stem}_desc-brain_T1w.nii.gz", f"{stem}_T1w.nii.gz"),
        "mask": (f"{stem}_desc-brain_mask.nii.gz",),
    } | {tissue.lower(): (f"{stem}_label-{tissue}_probseg.nii.gz",) for tissue in TISSUES}
    grid = standard_grid(space, res)
    found: dict[str, Path] = {}
    for role, candidates in names.items():
        for path in (folder / name for name in candidates):
            if path.is_file() and path.stat().st_size > 0 and _lies_on(path, grid):
                found.setdefault(role, path)
    return found


def _lies_on(path: Path, grid: Grid) -> bool:
    return Grid.of(nib.Nifti1Image.from_filename(path), path) == grid
