"""Whether people are recognised: what is measured, beside what, and when it cannot be told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.bids_app.group.outputs import index_paths, is_centred
from neurostorm_app.bids_app.group.reidentification import (
    choose_draws,
    describe_reidentification,
    write_reidentification,
)
from neurostorm_app.bids_app.group.store import Collected, Row
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.models import list_models, read_card
from neurostorm_app.pipelines.reidentify import Draws, reidentify

DRAWS = Draws(n_trials=20, n_bootstraps=200, n_permutations=200, seed=3)


def collected(label, vectors, runs, *, demo=False, **said):
    """Make a model of runs such as ``sub-01_ses-a_run-1``."""
    rows = []
    for run in runs:
        entities = dict(pair.split("-") for pair in run.split("_"))
        rows.append(
            Row(
                participant=entities["sub"],
                session=entities.get("ses"),
                run=run,
                path=Path(run),
                source=f"bids::{run}",
                sha256=f"{label} {run}",
                stamps=(1, 2, 3, 4),
            )
        )
    fingerprint = {"WeightsSHA256": None, "Demo": demo, "EmbeddingDimension": 30, **said}
    return Collected(
        label=label,
        rows=tuple(rows),
        vectors=np.asarray(vectors, np.float32),
        fingerprint=fingerprint,
        demo=demo,
        left_out={},
        n_read=0,
    )


RUNS = [f"sub-{p:02d}_ses-{s}_task-rest" for p in range(12) for s in "ab"]


@pytest.fixture
def alike(rng):
    """Runs of twelve people that are alike within people, and runs that are not."""
    people = np.repeat(rng.normal(size=(12, 30)), 2, axis=0)
    good = collected("connectome", people + 0.1 * rng.normal(size=(24, 30)), RUNS)
    bad = collected("toy", rng.normal(size=(24, 30)), RUNS, demo=True)
    return {"connectome": good, "toy": bad}


@pytest.mark.parametrize("entity", ["echo-{}", "rec-r{}", "part-p{}"])
def test_two_files_of_one_scan_are_never_each_others_match(rng, entity):
    """They share the noise of the scan: a model of nothing else would recognise everybody."""
    runs = [
        f"sub-{p:02d}_task-rest_run-{r}_{entity.format(e)}"
        for p in range(12) for r in (1, 2) for e in (1, 2)
    ]  # fmt: skip
    scans = np.repeat(rng.normal(size=(24, 30)), 2, axis=0)
    model = collected("connectome", scans, runs)
    said = describe_reidentification(model, None, draws=DRAWS)
    assert said["Reidentification"]["Runs"] == 24
    assert said["Reidentification"]["Galleries"][0]["Rank1"]["value"] < 0.4
    alone = [run.replace("run-1_", "") for run in runs if "run-1" in run]
    one = collected("connectome", scans[:24], alone)
    reason = describe_reidentification(one, None, draws=DRAWS)["Reidentification"]["reason"]
    assert reason.startswith("0 of 12 participants have two runs")


def test_people_that_are_alike_are_recognised_and_noise_is_not(alike):
    good = describe_reidentification(alike["connectome"], None, draws=DRAWS)["Reidentification"]
    assert good["Participants"] == good["ParticipantsAcrossSessions"] == 12
    (gallery,) = good["Galleries"]
    assert gallery["Rank1"]["value"] == 1
    assert gallery["Rank1"]["low"] < 1
    bad = describe_reidentification(alike["toy"], None, draws=DRAWS)["Reidentification"]
    chance = bad["Galleries"][0]["Rank1ByChance"]
    assert chance == pytest.approx(1 / 12)
    assert bad["Galleries"][0]["Rank1"]["value"] < 0.5


def test_numbers_are_those_of_the_pipeline(alike):
    said = describe_reidentification(alike["toy"], None, draws=DRAWS)["Reidentification"]
    people = [run[4:6] for run in RUNS]
    sessions = [run[11] for run in RUNS]
    direct = reidentify(alike["toy"].vectors, people, RUNS, sessions=sessions, draws=DRAWS)
    assert said == direct.as_dict()


def test_the_connectome_stands_beside_on_the_runs_that_both_have(alike):
    model = alike["toy"].only(set(RUNS[:-4]))
    connectome = alike["connectome"].only(set(RUNS[2:]))
    said = describe_reidentification(model, connectome, draws=DRAWS)
    assert said["Reidentification"]["Runs"] == 20
    beside = said["Connectome"]
    assert beside["Runs"] == 18
    assert beside["Reidentification"]["Participants"] == 9
    assert beside["ReidentificationOfThisModel"]["Participants"] == 9
    assert beside["FingerprintOfFinn"]["FirstAmongSecond"]["value"] == 1
    (difference,) = beside["Differences"]
    assert difference["Rank1"]["value"] < -0.5
    assert difference["Rank1"]["high"] < 0


def test_the_connectome_itself_has_only_its_fingerprint(alike):
    said = describe_reidentification(alike["connectome"], None, draws=DRAWS)
    assert "Connectome" not in said
    assert said["FingerprintOfFinn"]["Participants"] == 12


def test_what_it_means_and_that_it_identifies_people_is_said(alike):
    said = describe_reidentification(alike["toy"], alike["connectome"], draws=DRAWS)
    assert said["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE")
    assert "Rank1" in said["Measures"]
    assert "MeanAveragePrecision" in said["Measures"]
    assert "Embeddings are personal data" in said["Privacy"]
    assert "sub-0" not in json.dumps(said)


def test_without_a_connectome_that_is_said(alike):
    said = describe_reidentification(alike["toy"], None, draws=DRAWS)
    assert "no connectome was collected" in said["Connectome"]["reason"]


@pytest.mark.parametrize("n", [1, 3])
def test_too_few_participants_are_a_reason_and_no_failure(alike, n):
    few = alike["toy"].only(set(RUNS[:n]))
    said = describe_reidentification(few, alike["connectome"], draws=DRAWS)
    assert "at least two such participants are needed" in said["Reidentification"]["reason"]
    assert "at least two such participants are needed" in said["Connectome"]["reason"]


def test_no_common_run_is_a_reason(alike):
    model = alike["toy"].only(set(RUNS[:12]))
    other = alike["connectome"].only(set(RUNS[12:]))
    said = describe_reidentification(model, other, draws=DRAWS)
    assert said["Reidentification"]["Participants"] == 6
    assert said["Connectome"]["reason"].startswith("0 of 0 participants")


def test_a_connectome_without_a_pattern_is_a_reason(alike):
    flat = collected("connectome", np.ones((24, 30)), RUNS)
    said = describe_reidentification(alike["toy"], flat, draws=DRAWS)
    assert "there is no pattern to recognise" in said["Connectome"]["FingerprintOfFinn"]["reason"]
    assert said["Connectome"]["Reidentification"]["Galleries"]


def test_it_is_written_once_for_the_same_runs(alike, tmp_path):
    (tmp_path / "retrieval").mkdir()
    ledger = Ledger(tmp_path)
    assert write_reidentification("toy", alike, ledger, draws=DRAWS)
    path = index_paths(tmp_path, "toy")["reidentification"]
    before = path.read_bytes()
    assert not write_reidentification("toy", alike, ledger, draws=DRAWS)
    assert write_reidentification("toy", {"toy": alike["toy"]}, ledger, draws=DRAWS)
    assert write_reidentification("toy", alike, ledger, draws=DRAWS)
    assert path.read_bytes() == before
    noise = collected("connectome", alike["toy"].vectors[::-1], RUNS)
    rows = tuple(dataclasses.replace(row, sha256=f"new {row.run}") for row in noise.rows)
    other = {**alike, "connectome": dataclasses.replace(noise, rows=rows)}
    assert write_reidentification("toy", other, ledger, draws=DRAWS)
    assert path.read_bytes() != before
    fewer = {**alike, "toy": alike["toy"].only(set(RUNS[2:]))}
    assert write_reidentification("toy", fewer, ledger, draws=DRAWS)
    assert path.read_bytes() != before


def test_a_card_that_centres_is_heard(alike):
    shifted = alike["connectome"].vectors + 100
    plain = collected("toy", shifted, RUNS)
    centred = collected("toy", shifted, RUNS, Centre=True)
    said = [
        describe_reidentification(one, None, draws=DRAWS)["Reidentification"]
        for one in (plain, centred)
    ]
    assert said[0]["Similarity"] == "cosine"
    assert said[1]["Similarity"] == "cosine, mean of the gallery taken off"
    assert said[1]["Galleries"][0]["Rank1"]["value"] == 1


def test_without_a_word_of_the_sidecar_the_card_of_the_package_is_asked(alike):
    cards = [read_card(name) for name in list_models()]
    assert len({card.centre for card in cards}) == 2
    for card in cards:
        for label in (card.label, f"{card.label}Untrained"):
            assert is_centred(collected(label, np.ones((1, 3)), RUNS[:1])) == card.centre


def test_large_cohorts_are_drawn_less_often(rng):
    runs = [f"sub-{i:04d}" for i in range(1001)]
    large = {"toy": collected("toy", rng.normal(size=(1001, 2)), runs)}
    small = {"toy": large["toy"].only(set(runs[:1000]))}
    chosen = [choose_draws(one, seed=5, confidence=0.8) for one in (large, small)]
    assert [draws.n_trials for draws in chosen] == [20, 100]
    assert {(draws.seed, draws.confidence) for draws in chosen} == {(5, 0.8)}
