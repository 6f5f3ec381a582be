"""Re-identification: chance is chance, the same is found, and no run is its own match."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.reidentify import (
    Draws,
    compare_reidentification,
    fingerprint,
    reidentify,
)
from neurostorm_app.pipelines.reidentify_scores import mean_interval, score_ranks
from neurostorm_app.pipelines.reidentify_trials import Similarities, draw_trials, find_people

FEW = Draws(n_trials=10, n_bootstraps=200, n_permutations=200)
ROUNDING = 1e-9


def labels(n_people, n_runs=2, n_windows=1):
    """Name people and their runs, ``n_windows`` rows each."""
    people = np.repeat([f"{i:03d}" for i in range(n_people)], n_runs * n_windows)
    runs = np.tile(np.repeat([f"run-{i}" for i in range(n_runs)], n_windows), n_people)
    return people.tolist(), runs.tolist()


def planted(rng, n_people, *, noise, n_runs=2, dimension=33):
    """Make runs that are a person's own vector and something else."""
    own = np.repeat(rng.normal(size=(n_people, dimension)), n_runs, axis=0)
    return own + noise * rng.normal(size=own.shape)


@pytest.mark.parametrize("centre", [False, True], ids=["as they are", "centred"])
def test_vectors_without_people_in_them_are_recognised_by_chance(centre):
    """Runs draw from one distribution: one in G is right, within the binomial error."""
    n_people, n_seeds = 11, 60
    found = [
        reidentify(
            3 + np.random.default_rng(seed).normal(size=(2 * n_people, 19)),
            *labels(n_people),
            centre=centre,
            draws=Draws(n_trials=4, n_bootstraps=2, seed=seed),
        ).whole
        for seed in range(n_seeds)
    ]
    rank1 = np.array([score.rank1.value for score in found])
    chance = found[0].chance_rank1
    assert chance == pytest.approx(1 / n_people)
    error = rank1.std(ddof=1) / np.sqrt(n_seeds)
    assert error < 1.5 * np.sqrt(chance * (1 - chance) / (n_people * n_seeds))  # binomial
    assert abs(rank1.mean() - chance) < 3 * error
    precision = np.array([score.mean_precision.value for score in found])
    error = precision.std(ddof=1) / np.sqrt(n_seeds)
    assert abs(precision.mean() - found[0].chance_precision) < 3 * error


def test_vectors_that_are_the_person_are_always_recognised(rng):
    found = reidentify(planted(rng, 12, noise=0), *labels(12), centre=True, draws=FEW)
    assert found.whole.rank1.value == 1
    assert found.whole.mean_precision.value == pytest.approx(1)
    assert found.whole.rank1.high == 1
    assert 0.8 < found.whole.rank1.low < 1  # 12 of 12 are no proof of always


def test_windows_of_a_run_are_never_each_others_match(rng):
    """Windows are alike within a run, runs of a person are not alike: the naive way says 1."""
    n_people, n_windows = 20, 4
    people, runs = labels(n_people, n_windows=n_windows)
    vectors = np.repeat(rng.normal(size=(2 * n_people, 33)), n_windows, axis=0)
    vectors += 0.01 * rng.normal(size=vectors.shape)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    naive = np.mean(np.array(people)[cosine.argmax(axis=1)] == np.array(people))
    assert naive == 1
    found = reidentify(vectors, people, runs, draws=Draws(n_trials=40))
    assert found.whole.rank1.value < 4 / n_people
    assert found.n_runs == 2 * n_people


def test_query_and_gallery_are_of_two_runs_and_of_two_sessions_where_there_are(rng):
    people, runs = labels(6, n_runs=4, n_windows=3)
    sessions = [f"{int(run[-1]) // 2}" for run in runs]
    sessions[:12] = ["0"] * 12  # the first participant has one session
    everybody = find_people(rng.normal(size=(72, 5)), people, runs, sessions)
    seen = set()
    for trial in draw_trials(everybody, 4, Draws(n_trials=200)):
        assert len(set(trial.people)) == 4
        for person, gallery, query in zip(trial.people, trial.gallery, trial.query, strict=True):
            assert people[gallery] == people[query] == everybody[person].name
            assert runs[gallery] != runs[query]
            assert person == 0 or sessions[gallery] != sessions[query]
            seen.add((gallery, query))
    assert len({gallery for gallery, _ in seen}) == 72  # every window has its turn
    assert reidentify(
        rng.normal(size=(72, 5)), people, runs, sessions=sessions, draws=FEW
    ).n_across_sessions == 5  # fmt: skip


