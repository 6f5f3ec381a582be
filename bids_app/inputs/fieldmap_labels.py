"""The labels of field maps in names of outputs: as fMRIPrep makes them, where they tell of nobody.

``B0FieldIdentifier`` is free text. One plain word, such as ``pepolar_fmap0``, is passed on; of what
has spaces or other signs, is longer than 40 letters, or holds a year or six digits in a row, only a
number is. A single name (``JaneDoe``) or a short serial number (``SN-4711``) cannot be told from
the word of a program: under ``--privacy strict`` all field maps are numbered.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.inputs.entities import parse_name

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Labels"]

PLAIN: Final = re.compile(r"[0-9A-Za-z_.-]{1,40}")
"""One word, as programs make identifiers; people write spaces and commas."""
TELLING: Final = re.compile(r"[0-9]{6}|(?:19|20)[0-9]{2}")
"""What may be a date, a year or a serial number."""


class Labels:
    """Labels of the field maps of one participant, no two alike.

    Parameters
    ----------
    numbered : bool
        Give numbers alone, whatever the identifiers are.
    """

    def __init__(self, *, numbered: bool = False) -> None:
        self._numbered = numbered
        self._numbers = itertools.count()
        self._taken: set[str] = set()

    def of(self, identifier: str, path: Path) -> str:
        """Give the letters and digits of an identifier, or a number if it may tell more.

        Parameters
        ----------
        identifier : str
            Of the field.
        path : Path
            An image of it; that its participant and session are in the identifier is no secret.

        Examples
        --------
        >>> from pathlib import Path
        >>> labels, path = Labels(), Path("sub-100307/fmap/sub-100307_dir-AP_epi.nii.gz")
        >>> labels.of("pepolar_fmap0", path), labels.of("sub-100307_fmap", path)
        ('pepolarfmap0', 'sub100307fmap')
        >>> labels.of("Jane Doe 1970", path), labels.of("Doe_19700101", path)
        ('auto00000', 'auto00001')
        """
        entities = parse_name(path)
        known = "|".join(re.escape(f"{k}-{entities[k]}") for k in ("sub", "ses") if k in entities)
        rest = _stripped(re.sub(known, "", identifier))
        plain = PLAIN.fullmatch(identifier) and not TELLING.search(rest)
        label = _stripped(identifier) if plain and not self._numbered else ""
        return self._own(label) if label else self.next()

    def next(self) -> str:
        """Give the next number."""
        return self._own(f"auto{next(self._numbers):05d}")

    def _own(self, label: str) -> str:
        number = 1
        while (own := label if number == 1 else f"{label}{number}") in self._taken:
            number += 1
        self._taken.add(own)
        return own


def _stripped(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", text)
