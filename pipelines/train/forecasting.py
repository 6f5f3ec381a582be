"""Training to forecast: see the beginning of windows, and tell their last volumes.

BrainLM's paper tunes it so: 180 volumes are seen and 20 told. Weights of that are not released, nor
is the code; released weights fill in patches anywhere in a window. Here the patches behind what is
seen are hidden in all parcels, and the loss is the mean squared error of the volumes that are asked
for. Persistence is measured beside it, on the same windows of the same people who are held out.

References
----------
Ortega Caro et al., bioRxiv 2023.09.12.557460, table 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.brainlm_face import BrainLm
from neurostorm_app.models.brainlm_guess import guess_future
from neurostorm_app.pipelines.train.batches import tile_run
from neurostorm_app.pipelines.train.pretraining import MaskedGuess

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.pipelines.train.masks import Pretraining
    from neurostorm_app.pipelines.train.material import Material, Start

__all__ = ["FutureGuess"]


class FutureGuess(MaskedGuess):
    """Tell the last volumes of windows from those before.

    Parameters
    ----------
    start : Start
        A BrainLM with a decoder.
    material : Material
        The runs.
    settings : Pretraining
        How many volumes are told, and how it is validated.
    seed : int
        Of everything that is drawn.

    Raises
    ------
    UsageError
        If it is another network, or something is asked of it that has no meaning here.
    ContractError
        If what is left to see is no whole number of the network's patches.
    """

    def __init__(
        self, start: Start, material: Material, settings: Pretraining, *, seed: int
    ) -> None:
        model = start.model
        if not isinstance(model, BrainLm) or not model.can_reconstruct:
            raise UsageError(
                f"the objective forecast is for BrainLM with its decoder; {start.card.name} is "
                "none",
                fix="choose --objective mae, or a BrainLM",
            )
        asked = (settings.spatial_mask, settings.time_mask, settings.mask_ratio)
        if any(value is not None for value in asked) or settings.redundancy != "none":
            raise UsageError(
                "the objective forecast hides what follows and nothing else: it takes no masks, no "
                "mask ratio and no redundancy dropout",
                fix="leave --spatial-mask, --time-mask, --mask-ratio and --redundancy out",
            )
        super().__init__(model, material, settings, seed=seed)
        self.network, self.horizon = model, settings.horizon

    def _loss(self, x: Tensor, xyz: list[Tensor], generator: torch.Generator) -> Tensor:  # noqa: ARG002
        seen = x.shape[-1] - self.horizon
        guess = guess_future(self.network, x[..., :seen], *xyz, horizon=self.horizon)
        return (guess - x[..., seen:]).square().mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Forecast the same windows of those who are held out, each time; so does persistence."""
        generator, device = torch.Generator(), next(self.parameters()).device
        recipe, losses, still = self.material.recipe, [], []
        stride, most = recipe.contract.stride or recipe.window, self.settings.validation_windows
        for person in self.split.validation:
            for run in self.material.people[person]:
                for start in tile_run(run, recipe.window, stride, most=most):
                    window = np.stack([run.window(int(start), recipe.window)])
                    places = [np.stack([run.xyz])] if run.xyz is not None else []
                    x, *xyz = (torch.from_numpy(part).to(device) for part in (window, *places))
                    losses.append(float(self._loss(x, xyz, generator)))
                    last = x[..., -self.horizon - 1 : -self.horizon]
                    still.append(float((last - x[..., -self.horizon :]).square().mean()))
        return {"loss": float(np.mean(losses)), "persistence": float(np.mean(still))}
