"""MinD-Vis's model of pictures as a UNet of diffusers: upstream's weights, loaded strictly.

A bridge, not a model of the app: nothing is shipped or fetched, and no picture is drawn here. The
package diffusers (``pip install 'neurostorm-app[pictures]'``) brings the network, the schedules of
noise and the decoder from latents to pictures; this module brings what upstream's file holds for
the first of these under the names that diffusers has, and the one part that diffusers lacks.

References
----------
Chen et al., "Seeing Beyond the Brain", CVPR 2023; zjc062/mind-vis at 08d5386. Rombach et al.,
"High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from neurostorm_app.errors import UsageError, WrongWeightsError
from neurostorm_app.models.mind_vis_condition import CONTEXT
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["EXTRA", "PictureUNet", "build_picture_unet"]

EXTRA: Final = "neurostorm-app[pictures]"
_PREFIX: Final = "model.diffusion_model."
_STEP: Final = "time_embed_condtion."  # upstream's spelling
_IN_LEG: Final = re.compile(r"(in|out)put_blocks[.](\d+)[.](\d+)[.](.+)")
_ENDS: Final = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
"""Upstream's modules outside the two legs of the U, and what diffusers calls them."""
_RESIDUAL: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""The same within a residual block; within an attention block the names agree."""


class PictureUNet(nn.Module):
    """A UNet that is conditioned on voxels twice: by attention, and at each step.

    Parameters
    ----------
    unet : diffusers.UNet2DConditionModel
        With ``class_embed_type="identity"``: what is given as a class is added to the step's
        embedding.
    context_width, step_width : int
        Of a row of the context, and of the step's embedding.
    """

    def __init__(self, unet: Any, *, context_width: int, step_width: int) -> None:
        super().__init__()
        self.unet = unet
        half = CONTEXT // 2
        self.step = nn.Sequential(
            nn.Conv1d(CONTEXT, half, 1), nn.Conv1d(half, 1, 1), nn.Linear(context_width, step_width)
        )

    def forward(self, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Estimate the noise in a latent picture.

        Parameters
        ----------
        latent : Tensor, shape (B, C, H, W)
            Noisy.
        t : Tensor, shape (B,)
            Steps of the schedule that it was trained with, from 0; upstream's has 1,000.
        context : Tensor, shape (B, 77, W)
            As `Condition` gives it.

        Returns
        -------
        Tensor, shape (B, C, H, W)
            In the unit of the latent.
        """
        step = self.step(context).squeeze(1)
        found = self.unet(
            latent, t, encoder_hidden_states=context, class_labels=step, return_dict=False
        )
        noise: Tensor = found[0]
        return noise


def build_picture_unet(checkpoint: Checkpoint, *, num_heads: int = 1) -> PictureUNet:
    """Build the UNet of upstream's ``finetuned.pth`` out of parts of diffusers.

    Parameters
    ----------
    checkpoint : Checkpoint
        As `read_checkpoint` gives it: the whole file, or the UNet alone.
    num_heads : int
        Of attention, which no tensor tells; upstream's has one.

    Returns
    -------
    PictureUNet
        In evaluation mode. Its geometry is read from the tensors.

    Raises
    ------
    UsageError
        If diffusers is not installed.
    WrongWeightsError
        If there is no such UNet in it, or something is missing, left over or of another shape.
    """
    state = {n.removeprefix(_PREFIX): v for n, v in checkpoint.state.items() if _is_unet(n)}
    if "input_blocks.0.0.weight" not in state or f"{_STEP}2.weight" not in state:
        raise WrongWeightsError(
            f"{checkpoint.source}: holds no UNet that is conditioned twice: input_blocks or "
            "time_embed_condtion is not among its tensors",
            fix="give upstream's finetuned.pth; fmri_encoder.pth has only the encoder",
        )
    step = state[f"{_STEP}2.weight"]
    diffusers = _diffusers()
    try:
        levels = _levels(state)
        unet = diffusers.UNet2DConditionModel(
            **_config(state, levels), attention_head_dim=num_heads
        )
        named = {_rename(name, state, levels): value for name, value in state.items()}
    except (KeyError, IndexError, ValueError) as why:
        raise WrongWeightsError(
            f"{checkpoint.source}: the UNet in it is not upstream's: {why}",
            fix="give upstream's finetuned.pth, whole",
        ) from why
    model = PictureUNet(unet, context_width=step.shape[1], step_width=step.shape[0])
    load_strictly(model, named, source=checkpoint.source)
    return model.eval()


