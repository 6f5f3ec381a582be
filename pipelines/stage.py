"""What is known of one acquisition, in paths and numbers: no BIDS below this line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Fieldmap", "InputOptions", "OutputSpace", "Run", "Scan", "StandardSeries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpace:
    """A space and grid on which series are wanted.

    Parameters
    ----------
    name : str
        ``native`` (the BOLD reference's own grid), ``T1w``, or a TemplateFlow name.
    res : str or None
        TemplateFlow's resolution index of a standard space; None elsewhere.

    Examples
    --------
    >>> OutputSpace(name="MNI152NLin6Asym", res="2").label
    'MNI152NLin6Asym:res-2'
    """

    name: str
    res: str | None = None

    @property
    def is_standard(self) -> bool:
        """Whether it is the space of a template."""
        return self.name not in {"native", "T1w"}

    @property
    def label(self) -> str:
        """How it is written on the command line and in names of roles."""
        return self.name if self.res is None else f"{self.name}:res-{self.res}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """An image as acquired, and its sidecar.

    Parameters
    ----------
    path : Path
        NIfTI.
    metadata : mapping
        The sidecar with BIDS inheritance applied.
    """

    path: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fieldmap:
    """Images from which the unevenness of the magnetic field can be told.

    Parameters
    ----------
    name : str
        Letters and digits; the ``fmapid`` of its derivatives.
    kind : {'pepolar', 'phasediff', 'phases', 'direct'}
        EPIs of two or more phase encodings; the difference of two phases; two phases; a map in
        Hz (or rad/s or T, as its ``Units`` say).
    scans : tuple of Scan
        ``pepolar``: the EPIs. ``phasediff``: the difference, then one or two magnitudes.
        ``phases``: first and second phase, then one or two magnitudes. ``direct``: the map, then
        its magnitude.
    """

    name: str
    kind: Literal["pepolar", "phasediff", "phases", "direct"]
    scans: tuple[Scan, ...]


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
    echoes : tuple of Scan
        All echoes in the order of their ``EchoTime`` (s), if there are several; the first is
        `bold`.
    sbref : Scan or None
        Single-band reference of the run (of its first echo).
    fieldmap : Fieldmap or None
        What its distortion can be told from.
    notes : tuple of str
        What was looked for and is not there, or was not used, and why.
    """

    name: str
    participant: str
    bold: Path
    tr: float
    metadata: Mapping[str, Any] = field(default_factory=dict)
    echoes: tuple[Scan, ...] = ()
    sbref: Scan | None = None
    fieldmap: Fieldmap | None = None
    notes: tuple[str, ...] = ()


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
    max_windows : int or None
        Most windows that are embedded, where a model has windows of several volumes: those that
        tell most of the others (`pipelines.salience`); None embeds all.
    """

    clip_policy: Literal["dense", "upstream-eval"] = "dense"
    parity: Literal["none", "upstream"] = "none"
    statistics: Path | None = None
    gain: float = 1.0
    max_windows: int | None = None
