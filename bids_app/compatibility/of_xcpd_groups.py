"""Which space, resolution and sessions XCP-D works on, and the file it finds nearest to another.

References
----------
XCP-D 26.1.1: ``cli.parser`` (groups of sessions), ``utils.bids._select_bold_space``; PyBIDS 0.22.0:
``BIDSLayout.get_nearest``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from neurostorm_app.bids_app.compatibility.folder import File, Folder

__all__ = ["Group", "find_group", "find_nearest"]

SPACES: Final = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")


@dataclass(frozen=True, slots=True)
class Group:
    """What XCP-D works on together.

    Parameters
    ----------
    space : str
        Of the series; where there are none, that of a sidecar, or the first of its list.
    res : str or None
        Of the series; None if they name no resolution.
    found : bool
        Whether any series is there.
    anat : str or None
        Session of the anatomical images; None if they have none.
    clash : str
        Why it refuses the sessions of the participant; empty if it does not.
    """

    space: str
    res: str | None
    found: bool
    anat: str | None
    clash: str


def find_group(folder: Folder, participant: str, session: str | None) -> Group:
    """Find what XCP-D works on for a participant and a session.

    Parameters
    ----------
    folder : Folder
        All files.
    participant, session : str
        Labels; None for no session.

    Returns
    -------
    Group
        The space is that of the first of its list in which any participant has a series.
    """
    ours = [*folder.of("func", participant), *folder.of("anat", participant)]
    func = _sessions(file for file in ours if file.suffix == "bold")
    with_anat = _sessions(
        file
        for file in ours
        if file.suffix in ("T1w", "T2w") and file.extension in (".nii.gz", ".nii")
    )
    anat, group, clash = None, func, ""
    if func and len(with_anat) == 1:
        anat = with_anat[0]
    elif func and with_anat and (without := sorted(set(func) - set(with_anat))):
        clash = f"sessions without them: {', '.join(without)}"
    elif func and with_anat:
        anat, group = session, [session] if session else []
    chosen = _choose(folder, group, ".nii.gz")
    space, res = chosen or _choose(folder, group, ".json") or (SPACES[0], None)
    return Group(space, res, chosen is not None, anat, clash)


def _sessions(files: Iterator[File]) -> list[str]:
    return sorted({file.entities["ses"] for file in files if "ses" in file.entities})


def _choose(
    folder: Folder, sessions: Sequence[str], extension: str
) -> tuple[str, str | None] | None:
    """Choose the space and, of its resolutions, the first; no sessions are all sessions."""
    for space in SPACES:
        found = [
            file
            for file in folder.of("func")
            if file.suffix == "bold" and file.extension == extension
            and file.has(space=space, desc="preproc")
            and (not sessions or file.entities.get("ses") in sessions)
        ]  # fmt: skip
        if found:
            named = {file.entities["res"] for file in found if "res" in file.entities}
            return space, min(named, key=_natural, default=None)
    return None


def _natural(label: str) -> tuple[int, str]:
    return (int(label) if label.isdigit() else 10**9, label)


def find_nearest(
    folder: Folder,
    place: str,
    labels: Mapping[str, str],
    *,
    suffix: str,
    extension: str,
    desc: str | None = None,
) -> File | None:
    """Find the file that PyBIDS takes for the one that belongs to another.

    No entity that both names have may differ; of those in the nearest folder, the one that
    shares most wins. An entity that only one of them has does not count against it.

    Parameters
    ----------
    folder : Folder
        All files.
    place : str
        Folder to begin in; those above follow.
    labels : mapping
        Entities of the other file.
    suffix, extension, desc : str
        What the name must have; None asks for no description.

    Returns
    -------
    File or None
        The nearest.
    """
    parts = place.split("/")
    for n in range(len(parts), -1, -1):
        fitting = [
            file
            for file in folder.files.get("/".join(parts[:n]), ())
            if file.suffix == suffix and file.extension == extension
            and (desc is None or file.has(desc=desc))
            and all(file.entities.get(key, label) == label for key, label in labels.items())
        ]  # fmt: skip
        if fitting:
            return max(fitting, key=lambda file: len(file.entities.keys() & labels.keys()))
    return None
