"""What is known of one acquisition, in paths and numbers: no BIDS below this line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["InputOptions", "Run", "StandardSeries"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """What the user may change about how a run is made ready for a model.

    Parameters
    ----------
    clip_policy : {'dense', 'upstream-eval'}
        Every volume in some window, or one window every 400 volumes.
    parity : {'none', 'upstream'}
        ``upstream`` prepares volumes by upstream's own arithmetic, for comparison.
    statistics : Path or None
        Statistics of the parcels of a cohort; None takes those of the run.
    gain : float
        Factor on the scaled series of parcels.
    """

    clip_policy: Literal["dense", "upstream-eval"] = "dense"
    parity: Literal["none", "upstream"] = "none"
    statistics: Path | None = None
    gain: float = 1.0
