"""Which space, resolution and sessions XCP-D works on, and the file it finds nearest to another.

References
----------
XCP-D 26.1.1: ``cli.parser`` (groups of sessions), ``utils.bids._select_bold_space``; PyBIDS 0.22.0:
``BIDSLayout.get_nearest``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from neurostorm_app.bids_app.compatibility.folder import File, Folder

__all__ = ["Group", "Groups", "find_nearest"]

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


@dataclass(eq=False)
class Groups:
    """Finds what XCP-D works on, for each participant and session of a folder.

    Parameters
    ----------
    folder : Folder
        All files.
    """

    folder: Folder
    _found: dict[tuple[str, str | None], Group] = field(default_factory=dict, repr=False)
    _chosen: dict[tuple[str, ...], tuple[str, str | None] | None] = field(
        default_factory=dict, repr=False
    )

    def find(self, participant: str, session: str | None) -> Group:
        """Find what it works on for a participant and a session; None for no session.

        The space is that of the first of its list in which any participant has a series.
        """
        if (participant, session) not in self._found:
            self._found[participant, session] = self._find(participant, session)
        return self._found[participant, session]

    def _find(self, participant: str, session: str | None) -> Group:
        ours = [*self.folder.of("func", participant), *self.folder.of("anat", participant)]
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
        chosen = self._choose(".nii.gz", *group)
        space, res = chosen or self._choose(".json", *group) or (SPACES[0], None)
        return Group(space, res, chosen is not None, anat, clash)

    def _choose(self, extension: str, *sessions: str) -> tuple[str, str | None] | None:
        """Choose the space and, of its resolutions, the first; no sessions are all sessions."""
        key = (extension, *sessions)
        if key not in self._chosen:
            found = [
                file
                for file in self.folder.of("func")
                if file.suffix == "bold" and file.extension == extension
                and file.has(desc="preproc") and file.entities.get("space") in SPACES
                and (not sessions or file.entities.get("ses") in sessions)
            ]  # fmt: skip
            self._chosen[key] = _first(found)
        return self._chosen[key]


def _sessions(files: Iterator[File]) -> list[str]:
    return sorted({file.entities["ses"] for file in files if "ses" in file.entities})


def _first(found: Sequence[File]) -> tuple[str, str | None] | None:
    """Take the first space of the list that series have, and the first resolution there."""
    for space in SPACES:
        there = [file.entities for file in found if file.has(space=space)]
        if there:
            named = {entities["res"] for entities in there if "res" in entities}
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
