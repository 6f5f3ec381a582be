"""What nobody would think of writing into a file or a command line, tried by hypothesis.

Whatever comes in, it is read or refused by an error of the house: nothing else is ever raised.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurostorm_app.bids_app.cli import parse
from neurostorm_app.bids_app.group.tables import find_tables, read_column
from neurostorm_app.bids_app.inputs.entities import parse_name, read_filters
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.bids_app.participant.image_sidecars import carried, series_facts
from neurostorm_app.bids_app.privacy import Rules
from neurostorm_app.bids_app.words.options import Selection
from neurostorm_app.bids_app.words.values import LABEL, expand_labels
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.header import check_tr, read_series_header
from neurostorm_app.pipelines.image import iter_volumes

fuzzed = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HEADER = 352
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)
KEYS = st.sampled_from(["RepetitionTime", "SliceTiming", "TaskName", "EchoTime", "FlipAngle"])
OPTIONS = st.sampled_from(
    [
        *("--participant-label", "--output-spaces", "--mem", "--nprocs", "-d", "--models", "-t"),
        *("--weights", "--device", "--bids-filter-file", "--shard", "--atlas"),
    ]
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Write a small series, not compressed, and return its bytes and a place for others."""
    path = tmp_path_factory.mktemp("fuzz") / "x.nii"
    image = nib.Nifti1Image(np.ones((3, 4, 5, 6), np.int16), np.diag([3.0, 3, 4, 1]))
    nib.save(image, path)
    return path.read_bytes(), path


@fuzzed
@given(
    changes=st.dictionaries(
        st.integers(0, HEADER - 1), st.integers(0, 255), min_size=1, max_size=12
    )
)
def test_a_header_of_any_bytes_is_read_or_refused(good, changes):
    content, path = bytearray(good[0]), good[1]
    for place, value in changes.items():
        content[place] = value
    path.write_bytes(content)
    with contextlib.suppress(AppError):
        header = read_series_header(path)
        assert header.tr is None or header.tr > 0
        for volume in iter_volumes(path):
            assert volume.nbytes <= 2 * len(content)
            assert np.isfinite(volume).all()


@fuzzed
@given(
    field=st.sampled_from(["pixdim", "srow_x", "srow_y", "srow_z"]),
    index=st.integers(0, 3),
    value=st.floats(width=32),
)
def test_an_affine_of_any_numbers_is_read_or_refused(good, field, index, value):
    content, path = bytearray(good[0]), good[1]
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, count=1)
    header[field][0, index] = value
    path.write_bytes(content)
    with contextlib.suppress(AppError):
        assert np.isfinite(read_series_header(path).zooms).all()


@fuzzed
@given(content=st.binary(max_size=60) | JSON.map(lambda c: json.dumps(c).encode()))
def test_a_sidecar_of_any_bytes_is_an_object_or_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with contextlib.suppress(AppError):
        assert isinstance(read_object(path), dict)


@fuzzed
@given(metadata=st.dictionaries(KEYS | st.text(max_size=9), JSON, max_size=5))
def test_of_any_sidecar_only_plain_values_are_carried_over(metadata):
    facts = series_facts(metadata, {"slice_timing": None})
    json.dumps(facts, allow_nan=False)
    assert all(isinstance(value, str | int | float) for value in carried(metadata).values())
    with contextlib.suppress(AppError):
        assert 0 < check_tr(metadata.get("RepetitionTime"), Path("x")) <= 60


@fuzzed
@given(name=st.text(max_size=60) | st.from_regex(r"sub-[^_]{1,9}_task-[^_]{1,9}_bold\.nii\.gz"))
def test_a_name_of_any_letters_gives_labels_or_is_refused(name):
    with contextlib.suppress(AppError):
        assert all(LABEL.fullmatch(value) for value in parse_name(Path("/x") / name).values())


@fuzzed
@given(query=JSON | st.fixed_dictionaries({"bold": st.dictionaries(st.just("task"), JSON)}))
def test_a_filter_of_any_json_is_taken_or_refused(tmp_path, query):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps(query))
    with contextlib.suppress(AppError):
        for wanted in read_filters(Selection(bids_filter_file=path))["bold"].values():
            for value in wanted if isinstance(wanted, list) else [wanted]:
                assert value is None or value == "*" or LABEL.fullmatch(str(value))


@fuzzed
@given(words=st.lists(st.text(max_size=12), max_size=3))
def test_labels_of_any_words_are_labels_or_refused(words):
    with contextlib.suppress(AppError, ValueError, OSError):  # of a file name with a zero byte
        assert all(LABEL.fullmatch(label) for label in expand_labels("task_label", words))


@fuzzed
@given(
    content=st.binary(max_size=90)
    | st.text("\t\n\"'ab1,participant_id", max_size=90).map(str.encode)
)
def test_a_table_of_any_bytes_is_read_or_refused(tmp_path, content):
    (tmp_path / "participants.tsv").write_bytes(b"participant_id\tage\n" + content)
    with contextlib.suppress(AppError):
        for table in find_tables([tmp_path], ["01"]):
            assert all(LABEL.fullmatch(key[0]) for key in read_column(table, "age").cells)


@fuzzed
@given(pairs=st.lists(st.tuples(OPTIONS, st.text(max_size=12)), max_size=4))
def test_a_command_line_of_any_words_is_taken_or_refused(tmp_path, pairs):
    words = [word for option, value in pairs for word in (f"{option}={value}",)]
    with contextlib.suppress(AppError):
        parse([str(tmp_path), str(tmp_path / "out"), "participant", *words])


@fuzzed
@given(text=st.text("/ab.~ '\n:", max_size=40))
def test_a_place_is_gone_from_any_text(text):
    rules = Rules(strict=True, places={"BIDS_DIR": Path("/a/b")})
    hidden = rules.text(text)
    assert not any(word.startswith("/a/b/") for word in hidden.split())
    assert rules.text(hidden) == hidden
