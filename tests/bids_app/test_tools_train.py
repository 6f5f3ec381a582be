"""The verb ``train``: the demos as before, and the whole way from derivatives to a model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.verbs.train import DEMOS, add_train, call_train
from neurostorm_app.bids_app.verbs.train_cohort import are_phantoms, linked_datasets, read_target
from neurostorm_app.bids_app.words.grammar import Parser
from neurostorm_app.errors import DataError, NoInputError, UsageError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines import train

if TYPE_CHECKING:
    from argparse import Namespace

spec = importlib.util.spec_from_file_location(
    "train_cohort", Path(__file__).parents[1] / "train_cohort.py"
)
assert spec is not None
assert spec.loader is not None
cohort: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cohort)

QUICK = ("--steps", "6", "--learning-rate", "0.01", "--validate-every", "3")


def parse(*words: object) -> Namespace:
    parser = Parser(prog="train")
    add_train(parser)
    return parser.parse_args([str(word) for word in words])


def call(*words: object) -> None:
    call_train(parse(*words))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    cohort.write_model(folder / "tiny")
    cohort.write_cohort(folder / "deriv", people=10, planted=0.2)
    return folder


@pytest.mark.parametrize(("name", "function"), DEMOS.items())
@pytest.mark.parametrize("first", [["demo"], []])
def test_each_demo_is_trained_by_its_own_function(first, name, function, tmp_path, monkeypatch):
    asked: list[tuple[Path, dict[str, Any]]] = []
    monkeypatch.setattr(train, function, lambda out, **given: asked.append((out, given)))
    out = tmp_path / "demo.safetensors"
    call(*first, name, "--out", out)
    call(*first, name, "--out", out, "--seed", "3", "--steps", "5")
    assert asked == [(out, {}), (out, {"steps": 5, "seed": 3})]


def test_only_demos_are_trained_on_phantoms(tmp_path):
    with pytest.raises(UsageError, match="connectome"):
        parse("demo", "connectome", "--out", tmp_path / "file")


def test_tuning_goes_from_derivatives_to_a_model_that_beats_chance(place, tmp_path, capsys):
    words = ["tune", place / "deriv", "--model", place / "tiny", "--target", "group"]
    words += ["--strategy", "full", "--out", tmp_path / "mine", "--cache-dir", place / "cache"]
    call(*words, *QUICK, "--steps", "12", "--test", "0.2")
    said = json.loads((tmp_path / "mine/training.json").read_text())
    best = next(row for row in said["validations"] if row["step"] == said["best_step"])
    assert best["balanced_accuracy"] == said["test"]["balanced_accuracy"] == 1.0
    assert said["split"] == {"train": 6, "validation": 2, "test": 2}
    assert "use it with --models" in capsys.readouterr().out
    card = read_card(str(tmp_path / "mine"))
    assert card.output is not None
    assert (card.name, card.output.classes) == ("mine", ("control", "patient"))
    for path in (tmp_path / "mine").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"sub-" not in content, path
            assert str(tmp_path).encode() not in content, path
            assert str(place).encode() not in content, path


def test_rates_fall_with_depth_where_all_learns_and_are_refused_elsewhere(place, tmp_path):
    words = ["tune", place / "deriv", "--model", place / "tiny", "--target", "group"]
    words += ["--out", tmp_path / "mine", "--cache-dir", place / "cache", *QUICK]
    words += ["--layer-decay", "0.75", "--head-rate", "0.002", "--warm-up", "0.2"]
    with pytest.raises(UsageError, match=r"layer_decay 0\.75.*with linear it does not"):
        call(*words, "--strategy", "linear")
    call(*words, "--strategy", "full")
    plan = json.loads((tmp_path / "mine/training.json").read_text())["plan"]
    assert (plan["layer_decay"], plan["head_rate"], plan["warm_up"]) == (0.75, 0.002, 0.2)
    with pytest.raises(UsageError, match=r"plan\.layer_decay"):
        call(*words, "--strategy", "full", "--layer-decay", "0.5")


def test_a_training_goes_on_by_itself_and_refuses_other_settings(place, tmp_path):
    words = ["pretrain", place / "deriv", "--model", place / "tiny", "--out", tmp_path / "mine"]
    words += ["--cache-dir", place / "cache", "--batch-size", "2"]
    call(*words, *QUICK)
    weights = tmp_path / "mine/weights.safetensors"
    before = weights.read_bytes()
    call(*words, *QUICK)  # it is over; nothing is trained again
    assert weights.read_bytes() == before
    with pytest.raises(UsageError, match=r"plan\.seed 9 and 0"):
        call(*words, *QUICK, "--seed", "9")


def test_an_epoch_is_one_window_of_each(place, tmp_path):
    words = ["pretrain", place / "deriv", "--model", place / "tiny", "--out", tmp_path / "mine"]
    words += ["--cache-dir", place / "cache", "--epochs", "2", "--batch-size", "3"]
    call(*words, "--validation", "0.2", "--validation-windows", "1")
    said = json.loads((tmp_path / "mine/training.json").read_text())
    assert said["steps"] == 6  # 8 participants, twice, by threes
    for wrong in ("0", "-3", "nan", "inf"):
        words[-3] = wrong
        with pytest.raises(UsageError, match="a training cannot run for"):
            call(*words, "--validation", "0.2", "--validation-windows", "1")


def test_from_scratch_takes_a_configuration(place, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"embed_dim": 8}')
    words = ["pretrain", place / "deriv", "--model", place / "tiny", "--out", tmp_path / "mine"]
    words += ["--cache-dir", place / "cache", "--config", config, "--batch-size", "2"]
    with pytest.raises(UsageError, match="weights have a configuration of their own"):
        call(*words, *QUICK)
    with pytest.raises(UsageError, match="--labels Vis: weights have labels of their own"):
        call(*words, "--from-scratch", "--labels", "Vis")
    call(*words, "--from-scratch", "--steps", "1")
    assert read_card(str(tmp_path / "mine")).dimension == 64
    for content, message in (("[1]", "a configuration is names"), ("{", "no configuration can be")):
        config.write_text(content)
        with pytest.raises(UsageError, match=message):
            call(*words, "--from-scratch", "--steps", "1")


def test_a_model_of_voxels_learns_on_labels_by_their_names(tmp_path):
    cohort.write_cohort(tmp_path / "deriv", people=5, volumes=24)
    values = np.zeros((cohort.SIZE,) * 3, dtype=np.int16)
    values[5:9, 5:9, 5:9], values[9:11, 5:9, 5:9] = 1, 2
    atlas, config = tmp_path / "areas.nii.gz", tmp_path / "small.json"
    nib.save(nib.Nifti1Image(values, cohort.AFFINE), atlas)
    (tmp_path / "areas.tsv").write_text("index\tname\n1\tLH_Vis_1\n2\tLH_Limbic_1\n")
    config.write_text(
        '{"embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 12, '
        '"decoder_depth": 1, "decoder_num_heads": 2, "mask_ratio": 0.5}'
    )
    words = ["pretrain", tmp_path / "deriv", "--model", "mind-vis", "--from-scratch"]
    words += ["--config", config, "--atlas", atlas, "--labels", "Vis", "--mix", "0.3"]
    words += ["--validation", "0.4", "--validation-windows", "1", "--batch-size", "2"]
    call(*words, "--out", tmp_path / "visual", *QUICK)
    card = read_card(str(tmp_path / "visual"))
    assert (card.contract.labels, card.contract.n_voxels) == ((1,), 64)
    assert (card.contract.atlas, card.config["num_voxels"]) == ("areas", 64)
    assert json.loads((tmp_path / "visual/training.json").read_text())["settings"]["mix"] == 0.3


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("agee", UsageError, "is no column of"),
        ("same", DataError, "is the same in all 10 participants"),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(target, kind, message, place, tmp_path):
    words = ["tune", place / "deriv", "--model", place / "tiny", "--target", target]
    with pytest.raises(kind, match=message):
        call(*words, "--out", tmp_path / "mine", "--cache-dir", place / "cache")
    assert not (tmp_path / "mine").exists()


def test_a_table_of_others_or_of_sessions_is_refused(place, tmp_path):
    table = tmp_path / "people.tsv"
    words = ["tune", place / "deriv", "--model", place / "tiny", "--target", "score"]
    words += ["--out", tmp_path / "mine", "--participants-file", table]
    table.write_text("participant_id\tscore\nsub-99\t1.5\nsub-98\t2.5\n")
    with pytest.raises(NoInputError, match="has a value"):
        call(*words)
    table.write_text("participant_id\tsession_id\tscore\nsub-01\tses-1\t1.5\nsub-02\tses-1\t2.5\n")
    with pytest.raises(UsageError, match="tuning takes one for each participant"):
        call(*words)


def test_predictions_in_the_derivatives_do_not_hide_the_phenotype_of_the_dataset(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for folder in (raw, out):
        (folder / "phenotype").mkdir(parents=True)
    (raw / "phenotype" / "panas.tsv").write_text("participant_id\tmood\nsub-01\t1.5\nsub-02\t2\n")
    told = out / "phenotype" / "connectome_age.tsv"
    told.write_text("participant_id\tpredicted\nsub-01\t30\nsub-02\t31\n")
    told.with_suffix(".json").write_text('{"NotForDiagnosis": true}')
    (out / "dataset_description.json").write_text('{"DatasetLinks": {"raw": "../raw"}}')
    labels = read_target("mood", out, ["01", "02"], tables=[None, None])
    assert labels.values == {("01", None): 1.5, ("02", None): 2.0}


def test_folders_without_runs_are_refused(place, tmp_path):
    words = ["--model", place / "tiny", "--out", tmp_path / "mine"]
    with pytest.raises(NoInputError, match="is not a folder of derivatives"):
        call("pretrain", tmp_path / "none", *words)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError, match="no preprocessed series was found to train on"):
        call("pretrain", tmp_path / "empty", *words)


def test_phantoms_are_known_by_what_they_were_made_from(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for folder, content in (
        (raw, {"Name": "neurostorm-app phantom"}),
        (out, {"Name": "x", "DatasetLinks": {"raw": "../raw"}}),
    ):
        folder.mkdir()
        (folder / "dataset_description.json").write_text(json.dumps(content))
    assert linked_datasets(out) == [raw]
    assert are_phantoms([out])
    (raw / "dataset_description.json").write_text('{"Name": "people"}')
    assert not are_phantoms([out])
    (raw / "dataset_description.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        are_phantoms([out])


SCRIPT = """
import os, signal, sys
from neurostorm_app.bids_app.words.grammar import Parser
from neurostorm_app.bids_app.verbs.train import add_train, call_train

