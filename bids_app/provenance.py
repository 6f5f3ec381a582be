"""What was made from what: hashes, keys and records, and whether a result still holds.

A record stands in ``prov/`` for each unit of work. A unit is done again unless its key is
the same and each of its outputs is there and unchanged; so a rerun does nothing, and a
missing output brings back just the unit it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import platform
from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.derivatives import ORDER, Written, write_json
from neurostorm_app.bids_app.privacy import Rules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Ledger", "Stamp", "Unit", "key_of", "sha256_of", "versions"]

PACKAGES: Final = (
    "neurostorm-app",
    "antspyx",
    "deepbet",
    "faiss-cpu",
    "isal",
    "mapie",
    "nibabel",
    "nilearn",
    "nipype",
    "niworkflows",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "SimpleITK",
    "torch",
)
"""Packages whose version may change a number."""
UNREAD: Final = "not read"
"""Stands for the hash of a file that no record can match."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Content of a file, and what tells without reading that it has not changed.

    Parameters
    ----------
    sha256 : str
        Of the content.
    size : int
        Bytes.
    mtime : int
        Time of the last change in nanoseconds.
    """

    sha256: str
    size: int
    mtime: int

    @classmethod
    def of(cls, path: Path, known: Stamp | None = None) -> Stamp:
        """Stamp a file; one with the same size and time as `known` is not read again."""
        stat = path.stat()
        if known is not None and (known.size, known.mtime) == (stat.st_size, stat.st_mtime_ns):
            return known
        return cls(sha256_of(path), stat.st_size, stat.st_mtime_ns)

    def holds(self, path: Path) -> bool:
        """Tell whether a file is there with this content."""
        return path.is_file() and Stamp.of(path, self).sha256 == self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One piece of work that is done or taken as a whole.

    Parameters
    ----------
    name : str
        File name of its record without extension; unique in the output folder.
    kind : str
        ``anat``, ``bold``, ``denoised``, ``embedding``, ``report``, ``group``, and the like.
    about : mapping
        Participant, run and model, where they apply.
    settings : mapping
        What changes its numbers.
    inputs : mapping
        Hash of each input by its BIDS URI or role.
    """

    name: str
    kind: str
    about: Mapping[str, str]
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        """Hash of everything the result depends on, this app's version included."""
        return key_of([self.kind, dict(self.settings), dict(self.inputs), _app_version()])


@cache
def _app_version() -> str:
    """Read the version once: it is asked for with each key, and takes as long as a hash."""
    return version("neurostorm-app")


@dataclass(slots=True)
class Ledger:
    """The records of one output folder.

    Parameters
    ----------
    root : Path
        The output folder.
    rules : Rules
        What is hidden in records.
    planning : bool
        Whether nothing is going to be written, so that an input which no record can match need
        not be read.
    """

    root: Path
    rules: Rules = field(default_factory=Rules)
    planning: bool = False
    _stamps: dict[Path, Stamp] = field(default_factory=dict)
    _names: list[str] | None = None

    def path(self, name: str) -> Path:
        """Path of the record of a unit."""
        return self.root / "prov" / f"{name}.json"

    def read(self, name: str) -> dict[str, Any] | None:
        """Read the record of a unit; None if there is none that can be read."""
        try:
            content = json.loads(self.path(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        whole = isinstance(content, dict) and content.keys() >= {"key", "kind", "outputs"}
        return content if whole else None

    def holds(self, unit: Unit) -> bool:
        """Tell whether a unit has its results: the same key, all outputs there, unchanged."""
        record = self.read(unit.name)
        if record is None or record["key"] != unit.key:
            return False
        return all(
            Stamp(**stamp).holds(self.root / name) for name, stamp in record["outputs"].items()
        )

    def forget(self, name: str) -> None:
        """Remove the record of a unit, so that it is done again."""
        self.path(name).unlink(missing_ok=True)

    def hash_input(self, path: Path, unit_name: str, role: str) -> str:
        """Hash an input; one that has not changed since the record was written is not read."""
        if path not in self._stamps:
            record = self.read(unit_name) or {}
            known = record.get("stamps", {}).get(role)
            stamp = Stamp(**known) if known else None
            if self.planning and not self._can_match(path, unit_name, stamp):
                path.open("rb").close()  # what may not be read is told now
                return UNREAD
            self._stamps[path] = Stamp.of(path, stamp)
        return self._stamps[path].sha256

    def _can_match(self, path: Path, unit_name: str, known: Stamp | None) -> bool:
        """Tell whether a record may hold the hash of an input, or of a unit that rests on it."""
        if known is not None:
            return known.size == path.stat().st_size
        parts = unit_name.split("_")
        source = takewhile(lambda p: "-" in p and p.partition("-")[0] not in ORDER, parts)
        return self._has_records("_".join([*source, ""]))

    def _has_records(self, beginning: str) -> bool:
        """Tell whether there is any record whose name begins so; the folder is listed once."""
        if self._names is None:
            folder = self.root / "prov"
            found = folder.iterdir() if folder.is_dir() else ()
            self._names = sorted(path.name for path in found)
        first = bisect_left(self._names, beginning)
        return any(name.startswith(beginning) for name in self._names[first : first + 1])

    def output_hashes(self, name: str) -> dict[str, str]:
        """Hashes of the outputs of a unit by their path in the output folder."""
        record = self.read(name) or {"outputs": {}}
        return {path: stamp["sha256"] for path, stamp in record["outputs"].items()}

    def write(
        self,
        unit: Unit,
        outputs: Mapping[Path, str],
        *,
        stamps: Mapping[str, Path],
        measured: Mapping[str, Any],
    ) -> None:
        """Write the record of a unit that is done.

        Parameters
        ----------
        unit : Unit
            The unit.
        outputs : mapping
            SHA-256 by path.
        stamps : mapping
            Input files by role, so that they need not be read again.
        measured : mapping
            Start, seconds, peak memory and the like; no part of the key.
        """
        written = {
            str(path.relative_to(self.root)): _as_dict(path, sha256)
            for path, sha256 in sorted(outputs.items())
        }
        known = {
            role: vars_of(self._stamps[path])
            for role, path in stamps.items()
            if path in self._stamps
        }
        record = {
            "key": unit.key,
            "kind": unit.kind,
            **unit.about,
            "settings": dict(unit.settings),
            "inputs": dict(unit.inputs),
            "outputs": written,
            "stamps": known,
            **measured,
            "versions": versions(),
        }
        write_json(self.path(unit.name), self.rules.record(record), root=self.root)


def vars_of(stamp: Stamp) -> dict[str, Any]:
    """Bring a stamp to what JSON can hold."""
    return {"sha256": stamp.sha256, "size": stamp.size, "mtime": stamp.mtime}


def _as_dict(path: Path, sha256: str) -> dict[str, Any]:
    """Stamp an output, by what it was when it was written if that is known."""
    if isinstance(sha256, Written):
        return vars_of(Stamp(str(sha256), sha256.size, sha256.mtime))
    stat = path.stat()
    return vars_of(Stamp(sha256, stat.st_size, stat.st_mtime_ns))


def key_of(content: object) -> str:
    """Hash what JSON can hold; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hash the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """Return the time in UTC as ISO 8601 writes it, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose version may change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
