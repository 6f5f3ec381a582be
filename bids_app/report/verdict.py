"""Can I trust this scan? Numbers in, a verdict with reasons out.

Every rule is one function; thresholds and where they come from stand beside each other. A
number that is not known gives the reason "not known", never a good mark; of a run that failed
only the failure is told. Reasons of one level stand in the order of their causes: a brain that
is off its template covers less of it.

References
----------
Parkes et al. (2018), NeuroImage 171: exclusion at a mean framewise displacement of 0.55 mm
(lenient) or 0.25 mm (strict). Power et al. (2012), NeuroImage 59: volumes above 0.5 mm.
Satterthwaite et al. (2013), NeuroImage 64: at least four minutes of quiet data for connectivity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from neurostorm_app.bids_app.report.verdict_kinds import RANK, Level, Reason, Verdict
from neurostorm_app.bids_app.report.verdict_said import (
    weigh_contracts,
    weigh_neighbours,
    weigh_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from neurostorm_app.bids_app.report.standing import Standing

__all__ = ["FD_HIGH", "LIMITS", "Level", "Measures", "Reason", "Verdict", "judge", "overall"]


FD_HIGH = 0.5
"""A volume above this framewise displacement (mm) counts as moved."""
LIMITS: dict[str, tuple[float, float]] = {
    "mean_fd": (0.25, 0.55),
    "share_high": (0.20, 0.50),
    "coverage": (0.90, 0.75),
    "dice": (0.85, 0.70),
    "tsnr": (25.0, 0.0),
    "minutes": (4.0, 0.0),
    "edge_cost": (0.7, 1.0),
    "likeness": (0.75, 0.6),
}
"""Where "look" and "bad" begin: above the limit where less is better, below it elsewhere. The last
two are drawn only: the registrations judge themselves, by these numbers and others, and a
derivative of another app has none of them."""
_FD_JUMP = 5.0


@dataclass(kw_only=True)
class Measures:
    """What is known of a run in numbers; None is not known.

    Parameters
    ----------
    mean_fd, max_fd : float or None
        Framewise displacement, mm.
    share_high : float or None
        Share of volumes above 0.5 mm.
    minutes, quiet_minutes : float or None
        Length of the run, and of its volumes at or below 0.5 mm.
    coverage : float or None
        Share of the reference brain mask that the run's mask covers.
    coverage_of : str
        What that reference is.
    dice : float or None
        Overlap of the run's brain mask with the participant's own anatomical one in the
        standard space.
    tsnr : float or None
        Median temporal signal-to-noise ratio in grey matter or, without tissues, the brain.
    edge_cost : float or None
        How badly the border of the white matter lies on the edges of the BOLD reference: 0 is
        perfect, 1 is chance.
    likeness : float or None
        Correlation of the participant's brain with the template's, after normalisation.
    error : dict
        What failed and what to do, if the run failed.
    """

    mean_fd: float | None = None
    max_fd: float | None = None
    share_high: float | None = None
    minutes: float | None = None
    quiet_minutes: float | None = None
    coverage: float | None = None
    coverage_of: str = "brain"
    dice: float | None = None
    tsnr: float | None = None
    edge_cost: float | None = None
    likeness: float | None = None
    error: dict[str, Any] = field(default_factory=dict)

    def forget_infinite(self) -> None:
        """Make None of numbers that are not finite: those were not measured, and have no place."""
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                setattr(self, name, None)


def judge(
    measures: Measures,
    *,
    qc: Mapping[str, Any],
    contracts: Mapping[str, Mapping[str, Any]],
    standings: Iterable[Standing] = (),
) -> Verdict:
    """Weigh what is known of a run.

    Parameters
    ----------
    measures : Measures
        Numbers.
    qc : mapping
        Quality records of the preprocessing; each ``verdict`` in it, however deep, counts.
    contracts : mapping
        Model to its record of how far the run met what the model eats: ``met`` and ``reasons``.
    standings : iterable of Standing
        Where the run stands among the others, by model; none if the group level has not run.
    """
    reasons = [
        *_failure(measures),
        *_motion(measures),
        *_length(measures),
        *weigh_records(qc),
        *_registration(measures),
        *_coverage(measures),
        *_signal(measures),
        *weigh_contracts(contracts),
        *weigh_neighbours(standings),
    ]
    reasons.sort(key=lambda reason: -RANK[reason.level])
    level = max((reason.level for reason in reasons), key=RANK.__getitem__, default=Level.UNKNOWN)
    return Verdict(level=level, reasons=tuple(reasons))


def overall(levels: list[Level]) -> Level:
    """Take the worst of several levels; nothing is not known."""
    return max(levels, key=RANK.__getitem__, default=Level.UNKNOWN)


def _grade(name: str, value: float) -> Level:
    """Grade a number by its limits."""
    check, bad = LIMITS[name]
    sign = 1 if check <= bad else -1
    if sign * value > sign * bad:
        return Level.BAD
    return Level.CHECK if sign * value > sign * check else Level.GOOD


def _is_known(value: float | None) -> TypeGuard[float]:
    """Tell whether there is a number; one that is not finite was not measured."""
    return value is not None and math.isfinite(value)


def _not_known(m: Measures, topic: str, why: str) -> Iterator[Reason]:
    if not m.error:
        yield Reason(level=Level.UNKNOWN, topic=topic, text=f"Not known: {why}.")


def _failure(m: Measures) -> Iterator[Reason]:
    if m.error:
        yield Reason(
            level=Level.FAILED, topic="Run", text=str(m.error.get("what") or "the run failed")
        )


def _motion(m: Measures) -> Iterator[Reason]:
    if not (_is_known(m.mean_fd) and _is_known(m.share_high) and _is_known(m.max_fd)):
        why = "there is no table of confounds with framewise displacement"
        yield from _not_known(m, "Motion", why)
        return
    words = {
        Level.GOOD: "The head was quiet",
        Level.CHECK: "The head moved noticeably",
        Level.BAD: "The head moved too much",
    }
    level = max(
        _grade("mean_fd", m.mean_fd),
        _grade("share_high", m.share_high),
        key=RANK.__getitem__,
    )
    yield Reason(
        level=level,
        topic="Motion",
        text=(
            f"{words[level]}: mean framewise displacement {m.mean_fd:.2f} mm, "
            f"{m.share_high:.0%} of volumes above {FD_HIGH} mm."
        ),
    )
    if m.max_fd > _FD_JUMP:
        yield Reason(
            level=Level.CHECK,
            topic="Motion",
            text=f"One jump of {m.max_fd:.1f} mm: look at the volumes around it.",
        )


def _length(m: Measures) -> Iterator[Reason]:
    minutes = m.quiet_minutes if m.quiet_minutes is not None else m.minutes
    if not _is_known(minutes):
        why = "there is no repetition time, or neither a series nor a table of confounds"
        yield from _not_known(m, "Length", why)
        return
    which = "of quiet volumes" if m.quiet_minutes is not None else "of data"
    level = _grade("minutes", minutes)
    settle = "" if level is Level.GOOD else "; measures of connectivity need four or more"
    yield Reason(
        level=level,
        topic="Length",
        text=f"{minutes:.1f} minutes {which}{settle}.",
    )


def _registration(m: Measures) -> Iterator[Reason]:
    if not _is_known(m.dice):
        why = "no brain masks of BOLD and T1w in one standard space were compared"
        yield from _not_known(m, "Registration", why)
        return
    level = _grade("dice", m.dice)
    look = "" if level is Level.GOOD else " Look at the flicker of the two images."
    yield Reason(
        level=level,
        topic="Registration",
        text=f"Brain masks of BOLD and T1w overlap by a Dice coefficient of {m.dice:.2f}.{look}",
    )


def _coverage(m: Measures) -> Iterator[Reason]:
    if not _is_known(m.coverage):
        why = "no brain mask of the run was compared with a whole brain"
        yield from _not_known(m, "Coverage", why)
        return
    level = _grade("coverage", m.coverage)
    why = "Parts of the brain lie outside the field of view, or the registration is off."
    yield Reason(
        level=level,
        topic="Coverage",
        text=f"The run covers {m.coverage:.0%} of the {m.coverage_of}."
        + ("" if level is Level.GOOD else f" {why}"),
    )


def _signal(m: Measures) -> Iterator[Reason]:
    if not _is_known(m.tsnr):
        yield from _not_known(m, "Signal", "the series is not there, or was not read")
        return
    level = _grade("tsnr", m.tsnr)
    yield Reason(
        level=level,
        topic="Signal",
        text=f"Median temporal signal-to-noise ratio {m.tsnr:.0f}"
        + ("." if level is Level.GOOD else f", below {LIMITS['tsnr'][0]:.0f}."),
    )
