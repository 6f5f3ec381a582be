"""MinD-Vis's masked autoencoder of voxels.

Voxels of visual cortex are a row of numbers; sixteen of them are a token. Three quarters of the
tokens are hidden and guessed from the rest. For decoding the encoder sees all tokens, without the
class token it was trained with.

References
----------
Chen et al., "Seeing Beyond the Brain", CVPR 2023; zjc062/mind-vis at 08d5386.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neurostorm_app.errors import ContractError, UsageError
from neurostorm_app.models.mind_vis_files import MindVisConfig, fit_positions, pick_weights
from neurostorm_app.models.mind_vis_layers import Block, PatchEmbed, make_positions
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["MindVis", "build", "differing"]


class MindVis(nn.Module):
    """The autoencoder, or its encoder alone where the configuration has no decoder.

    Parameters
    ----------
    config : MindVisConfig
        Its shape.
    """

    def __init__(self, config: MindVisConfig) -> None:
        super().__init__()
        self.config, width, n = config, config.embed_dim, config.n_tokens
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(make_positions(n, width), requires_grad=False)
        self.blocks = _stack(width, config.num_heads, depth=config.depth, ratio=config.mlp_ratio)
        self.norm = nn.LayerNorm(width)
        self.can_reconstruct = config.decoder_depth > 0
        if not self.can_reconstruct:
            return
        narrow = config.decoder_embed_dim
        self.decoder_embed = nn.Linear(width, narrow)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, narrow))
        self.decoder_pos_embed = nn.Parameter(make_positions(n, narrow), requires_grad=False)
        self.decoder_blocks = _stack(
            narrow,
            config.decoder_num_heads,
            depth=config.decoder_depth,
            ratio=config.mlp_ratio,
        )
        self.decoder_norm = nn.LayerNorm(narrow)
        self.decoder_pred = nn.Linear(narrow, config.patch_size)

    def tokens(self, x: Tensor) -> Tensor:
        """Encode all voxels, as for decoding: nothing is hidden, and there is no class token.

        Parameters
        ----------
        x : Tensor, shape (B, 1, V)
            Scaled and padded voxels.

        Returns
        -------
        Tensor, shape (B, n, C)
            Normalised tokens, one a patch.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for.
        """
        out: Tensor = self.norm(self._see(x))
        return out

    def embed(self, x: Tensor) -> Tensor:
        """Embed voxels (B, 1, V): the norm of the mean token (B, C), as upstream pools."""
        out: Tensor = self.norm(self._see(x).mean(dim=1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Do what `embed` does."""
        return self.embed(x)

    def encode(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode what is left when a part is hidden, as training does.

        Parameters
        ----------
        x : Tensor, shape (B, 1, V)
            Scaled and padded voxels.
        noise : Tensor, shape (B, n)
            The tokens of the lowest values are seen.

        Returns
        -------
        latent : Tensor, shape (B, 1 + kept, C)
            Class token and what is seen, normalised.
        hidden : Tensor of bool, shape (B, n)
            ``True`` is hidden.
        back : Tensor of int, shape (B, n)
            Where each token went when they were sorted.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for.
        """
        self._check_input(x)
        order = noise.argsort(dim=1, stable=True)
        kept = order[:, : self._n_kept()]
        places = self.patch_embed(x) + self.pos_embed[:, 1:]
        seen = places.gather(1, kept[:, :, None].expand(-1, -1, places.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        seen = torch.cat([first, seen], dim=1)
        for block in self.blocks:
            seen = block(seen)
        hidden = torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, value=False)
        return self.norm(seen), hidden, order.argsort(dim=1)

    def decode(self, latent: Tensor, back: Tensor) -> Tensor:
        """Guess all voxels (B, n, patch) from what `encode` gives."""
        if not self.can_reconstruct:
            raise UsageError(
                "these weights of MinD-Vis are the encoder alone: nothing can be guessed",
                fix="give weights with decoder_embed and decoder_blocks",
            )
        seen = self.decoder_embed(latent)
        n_hidden = back.shape[1] + 1 - seen.shape[1]
        rest = torch.cat([seen[:, 1:], self.mask_token.expand(len(seen), n_hidden, -1)], dim=1)
        rest = rest.gather(1, back[:, :, None].expand(-1, -1, seen.shape[2]))
        whole = torch.cat([seen[:, :1], rest], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            whole = block(whole)
        out: Tensor = self.decoder_pred(self.decoder_norm(whole))[:, 1:]
        return out

    def masked_error(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Hide tokens of voxels (B, 1, V) and guess them: the mean squared error, (B,).

        Where voxels have one mean and one deviation a run, one minus it is the share of their
        variance that is guessed.
        """
        noise = torch.rand(len(x), self.config.n_tokens, generator=generator).to(x.device)
        latent, hidden, back = self.encode(x, noise)
        squares = (self.decode(latent, back) - self.cut(x)).square().mean(dim=2)
        return squares.masked_fill(~hidden, 0).sum(dim=1) / hidden.sum(dim=1)

    def cut(self, x: Tensor) -> Tensor:
        """Cut voxels (B, 1, V) into tokens (B, n, patch)."""
        return x.reshape(len(x), -1, self.config.patch_size)

    def _see(self, x: Tensor) -> Tensor:
        """Take all voxels through the blocks, without a class token."""
        self._check_input(x)
        seen: Tensor = self.patch_embed(x) + self.pos_embed[:, 1:]
        for block in self.blocks:
            seen = block(seen)
        return seen

    def _n_kept(self) -> int:
        return int(self.config.n_tokens * (1 - self.config.mask_ratio))

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 3 or tuple(x.shape[1:]) != (1, self.config.num_voxels):
            raise ContractError(
                f"MinD-Vis got an array of shape {tuple(x.shape)}; it takes (batch, 1, "
                f"{self.config.num_voxels}): one row of voxels, padded",
                fix="give the voxels that the weights were trained on, in their order",
            )


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> MindVis:
    """Build the autoencoder, or the encoder of a file without a decoder; load it strictly.

    Parameters
    ----------
    config : mapping
        Upstream's hyper-parameters; sizes are read from the tensors.
    checkpoint : Checkpoint
        The weights.

    Returns
    -------
    MindVis
        With all its weights.

    Raises
    ------
    WrongWeightsError
        If something is missing or left over, or another number of voxels is wanted.
    """
    made = MindVisConfig.of(config, checkpoint.state)
    state = pick_weights(checkpoint.state)
    network = MindVis(made)
    if "pos_embed" in state:
        state = fit_positions(state, made, source=checkpoint.source)
    load_strictly(network, state, source=checkpoint.source)
    return network


def differing(checkpoint: Checkpoint, given: Mapping[str, Any]) -> str:
    """Name the hyper-parameters in which a file and what was given differ; empty if none."""
    ours = MindVisConfig.of(checkpoint.config or given, checkpoint.state)
    return ours.differing(MindVisConfig.of(given, checkpoint.state))


def _stack(width: int, heads: int, *, depth: int, ratio: float) -> nn.ModuleList:
    return nn.ModuleList(Block(width, heads, ratio=ratio) for _ in range(depth))
