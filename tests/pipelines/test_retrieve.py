"""An index: what is found is what a matrix of cosines says, or as much of it as is stated."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from neurostorm_app.errors import CannotCreateError, DataError, NoInputError
from neurostorm_app.pipelines import retrieve_recall
from neurostorm_app.pipelines.resources import Resources
from neurostorm_app.pipelines.retrieve import (
    build_index,
    choose_kind,
    describe_index,
    load_index,
    merge_indices,
    save_index,
    search,
    search_many,
)
from neurostorm_app.pipelines.retrieve_rows import draw, gather, iterate

APPROXIMATE = ("ivf", "hnsw", "pq")
GIB = 2**30

ROUNDING = 1e-5  # cosine, float32


@pytest.fixture
def embeddings(rng):
    """Vectors of unequal lengths with a large common part, as connectomes have."""
    vectors = 5 + rng.normal(size=(9, 33))
    return (vectors * rng.uniform(0.5, 3, (9, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def people():
    """Make 1,600 runs of 400 people, 10 numbers each, about a common part."""
    rng = np.random.default_rng(11)
    own = np.repeat(rng.normal(size=(400, 10)), 4, axis=0)
    return (3 + own + 0.5 * rng.normal(size=own.shape)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut blocks of 100 vectors of 10 numbers."""
    monkeypatch.setattr("neurostorm_app.pipelines.retrieve_rows.BLOCK_BYTES", 4000)


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


@pytest.mark.parametrize("wrong", ["no steps", "distances", "another step", "rows", "nothing"])
def test_an_index_that_compares_in_another_way_is_refused(tmp_path, wrong):
    """faiss reads each of them without a word."""
    faiss = pytest.importorskip("faiss")
    inner = faiss.IndexFlatL2(5) if wrong == "distances" else faiss.IndexFlatIP(5)
    handle = faiss.IndexPreTransform(inner)
    if wrong == "another step":
        rotation = faiss.RandomRotationMatrix(5, 5)
        rotation.init(1)
        handle.prepend_transform(rotation)
    if wrong != "no steps":
        handle.prepend_transform(faiss.NormalizationTransform(5, 2.0))
    handle.is_trained = True
    handle.add(np.eye(5, dtype=np.float32))
    handle.ntotal = 9 if wrong == "rows" else 5
    path = tmp_path / "index.faiss"
    faiss.write_index(handle, str(path))
    if wrong == "nothing":
        assert load_index(path).n_rows == 5
        return
    with pytest.raises(DataError, match="is damaged, or is not an index of this app"):
        load_index(path)


def test_a_folder_that_is_not_there_is_an_error(embeddings, tmp_path):
    with pytest.raises(CannotCreateError, match="the index cannot be written"):
        save_index(build_index(embeddings), tmp_path / "nowhere" / "index.faiss")


