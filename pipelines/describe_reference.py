"""What descriptions are compared with: means and spreads of a cohort that the user gives.

None is shipped. A comparison means something where the cohort was scanned and prepared alike, so
a reference says of whom and of what it was made, and what was made otherwise is not compared.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import DataError, NoInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "COLUMNS",
    "KIND",
    "LEAST",
    "Reference",
    "name_differing",
    "read_reference",
    "word_z",
]

COLUMNS = ("descriptor", "mean", "sd", "n")
"""Of the table: one row a number, tab-separated."""
LEAST = 20
"""Participants below which there is no reference: of 20, a spread is known to 16 %."""
SOME, FAR = 1.0, 2.0
"""Standard deviations beyond which words change."""
KIND = "reference of descriptors"
"""What the JSON file of a table says it is."""
_FIX = "make it with neurostorm-tools describe-reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Of a cohort.

    Parameters
    ----------
    values : mapping of str to pair of float
        Mean and standard deviation by the name of the number.
    participants : tuple of str
        Who is in it, one run each.
    basis : mapping
        What the numbers were made of: parcels, networks, cleaning.
    pipeline : str
        How the runs were prepared, in the words of who made the table.
    members : frozenset of str
        Digests of its runs.
    sha256 : str
        Of the table.
    """

    values: Mapping[str, tuple[float, float]]
    participants: tuple[str, ...]
    basis: Mapping[str, Any]
    pipeline: str
    sha256: str
    members: frozenset[str] = field(default_factory=frozenset)

    @property
    def n(self) -> int:
        """Participants."""
        return len(self.participants)

    def as_dict(self) -> dict[str, Any]:
        """Say what it is, for the description of a run; who is in it stands in its own file."""
        return {"Pipeline": self.pipeline, "N": self.n, "SHA256": self.sha256}

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
    """Read the table of a cohort, and the JSON file beside it.

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
        If there is no such file, or none beside it.
    DataError
        If a file is something else, or a number makes no sense.
    """
    beside = path.with_suffix(".json")
    for file, what in ((path, "reference table"), (beside, "file that says of whom it was made")):
        if not file.is_file():
            raise NoInputError(f"{file}: there is no such {what}", fix=_FIX)
    raw = path.read_bytes()
    values = _read_rows(path, raw)
    try:
        about = json.loads(beside.read_text(encoding="utf-8-sig"))
        people, basis = tuple(map(str, about["Participants"])), dict(about["Basis"])
        members = frozenset(map(str, about["Members"]))
        pipeline = str(about["Pipeline"])
    except (ValueError, TypeError, KeyError) as why:
        raise DataError(
            f"{beside}: does not say of whom and of what the reference was made: "
            f"{type(why).__name__} {why}",
            fix=_FIX,
        ) from why
    if len(set(people)) < LEAST:
        raise DataError(
            f"{beside}: names {len(set(people))} participants; a reference takes {LEAST} or more",
            fix=_FIX,
        )
    return Reference(
        values=values,
        participants=people,
        basis=basis,
        pipeline=pipeline,
        sha256=hashlib.sha256(raw).hexdigest(),
        members=members,
    )


def _read_rows(path: Path, raw: bytes) -> dict[str, tuple[float, float]]:
    import pandas as pd

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
    names = table["descriptor"].tolist()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: {twice} is there twice; expected each number once", fix=_FIX)
    numbers = table[["mean", "sd", "n"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    for name, (mean, sd, n) in zip(names, numbers, strict=True):
        if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0 and n >= LEAST):
            raise DataError(
                f"{path}: {name} has the mean {mean:g}, the sd {sd:g} and n {n:g}; expected finite "
                f"numbers, an sd above 0 and {LEAST} participants or more",
                fix=_FIX,
            )
    return {name: (row[0], row[1]) for name, row in zip(names, numbers, strict=True)}


def name_differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Name what two descriptions were made of otherwise; empty if of the same.

    Parameters
    ----------
    one, other : mapping
        What each was made of; values are JSON's.

    Returns
    -------
    str
        Keys, by commas.

    Examples
    --------
    >>> name_differing({"Atlas": "A", "Confounds": ["csf"]}, {"Atlas": "A", "Confounds": []})
    'Confounds'
    """
    return ", ".join(key for key in sorted({*one, *other}) if one.get(key) != other.get(key))


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
