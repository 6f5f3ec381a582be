"""What is taken off the series of parcels: trends, slow and fast waves, confounds.

All of it happens in one step, with filters and regression orthogonal to each other; doing one
after the other would bring back what was taken off before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError, NoInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from neurostorm_app.models.card import Cleaning
    from neurostorm_app.pipelines.parcellate import Parcels

__all__ = ["clean_parcels", "degrees_of_freedom", "read_confounds"]

MIN_FREEDOM = 12
"""Below this the standard error of a Fisher z, 1 / sqrt(n - 3), is above one third."""
SAME_SIGNAL = 0.9
"""Correlation of the steps of two mean signals of one brain, made with masks that differ a little.

In a real run cut to 40 of 156 volumes it is 0.97 at the right row and at most 0.5 elsewhere.
"""
TABLE_MAX = 2**27
HEADER_MAX = 2**20
"""Bytes of a table and of its first line: 6000 volumes of 1000 confounds, names of 50,000."""
PADDED = 33
"""Volumes that ``scipy.signal.sosfiltfilt`` mirrors for a band-pass of order 5."""


def read_confounds(
    path: Path | None, columns: Sequence[str], *, signal: NDArray[np.float64]
) -> tuple[pd.DataFrame | None, list[str], int]:
    """Read the columns of a confounds table that a card asks for.

    Leading ``n/a``, as of a derivative in the first volume, take the value that follows them. A
    table that is longer than the series, because volumes were cut off after it was made, is used
    where its ``global_signal`` proves which rows are those of the series.

    Parameters
    ----------
    path : Path or None
        fMRIPrep's ``desc-confounds_timeseries.tsv``; None if the run has none.
    columns : sequence of str
        Wanted columns.
    signal : ndarray, shape (T,)
        Mean of the brain in each volume of the series, in any unit.

    Returns
    -------
    table : DataFrame or None
        The columns that are there, one row a volume; None if there are none.
    missing : list of str
        Wanted columns that the table lacks, or in which later rows are ``n/a``.
    first_row : int
        Row of the table that belongs to the first volume.

    Raises
    ------
    NoInputError
        If the table is named but not there.
    DataError
        If the table has not one row a volume, or a wanted column is not finite numbers.
    """
    if path is None or not columns:
        return None, list(columns), 0
    table = _read_table(path)
    first_row = 0 if len(table) == len(signal) else _find_rows(table, signal)
    if first_row is None:
        raise DataError(
            f"{path}: the confounds table has {len(table)} rows; the series has {len(signal)} "
            "volumes",
            fix="use the table of this very run, with as many rows as the series has volumes",
        )
    rows = table.iloc[first_row : first_row + len(signal)].reset_index(drop=True)
    wanted = rows[[name for name in columns if name in rows]]
    words = [name for name in wanted if wanted[name].dtype.kind not in "iuf"]
    if words:
        raise DataError(
            f"{path}: the confounds column {words[0]!r} holds something that is not a number",
            fix="write n/a where there is no value",
        )
    infinite = [name for name in wanted if np.isinf(wanted[name]).any()]
    if infinite:
        raise DataError(
            f"{path}: the confounds column {infinite[0]!r} holds an infinite number, which no "
            "regression can use",
            fix="write n/a where there is no value, or take the table as its program wrote it",
        )
    filled = wanted.bfill(limit_area="outside").dropna(axis="columns")
    missing = [name for name in columns if name not in filled]
    return (filled if len(filled.columns) else None), missing, first_row


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    _check_size(path)
    try:
        return pd.read_csv(path, sep="\t", na_values=["n/a"])
    except ValueError as error:
        raise DataError(
            f"{path}: cannot be read as a confounds table: {error}",
            fix="give the tab-separated table of fMRIPrep, with one row a volume",
        ) from error


def _check_size(path: Path) -> None:
    """Refuse what is too large for a table of confounds before any of it becomes numbers."""
    if not path.is_file():
        raise NoInputError(
            f"{path}: the confounds table is not there", fix="check the derivatives of this run"
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        header = len(file.readline(HEADER_MAX + 1))
    if size > TABLE_MAX or header > HEADER_MAX:
        raise DataError(
            f"{path} is too large for a table of confounds: {size} bytes, {header} or more in its "
            f"first line; expected {TABLE_MAX} and {HEADER_MAX} at most",
            fix="give the table of fMRIPrep, or one with the columns that are needed",
        )


def _find_rows(table: pd.DataFrame, signal: NDArray[np.float64]) -> int | None:
    """Find the rows whose global signal changes from volume to volume as the series does."""
    n_volumes = len(signal)
    if "global_signal" not in table or len(table) < n_volumes:
        return None
    steps = np.diff(table["global_signal"].to_numpy(dtype=np.float64))
    windows = np.lib.stride_tricks.sliding_window_view(steps, n_volumes - 1)
    likeness = [float(np.corrcoef(window, np.diff(signal))[0, 1]) for window in windows]
    best = int(np.argmax(likeness))
    return best if likeness[best] > SAME_SIGNAL else None


def clean_parcels(
    parcels: Parcels, confounds: pd.DataFrame | None, *, tr: float, cleaning: Cleaning
) -> tuple[Parcels, list[str]]:
    """Detrend, filter and regress out confounds, orthogonally to each other.

    Filtering is Butterworth (order 5, both directions) if the card names a low-pass frequency,
    and a regression of slow cosines if it names a high-pass only, as in fMRIPrep.

    Parameters
    ----------
    parcels : Parcels
        Mean series; missing parcels stay missing.
    confounds : DataFrame or None
        One row a volume; see `read_confounds`.
    tr : float
        Repetition time in seconds.
    cleaning : Cleaning
        What the card asks for.

    Returns
    -------
    parcels : Parcels
        Cleaned, with mean 0.
    notes : list of str
        What the card asks for and this series cannot have.

    References
    ----------
    Lindquist et al. (2019), Hum Brain Mapp 40:2358, on filters and regression in one step;
    ``nilearn.signal.clean``.
    """
    from nilearn.signal import clean

    n_volumes = parcels.series.shape[1]
    present = np.flatnonzero(np.isfinite(parcels.series).all(axis=1))
    band, notes = _fit_band(cleaning, tr, n_volumes)
    left = degrees_of_freedom(n_volumes, tr, band=band, confounds=confounds)
    if left < MIN_FREEDOM:
        notes.append(
            f"{n_volumes} volumes leave about {max(left, 0):.0f} degrees of freedom after "
            f"cleaning; at least {MIN_FREEDOM} were expected"
        )
    low, high = band
    # scipy pads a series at both ends before a Butterworth; a short one has less to mirror.
    short = {"butterworth__padlen": n_volumes - 1} if high and n_volumes <= PADDED else {}
    cleaned = clean(
        parcels.series[present].T,
        detrend=cleaning.detrend,
        standardize=None,
        confounds=None if confounds is None else confounds.to_numpy(dtype=np.float64),
        filter="butterworth" if high else "cosine" if low else False,
        t_r=tr,
        low_pass=high,
        high_pass=low,
        **short,
    )
    series = np.full_like(parcels.series, np.nan)
    series[present] = cleaned.T - cleaned.T.mean(axis=1, keepdims=True)
    return replace(parcels, series=series), notes


def degrees_of_freedom(
    n_volumes: int,
    tr: float,
    *,
    band: tuple[float | None, float | None],
    confounds: pd.DataFrame | None,
) -> float:
    """Estimate how many independent values a cleaned series has.

    A band of width b holds 2 b values a second; each confound takes one, and the mean one.

    Parameters
    ----------
    n_volumes : int
        Length of the series.
    tr : float
        Repetition time in seconds.
    band : tuple of float or None
        Lowest and highest frequency that pass, Hz.
    confounds : DataFrame or None
        What is regressed out.

    Returns
    -------
    float
        May be negative: then nothing is left.

    Examples
    --------
    >>> round(degrees_of_freedom(100, 2.0, band=(0.01, 0.11), confounds=None), 3)
    39.0
    """
    low, high = band
    n_confounds = 0 if confounds is None else confounds.shape[1]
    return 2 * n_volumes * tr * ((high or 0.5 / tr) - (low or 0.0)) - n_confounds - 1


def _fit_band(
    cleaning: Cleaning, tr: float, n_volumes: int
) -> tuple[tuple[float | None, float | None], list[str]]:
    """Leave out of a card's band what the series cannot hold; say so."""
    low, high, notes = cleaning.high_pass, cleaning.low_pass, []
    if high is not None and high >= 0.5 / tr:
        notes.append(f"no low-pass at {high:g} Hz: a repetition time of {tr:g} s ends below it")
        high = None
    if low is not None and n_volumes * tr * low < 1:
        notes.append(
            f"the run of {n_volumes * tr:g} s is shorter than one wave of the high-pass, "
            f"{1 / low:g} s"
        )
    return (low, high), notes
