"""How fast the signal decays after excitation: T2* and S0 of each voxel from its echoes.

At echo time TE the signal is ``S0 exp(-TE / T2*)``. The rules about voxels that do not decay so
are tedana's, so that the numbers are.

References
----------
DuPre E. et al. 2021, J. Open Source Softw. 6:3669, tedana; its documentation, "Monoexponential
decay model fit".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.preprocess.acquired.echoes import EchoMeans

__all__ = ["T2Star", "check_echo_times", "fit_t2star", "group_by_echoes", "limit_t2star"]

_NO_DECAY, _NO_SIGNAL = 0.5, 0.001  # s, for a T2* that is infinite, and one that is not positive
_ROUNDS, _CLOSE = 100, 1e-10  # of the curve fit: at most, relative step at which it ends
_FLAT = 1e-12  # change of the logarithm over all echoes
_FAINT = 1e-4  # a second echo of this share of the first is as good as none: no faster decay


@dataclass(frozen=True, slots=True, eq=False)
class T2Star:
    """How the signal of each voxel decays.

    Parameters
    ----------
    t2star : ndarray, shape (V,)
        s; 0 where no echo is good.
    s0 : ndarray, shape (V,)
        Signal at echo time 0, a.u.; 0 where no echo is good.
    n_replaced : int
        Voxels whose signal does not decay, or at once, so that T2* was set to a bound.
    n_unfit : int
        Voxels whose curve could not be fitted, so that the straight line through the logarithms
        stands.
    """

    t2star: NDArray[np.float64]
    s0: NDArray[np.float64]
    n_replaced: int
    n_unfit: int = 0


def fit_t2star(
    means: EchoMeans,
    echo_times: Sequence[float],
    n_good: NDArray[np.intp],
    *,
    method: Literal["loglin", "curvefit"] = "curvefit",
) -> T2Star:
    """Fit the decay of each voxel to its good echoes; to the first two if one is good.

    Parameters
    ----------
    means : EchoMeans
        Of the run. The sum of squares over all volumes is least where that over their means is.
    echo_times : sequence of float
        s, rising.
    n_good : ndarray, shape (V,)
        Of :func:`count_good_echoes`.
    method : {"loglin", "curvefit"}
        A straight line through the logarithms, or from there the least squares of the curve.

    Raises
    ------
    DataError
        If there are fewer than two echoes, or their times are not positive and rising.
    """
    times = check_echo_times(echo_times, means.mean.shape[1])
    t2star, s0 = np.zeros(len(n_good)), np.zeros(len(n_good))
    n_unfit = 0
    for n, rows in group_by_echoes(n_good, len(times)):
        line = _fit_line(means.log_mean[rows, :n], times[:n])
        if method == "curvefit":
            could = line[1] >= means.least[rows, :n].min(axis=1)
            fit, done = _fit_curve(means.mean[rows, :n], times[:n], line, could)
            line, n_unfit = fit, n_unfit + int((~done).sum())
        t2star[rows], s0[rows] = line
    t2star, n_replaced = _bounded(t2star, n_good > 0, times)
    return T2Star(t2star, np.nan_to_num(s0, nan=0.0, posinf=np.inf), n_replaced, n_unfit)


def limit_t2star(t2star: NDArray[np.float64], n_good: NDArray[np.intp]) -> NDArray[np.float64]:
    """Make a map of T2* (s) that can be shown: 0 with less than two good echoes, and no giants.

    It is tedana's ``desc-limited_T2starmap``; the T2* that the weights take is ``T2starmap``.
    What is above ten times the 99.5th percentile (of voxels with a good echo) takes its value.
    """
    shown = np.where(n_good > 1, t2star, 0.0)
    if (n_good > 0).any():
        cap = np.percentile(shown[n_good > 0], 99.5, method="lower")
        shown[shown > 10 * cap] = cap
    return shown


def check_echo_times(echo_times: Sequence[float], n_echoes: int) -> NDArray[np.float64]:
    """Check the echo times (s) of a number of echoes; give them as an array (E,).

    Raises
    ------
    DataError
        If there are fewer than two, or they are not positive and rising.
    """
    times = np.asarray(echo_times, dtype=np.float64)
    if len(times) != n_echoes or n_echoes < 2 or times[0] <= 0 or (np.diff(times) <= 0).any():
        raise DataError(
            f"{n_echoes} echoes came with echo times {times.tolist()} s; two or more were expected,"
            " each with a time, positive and rising",
            fix="check EchoTime in the sidecars of the echoes",
        )
    return times


def group_by_echoes(n_good: NDArray[np.intp], n_echoes: int) -> list[tuple[int, NDArray[np.intp]]]:
    """List how many echoes are used, at least two, and the voxels for which they are."""
    used = np.where(n_good > 0, np.maximum(n_good, 2), 0)
    groups = [(n, np.flatnonzero(used == n)) for n in range(2, n_echoes + 1)]
    return [(n, rows) for n, rows in groups if rows.size]


def _fit_line(
    logs: NDArray[np.float64], times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit straight lines to logarithms (V, n): T2* and S0."""
    away = times - times.mean()
    slope = logs @ away / (away @ away)
    slope[np.abs(slope) * np.ptp(times) < _FLAT] = 0  # what rounding leaves of no decay
    with np.errstate(divide="ignore"):
        t2star = -1 / slope
    return t2star, np.exp(logs.mean(axis=1) - slope * times.mean())


