"""The BOLD reference: which volumes count, their median at rest, and the brain in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.image import iter_volumes, open_image
from neurostorm_app.pipelines.preprocess.anatomy.anatomical import correct_bias
from neurostorm_app.pipelines.preprocess.head.motion import MotionEstimator, track_head
from neurostorm_app.pipelines.preprocess.head.roughhead import rough_head
from neurostorm_app.pipelines.preprocess.head.sbref import check_sbref, read_sbref
from neurostorm_app.pipelines.resample import VolumeSampler

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = [
    "average_head", "check_series", "count_nonsteady", "find_brain", "make_reference",
    "rough_head",
]  # fmt: skip

N_LOOKED_AT = 50
"""Volumes from the start in which the magnetisation may still settle."""
N_AVERAGED = 40
"""Volumes that the reference is the median of."""

GAP = (0.2, 0.85)
"""Shares of the voxels, sorted by brightness, between which background ends and brain begins."""
OPENING = 2
"""Voxels that a bridge between brain and scalp may be thick, on each side."""
CLOSING = 3
"""Voxels over which dark sulci and vessels are closed."""


def check_series(bold: Path, tr: float) -> int:
    """Check at the door that a series can be preprocessed.

    Returns
    -------
    int
        Number of volumes.

    Raises
    ------
    NoInputError, CorruptImageError
        If the file is not there or not an image.
    DataError
        If it is not a series of at least five volumes, or the repetition time makes no sense.
    """
    image = open_image(bold)
    n_volumes = image.shape[3] if image.ndim == 4 else 1
    if n_volumes < 5:
        raise DataError(
            f"{bold}: {n_volumes} volumes; head motion and confounds take at least 5",
            fix="leave the run out, or look whether its conversion lost volumes",
        )
    if not 0.05 <= tr <= 30.0:
        raise DataError(
            f"{bold}: a repetition time of {tr:g} s; 0.05 to 30 s were expected",
            fix="repair RepetitionTime in the sidecar: BIDS counts in seconds",
        )
    return n_volumes


def count_nonsteady(global_signal: NDArray[np.floating], *, threshold: float = 3.5) -> int:
    """Count volumes at the start whose mean stands out, because magnetisation still settles.

    Parameters
    ----------
    global_signal : ndarray, shape (T,)
        Mean of each volume; the first fifty are looked at.
    threshold : float
        Of the modified z score 0.6745 |x - median| / MAD.

    Returns
    -------
    int
        How many, counted from the first volume without a gap.

    References
    ----------
    Iglewicz B., Hoaglin D. 1993, "How to detect and handle outliers", ASQC, section 3.3; the
    same rule as nipype's ``NonSteadyStateDetector``.
    """
    first = np.asarray(global_signal[:N_LOOKED_AT], dtype=np.float64)
    distance = np.abs(first - np.median(first))
    spread = np.median(distance)
    if spread == 0.0:
        return 0
    steady = 0.6745 * distance / spread <= threshold
    return int(np.argmax(steady))


def make_reference(
    bold: Path,
    grid: Grid,
    *,
    n_skipped: int,
    sbref: Path | None = None,
    head: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Take the single-band reference, or average the head at rest.

    Parameters
    ----------
    bold : Path
        The series as acquired.
    grid : Grid
        Its grid.
    n_skipped : int
        Volumes at the start that are not steady.
    sbref : Path, optional
        Single-band reference.
    head : ndarray of bool, shape (X, Y, Z), optional
        Where values must be finite; everywhere by default.

    Returns
    -------
    reference : ndarray, shape (X, Y, Z), float32
        On `grid`, in the pose of the single-band reference, or in that of the most ordinary of
        the volumes that were averaged.
    qc : dict
        ``reference`` in words, ``n_averaged``, and for a single-band reference
        ``sbref_moved_mm``: how far from there the head lay in the most ordinary volume.

    Raises
    ------
    DataError
        If the single-band reference does not show the head of the series, or nothing does.
    """
    if sbref is None:
        median, n_averaged = average_head(bold, grid, n_skipped=n_skipped, head=head)
        return median, {"reference": "median of steady volumes at rest", "n_averaged": n_averaged}
    ordinary = _ordinary(_steady_volumes(bold, n_skipped, head))
    reference = read_sbref(sbref, grid, rough_head(ordinary))
    moved = check_sbref(sbref, reference, ordinary, grid)
    told = {"reference": "single-band reference", "n_averaged": 1}
    return reference, told | {"sbref_moved_mm": round(moved, 3)}


