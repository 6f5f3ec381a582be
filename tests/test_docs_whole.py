"""The commands of the documentation, done for real: preprocessing, training, exploring, networks.

Pages run as in `test_docs_commands.py`, but the app and its tools are processes of their own that
do the whole work on a phantom. What nobody here has is stood in for: released weights by the demo
models or by a tiny network, CUDA by the CPU, a container engine by the app itself.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tests/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


fast = load("test_docs_commands")
shell, world_of = fast.shell, fast.world_of
MODELS = {
    "neurostorm": "neurostorm-demo",
    "brainlm": "brainlm-demo",
    "slim-brain": "connectome",
    "slim-brain-untrained": "connectome",
}
"""What stands in for a model whose weights nobody here has."""
DROPPED = {"--weights-dir", "--weights", "--parcel-statistics"}
"""Options that name such weights, with their word."""


def done(name: str, words: list[str], cwd: Path) -> Any:
    """Run a command of ours in a process of its own."""
    command = [str(BIN / name), *words]
    env = {**os.environ, "TERM": "dumb"}
    ran = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=3000
    )
    return fast.Answer(code=ran.returncode, out=ran.stdout, err=ran.stderr)


def stood_in(words: list[str]) -> list[str]:
    """Take weights that are here for those that are not."""
    taken, skip = [], False
    for word in words:
        if skip or word in DROPPED:
            skip = word in DROPPED
            continue
        taken.append(MODELS.get(word, word))
    return taken


def app(call: Any) -> Any:
    words = stood_in(call.words)
    if words[2:3] == ["group"] and "--target" in words:
        words += ["--permutations", "10", "--repeats", "1"]
    if "/models/mine" in " ".join(words):
        words = [word if "/models/" not in word else "neurostorm-demo" for word in words]
    return done("neurostorm-app", words, call.cwd)


def verbs(call: Any) -> Any:
    words = list(call.words)
    if words[0] == "phantom":
        words += ["--scale", "tiny"]
    if (words[0] == "weights" and words[1] != "list") or words[0] == "train":
        return fast.Answer()  # in process, with a hub that is played; and below
    return done("neurostorm-tools", words, call.cwd)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """A phantom of ten tiny people in the place of the examples' dataset."""
    root = tmp_path_factory.mktemp("whole")
    bids = root / "data/bids"
    words = ["phantom", str(bids), "--participants", "10", "--runs", "1", "--volumes", "64"]
    made = done("neurostorm-tools", [*words, "--scale", "tiny"], root)
    assert made.code == 0, made.err
    rows = (bids / "participants.tsv").read_text().splitlines()
    more = ["\tdiagnosis", *(f"\t{'patient' if n % 2 else 'control'}" for n in range(len(rows)))]
    lines = [row + cell for row, cell in zip(rows, more, strict=False)]
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")
    world_of.load_module("train_cohort").write_model(root / "models/mine", name="mine")
    world_of.load_module("train_cohort").write_cohort(root / "cohort", people=10, planted=0.2)
    return {"/data": root / "data", "/weights": root / "weights", "/models": root / "models"}


@pytest.fixture
def sh(places, tmp_path) -> Any:
    for name in ("docs", "pyproject.toml", "requirements.lock", "apptainer.def", "Dockerfile"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "neurostorm-app.sif").touch()
    known = fast.handlers(places, tmp_path)
    known |= {
        "neurostorm-app": app,
        "neurostorm-tools": verbs,
        "docker": lambda call: fast.answer_engine(call, app, verbs),
        "apptainer": lambda call: fast.answer_apptainer(call, app, verbs),
    }
    made = shell.Shell(tmp_path, known, places)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in known:
        (tmp_path / ".venv/bin" / name).symlink_to(tmp_path / ".bin" / name)
    return made


@pytest.mark.timeout(7200)
def test_the_quick_start_leads_from_nothing_to_reports(sh):
    quick = sh.folder / "quick"
    for block in fast.RUN:
        if block.page == "docs/quick-start.md":
            if " build " in block.text:  # the same in a container: another reader
                shutil.rmtree(quick / "bids")
                shutil.rmtree(quick / "bids-truth")
            sh.run(shell.commands_of(block))
    assert "Can I trust" in (quick / "out/sub-01.html").read_text(encoding="utf-8")
    assert "Can I trust" in (quick / "cohort/group.html").read_text(encoding="utf-8")
    assert fast.outputs.untold(quick / "cohort") == []


