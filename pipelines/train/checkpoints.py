"""Checkpoints of a training: tensors in safetensors, the rest in JSON, each whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from neurostorm_app.errors import CannotCreateError, DataError, UsageError
from neurostorm_app.pipelines.train.settings import name_differences

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = [
    "Progress",
    "claim",
    "find_checkpoint",
    "load_checkpoint",
    "restore",
    "save_checkpoint",
    "trained",
]

KEPT: Final = 2
PREFIX: Final = "step-"


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a training has come.

    Parameters
    ----------
    step : int
        Steps that are done.
    seconds : float
        Spent on them.
    smooth : float
        Running mean of the loss.
    best : float
        Lowest validation loss; infinite before the first.
    best_step : int
        The step it was measured after.
    waited : int
        Validations since then.
    rows : list of dict
        The log: one row a step that was logged.
    validations : list of dict
        What each validation measured.
    best_state : dict of str to Tensor
        What was trained, as it was at the best validation.
    """

    step: int = 0
    seconds: float = 0.0
    smooth: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    waited: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)


def trained(task: nn.Module) -> dict[str, Tensor]:
    """List what a training changes: parameters with gradients, and buffers; not copied."""
    every = task.named_parameters(remove_duplicate=False)  # tied ones have two names
    frozen = {name for name, value in every if not value.requires_grad}
    return {name: value for name, value in task.state_dict().items() if name not in frozen}


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Take a folder for a training, or see that it is the same training that began there.

    Parameters
    ----------
    folder : Path
        It is made.
    identity : mapping
        All that decides the result; values are JSON's.

    Raises
    ------
    UsageError
        If another training began there.
    CannotCreateError
        If something else is in the folder, or it cannot be made.
    """
    path = folder / "settings.json"
    ours = json.loads(json.dumps(identity))
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if differing := name_differences(ours, theirs):
            raise UsageError(
                f"{folder}: a training with other settings began there; now and then: {differing}",
                fix="give the settings it began with, or another folder with --out",
            )
        return
    if folder.is_dir() and any(found.suffix != ".part" for found in folder.iterdir()):
        raise CannotCreateError(
            f"{folder}: is not empty, and no training began there",
            fix="give a folder that is empty or not there yet",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise CannotCreateError(
            f"{folder}: a training cannot be kept there: {error.strerror}",
            fix="check permissions and space, or give another folder with --out",
        ) from error


def find_checkpoint(folder: Path) -> Path | None:
    """Find the latest checkpoint of a training, if it has one."""
    found = sorted((folder / "checkpoints").glob(f"{PREFIX}*"))
    whole = [path for path in found if path.suffix != ".part"]
    return whole[-1] if whole else None


def save_checkpoint(
    folder: Path,
    progress: Progress,
    *,
    task: nn.Module,
    optimiser: Mapping[str, Any] | None,
    scaler: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint and remove all but the last two; the last of a training stays alone.

    Parameters
    ----------
    folder : Path
        Of the training.
    progress : Progress
        How far it has come.
    task : Module
        What is trained.
    optimiser : mapping or None
        The optimiser's state dict; None after the last step.
    scaler : mapping or None
        State of the gradients' scale, in fp16.

    Returns
    -------
    Path
        A folder of ``state.safetensors`` and ``progress.json``.
    """
    path = folder / "checkpoints" / f"{PREFIX}{progress.step:09d}"
    aside = path.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = {f"model/{name}": value for name, value in trained(task).items()}
    tensors |= {f"best/{name}": value for name, value in progress.best_state.items()}
    states = optimiser["state"] if optimiser else {}
    for number, state in states.items():
        tensors |= {f"optimiser/{number}/{name}": value for name, value in state.items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, aside / "state.safetensors")
    said = {
        name: getattr(progress, name)
        for name in ("step", "seconds", "smooth", "best", "best_step", "waited")
    }
    said |= {"rows": progress.rows, "validations": progress.validations, "scaler": scaler}
    (aside / "progress.json").write_text(json.dumps(said), encoding="utf-8")
    for name in ("state.safetensors", "progress.json"):
        _sync(aside / name)
    shutil.rmtree(path, ignore_errors=True)
    aside.rename(path)
    _sync(path.parent)
    for old in sorted(path.parent.glob(f"{PREFIX}*"))[: -KEPT if optimiser else -1]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_checkpoint(
    path: Path, *, task: nn.Module
) -> tuple[Progress, dict[int, dict[str, Tensor]], Mapping[str, Any] | None]:
    """Read a checkpoint; what was trained goes into the task.

    Parameters
    ----------
    path : Path
        Made by `save_checkpoint`.
    task : Module
        Of the same shape; it is changed.

    Returns
    -------
    progress : Progress
        How far the training had come.
    optimiser : dict
        The ``state`` of the optimiser's state dict.
    scaler : mapping or None
        State of the gradients' scale.

    Raises
    ------
    DataError
        If the checkpoint is damaged or of another network.
    """
    try:
        tensors = load_file(path / "state.safetensors")
        said = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{path}: the checkpoint is damaged: {error}",
            fix="remove it: the training goes on from the one before",
        ) from error
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimiser": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = value
    restore(task, parts["model"], path)
    optimiser: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimiser"].items():
        number, _, key = name.partition("/")
        optimiser.setdefault(int(number), {})[key] = value
    scaler = said.pop("scaler")
    return Progress(**said, best_state=parts["best"]), optimiser, scaler


@torch.no_grad()
def restore(task: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put what was trained back into a task; `path` is where it comes from, for the message.

    Raises
    ------
    DataError
        If it is of another network.
    """
    ours = trained(task)
    wrong = [n for n in {*ours, *state} if n not in ours or n not in state]
    if wrong or any(ours[name].shape != value.shape for name, value in state.items()):
        raise DataError(
            f"{path}: the checkpoint is of another network, or of an earlier version of this one;"
            f" {len(wrong)} names differ",
            fix="give another folder with --out: the training begins anew there",
        )
    for name, value in state.items():
        ours[name].copy_(value)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
