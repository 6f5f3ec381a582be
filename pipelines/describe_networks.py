"""Which network each parcel is of: the table beside a label image, or the names of columns.

A table has one row a parcel, as BIDS and TemplateFlow write it: ``index``, and a column that says
the network (``network``, or XCP-D's ``network_label``), or names that do, as those of Schaefer's
atlas (``7Networks_LH_Vis_1``).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import DataError, NoInputError, UsageError
from neurostorm_app.pipelines.describe_values import find_network

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Networks", "digest_networks", "find_table", "plain", "read_networks"]

STATED: Final = ("network", "network_label")
NAMED: Final = ("name", "label")
NONE: Final = frozenset({"", "n/a", "none", "nan"})
"""What a cell says of a parcel without a network, in small letters."""
_FIX = "give a table with the columns index and network, one row a parcel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The networks of an atlas.

    Parameters
    ----------
    path : Path or None
        The table; None where names of columns say it.
    by_index, by_name : mapping to str or None
        Network by the parcel's value in the label image, and by its name; None is no network.
    """

    path: Path | None
    by_index: Mapping[int, str | None]
    by_name: Mapping[str, str | None]

    def of_labels(self, labels: Iterable[int]) -> list[str | None]:
        """List the networks of parcels by their values in the label image."""
        return [self.by_index.get(int(label)) for label in labels]

    def of_columns(self, names: Sequence[str], labels: Iterable[int]) -> list[str | None]:
        """List the networks of the columns of a table by their names, else by their numbers."""
        if names and any(name in self.by_name for name in names):
            return [self.by_name.get(name) for name in names]
        return self.of_labels(labels)


def plain(name: str) -> str:
    """Write a name in letters and digits, as it can stand in the name of a number.

    Examples
    --------
    >>> plain("Default Mode (A)")
    'DefaultModeA'
    """
    return re.sub(r"[^0-9A-Za-z]", "", name)


def digest_networks(keys: Iterable[object], networks: Iterable[str | None]) -> str:
    """Hash which parcel is of which network, by which two parcellations are told apart."""
    pairs = sorted((str(key), name or "") for key, name in zip(keys, networks, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def find_table(image: Path) -> Path | None:
    """Find the table that belongs to a label image, in its folder.

    Parameters
    ----------
    image : Path
        Such as ``tpl-S_res-02_atlas-A_dseg.nii.gz``.

    Returns
    -------
    Path or None
        The table of its own name; else that which names the most of the image's entities and none
        that it has not, as ``tpl-S_atlas-A_dseg.tsv``.

    Raises
    ------
    UsageError
        If two are as near.
    """
    stem = image.name.partition(".")[0]
    own = image.with_name(f"{stem}.tsv")
    if own.is_file():
        return own
    parts = stem.split("_")
    near: dict[int, list[Path]] = {}
    for path in sorted(image.parent.glob(f"*_{parts[-1]}.tsv")):
        said = path.name.removesuffix(".tsv").split("_")
        if set(said) <= set(parts) and len(said) > 1:
            near.setdefault(len(said), []).append(path)
    best = near[max(near)] if near else []
    if len(best) > 1:
        raise UsageError(
            f"{image}: two tables may belong to it: {', '.join(path.name for path in best)}",
            fix=f"call the right one {own.name}",
        )
    return best[0] if best else None


def read_networks(path: Path) -> Networks:
    """Read the networks of an atlas.

    Parameters
    ----------
    path : Path
        A table; see the module.

    Returns
    -------
    Networks
        Names are of letters and digits.

    Raises
    ------
    NoInputError
        If there is no such file.
    DataError
        If it is no such table, or names no network.
    """
    if not path.is_file():
        raise NoInputError(f"{path}: there is no such table of parcels", fix=_FIX)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error) as why:
        raise DataError(f"{path}: no table of parcels can be read: {why}", fix=_FIX) from why
    by_index, by_name = _gather(path, rows)
    if len(found := {name for name in by_index.values() if name}) < 2:
        raise DataError(f"{path}: it names {len(found)} networks; expected two or more", fix=_FIX)
    return Networks(path=path, by_index=by_index, by_name=by_name)


def _gather(
    path: Path, rows: Sequence[Mapping[str, str | None]]
) -> tuple[dict[int, str | None], dict[str, str | None]]:
    """Gather the networks of the rows, by index and by name."""
    columns = list(rows[0]) if rows else []
    stated = next((name for name in STATED if name in columns), None)
    named = [name for name in NAMED if name in columns]
    if "index" not in columns or not (stated or named):
        raise DataError(
            f"{path}: its columns are {', '.join(map(str, columns)) or 'none'}; expected index and "
            f"one of {', '.join((*STATED, *NAMED))}",
            fix=_FIX,
        )
    by_index: dict[int, str | None] = {}
    by_name: dict[str, str | None] = {}
    spelt: dict[str, str] = {}
    for row in rows:
        cells = {key: cell or "" for key, cell in row.items() if isinstance(key, str)}
        network = _network(cells, stated, named)
        if network is not None and spelt.setdefault(plain(network), network) != network:
            raise DataError(
                f"{path}: the networks {spelt[plain(network)]} and {network} are one in letters "
                "and digits",
                fix="give them other names",
            )
        index = cells["index"].removesuffix(".0")
        if not index.isdecimal() or int(index) in by_index:
            raise DataError(
                f"{path}: the index {cells['index']!r} is there twice or no whole number", fix=_FIX
            )
        by_index[int(index)] = plain(network) if network else None
        by_name |= {cells[name]: by_index[int(index)] for name in named}
    return by_index, by_name


def _network(cells: Mapping[str, str], stated: str | None, named: Iterable[str]) -> str | None:
    """Read the network of a row."""
    if stated:
        said = cells[stated].strip()
        return None if said.lower() in NONE or not plain(said) else said
    found = (find_network(cells[name]) for name in named)
    return next((network for network in found if network), None)
