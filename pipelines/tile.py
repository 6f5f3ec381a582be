"""Windows of volumes out of a series, and one vector of a run out of its windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurostorm_app.errors import SeriesTooShortError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.models.card import VolumeContract

    ClipPolicy = Literal["dense", "upstream-eval"]

__all__ = [
    "describe_windows",
    "plan_windows",
    "pool_windows",
    "tile_windows",
    "window_starts",
]

SPARSE = 20
"""Windows from one start to the next where upstream evaluates: 400 volumes for windows of 20."""


def window_starts(
    n_volumes: int,
    *,
    window: int,
    stride: int,
    policy: ClipPolicy = "dense",
    tr: float | None = None,
) -> list[int]:
    """Find where windows start.

    ``dense``: the last window ends at the last volume; it may overlap the one before more than
    the others do, so that no volume is left out. ``upstream-eval``: one window, and the next one
    ``SPARSE`` windows later, as upstream evaluates its fine-tuned networks; volumes after the
    last are left out.

    Parameters
    ----------
    n_volumes, window, stride : int
        Length of the series, of a window, and between two starts of a dense tiling, in volumes.
    policy : {'dense', 'upstream-eval'}
        Which part of the series is covered.
    tr : float, optional
        Seconds from one volume to the next, for the message.

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
    >>> window_starts(1080, window=20, stride=20, policy="upstream-eval")
    [0, 400, 800]
    """
    last = n_volumes - window
    if last < 0:
        timed = "" if tr is None else _timed(n_volumes, window, tr)
        raise SeriesTooShortError(
            f"the series has {n_volumes} volumes; one window takes {window}{timed}",
            fix=f"leave the run out, or choose a model with a window of at most {n_volumes}",
        )
    if policy == "upstream-eval":
        return list(range(0, last + 1, SPARSE * window))
    return [*range(0, last, stride), last]


def _timed(n_volumes: int, window: int, tr: float) -> str:
    return (
        f": {n_volumes * tr:g} s of {window * tr:g} s, at the model's repetition time of {tr:g} s"
    )


def plan_windows(
    n_volumes: int, contract: VolumeContract, *, policy: ClipPolicy, tr: float
) -> tuple[list[int], dict[str, Any]]:
    """Find where the windows of a contract start, and say which volumes are in them.

    Parameters
    ----------
    n_volumes : int
        Length of the series at the repetition time `tr`.
    contract : VolumeContract
        Says how long a window is and how far the next one is.
    policy : {'dense', 'upstream-eval'}
        As for `window_starts`.
    tr : float
        Seconds from one volume to the next.

    Returns
    -------
    starts : list of int
        First volume of each window, ascending.
    facts : dict
        ``clip_policy``, ``n_windows``, ``window`` and ``stride`` (volumes), ``tr`` (s),
        ``n_unused`` (volumes in no window) and ``n_overlap`` (volumes in more than one).

    Raises
    ------
    SeriesTooShortError
        If the series is shorter than one window.
    """
    window, stride = contract.window, contract.stride
    starts = window_starts(n_volumes, window=window, stride=stride, policy=policy, tr=tr)
    facts = describe_windows(starts, n_volumes, window=window, stride=stride, policy=policy, tr=tr)
    return starts, facts


def describe_windows(
    starts: Sequence[int],
    n_volumes: int,
    *,
    window: int,
    stride: int,
    policy: ClipPolicy,
    tr: float,
) -> dict[str, Any]:
    """Say which volumes are in windows: the facts of `plan_windows`, of windows already planned.

    Examples
    --------
    >>> facts = describe_windows([0, 20, 30], 50, window=20, stride=20, policy="dense", tr=0.8)
    >>> facts["n_unused"], facts["n_overlap"]
    (0, 10)
    """
    times = np.zeros(n_volumes, dtype=int)
    for start in starts:
        times[start : start + window] += 1
    return {
        "clip_policy": policy,
        "n_windows": len(starts),
        "window": window,
        "stride": SPARSE * window if policy == "upstream-eval" else stride,
        "tr": tr,
        "n_unused": int((times == 0).sum()),
        "n_overlap": int((times > 1).sum()),
    }


def tile_windows(
    volumes: Iterable[NDArray[np.float32]], starts: Sequence[int], *, window: int
) -> Iterator[NDArray[np.float32]]:
    """Cut a stream of volumes into windows, holding no more than one window.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z) or (n,)
        The volumes of the series, or voxels of them, in their order; consumed once.
    starts : sequence of int
        First volume of each window, ascending.
    window : int
        Volumes in a window.

    Yields
    ------
    ndarray, shape (X, Y, Z, L) or (n, L), float32
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
