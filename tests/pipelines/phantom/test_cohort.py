"""The cohort holds what was planted, no more, and a person does not depend on the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model
from neurostorm_app.pipelines.phantom.cohort import (
    AGE_PAIR,
    GROUP_PAIR,
    Planted,
    make_cohort,
)


def upper(matrices):
    rows, columns = np.triu_indices(matrices.shape[-1], 1)
    return matrices[..., rows, columns]


def fingerprints(cohort):
    """Compute the connectome of every run: (N, R, edges)."""
    n, r, v, t = cohort.series.shape
    series = torch.from_numpy(cohort.series.reshape(-1, v, t))
    return create_model("connectome").embed(series).numpy().reshape(n, r, -1)


@pytest.fixture(scope="module")
def grey():
    return make_cohort(60, seed=5)


def test_series_are_runs_of_the_grey_parcels(grey):
    assert grey.series.shape == (60, 2, 100, 240)
    assert grey.series.dtype == np.float32
    assert grey.places.shape == (100, 3)
    assert len(grey.networks) == 100
    assert {*AGE_PAIR, *GROUP_PAIR} <= set(grey.networks)
    gain = grey.series.mean(axis=(1, 2, 3))
    one = np.array(grey.table.site) == "scanner1"
    np.testing.assert_allclose(gain[one], 1, atol=1e-3)
    np.testing.assert_allclose(gain[~one], 1.2, atol=1e-3)


def test_the_correlations_of_the_series_are_the_true_ones():
    cohort = make_cohort(3, 1, n_volumes=20_000, layout="few", seed=2)
    for series, true in zip(cohort.series[:, 0], cohort.connectivity, strict=True):
        # a run has a state of its own, of a share of 0.04 of the variance
        np.testing.assert_allclose(np.corrcoef(series.astype(float)), true, atol=0.08)


def test_age_moves_the_edges_of_its_pair_and_no_others(grey):
    moved = np.abs(np.diff(_true(grey, age=True), axis=0)[0])
    of_pair = grey.edges(AGE_PAIR)
    assert moved[of_pair].min() > 0
    assert moved[~of_pair].max() < 1e-12
    assert of_pair.sum() == grey.networks.count(AGE_PAIR[0]) * grey.networks.count(AGE_PAIR[1])


def test_the_group_differs_at_the_edges_of_its_pair_and_at_no_others(grey):
    moved = np.diff(_true(grey, age=False), axis=0)[0]
    assert moved[grey.edges(GROUP_PAIR)].max() < 0
    assert np.abs(moved[~grey.edges(GROUP_PAIR)]).max() < 1e-12


def _true(cohort, *, age):
    """Compute true correlations of one person who is older, or a patient: (2, edges)."""
    from neurostorm_app.pipelines.phantom.cohort_series import Scene, Who

    scene = Scene(planted=cohort.planted, networks=cohort.networks, places=cohort.places, seed=5)
    ages, groups = ((30, 70), ("control",) * 2) if age else ((50, 50), ("control", "patient"))
    people = [
        Who(number=1, age=years, group=group, family="family001", site=0)
        for years, group in zip(ages, groups, strict=True)
    ]
    return upper(np.array([scene.truth(who, motion=0.2) for who in people]))


def test_effects_are_in_the_connectomes(grey):
    x, table = fingerprints(grey).mean(axis=1), grey.table
    assert np.corrcoef(x[:, grey.edges(AGE_PAIR)].mean(axis=1), table.age)[0, 1] > 0.6
    patients = np.array(table.group) == "patient"
    pair = x[:, grey.edges(GROUP_PAIR)].mean(axis=1)
    assert pair[~patients].mean() - pair[patients].mean() > 0.08
    motion = grey.motion.mean(axis=1)
    second = np.array(table.site) == "scanner2"
    assert x[~second].std() > 1.1 * x[second].std()  # noise makes correlations smaller
    level = x.mean(axis=1) - np.where(second, x[second].mean(), x[~second].mean())
    assert np.corrcoef(level, motion)[0, 1] > 0.4
    near = upper(np.linalg.norm(grey.places[:, None] - grey.places, axis=2)) < 30
    slopes = np.polyfit(motion[second], x[second], 1)[0]
    assert slopes[near].mean() > 1.15 * slopes[~near].mean() > 0


def test_people_are_recognised_by_their_other_run(grey):
    x = fingerprints(grey)
    x = x - x.mean(axis=0)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    likeness = x[:, 0] @ x[:, 1].T
    assert (likeness.argmax(axis=1) == np.arange(60)).mean() > 0.6  # by chance 0.02
    family = np.array(grey.table.family)
    siblings = (family[:, None] == family) & ~np.eye(60, dtype=bool)
    strangers = (family[:, None] != family) & (
        np.array(grey.table.site)[:, None] == np.array(grey.table.site)
    )
    assert likeness[siblings].mean() > likeness[strangers].mean() + 0.03


def test_traits_correlate_as_stated():
    cohort = make_cohort(2000, 2, n_volumes=20, layout="few", seed=1)
    table, motion = cohort.table, cohort.motion.mean(axis=1)

    def r(a, b):
        return np.corrcoef(a, b)[0, 1]

    assert r(motion, table.age) == pytest.approx(0.4, abs=0.05)
    assert r(motion, table.restlessness) == pytest.approx(0.8, abs=0.03)
    assert r(motion, table.score) == pytest.approx(0, abs=0.05)
    assert r(table.age, table.score) == pytest.approx(0, abs=0.05)
    assert table.restlessness.std() == pytest.approx(1, abs=0.05)
    patients, second = (np.array(a) == b for a, b in
                        ((table.group, "patient"), (table.site, "scanner2")))  # fmt: skip
    assert r(patients, second) == pytest.approx(0, abs=1e-9)
    assert r(patients, motion) == pytest.approx(0, abs=0.05)
    assert motion.min() >= 0.04  # mm


def test_siblings_share_a_site():
    table = make_cohort(24, 1, n_volumes=20, layout="few").table
    sites = {}
    for family, site in zip(table.family, table.site, strict=True):
        sites.setdefault(family, []).append(site)
    assert sorted({len(s) for s in sites.values()}) == [1, 2]
    assert all(len(set(s)) == 1 for s in sites.values())
    assert {s[0] for s in sites.values() if len(s) == 2} == {"scanner1", "scanner2"}


def test_an_effect_that_is_turned_off_is_not_there():
    nothing = Planted(age=0, group=0, site=0, person=0, motion=0, motion_age=0, restlessness=0)
    cohort = make_cohort(12, 2, n_volumes=40, planted=nothing, layout="few", seed=4)
    np.testing.assert_allclose(cohort.connectivity, cohort.connectivity[:1].repeat(12, 0))
    np.testing.assert_allclose(cohort.series.mean(axis=(1, 2, 3)), 1, atol=1e-3)


def test_a_participant_does_not_depend_on_how_many_there_are():
    few, many = (make_cohort(n, 2, n_volumes=40, layout="few", seed=9) for n in (5, 30))
    np.testing.assert_array_equal(few.series, many.series[:5])
    np.testing.assert_array_equal(few.motion, many.motion[:5])
    np.testing.assert_array_equal(few.table.restlessness, many.table.restlessness[:5])
    other = make_cohort(5, 2, n_volumes=40, layout="few", seed=10)
    assert not np.array_equal(few.series, other.series)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UsageError, match="a cohort of 0 participants of 2 sites"):
        make_cohort(0)
    with pytest.raises(UsageError, match="runs of 19 volumes; expected at least"):
        make_cohort(2, n_volumes=19)
    with pytest.raises(UsageError, match=r"motion would correlate 1\.5 with age"):
        make_cohort(2, planted=Planted(motion_age=1.5))
    with pytest.raises(UsageError, match="none may be negative"):
        make_cohort(2, planted=Planted(motion=-1))
    with pytest.raises(UsageError, match="correlations of networks that no signals have"):
        make_cohort(2, planted=Planted(age=0.1))
