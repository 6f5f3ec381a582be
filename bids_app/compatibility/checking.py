"""Check a folder for all who may go on from it, and refuse it to who asks for more.

Names are listed, and of files no more is read than JSON, headers and first rows. That a table has
a row for each volume, or that voxels are sound, is not seen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.compatibility.contents import Contents
from neurostorm_app.bids_app.compatibility.folder import find_runs, list_folder
from neurostorm_app.bids_app.compatibility.of_fitlins import FITLINS
from neurostorm_app.bids_app.compatibility.of_fmriprep import FMRIPREP
from neurostorm_app.bids_app.compatibility.of_giga import GIGA
from neurostorm_app.bids_app.compatibility.of_models import model_consumers
from neurostorm_app.bids_app.compatibility.of_nilearn import NILEARN
from neurostorm_app.bids_app.compatibility.of_validator import VALIDATOR
from neurostorm_app.bids_app.compatibility.of_xcpd import XCPD
from neurostorm_app.bids_app.compatibility.verdicts import Verdict
from neurostorm_app.bids_app.words.values import closest
from neurostorm_app.errors import DataError, NoInputError, NothingSelectedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.compatibility.verdicts import Consumer

__all__ = ["TOOLS", "Asked", "Report", "check_folder", "read_asked", "require"]

TOOLS: Final = (NILEARN, XCPD, GIGA, FITLINS, FMRIPREP, VALIDATOR)
"""Tools of others; our models come from their cards."""
GROUPS: Final = ("all", "models")
"""Words of ``--require`` that stand for several: the tools that are asked without being named,
and every model."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A consumer whose acceptance is required, or one use of it.

    Parameters
    ----------
    consumer : str
        Its name.
    use : str or None
        Such as ``36P``; None for all that are not optional.
    """

    consumer: str
    use: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of each run.

    Parameters
    ----------
    root : Path
        The folder.
    consumers : tuple of Consumer
        Who was asked: tools, then models.
    runs : mapping
        By the name of the run: the verdict of each consumer by its name.
    strange : tuple of str
        Paths that were left out, since their names are not BIDS.
    """

    root: Path
    consumers: tuple[Consumer, ...]
    runs: Mapping[str, Mapping[str, Verdict]]
    strange: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Write it as JSON takes it."""
        return {
            "folder": str(self.root),
            "consumers": {one.name: {"title": one.title, "versions": one.versions}
                          for one in self.consumers},
            "runs": {run: {name: verdict.as_json() for name, verdict in verdicts.items()}
                     for run, verdicts in self.runs.items()},
            "left_out": list(self.strange),
        }  # fmt: skip


def read_asked(words: Iterable[str]) -> tuple[Asked, ...]:
    """Read the words of ``--require``: names of consumers, or ``NAME:USE``.

    Raises
    ------
    UsageError
        If there is no such consumer.
    """
    models = [one.name for one in model_consumers()]
    names = [one.name for one in TOOLS] + models
    asked = []
    for word in words:
        name, _, use = word.partition(":")
        several = {"all": [one.name for one in TOOLS if one.usual], "models": models}.get(word)
        if several is None and name not in names:
            raise UsageError(
                f"--require: {name!r} is no tool and no model that is judged",
                fix=closest(name, [*names, *GROUPS]) or f"use {', '.join([*GROUPS, *names])}",
            )
        asked += [Asked(one) for one in several] if several else [Asked(name, use or None)]
    return tuple(asked)


def check_folder(root: Path, labels: Sequence[str] = (), asked: Sequence[Asked] = ()) -> Report:
    """Look what each consumer lacks of each run of a derivative.

    Parameters
    ----------
    root : Path
        The derivative, with the ``sub-`` folders in it.
    labels : sequence of str
        Participants; all by default.
    asked : sequence of Asked
        Consumers that are asked only by name are asked if they are here.

    Returns
    -------
    Report
        Verdicts of all runs.

    Raises
    ------
    NoInputError
        If there is no such folder, or no run in it.
    NothingSelectedError
        If one of the participants has no run, and others have.
    """
    if not root.is_dir():
        raise NoInputError(f"{root} is no folder", fix="check the path; is it mounted?")
    folder = list_folder(root, labels)
    runs = find_runs(folder)
    here = {run.participant for run in runs}
    lacking = [label for label in labels if label not in here]
    others = here | {run.participant for run in find_runs(list_folder(root))} if lacking else here
    if lacking and others:
        raise NothingSelectedError(
            f"{root} holds no BOLD run of a derivative of participant {lacking[0]!r}",
            fix=closest(lacking[0], sorted(others)) or "check --participant-label",
        )
    if not runs:
        raise NoInputError(
            f"{root} holds no BOLD run of a derivative; expected sub-*/[ses-*/]func/",
            fix="give the folder with the sub- folders in it",
        )
    named = {one.consumer for one in asked}
    consumers = (*(one for one in TOOLS if one.usual or one.name in named), *model_consumers())
    contents = Contents(folder)
    judges = {one.name: one.judge(contents) for one in consumers}
    found = {
        run.name: {name: Verdict(judge(run)) for name, judge in judges.items()} for run in runs
    }
    return Report(root, consumers, found, tuple(folder.strange))


def require(report: Report, asked: Iterable[Asked]) -> None:
    """Refuse a folder of which a required consumer does not accept every run.

    Raises
    ------
    DataError
        If one does not.
    UsageError
        If a consumer has no such use.
    """
    refusals = []
    for one in asked:
        lacking = {
            run: missing
            for run, verdicts in report.runs.items()
            if (missing := _lacking(verdicts[one.consumer], one))
        }
        if lacking:
            run, missing = next(iter(lacking.items()))
            use = f":{one.use}" if one.use else ""
            refusals.append(
                f"{one.consumer}{use} accepts {len(report.runs) - len(lacking)} of "
                f"{len(report.runs)} runs; {run} lacks {missing[0]}"
            )
    if refusals:
        raise DataError(
            "the derivative does not hold what is required: " + "; ".join(refusals),
            fix="make what is missing; --json lists all of it",
        )


def _lacking(verdict: Verdict, asked: Asked) -> tuple[object, ...]:
    if asked.use is None:
        return verdict.lacking
    uses = {use.name: use.lacking for use in verdict.uses}
    if asked.use not in uses:
        raise UsageError(
            f"--require: {asked.consumer} is not judged by its use {asked.use!r}",
            fix=closest(asked.use, uses) or f"its uses are {', '.join(uses)}",
        )
    return uses[asked.use]
