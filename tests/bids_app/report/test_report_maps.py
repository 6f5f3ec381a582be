"""Maps of runs, and what people's embeddings follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neurostorm_app.bids_app.report.group import write_group_page
from neurostorm_app.bids_app.report.maps import MARGIN, SIZE, draw_maps, find_followed
from neurostorm_app.bids_app.report.neighbours import Cohort
from neurostorm_app.bids_app.report.records import RunRecord
from neurostorm_app.bids_app.report.verdict import Level, Measures, Verdict
from neurostorm_app.pipelines.figures import neighbourhood, similarity

N = 20


def make(n=N, *, runs=1, motion=0.0, site=0.0, seed=0):
    """Make a cohort whose embeddings follow motion and the site as strongly as told."""
    rng = np.random.default_rng(seed)
    people = [f"{i:02d}" for i in range(n) for _ in range(runs)]
    fd = np.repeat(rng.random(n), runs)
    vectors = np.repeat(rng.standard_normal((n, 16)), runs, axis=0)
    vectors += 0.3 * rng.standard_normal((n * runs, 16))
    vectors[:, 0] += motion * fd
    vectors[:, 1] += site * (np.arange(n * runs) // runs % 2)
    names = [f"sub-{person}_task-rest_run-{i}" for i, person in enumerate(people)]
    records = [
        RunRecord(
            name=name,
            participant=person,
            title="task rest",
            status="success",
            measures=Measures(mean_fd=float(value)),
            verdict=Verdict(level=Level.GOOD, reasons=()),
        )
        for name, person, value in zip(names, people, fd, strict=True)
    ]
    table = {
        "participant_id": [f"sub-{i:02d}" for i in range(n)],
        "site": ["ab"[i % 2] for i in range(n)],
        "age": [str(20 + i * 7 % 30) for i in range(n)],
        "name": [f"Ada {i}" for i in range(n)],
    }
    cohort = Cohort(
        label="demo",
        names=names,
        participants=people,
        vectors=vectors.astype(np.float32),
        similarity=similarity(vectors),
        n_all=len(names),
    )
    return cohort, records, table


def followed(table=None, **how):
    cohort, records, people = make(**how)
    found = find_followed(cohort, range(len(records)), records, people if table is None else table)
    return {one.name: one for one in found}


def test_what_was_planted_is_followed_and_the_rest_is_not():
    motion = followed(motion=12.0)
    assert motion["mean motion"].level == "check"
    assert motion["mean motion"].found.p_value == 1 / 1000
    assert motion["age"].level == motion["site"].level == "good"
    site = followed(site=5.0, runs=2)
    assert site["site"].level == "check"
    assert site["mean motion"].level == "good"
    assert site["site"].found.n == N  # participants, not runs


def test_names_of_people_are_no_property():
    assert set(followed()) == {"mean motion", "site", "age"}


def test_people_without_a_row_or_a_value_are_left_out():
    _, _, table = make()
    table = {column: cells[:12] for column, cells in table.items()}
    table["age"][0] = "n/a"
    found = followed(table)
    assert (found["site"].found.n, found["age"].found.n) == (12, 11)
    assert found["mean motion"].found.n == N


def test_few_people_follow_nothing():
    assert followed(n=5) == {}


def test_many_runs_have_a_map_of_neighbours_that_keeps_groups_together():
    cohort, records, _ = make(site=40.0)
    maps = draw_maps(cohort, range(N), records)
    assert [one.key for one in maps] == ["components", "neighbours"]
    for one in maps:
        assert len(one.dots) == N
        x, y = np.array([(dot.x, dot.y) for dot in one.dots]).T
        assert min(x.min(), y.min()) >= MARGIN - 1e-6
        assert x.max() <= SIZE - MARGIN + 1e-6
        assert y.max() <= one.height - MARGIN + 1e-6
        places = np.array([x, y]).T
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        nearest = apart.argmin(axis=1)
        assert np.mean(nearest % 2 == np.arange(N) % 2) > 0.8


def test_the_map_of_neighbours_is_the_same_at_each_call_and_needs_runs():
    cohort, _, _ = make()
    first, again = neighbourhood(cohort.similarity), neighbourhood(cohort.similarity)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (N, 2)
    assert neighbourhood(cohort.similarity[:14, :14]) is None
    assert neighbourhood(cohort.similarity[:15, :15]) is not None


def test_runs_of_a_participant_are_joined():
    cohort, records, _ = make(4, runs=2)
    [one] = draw_maps(cohort, range(8), records)
    assert [len(path) for path in one.paths] == [2] * 4


@pytest.mark.parametrize("n", [2, 9])
def test_the_page_says_what_is_followed_or_why_it_is_not_told(make_tree, tmp_path, n):
    tree = make_tree(tmp_path)
    names = [f"sub-{i:02d}_task-rest" for i in range(1, n + 1)]
    for i, name in enumerate(names):
        tree.run(name, quiet=i % 2 == 0)
    tree.retrieval(names)
    text = write_group_page(tree.root).read_text(encoding="utf-8")
    assert "Does it follow motion or site?" in text
    assert ("takes eight participants" in text) == (n == 2)
    assert ('<td class="name">mean motion</td>' in text) == (n == 9)


def test_numbers_of_sites_are_names():
    cohort, records, table = make(n=60)
    cohort.vectors[:, 1] += 12.0 * (np.arange(60) % 3 == 1)  # the second of three alone differs
    table["site"] = [str(1 + i % 3) for i in range(60)]
    cohort = replace(cohort, similarity=similarity(cohort.vectors))
    found = {one.name: one.found for one in find_followed(cohort, range(60), records, table)}
    assert found["site"].p_value == 1 / 1000
    assert found["site"].by_chance == pytest.approx(2 / 59)


def test_many_sites_are_a_property_while_they_are_fewer_than_people():
    cohort, records, table = make(n=100)
    table["site"] = [f"s{i % 24}" for i in range(100)]
    assert "site" in {one.name for one in find_followed(cohort, range(100), records, table)}
