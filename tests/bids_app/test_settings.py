"""Settings as a library gives them, and the values that need more than a type."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

import neurostorm_app
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.bids_app.words.values import closest, parse_memory
from neurostorm_app.errors import NoInputError, UsageError


def test_settings_cannot_be_changed_after_the_check():
    settings = build_settings("in", "out", "participant", {})
    with pytest.raises(ValidationError):
        settings.science.random_seed = 3


def test_an_unknown_keyword_suggests_the_near_one():
    with pytest.raises(UsageError, match=r"there is no option .*model") as caught:
        neurostorm_app.run("in", "out", model=["connectome"])
    assert "models" in caught.value.fix


def test_the_library_says_what_the_command_says():
    with pytest.raises(NoInputError, match="/nowhere/bids does not exist"):
        neurostorm_app.run("/nowhere/bids", "/nowhere/out")


def test_single_words_and_python_objects_are_taken(tmp_path):
    options = {"models": "connectome", "derivatives": {"a": tmp_path}, "participant_label": "01"}
    settings = build_settings("in", "out", "group", options)
    assert settings.science.models == ("connectome",)
    assert settings.science.derivatives == {"a": tmp_path}
    assert settings.selection.participant_label == ("01",)


def test_a_derivative_takes_the_name_of_its_folder(tmp_path):
    (tmp_path / "fmriprep").mkdir()
    options = {"derivatives": [str(tmp_path / "fmriprep")]}
    settings = build_settings("in", "out", "participant", options)
    assert settings.science.derivatives == {"fmriprep": tmp_path / "fmriprep"}


def test_a_library_derivative_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NoInputError, match="none does not exist"):
        build_settings("in", "out", "participant", {"derivatives": {"a": tmp_path / "none"}})


def test_the_version_is_there_and_nothing_else_is_made_up():
    assert neurostorm_app.__version__.startswith("0.")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = neurostorm_app.nothing


@pytest.mark.parametrize(
    ("text", "size"),
    [("8G", 8 * 2**30), ("8GB", 8 * 2**30), ("512", 512 * 2**20), ("1.5gib", 1.5 * 2**30)],
)
def test_sizes_are_read(text, size):
    assert parse_memory(text, None) == size


def test_nothing_near_gives_no_suggestion():
    assert closest("xyz", ["connectome", "neurostorm"]) == ""


@pytest.mark.parametrize("given", ["age,sex", "age , sex", ["age", "sex"], ["age,", "sex,age"]])
def test_targets_are_told_apart_by_commas_or_blanks(given):
    settings = build_settings("in", "out", "group", {"target": given})
    assert settings.prediction.target == ("age", "sex")


@pytest.mark.parametrize(
    ("level", "options", "message"),
    [
        ("participant", {"target": "age"}, "--target: an option of the group level, and"),
        ("participant", {"shard": "1/2"}, "--shard: an option of the group level, and"),
        (
            "participant",
            {"max_windows": 2, "parity": "upstream"},
            "--max-windows with --parity upstream",
        ),
        ("participant", {"max_windows": 0}, "--max-windows cannot be 0"),
        ("group", {"folds": 3, "save_heads": True}, "--folds, --save-heads: without --target"),
        ("group", {"target": "age", "shard": "1/2"}, "--target with --shard 1/2: a part is no"),
        ("group", {"shard": "3/2"}, "--shard 3/2: there is no part 3 of 2"),
        ("participant", {"index_kind": "ivf"}, "--index-kind: an option of the group level, and"),
        ("group", {"index_kind": "flat"}, "--index-kind cannot be 'flat'"),
        (
            "group",
            {"index_kind": "ivf", "shard": "1/2"},
            "--index-kind with --shard 1/2: a part has no index",
        ),
        (
            "group",
            {"target": "age", "harmonise": "combat", "covariates": "none"},
            "--harmonise combat with --covariates none",
        ),
        (
            "group",
            {"target": "age", "harmonise": "combat", "save_heads": True},
            "--save-heads with --harmonise combat",
        ),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(level, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        build_settings("in", "out", level, options)
    assert caught.value.exit_code == 64


def test_a_table_of_participants_that_is_not_there_is_refused(tmp_path):
    options = {"target": "age", "participants_file": tmp_path / "people.tsv"}
    with pytest.raises(NoInputError, match=r"--participants-file: .*people.tsv is no file"):
        build_settings("in", "out", "group", options)


def test_intervals_of_reidentification_need_no_target():
    assert build_settings("in", "out", "group", {"confidence": 0.8}).prediction.confidence == 0.8


def test_a_kind_of_index_needs_no_target():
    assert build_settings("in", "out", "group", {}).prediction.index_kind == "auto"
    assert build_settings("in", "out", "group", {"index_kind": "pq"}).prediction.index_kind == "pq"


def test_the_shard_is_read_as_part_and_number():
    assert build_settings("in", "out", "group", {"shard": "2/10"}).execution.part == (2, 10)
    assert build_settings("in", "out", "group", {}).execution.part is None
