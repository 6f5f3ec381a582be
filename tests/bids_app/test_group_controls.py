"""The untrained control of a model is made from derivatives alone, by the model's own way."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.derivatives import read_embedding
from neurostorm_app.bids_app.engines import ModelFiles, real_engines
from neurostorm_app.bids_app.group.control_wishes import find_wishes
from neurostorm_app.bids_app.group.controls import Controls, ensure_controls
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.bids_app.verbs.series import add_series, call_series
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.weights import EMBEDDED
from neurostorm_app.pipelines.embed import load_embedder

MODEL, LABEL, CONTROL = "neurostorm-demo", "neurostormDemo", "neurostormDemoUntrained"
SPACE = "space-MNI152NLin6Asym_res-2"


@pytest.fixture
def engines(fake):
    """Stand-ins that take any model of the package."""

    def find_model(name, science):
        card = read_card(name)
        return ModelFiles(card=card, weights=EMBEDDED / card.file if card.file else None)

    return dataclasses.replace(fake.engines(), find_model=find_model)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the output folder is kept that every test begins with."""
    return tmp_path_factory.mktemp("kept") / "out"


@pytest.fixture
def embedded(settings, engines, fake, kept, tmp_path):
    """Four runs of two people, embedded with the model and the connectome."""
    if kept.exists():
        shutil.copytree(kept, tmp_path / "out")
    else:
        run_app(settings(models=("connectome", MODEL)), engines=engines)
        shutil.copytree(tmp_path / "out", kept)
        fake.calls.clear()
    return settings("group")


@pytest.fixture
def ensure(embedded, engines):
    def call(settings=embedded, labels=("connectome", LABEL), engines=engines):
        ledger = Ledger(settings.output_dir)
        return ensure_controls(settings, labels, engines=engines, ledger=ledger)

    return call


def paths(root, label):
    return sorted(root.glob(f"sub-*/func/*_desc-{label}_embedding.tsv"))


def test_each_run_of_a_network_gets_its_control(ensure, embedded, fake, caplog):
    caplog.set_level(logging.INFO, logger="neurostorm_app")
    done = ensure()
    root = embedded.output_dir
    assert done.made == {CONTROL: 4}
    assert not done.missing
    assert not done.lines()
    assert len(paths(root, CONTROL)) == 4
    assert len(paths(root, f"{CONTROL}Windows")) == 4
    assert not paths(root, "connectomeUntrained")
    assert fake.streams[-1] == [
        f"sub-{person}_task-rest_run-{run}" for person in ("01", "02") for run in (1, 2)
    ]
    assert f"4 runs of 1 models are to be embedded with random weights ({CONTROL})" in caplog.text


def test_a_control_has_sidecars_and_records_like_its_model(ensure, embedded):
    ensure()
    root = embedded.output_dir
    for path in paths(root, CONTROL):
        said = json.loads(path.with_suffix(".json").read_text())
        other = path.with_name(path.name.replace(CONTROL, LABEL)).with_suffix(".json")
        model = json.loads(other.read_text())
        for same in ("Sources", "Contract", "Notes", "Precision", "Pooling"):
            assert said[same] == model[same]
        assert said["Model"]["Name"] == f"{MODEL}-untrained"
        assert said["Model"]["WeightsSHA256"] is None
        assert "random weights" in said["Description"]
        record = Ledger(root).read(path.stem)
        assert record["settings"]["card"]["control"] is True


def test_a_second_call_looks_at_no_series(ensure, embedded, fake, caplog):
    ensure()
    fake.calls.clear()
    for bold in embedded.output_dir.glob("sub-*/func/*_bold.nii.gz"):
        bold.unlink()
    caplog.clear()
    done = ensure()
    assert (done.made, done.held, done.missing) == ({}, {CONTROL: 4}, {})
    assert not fake.calls
    assert "controls" not in caplog.text


def test_what_is_left_of_an_interrupted_call_is_kept(ensure, embedded, fake):
    ensure()
    fake.calls.clear()
    gone = paths(embedded.output_dir, CONTROL)[2]
    gone.unlink()
    assert ensure().made == {CONTROL: 1}
    assert fake.calls[f"embed {MODEL}-untrained sub-02_task-rest_run-1"] == 1
    assert sum(n for name, n in fake.calls.items() if name.startswith("embed")) == 1
    assert gone.exists()


