"""Metadata of raw files, with BIDS inheritance: the nearer sidecar wins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.errors import DataError, NoInputError
from neurostorm_app.pipelines.header import check_present

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Sidecars", "read_object", "read_sidecar"]

SIDECAR_MAX: Final = 2**24


@dataclass(frozen=True)
class Sidecars:
    """The sidecars of a dataset; its top folder, which may be large, is listed once.

    Parameters
    ----------
    root : Path
        The dataset.
    """

    root: Path

    def read(self, path: Path) -> dict[str, Any]:
        """Read the metadata of a file with BIDS inheritance: the nearer file wins.

        Raises
        ------
        NoInputError
            If a folder on the way may not be listed, or a sidecar may not be read.
        DataError
            If a sidecar is not a JSON object.
        """
        entities = parse_name(path)
        ending = f"{entities['suffix']}.json"
        folders = [folder for folder in path.parents if folder.is_relative_to(self.root)]
        metadata: dict[str, Any] = {}
        for folder in reversed(folders):
            listed = self._top if folder == self.root else _list_json(folder)
            candidates = [name for name in listed if name.endswith(ending)]
            for name in sorted(candidates, key=len):
                if _applies(folder / name, entities):
                    metadata |= read_object(folder / name)
        return metadata

    @cached_property
    def _top(self) -> list[str]:
        return _list_json(self.root)


def _list_json(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".json"))


def read_sidecar(path: Path, root: Path) -> dict[str, Any]:
    """Read the metadata of one file of a dataset, as `Sidecars.read` does."""
    return Sidecars(root).read(path)


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
