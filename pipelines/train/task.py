"""What a training asks of a network, and what comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.pipelines.train.batches import Draw

__all__ = ["Outcome", "Task"]


class Task(nn.Module, ABC):
    """What is trained, and by which loss; its parameters without gradients stay as they are."""

    new_head = ""
    """How the names of the parameters of a new head begin, which may learn at a rate of its own."""

    @abstractmethod
    def load(self, draw: Draw) -> Any:
        """Read what one piece of a step sees; called ahead, in another thread."""

    @abstractmethod
    def forward(self, draw: Draw, loaded: Any) -> Tensor:
        """Compute the loss of a piece, shape ()."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Measure on participants that are held out; ``loss`` decides which step is the best.

        A step of which it says ``collapsed``, above 0, never is.
        """

    @property
    def said(self) -> str:
        """Anything else for the lines of the log."""
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a training; the task holds the weights of its best validation.

    Parameters
    ----------
    steps, best_step : int
        Steps that were done, and after how many the validation was best.
    validations : tuple of dict
        What was measured, each with its ``step``.
    seconds : float
        Of the steps.
    world : int
        Processes.
    is_main : bool
        Whether this process is the one that writes.
    """

    steps: int
    best_step: int
    validations: tuple[Mapping[str, float], ...]
    seconds: float
    world: int
    is_main: bool

    @property
    def best(self) -> Mapping[str, float]:
        """What the best validation measured."""
        return next(row for row in self.validations if row["step"] == self.best_step)
