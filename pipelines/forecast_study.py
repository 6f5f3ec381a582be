"""Forecasts of the runs of a study: whatever is fitted, is fitted to other people.

The windows of all runs are cut once. BrainLM, as it is, and each simpler method continue all of
them; a method that must be fitted is fitted once for each fifth of the people, to all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.forecast import (
    HORIZON,
    SEEN,
    compare_forecasts,
    cut_windows,
    network_forecaster,
)
from neurostorm_app.pipelines.forecast_baselines import (
    Autoregression,
    RidgeVar,
    fit_lstm,
    forecast_mean,
    persist,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.explore import Explorer, ReadyRun
    from neurostorm_app.pipelines.forecast import Forecaster, ForecastScore

__all__ = ["cross_fit", "forecast_runs"]

N_FOLDS = 5


def cross_fit(
    fit: Callable[[NDArray[np.float64]], Forecaster],
    windows: NDArray[np.float64],
    people: Sequence[str],
    *,
    seen: int,
) -> Forecaster:
    """Fit a method once for each share of the people, to the windows of all others.

    Parameters
    ----------
    fit : callable
        From windows (N, V, T) to a forecaster.
    windows : ndarray, shape (N, V, T)
        All that will be forecast.
    people : sequence of str, length N
        Whose each window is.
    seen : int
        Volumes of each that are given.

    Returns
    -------
    Forecaster
        For these windows, in this order, and no others.

    Raises
    ------
    DataError
        If they are of one participant; when it is called, if the windows are not these.
    """
    names = sorted(set(people))
    if len(names) < 2:
        raise DataError(
            f"all {len(windows)} windows are of one participant; what is fitted must be fitted to "
            "others than it is measured on",
            fix="give runs of two participants at least",
        )
    folds = np.array([names.index(person) % min(N_FOLDS, len(names)) for person in people])
    fitted = {fold: fit(windows[folds != fold]) for fold in np.unique(folds)}

    def forecast(past: NDArray[np.float64], horizon: int, /) -> NDArray[np.float64]:
        """Continue each window by the fit to other people."""
        if past.shape[0] != len(folds) or not np.array_equal(past, windows[..., :seen]):
            raise DataError(
                "a method that was cross-fitted was given other windows than those it was made for",
                fix="fit it anew for these windows",
            )
        future = np.empty((*past.shape[:2], horizon))
        for fold, method in fitted.items():
            future[folds == fold] = method(past[folds == fold], horizon)
        return future

    return forecast


def forecast_runs(
    explorer: Explorer,
    runs: Sequence[ReadyRun],
    *,
    seen: int = SEEN,
    horizon: int = HORIZON,
    lstm: Literal["without", "with"] = "without",
) -> dict[str, ForecastScore]:
    """Compare BrainLM's forecasts with those of simpler methods, on the same windows.

    Parameters
    ----------
    explorer : Explorer
        The network; it is not tuned for forecasts.
    runs : sequence of ReadyRun
        Of two participants at least.
    seen, horizon : int
        Volumes that are given, and that are forecast.
    lstm : {'without', 'with'}
        Whether a small LSTM is trained too.

    Returns
    -------
    dict of str to ForecastScore
        Of ``brainlm``, ``persistence``, ``mean``, ``ar``, ``var`` and ``lstm``.

    Raises
    ------
    DataError
        If a run is shorter than a window, or all are of one participant.
    ContractError
        If the network has no windows of this length.
    """
    cut = [cut_windows(run.series.astype(np.float64), length=seen + horizon) for run in runs]
    people = [run.person for run, some in zip(runs, cut, strict=True) for _ in some]
    windows = np.concatenate(cut)
    fits: dict[str, Callable[[NDArray[np.float64]], Forecaster]] = {
        "ar": Autoregression.fit,
        "var": RidgeVar.fit,
    }
    if lstm == "with":
        fits["lstm"] = fit_lstm
    methods: dict[str, Forecaster] = {
        "brainlm": network_forecaster(explorer.model, runs[0].xyz),
        "persistence": persist,
        "mean": forecast_mean,
    }
    methods |= {name: cross_fit(fit, windows, people, seen=seen) for name, fit in fits.items()}
    return compare_forecasts(windows, methods, seen=seen)
