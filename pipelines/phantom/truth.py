"""What is true of a phantom: written beside the dataset, read back for scores.

Directions, all in mm RAS:

- ``…_from-T1w_to-MNI152NLin2009aSym_mode-points_xfm.h5`` maps points of the T1w to points of
  template space (as ITK transform: it resamples a template image onto the T1w's grid); the
  other file is its inverse.
- ``motion[t]`` maps a point of the head in its reference pose, in the scanner, to where it is
  at volume t. ``motion[t] @ inv(motion[r])`` maps points of volume r to points of volume t.
- ``t1w_to_bold`` maps points of the T1w to the scanner, head in reference pose.

With several T1w images of a participant, "the T1w" is the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.itk import read_itk_composite, write_itk_composite
from neurostorm_app.pipelines.phantom.head import TEMPLATE_SPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.xfm import Chain

__all__ = [
    "ParticipantTruth",
    "PhantomTruthPaths",
    "RunTruth",
    "read_participant_truth",
    "read_run_truth",
    "write_participant_truth",
    "write_run_truth",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomTruthPaths:
    """Where the truth of a phantom is.

    Parameters
    ----------
    root : Path
        The folder beside the dataset.
    settings : Path
        JSON: what was asked, conventions, planted effects, regions.
    participants : mapping of str to Path
        By label: a folder for :func:`read_participant_truth`.
    runs : mapping of str to Path
        By name, such as ``sub-01_task-rest_run-1``: a file for :func:`read_run_truth`.
    """

    root: Path
    settings: Path
    participants: Mapping[str, Path]
    runs: Mapping[str, Path]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ParticipantTruth:
    """What is true of a participant.

    Parameters
    ----------
    t1w_to_template, template_to_t1w : Chain
        Maps of points, mm RAS; see the module.
    grey_template, grey_t1w : ndarray, shape (N, 3)
        The same points of grey matter in both spaces, mm.
    connectivity : ndarray, shape (V, V)
        Correlation between the regions.
    t1w_poses : ndarray, shape (n, 4, 4), optional
        Points of the first T1w to points of each, mm; if there are several.
    t1w_to_fmap : ndarray, shape (4, 4), optional
        Points of the T1w to the scans of the field, mm; if there are any.
    """

    t1w_to_template: Chain
    template_to_t1w: Chain
    grey_template: NDArray[np.float64]
    grey_t1w: NDArray[np.float64]
    connectivity: NDArray[np.float64]
    t1w_poses: NDArray[np.float64] | None = None
    t1w_to_fmap: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunTruth:
    """What is true of a run.

    Parameters
    ----------
    motion : ndarray, shape (T, 4, 4)
        Points of the head in reference pose to points at volume t, mm; see the module.
    t1w_to_bold : ndarray, shape (4, 4)
        Points of the T1w to points of the reference pose, mm.
    brain_t1w : ndarray, shape (N, 3)
        Points of the brain in the T1w, mm.
    slice_times : ndarray, shape (Z,)
        s.
    signals : ndarray, shape (V, T)
        Signals of the regions at the start of each volume, standard deviation about 1.
    sbref : ndarray, shape (4, 4), optional
        Points of the head in reference pose to points of the single-band reference, mm.
    spikes : ndarray, shape (T, Z), optional
        Factor of the signal of each slice.
    """

    motion: NDArray[np.float64]
    t1w_to_bold: NDArray[np.float64]
    brain_t1w: NDArray[np.float64]
    slice_times: NDArray[np.float64]
    signals: NDArray[np.float32]
    sbref: NDArray[np.float64] | None = None
    spikes: NDArray[np.float32] | None = None


def write_participant_truth(folder: Path, truth: ParticipantTruth) -> None:
    """Write what is true of a participant into a folder named ``sub-<label>``."""
    folder.mkdir(parents=True, exist_ok=True)
    forward, back = _xfm_paths(folder)
    write_itk_composite(forward, truth.t1w_to_template)
    write_itk_composite(back, truth.template_to_t1w)
    arrays = ("grey_template", "grey_t1w", "connectivity", "t1w_poses", "t1w_to_fmap")
    _write_arrays(folder / f"{folder.name}_truth.npz", truth, arrays)


def read_participant_truth(folder: Path) -> ParticipantTruth:
    """Read what is true of a participant."""
    forward, back = _xfm_paths(folder)
    with np.load(folder / f"{folder.name}_truth.npz") as stored:
        return ParticipantTruth(
            t1w_to_template=read_itk_composite(forward),
            template_to_t1w=read_itk_composite(back),
            grey_template=stored["grey_template"],
            grey_t1w=stored["grey_t1w"],
            connectivity=stored["connectivity"],
            t1w_poses=stored.get("t1w_poses"),
            t1w_to_fmap=stored.get("t1w_to_fmap"),
        )


def write_run_truth(path: Path, truth: RunTruth) -> None:
    """Write what is true of a run (npz)."""
    names = ("motion", "t1w_to_bold", "brain_t1w", "slice_times", "signals", "sbref", "spikes")
    _write_arrays(path, truth, names)


def read_run_truth(path: Path) -> RunTruth:
    """Read what is true of a run."""
    with np.load(path) as stored:
        return RunTruth(
            motion=stored["motion"],
            t1w_to_bold=stored["t1w_to_bold"],
            brain_t1w=stored["brain_t1w"],
            slice_times=stored["slice_times"],
            signals=stored["signals"],
            sbref=stored.get("sbref"),
            spikes=stored.get("spikes"),
        )


def _write_arrays(path: Path, truth: ParticipantTruth | RunTruth, names: Sequence[str]) -> None:
    """Write the arrays of a truth that it has (npz)."""
    found = {name: getattr(truth, name) for name in names}
    np.savez_compressed(path, **{name: a for name, a in found.items() if a is not None})


def _xfm_paths(folder: Path) -> tuple[Path, Path]:
    pairs = (("T1w", TEMPLATE_SPACE), (TEMPLATE_SPACE, "T1w"))
    one, other = (
        folder / f"{folder.name}_from-{start}_to-{end}_mode-points_xfm.h5" for start, end in pairs
    )
    return one, other
