"""From BIDS addresses to files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["resolve"]


def resolve(uri: str, output_dir: Path, links: Mapping[str, str]) -> Path | None:
    """Turn a BIDS address into a path; None if its dataset is not known.

    Parameters
    ----------
    uri : str
        Such as ``bids:raw:sub-01/func/x_bold.nii.gz``.
    output_dir : Path
        The dataset that has no name in an address.
    links : mapping
        Datasets by their name, as ``DatasetLinks`` has them.

    Examples
    --------
    >>> from pathlib import Path
    >>> str(resolve("bids::sub-01/anat/a%20b.nii", Path("/out"), {}))
    '/out/sub-01/anat/a b.nii'
    """
    match = re.fullmatch(r"bids:([^:]*):(.+)", uri)
    if match is None:
        return None
    if not match[1]:
        return output_dir / unquote(match[2])
    link = urlparse(str(links.get(match[1], "")))
    if not link.path or link.scheme not in ("", "file"):
        return None
    return output_dir / unquote(link.path) / unquote(match[2])
