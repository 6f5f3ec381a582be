"""From one standard space to another: fields that were computed once, and their inverses.

They are in the folder ``data`` of the package; ``scripts/make_templates.py`` made them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from neurostorm_app.errors import NoInputError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.xfm import Affine, Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["DATA", "HUB", "SPACES", "between"]

DATA = Path(__file__).parent / "data"
HUB = "MNI152NLin2009cAsym"
SPACES = ("MNI152NLin6Asym", HUB, "MNI152NLin2009aSym")
"""Spaces with a known map to each other."""
FROM_SPACE = "tpl-{space}_from-{hub}_mode-image_xfm"
TO_SPACE = "tpl-{hub}_from-{space}_mode-image_xfm"
"""Stored maps: points of the space after ``tpl-`` to points of the space after ``from-``."""
SOLVED_MM = 1e-3
N_ITERATIONS = 60


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
