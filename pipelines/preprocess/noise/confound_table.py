"""The confounds table: fMRIPrep's columns in fMRIPrep's order, and the JSON beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurostorm_app.pipelines.preprocess.noise.confounds import (
    Components,
    compcor,
    cosine_basis,
    dvars,
    find_tcompcor_voxels,
    one_hot,
)
from neurostorm_app.pipelines.preprocess.noise.movement import (
    framewise_displacement,
    movement_parameters,
    rms_motion,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["ConfoundInputs", "make_confounds"]

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
MASKS = {
    "t": {"Method": "tCompCor"},
    "c": {"Method": "aCompCor", "Mask": "CSF"},
    "w": {"Method": "aCompCor", "Mask": "WM"},
    "a": {"Method": "aCompCor", "Mask": "combined"},
}
"""What the sidecar says of components, by the first letter of their columns."""
MEANS = {"c": "csf", "w": "white_matter", "a": "csf_wm"}
"""The column that holds the mean in each mask of aCompCor."""
EXPANDED = {"global_signal", "csf", "white_matter", *MOTION}
"""Columns with a derivative and squares beside them."""
N_EDGE = 24
"""Components of the crown (Patriat R. et al. 2017, NeuroImage 144:74)."""
AXES = {
    "x": "from right to left",
    "y": "from posterior to anterior",
    "z": "from inferior to superior",
}

Columns = dict[str, "NDArray[np.float64]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfoundInputs:
    """All that the confounds of a run are computed from.

    Parameters
    ----------
    series : ndarray, shape (V, T), float32
        Voxels of the brain mask on the native grid, after slice timing, head motion and
        distortion are taken off.
    noise : mapping of str to ndarray of bool, shape (V,)
        Which of these voxels are in the CSF (``c``), white matter (``w``) and combined (``a``)
        masks of aCompCor; empty without a T1w image.
    matrices : ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    reference : ndarray, shape (X, Y, Z)
        The reference of head motion; its centre of mass is the centre of rotation.
    grid : Grid
        Its grid.
    tr : float
        Repetition time in seconds.
    n_skipped : int
        Volumes at the start that are not steady.
    edge : ndarray, shape (E, T), float32
        Voxels of the crown, see :func:`.noisemask.find_crown`.
    """

    series: NDArray[np.float32]
    noise: dict[str, NDArray[np.bool_]]
    matrices: NDArray[np.float64]
    reference: NDArray[np.float32]
    grid: Grid
    tr: float
    n_skipped: int
    edge: NDArray[np.float32]


def make_confounds(
    inputs: ConfoundInputs,
    *,
    fd_threshold: float = 0.5,
    dvars_threshold: float = 1.5,
    return_all_components: bool = False,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Compute all confounds of a run.

    Parameters
    ----------
    inputs : ConfoundInputs
        The series and what is known of it.
    fd_threshold : float
        Framewise displacement above which a volume is a motion outlier, mm.
    dvars_threshold : float
        Standardised DVARS above which it is one.
    return_all_components : bool
        Keep all components of aCompCor and tCompCor, instead of those that explain half of
        the variance.

    Returns
    -------
    table : DataFrame, T rows
        fMRIPrep's columns in its order; a derivative and squares follow their column.
    metadata : dict
        What its JSON sidecar says of the columns.

    References
    ----------
    fMRIPrep 25.2, ``init_bold_confs_wf`` and ``GatherConfounds``.
    """
    keep = math.inf if return_all_components else 0.5
    parameters = movement_parameters(inputs.matrices, inputs.grid, inputs.reference)
    restless = find_tcompcor_voxels(inputs.series, n_skipped=inputs.n_skipped)
    columns, metadata = _means(inputs, restless)
    std_dvars, plain_dvars = dvars(inputs.series)
    displacement = framewise_displacement(parameters)
    columns |= {"std_dvars": std_dvars, "dvars": plain_dvars}
    columns["framewise_displacement"] = displacement
    columns["rmsd"] = rms_motion(inputs.matrices, inputs.grid)
    metadata |= _motion_metadata(fd_threshold, dvars_threshold)
    for part in (_components(inputs, restless, keep), _edge_components(inputs)):
        columns |= part[0]
        metadata |= part[1]
    columns |= _slow_and_unsteady(inputs)
    columns |= dict(zip(MOTION, parameters.T, strict=True))
    columns = _expand(columns)
    outliers = np.flatnonzero((displacement > fd_threshold) | (std_dvars > dvars_threshold))
    columns |= _numbered("motion_outlier", one_hot(outliers, len(displacement)))
    return pd.DataFrame(columns), metadata


