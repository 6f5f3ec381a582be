"""Windows of volumes out of a series, and one vector of a run out of its windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import SeriesTooShortError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["pool_windows", "tile_windows", "window_starts"]


def window_starts(n_volumes: int, *, window: int, stride: int) -> list[int]:
    """Find where windows start; the last one ends at the last volume.

    The last window may overlap the one before more than the others do, so that no volume is
    left out.

    Parameters
    ----------
    n_volumes, window, stride : int
        Length of the series, of a window, and between two starts, in volumes.

    Returns
    -------
    list of int
        First volume of each window, ascending.

    Raises
    ------
    SeriesTooShortError
        If the series is shorter than one window.

    Examples
    --------
    >>> window_starts(50, window=20, stride=20)
    [0, 20, 30]
    """
    last = n_volumes - window
    if last < 0:
        raise SeriesTooShortError(
            f"the series has {n_volumes} volumes; one window takes {window}",
            fix=f"leave the run out, or choose a model with a window of at most {n_volumes}",
        )
    return [*range(0, last, stride), last]


def tile_windows(
    volumes: Iterable[NDArray[np.float32]], starts: Sequence[int], *, window: int
) -> Iterator[NDArray[np.float32]]:
    """Cut a stream of volumes into windows, holding no more than one window.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        The volumes of the series in their order; consumed once.
    starts : sequence of int
        First volume of each window, ascending.
    window : int
        Volumes in a window.

    Yields
    ------
    ndarray, shape (X, Y, Z, L), float32
        One window; the caller may keep it.
    """
    held: dict[int, NDArray[np.float32]] = {}
    ahead = list(starts)
    for t, volume in enumerate(volumes):
        if not ahead:
            return
        if t >= ahead[0]:
            held[t] = volume
        if t == ahead[0] + window - 1:
            window_of_volumes = np.stack([held[u] for u in range(ahead.pop(0), t + 1)])
            first_needed = ahead[0] if ahead else t + 1
            held = {u: kept for u, kept in held.items() if u >= first_needed}
            # Volumes lie one after the other in memory: to interleave them takes ten times longer.
            yield np.moveaxis(window_of_volumes, 0, -1)


def pool_windows(
    windows: NDArray[np.float32], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Take the weighted mean over windows.

    Parameters
    ----------
    windows : ndarray, shape (N, D)
        Embeddings of windows.
    weights : ndarray, shape (N,), optional
        Weight of each window; by default all count the same, as in the evaluation of upstream.

    Returns
    -------
    ndarray, shape (D,), float32
        Embedding of the run.

    Examples
    --------
    >>> pool_windows(np.array([[1, 2], [3, 6]], dtype=np.float32))
    array([2., 4.], dtype=float32)
    """
    return np.asarray(
        np.average(windows.astype(np.float64), axis=0, weights=weights), dtype=np.float32
    )
