"""Small files: what is missing is nothing, what is damaged has a name."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.bids_app.report.reading import numbers, read_json, read_table, read_vectors
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