def nearest_by_cosine(vectors, k):
    """Find the k rows nearest to each, itself left out, by a matrix of cosines."""
    unit = vectors - vectors.mean(axis=0, dtype=np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    return np.argsort(-cosine, axis=1)[:, :k]


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_an_approximate_index_states_the_recall_it_has(people, kind):
    index = build_index(people, centre=True, kind=kind)
    rows, _ = search_many(index, people, 10, exclude=[{i} for i in range(len(people))])
    truth = nearest_by_cosine(people, 10)
    found = np.mean([np.isin(a, b).mean() for a, b in zip(rows, truth, strict=True)])
    assert (index.kind, index.recall.n_queries, index.recall.nearest) == (kind, 1000, 10)
    assert found == pytest.approx(index.recall.value, abs=0.02)  # 1,000 of the 1,600
    assert 0.5 < index.recall.value < 1
    if kind != "pq":
        assert index.recall.value >= index.recall.target == 0.95


@pytest.mark.parametrize(
    ("kind", "effort", "target"), [("ivf", "nprobe", 0.9), ("hnsw", "efSearch", 0.999)]
)
def test_the_effort_is_the_smallest_that_finds_enough(people, kind, effort, target):
    """One less finds too little; a lower target takes less."""
    faiss = pytest.importorskip("faiss")
    index = build_index(people, kind=kind, target=target)
    assert index.recall.value >= target
    least = index.parameters[effort]
    assert least > 11 if kind == "hnsw" else least > 1
    asked = draw(len(people), 1000, seed=(0, 1))
    queries = people[asked]
    truth = retrieve_recall._nearest_exactly(index.handle, people, queries, asked)
    inner = faiss.downcast_index(index.handle.index)
    setattr(inner.hnsw if kind == "hnsw" else inner, effort, least - 1)
    assert retrieve_recall._share_found(index.handle, queries, asked, truth) < target
    assert build_index(people, kind=kind, target=0.5).parameters[effort] < least


def test_recall_counts_rows_that_tie_as_found():
    """Each vector three dozen times: which ten of them come back is as good as any other."""
    rng = np.random.default_rng(2)
    vectors = np.tile(rng.normal(size=(90, 6)), (36, 1)).astype(np.float32)
    assert build_index(vectors, kind="ivf").recall.value > 0.95


@pytest.mark.parametrize("kind", ["exact", *APPROXIMATE])
def test_any_number_of_threads_and_any_blocks_make_the_same_file(
    people, kind, small_blocks, tmp_path
):
    shards = [people[:7], people[7:950], people[950:]]
    for name, rows, n_threads in (("a", people, 1), ("b", people, 2), ("c", shards, 2)):
        with threadpool_limits(n_threads):
            save_index(build_index(rows, centre=True, kind=kind), tmp_path / name)
    contents = {(tmp_path / name).read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_another_seed_asks_with_other_rows(people):
    one, other = (build_index(people, kind="ivf", seed=seed) for seed in (0, 1))
    assert one.recall.value != other.recall.value


@pytest.mark.parametrize("kind", ["exact", *APPROXIMATE])
def test_an_index_of_any_kind_comes_back_from_its_file(people, kind, tmp_path):
    index = build_index(people, centre=True, kind=kind)
    save_index(index, tmp_path / "index")
    found = load_index(tmp_path / "index")
    assert (found.kind, found.parameters, found.n_rows) == (kind, index.parameters, 1600)
    np.testing.assert_array_equal(found.mean, index.mean)
    for ours, theirs in zip(
        search_many(index, people[:30], 5), search_many(found, people[:30], 5), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_many_queries_are_answered_as_one_by_one(people):
    index = build_index(people, centre=True)
    exclude = [{i, i + 1} for i in range(50)]
    rows, similarity = search_many(index, people[:50], 6, exclude=exclude)
    for i in range(50):
        one = search(index, people[i], 6, exclude=exclude[i])
        np.testing.assert_array_equal(rows[i], one[0])
        np.testing.assert_allclose(similarity[i], one[1], atol=ROUNDING)


def test_where_there_are_no_more_rows_there_is_none(embeddings):
    index = build_index(embeddings)
    rows, similarity = search_many(index, embeddings[:2], 100, exclude=[[], [0, 3]])
    assert rows.shape == (2, 9)
    assert sorted(rows[0]) == list(range(9))
    assert sorted(rows[1]) == [-1, -1, 1, 2, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(np.isnan(similarity), rows < 0)


def test_rows_excluded_for_other_queries_are_refused(embeddings):
    with pytest.raises(DataError, match="rows are excluded for 1 queries; there are 2"):
        search_many(build_index(embeddings), embeddings[:2], 3, exclude=[{0}])


def test_lists_that_are_not_probed_leave_gaps_not_wrong_rows(people):
    index = build_index(people, kind="ivf", target=0.3)
    rows, similarity = search(index, people[0], 1600)
    assert 0 < len(rows) < 1600
    assert rows.min() >= 0
    assert np.isfinite(similarity).all()
    rows, similarity = search_many(index, people[:2], 1600)
    assert (rows < 0).any()
    np.testing.assert_array_equal(np.isnan(similarity), rows < 0)


def test_building_takes_one_thread_and_gives_the_others_back(people, monkeypatch):
    faiss = pytest.importorskip("faiss")
    seen = []
    monkeypatch.setattr(
        "neurostorm_app.pipelines.retrieve.train",
        lambda *_, **__: seen.append(faiss.omp_get_max_threads()),
    )
    with threadpool_limits(2):
        build_index(people, kind="exact")
        assert (seen, faiss.omp_get_max_threads()) == ([1], 2)


@pytest.mark.parametrize(
    ("n_rows", "dimension", "memory", "expected"),
    [
        (3, 288, 4 * GIB, "exact"),
        (200_000, 288, 4 * GIB, "exact"),
        (200_001, 288, 4 * GIB, "ivf"),
        (1_000_000, 288, 4 * GIB, "ivf"),
        (1_000_000, 288, GIB, "pq"),
        (20_000, 79_800, 4 * GIB, "pq"),
        (1000, 79_800, 2**20, "exact"),
    ],
)
def test_the_kind_follows_from_size_and_memory(n_rows, dimension, memory, expected):
    assert choose_kind(n_rows, dimension, memory=memory) == expected


def test_memory_left_unsaid_is_that_of_the_job(monkeypatch):
    monkeypatch.setattr(
        "neurostorm_app.pipelines.retrieve_kinds.detect", lambda: Resources(1, "", 2**20, "")
    )
    assert choose_kind(10_000, 288) == "pq"


def test_an_index_says_how_it_finds(people, embeddings):
    assert describe_index(build_index(embeddings)) == {
        "Kind": "exact",
        "Parameters": {},
        "Recall": None,
    }
    said = describe_index(build_index(people, kind="ivf"))
    assert said["Kind"] == "ivf"
    assert said["Parameters"].keys() == {"nlist", "nprobe"}
    assert said["Recall"].keys() == {"Value", "Nearest", "Queries", "Target"}


def test_codes_of_vectors_of_an_odd_length(people):
    """Parts of two numbers: the eleventh has a zero beside it."""
    vectors = np.hstack([people, people[:, :1] ** 2])
    index = build_index(vectors, kind="pq")
    assert index.parameters["code_size"] == 6
    rows, similarity = search(index, vectors[3], 1)
    assert rows[0] in range(4)  # of the same participant
    assert similarity[0] > 0.9


def test_too_few_rows_to_learn_codes_from(embeddings):
    with pytest.raises(DataError, match="9 rows are too few to learn codes from"):
        build_index(embeddings, kind="pq")


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_one_row_and_few_rows_may_be_asked_for_approximately(embeddings, kind):
    alone = build_index(embeddings[:1], kind=kind)
    assert (alone.recall.value, alone.recall.n_queries) == (1, 0)
    few = build_index(embeddings, kind=kind)
    assert (few.recall.value, few.recall.nearest, few.recall.n_queries) == (1, 8, 9)


def test_an_iterator_is_read_once(embeddings):
    whole = build_index(embeddings, centre=True)
    of_parts = build_index(iter([embeddings[:2], embeddings[2], embeddings[3:]]), centre=True)
    for ours, theirs in zip(
        search(of_parts, embeddings[4], 9), search(whole, embeddings[4], 9), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_blocks_are_cut_anew_and_rows_picked_across_them(people, small_blocks):
    parts = [people[:130], people[130:131], people[131:]]
    blocks = list(iterate(parts))
    assert [len(block) for block in blocks] == [100] * 16
    np.testing.assert_array_equal(np.concatenate(blocks), people)
    wanted = np.array([0, 99, 100, 130, 1599])
    np.testing.assert_array_equal(gather(parts, wanted), people[wanted])


def test_a_bad_row_of_a_later_block_is_named(people, small_blocks):
    people = people.copy()
    people[[321, 1000]] = np.inf
    with pytest.raises(DataError, match="row 321 is not finite or has no length, as have 2"):
        build_index([people[:300], people[300:]])


def test_blocks_of_two_models_are_not_joined(embeddings):
    with pytest.raises(DataError, match="one block holds vectors of 33 numbers, the next of 7"):
        build_index([embeddings, embeddings[:, :7]])


@pytest.mark.parametrize("nothing", [[], iter([])])
def test_no_blocks_are_no_index(nothing):
    with pytest.raises(DataError, match="one row of numbers for each run was expected"):
        build_index(nothing)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_indices_are_merged_by_their_vectors(people, kind, small_blocks):
    parts = [build_index(people[:700], kind=kind), build_index(people[700:], kind="exact")]
    merged = merge_indices(parts)
    assert (merged.kind, merged.n_rows) == ("exact", 1600)
    whole = build_index(people)
    for row in (5, 1200):
        np.testing.assert_array_equal(
            search(merged, people[row], 5)[0], search(whole, people[row], 5)[0]
        )
    assert merge_indices(parts, kind="ivf").recall.value >= 0.95


def test_codes_are_not_merged(people):
    parts = [build_index(people, kind="pq"), build_index(people)]
    with pytest.raises(DataError, match="keeps codes, not the vectors: it cannot be merged"):
        merge_indices(parts)


def test_a_damaged_number_does_not_ask_for_all_memory(people, tmp_path):
    """Any byte of the head may be wrong: an error, or an index; never more memory than there is."""
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.retrieve import load_index
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
path = Path(sys.argv[1])
content, refused = path.read_bytes(), 0
for place in range(min(len(content), 400)):
    damaged = bytearray(content)
    damaged[place] ^= 0xD5
    path.write_bytes(damaged)
    try:
        load_index(path)
    except DataError:
        refused += 1
print(refused)
"""
    save_index(build_index(people[:100], centre=True, kind="hnsw"), tmp_path / "index")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "index")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert int(done.stdout) > 10


@pytest.mark.slow
def test_one_million_runs_are_indexed_and_searched_within_four_gib():
    """Peak of resident memory of a process that reads blocks, builds and asks."""
    script = """
import numpy as np
from neurostorm_app.pipelines.retrieve import build_index, search_many

class Blocks:
    def __iter__(self):
        for i in range(100):
            rng = np.random.default_rng(i)
            own = np.repeat(rng.normal(size=(2000, 288)), 5, axis=0)
            yield (own + 0.5 * rng.normal(size=own.shape)).astype(np.float32)

index = build_index(Blocks(), centre=True, memory=4 * 2**30)
search_many(index, next(iter(Blocks())), 10)
status = open("/proc/self/status").read()  # ru_maxrss has the parent's in it
print(index.kind, status.split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    kind, peak = done.stdout.split()
    assert kind == "ivf"
    assert int(peak) * 1024 < 4 * GIB