def test_runs_of_two_sessions_may_have_the_same_name(rng):
    vectors = planted(rng, 5, noise=0)
    found = reidentify(
        vectors, labels(5)[0], ["rest"] * 10, sessions=["a", "b"] * 5, draws=FEW
    ).whole  # fmt: skip
    assert found.rank1.value == 1
    with pytest.raises(DataError, match="0 of 5 participants have two runs; at least 2"):
        reidentify(vectors, labels(5)[0], ["rest"] * 10)


@pytest.mark.parametrize("centre", [False, True], ids=["as they are", "centred"])
def test_neither_the_order_of_rows_nor_their_scale_matters(rng, centre):
    people, runs = labels(9, n_runs=3, n_windows=2)
    vectors = np.repeat(planted(rng, 9, noise=2, n_runs=3), 2, axis=0)
    vectors += 0.3 * rng.normal(size=vectors.shape)
    expected = reidentify(vectors, people, runs, centre=centre, draws=FEW)
    order = rng.permutation(len(people))
    shuffled = reidentify(
        vectors[order],
        [people[i] for i in order],
        [runs[i] for i in order],
        centre=centre,
        draws=FEW,
    )
    scaled = reidentify(1e-3 * vectors, people, runs, centre=centre, draws=FEW)
    assert 0.2 < expected.whole.rank1.value < 1
    for found in (shuffled, scaled):
        assert json.dumps(found.as_dict()) == json.dumps(expected.as_dict())
        assert found.about == expected.about
    if not centre:
        lengths = rng.uniform(0.1, 9, (len(people), 1))
        stretched = reidentify(lengths * vectors, people, runs, draws=FEW)
        assert stretched.whole.rank1 == expected.whole.rank1


def test_who_has_one_run_is_an_impostor_and_never_asked_for(rng):
    people, runs = labels(6)
    vectors = planted(rng, 6, noise=0)
    alone = reidentify(vectors, people, runs, draws=FEW)
    assert alone.whole.rank1.value == 1
    # An impostor who is exactly the first participant: she is found half of the time by lot.
    with_one = reidentify(
        np.vstack([vectors, vectors[:1]]), [*people, "999"], [*runs, "run-0"], draws=FEW
    )
    assert with_one.n_impostors == 1
    assert with_one.n_participants == 7
    assert with_one.whole.chance_rank1 == pytest.approx(1 / 7)
    assert "999" not in with_one.whole.names
    assert dict(zip(with_one.whole.names, with_one.whole.scores[:, 0], strict=True)) == {
        **{f"{i:03d}": 1.0 for i in range(1, 6)},
        "000": 0.5,
    }


def test_a_smaller_gallery_is_drawn_not_cut(rng):
    """By theory: chance of the best of G rises as G falls; every participant has her turn."""
    vectors = planted(rng, 40, noise=3)
    found = reidentify(vectors, *labels(40), draws=Draws(n_trials=60, gallery=5))
    assert (found.whole.size, found.sampled.size) == (40, 5)
    assert found.sampled.n_queried == 40
    assert found.sampled.chance_rank1 == pytest.approx(0.2)
    assert found.sampled.rank1.value > found.whole.rank1.value + 0.1
    of_all = Draws(n_trials=2, n_bootstraps=2, gallery=40)
    assert reidentify(vectors, *labels(40), draws=of_all).sampled is None


def test_the_mean_taken_off_is_that_of_the_gallery(rng):
    """As a loop over one trial says."""
    people, runs = labels(7)
    vectors = 5 + planted(rng, 7, noise=1.5)
    (trial,) = draw_trials(find_people(vectors, people, runs, None), 7, Draws(n_trials=1))
    gallery = vectors[trial.gallery]
    right = 0
    for own, row in enumerate(trial.query):
        q, g = vectors[row] - gallery.mean(axis=0), gallery - gallery.mean(axis=0)
        right += np.argmax(g @ q / np.linalg.norm(g, axis=1)) == own
    found = reidentify(vectors, people, runs, centre=True, draws=Draws(n_trials=1))
    assert found.whole.rank1.value == pytest.approx(right / 7)
    assert 0 < right < 7
    assert found.centred


