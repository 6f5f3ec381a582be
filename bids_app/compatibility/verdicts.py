"""What a tool lacks of a run, and what that means for the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import Run

__all__ = ["Consumer", "Missing", "Use", "Verdict", "with_gate"]

Kind = Literal["file", "column", "key", "value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One thing that a tool asks for and does not find.

    Parameters
    ----------
    kind : {'file', 'column', 'key', 'value'}
        A file, a column of a table, a key of a JSON file, or a value that cannot be used.
    name : str
        Path in the folder, name of the column or the key, or what is expected of the value.
    where : str
        The file that should hold the column, the key or the value; empty for a file.
    rule : str
        The function, and the version of the tool, that asks for it.
    note : str
        What is there in its place, or what the tool does about it.
    """

    kind: Kind
    name: str
    where: str = ""
    rule: str
    note: str = ""

    def __str__(self) -> str:
        """Name it in one line."""
        words = {"file": "", "column": "column ", "key": "key ", "value": ""}[self.kind] + self.name
        words += f" in {self.where}" if self.where else ""
        return f"{words} ({self.note})" if self.note else words


@dataclass(frozen=True, slots=True)
class Use:
    """One way to use a tool, such as a denoising strategy, and what it lacks.

    Parameters
    ----------
    name : str
        Such as ``36P``.
    lacking : tuple of Missing
        Empty if the tool can be used so.
    optional : bool
        Whether the verdict does not count it: few folders are made for it.
    """

    name: str
    lacking: tuple[Missing, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a tool accepts a run.

    Parameters
    ----------
    uses : tuple of Use
        All ways to use it.
    """

    uses: tuple[Use, ...]

    @property
    def word(self) -> Literal["yes", "partly", "no"]:
        """Say yes if every use is open, partly if one is; optional ones do not count."""
        counted = [use for use in self.uses if not use.optional]
        fine = sum(not use.lacking for use in counted)
        return "yes" if fine == len(counted) else "partly" if fine else "no"

    @property
    def lacking(self) -> tuple[Missing, ...]:
        """All that is missing, each thing once; optional uses do not count."""
        found = (m for use in self.uses if not use.optional for m in use.lacking)
        return tuple(dict.fromkeys(found))

    def as_json(self) -> dict[str, Any]:
        """Write it as JSON takes it."""
        uses = {
            use.name: {"optional": use.optional, "missing": [asdict(m) for m in use.lacking]}
            for use in self.uses
        }
        return {"verdict": self.word, "uses": uses}


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A tool that goes on from a derivative.

    Parameters
    ----------
    name : str
        As ``--require`` and the JSON take it.
    title : str
        As people write it.
    versions : str
        The versions whose behaviour the rules state.
    judge : callable
        Takes the contents of a folder, and gives what judges a run of it.
    usual : bool
        Whether it is asked when none is named.
    is_model : bool
        Whether it is one of our models.
    """

    name: str
    title: str
    versions: str
    judge: Callable[[Contents], Callable[[Run], tuple[Use, ...]]]
    usual: bool = True
    is_model: bool = False


def with_gate(gate: Iterable[Missing], uses: Iterable[Use]) -> tuple[Use, ...]:
    """Put what every use needs before what each needs."""
    first = tuple(gate)
    return tuple(
        Use(use.name, tuple(dict.fromkeys((*first, *use.lacking))), use.optional) for use in uses
    )
