"""The named ways to take noise off a series, as data: columns, censoring and band of each.

Names and columns are those of nilearn (``simple``, ``scrubbing``) and of XCP-D (``24P``, ``36P``,
``acompcor``, ``none``), so that a paper that cites one of them says what was done here.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["COSINE_HZ", "STRATEGIES", "Band", "Censoring", "Strategy", "choose_strategies"]

Terms = Literal["basic", "derivatives", "power2", "full"]

COSINE_HZ: Final = 1 / 128
"""The cosines of the confounds table span what is slower than one wave in 128 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Censoring:
    """Which volumes are left out.

    Parameters
    ----------
    fd : float
        Framewise displacement in mm above which a volume is left out.
    std_dvars : float or None
        Standardised DVARS above which it is; None does not look at it.
    segment : int
        A stretch of fewer volumes between two that are left out goes too; 0 keeps all.
    """

    fd: float = 0.5
    std_dvars: float | None = 1.5
    segment: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What a Butterworth filter lets pass, in both directions so that nothing is delayed.

    Parameters
    ----------
    high_pass, low_pass : float or None
        Lowest and highest frequency, Hz; None does not filter there.
    order : int
        Of the filter.
    """

    high_pass: float | None = None
    low_pass: float | None = None
    order: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """What is taken off a series.

    Parameters
    ----------
    name : str
        Letters, digits and ``+``: a label in names of files.
    motion, wm_csf, global_signal : str or None
        Which terms of the six motion parameters, of the two tissue means and of the global
        signal: ``basic`` is themselves, ``derivatives`` adds their backward differences, ``full``
        also the squares of both. None takes none.
    n_compcor : int or None
        Components of each of the white-matter and the CSF mask.
    cosines : bool
        Whether the cosines of the table are regressed out, a high-pass at 1/128 Hz.
    censoring : Censoring or None
        Which volumes are left out, beside initial ones that are not in steady state.
    band : Band
        The filter.
    reference : str
        Where it comes from.
    """

    name: str
    motion: Terms | None = None
    wm_csf: Terms | None = None
    global_signal: Terms | None = None
    n_compcor: int | None = None
    cosines: bool = False
    censoring: Censoring | None = None
    band: Band = Band()
    reference: str

    def arguments(self) -> dict[str, Any]:
        """Say it as ``nilearn.interfaces.fmriprep.load_confounds`` takes it."""
        parts: dict[str, Mapping[str, Any]] = {}
        # CompCor's components were computed without slow waves: nilearn wants the cosines too.
        if self.cosines or self.n_compcor is not None:
            parts["high_pass"] = {}
        for name in ("motion", "wm_csf", "global_signal"):
            if (terms := getattr(self, name)) is not None:
                parts[name] = {name: terms}
        if self.n_compcor is not None:
            parts["compcor"] = {"compcor": "anat_separated", "n_compcor": self.n_compcor}
        if (rule := self.censoring) is not None:
            # A threshold that nothing exceeds stands for one that is not looked at.
            dvars = float("inf") if rule.std_dvars is None else rule.std_dvars
            limits = {"fd_threshold": rule.fd, "std_dvars_threshold": dvars}
            parts["scrub"] = {"scrub": rule.segment, **limits}
        merged = {key: value for part in parts.values() for key, value in part.items()}
        return {"strategy": tuple(parts), **merged}

    def as_dict(self) -> dict[str, Any]:
        """Bring it to what JSON can hold."""
        return asdict(self)


_NILEARN: Final = "nilearn.interfaces.fmriprep.load_confounds_strategy; Fox et al. (2005), PNAS 102"
_CIRIC: Final = "Ciric et al. (2017), NeuroImage 154:174; XCP-D"
_XCPD: Final = Band(high_pass=0.01, low_pass=0.08)
"""What XCP-D filters by default."""

_SIMPLE: Final = Strategy(
    name="simple", motion="full", wm_csf="basic", cosines=True, reference=_NILEARN
)
_SCRUBBING: Final = Strategy(
    name="scrubbing",
    motion="full",
    wm_csf="full",
    cosines=True,
    censoring=Censoring(segment=5),
    reference="nilearn.interfaces.fmriprep.load_confounds_strategy; Power et al. (2012), "
    "NeuroImage 59:2142",
)
_ACOMPCOR: Final = Strategy(
    name="acompcor",
    motion="derivatives",
    n_compcor=5,
    cosines=True,
    reference="Behzadi et al. (2007), NeuroImage 37:90; columns as in XCP-D",
)
_36P: Final = Strategy(
    name="36P",
    motion="full",
    wm_csf="full",
    global_signal="full",
    band=_XCPD,
    reference=f"Satterthwaite et al. (2013), NeuroImage 64:240; {_CIRIC}",
)
STRATEGIES: Final[Mapping[str, Strategy]] = {
    strategy.name: strategy
    for strategy in (
        _SIMPLE,
        replace(_SIMPLE, name="simple+gsr", global_signal="basic"),
        _SCRUBBING,
        replace(_SCRUBBING, name="scrubbing+gsr", global_signal="full"),
        _ACOMPCOR,
        replace(_ACOMPCOR, name="acompcor+gsr", global_signal="basic"),
        Strategy(
            name="24P",
            motion="full",
            band=_XCPD,
            reference=f"Friston et al. (1996), Magn Reson Med 35:346; {_CIRIC}",
        ),
        _36P,
        replace(_36P, name="36P+scrub", censoring=Censoring()),
        Strategy(name="none", band=_XCPD, reference="XCP-D"),
    )
}
"""All strategies by name."""


def choose_strategies(
    names: Iterable[str],
    *,
    high_pass: float | None = None,
    low_pass: float | None = None,
    fd: float | None = None,
    std_dvars: float | None = None,
) -> tuple[Strategy, ...]:
    """Find strategies by name and change what the user wants otherwise.

    Parameters
    ----------
    names : iterable of str
        Names of `STRATEGIES`; a name that stands twice counts once.
    high_pass, low_pass : float, optional
        Hz, instead of the strategy's own; 0 switches the filter off. Cosines of a strategy stay
        unless the high-pass covers what they span.
    fd, std_dvars : float, optional
        Thresholds of strategies that leave volumes out, mm and 1.

    Returns
    -------
    tuple of Strategy
        In the order of the names.

    Raises
    ------
    UsageError
        If there is no strategy of a name, or the band is empty.

    Examples
    --------
    >>> choose_strategies(["36P"], low_pass=0.1)[0].band
    Band(high_pass=0.01, low_pass=0.1, order=2)
    """
    chosen = []
    for name in dict.fromkeys(names):
        strategy = _find(name)
        band = _change_band(strategy.band, high_pass, low_pass)
        covered = band.high_pass is not None and band.high_pass >= COSINE_HZ
        rule = strategy.censoring
        if rule is not None:
            rule = replace(rule, fd=fd if fd is not None else rule.fd)
            if std_dvars is not None and rule.std_dvars is not None:
                rule = replace(rule, std_dvars=std_dvars)
        chosen.append(
            replace(strategy, band=band, censoring=rule, cosines=strategy.cosines and not covered)
        )
    return tuple(chosen)


def _find(name: str) -> Strategy:
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=3, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"there is no strategy {name!r} to denoise by",
            fix=f"{guess}there are {', '.join(STRATEGIES)}",
        )
    return STRATEGIES[name]


def _change_band(band: Band, high_pass: float | None, low_pass: float | None) -> Band:
    high = band.high_pass if high_pass is None else high_pass or None
    low = band.low_pass if low_pass is None else low_pass or None
    if high is not None and low is not None and high >= low:
        raise UsageError(
            f"no frequency passes both a high-pass at {high:g} Hz and a low-pass at {low:g} Hz",
            fix="give a low-pass above the high-pass, or 0 to switch one of them off",
        )
    return replace(band, high_pass=high, low_pass=low)
