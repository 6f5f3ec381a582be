"""The methods text with citations, ready to paste: as text, as Markdown for pandoc, as BibTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.report.embeddings import is_control

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from neurostorm_app.bids_app.report.tree import RunFiles

__all__ = ["Methods", "cite", "read_references", "write_methods"]

_BIB: Final = Path(__file__).parent / "templates" / "references.bib"
_RULES: Final = (
    ("(N4, SimpleITK)", ("n4", "simpleitk")),
    ("(deepbet)", ("deepbet",)),
    ("(affine and SyN, ANTs)", ("syn",)),
    ("MNI152NLin2009cAsym", ("mni2009",)),
    ("MNI152NLin6Asym", ("mni6",)),
    ("cerebrospinal fluid", ("hmrf",)),
    ("different phase encoding", ("pepolar",)),
    ("a map of phase differences", ("fieldmap",)),
    ("two phase images", ("fieldmap",)),
    ("grey-white boundary", ("bbr",)),
    ("as fMRIPrep defines them", ("fmriprep",)),
    ("framewise displacement", ("fd",)),
    ("aCompCor", ("compcor",)),
    ("crown components", ("crown",)),
)
"""Words of the methods text, and what is to be cited where they come first."""
_ACCENTS: Final = {r"{\'a}": "á", r"{\'e}": "é", r"{\~n}": "ñ"}


@dataclass(frozen=True, kw_only=True)
class Methods:
    """What a paper needs to say.

    Parameters
    ----------
    text : str
        Paragraphs with citations by author and year.
    markdown : str
        The same with citations by key, for pandoc.
    references : list of str
        In the order of the first citation.
    bibtex : str
        Entries of the references.
    """

    text: str
    markdown: str
    references: list[str]
    bibtex: str


def write_methods(methods: str, runs: Iterable[RunFiles]) -> Methods | None:
    """Put citations into the methods text, and say which models embedded the runs.

    Parameters
    ----------
    methods : str
        What the preprocessing says of itself; empty if it did not run.
    runs : iterable of RunFiles
        Their embeddings name the models.

    Returns
    -------
    Methods or None
        None if there is nothing to say.
    """
    models = _models(runs)
    paragraphs = [part for part in (methods.strip(), _say(models)) if part]
    if not paragraphs:
        return None
    entries, text = read_references(), "\n\n".join(paragraphs)
    cited = [key for phrase, keys in _found(text) for key in keys if phrase]
    keys = list(dict.fromkeys(cited))
    return Methods(
        text=cite(text, {key: entries[key].short for key in keys}),
        markdown=cite(text, {key: f"@{key}" for key in keys}, brackets=("[", "]")),
        references=[entries[key].long for key in keys] + _papers(models),
        bibtex="\n\n".join(entries[key].bibtex for key in keys),
    )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A reference: as BibTeX has it, as ``Author et al., year``, and in full."""

    bibtex: str
    short: str
    long: str


def read_references(path: Path = _BIB) -> dict[str, Entry]:
    """Read the references by their key.

    Examples
    --------
    >>> read_references()["bbr"].short
    'Greve and Fischl, 2009'
    """
    text = path.read_text(encoding="utf-8")
    blocks = [block.strip() for block in re.split(r"\n(?=@)", text) if block.strip()]
    return {
        match[1]: _entry(block) for block in blocks if (match := re.match(r"@\w+\{(\w+),", block))
    }


def _entry(block: str) -> Entry:
    plain = block
    for code, letter in _ACCENTS.items():
        plain = plain.replace(code, letter)
    fields = {
        name: re.sub(r"[{}]", "", value).replace("--", "-")
        for name, value in re.findall(r"(\w+) = \{((?:[^{}]|\{[^{}]*\})*)\}", plain)
    }
    people = fields["author"].split(" and ")
    families = [person.split(",")[0] for person in people]
    short = families[0] + (" et al." if len(families) > 2 else f" and {families[1]}")
    shown = "; ".join(people[:6]) + ("; et al." if len(people) > 6 else "")
    number = f"({fields['number']})" if "number" in fields else ""
    where = f"{fields['journal']} {fields['volume']}{number}:{fields['pages']}"
    return Entry(
        bibtex=block,
        short=f"{short}, {fields['year']}",
        long=f"{shown} ({fields['year']}). {fields['title']}. {where}. doi:{fields['doi']}",
    )


def _found(text: str) -> list[tuple[str, Sequence[str]]]:
    """List the rules whose words are in a text, in the order of the text."""
    found = [(text.index(phrase), phrase, keys) for phrase, keys in _RULES if phrase in text]
    return [(phrase, keys) for _, phrase, keys in sorted(found)]


def cite(text: str, marks: Mapping[str, str], *, brackets: tuple[str, str] = ("(", ")")) -> str:
    """Put a mark behind the first place of each phrase.

    Parameters
    ----------
    text : str
        Without citations.
    marks : mapping
        Key of a reference to what stands for it.
    brackets : tuple of str
        Around marks. Round ones join those that a phrase ends with.

    Examples
    --------
    >>> cite("skull-stripped (deepbet).", {"deepbet": "Fisch et al., 2024"})
    'skull-stripped (deepbet; Fisch et al., 2024).'
    """
    opening, closing = brackets
    for phrase, keys in _found(text):
        mark = "; ".join(marks[key] for key in keys if key in marks)
        if not mark:
            continue
        joined = (
            f"{phrase[:-1]}; {mark})"
            if phrase.endswith(")") and opening == "("
            else f"{phrase} {opening}{mark}{closing}"
        )
        text = text.replace(phrase, joined, 1)
    return text


def _models(runs: Iterable[RunFiles]) -> dict[str, Mapping[str, object]]:
    """List the models of the runs by name, with what their sidecars say of them; no controls."""
    found: dict[str, Mapping[str, object]] = {}
    for run in runs:
        for label, files in run.embeddings.items():
            if is_control(label):
                continue
            model = files.sidecar.get("Model")
            about: Mapping[str, object] = model if isinstance(model, dict) else {}
            pooling = files.sidecar.get("Pooling")
            found.setdefault(str(about.get("Name") or label), {**about, "Pooling": pooling})
    return found


def _say(models: Mapping[str, Mapping[str, object]]) -> str:
    """Say which models embedded the runs, and from which weights."""
    if not models:
        return ""
    parts = []
    for name, about in models.items():
        weights = str(about.get("WeightsSHA256") or "")
        told = [f"version {about['Version']}"] if about.get("Version") else []
        told += [f"weights SHA-256 {weights[:12]}"] if weights else ["no weights"]
        parts.append(f"{name} ({', '.join(told)})")
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Preprocessed runs were embedded by {listed} with neurostorm-app."


def _papers(models: Mapping[str, Mapping[str, object]]) -> list[str]:
    """List what the cards of the models ask to cite."""
    papers: list[str] = []
    for about in models.values():
        listed = about.get("References")
        papers += [str(paper) for paper in listed] if isinstance(listed, list) else []
    return list(dict.fromkeys(papers))