def average_head(
    bold: Path, grid: Grid, *, n_skipped: int, head: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], int]:
    """Average the head at rest: the median of steady volumes after taking off their motion.

    Volumes before the steady state are brighter, but they are few and have another contrast:
    motion is measured no better to them, so they are not used.

    Parameters
    ----------
    bold : Path
        The series as acquired.
    grid : Grid
        Its grid.
    n_skipped : int
        Volumes at the start that are not steady.
    head : ndarray of bool, shape (X, Y, Z), optional
        Where values must be finite; everywhere by default.

    Returns
    -------
    median : ndarray, shape (X, Y, Z), float32
        On `grid`, in the pose of the most ordinary of the volumes that were averaged.
    n_averaged : int
        How many these are.

    Raises
    ------
    DataError
        If no volume shows a head.
    """
    volumes = _steady_volumes(bold, n_skipped, head)
    ordinary = _ordinary(volumes)
    estimator = MotionEstimator(ordinary, grid, rough_head(ordinary))
    sampler = VolumeSampler(grid.world().reshape(-1, 3), source=grid)
    track = track_head(volumes, estimator)
    still = [
        sampler(volume, matrix).reshape(grid.shape)
        for number, (volume, matrix) in enumerate(zip(volumes, track.matrices, strict=True))
        if number not in track.unseen
    ]
    return np.asarray(np.median(still, axis=0), dtype=np.float32), len(still)


def _ordinary(volumes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Choose the volume that is nearest to the median of all."""
    middle = np.median(volumes, axis=0)
    return min(volumes, key=lambda volume: float(np.abs(volume - middle).mean()))


def _steady_volumes(
    bold: Path, n_skipped: int, head: NDArray[np.bool_] | None
) -> list[NDArray[np.float32]]:
    """Read the first steady volumes that are not empty."""
    volumes: list[NDArray[np.float32]] = []
    for number, volume in enumerate(iter_volumes(bold, brain=head)):
        if number >= n_skipped and volume.min() < volume.max():
            volumes.append(volume)
        if len(volumes) == N_AVERAGED:
            break
    if not volumes:
        raise DataError(
            f"{bold}: the BOLD volumes have no contrast: each has one value in all voxels",
            fix="look at the images: they hold no head",
        )
    return volumes


def find_brain(reference: NDArray[np.float32], grid: Grid) -> NDArray[np.bool_]:
    """Find the brain in a BOLD reference, from its brightness alone.

    The bias field is taken off first; then brightness is cut at the widest gap between that of
    background and that of brain, bridges to the scalp are opened, and holes filled.

    Parameters
    ----------
    reference : ndarray, shape (X, Y, Z)
        Median of the series.
    grid : Grid
        Its grid.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        One piece without holes.

    Raises
    ------
    DataError
        If nothing is left that could be a brain.

    References
    ----------
    Nichols T., "antimode" masking, as in SPM's and nilearn's masks of EPI.
    """
    even, _ = correct_bias(reference, grid, mask=rough_head(reference))
    bright = even > _widest_gap(even)
    ball = ndimage.generate_binary_structure(3, 1)
    # Outside counts as brain for the erosion: the field of view may cut the head.
    eroded = ndimage.binary_erosion(bright, ball, iterations=OPENING, border_value=1)
    core = _largest_piece(eroded)
    if not core.any():
        raise DataError(
            "no brain was found in the BOLD reference: nothing bright is in one piece",
            fix="look at the images: field of view, contrast, and whether they hold a head",
        )
    grown = ndimage.binary_dilation(core, ball, iterations=OPENING) & bright
    closed = ndimage.binary_closing(np.pad(grown, CLOSING), ball, iterations=CLOSING)
    inner = (slice(CLOSING, -CLOSING),) * 3
    return np.asarray(ndimage.binary_fill_holes(closed[inner] | grown))


def _widest_gap(volume: NDArray[np.float32]) -> float:
    """Find the brightness around which the fewest voxels lie, between dark and bright ones."""
    values = np.sort(volume, axis=None)
    low, high = int(GAP[0] * values.size), int(GAP[1] * values.size)
    steps = np.diff(values[low : high + 1])
    widest = low + int(np.argmax(steps))
    return float(values[widest] + values[widest + 1]) / 2.0


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, n_labels = ndimage.label(mask)
    if n_labels == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(np.argmax(sizes)))