def _means(
    inputs: ConfoundInputs, restless: NDArray[np.bool_]
) -> tuple[Columns, dict[str, dict[str, str]]]:
    """Average the brain, each mask of aCompCor, and the mask of tCompCor."""
    series = inputs.series
    columns = {"global_signal": series.mean(axis=0, dtype=np.float64)}
    for letter, name in MEANS.items():
        voxels = inputs.noise.get(letter)
        if voxels is not None and voxels.any():
            columns[name] = series[voxels].mean(axis=0, dtype=np.float64)
    columns["tcompcor"] = series[restless].mean(axis=0, dtype=np.float64)
    return columns, {name: {"Method": "Mean"} for name in columns}


def _components(
    inputs: ConfoundInputs, restless: NDArray[np.bool_], keep: float
) -> tuple[Columns, dict[str, Any]]:
    """Decompose the masks of tCompCor and aCompCor; what is not retained is not told."""
    columns: Columns = {}
    metadata: dict[str, Any] = {}
    for letter, words in MASKS.items():
        voxels = restless if letter == "t" else inputs.noise.get(letter)
        if voxels is None:
            continue
        basis = cosine_basis(inputs.series.shape[1] - inputs.n_skipped, inputs.tr)
        found = compcor(inputs.series[voxels], basis=basis, n_skipped=inputs.n_skipped, keep=keep)
        new = _numbered(f"{letter}_comp_cor_", found.series)
        columns |= new
        metadata |= dict(zip(new, _describe(found, words), strict=False))
    return columns, metadata


def _edge_components(inputs: ConfoundInputs) -> tuple[Columns, dict[str, Any]]:
    """Decompose the crown; fMRIPrep tells of its dropped components too."""
    basis = cosine_basis(inputs.edge.shape[1] - inputs.n_skipped, inputs.tr)
    found = compcor(inputs.edge, basis=basis, n_skipped=inputs.n_skipped, keep=N_EDGE)
    columns = _numbered("edge_comp_", found.series)
    n_dropped = len(found.singular_values) - len(columns)
    names = [*columns, *(f"dropped_{number}" for number in range(n_dropped))]
    described = _describe(found, {"Method": "EdgeRegressor", "Mask": "Edge"})
    return columns, dict(zip(names, described, strict=True))


def _slow_and_unsteady(inputs: ConfoundInputs) -> Columns:
    """Make the slow cosines and mark the volumes that are not steady."""
    n_volumes, skipped = inputs.series.shape[1], inputs.n_skipped
    basis = cosine_basis(n_volumes - skipped, inputs.tr)
    cosines = np.concatenate([np.zeros((skipped, basis.shape[1])), basis])
    unsteady = one_hot(list(range(skipped)), n_volumes)
    return _numbered("cosine", cosines) | _numbered("non_steady_state_outlier", unsteady)


def _expand(columns: Columns) -> Columns:
    """Put the backward difference, and the squares of both, beside their column."""
    expanded: Columns = {}
    for name, column in columns.items():
        expanded[name] = column
        if name in EXPANDED:
            difference = np.concatenate([[np.nan], np.diff(column)])
            expanded[f"{name}_derivative1"] = difference
            expanded[f"{name}_power2"] = column**2
            expanded[f"{name}_derivative1_power2"] = difference**2
    return expanded


def _numbered(name: str, columns: NDArray[np.float64]) -> Columns:
    return {f"{name}{number:02d}": column for number, column in enumerate(columns.T)}


def _describe(found: Components, words: dict[str, str]) -> list[dict[str, Any]]:
    """Describe all components as fMRIPrep does; nilearn finds them by these words."""
    n_retained = found.series.shape[1]
    numbers = zip(found.singular_values, found.variance, found.cumulative, strict=True)
    return [
        words
        | {
            "Retained": number < n_retained,
            "SingularValue": _json_number(value),
            "VarianceExplained": _json_number(share),
            "CumulativeVarianceExplained": _json_number(total),
        }
        for number, (value, share, total) in enumerate(numbers)
    ]


def _json_number(value: float) -> float | None:
    """Round to ten decimals; JSON has no word for what is not a number but null."""
    return round(float(value), 10) if math.isfinite(value) else None


def _motion_metadata(fd_threshold: float, dvars_threshold: float) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for name in MOTION:
        turn, axis = name.startswith("rot"), name[-1]
        what = "Rotation about the axis" if turn else "Translation along the axis"
        where = f"{what} {AXES[axis]}, about the centre of mass of the reference, as FSL counts it"
        described[name] = {"Description": where, "Units": "rad" if turn else "mm"}
    described["framewise_displacement"] = {
        "Description": "Power's framewise displacement, head radius 50 mm",
        "Units": "mm",
    }
    described["rmsd"] = {
        "Description": "Jenkinson's root mean square displacement since the volume before",
        "Units": "mm",
    }
    described["std_dvars"] = {"Description": "Standardized DVARS"}
    described["dvars"] = {"Description": "DVARS of the series scaled to a median of 1000"}
    described["motion_outlier"] = {
        "Description": "Volumes above a threshold",
        "FramewiseDisplacementThreshold": fd_threshold,
        "StdDvarsThreshold": dvars_threshold,
    }
    return described
