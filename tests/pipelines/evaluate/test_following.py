"""What was planted is followed, what was not is not, and what cannot be told is not told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from neurostorm_app.pipelines.evaluate.following import (
    FEWEST,
    average_people,
    measure_following,
)


def vectors(n=40, d=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def test_the_share_is_that_of_multivariate_regression():
    x = vectors()
    z = np.random.default_rng(1).standard_normal(40)
    x[:, 0] += 2 * z
    centred, column = x - x.mean(0), (z - z.mean())[:, None]
    fitted = column @ np.linalg.lstsq(column, centred, rcond=None)[0]
    found = measure_following(x @ x.T, z, n_permutations=199)
    assert found.share == pytest.approx((fitted**2).sum() / (centred**2).sum())
    assert found.p_value == 1 / 200
    assert (found.by_chance, found.n) == (1 / 39, 40)
    # The origin of the vectors and the unit of the property do not matter.
    again = measure_following((x + 5) @ (x + 5).T, 1000 * z - 3, n_permutations=199)
    assert again.share == pytest.approx(found.share)


def test_sites_are_followed_as_groups_and_not_as_numbers():
    x = vectors()
    sites = [f"site-{'abc'[i % 3]}" for i in range(40)]
    x[[i for i in range(40) if i % 3 == 1]] += 1.5  # the middle one alone differs
    found = measure_following(x @ x.T, sites)
    assert found.p_value == 1 / 1000
    assert found.share > 0.2
    assert found.by_chance == pytest.approx(2 / 39)


@pytest.mark.parametrize("names", [False, True])
def test_what_was_not_planted_has_uniform_p_values_and_the_share_of_chance(names):
    found = []
    for seed in range(150):
        x = vectors(20, 6, seed)
        z = np.random.default_rng(1000 + seed).standard_normal(20)
        values = ["a" if v > 0 else "b" for v in z] if names else z
        found.append(measure_following(x @ x.T, values, n_permutations=99, seed=seed))
    assert kstest([one.p_value for one in found], "uniform").pvalue > 0.01
    assert np.mean([one.share for one in found]) == pytest.approx(1 / 19, abs=0.01)


def test_those_of_whom_it_is_not_known_are_left_out():
    x = vectors(30)
    z = np.random.default_rng(2).standard_normal(30)
    z[20:] = np.nan
    found = measure_following(x @ x.T, z)
    alone = measure_following(x[:20] @ x[:20].T, z[:20])
    assert (found.n, found.share) == (20, pytest.approx(alone.share))
    named = measure_following(x @ x.T, ["a", "b"] * 10 + [""] * 10)
    assert named.n == 20


@pytest.mark.parametrize(
    "values",
    [
        np.full(12, 3.0),
        np.r_[np.arange(FEWEST - 1), np.full(13 - FEWEST, np.nan)],
        ["same"] * 12,
        [f"name-{i}" for i in range(12)],
        [""] * 12,
    ],
    ids=["constant", "few", "one name", "a name each", "none known"],
)
def test_what_cannot_be_told_is_not_told(values):
    x = vectors(12)
    assert measure_following(x @ x.T, values) is None


def test_vectors_that_do_not_differ_follow_nothing():
    x = np.ones((12, 3))
    assert measure_following(x @ x.T, np.arange(12.0)) is None


def test_people_are_the_means_of_their_runs():
    x = vectors(5, 3)
    names, gram = average_people(x @ x.T, ["b", "a", "b", "c", "c"])
    means = np.array([x[[0, 2]].mean(0), x[1], x[3:].mean(0)])
    assert names == ["b", "a", "c"]
    np.testing.assert_allclose(gram, means @ means.T)
