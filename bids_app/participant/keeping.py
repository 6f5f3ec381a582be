"""Take what the preprocessing made into the output folder: files, sidecars, logs, records."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.derivatives import copy_aside, move_aside, write_json, write_text
from neurostorm_app.bids_app.participant.image_sidecars import image_sidecar, series_facts
from neurostorm_app.bids_app.provenance import Unit, sha256_of
from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.engines import Preprocessed
    from neurostorm_app.bids_app.participant.images import Output
    from neurostorm_app.bids_app.participant.pieces import Anatomy, Piece, RunPieces
    from neurostorm_app.bids_app.participant.units import Call

__all__ = ["Keeper", "mend", "read_qc"]

log = logging.getLogger(__name__)


def read_qc(path: Path) -> dict[str, Any]:
    """Read what the steps said of their work; empty if they said nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def mend(label: str, anat: Anatomy | None, runs: Mapping[str, RunPieces], call: Call) -> None:
    """Look after what no record vouches for, if a crash of the file system cut it off.

    What the steps said of a run or an anatomy stands nowhere else: the work is done again. The
    methods paragraph stands in a record too, and each is written again from the other.

    Parameters
    ----------
    label : str
        Of the participant.
    anat : Anatomy or None
        Pieces of the anatomy.
    runs : mapping of str to RunPieces
        Pieces of each run, by its name.
    call : Call
        Where it stands.
    """
    pieces = {f"sub-{label}": anat.all if anat else ()}
    pieces |= {name: run.all for name, run in runs.items()}
    for name, some in pieces.items():
        path = call.root / "logs" / f"{name}_qc.json"
        if path.is_file() and not path.read_bytes().rstrip().endswith(b"}"):
            log.warning("%s is cut off: %s is made again", path, name)
            for piece in some:
                call.ledger.forget(piece.unit.name)
    record = call.ledger.read(f"sub-{label}_methods")
    path = _methods_path(label, call)
    if record is not None:
        text = record["settings"].get("text", "")
        if not path.is_file() or path.stat().st_size < len(text.encode()):
            write_text(path, text, root=call.root)
    elif call.ledger.path(f"sub-{label}_methods").is_file() and path.is_file():
        told = {p.unit.key for some in pieces.values() for p in some if p.held(call)}
        _write_methods(label, path.read_text(encoding="utf-8"), told, call)


def _methods_path(label: str, call: Call) -> Path:
    return call.root / "logs" / f"sub-{label}_methods.md"