@pytest.mark.timeout(7200)
def test_series_denoised_and_in_other_spaces_are_on_the_page_of_output_files(places):
    data = places["/data"]
    words = [str(data / "bids"), str(data / "more"), "participant", "--participant-label", "01"]
    words += ["--denoise", "36P+scrub", "acompcor", "--denoise-smoothing", "6"]
    words += ["--output-spaces", "MNI152NLin6Asym:res-2", "T1w", "native"]
    ran = done("neurostorm-app", [*words, "--models", "connectome", "brainlm-demo"], data)
    assert ran.code == 0, ran.err
    assert fast.outputs.untold(data / "more") == []


@pytest.mark.parametrize("verb", ["pretrain", "tune"])
def test_training_runs_as_the_page_says(verb, places, tmp_path):
    """With a tiny network and a cohort for it, and few steps."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(rf"^neurostorm-tools train {verb} (?!DERIVATIVES).*$", text, re.MULTILINE)
    assert lines
    cohort = str(places["/data"].parent / "cohort")
    for number, line in enumerate(lines):
        words = line.split()[1:]
        told = {
            "neurostorm": str(places["/models"] / "mine"),
            "neurostorm-mae": str(places["/models"] / "mine"),
            "neurostorm-demo": str(places["/models"] / "mine"),
            "/data/out": cohort,
            "/data/lyon": cohort,
            "diagnosis": "group",
            "cuda": "cpu",
            "bf16": "fp32",
        }
        words = [told.get(word, word) for word in stood_in_training(words)]
        at = words.index("--out")
        words[at + 1] = str(tmp_path / f"{verb}{number}")
        few = ["--steps", "2", "--validate-every", "1", "--batch-size", "2"]
        ran = done("neurostorm-tools", [*words, *few], tmp_path)
        assert ran.code == 0, f"{' '.join(words)}\n{ran.err}"
        assert (tmp_path / f"{verb}{number}/card.yaml").is_file()


def stood_in_training(words: list[str]) -> list[str]:
    """Leave out what names weights, a second cohort and a configuration of another network."""
    taken, skip = [], False
    for word in words:
        if skip or word in {"--weights-dir", "--config"}:
            skip = word in {"--weights-dir", "--config"}
        elif word not in {"/data/kyoto", "--from-scratch"}:
            taken.append(word)
    return taken


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["forecast", "reconstruct", "networks", "perturb"])
def test_exploring_runs_as_the_page_says(kind, places, tmp_path):
    text = (ROOT / "docs/systems/brainlm.md").read_text(encoding="utf-8")
    line = re.search(rf"^neurostorm-tools explore {kind} .*$", text, re.MULTILINE)
    assert line
    data = places["/data"]
    words = [str(data / "bids"), str(data / "explored"), "participant"]
    words += ["--participant-label", "01", "02", "--models", "connectome"]
    assert done("neurostorm-app", words, data).code == 0
    (tmp_path / "networks.tsv").write_text(
        "parcel\tnetwork\n" + "".join(f"{i}\t{'AB'[i % 2]}\n" for i in range(1, 101))
    )
    asked = line[0].split()[1:]
    told = {"/data/out": str(data / "explored"), "brainlm": "brainlm-demo"}
    asked = [told.get(word, word) for word in asked]
    if kind == "forecast":  # the demo's window is of 60 volumes
        asked = [word for word in asked if word != "--lstm"] + ["--seen", "40", "--horizon", "20"]
    ran = done("neurostorm-tools", asked, tmp_path)
    assert ran.code == 0, ran.err


@pytest.mark.timeout(3000)
def test_the_python_of_the_pages_about_large_networks_runs(tmp_path):
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from neurostorm_app.models import create_model

    state = create_model("fmri-lm-untrained").state_dict()
    state["quantize.embedding.initted"].fill_(1)  # as if the codebook had been filled
    save_file({name: value.contiguous() for name, value in state.items()},
              tmp_path / "tokenizer.safetensors")  # fmt: skip
    rng = np.random.default_rng(1)
    names = [f"7Networks_LH_{net}_{i}" for net in ("Vis", "SomMot", "Default") for i in range(6)]
    given = {
        "windows": torch.zeros(1, 450, 160),
        "parcel_names": names,
        "series": rng.normal(size=(len(names), 200)),
    }
    from neurostorm_app.pipelines.describe import describe
    from neurostorm_app.pipelines.describe_values import find_network

    networks = [find_network(name) for name in names]
    given["cohort"] = [
        describe(rng.normal(size=(len(names), 200)), networks, tr=2.0) for _ in range(12)
    ]
    os.chdir(tmp_path)
    for block in fast.PYTHON:
        if block.page == "docs/systems/fmri-lm.md":
            exec(compile(block.text, block.name, "exec"), given)
