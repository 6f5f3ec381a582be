"""From files to runs: echoes together, with reference, field map and what is to be known."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.inputs.entities import check_clashes, matches, parse_name
from neurostorm_app.bids_app.inputs.fieldmaps import (
    SUFFIXES,
    FieldmapGroup,
    choose_fieldmap,
    find_fieldmaps,
)
from neurostorm_app.bids_app.inputs.misnamed import name_misnamed, parse_image
from neurostorm_app.errors import AppError, DataError, NoInputError
from neurostorm_app.pipelines.header import (
    check_file,
    check_tr,
    read_series_header,
    tell_value,
)
from neurostorm_app.pipelines.stage import Fieldmap, Run, Scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.sidecars import Sidecars
    from neurostorm_app.bids_app.settings import Science
    from neurostorm_app.pipelines.header import SeriesHeader

__all__ = ["Files", "build_run", "name_of", "sort_files"]

log = logging.getLogger(__name__)

NO_T1W = (
    "NO T1w IMAGE: the BOLD reference was registered straight to the template, which is less "
    "accurate, and tissues are the template's"
)


@dataclass(slots=True, kw_only=True)
class Files:
    """The images of a participant, by what they are.

    Parameters
    ----------
    t1w : list of Path
        T1w images.
    bold : dict
        BOLD series of each selected run, by its name: one, or one an echo.
    sbref : dict
        Single-band references by the name of the file without its suffix.
    fmap, all_bold : list of Path
        Images of the folders ``fmap``; all BOLD series and references, selected or not.
    wrong : dict
        Errors of names that are not BIDS by what `name_misnamed` gives, and of runs that clash.
    """

    t1w: list[Path] = field(default_factory=list)
    bold: dict[str, list[Path]] = field(default_factory=dict)
    sbref: dict[str, Path] = field(default_factory=dict)
    fmap: list[Path] = field(default_factory=list)
    all_bold: list[Path] = field(default_factory=list)
    wrong: dict[str, AppError] = field(default_factory=dict)

    def fieldmaps(self, sidecars: Sidecars, *, numbered: bool) -> tuple[FieldmapGroup, ...]:
        """Group what tells of the field."""
        return find_fieldmaps(self.fmap, self.all_bold, sidecars, numbered=numbered)


def name_of(path: Path) -> str:
    """Take the name of an image without its suffix and extension."""
    return path.name.partition(".")[0].rpartition("_")[0]


def sort_files(files: Iterable[Path], filters: Mapping[str, Mapping[str, Any]]) -> Files:
    """Divide a participant's images by their names, and filter them.

    Parameters
    ----------
    files : iterable of Path
        All images of the participant.
    filters : mapping
        Filters of ``t1w``, ``bold``, ``sbref`` and ``fmap`` images.
    """
    found = Files()
    chosen: list[Path] = []
    for path in files:
        try:
            entities = parse_image(path)
        except DataError as error:
            found.wrong[name_misnamed(path)] = error
            continue
        suffix, magnitude = entities["suffix"], entities.get("part", "mag") == "mag"
        if suffix == "T1w" and matches(entities, filters["t1w"]):
            found.t1w.append(path)
        elif suffix in SUFFIXES and path.parent.name == "fmap":
            found.fmap += [path] if matches(entities, filters["fmap"]) else []
        elif suffix in {"bold", "sbref"} and magnitude:
            found.all_bold.append(path)
            if suffix == "sbref" and matches(entities, filters["sbref"]):
                found.sbref[name_of(path)] = path
            elif suffix == "bold" and matches(entities, filters["bold"]):
                chosen.append(path)
    clashes = check_clashes(chosen)
    found.wrong |= {name_of(path): error for path, error in clashes.items()}
    series = {name_of(path): path for path in chosen if path not in clashes}
    for name, path in series.items():
        alone = sum(_without_echo(other) == _without_echo(name) for other in series) == 1
        found.bold.setdefault(name if alone else _without_echo(name), []).append(path)
    return found


def _without_echo(name: str) -> str:
    return re.sub(r"_echo-[0-9]+", "", name)


def build_run(
    name: str,
    files: Files,
    *,
    sidecars: Sidecars,
    science: Science,
    groups: Sequence[FieldmapGroup],
    has_t1w: bool,
) -> Run:
    """Check a run and gather all that is known of it.

    Parameters
    ----------
    name : str
        Of the run.
    files : Files
        Images of its participant.
    sidecars : Sidecars
        Of the dataset.
    science : Science
        What is to be ignored, and where the run is to go.
    groups : sequence of FieldmapGroup
        Field maps of the participant.
    has_t1w : bool
        Whether there is an anatomy.

    Raises
    ------
    NoInputError
        If an image is not here, or T1w space is asked for without a T1w image.
    DataError
        If sidecars and headers cannot be true together.
    """
    headers = {path: read_series_header(path) for path in files.bold[name]}
    echoes = _echoes(name, headers, sidecars)
    first = echoes[0]
    tr = _repetition_time(first, headers[first.path])
    notes = [] if has_t1w else [_without_t1w(name, science)]
    sbref, said = _reference(first, files, sidecars, ignored="sbref" in science.ignore)
    notes += said
    fieldmap: Fieldmap | None = None
    if "fieldmaps" not in science.ignore:
        paths = [scan.path for scan in echoes]
        fieldmap, said_of_field = choose_fieldmap(paths, first.metadata, groups, sidecars.root)
        notes += said_of_field
    for scan in (*((sbref,) if sbref else ()), *(fieldmap.scans if fieldmap else ())):
        check_file(scan.path)
    for note in notes:
        log.warning("%s: %s", name, note)
    return Run(
        name=name,
        participant=parse_name(first.path)["sub"],
        bold=first.path,
        tr=tr,
        metadata=first.metadata,
        echoes=echoes if len(echoes) > 1 else (),
        sbref=sbref,
        fieldmap=fieldmap,
        notes=tuple(notes),
    )


def _echoes(
    name: str, headers: Mapping[Path, SeriesHeader], sidecars: Sidecars
) -> tuple[Scan, ...]:
    """Read the sidecars of a run's series, and sort them by echo time."""
    scans = [Scan(path=path, metadata=sidecars.read(path)) for path in sorted(headers)]
    shapes = {path: header.shape for path, header in headers.items()}
    if len(scans) == 1:
        return tuple(scans)
    for scan in scans:
        time = scan.metadata.get("EchoTime")
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0 < time < 1:
            raise DataError(
                f"{scan.path}: EchoTime is {tell_value(time)}; echoes are combined by it: expected "
                "seconds",
                fix="write it into the sidecar of each echo, in seconds",
            )
    times = [scan.metadata["EchoTime"] for scan in scans]
    if len(set(times)) < len(times):
        raise DataError(
            f"{name}: two echoes have one EchoTime: {times} s",
            fix="give each echo its own in its sidecar",
        )
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{path.name} {shape}" for path, shape in shapes.items())
        raise DataError(f"{name}: its echoes differ in shape: {told}", fix="convert the run again")
    return tuple(sorted(scans, key=lambda scan: float(scan.metadata["EchoTime"])))


