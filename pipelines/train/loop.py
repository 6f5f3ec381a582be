"""The steps of a training: what each one sees, when it validates, tells and is kept."""

from __future__ import annotations

import csv
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import torch

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.train.batches import Draw, derive_seed
from neurostorm_app.pipelines.train.checkpoints import (
    Progress,
    find_checkpoint,
    load_checkpoint,
    restore,
    save_checkpoint,
    trained,
)
from neurostorm_app.pipelines.train.rates import group_parameters, share_of_step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from neurostorm_app.pipelines.train.settings import Plan
    from neurostorm_app.pipelines.train.task import Task

__all__ = ["Loop"]

log = logging.getLogger(__name__)

TELL_EVERY: Final = 20
"""Steps from one line of the log to the next."""
COLUMNS: Final[tuple[str, ...]] = ("step", "loss", "validation", "rate", "seconds")


class Loop:
    """One training, from where it stands to its end.

    Parameters
    ----------
    task : Task
        What is trained.
    plan : Plan
        How.
    folder : Path
        For checkpoints and ``log.csv``.
    accelerator : accelerate.Accelerator
        Devices, processes and precision.
    """

    def __init__(self, task: Task, plan: Plan, folder: Path, accelerator: Any) -> None:
        self.task, self.plan, self.folder, self.accelerator = task, plan, folder, accelerator
        self.progress = Progress()
        states: dict[int, dict[str, Tensor]] = {}
        scaler: Mapping[str, Any] | None = None
        latest = find_checkpoint(folder)
        if latest is not None:
            self.progress, states, scaler = load_checkpoint(latest, task=task)
            if accelerator.is_main_process:
                log.info("%s: goes on after step %d", folder, self.progress.step)
        self.parameters = [value for value in task.parameters() if value.requires_grad]
        groups = group_parameters(task.named_parameters(), plan, head=task.new_head)
        adam = torch.optim.AdamW(groups, lr=plan.rate, weight_decay=plan.weight_decay)
        self.model, self.optimiser = accelerator.prepare(task, adam)
        if states:
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({"state": states, "param_groups": groups})
        if scaler and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(scaler)
        self.began, self.before = time.monotonic(), self.progress.seconds
        self.first = self.progress.step

    def go(self) -> Progress:
        """Do the steps that are left, and give the task its best weights."""
        plan, progress = self.plan, self.progress
        self._write_log()
        self.task.train()
        with ThreadPoolExecutor(1, "ahead") as ahead:
            waiting = self._ahead(ahead, progress.step)
            while progress.step < plan.steps and not self._is_over():
                pieces, waiting = waiting, self._ahead(ahead, progress.step + 1)
                loss, rate = self._step(progress.step, [piece.result() for piece in pieces])
                progress.step += 1
                since = min(progress.step, TELL_EVERY)
                progress.smooth += (loss - progress.smooth) / since
                progress.seconds = self.before + time.monotonic() - self.began
                self._after(progress.step, rate)
            for piece in waiting:
                piece.cancel()
        if progress.step > self.first and self.accelerator.is_main_process:
            save_checkpoint(self.folder, progress, task=self.task, optimiser=None)
        if not progress.best_state:
            raise DataError(
                f"{self.folder}: the network had collapsed at all {len(progress.validations)} "
                f"validations, and nothing of it is worth keeping: {progress.validations[-1]}",
                fix="train again in another folder with a lower --learning-rate, more runs or "
                "another --objective",
            )
        restore(self.task, progress.best_state, self.folder)
        self.task.eval()
        return progress

    def _after(self, step: int, rate: float) -> None:
        """Validate, tell and keep, where it is time to."""
        plan, last = self.plan, step == self.plan.steps
        validation = self._validate(step) if last or step % plan.validate_every == 0 else None
        if last or validation is not None or step % TELL_EVERY == 0:
            self._tell(step, rate, validation)
        if last or step % plan.checkpoint_every == 0 or self._is_over():
            self._save()

    def _draws(self, step: int) -> list[Draw]:
        plan, accelerator = self.plan, self.accelerator
        return [
            Draw(
                seed=plan.seed,
                step=step,
                part=part,
                parts=plan.accumulate,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                batch=plan.batch,
            )
            for part in range(plan.accumulate)
        ]

    def _ahead(self, ahead: ThreadPoolExecutor, step: int) -> list[Any]:
        """Have the pieces of a step read while the one before is computed."""
        if step >= self.plan.steps:
            return []
        return [ahead.submit(self.task.load, draw) for draw in self._draws(step)]

    def _step(self, step: int, pieces: list[Any]) -> tuple[float, float]:
        """Do one step of the optimiser; gives the mean loss over processes, and the rate."""
        plan, accelerator = self.plan, self.accelerator
        share = share_of_step(step, plan.steps, warm_up=plan.warm_up, least=plan.least_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * share
        self.optimiser.zero_grad()
        total = torch.zeros((), device=accelerator.device)
        for draw, loaded in zip(self._draws(step), pieces, strict=True):
            torch.manual_seed(derive_seed(plan.seed, "torch", draw.items.start, draw.rank))
            if draw.part + 1 < plan.accumulate:
                with accelerator.no_sync(self.model):
                    total += self._backward(draw, loaded)
            else:
                total += self._backward(draw, loaded)
        accelerator.clip_grad_norm_(self.parameters, plan.max_gradient)
        self.optimiser.step()
        loss = float(accelerator.reduce(total, "mean"))
        if not math.isfinite(loss):
            raise DataError(
                f"the loss of step {step + 1} is {loss}, which is no number to go on from",
                fix="lower the learning rate, or choose --precision fp32",
            )
        return loss, plan.rate * share

    def _backward(self, draw: Draw, loaded: Any) -> Tensor:
        loss: Tensor = self.model(draw, loaded) / self.plan.accumulate
        self.accelerator.backward(loss)
        return loss.detach().float()

    def _is_over(self) -> bool:
        return 0 < self.plan.patience <= self.progress.waited

    def _validate(self, step: int) -> float:
        """Measure on who is held out, in one process for all, and keep the best weights."""
        said: list[dict[str, float]] = [{}]
        if self.accelerator.is_main_process:
            self.task.eval()
            with torch.no_grad(), self.accelerator.autocast():
                said = [self.task.validate()]
            self.task.train()
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(said)
        found, progress = said[0], self.progress
        progress.validations.append({"step": step, **found})
        progress.waited += 1
        if found.get("collapsed"):
            log.warning("step %d: the network has collapsed, and is not kept: %s", step, found)
        elif found["loss"] < progress.best:
            progress.best, progress.best_step, progress.waited = found["loss"], step, 0
            progress.best_state = {
                n: v.detach().cpu().clone() for n, v in trained(self.task).items()
            }
        if not math.isfinite(found["loss"]):
            raise DataError(
                f"the validation after step {step} gives a loss of {found['loss']}",
                fix="lower the learning rate, or choose --precision fp32",
            )
        return found["loss"]

    def _tell(self, step: int, rate: float, validation: float | None) -> None:
        if not self.accelerator.is_main_process:
            return
        plan, progress = self.plan, self.progress
        row = {"step": step, "loss": progress.smooth, "validation": validation, "rate": rate}
        progress.rows.append(row | {"seconds": round(progress.seconds, 2)})
        with (self.folder / "log.csv").open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(progress.rows[-1])
        here = progress.seconds - self.before
        each = here / (step - self.first)
        speed = plan.batch * plan.accumulate * self.accelerator.num_processes / each
        held = "" if validation is None else f", validation {validation:.4f}"
        log.info(
            "step %d of %d: loss %.4f%s%s, %.3g windows/s, %.0f s left",
            *(step, plan.steps, progress.smooth, held, self.task.said, speed),
            each * (plan.steps - step),
        )

    def _write_log(self) -> None:
        """Let the log hold what the checkpoint knows; later lines come again."""
        if self.accelerator.is_main_process:
            aside = self.folder / "log.csv.part"
            with aside.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(self.progress.rows)
            aside.replace(self.folder / "log.csv")

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            save_checkpoint(
                self.folder,
                self.progress,
                task=self.task,
                optimiser=self.optimiser.state_dict(),
                scaler=scaler.state_dict() if scaler is not None else None,
            )
