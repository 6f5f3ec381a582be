"""The files of a derivative by their names: listed once, opened never.

A name counts as PyBIDS and its users read it: pairs of key and label, a suffix, an extension.
A link to content that is not on this machine counts as no file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from neurostorm_app.bids_app.words.values import LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["File", "Folder", "Run", "Series", "find_runs", "list_folder", "split_name"]

SOURCE: Final = ("sub", "ses", "task", "acq", "ce", "trc", "rec", "dir", "run", "part")
"""Entities of the name of a run, in their order; ``echo`` makes no run of its own."""
MARKS: Final = frozenset({"bold", "boldref", "timeseries", "regressors", "xfm", "mask"})
DATATYPES: Final = ("anat", "func", "fmap")


@dataclass(frozen=True, slots=True)
class File:
    """A file and its name taken apart.

    Parameters
    ----------
    path : str
        Relative to the folder of the derivative.
    entities : mapping
        Labels by key.
    suffix, extension : str
        Such as ``bold`` and ``.nii.gz``.
    lost : bool
        Whether it is a link to content that is not here, or to nowhere.
    """

    path: str
    entities: Mapping[str, str]
    suffix: str
    extension: str
    lost: bool

    @property
    def name(self) -> str:
        """Name without folders."""
        return self.path.rpartition("/")[2]

    def has(self, **wanted: str | None) -> bool:
        """Tell whether entities have these labels; None: is without it."""
        return all(self.entities.get(key.rstrip("_")) == label for key, label in wanted.items())


@dataclass(frozen=True, slots=True)
class Series:
    """A preprocessed series, or the sidecar of one that is not there.

    Parameters
    ----------
    stem : str
        Path without ``_desc-preproc_bold`` and extension.
    entities : mapping
        Labels by key.
    images : mapping
        Files by extension, such as ``.nii.gz``.
    """

    stem: str
    entities: Mapping[str, str]
    images: Mapping[str, File]

    @property
    def space(self) -> str | None:
        """Label of its space; None for the grid of the scanner."""
        return self.entities.get("space")

    @property
    def path(self) -> str:
        """Path of the image that all tools take."""
        return f"{self.stem}_desc-preproc_bold.nii.gz"

    @property
    def image(self) -> File | None:
        """The image, where it is there."""
        found = self.images.get(".nii.gz")
        return None if found is None or found.lost else found


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a derivative.

    Parameters
    ----------
    name : str
        Entities of its source, such as ``sub-01_task-rest_run-1``.
    folder : str
        Of its files, relative to that of the derivative.
    entities : mapping
        Those of its name.
    series : tuple of Series
        In the order of their names.
    """

    name: str
    folder: str
    entities: Mapping[str, str]
    series: tuple[Series, ...]

    @property
    def participant(self) -> str:
        """Label without ``sub-``."""
        return self.entities["sub"]

    @property
    def stem(self) -> str:
        """Path of its files up to the entities that a derivative adds."""
        return f"{self.folder}/{self.name}"


@dataclass(eq=False)
class Folder:
    """All names of a derivative.

    Parameters
    ----------
    root : Path
        Absolute.
    files : dict
        Files by the path of their folder, which is relative to `root`.
    strange : list of str
        Paths whose names are not BIDS.
    """

    root: Path
    files: dict[str, list[File]] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)

    def of(self, datatype: str, participant: str | None = None) -> Iterator[File]:
        """Iterate over the files of a kind of data, of one participant or of all."""
        for files in self._by_kind.get((datatype, participant), ()):
            yield from files

    @cached_property
    def _by_kind(self) -> dict[tuple[str, str | None], list[list[File]]]:
        found: dict[tuple[str, str | None], list[list[File]]] = {}
        for place, files in self.files.items():
            first, _, kind = place.partition("/")
            kind = kind.rpartition("/")[2]
            for participant in (first.removeprefix("sub-"), None):
                found.setdefault((kind, participant), []).append(files)
        return found

    @cached_property
    def _names(self) -> dict[str, File]:
        return {file.path: file for files in self.files.values() for file in files}

    def find(self, path: str) -> File | None:
        """Find a file by its path; a link to nothing is none."""
        file = self._names.get(path)
        return None if file is None or file.lost else file

    def is_lost(self, path: str) -> bool:
        """Tell whether a path is a link to content that is not here."""
        return (file := self._names.get(path)) is not None and file.lost


