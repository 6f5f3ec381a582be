"""Numbers that describe the connectivity of a run by networks of parcels; no weights, no chance.

References
----------
fMRI-LM, arXiv 2511.21760 (which numbers); Yeo et al. (2011), J. Neurophysiol. 106:1125 (networks).
"""

from __future__ import annotations

import re
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from scipy import signal

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.describe_graph import (
    clustering,
    keep_strongest,
    measure_efficiency,
    modularity,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "average_pairs",
    "find_network",
    "measure_components",
    "measure_gradients",
    "measure_graph",
]

SLOW, FAST = (0.01, 0.1), (0.1, 0.25)
"""Bands, Hz, whose powers are compared; where they meet belongs to the slow one."""
PIECE = 256
"""Volumes of a piece of Welch's spectrum, at most."""
FAR = 3.0
"""Standard deviations beyond which a volume is an outlier of its component."""
_NAME = re.compile(r"(?:^|_)(?:7|17)Networks_[LR]H_([A-Za-z]+)")


def find_network(name: str) -> str | None:
    """Read the network from the name of a parcel of the Schaefer atlas.

    Examples
    --------
    >>> find_network("7Networks_LH_SalVentAttn_Med_1"), find_network("HIP-head-m1-rh")
    ('SalVentAttn', None)
    """
    found = _NAME.search(name)
    return found.group(1) if found else None


def average_pairs(fc: NDArray[np.float64], networks: Sequence[str]) -> dict[str, float]:
    """Average correlations within networks and between each two, a parcel with itself left out.

    Parameters
    ----------
    fc : ndarray, shape (V, V)
        Correlations.
    networks : sequence of str
        Of each parcel.

    Returns
    -------
    dict of str to float
        By the name of the pair, such as ``Cont-Default``; in alphabetical order.

    Raises
    ------
    DataError
        If a network has one parcel only: there is nothing within it.
    """
    rows = _rows(networks)
    lone = [name for name, own in rows.items() if len(own) < 2]
    if lone:
        raise DataError(
            f"the networks {', '.join(lone)} have one parcel each; correlations within them were "
            "expected, of two or more",
            fix="leave their parcels out, or give a finer parcellation",
        )
    found = {}
    for first, second in combinations_with_replacement(rows, 2):
        block = fc[np.ix_(rows[first], rows[second])]
        if first == second:
            block = block[~np.eye(len(block), dtype=bool)]
        found[f"{first}-{second}"] = float(block.mean())
    return found


def measure_graph(fc: NDArray[np.float64], networks: Sequence[str]) -> dict[str, float]:
    """Measure the graph of the tenth of correlations that is strongest, whatever their sign.

    Parameters
    ----------
    fc : ndarray, shape (V, V)
        Correlations.
    networks : sequence of str
        Of each parcel.

    Returns
    -------
    dict of str to float
        ``global_efficiency``, ``modularity``, ``avg_clustering``, and ``strength_<network>``: the
        mean over its parcels of the sum of their correlations that are in the graph.
    """
    weights = keep_strongest(fc)
    strength = weights.sum(axis=1)
    return {
        "global_efficiency": measure_efficiency(weights),
        "modularity": modularity(weights),
        "avg_clustering": clustering(weights),
        **{
            f"strength_{name}": float(strength[own].mean()) for name, own in _rows(networks).items()
        },
    }


def measure_gradients(
    gradients: NDArray[np.float64],
    networks: Sequence[str],
    *,
    ranges: Sequence[tuple[float, float]] | None = None,
) -> dict[str, float]:
    """Measure how far gradients reach, and where networks lie on them.

    Parameters
    ----------
    gradients : ndarray, shape (V, n)
        Of parcels.
    networks : sequence of str
        Of each parcel.
    ranges : sequence of pair of float, optional
        Mean and standard deviation of the range of each gradient in a reference.

    Returns
    -------
    dict of str to float
        For each gradient its ``range``, ``var``, with a reference ``range_z``, and the mean of
        each network.
    """
    found: dict[str, float] = {}
    rows = _rows(networks)
    for i, values in enumerate(gradients.T):
        name = f"gradient{i + 1}"
        reach = float(np.ptp(values))
        found |= {f"{name}_range": reach, f"{name}_var": float(values.var())}
        if ranges is not None:
            mean, sd = ranges[i]
            found[f"{name}_range_z"] = (reach - mean) / sd
        found |= {f"{name}_{key}_mean": float(values[own].mean()) for key, own in rows.items()}
    return found


def measure_components(series: NDArray[np.float64], *, tr: float) -> dict[str, NDArray[np.float64]]:
    """Measure the time courses of components, such as those of an independent component analysis.

    Parameters
    ----------
    series : ndarray, shape (C, T)
        Time courses; their linear trend is taken off.
    tr : float
        Repetition time, s.

    Returns
    -------
    dict of str to ndarray, shape (C,)
        Mean absolute amplitude; standard deviation; power of 0.01 to 0.1 Hz over that of 0.1 to
        0.25 Hz; correlation with itself one volume later; share of volumes beyond three standard
        deviations. A course that does not vary has 0.
    """
    flat = signal.detrend(series, axis=1)
    sd = flat.std(axis=1)
    unit = np.where(sd > 0, sd, np.inf)
    frequency, power = signal.welch(flat, fs=1 / tr, nperseg=min(PIECE, flat.shape[1]))
    slow = power[:, (frequency >= SLOW[0]) & (frequency <= SLOW[1])].sum(axis=1)
    fast = power[:, (frequency > FAST[0]) & (frequency <= FAST[1])].sum(axis=1)
    later = (flat[:, 1:] * flat[:, :-1]).mean(axis=1) / unit**2
    return {
        "abs_mean_amp": np.abs(flat).mean(axis=1),
        "temp_sd": sd,
        "spectral_ratio": np.where(fast > 0, slow / np.where(fast > 0, fast, 1.0), 0.0),
        "autocorr_lag1": later,
        "outlier_freq": (np.abs(flat) > FAR * unit[:, None]).mean(axis=1),
    }


def _rows(networks: Iterable[str]) -> dict[str, list[int]]:
    """List the parcels of each network, in alphabetical order of the networks."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(networks):
        found.setdefault(name, []).append(i)
    return dict(sorted(found.items()))
