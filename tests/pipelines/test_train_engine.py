"""The loop of a training: what a step sees, checkpoints, kills, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from neurostorm_app.errors import CannotCreateError, DataError, UsageError
from neurostorm_app.pipelines.train.batches import Draw, Rounds, derive_seed
from neurostorm_app.pipelines.train.checkpoints import find_checkpoint, load_checkpoint
from neurostorm_app.pipelines.train.engine import train
from neurostorm_app.pipelines.train.rates import warm_up_cosine
from neurostorm_app.pipelines.train.settings import Plan
from neurostorm_app.pipelines.train.split import split_participants
from neurostorm_app.pipelines.train.task import Task

if TYPE_CHECKING:
    from pathlib import Path

TRUTH = torch.tensor([1.0, -2.0, 0.5, 0.0])


class Line(Task):
    """A layer with dropout before it, that learns a line; one of its parameters is frozen."""

    def __init__(self, stuck_from: int = 10**9) -> None:
        super().__init__()
        self.line, self.stuck_from = nn.Linear(4, 1), stuck_from
        self.dropout, self.norm = nn.Dropout(0.1), nn.BatchNorm1d(4)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)
        self.seen: list[int] = []
        self.bad_from = 10**9

    def load(self, draw):
        self.seen += draw.items
        x = [draw.rng("x", item).normal(size=4) for item in draw.items]
        return torch.tensor(np.stack(x), dtype=torch.float32)

    def forward(self, draw, loaded):
        if draw.step >= self.stuck_from:
            time.sleep(600)
        device = self.line.weight.device
        noise = torch.randn(len(loaded), generator=draw.generator("noise")).to(device)
        guess = self.line(self.dropout(self.norm(loaded.to(device))))[:, 0]
        error = (guess - loaded.to(device) @ TRUTH.to(device) + 0.1 * noise).square().mean()
        return error * float("nan") if draw.step >= self.bad_from else error

    def validate(self):
        return {"loss": float((self.line.weight[0].cpu() - TRUTH).square().mean())}


PLAN = Plan(steps=12, batch=3, accumulate=2, rate=0.1, checkpoint_every=4, validate_every=6)


def weights(task: Line) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def kept_in(folder: Path) -> list[int]:
    found = (folder / "checkpoints").glob("*")
    return sorted(int(path.name.removeprefix("step-")) for path in found)


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def same(one, other) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_training_learns_and_leaves_checkpoints_and_a_log(tmp_path):
    task, before = Line(), torch.random.get_rng_state()
    out = train(task, PLAN, folder=tmp_path / "out", identity={})
    assert torch.equal(torch.random.get_rng_state(), before)
    assert out.best["loss"] < out.validations[0]["loss"] < float(TRUTH.square().mean())
    assert [row["step"] for row in out.validations] == [6, 12]
    assert (out.steps, out.world, out.is_main) == (12, 1, True)
    assert torch.equal(task.frozen, torch.ones(3))
    assert kept_in(tmp_path / "out") == [12]
    rows = read_log(tmp_path / "out")
    assert [row["step"] for row in rows] == ["6", "12"]
    assert float(rows[0]["rate"]) == pytest.approx(0.1 * warm_up_cosine(5, 12))
    assert float(rows[1]["validation"]) == out.validations[1]["loss"]


def test_a_training_that_is_over_is_not_done_again(tmp_path):
    first, again = Line(), Line()
    out = train(first, PLAN, folder=tmp_path, identity={})
    again.stuck_from = 0
    assert train(again, PLAN, folder=tmp_path, identity={}).validations == out.validations
    assert same(weights(first), weights(again))


@pytest.mark.parametrize("stop", [3, 5, 8])
def test_a_training_that_breaks_off_goes_on_to_the_same_bits(tmp_path, stop):
    whole, broken, resumed = Line(), Line(), Line()
    train(whole, PLAN, folder=tmp_path / "whole", identity={})
    broken.bad_from = stop
    with pytest.raises(DataError, match="which is no number to go on from"):
        train(broken, PLAN, folder=tmp_path / "cut", identity={})
    train(resumed, PLAN, folder=tmp_path / "cut", identity={})
    assert resumed.seen[:3] == [
        18 * 0 + n for n in range(6 * (stop // 4 * 4), 6 * (stop // 4 * 4) + 3)
    ]
    assert same(weights(whole), weights(resumed))
    logs = [
        [(row["step"], row["loss"]) for row in read_log(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1]


KILLED = """
import sys; from pathlib import Path
import importlib.util as u, torch
torch.set_num_threads(1)
spec = u.spec_from_file_location("engine_test", sys.argv[1])
module = u.module_from_spec(spec); spec.loader.exec_module(module)
module.train(module.Line(stuck_from=6), module.PLAN, folder=Path(sys.argv[2]), identity={})
"""


def test_a_training_killed_by_kill_9_goes_on_to_the_same_bits(tmp_path):
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", KILLED, __file__, str(out)])
    try:
        wait_for(lambda: find_checkpoint(out) is not None, child)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    latest = find_checkpoint(out)
    assert latest is not None
    assert json.loads((latest / "progress.json").read_text())["step"] == 4 < PLAN.steps
    resumed, whole = Line(), Line()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(resumed, PLAN, folder=out, identity={})
    train(whole, PLAN, folder=tmp_path / "whole", identity={})
    torch.set_num_threads(threads)
    assert same(weights(whole), weights(resumed))


def wait_for(ready, child: subprocess.Popen) -> None:
    """Wait until something is there; a child that ends early is an error."""
    deadline = time.monotonic() + 300
    while not ready():
        assert child.poll() is None, f"the training ended with {child.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_other_settings_are_refused_and_named(tmp_path):
    train(Line(), PLAN, folder=tmp_path, identity={"data": "a"})
    other = Plan(steps=12, batch=3, accumulate=2, rate=0.05, checkpoint_every=4, validate_every=6)
    with pytest.raises(UsageError, match=r"other settings began there.*plan.rate 0.05 and 0.1"):
        train(Line(), other, folder=tmp_path, identity={"data": "a"})
    with pytest.raises(UsageError, match=r"data b and a"):
        train(Line(), PLAN, folder=tmp_path, identity={"data": "b"})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/settings.part").write_text("{")  # of a training killed at its very beginning
    train(Line(), PLAN, folder=tmp_path / "a", identity={})
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(CannotCreateError, match="is not empty, and no training began"):
        train(Line(), PLAN, folder=tmp_path, identity={})
    with pytest.raises(CannotCreateError, match="a training cannot be kept there"):
        train(Line(), PLAN, folder=tmp_path / "thesis.txt" / "out", identity={})


def test_a_damaged_checkpoint_is_said(tmp_path):
    train(Line(), PLAN, folder=tmp_path, identity={})
    latest = find_checkpoint(tmp_path)
    assert latest is not None
    with pytest.raises(DataError, match="is of another network"):
        load_checkpoint(latest, task=nn.Linear(2, 2))
    (latest / "state.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match="the checkpoint is damaged"):
        train(Line(), PLAN, folder=tmp_path, identity={})


def test_early_stopping_keeps_the_best(tmp_path):
    class Worse(Line):
        losses = iter([3.0, 1.0, 2.0, 2.0, 9.0])

        def validate(self):
            return {"loss": next(self.losses)}

    plan = Plan(steps=50, batch=2, rate=0.1, checkpoint_every=100, validate_every=2, patience=2)
    out = train(Worse(), plan, folder=tmp_path, identity={})
    assert (out.steps, out.best_step, out.best["loss"]) == (8, 4, 1.0)


def test_a_validation_that_is_no_number_ends_the_training(tmp_path):
    class Lost(Line):
        def validate(self):
            return {"loss": float("nan")}

    with pytest.raises(DataError, match="gives a loss of nan"):
        train(Lost(), PLAN, folder=tmp_path, identity={})


def test_bfloat16_learns_too_and_leaves_no_trace(tmp_path):
    plan = Plan(steps=12, batch=8, rate=0.1, precision="bf16", validate_every=6)
    out = train(Line(), plan, folder=tmp_path / "half", identity={})
    assert out.best["loss"] < float(TRUTH.square().mean())
    train(Line(), PLAN, folder=tmp_path / "whole", identity={})  # Accelerate keeps state


def test_plans_that_cannot_be_are_refused():
    nan = float("nan")
    refused = ({"steps": 0}, {"rate": 2.0}, {"patience": -1}, {"seed": -1}, {"weight_decay": nan})
    for wrong in refused:
        with pytest.raises(UsageError, match="a training cannot run with"):
            Plan(**wrong)
    with pytest.raises(UsageError, match="the precision fp16 needs a GPU"):
        Plan(precision="fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="torch sees no GPU"):
        train(Line(), Plan(device="cuda"), folder=tmp_path, identity={})


def test_a_step_is_divided_among_pieces_and_processes_without_overlap():
    def items(**how):
        return list(Draw(seed=0, batch=2, parts=2, world=2, **how).items)

    seen = [items(step=s, part=p, rank=r) for s in (0, 1) for p in (0, 1) for r in (0, 1)]
    assert [item for piece in seen for item in piece] == list(range(16))


def test_draws_depend_on_seed_step_and_purpose_alone():
    def numbers(seed=0, step=3, purpose="mask", rank=0):
        draw = Draw(seed=seed, step=step, rank=rank, world=2)
        return draw.rng(purpose).random(), torch.rand(1, generator=draw.generator(purpose)).item()

    assert numbers() == numbers()
    others = [numbers(seed=1), numbers(step=4), numbers(purpose="noise"), numbers(rank=1)]
    assert len({numbers(), *others}) == 5
    assert derive_seed(1, "a") < 2**63


def test_each_participant_comes_as_often_as_any_other():
    rounds = Rounds(n=5, seed=1)
    seen = [rounds.participant(item) for item in range(15)]
    assert all(sorted(seen[at : at + 5]) == list(range(5)) for at in (0, 5, 10))
    assert seen[:5] != seen[5:10]
    apart = Rounds(n=5, seed=1, distinct=2)
    pairs = [{apart.participant(2 * i), apart.participant(2 * i + 1)} for i in range(50)]
    assert all(len(pair) == 2 for pair in pairs)
    with pytest.raises(UsageError, match="different participants was asked for"):
        Rounds(n=3, seed=1, distinct=4)


def test_a_split_keeps_people_and_classes_apart():
    classes = np.array([0] * 20 + [1] * 10)
    split = split_participants(30, seed=2, validation=0.2, test=0.1, classes=classes)
    assert sorted(split.train + split.validation + split.test) == list(range(30))
    assert np.bincount(classes[list(split.validation)]).tolist() == [4, 2]
    assert np.bincount(classes[list(split.test)]).tolist() == [2, 1]
    assert split == split_participants(30, seed=2, validation=0.2, test=0.1, classes=classes)
    assert split != split_participants(30, seed=3, validation=0.2, test=0.1, classes=classes)
    with pytest.raises(DataError, match="too few to be on each side"):
        split_participants(3, seed=1, classes=np.array([0, 0, 1]))
    with pytest.raises(UsageError, match="nobody to train on"):
        split_participants(9, seed=1, validation=0.6, test=0.4)


DDP = """
import sys; from pathlib import Path
import importlib.util as u
spec = u.spec_from_file_location("engine_test", sys.argv[1])
module = u.module_from_spec(spec); spec.loader.exec_module(module)
from dataclasses import replace
from neurostorm_app.pipelines.train.engine import main_first
with main_first("cpu") as first:
    Path(sys.argv[2] + f".{int(first)}").touch()
task = module.Line()
out = module.train(task, replace(module.PLAN, batch=2), folder=Path(sys.argv[2]), identity={})
assert out.world == 2
import torch
torch.save(module.weights(task), sys.argv[2] + f".{int(out.is_main)}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DDP)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--standalone", str(script), __file__, str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    main, other = (torch.load(tmp_path / f"out.{n}.pt", weights_only=True) for n in (1, 0))
    assert same({n: v for n, v in main.items() if "norm" not in n}, other)
    error = (main["line.weight"][0] - TRUTH).square().mean()
    assert error < 0.8 * TRUTH.square().mean()
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert settings["processes"] == 2
