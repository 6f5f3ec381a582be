"""Pre-training in latent space: our own objective ``jepa``, on SLIM-Brain's encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_jepa import SlimBrainJepa
from neurostorm_app.pipelines.train.batches import tile_run
from neurostorm_app.pipelines.train.pretraining import MaskedGuess

if TYPE_CHECKING:
    from torch import Tensor, nn

    from neurostorm_app.pipelines.train.batches import Draw
    from neurostorm_app.pipelines.train.masks import Pretraining
    from neurostorm_app.pipelines.train.material import Material, Start
    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["LEAST_SPREAD", "LatentGuess"]

LEAST_SPREAD: Final = 0.25
"""Share of the spread at the start below which an encoder has collapsed: a sixteenth of the
variance. A convention: on windows of noise a third to a half of the spread stayed at usual learning
rates, and a seventh at one far too high."""


class LatentGuess(MaskedGuess):
    """Predict what a slower encoder makes of what is not seen.

    Parameters
    ----------
    start : Start
        A SLIM-Brain; of an autoencoder, its encoder is taken.
    material : Material
        The runs.
    settings : Pretraining
        How it is validated.
    plan : Plan
        The seed, and how many steps there will be.

    Raises
    ------
    UsageError
        If it is another network, or something is asked of it that has no meaning here.
    """

    def __init__(self, start: Start, material: Material, settings: Pretraining, plan: Plan) -> None:
        if not isinstance(start.model, SlimBrain):
            raise UsageError(
                f"the objective jepa is for SLIM-Brain; {start.card.name} is none",
                fix="choose --objective mae, or the model slim-brain",
            )
        asked = (settings.spatial_mask, settings.time_mask, settings.mask_ratio)
        if any(value is not None for value in asked) or settings.redundancy != "none":
            raise UsageError(
                "the objective jepa chooses itself what is seen: it takes no masks, no mask ratio "
                "and no redundancy dropout",
                fix="leave --spatial-mask, --time-mask, --mask-ratio and --redundancy out",
            )
        encoder = SlimBrain(start.model.config)
        state = start.model.state_dict()
        encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
        self.steps = plan.steps
        network = SlimBrainJepa(encoder, seed=plan.seed)
        super().__init__(network, material, settings, seed=plan.seed)
        self.network = network
        self.at_start: Tensor
        self.register_buffer("at_start", torch.tensor(-1.0))  # kept in checkpoints

    @property
    def learnt(self) -> nn.Module:
        """The first encoder."""
        return self.network.encoder

    def forward(self, draw: Draw, loaded: list[Tensor]) -> Tensor:
        """Predict, after the second encoder has followed the last step."""
        (x,) = (part.to(next(self.parameters()).device) for part in loaded)
        if float(self.at_start) < 0:
            spreads = [float(self.network.spread(one[None])) for one in x]
            self.at_start.fill_(sum(spreads) / len(spreads))
        self.network.follow(draw.step, self.steps)
        return self.network.error(x, generator=draw.generator("units")).mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Predict the same parts of the same windows of those who are held out, each time.

        ``spread`` tells whether the second encoder has collapsed, in which case a small loss says
        nothing: ``collapsed`` is 1 where it is below `LEAST_SPREAD` of that at the start.
        """
        generator = torch.Generator().manual_seed(self.seed)
        device = next(self.parameters()).device
        recipe, losses, spreads = self.material.recipe, [], []
        stride = recipe.contract.stride or recipe.window
        for person in self.split.validation:
            for run in self.material.people[person]:
                most = self.settings.validation_windows
                for start in tile_run(run, recipe.window, stride, most=most):
                    window = run.window(int(start), recipe.window)
                    x = torch.from_numpy(np.stack([window])).to(device)
                    losses.append(float(self.network.error(x, generator=generator).mean()))
                    spreads.append(float(self.network.spread(x)))
        spread, at_start = float(np.mean(spreads)), float(self.at_start)
        return {
            "loss": float(np.mean(losses)),
            "spread": spread,
            "spread_at_start": at_start,
            "collapsed": float(spread < LEAST_SPREAD * at_start),
        }
