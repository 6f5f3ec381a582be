"""Write the pages of docs/ that repeat what code and cards say: options.md and models.md.

    .venv/bin/python scripts/make_docs.py

``tests/test_docs.py`` fails when a page is older than what it repeats.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.settings import GROUPS, Flag
from neurostorm_app.models import list_models, read_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from neurostorm_app.models.card import Card

DOCS = Path(__file__).resolve().parents[1] / "docs"


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
    ]
    for name in list_models():
        lines += _card(read_card(name))
    return "\n".join(lines) + "\n"


def _card(card: Card) -> Iterator[str]:
    yield from ("", f"## {card.name}", "", f"**{card.title}.** {card.summary}", "")
    yield from ("| | |", "|---|---|")
    for key, value in _facts(card).items():
        yield f"| {key} | {value} |"
    if card.limits:
        yield from ("", "Before you trust it:", "", *(f"- {limit}" for limit in card.limits))
    if card.references:
        yield from ("", "References:", "", *(f"- {reference}" for reference in card.references))


def _facts(card: Card) -> dict[str, str]:
    contract = card.contract
    facts = {"outputs are named": f"`desc-{card.label}`"}
    if card.source:
        source = card.source
        facts["weights"] = f"`{source.repository}`, revision `{source.revision}`, `{source.file}`"
    else:
        facts["weights"] = f"`{card.file}`, in the package" if card.embedded else "none needed"
    if card.file:
        facts["SHA-256"] = f"`{card.sha256}`" if card.sha256 else "not known"
        facts["size"] = f"{card.size:,} bytes" if card.size else "not known"
    use = {True: "yes", False: "no", None: "not stated"}
    facts["licence"] = f"{card.licence}; commercial use: {use[card.commercial_use]}"
    facts["dimension"] = str(card.dimension) if card.dimension else "depends on the parcellation"
    facts["pooling"] = card.pooling
    facts["space"] = contract.space
    if contract.kind == "volume":
        grid = contract.grid
        facts["grid"] = f"{' x '.join(map(str, grid.shape))}, affine rows {grid.affine}, mm, RAS+"
        facts["scaling"] = f"{contract.scaling}; background: {contract.background}"
    else:
        facts["parcellation"] = contract.atlas
        cleaning = contract.cleaning
        facts["cleaning"] = (
            f"detrend: {cleaning.detrend}; {cleaning.high_pass} to {cleaning.low_pass} Hz; "
            f"confounds: {', '.join(cleaning.confounds)}"
        )
    facts["repetition time"] = f"{contract.tr} s" if contract.tr else "the run's own"
    window = f"{contract.window} volumes, one every {contract.stride}"
    facts["window"] = window if contract.window else "the whole run"
    return facts


PAGES = {"options.md": options_page, "models.md": models_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        print(DOCS / name)
