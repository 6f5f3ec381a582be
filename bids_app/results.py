"""What came of a call: one result a run, one for all, and the lines that tell the user."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from neurostorm_app.bids_app.failures import as_app_error, worst
from neurostorm_app.pipelines.progress import Event, tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from neurostorm_app.errors import AppError, ExitCode

__all__ = ["AppResult", "Progress", "RunResult", "StageTime", "contained", "tell_result"]

log = logging.getLogger(__name__)

Status = Literal["done", "reused", "failed"]


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of a run that was really done.

    Parameters
    ----------
    name : str
        Such as ``preprocess`` or ``embed connectome``.
    seconds : float
        Wall time.
    """

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What came of one run.

    Parameters
    ----------
    name : str
        The label of the run, or of the participant if none of its runs could be named.
    status : str
        ``done`` if anything was computed, ``reused`` if all results were there.
    errors : tuple of AppError
        What failed; other stages of the run may have succeeded.
    stages : tuple of StageTime
        What was computed.
    outputs : tuple of str
        Files in the output folder, made or taken.
    models : tuple of str
        Models that the run is embedded with.
    quality : mapping or None
        What the preprocessing thinks of the run: ``verdict`` (pass, look or fail) and reasons. It
        changes neither status nor exit code.
    """

    name: str
    status: Status
    errors: tuple[AppError, ...] = ()
    stages: tuple[StageTime, ...] = ()
    outputs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    quality: Mapping[str, Any] | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The code of the worst error."""
        return worst(error.exit_code for error in self.errors)

    def as_dict(self) -> dict[str, Any]:
        """Bring the result to what JSON can hold."""
        errors = [
            {"what": e.what, "fix": e.fix, "exit_code": int(e.exit_code), "kind": type(e).__name__}
            for e in self.errors
        ]
        return {
            "run": self.name,
            "status": self.status,
            "exit_code": int(self.exit_code),
            "error": errors[0] if errors else None,
            "errors": errors,
            "stages": [{"name": s.name, "seconds": round(s.seconds, 2)} for s in self.stages],
            "outputs": list(self.outputs),
            "models": list(self.models),
            "quality": None if self.quality is None else dict(self.quality),
        }


@dataclass(slots=True)
class Progress:
    """What has happened to one run so far.

    Parameters
    ----------
    name : str
        The label of the run.
    """

    name: str
    errors: list[AppError] = field(default_factory=list)
    stages: list[StageTime] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    quality: Mapping[str, Any] | None = None

    def result(self) -> RunResult:
        """Close the run."""
        done: Status = "done" if self.stages else "reused"
        return RunResult(
            name=self.name,
            status="failed" if self.errors else done,
            errors=tuple(self.errors),
            stages=tuple(self.stages),
            outputs=tuple(dict.fromkeys(self.outputs)),
            models=tuple(self.models),
            quality=self.quality,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AppResult:
    """What came of a call.

    Parameters
    ----------
    runs : tuple of RunResult
        One a run, in the order of their names; empty at the group level.
    paths : tuple of Path
        The reports, and at the group level also the tables and indices.
    seconds : float
        Wall time.
    written : bool
        Whether anything was written.
    lines : tuple of str
        Further lines for the user, such as the plan of a dry run.
    """

    runs: tuple[RunResult, ...] = ()
    paths: tuple[Path, ...] = ()
    seconds: float = 0.0
    written: bool = True
    lines: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """The code of the worst run."""
        return worst(run.exit_code for run in self.runs)

    def summary(self) -> str:
        """Say what was done, what was taken, what failed, and where the reports are."""
        lines = list(self.lines)
        if self.runs:
            counts = {
                s: sum(run.status == s for run in self.runs) for s in ("done", "reused", "failed")
            }
            if counts["reused"] == len(self.runs):
                n = len(self.runs)
                have = "1 run has its" if n == 1 else f"{n} runs have their"
                pages = "; the reports were written again" if self.written else ""
                lines.append(f"nothing to do: {have} results already{pages}")
            else:
                told = ", ".join(f"{n} {status}" for status, n in counts.items())
                runs = "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs"
                lines.append(f"{runs}: {told}, in {self.seconds:.1f} s")
        lines += self._quality()
        for run in self.runs:
            for error in run.errors:
                lines.append(f"failed: {run.name}: {error.what} [exit code {int(error.exit_code)}]")
                lines.append(f"  what to do: {error.fix}")
        lines += [f"see {path}" for path in self.paths]
        return "\n".join(lines)

    def _quality(self) -> list[str]:
        """Say which runs are to be looked at, as far as it was judged."""
        verdicts = {run.name: run.quality["verdict"] for run in self.runs if run.quality}
        if not verdicts:
            return []
        counts = {word: list(verdicts.values()).count(word) for word in ("pass", "look", "fail")}
        told = ", ".join(f"{n} {word}" for word, n in counts.items())
        bad = [name for name, word in verdicts.items() if word == "fail"]
        return [f"quality: {told}" + (f" ({', '.join(bad)})" if bad else "")]


def tell_result(result: RunResult) -> None:
    """Tell that a run is at its end; of one that failed, the failure was logged before."""
    tell(Event(name=result.name, stage=result.status, state="closed"))
    if result.status == "done":
        stages = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in result.stages)
        log.info("%s: done: %s", result.name, stages)


@contextlib.contextmanager
def contained(*progress: Progress) -> Iterator[None]:
    """Keep an error where it belongs, so that other runs go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  one run is not another
        failure = as_app_error(error)
        for run in progress:
            log.warning("%s failed: %s", run.name, failure.what)
            run.errors.append(failure)