def test_a_series_that_is_gone_is_named_and_nothing_fails(ensure, embedded, caplog):
    root = embedded.output_dir
    (bold,) = root.glob(f"sub-02/func/*run-1_{SPACE}_desc-preproc_bold.nii.gz")
    bold.unlink()
    done = ensure()
    assert done.made == {CONTROL: 3}
    assert list(done.missing[CONTROL]) == ["sub-02_task-rest_run-1"]
    assert f"{bold}: this source is not there any more" in caplog.text
    assert "1 runs lack it, the first is sub-02_task-rest_run-1" in done.lines()[0]


def test_a_series_that_has_changed_is_no_series_of_a_control(ensure, embedded):
    root = embedded.output_dir
    one, other = sorted(root.glob(f"sub-01/func/*_{SPACE}_desc-preproc_bold.nii.gz"))
    shutil.copy(other, one)
    why = ensure().missing[CONTROL]["sub-01_task-rest_run-1"]
    assert "has changed since the model embedded it" in why


def test_a_run_that_is_embedded_anew_gets_a_new_control(ensure, embedded, settings, engines, fake):
    ensure()
    before = paths(embedded.output_dir, CONTROL)[0].read_bytes()
    again = settings(models=(MODEL,), random_seed=7)  # another series
    run_app(again, engines=engines)
    assert ensure().made == {CONTROL: 4}
    assert paths(embedded.output_dir, CONTROL)[0].read_bytes() != before


def test_participants_that_are_not_selected_are_left_alone(ensure, settings):
    assert ensure(settings("group", participant_label="02")).made == {CONTROL: 2}


def test_without_records_the_sidecars_tell(ensure, embedded):
    root = embedded.output_dir
    for record in root.glob(f"prov/*_desc-{LABEL}_embedding.json"):
        record.unlink()
    for path in paths(root, LABEL):
        said = json.loads(path.with_suffix(".json").read_text())
        said["InputConformance"]["tr_in"] = 2.0  # the stand-in does not say it
        del said["Contract"]["background"]  # as of a version before that field, the default
        path.with_suffix(".json").write_text(json.dumps(said))
    assert ensure().made == {CONTROL: 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Model": {"Name": "somebodys"}}, "no record tells the card of somebodys"),
        ({"Model": None}, "its record or sidecar does not tell the model"),
        ({"Computation": None}, "does not tell how it was made"),
        ({"Sources": ["bids:far:sub-01/func/a_bold.nii.gz"]}, "where this source lies is not"),
        ({"Sources": ["bids::../../etc/passwd"]}, "where this source lies is not known"),
    ],
)
def test_a_sidecar_that_says_too_little_is_named(ensure, embedded, change, message):
    root = embedded.output_dir
    path = paths(root, LABEL)[0]
    Ledger(root).path(path.stem).unlink()
    said = json.loads(path.with_suffix(".json").read_text())
    said["InputConformance"]["tr_in"] = 2.0
    path.with_suffix(".json").write_text(json.dumps({**said, **change}))
    done = ensure()
    assert done.made == {CONTROL: 3}
    assert message in done.missing[CONTROL]["sub-01_task-rest_run-1"]


def test_a_table_without_sidecar_or_under_another_name_is_named(ensure, embedded):
    one, two, *_ = paths(embedded.output_dir, LABEL)
    one.with_suffix(".json").unlink()
    shutil.copy(two.with_name(two.name.replace(LABEL, "connectome")), two)
    other = two.with_name(two.name.replace(LABEL, "connectome"))
    shutil.copy(other.with_suffix(".json"), two.with_suffix(".json"))
    Ledger(embedded.output_dir).path(two.stem).unlink()
    why = ensure().missing[CONTROL]
    assert "is not there" in why["sub-01_task-rest_run-1"]
    assert "is of connectome, which its name does not say" in why["sub-01_task-rest_run-2"]


def test_the_settings_of_the_model_are_those_of_the_control(settings, engines, tmp_path):
    run_app(
        settings(models=(MODEL,), clip_policy="upstream-eval", precision="bf16", max_windows=2),
        engines=engines,
    )
    group = settings("group")
    (first, *_), _, _ = find_wishes(group, [LABEL], (), ledger=Ledger(group.output_dir))
    science = first.recipe.apply(group).science
    assert (science.clip_policy, science.precision) == ("upstream-eval", "bf16")
    assert science.max_windows == 2
    assert science.models == (f"{MODEL}-untrained",)