def _repetition_time(scan: Scan, header: SeriesHeader) -> float:
    tr = check_tr(scan.metadata.get("RepetitionTime"), scan.path)
    if header.tr is not None and abs(header.tr - tr) > 0.01 * tr:
        raise DataError(
            f"{scan.path}: RepetitionTime is {tr:g} s in the sidecar and {header.tr:g} s in the "
            "header",
            fix="find out which is true and correct the other",
        )
    return tr


def _without_t1w(name: str, science: Science) -> str:
    """Say what it means that there is no T1w image, or refuse what cannot be made without."""
    if any(space.name == "T1w" for space in science.spaces):
        raise NoInputError(
            f"{name}: series in T1w space are asked for, and there is no T1w image",
            fix="add the T1w image, or leave T1w out of --output-spaces",
        )
    return NO_T1W


def _reference(
    first: Scan, files: Files, sidecars: Sidecars, *, ignored: bool
) -> tuple[Scan | None, list[str]]:
    """Find the single-band reference of a run, that of its first echo if there are several."""
    name = name_of(first.path)
    path = files.sbref.get(name) or files.sbref.get(_without_echo(name))
    if path is None:
        return None, []
    if ignored:
        return None, ["its single-band reference is not used, as asked"]
    return Scan(path=path, metadata=sidecars.read(path)), []
