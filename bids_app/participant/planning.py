"""What a call would do, said run by run before anything is done: ``--dry-run``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.participant.admission import Disks, check_memory
from neurostorm_app.bids_app.participant.needs import (
    need_of_anatomy,
    need_of_embedding,
    need_of_run,
)
from neurostorm_app.bids_app.participant.pieces_anat import anat_pieces
from neurostorm_app.bids_app.participant.pieces_run import run_pieces
from neurostorm_app.bids_app.participant.units import (
    choose_space,
    embedding_unit,
    ready_from_precomputed,
    ready_from_raw,
)
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.need import Need

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from neurostorm_app.bids_app.engines import ModelFiles
    from neurostorm_app.bids_app.inputs.dataset import Found, Participant
    from neurostorm_app.bids_app.inputs.precomputed import Precomputed
    from neurostorm_app.bids_app.participant.pieces import Anatomy, RunPieces
    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.pipelines.resources import Resources
    from neurostorm_app.pipelines.stage import Run

__all__ = ["PlannedRun", "describe_plan", "plan_runs", "table_of"]

GIB: Final = 2**30
MIB: Final = 2**20
HEAD: Final = ("run", "memory", "time", "scratch", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """What a call would do for a run, or for the anatomy of a participant, and what that takes.

    Parameters
    ----------
    name : str
        Label of the run, or ``sub-`` and that of the participant.
    todo : str
        What is to be done, in words.
    memory : int
        Peak bytes in as many processes as memory allows; 0 where nothing is to be done.
    seconds : float
        Of one core like those on which the coefficients were measured.
    scratch, output : int
        Bytes in the scratch folder and among the results.
    notes : tuple of str
        What is to be known of the run.
    problem : str
        Why it would be refused; empty if it would not.
    """

    name: str
    todo: str
    memory: int = 0
    seconds: float = 0.0
    scratch: int = 0
    output: int = 0
    notes: tuple[str, ...] = ()
    problem: str = ""


def plan_runs(found: Found, call: Call) -> tuple[list[PlannedRun], dict[str, AppError]]:
    """Plan each run from headers and records; nothing is written.

    An input is read only if a record may hold its hash.

    Parameters
    ----------
    found : Found
        Runs and errors.
    call : Call
        What all participants share.

    Returns
    -------
    rows : list of PlannedRun
        One a run in the order of the work, after one for an anatomy that is to be made.
    failed : dict of str to AppError
        Errors of runs that cannot be planned, by their names.
    """
    planner = _Planner(call, Disks(call.scratch, call.root))
    for participant in found.participants:
        planner.plan(participant)
    return planner.rows, planner.failed


def describe_plan(found: Found, call: Call, resources: Resources) -> Iterator[str]:
    """Say what would be done for each run, and with what; nothing is written.

    Parameters
    ----------
    found : Found
        Runs and errors.
    call : Call
        What all participants share.
    resources : Resources
        What this job may use.

    Yields
    ------
    str
        One line each.
    """
    plan = call.plan
    yield (
        f"dry run: {plan.n_procs} processes of {plan.n_threads} threads "
        f"({resources.cores} cores by {resources.cores_from}), up to {plan.memory / GIB:.1f} GiB "
        f"({resources.memory / GIB:.1f} GiB by {resources.memory_from})"
    )
    rows, failed = plan_runs(found, call)
    for row in rows:
        yield f"{row.name}: {row.todo}"
        yield from (f"{row.name}: note: {note}" for note in row.notes)
        if row.problem:
            yield f"{row.name}: would be refused: {row.problem}"
    for name, error in sorted({**found.failed, **call.missing, **failed}.items()):
        yield f"{name}: would fail: {error.what} [exit code {int(error.exit_code)}]"
        yield f"  what to do: {error.fix}"
    yield from table_of(rows)
    yield f"results would go to {call.root}; nothing was written"


def table_of(rows: Sequence[PlannedRun]) -> Iterator[str]:
    """Put what runs take into a table of plain text; none if nothing is to be done.

    Parameters
    ----------
    rows : sequence of PlannedRun
        Of `plan_runs`.

    Yields
    ------
    str
        A head, a line for each run with something to do, and the sum.
    """
    busy = [row for row in rows if row.memory and not row.problem]
    if not busy:
        return
    whole = PlannedRun(
        name="all, one after the other",
        todo="",
        memory=max(row.memory for row in busy),
        seconds=sum(row.seconds for row in busy),
        scratch=max(row.scratch for row in busy),
        output=sum(row.output for row in busy),
    )
    cells = [HEAD, *(_cells(row) for row in (*busy, whole))]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    for name, *numbers in cells:
        right = (text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True))
        yield "  ".join([name.ljust(widths[0]), *right])
    yield "time is that of one core like those it was measured on, within a factor of two"


def _cells(row: PlannedRun) -> tuple[str, ...]:
    minutes = row.seconds / 60
    return (
        row.name,
        f"{row.memory / GIB:.1f} GiB",
        f"{minutes:.0f} min" if minutes >= 1 else "< 1 min",
        f"{row.scratch / MIB:.0f} MiB",
        f"{row.output / MIB:.0f} MiB",
    )


@dataclass(slots=True)
class _Planner:
    """Plans of the participants so far, each contained in itself as the work is."""

    call: Call
    disks: Disks
    rows: list[PlannedRun] = field(default_factory=list)
    failed: dict[str, AppError] = field(default_factory=dict)

    def plan(self, participant: Participant) -> None:
        """Plan the runs of a participant, after its anatomy."""
        label, call = participant.label, self.call
        if participant.raw or call.settings.selection.anat_only:
            with self._contained(*[run.name for run in participant.raw] or [f"sub-{label}"]):
                anat = anat_pieces(participant, call)
                self.rows += _plan_anatomy(participant, anat, call, self.disks)
                for run in participant.raw:
                    with self._contained(run.name):
                        self.rows.append(_plan_raw(run, participant, anat, call, self.disks))
        for item in participant.precomputed:
            with self._contained(item.name):
                self.rows.append(_plan_precomputed(item, call, self.disks))
        self.disks.clear_scratch()  # it is removed before the next participant

    @contextlib.contextmanager
    def _contained(self, *names: str) -> Iterator[None]:
        """Keep an error where it belongs, so that the plan of the others is made."""
        try:
            yield
        except (AppError, OSError) as error:
            self.failed |= dict.fromkeys(names, as_app_error(error))


def _plan_anatomy(
    participant: Participant, anat: Anatomy | None, call: Call, disks: Disks
) -> Iterator[PlannedRun]:
    name, made = f"sub-{participant.label}", need_of_anatomy(participant, anat, call)
    if call.settings.selection.anat_only:
        words = "anatomy: nothing to do" if not made.steps else "make the anatomy"
        yield _row(name, words, made, call, disks)
    elif made.steps:
        yield _row(name, "make the anatomy, once for its runs", made, call, disks)


def _plan_raw(
    run: Run, participant: Participant, anat: Anatomy | None, call: Call, disks: Disks
) -> PlannedRun:
    pieces = run_pieces(run, anat, participant.fits.get(run.name), call)
    models = _models_of_raw(pieces, call)
    need = need_of_run(participant, pieces, call)
    if all(piece.held(call) for piece in pieces.all):
        idle = "nothing to do" in models or "no model" in models
        words = f"preprocessed{models}"
        return _row(run.name, words, Need() if idle else need, call, disks)
    held = anat is not None and anat.native.held(call)
    anatomy = "reused" if held else f"from {len(participant.t1w)} T1w"
    known = ", estimates reused" if all(p.held(call) for p in pieces.estimates) else ""
    words = f"preprocess (anatomy {anatomy}{known}){models}"
    return _row(run.name, words, need, call, disks, notes=run.notes)


def _plan_precomputed(item: Precomputed, call: Call, disks: Disks) -> PlannedRun:
    ready = ready_from_precomputed(item, call)
    missing = _missing({files.card.name: ready for files in call.models}, call)
    words = f"series from {item.tree} ({item.series.space}){_words(missing, call)}"
    return _row(item.name, words, need_of_embedding(item.series, missing, call), call, disks)


def _row(
    name: str, todo: str, need: Need, call: Call, disks: Disks, *, notes: tuple[str, ...] = ()
) -> PlannedRun:
    n_procs = max(1, need.processes(call.plan.n_procs, call.plan.memory))
    problem = ""
    try:
        check_memory(name, need, call.plan.memory)
        disks.check(name, need)
        disks.promise(need)
    except AppError as error:
        problem = f"{error.what} [exit code {int(error.exit_code)}]"
    return PlannedRun(
        name=name,
        todo=todo,
        memory=need.memory(n_procs),
        seconds=need.seconds,
        scratch=need.scratch,
        output=need.output,
        notes=notes,
        problem=problem,
    )


def _models_of_raw(pieces: RunPieces, call: Call) -> str:
    """Say which models would run on a run that is preprocessed here."""
    science = call.settings.science
    if not (call.models and science.has_standard):
        return "; no model"
    if not all(piece.held(call) for piece in pieces.all):
        return "; embed with " + ", ".join(files.card.name for files in call.models)
    ready = {}
    for files in call.models:
        space = choose_space(science.spaces, files.card.contract.space)
        ready[files.card.name] = ready_from_raw(pieces, space, call)
    return _words(_missing(ready, call), call)


def _missing(ready: Mapping[str, Ready], call: Call) -> list[ModelFiles]:
    """List the models that have no result of a run."""
    return [
        files
        for files in call.models
        if not call.ledger.holds(embedding_unit(ready[files.card.name], files, call))
    ]


def _words(missing: Iterable[ModelFiles], call: Call) -> str:
    if not call.models:
        return "; no model"
    names = [files.card.name for files in missing]
    return f"; embed with {', '.join(names)}" if names else "; embedded: nothing to do"
