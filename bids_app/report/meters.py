"""Numbers of a run on scales that say at a glance what is good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.report.verdict import LIMITS

if TYPE_CHECKING:
    from neurostorm_app.bids_app.report.verdict import Measures

__all__ = ["Meter", "meters_of"]


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A number on a scale.

    Parameters
    ----------
    label, value, unit : str
        What is written.
    at : float
        Where it is, from 0 to 1 of the scale.
    zones : tuple of float
        Where "look" and "bad" begin, from 0 to 1; the first is above the second where more is
        better.
    """

    label: str
    value: str
    unit: str
    at: float
    zones: tuple[float, float]

    @property
    def ascending(self) -> bool:
        """More is worse."""
        return self.zones[0] <= self.zones[1]


def meters_of(measures: Measures) -> list[Meter]:
    """Make the meters of what is known of a run; what is not known has none."""
    known = (
        ("Mean motion (FD)", measures.mean_fd, 0.8, "mm", LIMITS["mean_fd"], ".2f"),
        ("Volumes > 0.5 mm", measures.share_high, 0.8, "%", LIMITS["share_high"], ".0%"),
        ("Coverage", measures.coverage, 1.0, "%", LIMITS["coverage"], ".0%"),
        ("BOLD on T1w (Dice)", measures.dice, 1.0, "", LIMITS["dice"], ".2f"),
        ("Median tSNR", measures.tsnr, 120.0, "", LIMITS["tsnr"], ".0f"),
        ("Quiet data", measures.quiet_minutes, 12.0, "min", LIMITS["minutes"], ".1f"),
    )
    return [
        Meter(
            label=label,
            value=format(value, spec).removesuffix("%"),
            unit=unit,
            at=min(max(value / full, 0.0), 1.0),
            zones=(low / full, high / full),
        )
        for label, value, full, unit, (low, high), spec in known
        if value is not None
    ]
