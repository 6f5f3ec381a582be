"""The contrastive task of pre-training: SwiFT's, on NeuroSTORM's encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.augment import augment_windows
from neurostorm_app.models.heads import EmbeddingHead
from neurostorm_app.models.losses import contrastive_loss
from neurostorm_app.pipelines.train.batches import Draw, Rounds, draw_window
from neurostorm_app.pipelines.train.split import split_participants
from neurostorm_app.pipelines.train.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.neurostorm import NeuroStorm
    from neurostorm_app.pipelines.train.masks import Pretraining
    from neurostorm_app.pipelines.train.material import Material
    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["Contrastive"]

WIDTH = 128
"""Length of a vector of the contrastive head, as upstream."""


class Contrastive(Task):
    """Tell windows of a participant from those of others.

    Parameters
    ----------
    model : NeuroStorm
        What learns.
    material : Material
        The runs.
    settings : Pretraining
        Which kind.
    plan : Plan
        Says how many participants are told apart, and the seed.
    """

    def __init__(
        self, model: NeuroStorm, material: Material, settings: Pretraining, plan: Plan
    ) -> None:
        super().__init__()
        if plan.batch < 2:
            raise UsageError(
                f"contrastive training tells participants apart; a batch of {plan.batch} holds one",
                fix="set --batch-size to 2 or more",
            )
        self.model, self.material, self.settings = model, material, settings
        self.seed, self.batch = plan.seed, plan.batch
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(plan.seed)
            self.head = EmbeddingHead(model.config.stage(len(model.config.depths) - 1)[0], WIDTH)
        self.split = split_participants(
            len(material.people), seed=plan.seed, validation=settings.validation
        )
        if len(self.split.validation) < 2:
            raise UsageError(
                "contrastive training needs two participants or more to validate by; there is "
                f"{len(self.split.validation)}",
                fix="hold out a larger share with --validation",
            )
        self.rounds = Rounds(n=len(self.split.train), seed=plan.seed, distinct=plan.batch)

    def load(self, draw: Draw) -> list[Tensor]:
        """Read two windows of each participant whose turn it is, of two runs where there are."""
        people = [self.split.train[self.rounds.participant(item)] for item in draw.items]
        rngs = [draw.rng("windows", item) for item in draw.items]
        return self._pairs(people, rngs)

    def _pairs(self, people: list[int], rngs: list[np.random.Generator]) -> list[Tensor]:
        length = self.material.recipe.window
        views: tuple[list[Any], list[Any]] = ([], [])
        for person, rng in zip(people, rngs, strict=True):
            runs = self.material.people[person]
            order = rng.permutation(len(runs))
            for view, chosen in zip(views, (order[0], order[-1]), strict=True):
                window = draw_window(runs, length, rng, run=int(chosen))
                view.append(runs[window.run].window(window.start, length))
        return [torch.from_numpy(np.stack(view)) for view in views]

    def forward(self, draw: Draw, loaded: list[Tensor]) -> Tensor:
        """Compare the two windows of each with those of the others."""
        return self._loss(loaded, draw.generator("augmentation"))

    def _loss(self, loaded: list[Tensor], generator: torch.Generator) -> Tensor:
        device = next(self.parameters()).device
        first, second = (part.to(device) for part in loaded)

        def augment(x: Tensor) -> Tensor:
            return augment_windows(x, generator=generator)

        second_kind = self.settings.kind == 2
        return contrastive_loss(
            self.model,
            self.head,
            first,
            second,
            kind="augmentations" if second_kind else "windows",
            augment=augment if second_kind or self.settings.augment else None,
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Compare the same windows of those who are held out, each time."""
        generator = torch.Generator().manual_seed(self.seed)
        rng = np.random.default_rng(self.seed)
        held, losses = list(self.split.validation), []
        for _ in range(self.settings.validation_windows):
            people = [int(p) for p in rng.permutation(held)[: max(2, self.batch)]]
            losses.append(float(self._loss(self._pairs(people, [rng] * len(people)), generator)))
        return {"loss": float(np.mean(losses))}
