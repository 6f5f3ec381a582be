"""Everything side by side: who is compared with whom, by which steps, and what is said of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Confound, Design, Interval, Target
from neurostorm_app.pipelines.evaluate.compare import Contender, _detectable, compare
from neurostorm_app.pipelines.evaluate.contenders import plan_jobs
from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate, evaluate_baseline
from neurostorm_app.pipelines.evaluate.deconfound import Deconfound
from neurostorm_app.pipelines.evaluate.estimators import Standardise
from neurostorm_app.pipelines.evaluate.harmonise import Combat
from neurostorm_app.pipelines.evaluate.intervals import difference_interval
from neurostorm_app.pipelines.evaluate.ridge import Ridge
from neurostorm_app.pipelines.evaluate.verdict import DEMO

N, D = 48, 6
DESIGN = Design(n_folds=4, n_repeats=1, n_permutations=39, n_bootstraps=100)


def build(rng, **changes):
    """Make a cohort whose age a model knows well, the connectome somewhat, its control not."""
    names = tuple(f"sub-{i:02d}" for i in range(N))
    age = rng.uniform(20, 80, N)
    known = np.outer((age - 50) / 17, np.ones(D))
    motion = rng.uniform(0.1, 0.4, N)
    motion[7] = np.nan
    noise = rng.normal(size=(3, N, D))
    given = {
        "rows": names,
        "participants": names,
        "groups": names,
        "features": {
            "storm": (known + 0.6 * noise[0]).astype(np.float32),
            "stormUntrained": noise[1].astype(np.float32),
            "connectome": (known + 3 * noise[2]).astype(np.float32),
        },
        "target": Target(name="age", kind="value", values=age, unit="years"),
        "confounds": {
            "motion": Confound(name="motion", values=motion),
            "site": Confound(name="site", values=(*tuple(rng.choice(["a", "b"], N - 1)), "c")),
            "age": Confound(name="age", values=age),
            "task": Confound(name="task", values=("rest",) * N),
        },
    }
    return Cohort(**(given | changes))


@pytest.fixture
def cohort(rng):
    return build(rng)


@pytest.fixture(scope="module")
def compared():
    cohort = build(np.random.default_rng(3))
    told = []
    found = compare(cohort, DESIGN, demos={"storm"}, progress=lambda *now: told.append(now))
    return cohort, found, told


def test_everything_stands_side_by_side(compared):
    _, found, told = compared
    models = {"storm", "stormUntrained", "connectome"}
    alone = {"confounds", "confounds-motion", "confounds-site"}
    assert found.evaluations.keys() == models | alone | {"baseline"}
    assert found.adjusted.keys() == models
    assert found.verdicts.keys() == models
    assert found.differences.keys() == {("storm", "connectome"), ("storm", "stormUntrained")}
    assert all(e.source == name for name, e in found.evaluations.items())
    assert told[0] == ("storm", 0, 9)
    assert told[1] == ("storm, covariates taken off", 1, 9)
    assert [done for _, done, _ in told] == list(range(9))


def test_the_target_is_no_confound_of_itself_and_what_says_nothing_is_none(compared):
    _, found, _ = compared
    assert found.covariates == ("motion", "site")
    assert found.notes == (
        "task is the same, or unknown, in most rows; it is no confound",
        "motion is missing in 1 of 48 rows; training rows fill it",
    )


def test_the_numbers_are_those_of_the_evaluations_alone(compared):
    cohort, found, _ = compared
    steps = (Deconfound(names=("motion", "site")), Standardise())
    for name, of, given in (
        ("storm", found.evaluations, steps[1:]),
        ("storm", found.adjusted, steps),
    ):
        alone = evaluate(cohort, name, DESIGN, steps=given)
        np.testing.assert_array_equal(of[name].predicted, alone.predicted)
        assert of[name].metrics == alone.metrics
        assert of[name].p_value == alone.p_value
    assert found.evaluations["baseline"].metrics == evaluate_baseline(cohort, DESIGN).metrics
    ours = found.evaluations
    assert found.differences["storm", "connectome"] == difference_interval(
        cohort, ours["storm"], ours["connectome"], DESIGN
    )


def test_verdicts_follow_from_the_numbers(compared):
    _, found, _ = compared
    storm, control = found.verdicts["storm"], found.verdicts["stormUntrained"]
    assert (storm.effect, storm.beats_connectome, storm.beats_control) == ("found", True, True)
    assert storm.sentence.startswith(DEMO + "age: storm predicts it (r2 0.9")
    assert (control.effect, control.beats_connectome) == ("none", None)
    assert not control.sentence.startswith("DEMO")
    assert found.verdicts["connectome"].beats_control is None
    assert found.sentence.startswith(DEMO + "age: predicted by storm")
    assert "Untrained" not in found.sentence
    assert "better than plain functional connectivity: storm" in found.sentence


def test_confounds_alone_are_evaluated_by_what_they_say(rng):
    age = rng.uniform(20, 80, N)
    moved = Confound(name="motion", values=0.1 + age / 200)
    cohort = build(
        rng,
        target=Target(name="age", kind="value", values=age),
        features={"connectome": rng.normal(size=(N, D)).astype(np.float32)},
        confounds={"motion": moved},
    )
    found = compare(cohort, DESIGN)
    assert found.evaluations["confounds"].metrics["r2"].value > 0.98
    assert found.evaluations["confounds-motion"].metrics["r2"].value > 0.98
    assert found.verdicts["connectome"].effect == "none"


def test_classes_are_compared_by_auroc(rng):
    sick = np.arange(N) % 2
    features = rng.normal(size=(N, D)) + 1.5 * sick[:, None]
    cohort = build(
        rng,
        target=Target(name="group", kind="classes", values=sick, classes=("control", "patient")),
        features={"connectome": features.astype(np.float32)},
    )
    design = dataclasses.replace(DESIGN, covariates=("motion",), classifier="ridge")
    found = compare(cohort, design)
    assert found.covariates == ("motion",)
    assert "confounds-age" in found.evaluations  # each confound alone, asked for or not
    assert found.verdicts["connectome"].sentence.startswith("group: connectome predicts it (auroc")
    assert "once motion is taken off" in found.verdicts["connectome"].sentence


def test_harmonising_comes_first_and_says_whom_it_could_not_reach(cohort):
    design = dataclasses.replace(DESIGN, harmonise="combat", covariates=("motion",))
    jobs = {
        (job.name, job.adjusted): job
        for job in plan_jobs(cohort, design, {"storm": None}, ("motion",))
    }
    kinds = [type(step) for step in jobs["storm", True].steps]
    assert kinds == [Combat, Deconfound, Standardise]
    assert [type(step) for step in jobs["storm", False].steps] == [Combat, Standardise]
    assert Combat not in [type(step) for step in jobs["confounds", False].steps]
    only = dataclasses.replace(cohort, features={"storm": cohort.features["storm"]})
    found = compare(only, design)
    assert any(note.startswith("1 rows were left as they are, 1 times") for note in found.notes)
    site = Target(name="site", kind="classes", values=np.arange(N) % 2, classes=("a", "b"))
    about_site = dataclasses.replace(only, target=site)
    notes = compare(about_site, dataclasses.replace(design, n_permutations=0)).notes
    assert "the site is the target: harmonising takes it off test rows by their label" in notes


def test_a_contender_learns_from_features_as_they_are(cohort):
    class Recorder:
        name, permutable = "recorder", False

        def fit(self, x, y, groups, *, seed):
            seen.append(x)
            return Ridge().fit(x, y, groups, seed=seed)

    seen = []
    found = compare(
        cohort,
        dataclasses.replace(DESIGN, n_permutations=0),
        learners={"net": Contender(source="connectome", learner=Recorder())},
    )
    assert found.evaluations["net"].learner == "recorder"
    assert found.evaluations["net"].source == "net"
    assert ("net", "connectome") in found.differences
    rows = {tuple(row) for row in cohort.features["connectome"].astype(float)}
    assert {tuple(row) for row in seen[0]} <= rows
    assert "net" in found.adjusted


def test_without_confounds_there_is_nothing_to_take_off(cohort):
    bare = dataclasses.replace(cohort, confounds={}, features={"lm": cohort.features["storm"]})
    found = compare(bare, DESIGN)
    assert found.adjusted == {}
    assert found.evaluations.keys() == {"lm", "baseline"}
    assert found.differences == {}


def test_what_cannot_be_compared_is_refused_before_anything_is_computed(cohort):
    with pytest.raises(UsageError, match="there is no covariate 'weight'"):
        compare(cohort, dataclasses.replace(DESIGN, covariates=("age", "weight")))
    contender = Contender(source="lm", learner=Ridge())
    with pytest.raises(UsageError, match="net would learn from 'lm'"):
        compare(cohort, DESIGN, learners={"net": contender})
    with pytest.raises(UsageError, match="two of what is compared would be called 'storm'"):
        compare(cohort, DESIGN, learners={"storm": contender})
    named = dataclasses.replace(cohort, features={"baseline": cohort.features["storm"]})
    with pytest.raises(UsageError, match="would be called 'baseline'"):
        compare(named, DESIGN)


@pytest.mark.parametrize(
    ("null", "expected"),
    [
        (np.linspace(-0.1, 0.88, 99), 0.84),  # the fifth from above: with it p is 0.06
        (np.linspace(-1, -0.1, 99), None),  # below guessing there is nothing to miss
        (np.linspace(-1, 0.046, 99), None),  # 0.003: told in two decimals it would be guessing
        (np.array([0.3, 0.1]), None),  # too few rearrangements for a p of 0.05
        (None, None),
    ],
)
def test_what_chance_reaches_is_read_off_its_distribution(compared, null, expected):
    storm = dataclasses.replace(compared[1].evaluations["storm"], null=null)
    found = _detectable(storm, "r2")
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))
    if expected is not None:
        p = [(1 + (null >= at - 1e-9).sum()) / 100 for at in (expected, expected + 1e-6)]
        assert p[0] > 0.05 >= p[1]


def test_where_nothing_could_be_rearranged_chance_reaches_nothing_that_is_known(compared):
    storm = compared[1].evaluations["storm"]
    same = dataclasses.replace(storm, p_value=None, null=np.full(99, 0.8))
    assert _detectable(same, "r2") is None


def test_intervals_of_guessing_are_narrow(compared):
    assert compared[1].evaluations["baseline"].metrics["r2"] == Interval(value=0, low=0, high=0)
