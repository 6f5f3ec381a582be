"""A whole run as BrainLM guesses it: every token of it is hidden once, and guessed from the rest.

A window is gone through in passes; each hides another share of the tokens, until every one was
hidden exactly once. What comes out is a series of guesses as long as the run, and its R2 parcel by
parcel. It says how much of a parcel follows from the other parcels and from its own volumes nearby;
it is no measure of data quality by itself: smooth series are guessed more easily.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurostorm_app.errors import DataError, SeriesTooShortError
from neurostorm_app.pipelines.tile import window_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.models.brainlm_face import BrainLm

__all__ = ["HowGuessed", "Mode", "RunReconstruction", "reconstruct_run"]

Mode = Literal["first", "mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HowGuessed:
    """How tokens are hidden and guesses are joined.

    Parameters
    ----------
    share : float
        Of the tokens that each pass hides, above 0 and at most 0.5; a fifth makes five passes.
    mode : {'first', 'mean'}
        ``first`` goes through each window once and keeps the first guess of each value. ``mean``
        goes through it several times, hides other tokens together each time, and averages; it
        also averages where the last window overlaps the one before.
    n_rounds : int
        Times that ``mean`` goes through a window.
    seed : int
        Of which tokens are hidden together.
    """

    share: float = 0.2
    mode: Mode = "first"
    n_rounds: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReconstruction:
    """A run as it was guessed.

    Parameters
    ----------
    guess : ndarray, shape (V, T)
        In the unit of the series.
    r2 : float
        Over all values of parcels that vary, about their common mean; negative where that mean
        would have been better.
    r2_parcels : ndarray, shape (V,)
        Of each parcel about its own mean; NaN where it does not vary.
    n_passes : int
        Of the network through each window.
    """

    guess: NDArray[np.float64]
    r2: float
    r2_parcels: NDArray[np.float64]
    n_passes: int

    def as_dict(self) -> dict[str, Any]:
        """Say the numbers for a JSON file."""
        known = self.r2_parcels[np.isfinite(self.r2_parcels)]
        return {
            "R2": round(self.r2, 6),
            "R2MedianOfParcels": round(float(np.median(known)), 6),
            "PassesPerWindow": self.n_passes,
        }


def reconstruct_run(
    model: BrainLm,
    series: NDArray[np.float32],
    xyz: NDArray[np.float32],
    *,
    window: int,
    how: HowGuessed | None = None,
) -> RunReconstruction:
    """Guess every value of a run from passes in which it was hidden.

    Parameters
    ----------
    model : BrainLm
        With a decoder, in evaluation mode.
    series : ndarray, shape (V, T)
        Of the parcels, scaled as the card says; rows of missing parcels are 0.
    xyz : ndarray, shape (V, 3)
        Places of the parcels, MNI mm.
    window : int
        Volumes that go through the network together; the last window ends with the run.
    how : HowGuessed, optional
        By default five passes, the first guess of each value.

    Returns
    -------
    RunReconstruction
        The same for the same seed.

    Raises
    ------
    SeriesTooShortError
        If the run is shorter than a window.
    DataError
        If the share or the number of rounds is not possible, or no parcel varies.
    ContractError
        If the window is not one of the network's, or there is no decoder.
    """
    how = how or HowGuessed()
    _check(series, window, how)
    n_parts = math.ceil(1 / how.share)
    n_rounds = how.n_rounds if how.mode == "mean" else 1
    starts = window_starts(series.shape[1], window=window, stride=window)
    total, times = np.zeros(series.shape), np.zeros(series.shape[1])
    for number, start in enumerate(starts):
        span = slice(start, start + window)
        made = _guess_window(model, series[:, span], xyz, how=how, first=number * n_rounds)
        if how.mode == "first":
            made[:, times[span] > 0] = 0
            times[span] = np.maximum(times[span], 1)
        else:
            times[span] += 1
        total[:, span] += made
    return _measure(series, total / times, n_passes=n_parts * n_rounds)


def _guess_window(
    model: BrainLm,
    window: NDArray[np.float32],
    xyz: NDArray[np.float32],
    *,
    how: HowGuessed,
    first: int,
) -> NDArray[np.float64]:
    """Guess (V, L) by one round or the mean of several; `first` is the number of the first."""
    import torch

    from neurostorm_app.models.brainlm_guess import count_tokens, guess_whole

    n_parts = math.ceil(1 / how.share)
    signal, places = torch.from_numpy(window.copy())[None], torch.as_tensor(xyz)[None]
    n_rounds = how.n_rounds if how.mode == "mean" else 1
    total = np.zeros(window.shape)
    for number in range(first, first + n_rounds):
        draws = torch.Generator().manual_seed(how.seed * 1_000_003 + number)
        parts = torch.randperm(count_tokens(model, signal), generator=draws) % n_parts
        with torch.inference_mode():
            whole = guess_whole(model, signal, places, parts=parts, n_parts=n_parts)
        total += whole[0].numpy()
    return total / n_rounds


def _measure(
    series: NDArray[np.float32], guess: NDArray[np.float64], *, n_passes: int
) -> RunReconstruction:
    truth = series.astype(np.float64)
    varies = np.ptp(truth, axis=1) > 0
    squares = np.square(truth - guess)
    parcels = np.full(len(truth), np.nan)
    parcels[varies] = 1 - squares[varies].mean(axis=1) / truth[varies].var(axis=1)
    r2 = 1 - squares[varies].mean() / truth[varies].var()
    return RunReconstruction(guess=guess, r2=float(r2), r2_parcels=parcels, n_passes=n_passes)


def _check(series: NDArray[np.float32], window: int, how: HowGuessed) -> None:
    n = series.shape[1]
    if n < window:
        raise SeriesTooShortError(
            f"the run has {n} volumes; a window that is guessed has {window}",
            fix="leave the run out, or choose a shorter window",
        )
    if not 0 < how.share <= 0.5 or how.n_rounds < 1:
        raise DataError(
            f"{how.share:g} of the tokens are to be hidden at once, in {how.n_rounds} rounds; "
            "expected a share above 0 and at most 0.5, and one round at least",
            fix="give a share such as 0.2",
        )
    if not (np.ptp(series, axis=1) > 0).any():
        raise DataError(
            "no parcel varies, so there is nothing to guess of the run",
            fix="check the series: they may be empty",
        )
