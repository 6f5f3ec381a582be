"""Small files: what is missing is nothing, what is damaged has a name."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.bids_app.report.reading import (
    expecting,
    numbers,
    read_json,
    read_table,
    read_vectors,
)
from neurostorm_app.errors import DataError


def test_what_is_not_there_is_empty(tmp_path):
    assert read_json(tmp_path / "x.json") == {}
    assert read_json(None) == {}
    assert read_table(tmp_path / "x.tsv") == {}
    labels, vectors = read_vectors(None)
    assert labels == {}
    assert vectors.shape == (0, 0)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not readable as JSON"), ("[1]", "where an object was expected")]
)
def test_a_damaged_json_file_is_named(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_json(path)
    assert str(path) in caught.value.what
    assert "run the app again" in caught.value.fix


def test_a_ragged_table_names_its_row(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n1\t2\n3\n")
    with pytest.raises(DataError, match=r"row 3 has \d+ cells; the header has \d+"):
        read_table(path)


def test_cells_that_are_no_numbers_are_nan(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("fd\tx\nn/a\t1\n0.25\t2\n")
    values = numbers(read_table(path), "fd")
    assert values is not None
    assert np.isnan(values[0])
    assert values[1] == 0.25
    assert numbers({}, "fd") is None


def test_vectors_keep_every_bit(tmp_path, rng):
    vectors = rng.normal(size=(3, 4)).astype(np.float32)
    lines = ["onset\tdim000\tdim001\tdim002\tdim003"]
    lines += ["\t".join([str(i), *map(str, row)]) for i, row in enumerate(vectors)]
    path = tmp_path / "a.tsv"
    path.write_text("\n".join(lines) + "\n")
    labels, read = read_vectors(path)
    assert labels == {"onset": ["0", "1", "2"]}
    np.testing.assert_array_equal(read, vectors)


def test_a_json_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "' + "x" * 2**24 + '"}')
    with pytest.raises(DataError, match="a file of this kind has at most 16777216"):
        read_json(path)


def test_json_that_nests_without_end_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 10**6)
    with pytest.raises(DataError, match="not readable as JSON"):
        read_json(path)


@pytest.mark.parametrize("content", [b"a\tb\n\xff\xfe\t2\n", b"a\n" + b"x" * 200_000 + b"\n"])
def test_bytes_that_are_no_table_are_named(tmp_path, content):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not readable as a table") as caught:
        read_table(path)
    assert str(path) in caught.value.what


def test_a_table_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.tsv"
    path.write_text("a\n1\n")

    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(DataError, match=r"not readable as a table \(.*Permission denied"):
        read_table(path)


def test_a_vector_with_a_hole_is_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("onset\tdim000\tdim001\n0\t1.5\tn/a\n")
    with pytest.raises(DataError, match="a cell of a vector is no number"):
        read_vectors(path)


def test_what_is_not_in_a_file_names_the_file_and_errors_of_the_app_stay_as_they_are(tmp_path):
    path = tmp_path / "a.json"
    words = r"a\.json: no record can be read \(KeyError: 'x'\)"
    with pytest.raises(DataError, match=words), expecting("record", path):
        _ = {}["x"]
    own = DataError("what was found", fix="what to do")
    with pytest.raises(DataError) as caught, expecting("record", path):
        raise own
    assert caught.value is own
