"""What work takes by its headers: beside what was measured, and how it grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurostorm_app.models import list_models, read_card
from neurostorm_app.pipelines.estimate import (
    COSTS,
    RunFacts,
    count_t1w,
    estimate_anatomy,
    estimate_embedding,
    estimate_outputs,
    estimate_run,
)
from neurostorm_app.pipelines.need import Need, Step

MIB = 2**20
ROOT = Path(__file__).parents[2]
GRIDS = {"MNI152NLin6Asym:res-2": 91 * 109 * 91, "MNI152NLin2009cAsym:res-2": 97 * 115 * 97}
MEASURED = {
    # T1w shape and zooms, BOLD shape and zooms; CPU seconds and MiB of steps, bytes of series.
    "tiny": (
        ((46, 58, 53), (4, 4, 4)),
        ((32, 35, 26), (6, 6, 6), 24),
        {
            "brain": (9.5, 1439),
            "normalize": (61.1, 1118),
            "coregister": (3.8, 953),
            "confounds": (1.2, 981),
            "resample": (3.7, 988),
        },
        136_095_030,
    ),
    "full": (
        ((184, 232, 212), (1, 1, 1)),
        ((64, 70, 52), (3, 3, 3), 40),
        {
            "prepare": (5.6, 501),
            "brain": (10.2, 1485),
            "normalize": (68.7, 1751),
            "segment": (6.7, 1242),
            "coregister": (8.4, 1671),
            "motion": (1.0, 943),
            "confounds": (6.4, 1533),
            "resample": (5.2, 1025),
        },
        216_356_715,
    ),
    "long": (
        ((46, 58, 53), (4, 4, 4)),
        ((91, 109, 91), (2, 2, 2), 1200),
        {
            "confounds": (93.2, 3429),
        },
        None,
    ),
}


def facts(**changes) -> RunFacts:
    given = {"shape": (64, 70, 52), "zooms": (3.0, 3.0, 3.0), "n_volumes": 40, "t1w": 9_000_000}
    return RunFacts(**(given | changes))


def run_of(known: RunFacts, **changes) -> Need:
    asked = {"fit": True, "confounds": True, "series": GRIDS, "references": GRIDS}
    return estimate_run(known, **(asked | changes))


@pytest.mark.parametrize("name", MEASURED)
def test_estimates_are_near_what_was_measured(name):
    (t1w, t1w_zooms), (shape, zooms, n_volumes), steps, series = MEASURED[name]
    voxels = count_t1w(t1w, t1w_zooms)
    known = facts(shape=shape, zooms=zooms, n_volumes=n_volumes, t1w=voxels)
    need = estimate_anatomy([voxels], n_templates=2, standard=list(GRIDS.values())) + run_of(known)
    found = {step.name: step for step in reversed(need.steps)}
    for step, (seconds, mib) in steps.items():
        assert found[step].memory / MIB == pytest.approx(mib, rel=0.25), step
        assert 0.5 < found[step].seconds / seconds < 2, step
    assert need.memory(1) / MIB == pytest.approx(max(m for _, m in steps.values()), rel=0.1)
    if series is not None:
        assert estimate_outputs(known, GRIDS) == pytest.approx(series, rel=0.25)


def test_a_finer_t1w_image_is_worked_on_at_1_mm():
    assert count_t1w((100, 100, 100), (0.5, 0.5, 0.5)) == 125_000
    assert count_t1w((100, 100, 100), (2.0, 1.0, 1.0)) == 1_000_000


def test_memory_of_a_long_run_grows_with_its_volumes():
    short, long = (run_of(facts(n_volumes=n)).memory(1) for n in (40, 4000))
    assert long > 2 * short


def test_what_is_there_costs_nothing():
    nothing = run_of(facts(), fit=False, confounds=False, series={}, references={})
    assert (nothing.memory(4), nothing.seconds, nothing.output) == (0, 0, 0)


def test_echoes_and_field_maps_cost_more():
    plain = run_of(facts())
    assert run_of(facts(n_echoes=3)).seconds > 1.5 * plain.seconds
    assert run_of(facts(has_fieldmap=True)).seconds > plain.seconds + 20
    names = [step.name for step in run_of(facts(t1w=0)).steps]
    assert "straight" in names
    assert "coregister" not in names


def test_echoes_are_combined_before_confounds_are_taken():
    one, three = (
        next(step for step in run_of(facts(n_echoes=n)).steps if step.name == "confounds")
        for n in (1, 3)
    )
    assert three.memory == one.memory
    assert three.seconds > one.seconds + 1


@pytest.mark.parametrize("name", ["coregister", "straight"])
def test_places_of_several_runs_are_found_beside_their_outputs_though_none_has_confounds(name):
    run = Need(steps=(Step(name, 1900 * MIB, 1.0), Step("resample", 1000 * MIB, 1.0)))
    assert run.memory(2) == (350 + 1600) * MIB
    assert (run + run).memory(2) == (350 + 2 * 1600) * MIB


def test_grids_of_the_anatomy_are_made_side_by_side():
    grids = Need(steps=(Step("standard", 1100 * MIB, 1.0),) * 3)
    assert grids.memory(1) == 1100 * MIB
    assert grids.memory(2) == (350 + 2 * 800) * MIB
    assert grids.memory(8) == (350 + 3 * 800) * MIB


def test_several_processes_take_what_runs_side_by_side():
    sizes = {"brain": 1500, "normalize": 2000, "motion": 900, "coregister": 1900, "confounds": 1800}
    steps = tuple(Step(name, size * MIB, 1.0) for name, size in sizes.items())
    need = Need(
        steps=(*steps, Step("resample", 1000 * MIB, 1.0)),
        models=(Step("embed", 400 * MIB, 2.0),),
    )
    assert need.memory(1) == 2000 * MIB
    assert need.memory(2) == (350 + 1700 + 600) * MIB  # normalisation beside head motion
    assert need.memory(3) == need.memory(2)
    two_runs = need + Need(steps=steps[2:])
    assert two_runs.memory(2) == (350 + 1600 + 1600) * MIB  # both are coregistered
    assert need.seconds == 8
    assert need.processes(4, 2700 * MIB) == 4
    assert need.processes(4, 2100 * MIB) == 1
    assert need.processes(4, 1999 * MIB) == 0
    assert Need().processes(4, 0) == 4
    assert Need(models=need.models).memory(2) == 400 * MIB


def test_two_processes_are_near_what_a_real_participant_took():
    voxels = count_t1w((274, 384, 384), (0.7, 0.667, 0.667))
    known = facts(shape=(80, 80, 35), zooms=(3, 3, 3.3), n_volumes=156, t1w=voxels)
    need = estimate_anatomy([voxels], n_templates=2, standard=list(GRIDS.values())) + run_of(known)
    assert need.memory(2) / 2**30 == pytest.approx(2.20, rel=0.25)
    assert 0.5 < need.seconds / 210 < 2


def test_a_brain_is_never_larger_than_its_grid():
    assert facts(shape=(4, 4, 4)).brain == 64
    assert facts().brain == pytest.approx(1.7e6 / 27, rel=0.01)


def test_a_model_takes_time_for_windows_and_memory_for_what_is_kept():
    asked = {"window": 70_778_880, "read": 10**9, "kept": 0}
    one = estimate_embedding("neurostorm", n_windows=1, **asked)
    ten = estimate_embedding("neurostorm", n_windows=10, **asked)
    assert ten.memory == one.memory < 2 * 2**30
    assert ten.seconds > 5
    kept = estimate_embedding("neurostorm", n_windows=1, **{**asked, "kept": 2**30})
    assert kept.memory == one.memory + 2**30


def test_large_weights_are_planned_for_as_they_were_measured():
    measured = json.loads((ROOT / "benchmarks/measured.json").read_text())["models"]
    seen = []
    for name, one in measured.items():
        if one["peak_mib"] == one["before_mib"]:
            continue  # reading the scan took more than the network
        step = estimate_embedding(
            one["architecture"],
            n_windows=one["windows"],
            window=one["window_bytes"],
            read=0,
            kept=0,
            weights=4 * one["parameters"],
        )
        assert step.memory >= one["peak_mib"] * 2**20, name
        seen.append(name)
    assert {"brainlm-650m", "mind-vis", "slim-brain", "neurostorm"} <= set(seen)


def test_every_cost_is_positive():
    for name, cost in COSTS.items():
        assert cost.mib >= 300, name
        assert cost.seconds >= 0, name


def test_what_each_of_our_networks_takes_is_told_and_nothing_of_others():
    for name in list_models():
        architecture = read_card(name).architecture
        step = estimate_embedding(architecture, n_windows=1, window=1000, read=0, kept=0)
        assert step.memory > 0, name
        assert step.seconds > 0, name
    with pytest.raises(KeyError, match="nobody"):
        estimate_embedding("nobody", n_windows=1, window=1000, read=0, kept=0)
