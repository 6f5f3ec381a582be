"""The confounds table: fMRIPrep's columns in fMRIPrep's order, and the JSON beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from neurostorm_app.pipelines.preprocess.confounds import (
    Components,
    compcor,
    cosine_basis,
    dvars,
    find_tcompcor_voxels,
    framewise_displacement,
    one_hot,
    rms_motion,
)
from neurostorm_app.pipelines.preprocess.motion import motion_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["ConfoundInputs", "make_confounds"]

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
MASK_NAMES = {"c": "CSF", "w": "WM", "a": "combined"}
"""The masks of aCompCor by the first letter of their columns."""
MEANS = {"c": "csf", "w": "white_matter", "a": "csf_wm"}
"""The column that holds the mean in each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfoundInputs:
    """All that the confounds of a run are computed from.

    Parameters
    ----------
    series : ndarray, shape (V, T), float32
        Voxels of the brain mask on the native grid, head motion taken off.
    noise : mapping of str to ndarray of bool, shape (V,)
        Which of these voxels are in the CSF (``c``), white matter (``w``) and combined (``a``)
        masks of aCompCor.
    matrices : ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    reference : ndarray, shape (X, Y, Z)
        The BOLD reference; its centre of mass is the centre of rotation.
    grid : Grid
        Its grid.
    tr : float
        Repetition time in seconds.
    n_skipped : int
        Volumes at the start that are not steady.
    """

    series: NDArray[np.float32]
    noise: dict[str, NDArray[np.bool_]]
    matrices: NDArray[np.float64]
    reference: NDArray[np.float32]
    grid: Grid
    tr: float
    n_skipped: int


def make_confounds(
    inputs: ConfoundInputs, *, fd_threshold: float = 0.5, dvars_threshold: float = 1.5
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

    Returns
    -------
    table : DataFrame, T rows
        fMRIPrep's columns.
    metadata : dict
        What its JSON sidecar says of the columns.
    """
    n_volumes = inputs.series.shape[1]
    centre = np.asarray(ndimage.center_of_mass(np.maximum(inputs.reference, 0)))
    parameters = motion_parameters(inputs.matrices, inputs.grid, centre)
    columns: dict[str, NDArray[np.float64]] = {}
    metadata: dict[str, Any] = {}
    restless = find_tcompcor_voxels(inputs.series, n_skipped=inputs.n_skipped)
    _add_means(columns, metadata, inputs, restless)
    std_dvars, plain_dvars = dvars(inputs.series)
    displacement = framewise_displacement(parameters)
    columns |= {"std_dvars": std_dvars, "dvars": plain_dvars}
    columns["framewise_displacement"] = displacement
    columns["rmsd"] = rms_motion(inputs.matrices, inputs.grid)
    metadata |= _motion_metadata(fd_threshold, dvars_threshold)
    _add_components(columns, metadata, inputs, restless)
    for name, column in zip(MOTION, parameters.T, strict=True):
        columns |= _expand(name, column)
    outliers = (displacement > fd_threshold) | (std_dvars > dvars_threshold)
    columns |= _numbered("motion_outlier", one_hot(np.flatnonzero(outliers), n_volumes))
    return pd.DataFrame(columns), metadata


def _add_means(
    columns: dict[str, NDArray[np.float64]],
    metadata: dict[str, Any],
    inputs: ConfoundInputs,
    restless: NDArray[np.bool_],
) -> None:
    """Add the mean of the brain and of each noise mask, and their expansions."""
    series = inputs.series
    columns |= _expand("global_signal", series.mean(axis=0, dtype=np.float64))
    for letter, name in MEANS.items():
        voxels = inputs.noise[letter]
        if voxels.any():
            mean = series[voxels].mean(axis=0, dtype=np.float64)
            columns |= {name: mean} if letter == "a" else _expand(name, mean)
    columns["tcompcor"] = series[restless].mean(axis=0, dtype=np.float64)
    names = ("global_signal", *MEANS.values(), "tcompcor")
    metadata |= {name: {"Method": "Mean"} for name in names if name in columns}


def _add_components(
    columns: dict[str, NDArray[np.float64]],
    metadata: dict[str, Any],
    inputs: ConfoundInputs,
    restless: NDArray[np.bool_],
) -> None:
    """Add tCompCor, aCompCor, the slow cosines and the volumes that are not steady."""
    series, skipped = inputs.series, inputs.n_skipped
    n_volumes = series.shape[1]
    basis = cosine_basis(n_volumes - skipped, inputs.tr)
    for letter, voxels in (("t", restless), *inputs.noise.items()):
        if not voxels.any():
            continue
        found = compcor(series[voxels], basis=basis, n_skipped=skipped)
        columns |= _numbered(f"{letter}_comp_cor_", found.series)
        metadata |= _component_metadata(letter, found)
    cosines = np.concatenate([np.zeros((skipped, basis.shape[1])), basis])
    columns |= _numbered("cosine", cosines)
    unsteady = one_hot(list(range(skipped)), n_volumes)
    columns |= _numbered("non_steady_state_outlier", unsteady)


def _expand(name: str, column: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Add the backward difference of a column, and the squares of both."""
    difference = np.concatenate([[np.nan], np.diff(column)])
    return {
        name: column,
        f"{name}_derivative1": difference,
        f"{name}_power2": column**2,
        f"{name}_derivative1_power2": difference**2,
    }


def _numbered(name: str, columns: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {f"{name}{number:02d}": column for number, column in enumerate(columns.T)}


def _component_metadata(letter: str, found: Components) -> dict[str, Any]:
    """Describe components as fMRIPrep does; nilearn finds them by these words."""
    shared: dict[str, Any] = {"Method": "tCompCor" if letter == "t" else "aCompCor"}
    if letter != "t":
        shared["Mask"] = MASK_NAMES[letter]
    return {
        f"{letter}_comp_cor_{number:02d}": shared
        | {
            "Retained": True,
            "SingularValue": round(float(value), 10),
            "VarianceExplained": round(float(share), 10),
            "CumulativeVarianceExplained": round(float(total), 10),
        }
        for number, (value, share, total) in enumerate(
            zip(found.singular_values, found.variance, found.cumulative, strict=True)
        )
    }


def _motion_metadata(fd_threshold: float, dvars_threshold: float) -> dict[str, Any]:
    frame = "in FSL's coordinates, about the centre of mass of the reference"
    described: dict[str, Any] = {}
    for name in MOTION:
        turn, axis = name.startswith("rot"), name[-1]
        what = f"Rotation about {axis}" if turn else f"Translation along {axis}"
        described[name] = {"Description": f"{what} {frame}", "Units": "rad" if turn else "mm"}
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