def _write_methods(label: str, text: str, told: set[str], call: Call) -> None:
    """Write the paragraphs, and the record that says by their keys which pieces they tell of."""
    path = _methods_path(label, call)
    unit = Unit(
        name=f"sub-{label}_methods",
        kind="report",
        about={"participant": label},
        settings={"text": text, "told": sorted(told)},
        inputs={},
    )
    written = {path: write_text(path, text, root=call.root)}
    call.ledger.write(unit, written, stamps={}, measured={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Keeps the files of one call of the preprocessing.

    Parameters
    ----------
    call : Call
        What all participants share.
    series_dir : Path
        What lies in it is moved, not copied.
    anat : Anatomy or None
        Pieces of the participant's anatomy.
    measured : mapping
        Start, seconds and memory, for the records.
    """

    call: Call
    series_dir: Path
    anat: Anatomy | None
    measured: Mapping[str, Any]

    def keep_anat(self, label: str, done: Preprocessed, *, given: bool) -> None:
        """Keep the anatomy: what of it is not held.

        Parameters
        ----------
        label : str
            Of the participant.
        done : Preprocessed
            What was made.
        given : bool
            Whether some of it was there before, so that what is said of it adds to that.
        """
        if self.anat is None:
            return
        self._keep_qc(f"sub-{label}", done.anat, given=given)
        for piece in self.anat.all:
            if not piece.held(self.call):
                self._keep(piece, done.anat, {})

    def keep_methods(
        self,
        label: str,
        methods: str,
        *,
        pieces: Sequence[Piece],
        others: Sequence[Piece] = (),
        added: bool,
    ) -> None:
        """Keep the paragraph for the methods section; what was made later is a further one.

        It is kept before the pieces it tells of, and a record says which: so a call that goes on
        where another one was killed has nothing to tell of what that one had only begun to keep.

        Parameters
        ----------
        label : str
            Of the participant.
        methods : str
            What was done.
        pieces : sequence of Piece
            What the call was asked for; those that are not held are what it made.
        others : sequence of Piece
            Further pieces of the participant, which were not asked for this time.
        added : bool
            Whether it adds to what was done before. It also does if some of the pieces, or of the
            others, are kept and told of: by another call meanwhile, or one run after the other.
        """
        if not methods:
            return
        ledger, path = self.call.ledger, _methods_path(label, self.call)
        made = {piece.unit.key for piece in pieces if not piece.held(self.call)}
        record = ledger.read(f"sub-{label}_methods") or {"settings": {}}
        told = set(record["settings"].get("told", ())) if path.is_file() else set()
        if made <= told:  # the same keys: what was said of them holds
            return
        known = (*pieces, *others)
        added = added or bool(told & {p.unit.key for p in known if p.held(self.call)})
        told = told if added else set()
        before = path.read_text(encoding="utf-8") if added and path.is_file() else ""
        if methods in before:
            methods = before
        elif before:
            methods = f"{before}\n\n{methods}"
        _write_methods(label, methods, made | told, self.call)

    def keep_run(self, pieces: RunPieces, files: Mapping[str, Path], *, given: bool) -> None:
        """Keep a run: what of it is not held.

        Parameters
        ----------
        pieces : RunPieces
            Of the run.
        files : mapping
            What was made of it, by role.
        given : bool
            Whether its estimates were there before.
        """
        self._keep_qc(pieces.run.name, files, given=given)
        qc = read_qc(self.call.root / "logs" / f"{pieces.run.name}_qc.json")
        about = series_facts(pieces.run.metadata, qc, pieces.run.fieldmap)
        for piece in pieces.all:
            if not piece.held(self.call):
                self._keep(piece, files, about)

    def _keep(self, piece: Piece, files: Mapping[str, Path], about: Mapping[str, Any]) -> None:
        """Write the files of a piece with their sidecars, and its record."""
        written: dict[Path, str] = {}
        sources = [self.call.uri(path) for path in piece.sources if path.is_file()]
        for output in piece.outputs:
            if output.role not in files and output.optional:
                continue
            if output.role not in files:
                raise AppError(
                    f"{piece.unit.name}: the preprocessing gave no {output.role}",
                    fix="this is a defect: please report it with the log file in OUTPUT_DIR/logs",
                )
            path = piece.paths[output.role]
            mask = self.call.rules.mask_of(output)
            if mask is None:
                written[path] = self._place(files[output.role], path)
            else:
                written[path] = self._place_brain(files, output.role, mask, path)
            if output.facts is not None:
                sidecar = path.with_name(path.name.removesuffix(output.extension) + ".json")
                content = image_sidecar(
                    output,
                    sources=sources,
                    reference=self._reference(output),
                    about=about,
                    masked=mask is not None,
                )
                written[sidecar] = write_json(sidecar, content, root=self.call.root)
        stamps = {self.call.uri(path): path for path in piece.sources}
        self.call.ledger.write(piece.unit, written, stamps=stamps, measured=self.measured)

    def _place(self, source: Path, path: Path) -> str:
        """Bring a file to its place; return its SHA-256."""
        if source == path:
            return sha256_of(path)
        if source.is_relative_to(self.series_dir):
            return move_aside(source, path, root=self.call.root)
        return copy_aside(source, path, root=self.call.root)

    def _place_brain(self, files: Mapping[str, Path], role: str, mask: str, path: Path) -> str:
        """Bring what lies in the brain mask of an image to its place; return its SHA-256."""
        from neurostorm_app.pipelines.brain_only import write_brain

        if mask not in files:
            raise AppError(
                f"{path.name}: there is no brain mask to take the face off by",
                fix="leave out --privacy strict, or report this with the log file",
            )
        part = self.call.scratch / f"brain-{path.name}"
        part.parent.mkdir(parents=True, exist_ok=True)
        write_brain(files[role], files[mask], part)
        return move_aside(part, path, root=self.call.root)

    def _reference(self, output: Output) -> str | None:
        """Name the image whose space an image is in, where BIDS wants that."""
        if self.anat is None or output.entities.get("space") != "T1w":
            return None
        return self.call.uri(self.anat.native.paths["t1w"])

    def _keep_qc(self, name: str, files: Mapping[str, Path], *, given: bool) -> None:
        """Write what the steps said; of what was there before it is kept."""
        if "qc" not in files:
            return
        path = self.call.root / "logs" / f"{name}_qc.json"
        content = read_qc(files["qc"])
        write_json(path, _merged(read_qc(path), content) if given else content, root=self.call.root)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Join two records; the new one wins."""
    both = dict(old)
    for key, value in new.items():
        known = both.get(key)
        nested = isinstance(known, dict) and isinstance(value, dict)
        both[key] = _merged(known, value) if nested else value  # type: ignore[arg-type]
    return both
