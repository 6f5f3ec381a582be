"""What the demo of BrainLM starts from.

Drawn by the usual rule, the class token of so small a network hears next to nothing of how
parcels go together, and 15 minutes do not change that. Here series and places enter on channels
of their own, a patch enters as its slowest cosines, the first layer turns places into features,
the second one starts by looking at parcels that do the same, and the decoder guesses from all
visible parcels alike. All of it is trained; untrained
networks to compare with start from the same, and others from the usual rule.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.brainlm_layers import NativeLayer
    from neurostorm_app.models.brainlm_native import BrainLmNative

__all__ = ["draw_first_values", "draw_plain_values", "fit_last_layer"]

KEPT = 0.4
"""Share of the cosines of a patch that enter: slower than 0.1 Hz, above which there is noise."""
FAR = 60.0
"""Millimetres to the middle of the head, which are about 1 in the network."""
PLACE, RIDGES, LIKENESS, VOICE = 1.5, 3.0, 1.5, 3.0
"""Weights of places, of the first layer's features, of likeness, and of what it looks at."""
HEARD = 40.0
"""Weight of the mean over parcels where the decoder guesses: norms made it small."""
RIDGE = 1e-6
"""Damping of the least squares, as a share of the mean square."""
USUAL = 0.02


@torch.no_grad()
def draw_plain_values(network: BrainLmNative, seed: int) -> None:
    """Draw first values by the usual rule of such networks, normal with a deviation of 0.02."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in network.named_parameters():
        if values.ndim > 1:
            values.normal_(0, USUAL, generator=generator)
        else:
            values.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)


@torch.no_grad()
def draw_first_values(network: BrainLmNative, seed: int) -> None:
    """Draw the demo's first values; see the module.

    Parameters
    ----------
    network : BrainLmNative
        Of at least two layers; it is changed.
    seed : int
        Same seed, same values.
    """
    draw_plain_values(network, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            _draw(module.weight, module.in_features**-0.5, generator)
    embeddings: Any = network.vit.embeddings
    _draw(embeddings.cls_token, 0.5, generator)
    n_signal = _enter_apart(embeddings, network.patch, generator)
    layers: Any = network.vit.encoder.layer
    for layer in layers:
        layer.attention.output.dense.weight[:n_signal] = 0
        layer.output.dense.weight[:n_signal] = 0
    _find_places(layers[0], n_signal, generator)
    _look_for_likeness(layers[1], n_signal)
    _guess_from_others(network.decoder, embeddings, n_signal)


@torch.no_grad()
def fit_last_layer(
    network: BrainLmNative, windows: Tensor, places: Tensor, generator: torch.Generator
) -> None:
    """Let the decoder's last layer start as the least-squares guess of hidden patches.

    Parameters
    ----------
    network : BrainLmNative
        It is changed.
    windows : Tensor, shape (B, V, L)
        Of the participants of training.
    places : Tensor, shape (B, V, 3)
        MNI mm.
    generator : torch.Generator
        Of what is hidden.
    """
    inner: list[Tensor] = []
    last = network.decoder.decoder_pred2
    hook = last.register_forward_pre_hook(lambda _, given: inner.append(given[0]))
    patches = windows.reshape(*windows.shape[:2], -1, network.patch)
    noise = torch.rand(len(patches), patches[0, ..., 0].numel(), generator=generator)
    mask = network.reconstruct(windows, places, noise=noise).mask.flatten().bool()
    hook.remove()
    known = inner[0].flatten(0, 1)[mask].double()
    known = torch.cat([known, torch.ones_like(known[:, :1])], dim=1)
    wanted = patches.flatten(0, 2)[mask].double()
    square = known.T @ known
    damped = square + RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    solved = torch.linalg.solve(damped, known.T @ wanted).float()
    last.weight.copy_(solved[:-1].T)
    last.bias.copy_(solved[-1])


def _draw(values: Tensor, deviation: float, generator: torch.Generator) -> None:
    values.normal_(0, deviation, generator=generator)


def _enter_apart(embeddings: Any, patch: int, generator: torch.Generator) -> int:
    """Give the cosines of a patch the first channels, its place the others."""
    signal, places = embeddings.signal_embedding_projection, embeddings.xyz_embedding_projection
    n = round(KEPT * patch)
    middle = (torch.arange(patch) + 0.5) / patch
    cosines = torch.cos(math.pi * torch.arange(n)[:, None] * middle) * (2 / patch) ** 0.5
    cosines[0] *= 0.5**0.5
    signal.weight.zero_()
    signal.weight[:n] = cosines
    signal.bias[:n] = -embeddings.pos_embedding.pe[0, :n]  # which is not about the signal
    _draw(places.weight, PLACE / FAR, generator)
    places.weight[:n] = 0
    return n


def _find_places(layer: NativeLayer, n_signal: int, generator: torch.Generator) -> None:
    """Let a layer make features of places alone."""
    inner = layer.intermediate.dense
    layer.attention.output.dense.weight.zero_()
    _draw(inner.weight, RIDGES * (inner.in_features - n_signal) ** -0.5, generator)
    _draw(inner.bias, RIDGES, generator)
    inner.weight[:, :n_signal] = 0


def _look_for_likeness(layer: NativeLayer, n_signal: int) -> None:
    """Let each head of a layer compare signals, and pass places on."""
    looks = layer.attention.self
    width = looks.query.out_features // looks.heads
    n = min(n_signal, width)
    looks.query.weight.zero_()
    for head in range(looks.heads):
        looks.query.weight[head * width : head * width + n, :n] = LIKENESS * torch.eye(n)
    looks.key.weight.copy_(looks.query.weight)
    looks.value.weight[:, :n_signal] = 0
    layer.attention.output.dense.weight.mul_(VOICE)


def _guess_from_others(decoder: Any, embeddings: Any, n_signal: int) -> None:
    """Let the last layer of the decoder look at all parcels, and read their signals out."""
    width = decoder.decoder_embed.in_features
    decoder.decoder_embed.weight.copy_(torch.eye(width))
    decoder.decoder_xyz_projection.weight.copy_(embeddings.xyz_embedding_projection.weight)
    decoder.decoder_xyz_projection.bias[:n_signal] = -decoder.pos_embedding.pe[0, :n_signal]
    decoder.mask_token.zero_()
    for layer in decoder.decoder_layers:
        layer.attention.output.dense.weight[:n_signal] = 0
        layer.output.dense.weight[:n_signal] = 0
    last = decoder.decoder_layers[-1].attention
    last.self.value.weight[:n_signal] = torch.eye(width)[:n_signal]
    last.self.query.weight.zero_()  # all alike
    last.output.dense.weight[:n_signal] = 0
    last.output.dense.weight[:n_signal, :n_signal] = HEARD * torch.eye(n_signal)
    inner = min(decoder.decoder_pred1.out_features // 2, n_signal)
    decoder.decoder_pred1.weight[:inner] = torch.eye(width)[:inner]
    decoder.decoder_pred1.weight[inner : 2 * inner] = -torch.eye(width)[:inner]
