"""The verb ``train pretrain`` on fMRI-LM's tokenizer: from derivatives to a model that embeds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from neurostorm_app.bids_app.verbs.train import add_train, call_train
from neurostorm_app.bids_app.words.grammar import Parser
from neurostorm_app.models import read_card
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.fmri_lm_files import LmConfig
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.stage import StandardSeries

spec = importlib.util.spec_from_file_location(
    "train_cohort", Path(__file__).parents[1] / "train_cohort.py"
)
assert spec is not None
assert spec.loader is not None
cohort: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cohort)

N_PARCELS, WINDOW, PATCH, N_VOLUMES = 8, 32, 8, 48
CONFIG: dict[str, Any] = {
    "width": 16, "depth": 1, "heads": 2, "n_parcels": N_PARCELS, "n_volumes": WINDOW,
    "patch": PATCH, "n_codes": 24, "code_width": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Write derivatives, a label image of eight slabs and a tokenizer of the user."""
    folder = tmp_path_factory.mktemp("codes")
    cohort.write_cohort(folder / "deriv", people=6, volumes=N_VOLUMES)
    mask = nib.load(next((folder / "deriv").glob("sub-*/func/*_mask.nii.gz")))
    brain = mask.get_fdata() > 0
    labels = np.zeros(brain.shape, dtype=np.int16)
    labels[brain] = 1 + np.arange(brain.sum()) * N_PARCELS // brain.sum()
    nib.save(nib.Nifti1Image(labels, mask.affine), folder / "slabs.nii.gz")
    (folder / "tokens").mkdir()
    torch.manual_seed(1)
    state = LmTokenizer(LmConfig.of(CONFIG)).state_dict()
    state["quantize.embedding.initted"] = torch.ones(1)
    path = folder / "tokens" / "weights.safetensors"
    save_file(state, path)
    base = read_card("fmri-lm")
    change = {"n_parcels": N_PARCELS, "atlas": "Slabs", "window": WINDOW, "stride": WINDOW}
    change |= {"shortest": 2 * PATCH, "multiple": PATCH, "min_volumes": 10}
    named = {"name": "tokens", "label": "tokens", "file": path.name, "config": CONFIG}
    named |= {"sha256": hash_file(path), "size": path.stat().st_size, "dimension": 16}
    card = base.model_copy(update={**named, "contract": base.contract.model_copy(update=change)})
    (folder / "tokens" / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    return folder


def words(place: Path, out: Path, *more: object) -> list[str]:
    given = ["pretrain", place / "deriv", "--model", place / "tokens", "--out", out]
    given += ["--atlas", place / "slabs.nii.gz", "--cache-dir", place / "cache"]
    given += ["--name", "mine", "--validation", "0.34", "--batch-size", "2"]
    return [str(word) for word in (*given, *more)]


def call(*given: str) -> None:
    parser = Parser(prog="train")
    add_train(parser)
    call_train(parser.parse_args(given))


def test_a_tokenizer_goes_from_derivatives_to_a_model_that_embeds(place, tmp_path, capsys) -> None:
    out = tmp_path / "mine"
    call(*words(place, out, "--from-scratch", "--steps", "4", "--validate-every", "2"))
    assert "best after step" in capsys.readouterr().out
    said = json.loads((out / "training.json").read_text())
    assert said["settings"]["objective"] == "codes"  # nobody asked for it: it is the usual one
    assert {"loss", "explained", "codes"} <= said["validations"][0].keys()
    func = place / "deriv" / "sub-01" / "func"
    stem = "sub-01_task-rest_run-1_space-MNI152NLin6Asym_res-2"
    run = StandardSeries(
        name="sub-01_task-rest_run-1",
        bold=func / f"{stem}_desc-preproc_bold.nii.gz",
        mask=func / f"{stem}_desc-brain_mask.nii.gz",
        confounds=None,
        tr=2.0,
        space="MNI152NLin6Asym",
        res="2",
    )
    for name in (str(out), f"{out}-untrained"):
        found = load_embedder(name, atlas=place / "slabs.nii.gz").embed(run)
        assert found.pooled.shape == (16,)
    for path in out.rglob("*"):
        if path.is_file():
            assert b"sub-" not in path.read_bytes(), path
            assert str(place).encode() not in path.read_bytes(), path


def test_a_training_goes_on_from_weights_with_their_codebook(place, tmp_path) -> None:
    out = tmp_path / "mine"
    call(*words(place, out, "--steps", "1", "--learning-rate", "1e-9", "--validate-every", "1"))
    card = read_card(str(out))
    assert card.summary.startswith("Pre-trained (codes) by its user on their own data, from tokens")
    assert any(limit.startswith("Of tokens, from which it started") for limit in card.limits)


SCRIPT = """
import sys
from neurostorm_app.bids_app.words.grammar import Parser
from neurostorm_app.bids_app.verbs.train import add_train, call_train
parser = Parser(prog="train")
add_train(parser)
call_train(parser.parse_args(sys.argv[1:]))
"""

HOLD = """
import time
from neurostorm_app.pipelines.train.codes import CodeLearning
forward = CodeLearning.forward
def wait(self, draw, loaded):
    while draw.step == 15:
        time.sleep(1)
    return forward(self, draw, loaded)
CodeLearning.forward = wait
"""
"""Stops a training between two checkpoints, until somebody kills it."""


@pytest.mark.slow
def test_a_training_of_codes_killed_by_kill_9_ends_with_the_same_weights(place, tmp_path) -> None:
    """The codebook is no parameter: it, and what is counted of it, must come back too."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    plan = ("--from-scratch", "--steps", "30", "--checkpoint-every", "6", "--validate-every", "10")

    def command(out: str, before: str = "") -> list[str]:
        return [sys.executable, "-c", before + SCRIPT, *words(place, tmp_path / out, *plan)]

    subprocess.run(command("whole"), env=env, check=True)
    child = subprocess.Popen(command("cut", HOLD), env=env)
    deadline = time.monotonic() + 600
    try:
        while not (tmp_path / "cut/checkpoints/step-000000012").is_dir():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "cut/card.yaml").exists()
    subprocess.run(command("cut"), env=env, check=True)
    whole, cut = (
        hashlib.sha256((tmp_path / name / "weights.safetensors").read_bytes()).hexdigest()
        for name in ("whole", "cut")
    )
    assert whole == cut
