"""One window that a network guessed, in pictures small enough to be kept beside its embedding."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Example", "draw_example"]

_RANGE: Final = (1.0, 99.0)
"""Percentiles of the truth that become black and white."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class View:
    """One picture of a window; bytes are shares of the range from black to white.

    Parameters
    ----------
    title : str
        What is seen.
    truth, hidden, guess : ndarray of uint8, shape (H, W)
        The first row is the top; 1 of `hidden` is hidden.
    """

    title: str
    truth: NDArray[np.uint8]
    hidden: NDArray[np.uint8]
    guess: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Example:
    """A window, what was hidden of it, and what a network made of that.

    Parameters
    ----------
    views : list of View
        Three slices of its middle volume, or all parcels.
    hidden_share : float
        Of the window.
    error, error_of_mean : float
        Mean squared error over what was hidden and counts: of the guess, and of the mean of what
        was seen and counts.
    """

    views: list[View]
    hidden_share: float
    error: float
    error_of_mean: float

    def as_json(self, *, unit: str, onset: float) -> dict[str, Any]:
        """Bring it to what JSON can hold.

        Parameters
        ----------
        unit : str
            Of the errors.
        onset : float
            Of the window in seconds.
        """
        return {
            "Description": "One window of the run through the masked autoencoder. Pictures are "
            "bytes, row by row, compressed by zlib, in base64.",
            "Onset": onset,
            "HiddenShare": round(self.hidden_share, 4),
            "Error": round(self.error, 6),
            "ErrorOfMean": round(self.error_of_mean, 6),
            "Unit": unit,
            "Views": [
                {
                    "Title": view.title,
                    "Shape": list(view.truth.shape),
                    "Input": _pack(view.truth),
                    "Hidden": _pack(view.hidden),
                    "Output": _pack(view.guess),
                }
                for view in self.views
            ],
        }


def draw_example(
    truth: NDArray[np.float32],
    guess: NDArray[np.float32],
    hidden: NDArray[np.bool_],
    *,
    error: float,
    affine: NDArray[np.float64] | None,
    counted: NDArray[np.bool_] | None = None,
) -> Example:
    """Take pictures of a window.

    Parameters
    ----------
    truth, guess : ndarray, shape (C, X, Y, Z, T), (V, n, P) or (V, T)
        Volumes, or parcels cut to tokens or whole.
    hidden : ndarray of bool
        ``True`` is hidden; axes as in `MaskedExample`.
    error : float
        Of the guess, as the network measures it.
    affine : ndarray, shape (4, 4), or None
        Of the volumes' grid, along the axes of the world; None for parcels.
    counted : ndarray of bool, shape of `truth`, or None
        ``True`` where `error` looks, so that the mean is judged by the same values; None is
        everywhere.
    """
    judged = np.ones(truth.shape, dtype=bool) if counted is None else counted
    if affine is not None:
        truth, guess, judged = truth[0], guess[0], judged[0]
    else:
        truth, guess = (part.reshape(len(part), -1) for part in (truth, guess))
        judged = judged.reshape(truth.shape)
    where = _as_large(hidden, truth.shape)
    seen = truth[~where & judged]
    mean = float(seen.mean()) if seen.size else 0.0
    low, high = (float(p) for p in np.percentile(truth, _RANGE))
    span = max(high - low, 1e-12)

    def grey(values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Bring values to bytes."""
        return (np.clip((values - low) / span, 0, 1) * 255).astype(np.uint8)

    if affine is None:
        parts = {"all parcels over time": (truth, where, guess)}
    else:
        cuts = [_slices(part, affine) for part in (truth, where, guess)]
        parts = {title: (cuts[0][title], cuts[1][title], cuts[2][title]) for title in cuts[0]}
    return Example(
        views=[
            View(title=title, truth=grey(a), hidden=b.astype(np.uint8), guess=grey(c))
            for title, (a, b, c) in parts.items()
        ],
        hidden_share=float(where.mean()),
        error=error,
        error_of_mean=float(np.square(truth[where & judged] - mean).mean()),
    )


def _as_large(hidden: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Repeat what is hidden until it has the shape of what it is about."""
    for axis, side in enumerate(shape):
        hidden = hidden.repeat(side // hidden.shape[axis], axis)
    return hidden


def _slices(series: NDArray[Any], affine: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Cut the middle volume (X, Y, Z) through its middle, left on the left, up at the top."""
    volume = series[..., series.shape[-1] // 2]
    for axis in range(3):
        if affine[axis, axis] < 0:
            volume = np.flip(volume, axis)
    i, j, k = (side // 2 for side in volume.shape)
    cuts = {
        "axial slice": volume[:, :, k],
        "coronal slice": volume[:, j, :],
        "sagittal slice": volume[i, :, :],
    }
    return {title: np.ascontiguousarray(cut.T[::-1]) for title, cut in cuts.items()}


def _pack(picture: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(picture.tobytes(), 9)).decode()
