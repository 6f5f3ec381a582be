"""The stage of MinD-Vis that conditions a model of pictures; no such model is here.

References
----------
Chen et al., "Seeing Beyond the Brain", CVPR 2023; zjc062/mind-vis at 08d5386.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.models.mind_vis_files import MindVisConfig, pick_condition
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["CONTEXT", "Condition", "build_condition"]

CONTEXT = 77
"""Rows of the context that the model of pictures takes: it was made for texts of 77 words."""


class Condition(nn.Module):
    """What conditions a model of pictures on voxels: encoder, then two linear maps.

    The context has the shape of CLIP's for a text: (B, 77, W). It is what a latent diffusion
    model's cross-attention takes, in the diffusers library as ``encoder_hidden_states``. Such a
    model has to have been trained with this very context; none is shipped.

    Parameters
    ----------
    config : MindVisConfig
        Of the encoder.
    width : int
        Of the context; upstream's is 512.
    """

    def __init__(self, config: MindVisConfig, *, width: int = 512) -> None:
        super().__init__()
        self.mae = MindVis(config.without_decoder())
        half = config.n_tokens // 2
        self.channel_mapper = nn.Sequential(
            nn.Conv1d(config.n_tokens, half, 1), nn.Conv1d(half, CONTEXT, 1)
        )
        self.dim_mapper = nn.Linear(config.embed_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        """Give the context of voxels.

        Parameters
        ----------
        x : Tensor, shape (B, 1, V)
            Scaled and padded voxels.

        Returns
        -------
        Tensor, shape (B, 77, W)
            Without a class token.
        """
        context: Tensor = self.dim_mapper(self.channel_mapper(self.mae.tokens(x)))
        return context


def build_condition(config: Mapping[str, Any], checkpoint: Checkpoint) -> Condition:
    """Build what conditions a model of pictures from upstream's ``finetuned.pth``.

    Parameters
    ----------
    config : mapping
        With ``num_heads``, which no tensor tells; upstream's released encoder has 16.
    checkpoint : Checkpoint
        As `read_checkpoint` gives it; its diffusion model is left out.

    Returns
    -------
    Condition
        In evaluation mode.

    Raises
    ------
    WrongWeightsError
        If there is no such stage in it, or something is missing or left over.
    """
    state = pick_condition(checkpoint.state, source=checkpoint.source)
    inner = {n.removeprefix("mae."): v for n, v in state.items() if n.startswith("mae.")}
    stage = Condition(MindVisConfig.of(config, inner), width=len(state["dim_mapper.weight"]))
    load_strictly(stage, state, source=checkpoint.source)
    return stage.eval()
