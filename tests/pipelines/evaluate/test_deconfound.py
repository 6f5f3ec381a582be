"""Covariates as columns, off features, and alone; always by training rows."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Confound, Target
from neurostorm_app.pipelines.evaluate.covariates import (
    count_missing,
    encode,
    name_labels,
    tells_nothing,
)
from neurostorm_app.pipelines.evaluate.deconfound import (
    ConfoundFeatures,
    Deconfound,
    confound_source,
)

N, D = 30, 7


@pytest.fixture
def cohort(rng):
    names = tuple(f"sub-{i:02d}" for i in range(N))
    motion = rng.uniform(0.1, 0.5, N)
    motion[[3, 4]] = np.nan
    site = [*rng.choice(["a", "b", "c"], N - 1), "rare"]
    site[5] = ""
    return Cohort(
        rows=names,
        participants=names,
        groups=names,
        features={"model": rng.normal(size=(N, D)).astype(np.float32)},
        target=Target(name="age", kind="value", values=rng.uniform(20, 80, N)),
        confounds={
            "motion": Confound(name="motion", values=motion),
            "site": Confound(name="site", values=tuple(site)),
            "age": Confound(name="age", values=rng.uniform(20, 80, N)),
            "dose": Confound(name="dose", values=np.full(N, 0.1)),
            "empty": Confound(name="empty", values=("",) * N),
            "unknown": Confound(name="unknown", values=np.full(N, np.nan)),
            "label": Confound(name="label", values=names),
        },
    )


TRAIN = np.arange(0, 25)
TEST = np.arange(25, N)
BOTH = ("motion", "site")


def test_training_rows_are_left_without_their_covariates(cohort, rng):
    columns = encode(cohort, BOTH, TRAIN).matrix(TRAIN, cohort)
    x = rng.normal(size=(25, D)) + columns @ rng.normal(size=(columns.shape[1], D)) * 3
    after = Deconfound(names=BOTH).fit(x, TRAIN, cohort).apply(x, TRAIN, cohort)
    np.testing.assert_allclose(columns.T @ (after - after.mean(axis=0)), 0, atol=1e-9)
    np.testing.assert_allclose(after.mean(axis=0), x.mean(axis=0))
    before = np.abs(columns.T @ (x - x.mean(axis=0))).max()
    assert before > 1


def test_it_is_the_residual_of_a_regression(cohort, rng):
    x = rng.normal(size=(25, D))
    motion = cohort.confounds["motion"].values
    filled = np.where(np.isnan(motion), np.nanmedian(motion[TRAIN]), motion)
    fitted = Deconfound(names=("motion",)).fit(x, TRAIN, cohort)
    new = rng.normal(size=(5, D))
    slopes = np.array([np.polyfit(filled[TRAIN], x[:, d], 1)[0] for d in range(D)])
    expected = new - np.outer(filled[TEST] - filled[TRAIN].mean(), slopes)
    np.testing.assert_allclose(fitted.apply(new, TEST, cohort), expected)


def test_what_is_learned_does_not_see_test_rows(cohort, rng):
    x = rng.normal(size=(25, D))
    before = Deconfound(names=BOTH).fit(x, TRAIN, cohort)
    cohort.confounds["motion"].values[TEST] = 1e3
    after = Deconfound(names=BOTH).fit(x, TRAIN, cohort)
    np.testing.assert_array_equal(before.slopes, after.slopes)
    assert before.encoding.parts[0].mean == after.encoding.parts[0].mean


def test_gaps_are_filled_by_training_rows_and_new_names_are_the_average(cohort):
    encoding = encode(cohort, BOTH, TRAIN)
    motion = cohort.confounds["motion"].values
    columns = encoding.matrix(np.array([3, 5, 29]), cohort)
    median = np.nanmedian(motion[TRAIN])
    assert columns[0, 0] * encoding.parts[0].scale + encoding.parts[0].mean == pytest.approx(median)
    names = [cohort.confounds["site"].values[i] for i in TRAIN if i != 5]
    frequent = max(sorted(set(names)), key=names.count)
    assert encoding.parts[1].levels == ("a", "b", "c")
    shown = columns[1, 1:] + encoding.parts[1].shares
    np.testing.assert_allclose(shown, [float(s == frequent) for s in "abc"], atol=1e-12)
    np.testing.assert_array_equal(columns[2, 1:], 0)  # "rare" is in no training row


def test_a_constant_covariate_takes_nothing_off(cohort, rng):
    x = rng.normal(size=(25, D))
    fitted = Deconfound(names=("dose",)).fit(x, TRAIN, cohort)
    np.testing.assert_allclose(fitted.apply(x, TRAIN, cohort), x, atol=1e-12)


def test_the_target_is_no_covariate_of_itself(cohort, rng):
    with pytest.raises(UsageError, match="age is the target; it cannot be a covariate"):
        Deconfound(names=("age",)).fit(rng.normal(size=(25, D)), TRAIN, cohort)
    with pytest.raises(UsageError, match="age is the target"):
        confound_source(cohort, ("motion", "age"))


def test_covariates_that_say_nothing_or_all_are_refused(cohort, rng):
    x = rng.normal(size=(25, D))
    with pytest.raises(UsageError, match=r"no covariate 'weight'; known are .*motion"):
        Deconfound(names=("weight",)).fit(x, TRAIN, cohort)
    for name in ("empty", "unknown"):
        with pytest.raises(DataError, match=f"none of 25 training rows knows {name}"):
            Deconfound(names=(name,)).fit(x, TRAIN, cohort)
    with pytest.raises(DataError, match="nothing would be left of the features"):
        Deconfound(names=("label",)).fit(x, TRAIN, cohort)


def test_confounds_alone_stand_in_the_place_of_features(cohort):
    features, step = confound_source(cohort, BOTH)
    assert features.shape == (N, 1)
    assert features.dtype == np.float32
    assert isinstance(step, ConfoundFeatures)
    fitted = step.fit(features[TRAIN], TRAIN, cohort)
    found = fitted.apply(features[TEST], TEST, cohort)
    np.testing.assert_array_equal(found, encode(cohort, BOTH, TRAIN).matrix(TEST, cohort))
    assert found.shape == (5, 4)
    with pytest.raises(DataError, match="3 features for 5 rows of confounds"):
        fitted.apply(features[:3], TEST, cohort)


def test_names_of_numbers_are_short():
    values = np.array([1.0, 12.0, np.nan, 1.5])
    assert name_labels(Confound(name="site", values=values)) == ("1", "12", "", "1.5")
    assert name_labels(Confound(name="site", values=("a", ""))) == ("a", "")


def test_long_numbers_are_not_one_number():
    days = Confound(name="day", values=20_200_100.0 + np.arange(20))
    assert len(set(name_labels(days))) == 20
    assert not tells_nothing(days)


def test_no_rows_are_no_trouble(cohort, rng):
    nobody = np.arange(0)
    fitted = Deconfound(names=BOTH).fit(rng.normal(size=(25, D)), TRAIN, cohort)
    assert fitted.apply(np.empty((0, D)), nobody, cohort).shape == (0, D)
    assert encode(cohort, (), TRAIN).matrix(TEST, cohort).shape == (5, 0)


def test_a_confound_tells_nothing_if_it_is_the_same_or_mostly_unknown(cohort):
    silent = {name for name, confound in cohort.confounds.items() if tells_nothing(confound)}
    assert silent == {"dose", "empty", "unknown"}
    assert count_missing(cohort.confounds["motion"]) == 2
    half = Confound(name="half", values=("", "", "a", "b"))
    assert not tells_nothing(half)
    assert tells_nothing(Confound(name="less", values=("", "", "", "a", "b")))
