"""What the output tree holds of a participant: names are parsed here and nowhere else.

Only the output tree is read, and what its sidecars point to with ``Sources``. Pieces that are
missing are None or empty: a run from existing derivatives has no anatomy of ours, a failed run
has a report and little else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.inputs.links import follow_uri, linked_datasets
from neurostorm_app.bids_app.report.model_files import EmbeddingFiles, group_by_model
from neurostorm_app.bids_app.report.native_files import (
    NativeAnatomy,
    NativeFiles,
    find_native,
    find_native_anatomy,
)
from neurostorm_app.bids_app.report.reader import Reader, errors_of
from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Anatomy", "EmbeddingFiles", "Participant", "RunFiles", "read_participant"]

_SOURCE_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part")
_PREFERRED_SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Anatomical images in one standard space; each None if it is not there."""

    space: str
    res: str | None
    t1w: Path | None
    mask: Path | None
    dseg: Path | None


@dataclass(kw_only=True)
class RunFiles:
    """One run: its files, and the small ones' content.

    Parameters
    ----------
    name : str
        Such as ``sub-01_task-rest_run-1``.
    entities : dict
        BIDS entities of the name.
    space, res : str or None
        Standard space of the series.
    bold, mask, boldref, confounds : Path or None
        Images in that space, and the table of confounds.
    elsewhere : str or None
        BIDS address of the series if it lies in another derivative.
    sidecar, qc, report : dict
        Content of the series' sidecar and of the run's files under ``logs``.
    native : NativeFiles
        Images on the grid on which the run was acquired.
    embeddings : dict
        Label of a model to its files.
    """

    name: str
    entities: dict[str, str]
    space: str | None = None
    res: str | None = None
    bold: Path | None = None
    mask: Path | None = None
    boldref: Path | None = None
    confounds: Path | None = None
    elsewhere: str | None = None
    sidecar: dict[str, Any] = field(default_factory=dict)
    qc: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    native: NativeFiles = field(default_factory=NativeFiles)
    embeddings: dict[str, EmbeddingFiles] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The run in words, such as ``task rest, run 1``."""
        shown = [f"{k} {v}" for k, v in self.entities.items() if k != "sub"]
        return ", ".join(shown) or self.name

    @property
    def state(self) -> str:
        """``done`` or ``failed``, however many calls it took."""
        status = str(self.report.get("status", "not recorded"))
        return "done" if status == "reused" else status

    @property
    def errors(self) -> tuple[dict[str, str], ...]:
        """What went wrong, and what to do about it."""
        return errors_of(self.report)


@dataclass(kw_only=True)
class Participant:
    """All that the tree holds of one participant.

    Parameters
    ----------
    label : str
        Without ``sub-``.
    anatomy : list of Anatomy
        One for each standard space.
    runs : list of RunFiles
        In the order of their names.
    native : NativeAnatomy
        Tissues on the grid of the T1w image.
    qc : dict
        Quality of the anatomical part.
    methods : str
        Methods paragraph in Markdown; empty if there is none.
    problems : list of AppError
        Damaged small files, found while reading.
    """

    label: str
    anatomy: list[Anatomy]
    runs: list[RunFiles]
    native: NativeAnatomy
    qc: dict[str, Any]
    methods: str
    problems: list[AppError]


def read_participant(output_dir: Path, participant: str) -> Participant:
    """Find all that the output tree holds of a participant.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    participant : str
        Label without ``sub-``.
    """
    problems: list[AppError] = []
    folder = output_dir / f"sub-{participant}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    functional = [path for path in files if path.parent.name == "func"]
    logs = sorted((output_dir / "logs").glob(f"sub-{participant}_*_report.json"))
    names = {_source_name(path.name) for path in functional}
    names |= {path.name.removesuffix("_report.json") for path in logs}
    links = _linked(output_dir, problems)
    runs = [
        _read_run(name, functional, output_dir=output_dir, links=links, problems=problems)
        for name in sorted(names)
    ]
    methods = output_dir / "logs" / f"sub-{participant}_methods.md"
    anatomical = _anatomical_files(files, runs)
    return Participant(
        label=participant,
        anatomy=_read_anatomy(anatomical),
        runs=runs,
        native=find_native_anatomy(anatomical),
        qc=Reader(problems).quality(output_dir / "logs" / f"sub-{participant}_qc.json"),
        methods=methods.read_text(encoding="utf-8") if methods.is_file() else "",
        problems=problems,
    )


def _anatomical_files(files: list[Path], runs: list[RunFiles]) -> list[Path]:
    """List the anatomical files of the tree or, without any, those beside a derivative's runs."""
    here = [path for path in files if path.parent.name == "anat"]
    if here:
        return here
    beside = {run.bold.parent.parent / "anat" for run in runs if run.bold and run.elsewhere}
    return [path for folder in sorted(beside) for path in sorted(folder.glob("sub-*"))]


