"""NeuroSTORM: a 4D encoder of fMRI windows.

Tensors are (B, C, X, Y, Z, T) at the door; upstream's `D H W` is our `X Y Z`, always array order.
Modules and parameters carry the names of the released files.

References
----------
Wang et al., "NeuroSTORM", arXiv 2506.11167; CUHK-AIM-Group/NeuroSTORM at a8dc38f.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.blocks import Block, Size
from neurostorm_app.models.heads import build_head, pool_features
from neurostorm_app.models.neurostorm_files import Config, migrate
from neurostorm_app.models.patches import PatchEmbed, PatchMerging
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["NeuroStorm", "Stage", "build", "build_blocks"]


class _Position(nn.Module):
    def __init__(self, width: int, grid: Size) -> None:
        super().__init__()
        x, y, z, t = grid
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, width, x, y, z, 1))
        self.time_embed = nn.Parameter(0.02 * torch.randn(1, width, 1, 1, 1, t))

    def forward(self, tokens: Tensor) -> Tensor:
        times = self.time_embed[..., : tokens.shape[4]]
        return tokens + self.pos_embed.movedim(1, -1) + times.movedim(1, -1)


class Stage(nn.Module):
    """Blocks, then a resampler under the name the files give it.

    Parameters
    ----------
    blocks : ModuleList
        Of one width.
    **resample : Module
        ``downsample`` or ``upsample``, or nothing.
    """

    def __init__(self, blocks: nn.ModuleList, **resample: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.resample = list(resample)
        for name, module in resample.items():
            self.add_module(name, module)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, X, Y, Z, T, C) to the grid and width of the next stage."""
        for block in self.blocks:
            tokens = block(tokens)
        for name in self.resample:
            tokens = self.get_submodule(name)(tokens)
        return tokens


class NeuroStorm(nn.Module):
    """The encoder, with the head of its file if that has one.

    Parameters
    ----------
    config : Config
        Its shape.
    head : Module, optional
        (B, C, X, Y, Z, T) features to (B, n) values.
    """

    def __init__(self, config: Config, *, head: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(
            config.patch_size[:3], channels=config.in_chans, width=config.embed_dim
        )
        stages = range(len(config.depths))
        self.pos_embeds = nn.ModuleList(_Position(*config.stage(i)) for i in stages)
        self.layers = nn.ModuleList(_encoder_stage(config, i) for i in stages)
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """Compute the last feature map of windows.

        Parameters
        ----------
        x : Tensor, shape (B, C, X, Y, Z, T)
            Scaled series on the grid of the model's contract; T may be shorter than a window.

        Returns
        -------
        Tensor, shape (B, D, X', Y', Z', T)
            Neither normalised nor pooled.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for.
        """
        self.check_input(x)
        return self.encode(self.patch_embed(x)).movedim(-1, 1)

    def embed(self, x: Tensor) -> Tensor:
        """Average the last feature map over places and times: (B, C, X, Y, Z, T) to (B, D)."""
        return pool_features(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """Do what `features` does."""
        return self.features(x)

    def predict(self, x: Tensor) -> Tensor:
        """Run the file's head on windows: (B, C, X, Y, Z, T) to (B, n), logits or scaled values.

        Raises
        ------
        ContractError
            If the weights came without a head.
        """
        return self.embed_with_head(x)[1]

    def embed_with_head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed windows and run the file's head on the same features.

        Parameters
        ----------
        x : Tensor, shape (B, C, X, Y, Z, T)
            As for `features`.

        Returns
        -------
        vectors : Tensor, shape (B, D)
            What `embed` gives.
        values : Tensor, shape (B, n)
            What `predict` gives.

        Raises
        ------
        ContractError
            If the weights came without a head.
        """
        if self.head is None:
            raise ContractError(
                "these weights have no head, so there is nothing to predict with",
                fix="use fine-tuned weights, or embed",
            )
        features = self.features(x)
        return pool_features(features), self.head(features)

    def encode(self, tokens: Tensor) -> Tensor:
        """Map embedded patches (B, X, Y, Z, T, C) to the last feature map, channels last."""
        for position, stage in zip(self.pos_embeds, self.layers, strict=True):
            tokens = stage(position(tokens))
        return tokens

    def check_input(self, x: Tensor) -> None:
        """See that an array has the shape the network was made for.

        Raises
        ------
        ContractError
            If not.
        """
        *space, t = self.config.img_size
        fits = x.ndim == 6 and [x.shape[1], *x.shape[2:5]] == [self.config.in_chans, *space]
        if not fits or not 1 <= x.shape[5] <= t:
            raise ContractError(
                f"the network got an array of shape {tuple(x.shape)}; it takes (batch, "
                f"{self.config.in_chans}, {', '.join(map(str, space))}, 1 to {t} volumes)",
                fix="bring the series onto the grid and into the windows of the model's contract",
            )


def _encoder_stage(config: Config, i: int) -> Stage:
    if i == len(config.depths) - 1:
        return Stage(build_blocks(config, i))
    width, out = config.stage(i)[0], config.stage(i + 1)[0]
    return Stage(build_blocks(config, i), downsample=PatchMerging(width, out))


def build_blocks(config: Config, i: int, *, decoder: bool = False) -> nn.ModuleList:
    """Build the blocks of a stage; every second one shifts its windows.

    Parameters
    ----------
    config : Config
        Shape of the network.
    i : int
        Stage, from 0 for the finest.
    decoder : bool
        Build those of the decoder, which never look at ``first_window_size``.

    Returns
    -------
    ModuleList of Block
        As many as the stage is deep.
    """
    width, (x, y, z, _) = config.stage(i)
    window = config.first_window_size if i == 0 and not decoder else config.window_size
    full = config.last_layer_full_MSA and i == len(config.depths) - 1
    if full:
        window = (x, y, z, config.window_size[3])
    return nn.ModuleList(
        Block(width, window, shifted=j % 2 == 1 and not full, prompt_len=config.prompt_len)
        for j in range(config.depths[i])
    )


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> NeuroStorm:
    """Build the encoder and load its weights strictly; a decoder in the file is left out.

    Parameters
    ----------
    config : mapping
        Upstream's hyper-parameters.
    checkpoint : Checkpoint
        The weights, under upstream's names of either layout.

    Returns
    -------
    NeuroStorm
        With the head of the file, if it has one.

    Raises
    ------
    WrongWeightsError
        If configuration and weights do not belong together.
    """
    shape = Config.of(config)
    state = migrate(checkpoint.state, decoder=False)
    head = {k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")}
    width = shape.stage(len(shape.depths) - 1)[0]
    network = NeuroStorm(shape, head=build_head(head, width) if head else None)
    load_strictly(network, state, source=checkpoint.source)
    return network
