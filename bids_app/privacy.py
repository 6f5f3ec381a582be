"""What may stand in an output: the rules, as functions of text and of what JSON can hold.

Two degrees. By default folders of the call are written as ``<BIDS_DIR>`` and the like, the home
folder as ``~``. One file tells where they are: ``dataset_description.json`` has in its links, which
BIDS needs to find the files that BIDS URIs of sidecars name, the way from the output folder to each
dataset, such as ``../../home/jane/bids``. ``--privacy strict`` writes ``hidden://raw`` instead, and
also takes away all other absolute paths, dates, times and the number of the process, identifiers of
field maps, and what of an anatomical image is not brain. The terminal is no output: it says the
whole path.

Of sidecars a white list of keys is carried over under both (`image_sidecars`), and of an identifier
of a field what is no free text (`fieldmap_labels`); of headers of images, of their extensions, and
of columns of participants.tsv but a few, nothing is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neurostorm_app.bids_app.participant.images import Output
    from neurostorm_app.bids_app.settings import Settings

__all__ = ["Rules", "people_columns", "rules_of"]

PART: Final = r"[^\s/'\"`,:;()<>\[\]{}|]+"
"""Letters between two slashes."""
PATH: Final = re.compile(rf"(?:(?<![\w:/.<>~-])|~)/(?:{PART}/)*({PART})")
"""An absolute path, or one in the home folder; what follows a colon or a slash is part of a URI."""
MOMENT: Final = re.compile(
    r"(?<![\w+-])(?:19|20)\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])"
    r"(?:[T ]\d\d:?\d\d(?::?\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:?\d\d)?(?![\dA-Za-z])"
)
"""A date, with or without a time, as ISO 8601 and DICOM write it; a label of digits is none."""
TIMES: Final = frozenset({"started", "finished", "created", "moment", "date", "mtime"})
"""Keys of records whose value is a moment."""
MACHINE: Final = frozenset({"host", "hostname", "node", "user", "pid", "uuid", "command"})
"""Keys of records whose value tells the machine or its user."""
FACES: Final = {"t1w": "mask", "fmap_reference": "fmap_mask"}
"""Roles of images that show a face, before any colon, and of the brain masks on their grids."""

PEOPLE: Final = frozenset({"age", "sex", "gender", "handedness", "group", "site"})
"""Columns of participants.tsv, in small letters, that a page may show without being asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is hidden from the outputs of one call.

    Parameters
    ----------
    strict : bool
        Whether ``--privacy strict`` was asked for.
    places : mapping of str to Path
        Folders and files of the call by the words that stand for them.
    """

    strict: bool = False
    places: Mapping[str, Path] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """Hide places in a text; if strict, also other paths and moments.

        Examples
        --------
        >>> Rules(places={"BIDS_DIR": Path("/home/jane/bids")}).text("/home/jane/bids/x is empty")
        '<BIDS_DIR>/x is empty'
        >>> Rules(strict=True).text("/opt/jane/x.nii of 2020-02-02T02:02:02 is bids:raw:a/b")
        '<hidden>/x.nii of <hidden> is bids:raw:a/b'
        """
        places = {**self.places, "~": Path(os.path.expanduser("~"))}  # noqa: PTH111  never raises
        for word, path in sorted(places.items(), key=lambda pair: -len(str(pair[1]))):
            if len(path.parts) > 1:
                shown = word if word == "~" else f"<{word}>"
                text = re.sub(rf"(?<![\w/]){re.escape(str(path))}(?![\w+-])", shown, text)
        if self.strict:
            text = MOMENT.sub("<hidden>", PATH.sub(r"<hidden>/\1", text))
        return text

    def record(self, content: Any) -> Any:
        """Hide the same in all texts of what JSON can hold; if strict, drop moments by their key.

        A time stamp of a file becomes 0, so that the file is read again instead of trusted.
        """
        if isinstance(content, str):
            return self.text(content)
        if isinstance(content, Mapping):
            return {
                self.text(key) if isinstance(key, str) else key: (
                    0 if key == "mtime" and self.strict else self.record(value)
                )
                for key, value in content.items()
                if not self._drops(key)
            }
        if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
            return [self.record(value) for value in content]
        return content

    def _drops(self, key: object) -> bool:
        return self.strict and key in (TIMES - {"mtime"}) | MACHINE

    def link(self, name: str, link: str) -> str:
        """Hide where a dataset lies; if strict, its name in BIDS URIs is all that is told."""
        return f"hidden://{name}" if self.strict else link

    def mask_of(self, output: Output) -> str | None:
        """Name the role of the mask outside of which an image is not written; None for none."""
        role, colon, space = output.role.partition(":")
        return FACES[role] + colon + space if self.strict and role in FACES else None


def people_columns(columns: Iterable[str]) -> list[str]:
    """Choose the columns of participants.tsv that a page may show; names and dates are not.

    Examples
    --------
    >>> people_columns(["participant_id", "name", "Age", "date_of_birth", "site"])
    ['Age', 'site']
    """
    return [column for column in columns if column.lower() in PEOPLE]


def rules_of(settings: Settings, *, strict: bool) -> Rules:
    """Make the rules of a call: each path among its settings is a place.

    Parameters
    ----------
    settings : Settings
        Of the call.
    strict : bool
        Whether ``--privacy strict`` was asked for.
    """
    places = {"BIDS_DIR": settings.bids_dir, "OUTPUT_DIR": settings.output_dir}
    for group in (settings.selection, settings.science, settings.prediction, settings.execution):
        for key, value in group:
            places |= _places(key.upper(), value)
    return Rules(strict=strict, places=places)


def _places(word: str, value: object) -> dict[str, Path]:
    """Find the paths in the value of a setting, by words of their own."""
    if isinstance(value, Path):
        return {word: value}
    if isinstance(value, Mapping):
        found: dict[str, Path] = {}
        for name, one in value.items():
            found |= _places(f"{word} {name}", one)
        return found
    return {}
