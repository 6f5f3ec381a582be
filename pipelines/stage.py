"""What is known of one acquisition, in paths and numbers: no BIDS below this line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Run", "StandardSeries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One BOLD acquisition and all that is known of it.

    Parameters
    ----------
    name : str
        Its label in logs, keys and tables, such as ``sub-01_task-rest_run-1``.
    participant : str
        The participant's label, without ``sub-``.
    bold : Path
        The series as acquired, (X, Y, Z, T), native space.
    tr : float
        Repetition time in seconds, from the sidecar.
    metadata : mapping
        The sidecar with BIDS inheritance applied.
    """

    name: str
    participant: str
    bold: Path
    tr: float
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardSeries:
    """A preprocessed run in a standard space: what the models' pipelines start from.

    Parameters
    ----------
    name : str
        The label of the run.
    bold : Path
        The series (X, Y, Z, T) in `space`.
    mask : Path or None
        Brain mask on the grid of `bold`.
    confounds : Path or None
        fMRIPrep's ``desc-confounds_timeseries.tsv``, one row a volume.
    tr : float
        Repetition time in seconds.
    space, res : str
        TemplateFlow name and resolution index, such as ``MNI152NLin6Asym`` and ``2``.
    """

    name: str
    bold: Path
    mask: Path | None
    confounds: Path | None
    tr: float
    space: str
    res: str
