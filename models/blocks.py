"""The block NeuroSTORM is made of: a Mamba mixer inside shifted 4D windows.

Feature maps are channels-last, (B, X, Y, Z, T, C), inside; upstream's `D H W` is our `X Y Z`.
Names of modules and parameters are those of the released files, so that a file loads strictly.

References
----------
Gu and Dao, arXiv 2312.00752 (Mamba); Liu et al., arXiv 2103.14030 (shifted windows);
Wang et al., arXiv 2506.11167 (NeuroSTORM).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.models.scan import Engine, scan_engine, selective_scan, short_convolution
from neurostorm_app.models.threads import pays, run_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from neurostorm_app.models.redundancy_dropout import RedundancyDropout

__all__ = [
    "Block",
    "Mamba",
    "Size",
    "effective_window",
    "partition_windows",
    "reverse_windows",
]

Size = tuple[int, int, int, int]
"""Lengths along X, Y, Z and T."""

D_STATE, D_CONV, EXPAND, MLP_RATIO = 16, 4, 2, 4
"""Fixed in every released file."""

PART = 4096
"""Tokens that go through a block together."""


def effective_window(grid: Sequence[int], window: Size, *, shifted: bool) -> tuple[Size, Size]:
    """Fit a window to a grid: an axis no longer than the window is one window, and unshifted.

    Parameters
    ----------
    grid, window : sequence of int, length 4
        Tokens along X, Y, Z and T.
    shifted : bool
        Whether the block shifts its windows by half of their length.

    Returns
    -------
    window, shift : tuple of int, length 4
        What really happens on this grid.

    Examples
    --------
    >>> effective_window((4, 4, 4, 20), (4, 4, 4, 4), shifted=True)
    ((4, 4, 4, 4), (0, 0, 0, 2))
    """
    fits = [n <= w for n, w in zip(grid, window, strict=True)]
    x, y, z, t = (n if fit else w for n, w, fit in zip(grid, window, fits, strict=True))
    i, j, k, s = (0 if fit or not shifted else w // 2 for w, fit in zip(window, fits, strict=True))
    return (x, y, z, t), (i, j, k, s)


def partition_windows(x: Tensor, window: Size) -> Tensor:
    """Cut a map into windows; windows and the tokens inside are in C order, time fastest.

    Parameters
    ----------
    x : Tensor, shape (B, X, Y, Z, T, C)
        Each length a multiple of the window's.
    window : tuple of int, length 4
        Tokens along X, Y, Z and T.

    Returns
    -------
    Tensor, shape (B * windows, tokens, C)
        The windows of the first map, then those of the second.
    """
    split = [n for size, w in zip(x.shape[1:5], window, strict=True) for n in (size // w, w)]
    cut = x.reshape(x.shape[0], *split, x.shape[5])
    return cut.permute(0, 1, 3, 5, 7, 2, 4, 6, 8, 9).reshape(-1, math.prod(window), x.shape[5])


def reverse_windows(windows: Tensor, window: Size, grid: Sequence[int]) -> Tensor:
    """Put windows back: the inverse of `partition_windows`.

    Parameters
    ----------
    windows : Tensor, shape (B * windows, tokens, C)
        In the order of `partition_windows`.
    window, grid : sequence of int, length 4
        Tokens along X, Y, Z and T of one window and of the map.

    Returns
    -------
    Tensor, shape (B, X, Y, Z, T, C)
        The maps.
    """
    counts = [n // w for n, w in zip(grid, window, strict=True)]
    cut = windows.reshape(-1, *counts, *window, windows.shape[-1])
    return cut.permute(0, 1, 5, 2, 6, 3, 7, 4, 8, 9).reshape(-1, *grid, windows.shape[-1])


class _Order(NamedTuple):
    """Where the tokens of windows lie on a map, both counted in C order."""

    window: Size
    places: Tensor  # (windows, tokens), of a map; -1 is a pad
    inverse: Tensor  # (places,), of the windows
    padded: bool


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # training will use what inference left here
def _window_order(grid: Size, window: Size, shift: Size, device: torch.device) -> _Order:
    places = torch.arange(math.prod(grid)).reshape(1, *grid, 1)
    missing = [-n % w for n, w in zip(grid, window, strict=True)]
    padding = [0, 0, *(p for n in reversed(missing) for p in (0, n))]
    padded = fn.pad(places, padding, value=-1)
    shifted = torch.roll(padded, [-s for s in shift], dims=(1, 2, 3, 4))
    windows = partition_windows(shifted, window)
    tokens = torch.arange(windows.numel()).reshape(windows.shape)
    back = torch.roll(reverse_windows(tokens, window, padded.shape[1:5]), shift, dims=(1, 2, 3, 4))
    inverse = back[padded >= 0]
    return _Order(window, windows[..., 0].to(device), inverse.to(device), any(missing))


class Mamba(nn.Module):
    """Mix the tokens of a sequence from first to last with a selective state space.

    Parameters
    ----------
    width : int
        Channels of a token.

    Attributes
    ----------
    engine : str or None
        That of `selective_scan`; ``None`` leaves the choice to `scan_engine`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner, self.rank = EXPAND * width, math.ceil(width / 16)
        self.engine: Engine | None = None
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, D_CONV, groups=inner, padding=D_CONV - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * D_STATE, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.A_log = nn.Parameter(torch.arange(1.0, D_STATE + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self._init_steps()

    def _init_steps(self) -> None:
        """Start with steps spread evenly in log time over [0.001, 0.1] (Mamba, section 3.6)."""
        scale = self.rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -scale, scale)
        low, high = math.log(1e-3), math.log(1e-1)
        steps = torch.exp(low + (high - low) * torch.rand_like(self.dt_proj.bias))
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus inverse

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, C) to (B, L, C); a token sees itself and those before it."""
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u = short_convolution(u, self.conv1d.weight[:, 0], self.conv1d.bias, engine=self.engine)
        step, B, C = self.x_proj(u).split([self.rank, D_STATE, D_STATE], dim=-1)
        y = selective_scan(
            u, fn.linear(step, self.dt_proj.weight), A=-torch.exp(self.A_log), B=B, C=C,
            D=self.D, z=gate, dt_bias=self.dt_proj.bias, softplus=True, engine=self.engine,
        )  # fmt: skip
        mixed: Tensor = self.out_proj(y)
        return mixed


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, MLP_RATIO * width)
        self.linear2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.linear2(fn.gelu(self.linear1(x)))
        return mixed


class Block(nn.Module):
    """Mix tokens inside each window, then the channels of each token; both are residual.

    Windows of a shifted block wrap around the map. Nothing masks the tokens that come from
    the other side: they are part of the sequence, as they were when the weights were trained.

    Parameters
    ----------
    width : int
        Channels.
    window : tuple of int, length 4
        Tokens of a window along X, Y, Z and T, before it is fitted to the grid.
    shifted : bool
        Shift the windows by half of their length.
    prompt_len : int
        Learned tokens before each window's own; 0 for none.

    Attributes
    ----------
    redundancy : RedundancyDropout or None
        What acts on mixed tokens in training mode; by default nothing does.
    """

    def __init__(self, width: int, window: Size, *, shifted: bool, prompt_len: int = 0) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1 = nn.LayerNorm(width)
        self.mamba = Mamba(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width)
        self.prompt = nn.Parameter(torch.zeros(1, prompt_len, width)) if prompt_len else None
        self.redundancy: RedundancyDropout | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, Z, T, C) to the same shape."""
        i, j, k, t = x.shape[1:5]
        window, shift = effective_window((i, j, k, t), self.window, shifted=self.shifted)
        order = _window_order((i, j, k, t), window, shift, x.device)
        tokens = x.flatten(1, 4)
        engine = self.mamba.engine or scan_engine(x.device)
        drops = self.training and self.redundancy is not None  # draws have an order
        parts = engine == "numba" and pays(x) and not drops
        mixed = self._in_parts(tokens, order) if parts else self._at_once(tokens, order)
        return mixed.reshape(x.shape)

    def _at_once(self, tokens: Tensor, order: _Order) -> Tensor:
        gathered = tokens.index_select(1, order.places.flatten().clamp(min=0))
        windows = gathered.view(-1, *order.places.shape, tokens.shape[2])
        mixed = self._transform(windows, order.places, order)
        return mixed.flatten(1, 2).index_select(1, order.inverse)

    def _in_parts(self, tokens: Tensor, order: _Order) -> Tensor:
        """Do the same to a few windows at a time, so that they stay in the processor's cache."""
        out = torch.empty_like(tokens)
        groups = torch.split(order.places, max(1, PART // order.places.shape[1]))

        def work(part: tuple[int, Tensor]) -> None:
            item, places = part
            gathered = tokens[item].index_select(0, places.flatten().clamp(min=0))
            windows = gathered.view(1, *places.shape, -1)
            mixed = self._transform(windows, places, order).flatten(0, 2)
            real = places.flatten() >= 0 if order.padded else slice(None)
            out[item].index_copy_(0, places.flatten()[real], mixed[real])

        run_parts(work, [(item, group) for item in range(len(tokens)) for group in groups])
        return out

    def _transform(self, windows: Tensor, places: Tensor, order: _Order) -> Tensor:
        """Map (B, windows, tokens, C) to the same shape; places are those of the tokens."""
        h = self.norm1(windows)
        if order.padded:  # zeros after the norm: a pad is exactly zero
            h = h.masked_fill((places < 0)[..., None], 0)
        h = self._mix_tokens(h.flatten(0, 1))
        if self.training and self.redundancy is not None:
            h = self.redundancy(h, order.window)
        x = windows + h.view(windows.shape)
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed

    def _mix_tokens(self, tokens: Tensor) -> Tensor:
        if self.prompt is None:
            mixed: Tensor = self.mamba(tokens)
            return mixed
        prompt = self.prompt.expand(tokens.shape[0], -1, -1)
        mixed = self.mamba(torch.cat([prompt, tokens], dim=1))
        return mixed[:, self.prompt.shape[1] :]