last = sys.argv.pop(1)

def hook(event, args):  # it dies before it takes a step behind that checkpoint
    if event == "os.rename" and str(args[1]).endswith(last):
        dying.append(last)
    elif event == "open" and dying:
        os.kill(os.getpid(), signal.SIGKILL)

dying = []
if last:
    sys.addaudithook(hook)
parser = Parser(prog="train")
add_train(parser)
call_train(parser.parse_args(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_pretraining_killed_by_kill_9_ends_with_the_same_weights(place, tmp_path):
    """With masks and redundancy dropout: all that is drawn comes again."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def words(out: str, last: str = "") -> list[str]:
        given = ["pretrain", place / "deriv", "--model", place / "tiny", "--out", tmp_path / out]
        given += ["--name", "mine", "--cache-dir", place / "cache", "--redundancy", "paper"]
        given += ["--steps", "30", "--checkpoint-every", "4", "--validate-every", "10"]
        given += ["--learning-rate", "0.01", "--accumulate", "2"]
        return [sys.executable, "-c", SCRIPT, last, *map(str, given)]

    subprocess.run(words("whole"), env=env, check=True)
    done = subprocess.run(words("cut", last="step-000000008"), env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "cut/checkpoints/step-000000008").is_dir()
    assert not (tmp_path / "cut/card.yaml").exists()
    subprocess.run(words("cut"), env=env, check=True)
    whole, cut = (
        hashlib.sha256((tmp_path / name / "weights.safetensors").read_bytes()).hexdigest()
        for name in ("whole", "cut")
    )
    assert whole == cut
