"""Whether a model's embeddings tell people apart, with the connectome's beside them.

Both are measured on the same runs and meet the same galleries. Nobody's own score is written.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.derivatives import write_json
from neurostorm_app.bids_app.group.outputs import (
    describe_model,
    index_paths,
    is_centred,
    unless_held,
)
from neurostorm_app.bids_app.participant.outputs import DEMO
from neurostorm_app.bids_app.provenance import Unit
from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.group.store import Collected
    from neurostorm_app.bids_app.provenance import Ledger
    from neurostorm_app.pipelines.reidentify import Draws, Reidentification

__all__ = ["choose_draws", "describe_reidentification", "write_reidentification"]

CONNECTOME: Final = "connectome"
OF_ONE_SCAN: Final = re.compile(r"_(?:echo|part|rec)-[0-9A-Za-z+]+")
"""Entities in which files of one and the same scan differ."""
MEASURES: Final = {
    "Rank1": "Share of the participants asked for whose most similar run in the gallery is their "
    "own other run; from 0 to 1",
    "MeanAveragePrecision": "mAP: mean of one over the rank at which the own run stands; from 0 "
    "to 1",
    "GallerySize": "Participants in a gallery, one run of each; a run is never its own match",
    "ByChance": "What guessing gives",
    "FirstAmongSecond": "Finn et al. (2015): the first scan of each participant is looked for "
    "among the second ones, by the correlation of connectomes; SecondAmongFirst the other way",
    "Differences": "This model less the connectome, paired by participant, in the same galleries; "
    "an interval without 0 is a difference",
    "low, high": "Interval over participants, of the stated confidence",
}
LARGE: Final = 1000
"""Participants above which galleries are drawn a fifth as often: each takes their square."""


def write_reidentification(
    label: str, collected: Mapping[str, Collected], ledger: Ledger, *, draws: Draws
) -> bool:
    """Write how well a model recognises people; False if that is there already.

    Parameters
    ----------
    label : str
        Of the model.
    collected : mapping of str to Collected
        All models; that of ``connectome`` is set beside.
    ledger : Ledger
        Of the output folder.
    draws : Draws
        How many galleries, of how many participants, from which seed.
    """
    model = collected[label]
    other = None if label == CONNECTOME else collected.get(CONNECTOME)
    inputs = {"rows": model.key}
    if other is not None:
        inputs[CONNECTOME] = other.key
    unit = Unit(
        name=f"desc-{label}_reidentification",
        kind="group",
        about={"label": label},
        settings={
            "draws": asdict(draws),
            "about": describe_model(model),
            "centred": [is_centred(one) for one in (model, other) if one is not None],
        },
        inputs=inputs,
    )

    def write() -> dict[Path, str]:
        """Write the file."""
        path = index_paths(ledger.root, label)["reidentification"]
        about = describe_reidentification(model, other, draws=draws)
        return {path: write_json(path, about, root=ledger.root)}

    return unless_held(unit, ledger, write)


def describe_reidentification(
    model: Collected, connectome: Collected | None, *, draws: Draws
) -> dict[str, Any]:
    """Measure how well a model recognises people, and say it for a JSON file.

    Parameters
    ----------
    model : Collected
        All its runs.
    connectome : Collected or None
        Those of ``connectome``; None if there are none, or the model is that.
    draws : Draws
        How many galleries, of how many participants, from which seed.

    Returns
    -------
    dict
        ``Reidentification`` of all runs, and ``Connectome`` with both on the runs that both have;
        where a number cannot be told, ``reason`` says why.
    """
    known = describe_model(model)
    about = {
        "Description": f"{DEMO if model.demo else ''}Whether runs embedded by {model.label} are "
        "recognised as their participants' among runs of others.",
        "Demo": model.demo,
        "Fingerprint": known["Fingerprint"],
        "Measures": MEASURES,
        "Reidentification": _said(model, lambda: _measure(model, draws).as_dict()),
    }
    if model.label == CONNECTOME:
        about["FingerprintOfFinn"] = _said(model, lambda: _finn(model, draws))
    else:
        about["Connectome"] = _beside(model, connectome, draws)
    return {**about, "Privacy": known["Privacy"]}


def _said(model: Collected, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure, or say why that cannot be."""
    participants, names, sessions = _labels(model)
    runs = Counter(person for person, *_ in {*zip(participants, sessions, names, strict=True)})
    several = sum(n > 1 for n in runs.values())
    if several < 2:
        return {
            "reason": f"{several} of {len(runs)} participants have two runs or more; at least two "
            "such participants are needed"
        }
    try:
        return measure()
    except DataError as error:
        return {"reason": error.what}


def _labels(model: Collected) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Say of each row whose it is, of which scan and of which session.

    Echoes and reconstructions of one scan share its noise: they must never be each other's match.
    """
    rows = model.rows
    return (
        [row.participant for row in rows],
        [OF_ONE_SCAN.sub("", row.run) for row in rows],
        [row.session or "" for row in rows],
    )


def _measure(model: Collected, draws: Draws) -> Reidentification:
    from neurostorm_app.pipelines.reidentify import reidentify

    participants, runs, sessions = _labels(model)
    return reidentify(
        model.vectors,
        participants,
        runs,
        sessions=sessions,
        centre=is_centred(model),
        draws=draws,
    )


def _finn(model: Collected, draws: Draws) -> dict[str, Any]:
    """Identify by the connectome as Finn et al. did; its embedding is Fisher's z of each pair."""
    from neurostorm_app.pipelines.reidentify import fingerprint

    participants, runs, sessions = _labels(model)
    found = fingerprint(
        model.vectors, participants, runs, sessions=sessions, fisher_z=True, draws=draws
    )
    return found.as_dict()


def _beside(model: Collected, connectome: Collected | None, draws: Draws) -> dict[str, Any]:
    """Measure the connectome and the model on the runs that both have."""
    from neurostorm_app.pipelines.reidentify import compare_reidentification

    if connectome is None:
        return {
            "reason": "no connectome was collected; embed with --models connectome too, and call "
            "the group level again"
        }
    common = {row.run for row in model.rows} & {row.run for row in connectome.rows}
    ours, theirs = (one.only(common) for one in (model, connectome))

    def measure() -> dict[str, Any]:
        """Measure both."""
        mine, other = _measure(ours, draws), _measure(theirs, draws)
        return {
            "Runs": len(common),
            "FingerprintOfFinn": _said(theirs, lambda: _finn(theirs, draws)),
            "Reidentification": other.as_dict(),
            "ReidentificationOfThisModel": mine.as_dict(),
            "Differences": [
                {
                    "GallerySize": difference.size,
                    "ParticipantsQueried": difference.n_queried,
                    "Rank1": asdict(difference.rank1),
                    "MeanAveragePrecision": asdict(difference.mean_precision),
                }
                for difference in compare_reidentification(mine, other)
            ],
        }

    return _said(ours, measure)


def choose_draws(collected: Mapping[str, Collected], *, seed: int, confidence: float) -> Draws:
    """Choose how often is drawn, by the number of participants.

    Parameters
    ----------
    collected : mapping of str to Collected
        All models.
    seed : int
        Of all draws.
    confidence : float
        Of the intervals.
    """
    from neurostorm_app.pipelines.reidentify import Draws

    most = max(len({row.participant for row in one.rows}) for one in collected.values())
    usual = Draws(seed=seed, confidence=confidence)
    if most <= LARGE:
        return usual
    return Draws(seed=seed, confidence=confidence, n_trials=usual.n_trials // 5)
