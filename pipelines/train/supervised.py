"""The task of tuning: a target told from windows, participants each as often as any other.

Upstream standardises a value by the clips of its training set, so that whoever was scanned longer
weighs more; here the mean and the standard deviation are those of the participants of the training
split. As upstream does, the logits of all windows of a run are averaged before they become a
probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional as fn

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.train.batches import Draw, Rounds, draw_window, tile_run
from neurostorm_app.pipelines.train.measures import measure_classes, measure_values
from neurostorm_app.pipelines.train.split import Split, split_participants
from neurostorm_app.pipelines.train.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.models.adapters import Tuned
    from neurostorm_app.pipelines.evaluate.cohort import Target
    from neurostorm_app.pipelines.train.material import Material

__all__ = ["Supervised", "Tuning"]

Seen = tuple[int, int, int]
"""A participant, one of the runs, and the first volume of a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What tuning does.

    Parameters
    ----------
    strategy : str
        Of `models.adapters`: what learns besides the head.
    prompt_len, rank : int
        Tokens of a prompt, rank of low-rank updates.
    validation, test : float
        Shares of participants that are held out: to choose the best step by, and to judge it by.
    weighted : bool
        Weigh classes so that each counts the same, however many participants it has.
    windows : int or None
        Windows of a run in which it is judged, spread evenly; None takes all.

    Raises
    ------
    UsageError
        If it shall be judged in none.
    """

    strategy: Literal["linear", "prompt", "prompt+norm", "lora", "full"] = "prompt"
    prompt_len: int = 50
    rank: int = 8
    validation: float = 0.2
    test: float = 0.0
    weighted: bool = True
    windows: int | None = None

    def __post_init__(self) -> None:
        if self.windows is not None and self.windows < 1:
            raise UsageError(
                f"a run cannot be judged in {self.windows} windows",
                fix="give --validation-windows 1 or more, or leave it out to take all",
            )


class Supervised(Task):
    """Tell a target from windows.

    Parameters
    ----------
    model : Tuned
        With a head of one output for a value or two classes, else of one a class.
    material : Material
        The runs.
    target : Target
        Of the participants, in the same order.
    settings : Tuning
        Shares and weights.
    seed : int
        Of everything that is drawn.
    """

    new_head = "model.head."

    def __init__(
        self, model: Tuned, material: Material, target: Target, settings: Tuning, *, seed: int
    ) -> None:
        super().__init__()
        self.model, self.material, self.target, self.settings = model, material, target, settings
        is_class = target.kind == "classes"
        values = np.asarray(target.values)
        self.split: Split = split_participants(
            len(material.people),
            seed=seed,
            validation=settings.validation,
            test=settings.test,
            classes=values.astype(np.int64) if is_class else None,
        )
        self.rounds = Rounds(n=len(self.split.train), seed=seed)
        known = values[list(self.split.train)].astype(np.float64)
        self.mean, self.sd = (0.0, 1.0) if is_class else (float(known.mean()), float(known.std()))
        if not self.sd > 0:
            raise DataError(
                f"{target.name} is {self.mean:g} in all participants to train on: there is nothing "
                "to learn",
                fix="choose a target in which people differ",
            )
        self.values = (values - self.mean) / self.sd
        self.weights = (
            _weigh(known, len(target.classes)) if settings.weighted and is_class else None
        )
        self.vectors: dict[Seen, Tensor] = {}

    @property
    def _keeps(self) -> bool:
        """Whether the network is frozen, so that a window's vector is computed one time."""
        return self.settings.strategy == "linear"

    def load(self, draw: Draw) -> tuple[list[Seen], list[Tensor], Tensor]:
        """Choose a window of each participant whose turn it is, and read it."""
        length, seen = self.material.recipe.window, []
        for item in draw.items:
            person = self.split.train[self.rounds.participant(item)]
            runs, rng = self.material.people[person], draw.rng("window", item)
            window = draw_window(runs, length, rng)
            start = window.start
            if self._keeps:  # one of the windows of embedding, which come again
                start = int(rng.choice(self._tile(person, window.run)))
            seen.append((person, window.run, start))
        truth = torch.tensor([float(self.values[person]) for person, _, _ in seen])
        return seen, [] if self._keeps else self._read(seen), truth

    def forward(self, draw: Draw, loaded: tuple[list[Seen], list[Tensor], Tensor]) -> Tensor:
        """Compute the loss of a batch."""
        del draw  # nothing is drawn here but dropout
        seen, parts, truth = loaded
        device = self.model.head.weight.device
        if self._keeps:
            logits: Tensor = self.model.head(self._vectors(seen))
        else:
            logits = self.model(*(part.to(device) for part in parts))
        return self.loss(logits, truth.to(device))

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Compare logits or scaled values (B, n) with the truth (B,), as upstream does."""
        logits = logits.float()
        if self.target.kind == "value":
            return fn.mse_loss(logits[:, 0], truth)
        if logits.shape[1] > 1:
            each = fn.cross_entropy(logits, truth.long(), reduction="none")
        else:
            each = fn.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
        if self.weights is not None:
            # torch's weighted mean divides by the weights of the batch: in small ones none is left.
            each = each * self.weights.to(logits.device)[truth.long()]
        return each.mean()

    def validate(self) -> dict[str, float]:
        """Measure the participants of the validation split."""
        return self.measure(self.split.validation)

    @torch.no_grad()
    def measure(self, people: Sequence[int]) -> dict[str, float]:
        """Measure participants: the mean over their runs of the mean over each run's windows.

        Parameters
        ----------
        people : sequence of int
            Numbers of participants.

        Returns
        -------
        dict
            ``loss``, and what `measures` give.
        """
        logits = torch.stack([self._predict(person) for person in people]).double().cpu()
        truth = np.asarray([self.values[person] for person in people])
        loss = float(self.loss(logits, torch.as_tensor(truth, dtype=torch.float32)))
        if self.target.kind == "classes":
            labels, n_classes = truth.astype(np.int64), len(self.target.classes)
            return {"loss": loss, **measure_classes(logits.numpy(), labels, n_classes)}
        predicted = logits.numpy()[:, 0] * self.sd + self.mean
        real = truth * self.sd + self.mean
        return {"loss": loss, **measure_values(predicted, real, mean=self.mean)}

    def _predict(self, person: int) -> Tensor:
        """Average logits over the windows of each run, then over runs: (n,)."""
        device = self.model.head.weight.device
        runs = []
        for run in range(len(self.material.people[person])):
            seen = [(person, run, int(start)) for start in self._tile(person, run)]
            if self._keeps:
                runs.append(self.model.head(self._vectors(seen)).mean(dim=0))
                continue
            windows = [self.model(*(part.to(device) for part in self._read([one]))) for one in seen]
            runs.append(torch.cat(windows).mean(dim=0))
        return torch.stack(runs).mean(dim=0)

    def _tile(self, person: int, run: int) -> NDArray[np.int64]:
        recipe = self.material.recipe
        stride = recipe.contract.stride or recipe.window
        found = self.material.people[person][run]
        return tile_run(found, recipe.window, stride, most=self.settings.windows)

    def _read(self, seen: Sequence[Seen]) -> list[Tensor]:
        """Read windows, and places of parcels where the network is told."""
        length = self.material.recipe.window
        runs = [self.material.people[person][run] for person, run, _ in seen]
        windows = [run.window(start, length) for run, (_, _, start) in zip(runs, seen, strict=True)]
        parts = [torch.from_numpy(np.stack(windows))]
        places = [run.xyz for run in runs if run.xyz is not None]
        return [*parts, torch.from_numpy(np.stack(places))] if places else parts

    def _vectors(self, seen: Sequence[Seen]) -> Tensor:
        """Embed windows one by one, each one time: neighbours in a batch change no bit."""
        device = self.model.head.weight.device
        for one in seen:
            if one not in self.vectors:
                parts = [part.to(device) for part in self._read([one])]
                self.vectors[one] = self.model.embed(*parts)[0].float()
        return torch.stack([self.vectors[one] for one in seen])


def _weigh(known: NDArray[np.float64], n_classes: int) -> Tensor:
    """Weigh classes so that each counts the same: (C,), mean 1 over participants."""
    counts = np.bincount(known.astype(np.int64), minlength=n_classes)
    return torch.as_tensor(len(known) / (n_classes * np.maximum(counts, 1)), dtype=torch.float32)