def _entities(name: str) -> dict[str, str]:
    """Split a file name into its entities, in their order."""
    pairs = (part.split("-", 1) for part in name.split(".", 1)[0].split("_") if "-" in part)
    return {pair[0]: pair[1] for pair in pairs}


def _source_name(name: str) -> str:
    entities = _entities(name)
    return "_".join(f"{k}-{v}" for k, v in entities.items() if k in _SOURCE_ENTITIES)


def _pick(files: Iterable[Path], pattern: str) -> Path | None:
    """Take the first file whose name matches from end to end of what follows the source."""
    return next((path for path in files if re.search(pattern, path.name)), None)


def _spaces(files: Iterable[Path], suffix: str) -> list[tuple[str, str | None]]:
    """List the standard spaces of files with a suffix, the preferred ones first."""
    found = {
        (entities["space"], entities.get("res"))
        for path in files
        if path.name.endswith(suffix) and "space" in (entities := _entities(path.name))
    }
    order = {space: i for i, space in enumerate(_PREFERRED_SPACES)}
    return sorted(found, key=lambda pair: (order.get(pair[0], len(order)), pair[0], pair[1] or ""))


def _read_anatomy(files: list[Path]) -> list[Anatomy]:
    found = []
    for space, res in _spaces(files, "_T1w.nii.gz"):
        mark = f"_space-{space}_" + (f"res-{res}_" if res else "")
        here = [path for path in files if mark in path.name and path.name.endswith(".nii.gz")]
        found.append(
            Anatomy(
                space=space,
                res=res,
                t1w=_pick(here, r"_desc-(preproc|brain)_T1w\.nii\.gz$"),
                mask=_pick(here, r"_desc-brain_mask\.nii\.gz$"),
                dseg=_pick(here, r"_dseg\.nii\.gz$"),
            )
        )
    return found


def _read_run(
    name: str,
    functional: list[Path],
    *,
    output_dir: Path,
    links: Mapping[str, Path],
    problems: list[AppError],
) -> RunFiles:
    read = Reader(problems)
    files = [path for path in functional if _source_name(path.name) == name]
    run = RunFiles(
        name=name,
        entities=_entities(name),
        qc=read.quality(output_dir / "logs" / f"{name}_qc.json"),
        report=read.report(output_dir / "logs" / f"{name}_report.json"),
        embeddings=group_by_model(
            files + sorted((output_dir / "logs").glob(f"{name}_*_reconstruction.json")), read.json
        ),
    )
    if not _spaces(files, "_desc-preproc_bold.nii.gz"):
        source = _source_of(run, links)
        if source is not None:
            files = sorted(path for path in source.parent.glob(f"{name}_*") if path.is_file())
    _fill_series(run, files, read)
    return run


def _fill_series(run: RunFiles, files: list[Path], read: Reader) -> None:
    """Note the images of the first standard space."""
    run.native = find_native(files)
    run.confounds = _pick(files, r"_desc-confounds_(timeseries|regressors)\.tsv$")
    spaces = _spaces(files, "_desc-preproc_bold.nii.gz") or _spaces(files, "_embedding.tsv")
    if not spaces:
        return
    run.space, run.res = spaces[0]
    mark = f"_space-{run.space}_" + (f"res-{run.res}_" if run.res else "")
    here = [path for path in files if mark in path.name]
    run.bold = _pick(here, r"_desc-preproc_bold\.nii(\.gz)?$")
    run.mask = _pick(here, r"_desc-brain_mask\.nii(\.gz)?$")
    run.boldref = _pick(here, r"_boldref\.nii(\.gz)?$")
    run.sidecar = read.json(_pick(here, r"_desc-preproc_bold\.json$"))


def _linked(output_dir: Path, problems: list[AppError]) -> dict[str, Path]:
    """Read where linked datasets lie; a damaged description is a problem of its own."""
    try:
        return linked_datasets(output_dir)
    except AppError as error:
        problems.append(error)
        return {"": output_dir}


def _source_of(run: RunFiles, links: Mapping[str, Path]) -> Path | None:
    """Follow the sidecar of an embedding to the series it was made from."""
    for embedding in run.embeddings.values():
        for source in embedding.sidecar.get("Sources", []):
            if not str(source).endswith(("_bold.nii.gz", "_bold.nii")):
                continue
            run.elsewhere = str(source)
            path = follow_uri(str(source), links)
            if path is not None and path.is_file():
                return path
    return None
