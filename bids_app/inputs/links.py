"""From BIDS URIs to files: only into datasets that are here, and never out of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlparse

from neurostorm_app.bids_app.inputs.sidecars import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["follow_uri", "linked_datasets", "quoted", "unquoted"]


def quoted(path: str) -> str:
    r"""Write a path as part of a URI, byte by byte: it need not be UTF-8.

    Examples
    --------
    >>> quoted("a b/J\udcf6rg")
    'a%20b/J%F6rg'
    """
    return quote(path, errors="surrogateescape")


def unquoted(text: str) -> str:
    """Read a path that stands in a URI."""
    return unquote(text, errors="surrogateescape")


def linked_datasets(root: Path) -> dict[str, Path]:
    """Read where the datasets lie that an output folder was made from.

    Parameters
    ----------
    root : Path
        The output folder; with ``DatasetLinks`` in its description.

    Returns
    -------
    dict
        Folders by name, those that are on this machine; the empty name is the output itself.
    """
    path = root / "dataset_description.json"
    links = read_object(path).get("DatasetLinks", {}) if path.is_file() else {}
    found = {"": root}
    for name, link in links.items() if isinstance(links, dict) else ():
        url = urlparse(str(link))
        if url.path and url.scheme in {"", "file"}:
            folder = (root / unquoted(url.path)).resolve()
            if folder.is_dir():
                found[str(name)] = folder
    return found


def follow_uri(uri: str, links: Mapping[str, Path]) -> Path | None:
    """Turn a BIDS URI into a path; None if its dataset is not here or the path would leave it.

    Examples
    --------
    >>> follow_uri("bids:prep:sub-01/a%20b.tsv", {"prep": Path("/data")}).as_posix()
    '/data/sub-01/a b.tsv'
    >>> follow_uri("bids::../secret.tsv", {"": Path("/data")})
    """
    match = re.fullmatch(r"bids:([^:]*):(.+)", uri)
    if match is None or match[1] not in links:
        return None
    relative = Path(unquoted(match[2]))
    inside = not relative.is_absolute() and ".." not in relative.parts
    return links[match[1]] / relative if inside else None
