"""Pages of cards: what is known of a set of weights or of a parcellation, in Markdown.

What others than its maker say of a model is read from ``model_evidence.yaml``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from neurostorm_app.models import read_card
from neurostorm_app.models.atlases import list_atlases
from neurostorm_app.models.weights_dir import PERMISSIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neurostorm_app.models.card import AtlasCard, Card, ParcelContract, VoxelContract

EVIDENCE = Path(__file__).with_name("model_evidence.yaml")
USE = {True: "yes", False: "no", None: "not stated"}
"""Whether a licence allows commercial use."""


@cache
def read_evidence() -> dict[str, Any]:
    """Read what is said of models by others than their cards."""
    found: dict[str, Any] = yaml.safe_load(EVIDENCE.read_text(encoding="utf-8"))
    return found


def card_page(name: str) -> str:
    """Say all that is known of a model: its card, its training data, and what others found."""
    card, evidence = read_card(name), read_evidence()
    known = evidence["models"][name]
    studies = evidence["studies"].get(known["family"], ())
    demo = ("!!! warning", "    Demonstration weights, not for science.", "") if card.demo else ()
    lines = [f"# {card.name}", "", *demo, f"**{card.title}.** {card.summary}", ""]
    lines += ["## Trained on", "", " ".join(known["trained_on"].split()), ""]
    lines += ["## Licence and weights", "", *_table(_weights(card) | _licence(card)), ""]
    lines += ["## What it eats and gives", "", *_table(_facts(card)), ""]
    lines += ["## Known limits", "", *(f"- {limit}" for limit in card.limits), ""]
    lines += ["## What independent studies found", ""]
    lines += [f"- {' '.join(study.split())}" for study in studies] or ["None known to us."]
    if card.references:
        lines += ["", "## References", "", *(f"- {_linked(word)}" for word in card.references)]
    return "\n".join(lines) + "\n"


def _linked(reference: str) -> str:
    """Make a bare address a link."""
    return f"<{reference}>" if reference.startswith("https://") else reference


def atlas_lines(card: AtlasCard) -> Iterator[str]:
    """Say all that is known of a parcellation."""
    files = [known for known in (card.labels, card.coordinates) if known]
    source, use = card.source, USE[card.commercial_use]
    facts = {
        "source": f"`{source.repository}`, revision `{source.revision}`, `{source.file}`",
        "fetch it with": _how_to_fetch(card),
        "SHA-256": ", ".join(f"`{k.sha256}` (`{k.file}`)" for k in files),
        "licence": f"{card.licence}; commercial use: {use}",
        "parcels": str(card.n_parcels),
        "space": card.space,
    }
    yield from ("", f"### {card.name}", "", f"**{card.title}.** {card.summary}", "")
    yield from _table(facts)
    yield from _notes(card)


def _table(facts: dict[str, str]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for key, value in facts.items():
        yield f"| {key} | {value} |"


def _notes(card: AtlasCard) -> Iterator[str]:
    if card.limits:
        yield from ("", "Before you trust it:", "", *(f"- {limit}" for limit in card.limits))
    if card.references:
        yield from ("", "References:", "", *(f"- {_linked(word)}" for word in card.references))


def _how_to_fetch(card: Card | AtlasCard) -> str:
    accept = "" if card.licence in PERMISSIVE else " --accept-licence"
    return f"`neurostorm-tools weights fetch {card.name} --weights-dir DIR{accept}`"


def _facts(card: Card) -> dict[str, str]:
    facts = {"outputs are named": f"`desc-{card.label}`"}
    facts["dimension"] = str(card.dimension) if card.dimension else "depends on the parcellation"
    facts["pooling"] = card.pooling
    contract = card.contract
    facts["space"] = contract.space
    if contract.kind == "volume":
        grid = contract.grid
        facts["grid"] = f"{' x '.join(map(str, grid.shape))}, affine rows {grid.affine}, mm, RAS+"
        facts["scaling"] = f"{contract.scaling}; background: {contract.background}"
    elif contract.kind == "voxels":
        return facts | _voxels(contract) | _meaning(card)
    else:
        facts |= _parcels(contract)
    facts["repetition time"] = f"{contract.tr} s" if contract.tr else "the run's own"
    if contract.kind == "parcels" and contract.tr and contract.time_positions == "ends":
        facts["repetition time"] += "; of other runs the first and the last volume stay"
    if contract.kind == "volume" and contract.tr_range:
        low, high = contract.tr_range
        facts["repetition time"] += f"; {low} to {high} s are kept as they are"
    window = f"{contract.window} volumes, one every {contract.stride}"
    facts["window"] = window if contract.window else "the whole run"
    if contract.kind == "parcels" and contract.shortest:
        facts["window"] += (
            f"; of a shorter run, one of at least {contract.shortest}, in steps of "
            f"{contract.multiple}"
        )
    return facts | _meaning(card)


def _weights(card: Card) -> dict[str, str]:
    where = "in the package" if card.embedded else "yours: no place is known to fetch it from"
    facts = {"weights": f"`{card.file}`, {where}" if card.file else "none needed"}
    if source := card.source:
        revision = f"revision `{source.revision}`" if source.revision else "revision not known"
        facts["weights"] = f"`{source.repository}`, {revision}, `{source.file}`"
        if source.revision:
            facts["fetch them with"] = _how_to_fetch(card)
    if card.file:
        facts["SHA-256"] = f"`{card.sha256}`" if card.sha256 else "not known"
        facts["size"] = f"{card.size:,} bytes" if card.size else "not known"
    return facts


def _licence(card: Card) -> dict[str, str]:
    return {"licence": card.licence, "commercial use": USE[card.commercial_use]}


def _parcels(contract: ParcelContract) -> dict[str, str]:
    cleaning = contract.cleaning
    linked = contract.atlas in list_atlases()
    facts = {"parcellation": f"[{contract.atlas}](../models.md#{contract.atlas.lower()})"}
    facts["parcellation"] = facts["parcellation"] if linked else contract.atlas
    if contract.coordinates:
        facts["parcellation"] += ", with the place of each parcel"
    low = "no low-pass" if cleaning.low_pass is None else f"low-pass {cleaning.low_pass} Hz"
    high = "no high-pass" if cleaning.high_pass is None else f"high-pass {cleaning.high_pass} Hz"
    facts["cleaning"] = (
        f"detrend: {'yes' if cleaning.detrend else 'no'}; {high}; {low}; "
        f"confounds: {', '.join(cleaning.confounds) or 'none'}"
    )
    facts["scaling"] = {
        "none": "none",
        "robust": "each parcel demeaned, minus its median, over its interquartile range, clipped",
        "median": "each parcel minus its median, over its interquartile range",
        "sd": "each parcel demeaned, over one standard deviation of all",
    }[contract.scaling]
    return facts


def _voxels(contract: VoxelContract) -> dict[str, str]:
    facts = {"label image": contract.atlas, "labels": ", ".join(map(str, contract.labels))}
    facts["voxels"] = (
        f"{contract.n_voxels or 'as many as there are'}, by label and then by index, filled up to "
        f"whole patches of {contract.patch}"
    )
    facts["window"] = f"the mean of a block of {contract.seconds:g} s"
    facts["scaling"] = "one mean and one standard deviation of a run's voxels"
    return facts


def _meaning(card: Card) -> dict[str, str]:
    facts = {}
    if head := card.output:
        values = ", ".join(head.classes)
        if head.kind == "binary":
            values = f"probability of {head.classes[1]} (else {head.classes[0]})"
        if head.kind == "value":
            values = f"in {head.unit}, output x {head.sd} + {head.mean}"
        facts["the head says"] = f"{head.target}: {values}. {head.origin}"
    if expected := card.expected_error:
        facts["expected masked error"] = (
            f"{expected.low:g} to {expected.high:g}, mean squared. {expected.origin}"
        )
    return facts