def test_similarity_is_the_cosine_of_what_is_left_by_the_gallerys_mean(rng):
    vectors = 5 + rng.normal(size=(9, 6))
    query, gallery = np.array([8, 2]), np.array([1, 0, 5, 7])
    found = Similarities(vectors, centre=True).cosines(query, gallery)
    q, g = (vectors[rows] - vectors[gallery].mean(axis=0) for rows in (query, gallery))
    lengths = np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(g, axis=1))
    np.testing.assert_allclose(found, q @ g.T / lengths, atol=ROUNDING)


def test_many_rows_and_long_vectors_give_the_same_as_few(rng, monkeypatch):
    vectors = planted(rng, 8, noise=2)
    expected = reidentify(vectors, *labels(8), centre=True, draws=FEW).as_dict()
    monkeypatch.setattr("neurostorm_app.pipelines.reidentify_trials.MOST_ROWS", 3)
    monkeypatch.setattr("neurostorm_app.pipelines.reidentify_trials.COLUMNS", 10)
    assert reidentify(vectors, *labels(8), centre=True, draws=FEW).as_dict() == expected


def test_what_is_all_the_same_is_recognised_by_lot(rng):
    vectors = np.tile(rng.normal(size=37), (10, 1))
    for centre in (False, True):
        found = reidentify(vectors, *labels(5), centre=centre, draws=FEW).whole
        assert found.rank1.value == pytest.approx(found.chance_rank1)
        assert found.mean_precision.value == pytest.approx(found.chance_precision)


def test_a_rank_is_scored_by_what_lies_above_and_what_ties():
    similarity = np.array([[3.0, 2, 1], [3, 2, 1], [1, 2, 2]])
    scores = score_ranks(similarity, np.array([0, 2, 1]))
    np.testing.assert_allclose(scores, [[1, 1], [0, 1 / 3], [0.5, 0.75]])


def test_an_interval_of_right_and_wrong_is_that_of_jeffreys():
    stats = pytest.importorskip("scipy.stats")
    scores = np.array([1.0] * 17 + [0.0] * 8)
    found = mean_interval(scores, (0, 1), Draws(n_bootstraps=40_000))
    expected = stats.beta(17.5, 8.5).ppf([0.05, 0.95])
    np.testing.assert_allclose([found.low, found.high], expected, atol=4e-3)


@pytest.mark.parametrize("noise", [0.7, 1.3])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(noise):
    """The truth: mean Rank-1 over many cohorts of the same kind and size."""
    n_people, n_cohorts = 20, 150
    draws = Draws(n_trials=3, n_bootstraps=300, confidence=0.9)
    found = [
        reidentify(
            planted(np.random.default_rng(seed), n_people, noise=noise, dimension=7),
            *labels(n_people),
            draws=draws,
        ).whole.rank1
        for seed in range(n_cohorts)
    ]
    truth = np.mean([interval.value for interval in found])
    assert 0.15 < truth < 0.95
    held = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert 0.83 <= held <= 0.99


def test_two_models_are_compared_on_the_same_people(rng):
    people, runs = labels(30)
    good, bad = planted(rng, 30, noise=0.7), planted(rng, 30, noise=6, dimension=12)
    draws = Draws(n_trials=20, gallery=10)
    one, other = (reidentify(v, people, runs, draws=draws) for v in (good, bad))
    whole, sampled = compare_reidentification(one, other)
    assert (whole.size, sampled.size) == (30, 10)
    assert whole.rank1.value == pytest.approx(one.whole.rank1.value - other.whole.rank1.value)
    assert whole.rank1.low > 0.5
    assert sampled.mean_precision.low > 0
    back, _ = compare_reidentification(other, one)
    assert back.rank1.value == pytest.approx(-whole.rank1.value)
    same, _ = compare_reidentification(one, one)
    assert same.rank1.value == 0
    assert -0.2 < same.rank1.low < 0 < same.rank1.high < 0.2


def test_models_measured_on_other_runs_are_not_compared(rng):
    vectors = planted(rng, 6, noise=1)
    one = reidentify(vectors, *labels(6), draws=FEW)
    for other in (
        reidentify(vectors[:10], *labels(5), draws=FEW),
        reidentify(vectors, labels(6)[0], list("ab" * 6), draws=FEW),
        reidentify(vectors, *labels(6), draws=Draws(n_trials=10, n_bootstraps=200, seed=4)),
    ):
        with pytest.raises(DataError, match="can only be compared on the same runs"):
            compare_reidentification(one, other)


def test_one_participant_with_two_runs_is_not_enough(rng):
    with pytest.raises(DataError, match="1 of 3 participants have two runs; at least 2") as caught:
        reidentify(rng.normal(size=(4, 5)), ["a", "a", "b", "c"], ["1", "2", "1", "1"])
    assert "second run or session" in caught.value.fix


