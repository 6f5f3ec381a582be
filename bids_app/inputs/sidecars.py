"""Metadata of raw files, with BIDS inheritance: the nearer sidecar wins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.errors import DataError, NoInputError
from neurostorm_app.pipelines.header import check_present

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["read_object", "read_sidecar"]

SIDECAR_MAX: Final = 2**24


def read_sidecar(path: Path, root: Path) -> dict[str, Any]:
    """Read the metadata of a file with BIDS inheritance: the nearer file wins.

    Raises
    ------
    DataError
        If a sidecar is not a JSON object.
    """
    entities = parse_name(path)
    folders = [folder for folder in (path, *path.parents) if folder.is_relative_to(root)][1:]
    metadata: dict[str, Any] = {}
    for folder in reversed(folders):
        candidates = sorted(folder.glob(f"*{entities['suffix']}.json"), key=lambda p: len(p.name))
        for candidate in candidates:
            if _applies(candidate, entities):
                metadata |= read_object(candidate)
    return metadata


def _applies(sidecar: Path, entities: Mapping[str, str]) -> bool:
    if sidecar.name.startswith("."):
        return False
    stem = sidecar.name.partition(".")[0]
    if stem == entities["suffix"]:
        return True
    try:
        of = parse_name(sidecar)
    except DataError:
        return False
    return of.items() <= entities.items()


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 16 MiB.

    Raises
    ------
    NoInputError
        If the file is a link to nothing, or may not be read.
    DataError
        If it is larger, no ordinary file, or holds anything else.
    """
    check_present(path)
    if not path.is_file():
        raise DataError(f"{path} is no ordinary file; expected a JSON object", fix="take it away")
    if (size := path.stat().st_size) > SIDECAR_MAX:
        raise DataError(
            f"{path} is larger than 16 MiB: {size} bytes", fix="a sidecar holds a few lines"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except PermissionError as error:
        raise NoInputError(
            f"{path}: this user may not read the sidecar", fix="ask for the permission to read it"
        ) from error
    except RecursionError as error:
        raise DataError(
            f"{path} nests lists or objects too deep to be a sidecar", fix="repair the file"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", fix="repair the file") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}; expected a JSON object", fix="repair it"
        )
    return content
