"""An exact index: what is found is what a matrix of cosines says."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.errors import CannotCreateError, DataError, NoInputError
from neurostorm_app.pipelines.retrieve import (
    build_index,
    load_index,
    merge_indices,
    save_index,
    search,
)

ROUNDING = 1e-5  # cosine, float32


@pytest.fixture
def embeddings(rng):
    """Vectors of unequal lengths with a large common part, as connectomes have."""
    vectors = 5 + rng.normal(size=(9, 33))
    return (vectors * rng.uniform(0.5, 3, (9, 1))).astype(np.float32)


def cosines(vectors, query, *, mean):
    vectors, query = vectors.astype(np.float64) - mean, query.astype(np.float64) - mean
    return vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


@pytest.mark.parametrize("centre", [False, True], ids=["as they are", "centred"])
def test_the_index_says_what_a_matrix_of_cosines_says(embeddings, rng, centre):
    query = rng.normal(5, 1, 33).astype(np.float32)
    expected = cosines(embeddings, query, mean=embeddings.mean(axis=0) if centre else 0.0)
    rows, similarity = search(build_index(embeddings, centre=centre), query, 4)
    np.testing.assert_array_equal(rows, np.argsort(-expected)[:4])
    np.testing.assert_allclose(similarity, np.sort(expected)[::-1][:4], atol=ROUNDING)


def test_a_run_is_most_like_itself_unless_it_is_excluded(embeddings):
    index = build_index(embeddings, centre=True)
    rows, similarity = search(index, embeddings[6], 3)
    assert rows[0] == 6
    np.testing.assert_allclose(similarity[0], 1, atol=ROUNDING)
    others, _ = search(index, embeddings[6], 3, exclude={6})
    assert 6 not in others
    assert len(others) == 3
    np.testing.assert_array_equal(others[:2], rows[1:])


def test_asking_for_more_than_there_is_gives_all(embeddings):
    rows, similarity = search(build_index(embeddings), embeddings[0], 100, exclude=[0, 3])
    assert sorted(rows) == [1, 2, 4, 5, 6, 7, 8]
    assert len(similarity) == 7


def test_two_rows_have_no_mean_worth_taking_off(embeddings):
    assert build_index(embeddings[:2], centre=True).mean is None
    assert build_index(embeddings[:3], centre=True).mean is not None


@pytest.mark.parametrize("centre", [False, True], ids=["as they are", "centred"])
def test_an_index_comes_back_from_its_file_as_it_was(embeddings, tmp_path, centre):
    index = build_index(embeddings, centre=centre)
    save_index(index, tmp_path / "desc-tiny_index.faiss")
    found = load_index(tmp_path / "desc-tiny_index.faiss")
    assert (found.dimension, found.n_rows) == (33, 9)
    assert (found.mean is not None) == centre
    for ours, theirs in zip(
        search(index, embeddings[4], 5), search(found, embeddings[4], 5), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["desc-tiny_index.faiss"]


def test_faiss_alone_reads_the_file_and_takes_raw_vectors(embeddings, tmp_path):
    faiss = pytest.importorskip("faiss")
    save_index(build_index(embeddings, centre=True), tmp_path / "index.faiss")
    handle = faiss.read_index(str(tmp_path / "index.faiss"))
    assert handle.search(embeddings[2:3], 1)[1][0, 0] == 2


def test_the_same_embeddings_make_the_same_file(embeddings, tmp_path):
    for name in ("a", "b"):
        save_index(build_index(embeddings, centre=True), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_indices_of_two_sites_are_one_index(embeddings):
    merged = merge_indices([build_index(embeddings[:4]), build_index(embeddings[4:])])
    whole = build_index(embeddings)
    for row in (0, 8):
        ours, theirs = search(merged, embeddings[row], 9), search(whole, embeddings[row], 9)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_allclose(ours[1], theirs[1], atol=ROUNDING)


def test_indices_with_means_of_their_own_are_not_merged(embeddings):
    parts = [build_index(embeddings[:4], centre=True), build_index(embeddings[4:], centre=True)]
    with pytest.raises(DataError, match="indices that take off a mean cannot be merged"):
        merge_indices(parts)


def test_indices_of_two_models_are_not_merged(embeddings):
    with pytest.raises(DataError, match="vectors of different lengths"):
        merge_indices([build_index(embeddings), build_index(embeddings[:, :7])])


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_vector_without_direction_is_refused_by_its_row(embeddings, value):
    embeddings[5] = value
    with pytest.raises(DataError, match=r"row 5.* is not finite or has no length"):
        build_index(embeddings)


def test_an_index_of_nothing_is_refused():
    with pytest.raises(DataError, match="one row of numbers for each run was expected"):
        build_index(np.zeros((0, 4)))


def test_a_query_of_another_model_is_refused(embeddings):
    with pytest.raises(
        DataError, match=r"the query has 7.* numbers; the index holds vectors of .*33"
    ):
        search(build_index(embeddings), np.ones(7), 1)


def test_a_missing_index_says_how_to_make_it(tmp_path):
    with pytest.raises(NoInputError, match="there is no index") as caught:
        load_index(tmp_path / "index.faiss")
    assert "group level" in caught.value.fix


def test_a_damaged_index_is_refused(embeddings, tmp_path):
    path = tmp_path / "index.faiss"
    save_index(build_index(embeddings), path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="is damaged, or is not an index of this app"):
        load_index(path)


def test_a_folder_that_is_not_there_is_an_error(embeddings, tmp_path):
    with pytest.raises(CannotCreateError, match="the index cannot be written"):
        save_index(build_index(embeddings), tmp_path / "nowhere" / "index.faiss")