def test_nothing_is_said_where_nothing_is_missing():
    assert Controls().lines() == []


# The real thing, from tables of parcels.


def embed(out, tables, *models):
    """Call the verb embed-series."""
    parser = argparse.ArgumentParser()
    add_series(parser)
    words = ["--out", str(out), "--tr", "2", "--device", "cpu", "--models", *models]
    call_series(parser.parse_args([*map(str, tables), *words]))


@pytest.fixture
def series(tmp_path, rng):
    """Extracted series of two people."""
    folder = tmp_path / "series"
    folder.mkdir()
    made = []
    for person in ("01", "02"):
        path = folder / f"sub-{person}_task-rest_atlas-GreyParcels100_timeseries.npy"
        np.save(path, rng.normal(0, 5, (70, 100)).cumsum(axis=0))
        made.append(path)
    return made


@pytest.fixture
def tables(series, tmp_path):
    """The same, embedded with the connectome and a network."""
    embed(tmp_path / "out", series, "connectome", "brainlm-demo")
    return series


@pytest.fixture
def group(tmp_path):
    def build(**options):
        return build_settings(tmp_path, tmp_path / "out", "group", {"device": "cpu", **options})

    return build


def test_the_control_of_extracted_series_is_that_of_the_embedding_path(tables, group, tmp_path):
    settings = group()
    ledger = Ledger(settings.output_dir)
    labels = ["connectome", "brainlmDemo"]
    done = ensure_controls(settings, labels, engines=real_engines(), ledger=ledger)
    assert done.made == {"brainlmDemoUntrained": 2}
    made = paths(settings.output_dir, "brainlmDemoUntrained")
    vectors = [read_embedding(path)[0] for path in made]
    assert all(np.isfinite(vector).all() for vector in vectors)
    # The same as if the control had been asked for with the model.
    embed(tmp_path / "other", tables, "brainlm-demo-untrained")
    for one, other in zip(made, paths(tmp_path / "other", "brainlmDemoUntrained"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    again = ensure_controls(settings, labels, engines=real_engines(), ledger=ledger)
    assert again.held == {"brainlmDemoUntrained": 2}
    assert not again.made


def test_another_parcellation_than_the_models_is_refused(tables, group, tmp_path):
    other = tmp_path / "other_dseg.nii.gz"
    card = read_card("brainlm-demo")
    atlas = load_embedder(card).atlas
    assert atlas is not None
    other.write_bytes(atlas.read_bytes() + b"\0")
    settings = group(atlas={"brainlm-demo": other})
    done = ensure_controls(
        settings, ["brainlmDemo"], engines=real_engines(), ledger=Ledger(settings.output_dir)
    )
    assert not done.made["brainlmDemoUntrained"]
    why = set(done.missing["brainlmDemoUntrained"].values())
    assert len(why) == 1
    assert "embedded the runs with another file of --atlas" in why.pop()


def test_a_model_that_a_user_brought_has_its_control_too(series, group, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(EMBEDDED / "brainlm-demo.safetensors", folder / "mine.safetensors")
    card = read_card("brainlm-demo").model_dump(mode="json", exclude_none=True)
    card |= {"name": "mine", "label": "mineTuned", "file": "mine.safetensors", "embedded": False}
    (folder / "card.yaml").write_text(json.dumps(card))  # JSON is YAML
    embed(tmp_path / "out", series, str(folder))
    shutil.rmtree(folder)  # neither card nor weights are needed any more
    settings = group()
    ledger = Ledger(settings.output_dir)
    done = ensure_controls(settings, ["mineTuned"], engines=real_engines(), ledger=ledger)
    assert done.made == {"mineTunedUntrained": 2}
    embed(tmp_path / "other", series, "brainlm-demo-untrained")
    pairs = zip(
        paths(tmp_path / "out", "mineTunedUntrained"),
        paths(tmp_path / "other", "brainlmDemoUntrained"),
        strict=True,
    )
    assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)


def test_controls_are_the_same_in_every_process(tables):
    one, two = (create_model("brainlm-demo-untrained") for _ in range(2))
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all((a == b).all() for a, b in pairs)
