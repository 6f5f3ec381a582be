"""What a call would do, said run by run before anything is done: ``--dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.units import (
    anat_unit,
    bold_unit,
    embedding_unit,
    ready_from_precomputed,
    ready_from_raw,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neurostorm_app.bids_app.dataset import Found, Participant
    from neurostorm_app.bids_app.units import Call, Ready
    from neurostorm_app.pipelines.resources import Resources

__all__ = ["describe_plan"]

GIB: Final = 2**30


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
    for participant in found.participants:
        yield from _describe_participant(participant, call)
    for name, error in sorted({**found.failed, **call.missing}.items()):
        yield f"{name}: would fail: {error.what} [exit code {int(error.exit_code)}]"
    yield f"results would go to {call.root}; nothing was written"


def _describe_participant(participant: Participant, call: Call) -> Iterator[str]:
    anat = anat_unit(participant.label, participant.t1w, call) if participant.raw else None
    for run in participant.raw:
        if anat is None:
            continue
        unit = bold_unit(run, anat, call)
        if call.ledger.holds(unit):
            yield f"{run.name}: preprocessed; {_embeddings(ready_from_raw(run, unit, call), call)}"
        else:
            anatomy = "reused" if call.ledger.holds(anat) else f"from {len(participant.t1w)} T1w"
            yield f"{run.name}: preprocess (anatomy {anatomy}); {_all_models(call)}"
    for item in participant.precomputed:
        words = _embeddings(ready_from_precomputed(item, call), call)
        yield f"{item.name}: series from {item.tree} ({item.series.space}); {words}"


def _all_models(call: Call) -> str:
    return "embed with " + ", ".join(files.card.name for files in call.models)


def _embeddings(ready: Ready, call: Call) -> str:
    names = [
        files.card.name
        for files in call.models
        if not call.ledger.holds(embedding_unit(ready, files, call))
    ]
    return f"embed with {', '.join(names)}" if names else "embedded: nothing to do"
