"""What nobody would think of writing into a file or a command line, tried by hypothesis.

Whatever comes in, it is read or refused by an error of the house: nothing else is ever raised. The
examples are the same each time; others are tried by

    python -m pytest --hypothesis-profile=search tests/faults/test_fuzz.py
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
from neurostorm_app.pipelines.clean import read_confounds
from neurostorm_app.pipelines.header import check_tr, read_series_header
from neurostorm_app.pipelines.image import iter_volumes
from neurostorm_app.pipelines.preprocess.acquired.slicetiming import read_slice_times
from neurostorm_app.pipelines.preprocess.field.encoding import (
    find_phase_axis,
    read_phase,
    read_readout,
)

fuzzed = settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HEADER = 352
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)
KEYS = st.sampled_from(["RepetitionTime", "SliceTiming", "TaskName", "EchoTime", "FlipAngle"])
TIMING = st.sampled_from(
    [
        *("SliceTiming", "SliceEncodingDirection", "PhaseEncodingDirection", "PhaseEncodingAxis"),
        *(
            "TotalReadoutTime",
            "EffectiveEchoSpacing",
            "ReconMatrixPE",
            "WaterFatShift",
            "EPIFactor",
        ),
        *(
            "MagneticFieldStrength",
            "BandwidthPerPixelPhaseEncode",
            "ParallelReductionFactorInPlane",
        ),
        *("EstimatedTotalReadoutTime", "EstimatedEffectiveEchoSpacing", "VolumeTiming"),
    ]
)
HUGE = st.sampled_from([10**400, -(10**400), 1e308, 5e-324, 0, -0.0, float("nan"), float("inf")])
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
@given(
    metadata=st.dictionaries(
        TIMING, JSON | HUGE | st.lists(HUGE | st.floats(0, 2), min_size=9, max_size=9)
    )
)
def test_the_timing_of_any_sidecar_is_read_or_refused(metadata):
    path = Path("x.nii")
    timing, reason = read_slice_times(metadata, shape=(7, 8, 9, 5), tr=2.0, path=path)
    assert (timing is None) == (reason is not None)
    assert timing is None or np.isfinite(timing.delays).all()
    assert find_phase_axis(metadata) in {None, 0, 1, 2}
    with contextlib.suppress(AppError):
        assert read_phase(metadata, path)[1] in {-1, 1}
    with contextlib.suppress(AppError):
        assert 0 < read_readout(metadata, n_phase=8, path=path) < 1


@fuzzed
@given(name=st.just("Jane^Doe") | st.lists(st.just("Jane^Doe")), inside=st.booleans())
def test_no_text_of_a_sidecar_stands_in_a_message(name, inside):
    value = {"Jane^Doe": name} if inside else name
    said = [
        read_slice_times({key: value}, shape=(7, 8, 9), tr=2.0, path=Path("x"))[1]
        for key in ("SliceTiming", "SliceEncodingDirection")
    ]
    for check in (
        lambda: check_tr(value, Path("x")),
        lambda: read_phase({"PhaseEncodingDirection": value}, Path("x")),
        lambda: read_phase({"PhaseEncodingAxis": value}, Path("x")),
        lambda: read_readout({"TotalReadoutTime": value}, n_phase=8, path=Path("x")),
    ):
        with pytest.raises(AppError) as caught:
            check()
        said.append(caught.value.what)
    assert not [words for words in said if "Jane" in words]


@fuzzed
@given(
    content=st.binary(max_size=60)
    | st.lists(st.text("0.5-enax\t ", max_size=9), min_size=4, max_size=4).map(
        lambda rows: "\n".join(["csf\twhite_matter", *rows]).encode()
    )
)
def test_confounds_of_any_bytes_are_read_or_refused(tmp_path, content):
    path = tmp_path / "confounds.tsv"
    path.write_bytes(content)
    with contextlib.suppress(AppError):
        table, missing, first = read_confounds(path, ("csf", "dvars"), signal=np.arange(4.0))
        assert first == 0
        assert "dvars" in missing
        assert table is None or table.to_numpy(float).shape == (4, 1)


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
