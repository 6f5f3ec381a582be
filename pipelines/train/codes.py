"""Training of fMRI-LM's tokenizer: windows into codes and back, ``codes``.

It is the first stage of the paper without its texts: the loss is the squared error of what comes
back, plus the distance of features from the codebook. The codebook itself has no gradient; it
follows the features by a moving average, and is filled by the first windows that are seen. All of
it are buffers, which a checkpoint keeps like weights.

References
----------
fMRI-LM, arXiv 2511.21760, section 3 and its code at 037dcf9 (losses and their weights).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as fn

from neurostorm_app.errors import UsageError
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.pipelines.train.batches import tile_run
from neurostorm_app.pipelines.train.pretraining import MaskedGuess

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.pipelines.train.batches import Draw
    from neurostorm_app.pipelines.train.masks import Pretraining
    from neurostorm_app.pipelines.train.material import Material, Start
    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["CodeLearning"]


class CodeLearning(MaskedGuess):
    """Learn codes by which windows can be told again; nothing is hidden.

    Parameters
    ----------
    start : Start
        A tokenizer of fMRI-LM.
    material : Material
        The runs.
    settings : Pretraining
        How it is validated.
    plan : Plan
        The seed.

    Raises
    ------
    UsageError
        If it is another network, or something is asked of it that has no meaning here.
    """

    def __init__(self, start: Start, material: Material, settings: Pretraining, plan: Plan) -> None:
        if not isinstance(start.model, LmTokenizer):
            raise UsageError(
                f"the objective codes is for fMRI-LM's tokenizer; {start.card.name} is none",
                fix="choose --objective mae, or the model fmri-lm",
            )
        asked = (settings.spatial_mask, settings.time_mask, settings.mask_ratio)
        if any(value is not None for value in asked):
            raise UsageError(
                "the objective codes hides nothing: it takes no masks and no mask ratio",
                fix="leave --spatial-mask, --time-mask and --mask-ratio out",
            )
        super().__init__(start.model, material, settings, seed=plan.seed)

    def forward(self, draw: Draw, loaded: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Tell windows by codes; the codebook follows what it met."""
        loss: Tensor
        loss, _ = self.learnt(loaded[0].to(next(self.parameters()).device))
        return loss

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Tell windows of those who are held out.

        ``explained`` is the share of their variance that the codes keep, ``codes`` how many
        different ones were used: few say that the codebook has collapsed.
        """
        model: Any = self.learnt
        device = next(self.parameters()).device
        recipe, distances, errors, squares = self.material.recipe, [], [], []
        used = torch.zeros(model.config.n_codes, dtype=torch.bool)
        stride = recipe.contract.stride or recipe.window
        for person in self.split.validation:
            for run in self.material.people[person]:
                most = self.settings.validation_windows
                for start in tile_run(run, recipe.window, stride, most=most):
                    window = run.window(int(start), recipe.window)
                    x = torch.from_numpy(window).to(device)[None]
                    found = model.quantise(x)
                    distances.append(float(found.loss))
                    errors.append(float(fn.mse_loss(model.decode(found.values), x)))
                    squares.append(float(x.var(correction=0)))
                    used[found.codes.flatten().cpu()] = True
        return {
            "loss": float(np.mean(errors) + np.mean(distances)),
            "explained": 1 - float(np.sum(errors) / max(np.sum(squares), 1e-12)),
            "codes": float(used.sum()),
        }
