"""What descriptions are compared with: means and spreads of a cohort that the user gives.

None is shipped. A comparison means something where the cohort was scanned and prepared alike.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neurostorm_app.errors import DataError, NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["COLUMNS", "Reference", "format_reference", "read_reference", "word_z"]

COLUMNS = ("descriptor", "mean", "sd", "n", "pipeline")
"""Of the table: one row a number, tab-separated."""
SOME, FAR = 1.0, 2.0
"""Standard deviations beyond which words change."""
_FIX = "give a table with the columns " + ", ".join(COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Of a cohort.

    Parameters
    ----------
    values : mapping of str to pair of float
        Mean and standard deviation by the name of the number.
    n : int
        Runs that the smallest row was made of.
    pipeline : str
        How they were prepared, in the words of who made the table.
    sha256 : str
        Of the file.
    """

    values: Mapping[str, tuple[float, float]]
    n: int
    pipeline: str
    sha256: str

    def compare(self, found: Mapping[str, float]) -> dict[str, float]:
        """Give (value - mean) / sd of the numbers that the reference has.

        Raises
        ------
        DataError
            If it has none of them.
        """
        z = {
            name: (value - self.values[name][0]) / self.values[name][1]
            for name, value in found.items()
            if name in self.values
        }
        if not z:
            raise DataError(
                f"the reference has none of the numbers of this description: it has "
                f"{', '.join(sorted(self.values)[:3])}, expected such as {next(iter(found))}",
                fix="give a reference made of the same parcellation and networks",
            )
        return z


def read_reference(path: Path) -> Reference:
    """Read the table of a cohort.

    Parameters
    ----------
    path : Path
        Tab-separated, with the columns of `COLUMNS`.

    Returns
    -------
    Reference
        All spreads are above 0.

    Raises
    ------
    NoInputError
        If there is no such file.
    DataError
        If a column is missing, a row is there twice, or a number makes no sense.
    """
    if not path.is_file():
        raise NoInputError(f"{path}: there is no such reference table", fix=_FIX)
    raw = path.read_bytes()
    try:
        table = pd.read_csv(io.BytesIO(raw), sep="\t", dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as why:
        raise DataError(f"{path}: no table of a reference can be read: {why}", fix=_FIX) from why
    missing = [name for name in COLUMNS if name not in table]
    if missing or table.empty:
        raise DataError(
            f"{path}: the reference lacks {', '.join(missing) or 'rows'}; its columns are "
            f"{', '.join(map(str, table.columns))}",
            fix=_FIX,
        )
    names, pipelines = table["descriptor"].tolist(), set(table["pipeline"])
    if len(set(names)) < len(names) or len(pipelines) > 1:
        raise DataError(
            f"{path}: a descriptor is there twice, or the rows are of {len(pipelines)} pipelines; "
            "expected each once, and one pipeline",
            fix="give one reference for each pipeline",
        )
    numbers = table[["mean", "sd", "n"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    for name, (mean, sd, n) in zip(names, numbers, strict=True):
        if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0 and n >= 2):
            raise DataError(
                f"{path}: {name} has the mean {mean:g}, the sd {sd:g} and n {n:g}; expected finite "
                "numbers, an sd above 0 and two runs or more",
                fix="leave the row out, or make the reference of more runs",
            )
    return Reference(
        values={name: (row[0], row[1]) for name, row in zip(names, numbers, strict=True)},
        n=int(numbers[:, 2].min()),
        pipeline=pipelines.pop(),
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def format_reference(found: Sequence[Mapping[str, float]], *, pipeline: str) -> str:
    """Make the table of a cohort from the numbers of its runs.

    Parameters
    ----------
    found : sequence of mapping of str to float
        Numbers of each run, one run a person.
    pipeline : str
        How they were prepared.

    Returns
    -------
    str
        What `read_reference` reads. Numbers that some run lacks, or that do not vary, are left out.

    Raises
    ------
    UsageError
        If there are fewer than two runs.
    """
    if len(found) < 2:
        raise UsageError(
            f"a reference was asked for of {len(found)} runs; a spread takes two or more",
            fix="describe more runs first",
        )
    lines = ["\t".join(COLUMNS)]
    for name in found[0]:
        if not all(name in one for one in found):
            continue
        values = np.array([one[name] for one in found])
        sd = float(values.std(ddof=1))
        if sd > 0:
            lines.append(f"{name}\t{values.mean():.9g}\t{sd:.9g}\t{len(values)}\t{pipeline}")
    return "\n".join(lines) + "\n"


def word_z(z: float) -> str:
    """Put a distance from a reference into words; the words are fMRI-LM's.

    Examples
    --------
    >>> word_z(1.5), word_z(-0.2)
    ('somewhat elevated (z=+1.50)', 'within typical range (z=-0.20)')
    """
    if abs(z) <= SOME:
        words = "within typical range"
    elif abs(z) <= FAR:
        words = "somewhat elevated" if z > 0 else "somewhat reduced"
    else:
        words = "markedly elevated" if z > 0 else "markedly lower than average"
    return f"{words} (z={z:+.2f})"
