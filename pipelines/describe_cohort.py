"""A cohort that descriptions are compared with: made of those of its runs, and found again.

One run of each participant counts, so that nobody weighs more than others, and a spread is that
between people.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.describe_reference import (
    COLUMNS,
    KIND,
    LEAST,
    read_reference,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neurostorm_app.pipelines.describe_reference import Reference

__all__ = ["Member", "build_reference", "choose_reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A run of a cohort.

    Parameters
    ----------
    values : mapping of str to float
        The numbers that can be compared.
    digest : str
        By which the run is known again.
    """

    values: Mapping[str, float]
    digest: str


def build_reference(
    members: Mapping[str, Member], *, basis: Mapping[str, Any], pipeline: str
) -> tuple[str, dict[str, Any]]:
    """Make the table of a cohort from the numbers of its runs, and what is said of it.

    Parameters
    ----------
    members : mapping of str to Member
        One run of each participant.
    basis : mapping
        What all of them were made of.
    pipeline : str
        How the runs were prepared.

    Returns
    -------
    table : str
        Numbers that fewer than `LEAST` participants have, or that do not vary, are left out.
    about : dict
        For the JSON file beside it.

    Raises
    ------
    UsageError
        If there are too few participants.
    """
    if len(members) < LEAST:
        raise UsageError(
            f"a reference was asked for of {len(members)} participants; means and spreads that "
            f"others are compared with take {LEAST} or more",
            fix="describe more participants first, or compare none",
        )
    lines = ["\t".join(COLUMNS)]
    names = dict.fromkeys(name for one in members.values() for name in one.values)
    for name in names:
        has = [one.values[name] for one in members.values() if name in one.values]
        sd = float(np.std(has, ddof=1)) if len(has) >= LEAST else 0.0
        if sd > 0:
            lines.append(f"{name}\t{np.mean(has):.9g}\t{sd:.9g}\t{len(has)}")
    about = {
        "Kind": KIND,
        "Description": "Mean and standard deviation of descriptors over a cohort, one run a "
        "participant. A comparison means something for runs that were acquired and prepared alike.",
        "N": len(members),
        "Participants": list(members),
        "Pipeline": pipeline,
        "Basis": dict(basis),
        "Members": sorted(one.digest for one in members.values()),
        "descriptor": {"Description": "Name of the number"},
        "mean": {"Description": "Over the participants"},
        "sd": {"Description": "Standard deviation over the participants, with n - 1"},
        "n": {"Description": "Participants who have the number"},
    }
    return "\n".join(lines) + "\n", about


def choose_reference(given: Path, atlas: str) -> tuple[Path, Reference] | None:
    """Choose the reference of an atlas.

    Parameters
    ----------
    given : Path
        A table, or a folder of tables for one atlas each.
    atlas : str
        Its label.

    Returns
    -------
    path : Path
        The table.
    reference : Reference
        What it holds. None of both if it, or the folder, is of other atlases.

    Raises
    ------
    NoInputError, DataError
        If a table cannot be read.
    UsageError
        If a folder holds two of the atlas.
    """
    if not given.is_dir():
        found = read_reference(given)
        return (given, found) if found.basis.get("Atlas") == atlas else None
    paths = [path for path in sorted(given.glob("*.tsv")) if _atlas_of(path) == atlas]
    if len(paths) > 1:
        raise UsageError(
            f"{given}: holds two references of {atlas}: {', '.join(p.name for p in paths)}",
            fix="give the table itself",
        )
    return (paths[0], read_reference(paths[0])) if paths else None


def _atlas_of(path: Path) -> str | None:
    """Read of which atlas a table is; None if it is no reference."""
    beside = path.with_suffix(".json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8-sig"))
        return str(about["Basis"]["Atlas"]) if about["Kind"] == KIND else None
    except (OSError, ValueError, TypeError, KeyError):  # some other table lies there
        return None
