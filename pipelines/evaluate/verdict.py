"""What the numbers say in a sentence, by rules that stand in a table, and not a word more.

``predicts`` means: p at most 0.05 (without a permutation test, which is then said, the weaker rest
alone), and the whole interval of the metric above what guessing reaches (0 for r2, 0.5 for auroc).

=====================================================================  ===========
the source ...                                                         effect
=====================================================================  ===========
does not predict                                                       none
predicts; so do the confounds alone, and they do at least as well      confounded
predicts; so do the confounds alone, and once they are taken off the   confounded
features p is above 0.05 (without a p: it does not predict)
predicts, and neither of these                                         found
=====================================================================  ===========

The source beats another (plain functional connectivity, or the same network untrained) if it
predicts and the whole interval of their difference lies above 0; below 0 it is worse, else not
better. One that does not predict beats nothing; what cannot be told from chance is said, if known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from neurostorm_app.pipelines.evaluate.cohort import Interval

__all__ = [
    "ALPHA",
    "DEMO",
    "GUESSING",
    "Effect",
    "Finding",
    "Numbers",
    "Verdict",
    "judge",
    "judge_target",
    "predicts",
]

Effect = Literal["found", "none", "confounded"]

ALPHA = 0.05
"""A p-value up to this counts."""
GUESSING = {"r2": 0.0, "auroc": 0.5}
"""What guessing reaches, by metric."""
DEMO = "DEMO WEIGHTS, NOT FOR SCIENCE: "
"""Begins the sentence of a source whose weights learned from phantoms."""

_CONNECTIVITY = "plain functional connectivity"
_CONTROL = "the same network untrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How well something predicts.

    Parameters
    ----------
    measured : Interval
        Of the metric.
    p_value : float or None
        Of the permutation test; None if there was none.
    """

    measured: Interval
    p_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """All that a verdict rests upon.

    Parameters
    ----------
    target, source : str
        Names.
    metric : {"r2", "auroc"}
        Of all findings and differences.
    confidence : float
        Of all intervals.
    finding : Finding
        Of the source.
    confounds : Finding, optional
        Of the confounds alone, together.
    adjusted : Finding, optional
        Of the source once covariates were taken off the features.
    covariates : tuple of str
        Names of what was taken off, and is tried alone.
    over_connectome, over_control : Interval, optional
        Metric of the source less that of the other, paired.
    n_participants : int
        How many there were.
    detectable : float, optional
        Metric below which p is above 0.05 with these participants.
    demo : bool
        Whether the weights are those of a demo.
    """

    target: str
    source: str
    metric: Literal["r2", "auroc"]
    confidence: float
    finding: Finding
    n_participants: int
    confounds: Finding | None = None
    adjusted: Finding | None = None
    covariates: tuple[str, ...] = ()
    over_connectome: Interval | None = None
    over_control: Interval | None = None
    detectable: float | None = None
    demo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the numbers say of a source.

    Parameters
    ----------
    sentence : str
        In words, with the numbers.
    effect : {"found", "none", "confounded"}
        By the table of the module.
    beats_connectome, beats_control : bool or None
        Whether it is better; None if they were not compared.
    """

    sentence: str
    effect: Effect
    beats_connectome: bool | None
    beats_control: bool | None


def judge(numbers: Numbers) -> Verdict:
    """Say what the numbers say of a source; the rules are those of the module.

    Examples
    --------
    >>> from neurostorm_app.pipelines.evaluate.cohort import Interval
    >>> found = Finding(measured=Interval(value=-0.02, low=-0.1, high=0.04), p_value=0.4)
    >>> numbers = Numbers(target="score", source="connectome", metric="r2", confidence=0.9,
    ...                   finding=found, n_participants=40)
    >>> judge(numbers).sentence
    'score: connectome does not predict it (r2 -0.02, 90 % interval -0.10 to 0.04, p 0.400).'
    """
    told = f"({_tell(numbers.finding, numbers)})"
    effect = _effect(numbers)
    over = (numbers.over_connectome, numbers.over_control)
    if effect == "none":
        words = f"{numbers.source} does not predict it {told}{_missed(numbers)}"
        beats = [None if difference is None else False for difference in over]
    else:
        words = f"{numbers.source} predicts it {told}{_beside_confounds(numbers)}"
        words += _compared(over)
        beats = [None if difference is None else difference.low > 0 for difference in over]
    return Verdict(
        sentence=f"{DEMO if numbers.demo else ''}{numbers.target}: {words}.",
        effect=effect,
        beats_connectome=beats[0],
        beats_control=beats[1],
    )


def judge_target(
    target: str, verdicts: Mapping[str, Verdict], *, n_participants: int, covariates: Sequence[str]
) -> str:
    """List the sources of a target by effect, and what beats connectivity.

    Parameters
    ----------
    target : str
        Its name.
    verdicts : mapping of str to Verdict
        By source: models and the connectome, without controls and confounds.
    n_participants : int
        How many there were.
    covariates : sequence of str
        What confounded sources share with the confounds.

    Returns
    -------
    str
        One sentence.
    """
    of = {
        effect: [source for source, verdict in verdicts.items() if verdict.effect == effect]
        for effect in ("found", "confounded", "none")
    }
    people = f"{n_participants} participants"
    if not of["found"] and not of["confounded"]:
        none = _list(of["none"])
        words = _verb(of["none"], f"{none} does not predict", f"none of {none} predicts")
        return f"{target}: {words} it in {people}."
    parts = []
    if of["found"]:
        parts.append(f"predicted by {_list(of['found'])} in {people}")
    if of["confounded"]:
        begin = "" if of["found"] else f"in {people} "
        verb = _verb(of["confounded"], "predicts", "predict")
        what = f"{begin}what {_list(of['confounded'])} {verb}"
        parts.append(f"{what} cannot be told from {_list(covariates)}")
    if of["none"]:
        parts.append(f"not predicted by {_list(of['none'])}")
    compared = {
        s: v.beats_connectome for s, v in verdicts.items() if v.beats_connectome is not None
    }
    if compared:
        better = [source for source, beats in compared.items() if beats]
        none = f"no model is shown to be better than {_CONNECTIVITY}"
        parts.append(f"better than {_CONNECTIVITY}: {_list(better)}" if better else none)
    return f"{target}: {'; '.join(parts)}."


def predicts(finding: Finding, metric: str) -> bool:
    """Say whether something predicts: p at most 0.05, and the interval above guessing."""
    by_chance = finding.p_value is not None and finding.p_value > ALPHA
    return not by_chance and finding.measured.low > GUESSING[metric]


def _effect(numbers: Numbers) -> Effect:
    metric, confounds, adjusted = numbers.metric, numbers.confounds, numbers.adjusted
    if not predicts(numbers.finding, metric):
        return "none"
    if confounds is None or not predicts(confounds, metric):
        return "found"
    as_well = confounds.measured.value >= numbers.finding.measured.value
    nothing_left = adjusted is not None and not _something_left(adjusted, metric)
    return "confounded" if as_well or nothing_left else "found"


def _something_left(adjusted: Finding, metric: str) -> bool:
    """Say whether features without covariates tell anything: a small p is enough for that."""
    p = adjusted.p_value
    return predicts(adjusted, metric) if p is None else p <= ALPHA


def _beside_confounds(numbers: Numbers) -> str:
    """Tell what confounds alone reach, and what is left without them."""
    words = ""
    names, confounds, adjusted = _list(numbers.covariates), numbers.confounds, numbers.adjusted
    if confounds is not None and predicts(confounds, numbers.metric):
        as_well = confounds.measured.value >= numbers.finding.measured.value
        how = "at least as well" if as_well else "less well"
        verb = _verb(numbers.covariates, "does", "do")
        words += f"; {names} alone {verb} so {how} ({_tell(confounds, numbers)})"
    if adjusted is not None:
        are = _verb(numbers.covariates, "is", "are")
        still = "may still predict" if _something_left(adjusted, numbers.metric) else "does not"
        still = "still predicts" if predicts(adjusted, numbers.metric) else still
        words += f"; once {names} {are} taken off the features, it {still} "
        words += f"({_tell(adjusted, numbers)})"
    return words


def _compared(over: Iterable[Interval | None]) -> str:
    """Tell the differences from connectivity and from the control."""
    words = ""
    for difference, other in zip(over, (_CONNECTIVITY, _CONTROL), strict=True):
        if difference is not None:
            how = "better" if difference.low > 0 else "not better"
            how = "worse" if difference.high < 0 else how
            numbers = (_number(n) for n in (difference.value, difference.low, difference.high))
            words += "; {} than {} (difference {}, {} to {})".format(how, other, *numbers)
    return words


def _missed(numbers: Numbers) -> str:
    if numbers.detectable is None:
        return ""
    words = f"; with {numbers.n_participants} participants {numbers.metric} below "
    return f"{words}{_number(numbers.detectable)} cannot be told from chance"


def _tell(finding: Finding, numbers: Numbers) -> str:
    """Write a finding: r2 0.21, 90 % interval 0.08 to 0.33, p 0.001."""
    measured = finding.measured
    words = f"{numbers.metric} {_number(measured.value)}, {100 * numbers.confidence:g} % interval "
    words += f"{_number(measured.low)} to {_number(measured.high)}, "
    if finding.p_value is None:
        return words + "no permutation test"
    p = finding.p_value
    return words + (f"p {p:.3f}" if p >= 0.0005 else "p below 0.001")


def _number(value: float) -> str:
    """Write two decimals, and no minus before zero."""
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00")


def _list(names: Sequence[str]) -> str:
    """Write names: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _verb(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
