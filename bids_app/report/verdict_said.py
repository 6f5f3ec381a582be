"""Rules on what others say of a run: the steps of the preprocessing, the models, other runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.verdict_kinds import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from neurostorm_app.bids_app.report.standing import Standing

__all__ = ["weigh_contracts", "weigh_neighbours", "weigh_records"]

_WORDS = {"look": Level.CHECK, "fail": Level.BAD}
"""What steps say of their work."""
_TOPICS = {
    "coregistration": "Registration to the T1w",
    "normalization": "Registration to the template",
}
"""What records of steps are called for a reader."""
_WEIGHED = {"fd_mean", "fd_max", "fd_share", "tsnr", "brain_coverage"}
"""Measures of the preprocessing for which there is a rule here."""


def weigh_records(qc: Mapping[str, Any], topic: str = "Preprocessing") -> Iterator[Reason]:
    """Find what every step of the preprocessing says against its own work."""
    for key, value in qc.items():
        if key == "quality" and isinstance(value, dict):
            yield from _quality(value.get("measures", {}))
        elif isinstance(value, dict):
            yield from weigh_records(value, _TOPICS.get(key, key.replace("_", " ").capitalize()))
    word, _, rest = str(qc.get("verdict", "pass")).partition(": ")
    if word in _WORDS:
        reasons = qc.get("reasons") or rest or "no reason is recorded"
        for text in [reasons] if isinstance(reasons, str) else reasons:
            end = "" if text.endswith(("?", ".")) else "."
            yield Reason(level=_WORDS[word], topic=topic, text=text[:1].upper() + text[1:] + end)


def _quality(measures: Mapping[str, Any]) -> Iterator[Reason]:
    """Take the numbers that are beyond their limits, of those that are not weighed here."""
    for name, measure in measures.items():
        if name not in _WEIGHED and measure["verdict"] in _WORDS:
            side = "below" if measure["low"] else "above"
            unit = f" {measure['unit']}" if measure["unit"] else ""
            words = measure.get("words", name.replace("_", " "))
            value = f"{measure['value']:.3g}{unit}"
            text = f"{words[:1].upper()}{words[1:]}: {value}, {side} the limit"
            limit = measure[measure["verdict"]]
            yield Reason(
                level=_WORDS[measure["verdict"]], topic="Series", text=f"{text} of {limit:g}{unit}."
            )


def weigh_contracts(contracts: Mapping[str, Mapping[str, Any]]) -> Iterator[Reason]:
    """Say of each model whether the run is what it takes."""
    for model, contract in contracts.items():
        topic = f"Contract of {model}"
        if "met" not in contract:
            text = "Whether the run is what the model was trained on is not recorded."
            yield Reason(level=Level.UNKNOWN, topic=topic, text=text)
        elif contract["met"]:
            text = "The run is the kind of data that the model takes."
            yield Reason(level=Level.GOOD, topic=topic, text=text)
        else:
            why = "; ".join(str(reason) for reason in contract.get("reasons", [])).rstrip(".")
            yield Reason(
                level=Level.CHECK,
                topic=topic,
                text=f"The run is not what the model takes: {why or 'no reason is recorded'}.",
            )


def weigh_neighbours(standings: Iterable[Standing]) -> Iterator[Reason]:
    """Say whether a run is like the others; weights for demonstration say nothing of that."""
    for standing in standings:
        if standing.demo:
            continue
        nearest = f"{standing.nearest} at a cosine distance of {standing.distance:.2f}"
        if standing.fence is None:
            continue
        usual = f"of {standing.n_runs} runs of others, most have one within {standing.usual:.2f}"
        apart = standing.distance > standing.fence
        yield Reason(
            level=Level.CHECK if apart else Level.GOOD,
            topic=f"Nearest runs by {standing.label}",
            text=f"Unlike the other runs: its nearest is {nearest}; {usual}."
            if apart
            else f"Like other runs: its nearest is {nearest}; {usual}.",
        )
