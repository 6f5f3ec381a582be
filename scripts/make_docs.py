"""Write what repeats code and cards: options.md, models.md and cards/ of docs/, and boutiques.json.

    .venv/bin/python scripts/make_docs.py

``tests/test_docs.py`` and ``test_boutiques.py`` fail when a file is older than what it repeats.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from card_pages import USE, atlas_lines, card_page

from neurostorm_app.bids_app.report.verdict import FD_HIGH, LIMITS
from neurostorm_app.bids_app.settings import GROUPS, Flag
from neurostorm_app.bids_app.words.boutiques import FILE, descriptor_text
from neurostorm_app.bids_app.words.helps import read_helps
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.atlases import list_atlases, read_atlas_card
from neurostorm_app.pipelines.preprocess.anatomy.likeness import RANGES
from neurostorm_app.pipelines.preprocess.noise import quality

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

    from neurostorm_app.models.card import Card

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MEASURED = ROOT / "benchmarks" / "measured.json"
"""What ``benchmarks/bench_models.py --write`` has measured."""
NOT_MEASURED = "not measured"


def options_page() -> str:
    """Say every option of the app, from the fields of its settings."""
    lines = [
        "# Options",
        "",
        "```text",
        "neurostorm-app BIDS_DIR OUTPUT_DIR {participant,group} [options]",
        "```",
        "",
        "Each long option may be spelled with underscores too. Keywords of `neurostorm_app.run`",
        "are the same names. What changes the numbers is part of the key of every result; the",
        "rest is not.",
    ]
    for model in GROUPS.values():
        lines += ["", f"## {str(model.__doc__).splitlines()[0].rstrip('.')}", ""]
        lines += ["| option | meaning | default |", "|---|---|---|"]
        helps = read_helps(model)
        lines += [_option(name, field, helps[name]) for name, field in model.model_fields.items()]
    return "\n".join(lines) + "\n"


def _option(name: str, field: FieldInfo, about: str) -> str:
    flag = next((m for m in field.metadata if isinstance(m, Flag)), Flag())
    spellings = ", ".join(f"`{s}`" for s in ("--" + name.replace("_", "-"), *flag.aliases))
    default = field.default
    shown = "" if default in (None, (), {}, False, 0) else default
    shown = " ".join(shown) if isinstance(shown, tuple) else shown
    about = about.replace("|", "\\|")
    return f"| {spellings} | {about} | {f'`{shown}`' if shown != '' else ''} |"


def models_page() -> str:
    """List the models, with a line of each; their cards have pages of their own."""
    lines = [
        "# Models",
        "",
        "Each name leads to the card of one set of weights: what it was trained on, what it eats,",
        "its licence, its limits, and what independent studies found. What is not known says so.",
        "Preprocessing for a model is read from the same card.",
        "",
        "`neurostorm-tools weights list` says where each file lies on your machine. Files are",
        "looked for in `--weights-dir`, in the folder that the environment variable",
        "`NEUROSTORM_WEIGHTS` names, and in the package. `neurostorm-tools weights fetch` brings",
        "them there; it alone ever needs a network.",
        "",
        "Every network `NAME` has an untrained twin, `NAME-untrained`: the same network with",
        "random weights, to compare it with. Outputs of a twin say CONTROL.",
        "",
        "| model | what it is | weights | licence, commercial use |",
        "|---|---|---|---|",
    ]
    for card in map(read_card, list_models()):
        licence = f"{card.licence}; {USE[card.commercial_use]}"
        where = "in the package" if card.embedded else "fetched" if _fetched(card) else "yours"
        where = where if card.file else "none needed"
        lines.append(
            f"| [{card.name}](cards/{card.name}.md) | {card.title} | {where} | {licence} |"
        )
    lines += [*_systems(), "", "## Atlases", "", "Parcellations that are fetched, not shipped."]
    for name in list_atlases():
        lines += atlas_lines(read_atlas_card(name))
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
        cost = " | "  # of what is no network here
        for line in system["lines"][:1]:
            one = found.get(line, {})
            cost = f"{NOT_MEASURED} | {NOT_MEASURED}"
            if "cpu" in one:
                cost = f"{_seconds(one)} | {one['peak_mib'] / 1024:.1f} GiB"
        words = (system[key] for key in ("name", "eats", "released", "works", "licence"))
        yield f"| {' | '.join(words)} | {cost} |"
    machine, threads = known["machine"], known["threads"]
    yield from (
        "",
        "CPU and memory are those of the first network of each row, for one scan",
        f"({known['scan']}; {known.get('series', 'its series was not recorded')}), in one",
        f"process of {threads} thread(s), on {machine}, by",
        "`benchmarks/bench_models.py`: seconds of the cores for all windows of the scan, with",
        "reading and, where a network guesses, the masked error of some windows; the largest",
        "memory of the process. All networks on the same scan:",
        "",
    )
    yield "| network | parameters | windows | CPU | CPU a window | peak memory |"
    yield "|---|--:|--:|--:|--:|--:|"
    for system in systems:
        for line in system["lines"]:
            yield f"| {line} | {' | '.join(_costs(found.get(line, {})))} |"


def _costs(one: dict[str, Any]) -> tuple[str, ...]:
    """Say what a network takes, or that it was not measured; no line is passed over."""
    if "cpu" not in one:
        return (NOT_MEASURED, "", "", "", "")
    return (
        f"{one['parameters'] / 1e6:.1f} M",
        str(one["windows_of_the_run"]),
        _seconds(one),
        f"{one['cpu'] / one['windows']:.2f} s",
        f"{one['peak_mib'] / 1024:.2f} GiB",
    )


def _seconds(one: dict[str, Any]) -> str:
    """Give the seconds of all windows of a scan; those that were left out cost the same."""
    share = one["windows_of_the_run"] / one["windows"]
    return f"{'about ' if share > 1 else ''}{one['cpu'] * share:.0f} s"


def _fetched(card: Card) -> bool:
    return card.source is not None and card.source.revision is not None


PAGES = {"options.md": options_page, "models.md": models_page} | {
    f"cards/{name}.md": partial(card_page, name) for name in list_models()
}


def verdict_rows() -> Iterator[str]:
    """Say the limits of the verdict of a report."""
    names = {
        "mean_fd": ("mean framewise displacement", "mm"),
        "share_high": (f"share of volumes above {FD_HIGH} mm", ""),
        "coverage": ("share of the brain inside the run's mask", ""),
        "dice": ("overlap of the brain masks of BOLD and T1w (Dice)", ""),
        "tsnr": ("median temporal signal-to-noise ratio in grey matter", ""),
        "minutes": ("minutes of volumes at or below 0.5 mm", "min"),
        "edge_cost": ("cost of the white matter's border on the edges of the BOLD", ""),
        "likeness": ("correlation of the normalised brain with the template's", ""),
    }
    yield from ("| number | look | bad |", "|---|---|---|")
    for name, (look, bad) in LIMITS.items():
        words, unit = names[name]
        side = "above" if look <= bad else "below"
        worst = f"{side} {bad:g} {unit}".strip() if bad else ""
        yield f"| {words} | {side} {look:g} {unit}".rstrip() + f" | {worst} |"


def series_rows() -> Iterator[str]:
    """Say the limits of the numbers of a series."""
    yield from ("| number | look | fail | where the limit comes from |", "|---|---|---|---|")
    for limit in quality.LIMITS.values():
        side = "below" if limit.low else "above"
        cells = [
            "" if bound is None else f"{side} {bound:g} {limit.unit}".strip()
            for bound in (limit.look, limit.fail)
        ]
        yield f"| {limit.words} | {cells[0]} | {cells[1]} | {limit.source} |"


def template_rows() -> Iterator[str]:
    """Say the usual ranges of a brain on its template."""
    yield from ("| number | usual | fails outside | where they come from |", "|---|---|---|---|")
    for usual in RANGES.values():
        look = f"{usual.look[0]:g} to {usual.look[1]:g}"
        fail = f"{usual.fail[0]:g} to {usual.fail[1]:g}" if usual.fail else ""
        yield f"| {usual.words} | {look} | {fail} | {usual.source} |"


PARTS = {
    "reading-reports.md": {
        "verdict": verdict_rows,
        "series": series_rows,
        "template": template_rows,
    }
}
"""Tables of pages that are otherwise written by hand."""


def put_parts(text: str, parts: dict[str, Callable[[], Iterator[str]]]) -> str:
    """Put generated tables between their marks."""
    for name, rows in parts.items():
        begin = f"<!-- begin {name}, written by scripts/make_docs.py -->"
        head, _, rest = text.partition(begin)
        _, end, tail = rest.partition(f"<!-- end {name} -->")
        if not end:
            raise ValueError(f"the page lacks the marks of {name}: {begin}")
        text = f"{head}{begin}\n\n" + "\n".join(rows()) + f"\n\n{end}{tail}"
    return text


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(page(), encoding="utf-8")
        print(DOCS / name)
    for name, parts in PARTS.items():
        written = (DOCS / name).read_text(encoding="utf-8")
        (DOCS / name).write_text(put_parts(written, parts), encoding="utf-8")
        print(DOCS / name)
    FILE.write_text(descriptor_text(), encoding="utf-8")
    print(FILE)
