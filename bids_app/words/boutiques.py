"""The app described for machines: a Boutiques descriptor, as BIDS Apps 2.0 ask for.

It is made from the fields of the settings, as the command line is, so that the two cannot differ.
``boutiques.json`` beside this module is its copy for those who look for a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from neurostorm_app.bids_app.settings import GROUPS
from neurostorm_app.bids_app.words.compat import FOREIGN, Foreign
from neurostorm_app.bids_app.words.helps import read_helps
from neurostorm_app.bids_app.words.invocation import input_id
from neurostorm_app.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

__all__ = ["FILE", "describe_app", "descriptor_text"]

FILE: Final = Path(__file__).with_name("boutiques.json")
SUMMARY: Final = (
    "Foundation-model embeddings of fMRI: from raw scans or fMRIPrep derivatives to BIDS "
    "derivatives, an index of runs and reports. Offline; the input is never written to."
)
ERRORS: Final = {
    ExitCode.FAILURE: "A failure of the app itself.",
    ExitCode.INVALID_BIDS: "The input failed BIDS validation.",
    ExitCode.UNKNOWN_LEVEL: "Unknown analysis level.",
    ExitCode.NOTHING_SELECTED: "The filters select nothing.",
    ExitCode.ARGUMENTS_AND_INVOCATION: "Arguments and an invocation file came together.",
    ExitCode.USAGE: "The command line is wrong.",
    ExitCode.DATA: "The data cannot be used as they are.",
    ExitCode.NO_INPUT: "An input is not there.",
    ExitCode.CANNOT_CREATE: "An output cannot be created: permission, space, or place.",
    ExitCode.INPUT_OUTPUT: "Reading or writing failed half-way.",
    ExitCode.TEMPORARY: "A temporary failure; the same call goes on where this one stopped.",
}
"""What each exit code means, in words for a menu."""
ASKED: Final = {
    "--config-file": "TOML file of options by their names; the command line wins over it.",
    "--bids-exec-spec": "Print this description, and do nothing else.",
}
"""Options of the call itself, which are no settings."""
BOUNDS: Final = {"ge": "minimum", "gt": "minimum", "le": "maximum", "lt": "maximum"}


def descriptor_text() -> str:
    """Write the descriptor as JSON."""
    return json.dumps(describe_app(), indent=2, ensure_ascii=False) + "\n"


def describe_app() -> dict[str, Any]:
    """Describe the app.

    Returns
    -------
    dict
        A Boutiques descriptor of schema 0.5.

    References
    ----------
    Boutiques, schema 0.5; BIDS execution specification, BEP027.
    """
    from neurostorm_app import __version__

    options = list(_options())
    inputs = [*_places(), *options]
    keys = " ".join(entry["value-key"] for entry in inputs)
    return {
        "name": "neurostorm-app",
        "description": SUMMARY,
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": f"neurostorm-app {keys}",
        "container-image": {"type": "docker", "image": f"neurostorm-app:{__version__}"},
        "inputs": inputs,
        "groups": [
            {"id": group, "name": group, "members": [input_id(n) for n in model.model_fields]}
            for group, model in GROUPS.items()
        ],
        "output-files": _outputs(),
        "error-codes": [{"code": int(c), "description": text} for c, text in ERRORS.items()],
        "suggested-resources": {"cpu-cores": 4, "ram": 8, "walltime-estimate": 3600},
        "tags": {"domain": ["neuroinformatics", "fmri", "bids-app"]},
        "custom": {"BIDSAppSpecVersion": "2.0", "BIDSApplicationVersion": "2.0"},
    }


def _places() -> list[dict[str, Any]]:
    """Describe the three arguments of every call."""
    dataset = {"list": True, "min-list-entries": 1, "max-list-entries": 1}
    about = "The dataset; it is only read."
    levels = "participant (subject, session, run), or group (dataset) when all of them are done."
    choices = ["participant", "group", "subject", "session", "run", "dataset"]
    return [
        _entry("InputDataset", "Dataset", "File", about, optional=False) | dataset,
        _entry("OutputLocation", "Results", "String", "Folder of the results.", optional=False),
        _entry("AnalysisLevel", "Level", "String", levels, optional=False)
        | {"value-choices": choices},
    ]


def _options() -> Iterator[dict[str, Any]]:
    """Describe every option."""
    for flag, name, text in (
        ("--help", "Help", "Print how to call the app, and do nothing else."),
        ("--version", "ToolVersion", "Print the version, and do nothing else."),
    ):
        yield _entry(name, name, "Flag", text) | {"command-line-flag": flag}
    for flag, text in ASKED.items():
        kind = "File" if flag == "--config-file" else "Flag"
        yield _entry(input_id(flag), _title(flag), kind, text) | {"command-line-flag": flag}
    for model in GROUPS.values():
        helps = read_helps(model)
        for name, field in model.model_fields.items():
            yield _option(name, field, helps[name])
    for foreign in FOREIGN:
        if not foreign.refused:
            yield _foreign(foreign)


def _entry(name: str, title: str, kind: str, text: str, *, optional: bool = True) -> dict[str, Any]:
    """Describe what every input has."""
    return {
        "id": name,
        "name": title,
        "description": text,
        "type": kind,
        "value-key": f"[{name.upper()}]",
        "optional": optional,
    }


def _option(name: str, field: FieldInfo, text: str) -> dict[str, Any]:
    """Describe one option from the field of its settings."""
    flag = "--" + name.replace("_", "-")
    kind, values = _kind(name, field)
    entry = _entry(input_id(flag), _title(flag), kind, text) | {"command-line-flag": flag}
    if kind == "Number":
        entry |= {"integer": int in _parts(field.annotation)}
        for bound, word in BOUNDS.items():
            for limit in (getattr(m, bound) for m in field.metadata if hasattr(m, bound)):
                entry[word] = limit
                if bound in {"gt", "lt"}:
                    entry[f"exclusive-{word}"] = True
    if get_origin(field.annotation) in {tuple, Mapping}:
        entry |= {"list": True, "list-separator": " "}
    if values:
        entry["value-choices"] = values
    if kind != "Flag" and field.default not in (None, (), {}):
        default = field.default
        entry["default-value"] = list(default) if isinstance(default, tuple) else default
        if kind == "String" and isinstance(default, float):
            entry["default-value"] = str(default)
    return entry


def _kind(name: str, field: FieldInfo) -> tuple[str, list[Any]]:
    """Tell the type of an option, and its values where they are few."""
    if field.annotation is bool or name == "verbose":
        return "Flag", []
    parts = _parts(field.annotation)
    choices = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    if choices:
        return ("Number" if isinstance(choices[0], int) else "String"), choices
    if Path in parts and get_origin(field.annotation) is not Mapping:
        return "File", []
    # A moment may be a word, too.
    number = {int, float} & set(parts) and name != "slice_time_ref"
    return ("Number" if number else "String"), []


def _parts(annotation: Any) -> list[Any]:
    """Take ``X | None`` and ``tuple[X, ...]`` apart; a literal stays whole."""
    if get_origin(annotation) is Literal or not get_args(annotation):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts(inner)]


def _foreign(foreign: Foreign) -> dict[str, Any]:
    """Describe an option of another app that does nothing here."""
    flag = foreign.flags[0]
    kind = "String" if foreign.nargs else "Flag"
    text = f"Does nothing here: {foreign.why}."
    return _entry(input_id(flag), _title(flag), kind, text) | {"command-line-flag": flag}


def _title(flag: str) -> str:
    return flag.removeprefix("--").replace("-", " ").capitalize()


def _outputs() -> list[dict[str, Any]]:
    """Describe what a call leaves."""
    files = {
        "results": ("Results", "", "BIDS derivatives: series, embeddings, reports, provenance."),
        "description": ("Description", "/dataset_description.json", "Of the derivative."),
        "subject_reports": ("Reports of participants", "/sub-*.html", "One page a participant."),
        "group_report": ("Report of the cohort", "/group.html", "Of the group level."),
        "run_reports": ("Reports of runs", "/logs/*_report.json", "Status and exit code of each."),
    }
    return [
        {
            "id": name,
            "name": title,
            "description": text,
            "path-template": f"[OUTPUTLOCATION]{path}",
            "optional": name not in {"results", "description"},
            "list": "*" in path,
        }
        for name, (title, path, text) in files.items()
    ]
