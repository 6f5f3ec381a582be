"""A run among all runs: apart, or like the others, or nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.bids_app.report.neighbours import Cohort
from neurostorm_app.bids_app.report.standing import FEWEST, find_standing
from neurostorm_app.bids_app.report.verdict import Level, Measures, judge
from neurostorm_app.pipelines.figures import similarity


def cohort(rng, n_people: int = 15, *, apart: float = 0.0) -> Cohort:
    """Make two runs of each person; the first person's are turned away from all by `apart`."""
    people = np.repeat(np.arange(n_people), 2)
    common, own = rng.normal(size=40), rng.normal(size=(n_people, 40))
    vectors = common * 3 + own[people] * 0.8 + 0.2 * rng.normal(size=(len(people), 40))
    vectors[:2] = (1 - apart) * vectors[:2] + apart * rng.normal(size=40) * 4
    return Cohort(
        label="connectome",
        names=[f"sub-{p:02d}_run-{i % 2 + 1}" for i, p in enumerate(people)],
        participants=[f"{p:02d}" for p in people],
        vectors=vectors.astype(np.float32),
        similarity=similarity(vectors),
        n_all=len(people),
    )


def test_the_nearest_run_is_one_of_another_participant(rng):
    found = find_standing(cohort(rng), "sub-03_run-1", demo=False)
    assert found is not None
    assert not found.nearest.startswith("sub-03")
    assert 0 < found.distance < 1
    assert found.n_runs == 28  # those of which it is told what is usual: not the person's own


@pytest.mark.parametrize(("apart", "level"), [(0.0, Level.GOOD), (1.0, Level.CHECK)])
def test_a_run_unlike_all_others_is_a_reason_to_look(rng, apart, level):
    standing = find_standing(cohort(rng, apart=apart), "sub-00_run-1", demo=False)
    assert standing is not None
    found = judge(Measures(), qc={}, contracts={}, standings=[standing])
    [reason] = [r for r in found.reasons if r.topic == "Nearest runs by connectome"]
    assert reason.level is level
    assert standing.nearest in reason.text
    assert f"cosine distance of {standing.distance:.2f}" in reason.text


def test_demonstration_weights_say_nothing_of_a_scan(rng):
    standing = find_standing(cohort(rng, apart=1.0), "sub-00_run-1", demo=True)
    assert standing is not None
    found = judge(Measures(), qc={}, contracts={}, standings=[standing])
    assert not any("Nearest" in reason.topic for reason in found.reasons)


def test_few_runs_judge_nobody(rng):
    standing = find_standing(cohort(rng, FEWEST // 2), "sub-00_run-1", demo=False)
    assert standing is not None
    assert standing.fence is None
    found = judge(Measures(), qc={}, contracts={}, standings=[standing])
    assert not any("Nearest" in reason.topic for reason in found.reasons)


def test_a_run_that_is_not_among_them_has_no_standing(rng):
    assert find_standing(cohort(rng), "sub-99_run-1", demo=False) is None
    assert find_standing(cohort(rng, 1), "sub-00_run-1", demo=False) is None
