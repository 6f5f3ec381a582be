"""Which field map belongs to which run: by name, by intention, or by nearness.

A run says with ``B0FieldSource`` which field it was acquired in, and images say with
``B0FieldIdentifier`` which field they tell; that goes before ``IntendedFor``, which names runs in
the sidecar of the field map. A field map that names nobody stands for its session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.inputs.fieldmap_labels import Labels
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.header import tell_value
from neurostorm_app.pipelines.stage import Fieldmap, Scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.sidecars import Sidecars

__all__ = ["SUFFIXES", "FieldmapGroup", "choose_fieldmap", "find_fieldmaps"]

Kind = Literal["pepolar", "phasediff", "phases", "direct"]

MAGNITUDES: Final = ("magnitude1", "magnitude2", "magnitude")
SUFFIXES: Final = ("epi", "phasediff", "phase1", "phase2", "fieldmap", *MAGNITUDES)
"""Suffixes of the folder ``fmap``."""
EPIS: Final = ("epi", "sbref", "bold")
URI: Final = re.compile(r"bids:[^:]*:")
CLOCK: Final = re.compile(r"(?:.*T)?(\d{1,2}):(\d{2}):(\d{2}(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldmapGroup:
    """A field map of a participant, before it is known which runs it serves.

    Parameters
    ----------
    fieldmap : Fieldmap
        Its images.
    identifier : str or None
        Its ``B0FieldIdentifier``.
    intended : frozenset of str
        Runs that it names, by their path in the dataset.
    session : str or None
        Label of its session.
    missing : str
        What it lacks to be of use; empty if it lacks nothing.
    """

    fieldmap: Fieldmap
    identifier: str | None = None
    intended: frozenset[str] = frozenset()
    session: str | None = None
    missing: str = ""


def find_fieldmaps(
    fmap: Iterable[Path], others: Iterable[Path], sidecars: Sidecars, *, numbered: bool = False
) -> tuple[FieldmapGroup, ...]:
    """Group the images of a participant that tell of the field.

    Parameters
    ----------
    fmap : iterable of Path
        Images of the folders ``fmap``.
    others : iterable of Path
        BOLD series and their single-band references, all of the participant: what a field map is
        made of does not depend on the selection of runs.
    sidecars : Sidecars
        Of the dataset.
    numbered : bool
        Name all field maps by numbers, whatever their identifiers are.

    Returns
    -------
    tuple of FieldmapGroup
        Those with an identifier first, both in the order of their names.
    """
    broken: dict[Path, str] = {}
    scans = {path: _read(path, sidecars, broken) for path in sorted(fmap)}
    epis = {path: _read(path, sidecars, broken) for path in sorted(others)}
    labels = Labels(numbered=numbered)
    named: dict[str, list[Scan]] = {}
    for scan in [*scans.values(), *epis.values()]:
        for identifier in _words(scan.metadata.get("B0FieldIdentifier")):
            named.setdefault(identifier, []).append(scan)
    groups = []
    for identifier, members in sorted(named.items()):
        whole = [*members, *_magnitudes_of(members, scans.values())]
        label = labels.of(identifier, members[0].path)
        groups.append(_group(label, whole, broken, identifier=identifier))
    taken = {scan.path for group in groups for scan in group.fieldmap.scans}
    rest = [scan for scan in scans.values() if scan.path not in taken]
    for members in _by_name(rest):
        group = _group(labels.next(), members, broken)
        groups.append(_with_opposite(group, epis.values(), sidecars.root))
    return tuple(groups)


def _read(path: Path, sidecars: Sidecars, broken: dict[Path, str]) -> Scan:
    """Read the sidecar of an image; one that is broken is noted, and its own run fails by it."""
    try:
        return Scan(path=path, metadata=sidecars.read(path))
    except AppError as error:
        broken[path] = error.what
        return Scan(path=path)


def _words(value: object) -> list[str]:
    """Bring a string or a list of strings to a list."""
    values = value if isinstance(value, list) else [value]
    return [word for word in values if isinstance(word, str) and word]


def _suffix(scan: Scan) -> str:
    return parse_name(scan.path)["suffix"]


def _key(path: Path, *without: str) -> tuple[tuple[str, str], ...]:
    """Take of a name what the images of one field map have in common."""
    entities = parse_name(path)
    return tuple((k, v) for k, v in entities.items() if k not in {"suffix", *without})


def _magnitudes_of(members: Sequence[Scan], scans: Iterable[Scan]) -> list[Scan]:
    """Find the magnitude images beside phases: they seldom have a sidecar of their own."""
    paths = {scan.path for scan in members}
    keys = {_key(scan.path) for scan in members if _suffix(scan) not in EPIS}
    return [
        scan
        for scan in scans
        if _suffix(scan) in MAGNITUDES and scan.path not in paths and _key(scan.path) in keys
    ]


def _by_name(scans: Sequence[Scan]) -> Iterator[list[Scan]]:
    """Group images by their names: EPIs differ by ``dir``, other images by suffix alone."""
    groups: dict[tuple[object, ...], list[Scan]] = {}
    for scan in scans:
        epi = _suffix(scan) == "epi"
        key = (epi, scan.path.parent, _key(scan.path, "dir") if epi else _key(scan.path))
        groups.setdefault(key, []).append(scan)
    for members in groups.values():
        if any(_suffix(scan) not in MAGNITUDES for scan in members):
            yield members


def _group(
    label: str,
    members: Sequence[Scan],
    broken: Mapping[Path, str],
    *,
    identifier: str | None = None,
) -> FieldmapGroup:
    """Tell the kind of a field map from what is there, and whether that is enough."""
    by_suffix: dict[str, list[Scan]] = {}
    for scan in members:
        by_suffix.setdefault(_suffix(scan), []).append(scan)
    magnitudes = [scan for suffix in MAGNITUDES for scan in by_suffix.get(suffix, ())]
    kind: Kind
    if "phasediff" in by_suffix:
        kind, scans = "phasediff", [by_suffix["phasediff"][0], *magnitudes[:2]]
    elif "phase1" in by_suffix and "phase2" in by_suffix:
        first, second = by_suffix["phase1"][0], by_suffix["phase2"][0]
        kind, scans = "phases", [first, second, *magnitudes[:2]]
    elif "fieldmap" in by_suffix:
        kind, scans = "direct", [by_suffix["fieldmap"][0], *magnitudes[:1]]
    else:
        kind, scans = "pepolar", [scan for name in EPIS for scan in by_suffix.get(name, ())]
    missing = next((broken[scan.path] for scan in scans if scan.path in broken), "")
    if kind != "pepolar" and not magnitudes:
        missing = "it has no magnitude image"
    elif not scans:
        missing = f"it has only {', '.join(sorted(by_suffix))}"
    intended = frozenset(
        path for scan in scans for path in _intended(scan, parse_name(scan.path)["sub"])
    )
    return FieldmapGroup(
        fieldmap=Fieldmap(name=label, kind=kind, scans=tuple(scans)),
        identifier=identifier,
        intended=intended,
        session=parse_name(members[0].path).get("ses"),
        missing=missing,
    )


def _intended(scan: Scan, participant: str) -> Iterator[str]:
    """Bring ``IntendedFor`` to paths in the dataset; it may be a BIDS URI or leave out the top."""
    for word in _words(scan.metadata.get("IntendedFor")):
        path = URI.sub("", word).lstrip("/")
        yield path if path.startswith(f"sub-{participant}/") else f"sub-{participant}/{path}"


def _directions(scans: Iterable[Scan]) -> set[str]:
    return {str(d) for scan in scans if (d := scan.metadata.get("PhaseEncodingDirection"))}


def _with_opposite(group: FieldmapGroup, epis: Iterable[Scan], root: Path) -> FieldmapGroup:
    """Complete EPIs of one phase encoding by a run, or its reference, of the opposite one."""
    have = _directions(group.fieldmap.scans)
    if group.fieldmap.kind != "pepolar" or group.missing or len(have) != 1:
        return group
    (one,) = have
    wanted = one.removesuffix("-") if one.endswith("-") else f"{one}-"
    session = [scan for scan in epis if parse_name(scan.path).get("ses") == group.session]
    named = [s for s in session if s.path.relative_to(root).as_posix() in group.intended]
    references = [s for s in session if _suffix(s) == "sbref" and _belongs(s, named)]
    for scan in (*references, *(named or session)):
        if scan.metadata.get("PhaseEncodingDirection") == wanted:
            scans = (*group.fieldmap.scans, scan)
            return replace(group, fieldmap=replace(group.fieldmap, scans=scans))
    why = f"all its images have the phase encoding {tell_value(one)}, no run has the opposite one"
    return replace(group, missing=why)


def _belongs(reference: Scan, runs: Iterable[Scan]) -> bool:
    return any(_key(run.path) == _key(reference.path) for run in runs)


def choose_fieldmap(
    paths: Sequence[Path], metadata: Mapping[str, Any], groups: Sequence[FieldmapGroup], root: Path
) -> tuple[Fieldmap | None, tuple[str, ...]]:
    """Choose the field map of a run.

    Parameters
    ----------
    paths : sequence of Path
        The run, or its echoes.
    metadata : mapping
        Its sidecar.
    groups : sequence of FieldmapGroup
        Field maps of the participant.
    root : Path
        The dataset.

    Returns
    -------
    Fieldmap or None
        The one that the run names, else one that names the run, else one of its session that
        names nobody. Of several the nearest in time, or in name where times are not told.
    tuple of str
        What is to be known of the choice.
    """
    notes: list[str] = []
    sources = _words(metadata.get("B0FieldSource"))
    found = [group for group in groups if group.identifier in sources]
    if sources and not found:
        notes.append("no image says that it tells the field that B0FieldSource names")
    if not found:
        own = {path.relative_to(root).as_posix() for path in paths}
        found = [group for group in groups if group.intended & own]
    if not found:
        session = parse_name(paths[0]).get("ses")
        found = [g for g in groups if g.session == session and not g.intended and not g.identifier]
        if found:
            notes.append("the field map names no run; it is taken because it is of this session")
    others = [group for group in groups if group.session == parse_name(paths[0]).get("ses")]
    if not found and others:
        notes.append(f"{len(others)} field maps of its session are for other runs")
    notes += [f"field map {g.fieldmap.name} is not used: {g.missing}" for g in found if g.missing]
    usable = [group.fieldmap for group in found if not group.missing]
    if len(usable) > 1:
        best, how = _nearest(paths[0], metadata, usable)
        notes.append(f"of {len(usable)} field maps {best.name} is taken, the nearest in {how}")
        return best, tuple(notes)
    return (usable[0] if usable else None), tuple(notes)


def _nearest(
    path: Path, metadata: Mapping[str, Any], usable: Sequence[Fieldmap]
) -> tuple[Fieldmap, str]:
    """Take the field map that was acquired nearest to a run; times are seconds of the day."""
    begin = _clock(metadata)
    times = {f.name: _clock(f.scans[0].metadata) for f in usable}
    if begin is not None and None not in times.values():
        return min(usable, key=lambda f: abs((times[f.name] or 0.0) - begin)), "time"
    return min(usable, key=lambda f: abs(_number(f.scans[0].path) - _number(path))), "name"


def _clock(metadata: Mapping[str, Any]) -> float | None:
    word = metadata.get("AcquisitionTime") or metadata.get("AcquisitionDateTime")
    if not isinstance(word, str) or (match := CLOCK.match(word)) is None:
        return None
    return float(match[3]) + 60 * int(match[2]) + 3600 * int(match[1])


def _number(path: Path) -> int:
    run = parse_name(path).get("run", "0")
    return int(run) if run.isdigit() else 0
