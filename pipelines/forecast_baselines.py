"""What a forecast must beat: methods without a network, in closed form, and one small LSTM.

``persistence`` repeats the last volume and ``mean`` the mean of what is seen. ``ar`` forecasts each
parcel from its own past, ``var`` from the past of all parcels, by a ridge regression; both are
fitted to windows of other people and continue their own forecasts volume by volume. Predicting the
mean of the data gives an R2 of 0, so a method that is barely above 0 has forecast nearly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Autoregression", "RidgeVar", "fit_lstm", "forecast_mean", "persist"]

RIDGES: Final = tuple(10.0**power for power in range(-6, 3))
"""Penalties that are tried, as shares of the mean eigenvalue of the moments of the past."""
SMALL = 1e-8
"""Share of a parcel's own variance that keeps its equations solvable."""


def persist(past: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Repeat the last volume: (N, V, S) to (N, V, horizon).

    Examples
    --------
    >>> persist(np.array([[[1.0, 2.0]]]), 3)
    array([[[2., 2., 2.]]])
    """
    return np.repeat(past[..., -1:], horizon, axis=-1)


def forecast_mean(past: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Repeat the mean of what each parcel showed: (N, V, S) to (N, V, horizon).

    Examples
    --------
    >>> forecast_mean(np.array([[[1.0, 3.0]]]), 2)
    array([[[2., 2.]]])
    """
    return np.repeat(past.mean(axis=-1, keepdims=True), horizon, axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoregression:
    """Each parcel from its own past; made by `fit`.

    Parameters
    ----------
    weights : ndarray, shape (V, p)
        Of the last volume, of the one before, and so on.
    means : ndarray, shape (V,)
        Of the windows it was fitted to.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]

    @classmethod
    def fit(cls, windows: NDArray[np.float64], *, order: int = 5) -> Autoregression:
        """Fit by least squares, one parcel at a time, over all windows together.

        Parameters
        ----------
        windows : ndarray, shape (N, V, T)
            Of people that are not forecast.
        order : int
            Volumes that are looked back at.

        Returns
        -------
        Autoregression
            Of a parcel that does not vary the weights are 0.

        Raises
        ------
        DataError
            If the windows are not longer than the order.
        """
        _check_order(windows, order)
        means = windows.mean(axis=(0, 2))
        lags, now = _lag(windows - means[:, None], order)
        moments = np.einsum("nvtp,nvtq->vpq", lags, lags, optimize=True)
        mixed = np.einsum("nvtp,nvt->vp", lags, now, optimize=True)
        size = np.trace(moments, axis1=1, axis2=2) / order
        loads = np.where(size > 0, SMALL * size, 1.0)
        weights = np.linalg.solve(moments + loads[:, None, None] * np.eye(order), mixed[..., None])
        return cls(weights=weights[..., 0], means=means)

    def __call__(self, past: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
        """Continue (N, V, S) by (N, V, horizon)."""
        order = self.weights.shape[1]
        _check_order(past, order - 1)
        recent = (past - self.means[:, None])[..., : -order - 1 : -1]
        steps = []
        for _ in range(horizon):
            steps.append((recent * self.weights).sum(axis=-1))
            recent = np.concatenate([steps[-1][..., None], recent[..., :-1]], axis=-1)
        return np.stack(steps, axis=-1) + self.means[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeVar:
    """All parcels from the past of all; made by `fit`.

    Parameters
    ----------
    weights : ndarray, shape (p * V, V)
        From the last volume's parcels, then those of the one before, and so on, to the next
        volume's.
    means : ndarray, shape (V,)
        Of the windows it was fitted to.
    ridge : float
        The penalty that was chosen, as a share of the mean eigenvalue of the moments.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    ridge: float

    @classmethod
    def fit(
        cls,
        windows: NDArray[np.float64],
        *,
        order: int = 1,
        ridges: tuple[float, ...] = RIDGES,
    ) -> RidgeVar:
        """Fit in closed form, with the penalty of the least generalised cross-validation error.

        One eigendecomposition of p V x p V serves all penalties. The choice sees the windows it is
        given and nothing else.

        Parameters
        ----------
        windows : ndarray, shape (N, V, T)
            Of people that are not forecast.
        order : int
            Volumes that are looked back at.
        ridges : tuple of float
            Penalties to try, above 0.

        Returns
        -------
        RidgeVar
            For windows of the same parcels.

        Raises
        ------
        DataError
            If the windows are not longer than the order, or do not vary.

        References
        ----------
        Golub, Heath and Wahba, "Generalized cross-validation as a method for choosing a good ridge
        parameter", Technometrics 21:215, 1979.
        """
        _check_order(windows, order)
        means = windows.mean(axis=(0, 2))
        lags, now = _lag(windows - means[:, None], order)
        past = lags.transpose(0, 2, 3, 1).reshape(-1, order * len(means))
        future = now.transpose(0, 2, 1).reshape(len(past), -1)
        values, vectors = np.linalg.eigh(past.T @ past)
        values = np.clip(values, 0, None)
        if not values.any():
            raise DataError(
                "the windows to fit a vector autoregression to do not vary",
                fix="check the series: they may be empty, or of one value",
            )
        mixed = vectors.T @ (past.T @ future)
        total, size = float(np.square(future).sum()), float(values.mean())
        errors = [_validate(values, mixed, ridge * size, (total, len(past))) for ridge in ridges]
        ridge = ridges[int(np.argmin(errors))]
        weights = vectors @ (mixed / (values + ridge * size)[:, None])
        return cls(weights=weights, means=means, ridge=ridge)

    def __call__(self, past: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
        """Continue (N, V, S) by (N, V, horizon)."""
        order = len(self.weights) // len(self.means)
        _check_order(past, order - 1)
        recent = (past - self.means[:, None])[..., : -order - 1 : -1].transpose(0, 2, 1)
        steps = []
        for _ in range(horizon):
            steps.append(recent.reshape(len(past), -1) @ self.weights)
            recent = np.concatenate([steps[-1][:, None], recent[:, :-1]], axis=1)
        return np.stack(steps, axis=-1) + self.means[:, None]


def fit_lstm(
    windows: NDArray[np.float64], *, width: int = 64, n_steps: int = 300, seed: int = 0
) -> _LstmForecaster:
    """Train a small LSTM to tell the next volume of all parcels from those before.

    Parameters
    ----------
    windows : ndarray, shape (N, V, T)
        Of people that are not forecast.
    width : int
        Of its state.
    n_steps : int
        Of Adam, each on 16 windows that are drawn anew.
    seed : int
        Of the first values and the draws: the same gives the same network.

    Returns
    -------
    Forecaster
        It continues its own forecasts, volume by volume.

    Raises
    ------
    DataError
        If the windows have fewer than two volumes.
    """
    import torch

    _check_order(windows, 1)
    values = torch.from_numpy(windows.astype(np.float32)).transpose(1, 2)
    scale = values.std().clamp_min(1e-12)
    values = values / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = torch.nn.LSTM(values.shape[2], width, batch_first=True)
        tell = torch.nn.Linear(width, values.shape[2])
    draws = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam([*cell.parameters(), *tell.parameters()], lr=5e-3)
    for _ in range(n_steps):
        some = values[torch.randint(len(values), (16,), generator=draws)]
        states, _ = cell(some[:, :-1])
        loss = torch.nn.functional.mse_loss(tell(states), some[:, 1:])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return _LstmForecaster(cell=cell, tell=tell, scale=float(scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class _LstmForecaster:
    cell: torch.nn.LSTM
    tell: torch.nn.Linear
    scale: float

    def __call__(self, past: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
        """Continue (N, V, S) by (N, V, horizon)."""
        import torch

        steps = []
        with torch.inference_mode():
            values = torch.from_numpy(past.astype(np.float32)).transpose(1, 2) / self.scale
            states, memory = self.cell(values)
            for _ in range(horizon):
                steps.append(self.tell(states[:, -1:]))
                states, memory = self.cell(steps[-1], memory)
            future = torch.cat(steps, dim=1).transpose(1, 2) * self.scale
        return np.asarray(future.numpy(), dtype=np.float64)


def _lag(
    windows: NDArray[np.float64], order: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the volumes before each, (N, V, T - p, p), the last first, and each, (N, V, T - p)."""
    spans = np.lib.stride_tricks.sliding_window_view(windows[..., :-1], order, axis=-1)
    return spans[..., ::-1], windows[..., order:]


def _validate(
    values: NDArray[np.float64], mixed: NDArray[np.float64], ridge: float, about: tuple[float, int]
) -> float:
    """Compute the generalised cross-validation error; `about` is the sum of squares, and rows."""
    total, n = about
    energy = np.square(mixed).sum(axis=1)
    loaded = values + ridge
    residual = total - float((energy * (values + 2 * ridge) / np.square(loaded)).sum())
    free = max(n - float((values / loaded).sum()), 1e-9)
    return max(residual, 0.0) / free**2


def _check_order(windows: NDArray[np.float64], order: int) -> None:
    if windows.shape[-1] <= order:
        raise DataError(
            f"windows of {windows.shape[-1]} volumes are too short to look back at {order}",
            fix="give longer windows, or look back at fewer volumes",
        )
