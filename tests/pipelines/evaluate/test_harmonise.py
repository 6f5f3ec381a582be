"""ComBat against its published formulas, against planted site effects, and without leaks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Confound, Target
from neurostorm_app.pipelines.evaluate.harmonise import Combat, count_left_alone, preserved

N, D = 60, 40


def build(x, *, site, age=None, sex=None, target=None):
    names = tuple(f"sub-{i:02d}" for i in range(len(x)))
    confounds = {"site": Confound(name="site", values=site)}
    if age is not None:
        confounds["age"] = Confound(name="age", values=np.asarray(age, dtype=float))
    if sex is not None:
        confounds["sex"] = Confound(name="sex", values=tuple(sex))
    values = np.arange(len(x), dtype=float) if target is None else target.values
    return Cohort(
        rows=names,
        participants=names,
        groups=names,
        features={"model": x.astype(np.float32)},
        target=target or Target(name="score", kind="value", values=values),
        confounds=confounds,
    )


def plant(rng, n):
    """Make features with an age trend, and sites that shift and stretch them."""
    site = rng.permutation(np.arange(n) % 3)
    age, sex = rng.uniform(20, 80, n), rng.choice(["F", "M"], n)
    slopes = rng.normal(0, 0.02, D)
    clean = 2 + np.outer(age - 50, slopes) + 0.3 * np.outer(sex == "F", rng.normal(size=D))
    noise = rng.normal(size=(n, D))
    shift, spread = rng.normal(1.0, 0.6, (3, D)), rng.gamma(20, 0.05, (3, D)) * [[1], [2], [0.5]]
    x = clean + shift[site] + spread[site] * noise
    cohort = build(x, site=tuple(f"s{i}" for i in site), age=age, sex=sex)
    return x, cohort, site, age, slopes


@pytest.fixture
def planted(rng):
    return plant(rng, N)


def plain_combat(x, site, covariates):
    """Write the formulas of Johnson et al. feature by feature, in loops, without algebra."""
    n, d = x.shape
    sites = sorted(set(site))
    design = np.array([[float(s == name) for name in sites] + list(c) for s, c in
                       zip(site, covariates, strict=True)])  # fmt: skip
    z, stand_mean, sigma = np.zeros((n, d)), np.zeros((n, d)), np.zeros(d)
    for g in range(d):
        b = np.linalg.pinv(design.T @ design) @ design.T @ x[:, g]
        grand = sum(list(site).count(s) / n * b[i] for i, s in enumerate(sites))
        residual = [x[j, g] - design[j] @ b for j in range(n)]
        sigma[g] = (sum(r * r for r in residual) / n) ** 0.5
        for j in range(n):
            stand_mean[j, g] = grand + design[j, len(sites) :] @ b[len(sites) :]
            z[j, g] = (x[j, g] - stand_mean[j, g]) / sigma[g]
    out = np.zeros((n, d))
    for s in sites:
        rows = [j for j in range(n) if site[j] == s]
        count = len(rows)
        g_hat = [np.mean([z[j, g] for j in rows]) for g in range(d)]
        d_hat = [np.var([z[j, g] for j in rows], ddof=1) for g in range(d)]
        g_bar, t2 = np.mean(g_hat), np.var(g_hat, ddof=1)
        m, s2 = np.mean(d_hat), np.var(d_hat, ddof=1)
        a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
        for g in range(d):
            g_star, d_star = g_hat[g], d_hat[g]
            for _ in range(500):
                g_star = (t2 * count * g_hat[g] + d_star * g_bar) / (t2 * count + d_star)
                total = sum((z[j, g] - g_star) ** 2 for j in rows)
                d_star = (0.5 * total + b) / (count / 2 + a - 1)
            for j in rows:
                out[j, g] = sigma[g] * (z[j, g] - g_star) / d_star**0.5 + stand_mean[j, g]
    return out


def test_it_is_the_published_combat(planted):
    x, cohort, site, age, _ = planted
    rows = np.arange(N)
    harmonised = Combat().fit(x, rows, cohort).apply(x, rows, cohort)
    sex = np.array([s == "F" for s in cohort.confounds["sex"].values], dtype=float)
    expected = plain_combat(x, site.tolist(), np.stack([age, sex], axis=1))
    np.testing.assert_allclose(harmonised, expected, atol=1e-6)  # of standard deviations near 1


def test_without_covariates_it_is_the_published_combat_too(planted):
    x, cohort, site, _, _ = planted
    rows = np.arange(N)
    harmonised = Combat(preserve=()).fit(x, rows, cohort).apply(x, rows, cohort)
    np.testing.assert_allclose(
        harmonised, plain_combat(x, site.tolist(), np.zeros((N, 0))), atol=1e-6
    )


def test_planted_shifts_and_scales_go_and_the_age_trend_stays(rng):
    n = 600
    x, cohort, site, age, slopes = plant(rng, n)
    train, test = np.arange(0, n, 2), np.arange(1, n, 2)
    fitted = Combat().fit(x[train], train, cohort)
    after = fitted.apply(x[test], test, cohort)

    def differences(y):
        means = [y[site[test] == s].mean(axis=0) for s in range(3)]
        return np.abs(np.ptp(means, axis=0)).mean()

    def spreads(y):
        about = y - np.outer(age[test], slopes)
        return [about[site[test] == s].std(axis=0, ddof=1).mean() for s in range(3)]

    print("differences", differences(x[test]), differences(after), spreads(x[test]), spreads(after))
    assert differences(after) < 0.35 * differences(x[test])
    assert max(spreads(x[test])) / min(spreads(x[test])) > 3
    assert max(spreads(after)) / min(spreads(after)) < 1.1
    rows = np.arange(n)
    whole = Combat().fit(x, rows, cohort).apply(x, rows, cohort)
    found = np.polyfit(age, whole, 1)[0]
    assert np.corrcoef(found, slopes)[0, 1] > 0.95
    assert np.polyfit(slopes, found, 1)[0] == pytest.approx(1, abs=0.1)  # no shrinking


def test_test_rows_change_nothing_that_was_learned(planted):
    x, cohort, *_ = planted
    train = np.arange(40)
    before = Combat().fit(x[train], train, cohort)
    other = dataclasses.replace(
        cohort,
        confounds={
            "site": cohort.confounds["site"],
            "age": Confound(
                name="age",
                values=np.where(np.arange(N) < 40, cohort.confounds["age"].values, 1e3),
            ),
            "sex": cohort.confounds["sex"],
        },
    )
    after = Combat().fit(x[train], train, other)
    for name in ("mean", "scale", "slopes", "shift", "spread"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    alone = before.apply(x[[50]], np.array([50]), cohort)
    together = before.apply(x[45:55], np.arange(45, 55), cohort)
    np.testing.assert_allclose(alone[0], together[5], rtol=1e-12)


def test_a_row_of_a_site_that_training_never_saw_stays_as_it_is_and_is_counted(rng):
    x = rng.normal(size=(14, 5)) + np.repeat([0, 3, 9, 1, 1], [6, 5, 1, 1, 1])[:, None]
    labels = (*tuple("a" * 6 + "b" * 5), "one", "", "new")
    cohort = build(x, site=labels)
    train, test = np.arange(13), np.array([0, 6, 11, 12, 13])
    fitted = Combat().fit(x[train], train, cohort)
    assert fitted.sites == ("a", "b")
    after = fitted.apply(x[test], test, cohort)
    np.testing.assert_array_equal(after[2:], x[test[2:]])
    assert (np.abs(after[:2] - x[test[:2]]) > 0.1).any()
    apart = np.arange(14) % 2  # "one", "" and "new" are unknown wherever they are held out
    assert count_left_alone(cohort, [apart, apart]) == (3, 6)
    without = Combat().fit(x[:11], np.arange(11), cohort)
    np.testing.assert_array_equal(fitted.shift, without.shift)


def test_sites_may_be_numbers(planted):
    x, cohort, site, age, _ = planted
    rows = np.arange(N)
    numbered = build(x, site=site.astype(float), age=age, sex=cohort.confounds["sex"].values)
    np.testing.assert_allclose(
        Combat().fit(x, rows, numbered).apply(x, rows, numbered),
        Combat().fit(x, rows, cohort).apply(x, rows, cohort),
    )


def test_a_constant_feature_stays_constant(planted):
    x, cohort, *_ = planted
    x = x.copy()
    x[:, 7] = 0.25
    rows = np.arange(N)
    harmonised = Combat().fit(x, rows, cohort).apply(x, rows, cohort)
    np.testing.assert_allclose(harmonised[:, 7], 0.25)
    assert np.isfinite(harmonised).all()


def test_the_target_is_never_preserved(planted):
    x, cohort, *_ = planted
    ages = Target(name="age", kind="value", values=cohort.confounds["age"].values)
    about_age = dataclasses.replace(cohort, target=ages)
    assert preserved(cohort) == ("age", "sex")
    assert preserved(about_age) == ("sex",)
    sites = Target(name="site", kind="classes", values=np.arange(N) % 2, classes=("a", "b"))
    assert preserved(dataclasses.replace(cohort, target=sites)) == ()
    rows = np.arange(N)
    np.testing.assert_array_equal(
        Combat().fit(x, rows, about_age).slopes,
        Combat(preserve=("sex",)).fit(x, rows, cohort).slopes,
    )
    with pytest.raises(UsageError, match="age is the target; it cannot be a covariate"):
        Combat(preserve=("age",)).fit(x, rows, about_age)


def test_what_cannot_be_harmonised_is_refused(planted, rng):
    x, cohort, site, *_ = planted
    rows = np.arange(N)
    with pytest.raises(UsageError, match="no column 'scanner' says at which site"):
        Combat(site="scanner").fit(x, rows, cohort)
    here = rows[site == 1]
    with pytest.raises(DataError, match="1 sites have two training rows or more") as caught:
        Combat().fit(x[here], here, cohort)
    assert "hold out by something other" in caught.value.fix
    aliased = build(x, site=tuple(f"s{s}" for s in site), age=site * 10.0)
    with pytest.raises(DataError, match="sites and age cannot be told apart"):
        Combat().fit(x, rows, aliased)
    alike = x.copy()
    alike[site == 2] = alike[site == 2][0]
    with pytest.raises(DataError, match="training rows of site 's2' are alike"):
        Combat(preserve=()).fit(alike, rows, cohort)
    flat = np.ones((N, 3))
    flat[:, 0] = rng.normal(size=N)
    with pytest.raises(DataError, match="1 of 3 features vary within sites"):
        Combat().fit(flat, rows, cohort)


def test_without_a_prior_a_site_keeps_nothing_of_its_own(planted):
    x, cohort, site, *_ = planted
    rows = np.arange(N)
    fitted = Combat(preserve=(), prior="none").fit(x, rows, cohort)
    after = fitted.apply(x, rows, cohort)
    of_site = [after[site == s] for s in range(3)]
    for one in of_site[1:]:
        np.testing.assert_allclose(one.mean(axis=0), of_site[0].mean(axis=0))
        np.testing.assert_allclose(one.std(axis=0), of_site[0].std(axis=0))
    assert fitted.apply(x[:0], rows[:0], cohort).shape == (0, D)
    drawn = Combat(preserve=()).fit(x, rows, cohort)
    assert (np.abs(drawn.shift - fitted.shift) > 1e-3).any()


def test_features_with_one_spread_take_it_from_each_other(rng):
    """Two features that mirror each other leave no doubt about the scale of a site."""
    one = rng.normal(size=(20, 1))
    x = np.concatenate([one, -one], axis=1)
    cohort = build(x, site=("a", "b") * 10)
    rows = np.arange(20)
    fitted = Combat().fit(x, rows, cohort)
    np.testing.assert_allclose(fitted.spread[:, 0], fitted.spread[:, 1])
    assert np.isfinite(fitted.apply(x, rows, cohort)).all()
