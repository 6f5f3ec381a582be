"""Nested cross-validation of 1,000 participants, beside the straightforward scikit-learn way.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_crossvalidation.py [PARTICIPANTS]

Ours: ``evaluate`` as a whole, 5 folds x 5 repeats, penalty chosen in 5 inner folds, conformal
intervals, bootstrap intervals and 1,000 permutations. Theirs: a pipeline of StandardScaler and
Ridge in GridSearchCV with GroupKFold, over the same penalties, in 5 outer folds; one such pass
is timed (one target, one repeat) and multiplied by 5 repeats and 1,001 targets, without intervals.
Each is run in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np

DIMENSIONS = (288, 4950)
N_REPEATS, N_PERMUTATIONS = 5, 1000


def cohort(n_rows: int, dimension: int):
    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Target

    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((n_rows, 20))
    x = hidden @ rng.standard_normal((20, dimension)) + rng.standard_normal((n_rows, dimension))
    y = 40 + 12 * (0.5 * hidden[:, 0] + rng.standard_normal(n_rows))
    names = tuple(f"sub-{i:05d}" for i in range(n_rows))
    target = Target(name="age", kind="value", values=y, unit="years")
    return Cohort(rows=names, participants=names, groups=names, target=target,
                  features={"demo": x.astype(np.float32)})  # fmt: skip


def ours(n_rows: int, dimension: int) -> dict[str, object]:
    from neurostorm_app.pipelines.evaluate.cohort import Design
    from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate
    from neurostorm_app.pipelines.evaluate.estimators import Standardise

    people = cohort(n_rows, dimension)
    design = Design(n_repeats=N_REPEATS, n_permutations=N_PERMUTATIONS)
    began = time.perf_counter()
    found = evaluate(people, "demo", design, steps=(Standardise(),))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "r2": found.metrics["r2"].value, "p": found.p_value,
            "coverage": found.coverage}  # fmt: skip


def theirs(n_rows: int, dimension: int) -> dict[str, object]:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from neurostorm_app.pipelines.evaluate.ridge import FACTORS

    people = cohort(n_rows, dimension)
    x, y = people.features["demo"].astype(np.float64), people.target.values
    groups = np.arange(n_rows)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": [factor * dimension for factor in FACTORS]},
        cv=GroupKFold(5),
        scoring="neg_mean_squared_error",
    )
    told = np.empty(n_rows)
    began = time.perf_counter()
    for train, test in GroupKFold(5).split(x, y, groups):
        told[test] = search.fit(x[train], y[train], groups=groups[train]).predict(x[test])
    once = time.perf_counter() - began
    r2 = 1 - ((y - told) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {"once": once, "seconds": once * N_REPEATS * (1 + N_PERMUTATIONS), "r2": r2}


def main(n_rows: int) -> None:
    for dimension in DIMENSIONS:
        found = {}
        for way in ("ours", "theirs"):
            done = subprocess.run(
                [sys.executable, __file__, way, str(n_rows), str(dimension)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            found[way] = json.loads(done.stdout)
        mine, yours = found["ours"], found["theirs"]
        print(f"N={n_rows} D={dimension}: ours {mine['seconds']:.0f} s, peak {mine['peak_mib']:.0f}"
              f" MiB (r2 {mine['r2']:.3f}, p {mine['p']:.4f}, coverage {mine['coverage']:.3f}); "
              f"scikit-learn {yours['once']:.1f} s a pass, so {yours['seconds'] / 3600:.1f} h "
              f"scaled, peak {yours['peak_mib']:.0f} MiB (r2 {yours['r2']:.3f}); "
              f"ratio {yours['seconds'] / mine['seconds']:.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 4:
        report = {"ours": ours, "theirs": theirs}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(report | {"peak_mib": peak}))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
