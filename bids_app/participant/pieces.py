"""The pieces of work of a participant: what each depends on, and the files it stands for.

A field map, the anatomy and the estimates of a run are pieces of their own, and so is each
output space; so another space, or another level, repeats no estimation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.derivatives import derivative_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.participant.images import Output
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.bids_app.provenance import Unit
    from neurostorm_app.pipelines.stage import OutputSpace, Run

__all__ = ["Anatomy", "Piece", "RunPieces", "given_piece", "hashes_of", "new_piece", "text_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A unit of work and its files.

    Parameters
    ----------
    unit : Unit
        What it depends on.
    outputs : tuple of Output
        What it gives.
    paths : mapping of str to Path
        Where each role goes; of a piece that was given, where it is.
    sources : tuple of Path
        What its files are made from.
    space : OutputSpace or None
        The space it is in, if that was asked for.
    given : bool
        Whether it was taken from a derivative, so that there is nothing to do.
    """

    unit: Unit
    outputs: tuple[Output, ...]
    paths: Mapping[str, Path]
    sources: tuple[Path, ...] = ()
    space: OutputSpace | None = None
    given: bool = False

    def held(self, call: Call) -> bool:
        """Tell whether it is there."""
        if self.given or self.unit.key in call.held:
            return True
        if call.ledger.holds(self.unit):
            call.held.add(self.unit.key)
        return self.unit.key in call.held

    def files(self, call: Call) -> dict[str, Path]:
        """Those of its files that are there, by role."""
        if self.given:
            return dict(self.paths)
        known = call.ledger.output_hashes(self.unit.name)
        root = call.root
        return {r: p for r, p in self.paths.items() if str(p.relative_to(root)) in known}


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The pieces of an anatomy.

    Parameters
    ----------
    native : Piece
        On its own grid.
    maps : mapping of str to Piece
        Transforms between it and templates, by their names.
    spaces : mapping of str to Piece
        Its images in each standard space, by its label.
    """

    native: Piece
    maps: Mapping[str, Piece]
    spaces: Mapping[str, Piece]

    @property
    def all(self) -> tuple[Piece, ...]:
        """All pieces in the order in which they are made."""
        return (self.native, *self.maps.values(), *self.spaces.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPieces:
    """The pieces of a run; spaces go by their labels, templates by their names.

    Parameters
    ----------
    run : Run
        The run.
    fieldmap : Piece or None
        Its field map, which runs may share.
    fit : Piece
        What is estimated of it.
    templates : mapping of str to Piece
        Ways straight to templates, of a run without a T1w image.
    references, series : mapping of str to Piece
        In each output space.
    confounds : Piece or None
        At level ``full``.
    """

    run: Run
    fieldmap: Piece | None
    fit: Piece
    templates: Mapping[str, Piece] = field(default_factory=dict)
    references: Mapping[str, Piece] = field(default_factory=dict)
    series: Mapping[str, Piece] = field(default_factory=dict)
    confounds: Piece | None = None

    @property
    def estimates(self) -> tuple[Piece, ...]:
        """What is estimated once, whatever spaces are asked."""
        return (*((self.fieldmap,) if self.fieldmap else ()), self.fit)

    @property
    def all(self) -> tuple[Piece, ...]:
        """All pieces in the order in which they are made."""
        return (
            *self.estimates,
            *self.templates.values(),
            *self.references.values(),
            *self.series.values(),
            *((self.confounds,) if self.confounds else ()),
        )


def new_piece(
    unit: Unit,
    outputs: Iterable[Output],
    name: str,
    call: Call,
    *,
    sources: Iterable[Path] = (),
    space: OutputSpace | None = None,
) -> Piece:
    """Make a piece whose files are named after their source `name`."""
    outputs = tuple(outputs)
    paths = {
        output.role: derivative_path(
            call.root,
            name,
            output.datatype,
            suffix=output.suffix,
            extension=output.extension,
            entities=output.entities,
        )
        for output in outputs
    }
    return Piece(unit=unit, outputs=outputs, paths=paths, sources=tuple(sources), space=space)


def given_piece(unit: Unit, files: Mapping[str, Path], space: OutputSpace | None = None) -> Piece:
    """Make a piece of files that are there."""
    return Piece(unit=unit, outputs=(), paths=files, space=space, given=True)


def hashes_of(paths: Iterable[Path], name: str, call: Call) -> dict[str, str]:
    """Hash inputs by their BIDS URIs; what the record `name` knows is not read again."""
    return {call.uri(path): call.ledger.hash_input(path, name, call.uri(path)) for path in paths}


def text_of(space: OutputSpace) -> str:
    """Write a space as it stands in names of records; native has no words."""
    if space.name == "native":
        return ""
    return f"_space-{space.name}" + (f"_res-{space.res}" if space.res else "")
