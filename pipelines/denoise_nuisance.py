"""What a strategy takes from a table of confounds: columns, and the volumes that are left out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError, NoInputError
from neurostorm_app.pipelines.clean import read_confounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.denoise_strategies import Strategy

    Flags = NDArray[np.bool_]
    MeanSignal = Callable[[], NDArray[np.float64]]

__all__ = ["Nuisance", "read_nuisance"]

FD, DVARS, STEADY = "framewise_displacement", "std_dvars", "non_steady_state"
OTHER = "choose a strategy that needs less, or make the table anew with all columns of fMRIPrep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuisance:
    """What is to be taken off a series.

    Parameters
    ----------
    columns : DataFrame or None
        Regressed out; one row a volume.
    kept : ndarray, shape (T,), bool
        Volumes that are not left out.
    outliers : mapping of str to ndarray, shape (T,), bool
        Why a volume is left out, by the column of the confounds table that says so, or
        ``short_segment``.
    first_row : int
        Row of the table that belongs to the first volume.
    notes : tuple of str
        What the strategy asks for and this table has less of.
    """

    columns: pd.DataFrame | None
    kept: Flags
    outliers: Mapping[str, Flags] = field(default_factory=dict)
    first_row: int = 0
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Columns that are regressed out."""
        return [] if self.columns is None else [str(name) for name in self.columns]


def read_nuisance(
    path: Path | None, strategy: Strategy, *, n_volumes: int, mean_signal: MeanSignal
) -> Nuisance:
    """Read what a strategy asks for; nilearn chooses columns and volumes.

    Parameters
    ----------
    path : Path or None
        fMRIPrep's ``desc-confounds_timeseries.tsv``, its JSON beside it; None if there is none.
    strategy : Strategy
        What is to be taken off.
    n_volumes : int
        Length of the series.
    mean_signal : callable
        Gives the mean of the brain in each volume, shape (T,); asked only if the table is not as
        long as the series, to find the rows that belong to it.

    Returns
    -------
    Nuisance
        Initial volumes that are not in steady state are left out whatever the strategy.

    Raises
    ------
    NoInputError
        If there is no table and the strategy needs one.
    DataError
        If the table lacks a column, has a gap in one, or is not that of the series.

    References
    ----------
    ``nilearn.interfaces.fmriprep.load_confounds``.
    """
    arguments = strategy.arguments()
    if path is None:
        if not arguments["strategy"]:
            return Nuisance(columns=None, kept=np.ones(n_volumes, dtype=bool))
        raise NoInputError(
            f"the run has no table of confounds; the strategy {strategy.name} takes columns of it",
            fix="give the table beside the series, or choose the strategy none",
        )
    header, n_rows = _read_shape(path)
    signal = np.zeros(n_volumes) if n_rows == n_volumes else mean_signal()
    outliers = _find_outliers(path, strategy, header, signal)
    names, censored = _ask_nilearn(path, strategy) if arguments["strategy"] else ([], [])
    columns, first_row = _read_columns(path, names, signal)
    kept = ~outliers[STEADY]
    rows = np.asarray(censored, dtype=np.int64) - first_row
    kept[rows[(rows >= 0) & (rows < n_volumes)]] = False
    if strategy.censoring is not None and strategy.censoring.segment:
        known = np.any(list(outliers.values()), axis=0)
        outliers["short_segment"] = ~kept & ~known
    return Nuisance(
        columns=columns,
        kept=kept,
        outliers=outliers,
        first_row=first_row,
        notes=tuple(_notes(strategy, names)),
    )


def _read_shape(path: Path) -> tuple[list[str], int]:
    """Read the names of the columns, and count the rows."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise NoInputError(
            f"{path}: the confounds table is not there", fix="check the derivatives of this run"
        ) from error
    header = lines[0].split("\t") if lines else []
    return header, max(len(lines) - 1, 0)


def _read_columns(
    path: Path, names: list[str], signal: NDArray[np.float64]
) -> tuple[pd.DataFrame | None, int]:
    table, missing, first_row = read_confounds(path, names, signal=signal)
    if missing:
        raise DataError(
            f"{path}: the strategy takes columns that the table lacks, or in which later rows are "
            f"n/a: {', '.join(missing)}",
            fix=OTHER,
        )
    return table, first_row


def _find_outliers(
    path: Path, strategy: Strategy, header: list[str], signal: NDArray[np.float64]
) -> dict[str, Flags]:
    """Flag volumes for each reason that a table gives."""
    rule = strategy.censoring
    found: dict[str, Flags] = {}
    limits = {} if rule is None else {FD: rule.fd, DVARS: rule.std_dvars}
    for name, limit in limits.items():
        if limit is None:
            continue
        table, first_row = _read_columns(path, [name], signal)
        if table is not None:
            found[name] = table[name].to_numpy() > limit
            # A difference to the volume before: that of the first was n/a and has been filled.
            found[name][0] &= first_row > 0
    table, _ = _read_columns(path, [name for name in header if STEADY in name], signal)
    none = np.zeros(len(signal), dtype=bool)
    steady = none if table is None else (table.to_numpy() != 0).any(axis=1)
    found[STEADY] = np.asarray(steady, dtype=bool)
    return found


def _ask_nilearn(path: Path, strategy: Strategy) -> tuple[list[str], NDArray[np.int64]]:
    """Let nilearn choose columns, and rows of the table that are left out."""
    import pandas as pd
    from nilearn.interfaces.fmriprep import load_confounds

    # nilearn goes by the name of the image; it does not open it.
    image = path.with_name(f"{path.name.partition('_desc-')[0]}_desc-preproc_bold.nii.gz")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all left out: counted later
            table, kept = load_confounds(str(image), demean=False, **strategy.arguments())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: does not hold what the strategy {strategy.name} takes: {error}", fix=OTHER
        ) from error
    columns = pd.DataFrame(table)
    names = [str(name) for name in columns]
    if not strategy.cosines:
        names = [name for name in names if not name.startswith("cosine")]
    rows = np.arange(len(columns))
    gone = np.setdiff1d(rows, rows if kept is None else kept)
    return names, gone.astype(np.int64)


def _notes(strategy: Strategy, names: list[str]) -> list[str]:
    notes = []
    if strategy.cosines and not any(name.startswith("cosine") for name in names):
        notes.append("no high-pass: the table of confounds has no cosines")
    n_found = sum("_comp_cor_" in name for name in names)
    if strategy.n_compcor is not None and n_found < 2 * strategy.n_compcor:
        notes.append(
            f"{n_found} components of CompCor instead of {2 * strategy.n_compcor}: the table has "
            "no more"
        )
    return notes