def _fit_curve(
    means: NDArray[np.float64],
    times: NDArray[np.float64],
    line: tuple[NDArray[np.float64], NDArray[np.float64]],
    could: NDArray[np.bool_],
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]:
    """Fit curves from where the line is, where that decays: T2*, S0, and where it was done.

    S0 follows from the rate r = 1 / T2* as ``m.f / f.f`` with ``f = exp(-r TE)``, so that one
    number a voxel is left; it takes damped steps of Gauss and Newton.

    References
    ----------
    Golub G. and Pereyra V. 1973, SIAM J. Numer. Anal. 10:413, variable projection; Kaufman L.
    1975, BIT 15:49, the slope that is used.
    """
    t2star, s0 = line[0].copy(), line[1].copy()
    done = could & np.isfinite(t2star) & (t2star > 0)
    rows = np.flatnonzero(done)
    m, rate = means[rows], 1 / t2star[rows]
    damping = np.full(len(rows), 1e-3)
    most = np.maximum(rate, -np.log(_FAINT) / (times[1] - times[0]))
    _, left, slope, bend = _project(m, times, rate)
    for _ in range(_ROUNDS):
        step = slope / (bend * (1 + damping) + 1e-300)
        tried = np.clip(rate + step, rate * 1e-3, most)
        _, then, new_slope, new_bend = _project(m, times, tried)
        better = then <= left
        moved = np.abs(tried - rate) > _CLOSE * rate
        rate, left = np.where(better, tried, rate), np.where(better, then, left)
        slope, bend = np.where(better, new_slope, slope), np.where(better, new_bend, bend)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-12, 1e12)
        if not moved.any():
            break
    t2star[rows], s0[rows] = 1 / rate, _project(m, times, rate)[0]
    return (t2star, s0), done


def _project(
    means: NDArray[np.float64], times: NDArray[np.float64], rate: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Find S0 at a rate, the sum of squares left, its slope (down) and its bend: each (V,)."""
    decay = np.exp(-rate[:, None] * times)
    square = (decay * decay).sum(axis=1)
    s0 = (means * decay).sum(axis=1) / square
    rest = means - s0[:, None] * decay
    change = -times * decay * s0[:, None]
    along = (change * decay).sum(axis=1) / square
    change -= along[:, None] * decay  # S0 follows
    return s0, (rest**2).sum(axis=1), (rest * change).sum(axis=1), (change**2).sum(axis=1)


def _bounded(
    t2star: NDArray[np.float64], known: NDArray[np.bool_], times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """Put bounds in place of a T2* that is infinite, not positive, or too small to compute with."""
    endless, none = np.isinf(t2star), known & (t2star <= 0)
    bounded = np.where(endless, _NO_DECAY, np.where(none, _NO_SIGNAL, t2star))
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        lost = known & (np.exp(-times[-1] / bounded) == 0)
    bounded[lost] = -times[-1] / np.log(np.finfo(np.float64).eps)
    return bounded, int((endless | none | lost).sum())
