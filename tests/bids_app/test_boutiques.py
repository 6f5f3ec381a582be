"""The descriptor: valid, complete, and the same as the command line."""

from __future__ import annotations

import json
import re

import pytest

from neurostorm_app.bids_app.cli import build_parser, main, parse
from neurostorm_app.bids_app.settings import GROUPS
from neurostorm_app.bids_app.words.boutiques import ERRORS, FILE, describe_app, descriptor_text
from neurostorm_app.bids_app.words.compat import FOREIGN
from neurostorm_app.errors import ExitCode

REQUIRED = ["name", "description", "tool-version", "schema-version", "command-line", "inputs"]
TYPES = {"String", "File", "Flag", "Number"}
INPUT = {
    "id",
    "name",
    "description",
    "type",
    "value-key",
    "optional",
    "command-line-flag",
    "list",
    "list-separator",
    "min-list-entries",
    "max-list-entries",
    "integer",
    "minimum",
    "maximum",
    "exclusive-minimum",
    "exclusive-maximum",
    "value-choices",
    "default-value",
}
"""Properties of an input that schema 0.5 of Boutiques knows, as far as they are used here."""


@pytest.fixture(scope="module")
def descriptor():
    return describe_app()


def test_the_file_is_as_new_as_the_options():
    written = FILE.read_text(encoding="utf-8")
    assert written == descriptor_text(), "run .venv/bin/python scripts/make_docs.py"


def test_it_is_printed(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--bids-exec-spec"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out) == describe_app()


def test_it_has_what_boutiques_and_bids_apps_ask_for(descriptor):
    assert not [key for key in REQUIRED if not descriptor[key]]
    assert descriptor["schema-version"] == "0.5"
    assert descriptor["custom"] == {"BIDSAppSpecVersion": "2.0", "BIDSApplicationVersion": "2.0"}
    assert descriptor["container-image"]["type"] in {"docker", "singularity"}
    ids = [entry["id"] for entry in descriptor["inputs"]]
    wanted = ["InputDataset", "OutputLocation", "AnalysisLevel", "Help", "ToolVersion"]
    assert ids[:5] == wanted
    assert {"ParticipantLabel", "SessionLabel", "TaskLabel", "RunLabel"} < set(ids)


def test_each_input_is_well_formed(descriptor):
    inputs = descriptor["inputs"]
    for entry in inputs:
        assert set(entry) <= INPUT, entry["id"]
        assert entry["type"] in TYPES
        assert re.fullmatch(r"[0-9_a-zA-Z]+", entry["id"])
        assert entry["name"]
        assert entry["description"], entry["id"]
        if entry["type"] == "Flag":
            assert entry["command-line-flag"]
            assert not {"list", "value-choices", "default-value"} & set(entry), entry["id"]
            assert entry["optional"] is True
        if entry["type"] != "Number":
            assert not {"integer", "minimum", "maximum"} & set(entry), entry["id"]
    for key in ("id", "value-key", "command-line-flag"):
        values = [entry[key] for entry in inputs if key in entry]
        assert len(values) == len(set(values)), key


def test_defaults_and_choices_are_of_the_type_of_their_input(descriptor):
    for entry in descriptor["inputs"]:
        kind = (int, float) if entry["type"] == "Number" else str
        default = entry.get("default-value", [])
        values = default if isinstance(default, list) else [default]
        for value in [*values, *entry.get("value-choices", [])]:
            assert isinstance(value, kind), entry["id"]
        if "default-value" in entry and "value-choices" in entry:
            assert set(values) <= set(entry["value-choices"])
        if "default-value" in entry:
            assert isinstance(default, list) == bool(entry.get("list"))


def test_the_command_line_holds_each_value_once(descriptor):
    line = descriptor["command-line"]
    for entry in descriptor["inputs"]:
        assert line.count(entry["value-key"]) == 1
    assert set(re.findall(r"\[\w+\]", line)) == {e["value-key"] for e in descriptor["inputs"]}


def test_every_option_of_the_command_line_is_in_it(descriptor):
    flags = {entry.get("command-line-flag") for entry in descriptor["inputs"]}
    refused = {flag for foreign in FOREIGN if foreign.refused for flag in foreign.flags}
    missing = [
        action.option_strings
        for action in build_parser()._actions
        if action.option_strings
        and not flags & set(action.option_strings)
        and not refused & set(action.option_strings)
    ]
    assert missing == [["--invocation"]]  # which an invocation cannot hold


def test_every_flag_of_it_is_an_option_of_the_command_line(descriptor):
    known = {s for action in build_parser()._actions for s in action.option_strings}
    assert {
        e["command-line-flag"] for e in descriptor["inputs"] if "command-line-flag" in e
    } < known


def test_what_it_says_of_a_value_is_what_the_command_line_takes(descriptor):
    entries = {entry["id"]: entry for entry in descriptor["inputs"]}
    assert entries["random_seed"]["minimum"] == 0
    assert entries["random_seed"]["integer"] is True
    assert entries["input_gain"]["exclusive-minimum"] is True
    assert entries["models"]["list"] is True
    assert entries["models"]["default-value"] == ["connectome"]
    assert entries["bold2anat_dof"]["value-choices"] == [6, 9, 12]
    assert entries["no_controls"]["type"] == "Flag"
    assert entries["bids_filter_file"]["type"] == "File"
    for entry in entries.values():
        for value in entry.get("value-choices", []) if "command-line-flag" in entry else []:
            level = "group" if entry["id"] in GROUPS["prediction"].model_fields else "participant"
            words = [entry["command-line-flag"], str(value)]
            words += ["--target", "age"] if level == "group" else []
            parse(["in", "out", level, *words])


def test_groups_name_inputs(descriptor):
    ids = {entry["id"] for entry in descriptor["inputs"]}
    for group in descriptor["groups"]:
        assert group["members"]
        assert set(group["members"]) <= ids


def test_output_files_lie_in_the_output_folder(descriptor):
    for output in descriptor["output-files"]:
        assert output["path-template"].startswith("[OUTPUTLOCATION]")
        assert output["list"] == ("*" in output["path-template"])


def test_every_exit_code_but_success_is_explained(descriptor):
    codes = [entry["code"] for entry in descriptor["error-codes"]]
    assert codes == [int(code) for code in ExitCode if code != ExitCode.SUCCESS]
    assert all(ERRORS.values())
