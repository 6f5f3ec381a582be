"""What a page compares when there are more runs than it can show."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.bids_app.group.outputs import index_paths
from neurostorm_app.bids_app.group.store import Collected, Row, write_table
from neurostorm_app.bids_app.report import neighbours
from neurostorm_app.bids_app.report.neighbours import read_cohort, read_cohorts


@pytest.fixture
def root(tmp_path, rng):
    """A table of twelve participants with two runs each, and no text beside it."""
    runs = [(f"{p:02d}", f"sub-{p:02d}_task-rest_run-{r}") for p in range(12) for r in (1, 2)]
    vectors = np.repeat(rng.normal(size=(12, 9)), 2, axis=0) + 0.1 * rng.normal(size=(24, 9))
    rows = [
        Row(
            participant=participant,
            session=None,
            run=run,
            path=tmp_path / run,
            source=f"bids::{run}",
            sha256=run,
            stamps=(1, 2, 3, 4),
        )
        for participant, run in runs
    ]
    made = Collected(
        label="toy",
        rows=tuple(rows),
        vectors=vectors.astype(np.float32),
        fingerprint={"EmbeddingDimension": 9},
        demo=False,
        left_out={},
        n_read=0,
    )
    write_table(index_paths(tmp_path, "toy")["parquet"], made, tmp_path)
    return tmp_path


def test_a_long_table_is_read_where_there_is_no_text(root):
    notices = []
    cohort = read_cohorts(root, notices)["toy"]
    assert (len(cohort.names), cohort.n_all, notices) == (24, 24, [])
    assert cohort.found_first() == (24, 24)
    best = cohort.nearest("sub-05_task-rest_run-1")
    assert (len(best), best[0].name, best[0].same) == (5, "sub-05_task-rest_run-2", True)


def test_of_too_many_runs_whole_participants_are_drawn_and_it_is_said(root, monkeypatch):
    everything = read_cohort(root, "toy")
    monkeypatch.setattr(neighbours, "MOST", 9)
    notices = []
    few = read_cohorts(root, notices)["toy"]
    assert (len(few.names), few.n_all, few.similarity.shape) == (8, 24, (8, 8))
    assert few.found_first() == (8, 8)  # nobody is there with one of two runs
    assert few.names == read_cohort(root, "toy").names
    rows = [everything.names.index(name) for name in few.names]
    np.testing.assert_array_equal(few.vectors, everything.vectors[rows])
    assert "8 of 24 runs, of participants drawn at random" in notices[0].what


def test_the_participant_of_a_page_is_among_those_drawn(root, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST", 4)
    for p in range(12):
        cohort = read_cohorts(root, [], keep=f"{p:02d}")["toy"]
        assert cohort.nearest(f"sub-{p:02d}_task-rest_run-1", 1)[0].same
        assert len(cohort.names) == 4
