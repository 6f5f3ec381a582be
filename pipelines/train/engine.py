"""The loop of a training, on one device or several: the only module that knows Accelerate.

What a step does depends on the seed, the step and the process alone. So a training that was
killed goes on from its last checkpoint to the weights it would have reached anyway; on a CPU, with
the same number of threads, to the same bits.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.train.checkpoints import claim
from neurostorm_app.pipelines.train.loop import Loop
from neurostorm_app.pipelines.train.task import Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["Outcome", "Task", "main_first", "train"]

PATIENCE: Final = timedelta(hours=24)
"""Time that processes wait for the first one, which makes the runs ready."""


def train(task: Task, plan: Plan, *, folder: Path, identity: Mapping[str, Any]) -> Outcome:
    """Train, from the last checkpoint of the folder if there is one.

    Parameters
    ----------
    task : Task
        What is trained; it ends with the weights of the best validation.
    plan : Plan
        How.
    folder : Path
        For checkpoints and ``log.csv``.
    identity : mapping
        What decides the result besides the plan, such as hashes of weights and data.

    Returns
    -------
    Outcome
        How it went.

    Raises
    ------
    UsageError
        If another training began in the folder, or the device is not there.
    CannotCreateError
        If the folder cannot be used.
    DataError
        If the loss is not finite, or a checkpoint is damaged.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "the device 'cuda' is not there: torch sees no GPU", fix="choose --device cpu"
        )
    devices = list(range(torch.cuda.device_count())) if plan.device == "cuda" else []
    with torch.random.fork_rng(devices=devices), _accelerated(plan) as accelerator:
        world = accelerator.num_processes
        if accelerator.is_main_process:
            claim(folder, {**identity, "plan": plan.identity(), "processes": world})
        accelerator.wait_for_everyone()
        progress = Loop(task, plan, folder, accelerator).go()
        accelerator.wait_for_everyone()
        return Outcome(
            steps=progress.step,
            best_step=progress.best_step,
            validations=tuple(progress.validations),
            seconds=progress.seconds,
            world=world,
            is_main=accelerator.is_main_process,
        )


@contextmanager
def main_first(device: str) -> Iterator[bool]:
    """Let the first process of a launcher do something before all others; yields whether it is."""
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    if not state.is_main_process:
        logging.getLogger("neurostorm_app").setLevel(logging.WARNING)  # one voice is enough
    with state.main_process_first():
        yield state.is_main_process


@contextmanager
def _accelerated(plan: Plan) -> Iterator[Any]:
    """Start Accelerate, and leave nothing of it behind."""
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState, GradientState

    accelerator = Accelerator(
        cpu=plan.device == "cpu",
        mixed_precision="no" if plan.precision == "fp32" else plan.precision,
        kwargs_handlers=[
            # The mask tokens of other schemes are parameters without a gradient.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        # These are shared by all of a process; another training may want another precision.
        AcceleratorState._reset_state(reset_partial_state=False)  # noqa: SLF001
        GradientState._reset_state()  # noqa: SLF001
