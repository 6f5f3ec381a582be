"""The story: from settings to results, at the participant and at the group level."""

from __future__ import annotations

import logging
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.clusters.executors import failed, forget_renamed, work_through
from neurostorm_app.bids_app.describe import check_output_dir, check_owner, describe_output
from neurostorm_app.bids_app.engines import real_engines
from neurostorm_app.bids_app.group.level import run_group
from neurostorm_app.bids_app.inputs.dataset import check_dataset, find_runs, list_participants
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.bids_app.logs import to_file
from neurostorm_app.bids_app.participant.admission import refuse
from neurostorm_app.bids_app.participant.pages import write_page
from neurostorm_app.bids_app.participant.planning import describe_plan
from neurostorm_app.bids_app.participant.units import Call
from neurostorm_app.bids_app.privacy import rules_of
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.results import AppResult
from neurostorm_app.bids_app.scratch import open_scratch, remove_abandoned
from neurostorm_app.bids_app.words.kept_settings import keep_settings
from neurostorm_app.bids_app.words.values import closest
from neurostorm_app.errors import AppError, NoInputError, NothingSelectedError, UsageError
from neurostorm_app.pipelines.progress import Planned, stage, tell
from neurostorm_app.pipelines.resources import detect, plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from neurostorm_app.bids_app.clusters.executors import Outcome
    from neurostorm_app.bids_app.engines import Engines, ModelFiles
    from neurostorm_app.bids_app.inputs.dataset import Found, Participant
    from neurostorm_app.bids_app.settings import Settings

__all__ = ["run_app"]

log = logging.getLogger(__name__)

PER_PROCESS: Final = 2 * 2**30
"""Bytes of memory that one process of the preprocessing may need, for workers of a cluster."""
LEAST: Final = 3 * 2**28
"""Bytes of memory without which nothing can be done; what a run takes is told by its header."""
GROUP: Final = 16
"""Preprocessed runs that go through the models together; after each group reports are written."""


