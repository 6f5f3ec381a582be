from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.pipelines.train import compare_matching, find_hits

PEOPLE = [person for person in range(6) for _ in (1, 2)]


def people_apart(noise: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    own = rng.standard_normal((6, 8)).repeat(2, axis=0)
    return 100 + own + noise * rng.standard_normal((12, 8))


def test_runs_of_one_person_are_found_behind_a_common_part() -> None:
    assert find_hits(people_apart(0.1), PEOPLE).all()
    assert not find_hits(people_apart(100), PEOPLE).all()


def test_without_centring_the_common_part_hides_what_differs() -> None:
    rows = np.array([[1, 50], [1, 80], [0, 50], [0, 80.0]])
    assert find_hits(rows, "aabb", centre=True).tolist() != [True] * 4
    assert find_hits(rows, "aabb", centre=False).all()


def test_the_margin_comes_with_an_interval_over_participants() -> None:
    trained = find_hits(people_apart(0.1), PEOPLE)
    never = np.zeros(12, dtype=bool)
    half = np.array([True] * 6 + [False] * 6)
    done = compare_matching(trained, [never, half], PEOPLE)
    assert (done.matched, done.matched_untrained, done.margin) == (1.0, 0.25, 0.75)
    assert 0.5 <= done.margin_low < done.margin < done.margin_high <= 1.0
    assert done.chance == pytest.approx(1 / 11)
    assert (done.n_participants, done.n_runs, done.n_untrained) == (6, 12, 2)
    assert done == compare_matching(trained, [never, half], PEOPLE)