def split_name(name: str) -> tuple[dict[str, str], str, str] | None:
    """Take a name apart: entities, suffix, extension; None if it is not BIDS.

    Examples
    --------
    >>> split_name("sub-01_space-T1w_boldref.nii.gz")
    ({'sub': '01', 'space': 'T1w'}, 'boldref', '.nii.gz')
    """
    stem, _, extension = name.partition(".")
    *pairs, suffix = stem.split("_")
    split = [pair.partition("-") for pair in pairs]
    labels = [part for key, _, label in split for part in (key, label)]
    if not pairs or not all(LABEL.fullmatch(part) for part in (*labels, suffix)):
        return None
    return {key: label for key, _, label in split}, suffix, f".{extension}" if extension else ""


def list_folder(root: Path, labels: Sequence[str] = ()) -> Folder:
    """List the files of participants, and those above them that hold metadata.

    Parameters
    ----------
    root : Path
        The derivative, with the ``sub-`` folders in it.
    labels : sequence of str
        Participants; all by default.

    Returns
    -------
    Folder
        Empty if there is no participant.
    """
    folder = Folder(root)
    _list(folder, "")
    for place in sorted(_folders(root)):
        label = place.removeprefix("sub-")
        if not place.startswith("sub-") or (labels and label not in labels):
            continue
        if not LABEL.fullmatch(label):
            folder.strange.append(place)
            continue
        _list(folder, place)
        inside = sorted(_folders(root / place))
        for session in ("", *(name for name in inside if name.startswith("ses-"))):
            if session:
                _list(folder, f"{place}/{session}")
            for kind in DATATYPES:
                _list(folder, "/".join(part for part in (place, session, kind) if part))
    return folder


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if _is(entry, "folder")]


def _is(entry: os.DirEntry[str], kind: Literal["folder", "file"]) -> bool:
    """Tell what an entry is; a link that leads round in a circle is neither."""
    try:
        return entry.is_dir() if kind == "folder" else entry.is_file()
    except OSError:
        return False


def _list(folder: Folder, place: str) -> None:
    """Take up the files of one folder, which need not exist."""
    path = folder.root / place
    if not path.is_dir():
        return
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if _is(entry, "folder") or entry.name.startswith("."):
                continue
            where = f"{place}/{entry.name}" if place else entry.name
            split = split_name(entry.name)
            if split is None and place.endswith(DATATYPES):
                folder.strange.append(where)
                continue
            stem, _, extension = entry.name.partition(".")
            split = split or ({}, stem.rpartition("_")[2], f".{extension}")
            found.append(File(where, *split, lost=not _is(entry, "file")))
    folder.files[place] = sorted(found, key=lambda file: file.path)


def find_runs(folder: Folder) -> list[Run]:
    """Find the runs: those with a series, a reference, a transform, a mask or confounds."""
    found: dict[tuple[str, str], dict[str, dict[str, File]]] = {}
    for place, files in folder.files.items():
        if not place.endswith("func"):
            continue
        for file in files:
            if file.suffix not in MARKS or not {"sub", "task"} <= file.entities.keys():
                continue
            if "echo" in file.entities:
                continue
            name = "_".join(f"{key}-{file.entities[key]}" for key in SOURCE if key in file.entities)
            series = found.setdefault((place, name), {})
            if file.suffix == "bold" and file.has(desc="preproc", hemi=None, den=None):
                stem = file.path.partition(".")[0].removesuffix("_desc-preproc_bold")
                series.setdefault(stem, {})[file.extension] = file
    return [_run(place, name, series) for (place, name), series in sorted(found.items())]


def _run(place: str, name: str, series: Mapping[str, Mapping[str, File]]) -> Run:
    entities = dict(pair.split("-", 1) for pair in name.split("_"))
    known = [
        Series(stem, next(iter(files.values())).entities, files) for stem, files in series.items()
    ]
    return Run(name, place, entities, tuple(sorted(known, key=lambda one: one.stem)))