def test_rows_without_labels_are_refused(rng):
    with pytest.raises(DataError, match=r"vectors of shape .* come with 4 participants"):
        reidentify(rng.normal(size=(5, 5)), list("aabb"), list("1212"))


def test_vectors_are_checked_without_a_second_table_of_them():
    vectors = np.ones((400, 20_000), np.float32)
    tracemalloc.start()
    find_people(vectors, *labels(200), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < vectors.nbytes / 4


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_a_vector_that_cannot_be_compared_is_named(rng, value):
    vectors = rng.normal(size=(4, 5))
    vectors[2] = value
    with pytest.raises(DataError, match=r"row 2 \(b, 1\) cannot be compared"):
        reidentify(vectors, list("aabb"), list("1212"))


@pytest.mark.parametrize("wrong", [{"n_trials": 0}, {"gallery": 1}, {"confidence": 1.0}])
def test_draws_that_cannot_be_are_refused(wrong):
    with pytest.raises(UsageError, match="re-identification cannot be drawn with"):
        Draws(**wrong)


def test_nobody_is_named_in_what_is_written(rng):
    found = reidentify(planted(rng, 4, noise=1), *labels(4), draws=FEW)
    assert not any(f'"{i:03d}"' in json.dumps(found.as_dict()) for i in range(4))


def edges_of(rng, n_people, *, noise):
    return np.tanh(planted(rng, n_people, noise=noise, dimension=45))


def test_a_fingerprint_is_what_corrcoef_says(rng):
    edges = edges_of(rng, 9, noise=2)
    found = fingerprint(edges, *labels(9), draws=FEW)
    correlation = np.corrcoef(edges)[::2, 1::2]
    forward = np.mean(correlation.argmax(axis=1) == np.arange(9))
    backward = np.mean(correlation.argmax(axis=0) == np.arange(9))
    assert (found.forward.value, found.backward.value) == pytest.approx((forward, backward))
    assert 0 < forward < 1
    assert found.chance == pytest.approx(1 / 9)
    assert found.n_edges == 45


def test_a_fingerprint_of_the_same_people_is_beyond_chance(rng):
    found = fingerprint(edges_of(rng, 15, noise=0.3), *labels(15), draws=FEW)
    assert found.forward.value == found.backward.value == 1
    assert found.p_forward == found.p_backward == pytest.approx(1 / 201)
    assert found.as_dict()["FirstAmongSecond"]["p"] == found.p_forward


def test_fingerprints_of_nobody_have_p_values_without_a_trend():
    """Of cohorts without people in them, at most one in ten has p below 0.1."""
    p_values = [
        fingerprint(
            np.random.default_rng(seed).normal(size=(16, 20)), *labels(8), draws=FEW
        ).p_forward
        for seed in range(150)
    ]
    assert np.mean(np.array(p_values) <= 0.1) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 150)
    assert 0.4 < np.mean(p_values) < 0.85  # ties at none right push p up


def test_fishers_z_is_turned_back(rng):
    z = planted(rng, 30, noise=2.5, dimension=45)
    of_r = fingerprint(np.tanh(z), *labels(30), draws=FEW)
    assert fingerprint(z, *labels(30), fisher_z=True, draws=FEW) == of_r
    assert fingerprint(z, *labels(30), draws=FEW) != of_r


def test_a_fingerprint_averages_sessions_and_leaves_out_single_runs(rng):
    """The second session's runs are noisy alone; their mean is the participant."""
    own = rng.normal(size=(6, 45))
    noise = 5 * rng.normal(size=own.shape)
    edges = np.concatenate([own, own + noise, own - noise, rng.normal(size=(1, 45))])
    people = [*map(str, np.tile(np.arange(6), 3)), "x"]
    sessions = ["1"] * 6 + ["2"] * 12 + ["1"]
    runs = ["a"] * 6 + ["a"] * 6 + ["b"] * 6 + ["a"]
    found = fingerprint(edges, people, runs, sessions=sessions, draws=FEW)
    assert found.n_participants == found.n_across_sessions == 6
    assert found.forward.value == 1


def test_a_flat_connectome_has_no_fingerprint(rng):
    edges = edges_of(rng, 3, noise=1)
    edges[2] = 0.25
    with pytest.raises(DataError, match="connectivity of 001 is the same in all 45"):
        fingerprint(edges, *labels(3), draws=FEW)