def run_app(
    settings: Settings,
    *,
    engines: Engines | None = None,
    notes: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> AppResult:
    """Do what one call of the command asks for.

    Parameters
    ----------
    settings : Settings
        Of the call.
    engines : Engines, optional
        The doors to the pipelines; the real ones by default.
    notes : sequence of str
        What to log at the start.
    given : mapping, optional
        What the user gave, by field name: paths are kept as they were typed.

    Returns
    -------
    AppResult
        What was done, and the exit code of the worst run.

    Raises
    ------
    AppError
        If nothing could be started.
    """
    begin = time.monotonic()
    strict = settings.execution.privacy == "strict"
    engines = engines or real_engines(viewer=settings.execution.report_viewer, strict=strict)
    # The group level works from the output folder alone: the raw dataset may be gone.
    if settings.level != "group" or settings.bids_dir.exists():
        check_dataset(settings.bids_dir, skip=settings.execution.skip_bids_validation)
    dry = settings.execution.dry_run
    check_output_dir(
        settings.output_dir, settings.bids_dir, settings.execution.work_dir, create=not dry
    )
    check_owner(settings.output_dir)
    if dry:
        return _participant_level(settings, engines, begin)
    remove_abandoned(settings.output_dir)
    rules = rules_of(settings, strict=strict)
    with to_file(settings.output_dir / "logs", rules):
        keep_settings(settings, given or {}, rules=rules)
        for note in notes:
            log.info("%s", note)
        if settings.execution.reports_only:
            return _reports_only(settings, engines, begin)
        if settings.level == "group":
            return run_group(settings, engines, begin)
        return _participant_level(settings, engines, begin)


def _participant_level(settings: Settings, engines: Engines, begin: float) -> AppResult:
    execution, resources = settings.execution, detect()
    resources_plan = plan(
        resources,
        nprocs=execution.nprocs,
        nthreads=execution.omp_nthreads,
        memory=execution.memory,
        per_process=LEAST,
    )
    models, missing = _find_models(settings, engines) if settings.runs_models else ((), {})
    with stage("dataset", "find runs"):
        # A dry run writes nothing, and removes nothing.
        forget = None if execution.dry_run else partial(forget_renamed, root=settings.output_dir)
        found = find_runs(settings, look=forget)
    if not execution.skip_bids_validation:
        _validate(settings, found)
    with ExitStack() as stack:
        scratch = series = settings.output_dir
        if not execution.dry_run:
            _say_without_models(settings, found)
            scratch, series = _open_scratch(settings, stack)
        call = Call(
            settings=settings,
            engines=engines,
            ledger=Ledger(
                settings.output_dir,
                rules_of(settings, strict=settings.execution.privacy == "strict"),
                planning=execution.dry_run,
            ),
            plan=resources_plan,
            models=models,
            missing=missing,
            scratch=scratch,
            series_dir=series,
        )
        if settings.science.describe:
            _check_describing(call)
        if execution.dry_run:
            return AppResult(lines=tuple(describe_plan(found, call, resources)), written=False)
        describe_output(
            settings.output_dir, {k: v for k, v in call.roots.items() if k}, rules=call.rules
        )
        return _work(refuse(found, call), call, begin)


def _work(found: Found, call: Call, begin: float) -> AppResult:
    """Work through the participants; none of them stops the others."""
    tell(Planned(names=_names(found, call), memory=call.plan.memory))
    results = [failed(name, error, call) for name, error in found.failed.items()]
    outcomes: list[Outcome] = []
    if not (call.stops and results):
        groups = _groups(found.participants, most=1 if call.stops else GROUP)
        executor = call.settings.execution.executor
        outcomes = work_through(groups, call, executor=executor, per_process=PER_PROCESS)
    results += [result for outcome in outcomes for result in outcome.results]
    pages = [page for outcome in outcomes for page in outcome.pages]
    written = any(outcome.written for outcome in outcomes)
    written = written or any(result.status != "reused" for result in results)
    return AppResult(
        runs=tuple(sorted(results, key=lambda result: result.name)),
        paths=tuple(pages),
        seconds=time.monotonic() - begin,
        written=written,
    )


def _names(found: Found, call: Call) -> tuple[str, ...]:
    """Name all runs, and where only the anatomy is wanted the participants."""
    if call.settings.selection.anat_only:
        return tuple(f"sub-{participant.label}" for participant in found.participants)
    names: list[str] = []
    for participant in found.participants:
        names += [run.name for run in participant.raw]
        names += [item.name for item in participant.precomputed]
    return tuple(names)


def _groups(participants: Iterable[Participant], *, most: int) -> Iterator[list[Participant]]:
    """Put participants together whose runs are all preprocessed, up to so many runs."""
    group: list[Participant] = []
    for participant in participants:
        n_runs = sum(len(other.precomputed) for other in [*group, participant])
        if group and (participant.raw or group[0].raw or n_runs > most):
            yield group
            group = []
        group.append(participant)
    if group:
        yield group


def _find_models(
    settings: Settings, engines: Engines
) -> tuple[tuple[ModelFiles, ...], dict[str, AppError]]:
    """Find the models' files; a model that lacks them fails alone if others are left."""
    science = settings.science
    named = {
        "--weights": science.weights,
        "--atlas": science.atlas,
        "--parcel-statistics": science.parcel_statistics,
    }
    models: list[ModelFiles] = []
    missing: dict[str, AppError] = {}
    for name in dict.fromkeys(science.models):
        try:
            models.append(engines.find_model(name, science))
        except NoInputError as error:
            missing[name] = error
            log.warning("%s", error.what)
    known = {*science.models, *(files.card.name for files in models)}
    for option, given in named.items():
        for name in given:
            if name not in known:
                raise UsageError(
                    f"{option} {name}=...: the model {name!r} is not among --models "
                    f"{' '.join(science.models)}",
                    fix=closest(name, sorted(known)) or f"add it: --models {name}",
                )
    if not models:
        raise next(iter(missing.values()))
    return tuple(models), missing


def _check_describing(call: Call) -> None:
    """Refuse a parcellation without networks, or a wrong reference, before hours of work."""
    from neurostorm_app.bids_app.participant.parcellations import find_parcellations

    find_parcellations(call)


def _validate(settings: Settings, found: Found) -> None:
    raw = list_participants(settings.bids_dir)
    wanted = {participant.label for participant in found.participants}
    wanted |= {name.partition("_")[0].removeprefix("sub-") for name in found.failed}
    labels = [label for label in raw if label in wanted]
    if labels:
        with stage("dataset", "validate"):
            validate(settings.bids_dir, labels, everyone=len(labels) == len(raw))


def _say_without_models(settings: Settings, found: Found) -> None:
    """Say once why no model is run, where none is."""
    science, raw = settings.science, any(p.raw for p in found.participants)
    if settings.selection.anat_only:
        log.warning("models are not run: --anat-only makes no series")
    elif not settings.runs_models:
        log.warning("models are not run: --level %s makes no series", science.output_level)
    elif raw and not science.has_standard:
        log.warning("models are not run: no standard space is among --output-spaces")


def _open_scratch(settings: Settings, stack: ExitStack) -> tuple[Path, Path]:
    """Make the scratch folder, and one on the disk of the results for series.

    Ours go away by themselves; what was put into a scratch folder that was given stays.
    """
    given = settings.execution.work_dir
    ours = stack.enter_context(open_scratch(settings.output_dir))
    if given is None:
        return ours / "scratch", ours / "series"
    given.mkdir(parents=True, exist_ok=True)
    if settings.execution.clean_workdir:
        remove_abandoned(given)
        return stack.enter_context(open_scratch(given)), ours / "series"
    return Path(tempfile.mkdtemp(prefix="neurostorm-", dir=given)), ours / "series"


def _reports_only(settings: Settings, engines: Engines, begin: float) -> AppResult:
    """Write the pages again from what is in the output folder."""
    root = settings.output_dir
    if settings.level == "group":
        page = engines.write_group_page(root)
        return AppResult(paths=(page,), seconds=time.monotonic() - begin)
    wanted = settings.selection.participant_label
    labels = [label for label in _participants_with_results(root) if not wanted or label in wanted]
    if not labels:
        raise NothingSelectedError(
            f"{root} holds no results of the participants asked for",
            fix="run the participant level first, or check --participant-label",
        )
    ledger = Ledger(root, rules_of(settings, strict=settings.execution.privacy == "strict"))
    pages = tuple(write_page(label, ledger, engines, again=True)[0] for label in labels)
    return AppResult(paths=pages, seconds=time.monotonic() - begin)


def _participants_with_results(root: Path) -> list[str]:
    return [label for label in list_participants(root) if (root / f"sub-{label}").is_dir()]
