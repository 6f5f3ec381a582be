r"""Forecasts of the series of parcels: windows cut once, and how good a forecast of them is.

A window is cut into what is seen and what follows; every method sees the same volumes and is
measured on the same ones. Over all values of windows, parcels and volumes that follow,

.. math:: R^2 = 1 - \frac{\sum (y - \hat{y})^2}{\sum (y - \bar{y})^2},

with :math:`\bar{y}` the mean of all the values that are to be forecast. It is not cut off at 0: who
forecasts :math:`\bar{y}` has 0, and persistence on white noise has -1. Pearson's r is over the same
values, and does not exist where a forecast is constant.

Two things make such numbers too good, and neither can be seen in a window. A filter that looks
both ways in time brings the future into what is seen. And series that were scaled by the whole run
know the mean and the spread of what follows; this helps all methods alike.

References
----------
Ortega Caro et al., bioRxiv 2023.09.12.557460, table 3: of windows of 200 volumes, 180 are seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurostorm_app.errors import DataError, SeriesTooShortError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neurostorm_app.models.brainlm_face import BrainLm
    from neurostorm_app.models.brainlm_guess import LastMode

__all__ = [
    "HORIZON",
    "SEEN",
    "ForecastScore",
    "Forecaster",
    "compare_forecasts",
    "cut_windows",
    "network_forecaster",
]

SEEN, HORIZON = 180, 20
"""Volumes that are seen, and that are forecast, in BrainLM's table."""


