"""Write what repeats code and cards: options.md and models.md of docs/, and boutiques.json.

    .venv/bin/python scripts/make_docs.py

``tests/test_docs.py`` and ``test_boutiques.py`` fail when a file is older than what it repeats.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from neurostorm_app.bids_app.settings import GROUPS, Flag
from neurostorm_app.bids_app.words.boutiques import FILE, descriptor_text
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.atlases import list_atlases, read_atlas_card
from neurostorm_app.models.weights_dir import PERMISSIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from neurostorm_app.models.card import AtlasCard, Card, ParcelContract, VoxelContract

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MEASURED = ROOT / "benchmarks" / "measured.json"
"""What ``benchmarks/bench_models.py --write`` has measured."""


def options_page() -> str:
    """Say every option of the app, from the fields of its settings."""
    lines = [
        "# Options",
        "",
        "    neurostorm-app BIDS_DIR OUTPUT_DIR {participant,group} [options]",
        "",
        "Each long option may be spelled with underscores too. Keywords of `neurostorm_app.run`",
        "are the same names. What changes the numbers is part of the key of every result; the",
        "rest is not.",
    ]
    for model in GROUPS.values():
        lines += ["", f"## {str(model.__doc__).splitlines()[0].rstrip('.')}", ""]
        lines += ["| option | meaning | default |", "|---|---|---|"]
        lines += [_option(name, field) for name, field in model.model_fields.items()]
    return "\n".join(lines) + "\n"


def _option(name: str, field: FieldInfo) -> str:
    flag = next((m for m in field.metadata if isinstance(m, Flag)), Flag())
    spellings = ", ".join(f"`{s}`" for s in ("--" + name.replace("_", "-"), *flag.aliases))
    default = field.default
    shown = "" if default in (None, (), {}, False, 0) else default
    shown = " ".join(shown) if isinstance(shown, tuple) else shown
    about = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| {spellings} | {about} | {f'`{shown}`' if shown != '' else ''} |"


def models_page() -> str:
    """Say what is known of every model, from its card."""
    lines = [
        "# Models",
        "",
        "What is known of each set of weights, from its card. What is not known says so.",
        "Preprocessing for a model is read from the same card.",
        "",
        "`neurostorm-tools weights list` says where each file lies on your machine. Files are",
        "looked for in `--weights-dir`, in the folder that the environment variable",
        "`NEUROSTORM_WEIGHTS` names, and in the package. `neurostorm-tools weights fetch` brings",
        "them there; it alone ever needs a network.",
        *_systems(),
    ]
    for name in list_models():
        lines += _card(read_card(name))
    lines += ["", "# Atlases", "", "Parcellations that are fetched, not shipped."]
    for name in list_atlases():
        lines += _atlas(read_atlas_card(name))
    return "\n".join(lines) + "\n"


def _systems() -> Iterator[str]:
    """Say what each system is, and what its networks take for one scan."""
    systems = yaml.safe_load((ROOT / "scripts/systems.yaml").read_text(encoding="utf-8"))
    known: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    found = known["models"]
    yield from ("", "## Side by side", "")
    yield "| system | eats | released | works here | licence | CPU | peak memory |"
    yield "|---|---|---|---|---|--:|--:|"
    for system in systems:
        lines = [found[line] for line in system["lines"][:1] if "cpu" in found.get(line, {})]
        cost = f"{_seconds(lines[0])} | {lines[0]['peak_mib'] / 1024:.1f} GiB" if lines else " | "
        words = (system[key] for key in ("name", "eats", "released", "works", "licence"))
        yield f"| {' | '.join(words)} | {cost} |"
    machine, threads = known["machine"], known["threads"]
    yield from (
        "",
        "CPU and memory are those of the first network of each row, for one scan",
        f"({known['scan']}), in one process of {threads} thread(s), on {machine}, by",
        "`benchmarks/bench_models.py`: seconds of the cores for all windows of the scan, with",
        "reading and, where a network guesses, the masked error of some windows; the largest",
        "memory of the process. All networks on the same scan:",
        "",
    )
    yield "| network | parameters | windows | CPU | CPU a window | peak memory |"
    yield "|---|--:|--:|--:|--:|--:|"
    for system in systems:
        for line in system["lines"]:
            if "cpu" in (one := found.get(line, {})):
                values = (
                    f"{one['parameters'] / 1e6:.1f} M",
                    str(one["windows_of_the_run"]),
                    _seconds(one),
                    f"{one['cpu'] / one['windows']:.2f} s",
                    f"{one['peak_mib'] / 1024:.2f} GiB",
                )
                yield f"| {line} | {' | '.join(values)} |"


def _seconds(one: dict[str, Any]) -> str:
    """Give the seconds of all windows of a scan; those that were left out cost the same."""
    share = one["windows_of_the_run"] / one["windows"]
    return f"{'about ' if share > 1 else ''}{one['cpu'] * share:.0f} s"


def _card(card: Card) -> Iterator[str]:
    yield from ("", f"## {card.name}", "", f"**{card.title}.** {card.summary}", "")
    yield from _table(_facts(card))
    yield from _notes(card)


def _atlas(card: AtlasCard) -> Iterator[str]:
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
    yield from ("", f"## {card.name}", "", f"**{card.title}.** {card.summary}", "")
    yield from _table(facts)
    yield from _notes(card)


def _table(facts: dict[str, str]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for key, value in facts.items():
        yield f"| {key} | {value} |"


def _notes(card: Card | AtlasCard) -> Iterator[str]:
    if card.limits:
        yield from ("", "Before you trust it:", "", *(f"- {limit}" for limit in card.limits))
    if card.references:
        yield from ("", "References:", "", *(f"- {reference}" for reference in card.references))


USE = {True: "yes", False: "no", None: "not stated"}


def _how_to_fetch(card: Card | AtlasCard) -> str:
    accept = "" if card.licence in PERMISSIVE else " --accept-licence"
    return f"`neurostorm-tools weights fetch {card.name} --weights-dir DIR{accept}`"


def _facts(card: Card) -> dict[str, str]:
    facts = {"outputs are named": f"`desc-{card.label}`"} | _weights(card)
    facts["licence"] = f"{card.licence}; commercial use: {USE[card.commercial_use]}"
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


def _parcels(contract: ParcelContract) -> dict[str, str]:
    cleaning = contract.cleaning
    linked = contract.atlas in list_atlases()
    facts = {"parcellation": f"[{contract.atlas}](#{contract.atlas.lower()})"}
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


PAGES = {"options.md": options_page, "models.md": models_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        print(DOCS / name)
    FILE.write_text(descriptor_text(), encoding="utf-8")
    print(FILE)