def _is_unet(name: str) -> bool:
    tops = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", _STEP)
    return name.startswith((_PREFIX, *tops))


def _diffusers() -> Any:
    try:
        return importlib.import_module("diffusers")
    except ImportError as why:
        raise UsageError(
            f"the package diffusers is not installed ({why}); the model of pictures needs it",
            fix=f"pip install '{EXTRA}'",
        ) from why


def _levels(state: Mapping[str, Tensor]) -> list[list[int]]:
    """List, for each level from the finest on, upstream's numbers of its residual blocks."""
    numbers = {
        int(found[2]) for name in state if (found := _IN_LEG.match(name)) and found[1] == "in"
    }
    levels: list[list[int]] = [[]]
    for number in sorted(numbers - {0}):
        if f"input_blocks.{number}.0.op.weight" in state:
            levels.append([])
        else:
            levels[-1].append(number)
    return levels


def _config(state: Mapping[str, Tensor], levels: list[list[int]]) -> dict[str, Any]:
    """Say what diffusers is to build, by the shapes of the tensors."""
    attends = [f"input_blocks.{level[0]}.1.norm.weight" in state for level in levels]
    down = [("CrossAttnDownBlock2D" if yes else "DownBlock2D") for yes in attends]
    up = [("CrossAttnUpBlock2D" if yes else "UpBlock2D") for yes in reversed(attends)]
    widths = [len(state[f"input_blocks.{level[0]}.0.in_layers.2.weight"]) for level in levels]
    inward = state["middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    return {
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": len(state["out.2.weight"]),
        "block_out_channels": tuple(widths),
        "layers_per_block": len(levels[0]),
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "cross_attention_dim": inward.shape[1],
        "class_embed_type": "identity",
    }


def _rename(name: str, state: Mapping[str, Tensor], levels: list[list[int]]) -> str:
    """Give the name in `PictureUNet` of a tensor of upstream's; one nobody knows keeps its own."""
    if name.startswith(_STEP):
        return f"step.{name.removeprefix(_STEP)}"
    top = next((top for top in _ENDS if name.startswith(f"{top}.")), None)
    found = _IN_LEG.match(name)
    if top is not None:
        module, rest = _ENDS[top], name.removeprefix(f"{top}.")
    elif found is not None:
        module, rest = _in_leg(found, state, levels), found[4]
    else:
        return name
    inner = next((own for own in _RESIDUAL if rest.startswith(f"{own}.")), None)
    if inner is not None:
        rest = rest.replace(inner, _RESIDUAL[inner], 1)
    return f"unet.{module}.{re.sub('^op[.]', 'conv.', rest)}"


def _in_leg(found: re.Match[str], state: Mapping[str, Tensor], levels: list[list[int]]) -> str:
    """Name a part of a block of the way down or up, as diffusers does."""
    number, block = int(found[2]), found[0].removesuffix(f".{found[4]}")
    kind = "attentions" if f"{block}.norm.weight" in state else "resnets"
    if found[1] == "out":
        depth, place = divmod(number, len(levels[0]) + 1)
        if f"{block}.conv.weight" in state:
            return f"up_blocks.{depth}.upsamplers.0"
        return f"up_blocks.{depth}.{kind}.{place}"
    for depth, level in enumerate(levels):
        if number in level:
            return f"down_blocks.{depth}.{kind}.{level.index(number)}"
    return f"down_blocks.{sum(number > level[-1] for level in levels) - 1}.downsamplers.0"