class Forecaster(Protocol):
    """What continues windows; it is never given what follows them."""

    def __call__(self, past: NDArray[np.float64], horizon: int, /) -> NDArray[np.float64]:
        """Map (N, V, S) to the next volumes, (N, V, horizon), in the same unit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastScore:
    """How good one method's forecasts are.

    Parameters
    ----------
    r2 : float
        Over all values together, at most 1; negative where the mean would have been better.
    r : float or None
        Pearson's, over all values together; None where the forecast is constant.
    mse : float
        Mean squared error, in the unit of the series, squared.
    r2_parcels : ndarray, shape (V,)
        Of each parcel, about its own mean; NaN where it does not vary.
    mse_steps : ndarray, shape (horizon,)
        Of the first volume after those seen, of the second, and so on.
    mse_windows : ndarray, shape (N,)
        Of each window: methods are compared pair by pair with these.
    """

    r2: float
    r: float | None
    mse: float
    r2_parcels: NDArray[np.float64]
    mse_steps: NDArray[np.float64]
    mse_windows: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """Say the three numbers for a JSON file."""
        r = None if self.r is None else round(self.r, 6)
        return {"R2": round(self.r2, 6), "r": r, "MSE": round(self.mse, 6)}


def cut_windows(
    series: NDArray[np.float64], *, length: int = SEEN + HORIZON, stride: int | None = None
) -> NDArray[np.float64]:
    """Cut a run into windows from its beginning; what is left at its end is not used.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Of the parcels of a run.
    length : int
        Volumes of a window, those seen and those forecast.
    stride : int, optional
        Volumes from one window to the next; by default they do not overlap.

    Returns
    -------
    ndarray, shape (N, V, length)
        A copy.

    Raises
    ------
    SeriesTooShortError
        If the run is shorter than one window.

    Examples
    --------
    >>> cut_windows(np.zeros((3, 50)), length=20).shape
    (2, 3, 20)
    """
    n = series.shape[1]
    if n < length:
        raise SeriesTooShortError(
            f"the run has {n} volumes; a window that is seen and forecast has {length}",
            fix="see fewer volumes, or leave the run out",
        )
    starts = range(0, n - length + 1, stride or length)
    return np.stack([series[:, start : start + length] for start in starts])


def network_forecaster(
    model: BrainLm, xyz: NDArray[np.float32], *, mode: LastMode = "predict_last"
) -> Forecaster:
    """Let BrainLM continue windows: what follows is hidden, and guessed from what is seen.

    Parameters
    ----------
    model : BrainLm
        With a decoder, in evaluation mode.
    xyz : ndarray, shape (V, 3)
        Places of the parcels, MNI mm.
    mode : str
        Of the ViT-MAE family, as of `guess_future`, which says what horizons are possible.

    Returns
    -------
    Forecaster
        It takes windows one by one, in the unit the network was trained on. It raises
        ContractError where the lengths are not the network's.
    """

    def forecast(past: NDArray[np.float64], horizon: int, /) -> NDArray[np.float64]:
        """Continue (N, V, S) by (N, V, horizon)."""
        import torch

        from neurostorm_app.models.brainlm_guess import guess_future

        places = torch.as_tensor(xyz, dtype=torch.float32)[None]
        with torch.inference_mode():
            futures = [
                guess_future(model, one[None], places, horizon=horizon, mode=mode)
                for one in torch.from_numpy(past.astype(np.float32))
            ]
        return np.asarray(torch.cat(futures).numpy(), dtype=np.float64)

    return forecast


def compare_forecasts(
    windows: NDArray[np.float64], forecasters: Mapping[str, Forecaster], *, seen: int = SEEN
) -> dict[str, ForecastScore]:
    """Let methods continue the same windows, and measure each.

    Parameters
    ----------
    windows : ndarray, shape (N, V, T)
        As of `cut_windows`, of people that no method was fitted to.
    forecasters : mapping of str to Forecaster
        Methods by name.
    seen : int
        Volumes of each window that they are given; the others are forecast.

    Returns
    -------
    dict of str to ForecastScore
        By name. Parcels that do not vary in what is to be forecast count for none of the methods:
        a missing parcel is a row of zeros, which is no merit to forecast.

    Raises
    ------
    DataError
        If nothing is left to forecast, or a method returns another shape or numbers that are not
        finite.
    """
    past, future = windows[..., :seen], windows[..., seen:]
    horizon = future.shape[-1]
    if not (seen > 0 and horizon):
        raise DataError(
            f"windows of {windows.shape[-1]} volumes of which {seen} are seen leave nothing to "
            "forecast, or nothing to see",
            fix="see at least one volume, and leave at least one",
        )
    varies = np.ptp(future, axis=(0, 2)) > 0
    if not varies.any():
        raise DataError(
            "no parcel varies in the volumes to forecast, so there is nothing to measure",
            fix="check the series: they may be empty, or of one value",
        )
    scores = {}
    for name, forecast in forecasters.items():
        guess = np.asarray(forecast(past.copy(), horizon), dtype=np.float64)
        _check(name, guess, future.shape)
        scores[name] = _score(future, guess, varies)
    return scores


def _check(name: str, guess: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    if guess.shape != shape:
        raise DataError(
            f"{name} forecast an array of {guess.shape}; expected {shape}: windows, parcels, "
            "volumes that follow",
            fix="let it return one value for each",
        )
    if not np.isfinite(guess).all():
        raise DataError(
            f"{name} forecast {int((~np.isfinite(guess)).sum())} values that are not finite",
            fix="check the series, or penalise the method's weights more",
        )


def _score(
    truth: NDArray[np.float64], guess: NDArray[np.float64], varies: NDArray[np.bool_]
) -> ForecastScore:
    squares = np.square(truth - guess)
    spread = np.square(truth - truth.mean(axis=(0, 2), keepdims=True)).sum(axis=(0, 2))
    parcels = np.full(len(varies), np.nan)
    parcels[varies] = 1 - squares.sum(axis=(0, 2))[varies] / spread[varies]
    truth, guess, squares = truth[:, varies], guess[:, varies], squares[:, varies]
    constant = np.ptp(guess) == 0
    return ForecastScore(
        r2=float(1 - squares.sum() / np.square(truth - truth.mean()).sum()),
        r=None if constant else float(np.corrcoef(truth.ravel(), guess.ravel())[0, 1]),
        mse=float(squares.mean()),
        r2_parcels=parcels,
        mse_steps=squares.mean(axis=(0, 1)),
        mse_windows=squares.mean(axis=(1, 2)),
    )
