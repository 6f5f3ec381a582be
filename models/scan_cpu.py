"""The CPU engine: tensors in, tensors out, in as many threads as torch has.

Sequences go to the loops of `kernels` in parts; nothing of size (B, L, D, N) ever exists, in the
backward pass neither. Values are float32, or float64 if they came so; lower precision is raised.

``python -m neurostorm_app.models.scan_cpu`` compiles the loops ahead and says where they are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from neurostorm_app.models.kernels import conv, scan, scan_cache
from neurostorm_app.models.kernels.elementary import LANES, LOG2E, Rows
from neurostorm_app.models.threads import run_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["numba_conv", "numba_scan", "scan_cache"]

PART = 8
"""Sequences of a part; gradients of weights are summed by parts, then over them."""


def numba_scan(  # noqa: PLR0913 - the equation has that many letters
    u: Tensor, dt: Tensor, *, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, dt_bias: Tensor | None = None, softplus: bool = False,
) -> Tensor:  # fmt: skip
    """Scan, add the skip connection and multiply by the gate; shapes as in `selective_scan`.

    Returns
    -------
    Tensor, shape (B, L, D)
        Differentiable in every tensor, once.
    """
    y: Tensor = _Scan.apply(u, dt, A, B, C, D, z, dt_bias, softplus)  # type: ignore[no-untyped-call]
    return y


def numba_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Filter each channel over its tokens, causally, and apply SiLU.

    Parameters
    ----------
    x : Tensor, shape (B, L, D)
        May be a part of wider rows.
    weight : Tensor, shape (D, 4)
        The last of 4 is for the token itself.
    bias : Tensor, shape (D,)
        Added to each token.

    Returns
    -------
    Tensor, shape (B, L, D)
        Differentiable in every tensor, once.
    """
    y: Tensor = _Conv.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, soft = inputs
        given = _scan_inputs(tensors, soft=soft)
        y, rows = _empty(tensors[0])
        length = y.shape[1]
        _each_part(len(y), lambda _, s, e: scan.scan_forward(given, rows, length, s, e))
        ctx.save_for_backward(*tensors)
        ctx.soft = soft
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        given = _scan_inputs(tensors, soft=ctx.soft)
        u, dt, A, B, C, _, z, _ = tensors
        dy = grad.to(_dtype(u)).contiguous().view(-1, u.shape[2]).numpy()
        each = [_empty(x) for x in (u, dt, B, C, u if z is None else z)]
        sums = [_zeros(len(u), s, dy) for s in (given.rates.shape, u.shape[2:], u.shape[2:])]

        def work(part: int, first: int, last: int) -> None:
            into = scan.ScanGradients(*(rows for _, rows in each), *(s[part] for s in sums))
            scan.scan_backward(given, dy, into, u.shape[1], first, last)

        _each_part(len(u), work)
        dA, dD, dbias = (torch.from_numpy(s.sum(axis=0)) for s in sums)
        du, ddt, dB, dC, dz = (x for x, _ in each)
        made = (du, ddt, dA.T[: len(A)], dB, dC, dD, dz, dbias)
        return *(None if x is None else g for x, g in zip(tensors, made, strict=True)), None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = _conv_inputs(x, weight, bias)
        y, rows = _empty(x)
        length = y.shape[1]
        _each_part(len(y), lambda _, s, e: conv.conv_forward(given, rows, length, s, e))
        ctx.save_for_backward(x, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, ...]:
        x, weight, bias = ctx.saved_tensors
        given = _conv_inputs(x, weight, bias)
        dy = grad.to(_dtype(x)).contiguous().view(-1, x.shape[2]).numpy()
        dx, rows = _empty(x)
        dx.zero_()
        dweight, dbias = (_zeros(len(x), w.shape, dy) for w in (given.weight, given.bias))

        def work(part: int, first: int, last: int) -> None:
            into = conv.ConvGradients(rows, dweight[part], dbias[part])
            conv.conv_backward(given, dy, into, x.shape[1], first, last)

        _each_part(len(x), work)
        summed = dweight.sum(axis=0).T, dbias.sum(axis=0)
        return dx, *(torch.from_numpy(s) for s in summed)


def _each_part(n: int, work: Callable[[int, int, int], object]) -> None:
    """Call work(part, first, last) for each part of n sequences."""
    parts = range(-(-n // PART))
    run_parts(lambda part: work(part, part * PART, min(n, (part + 1) * PART)), parts)


def _scan_inputs(tensors: Sequence[Any], *, soft: bool) -> scan.ScanInputs:
    u, dt, A, B, C, D, z, bias = tensors
    dtype = _dtype(u)
    n_channels, n_states = A.shape
    rates = torch.zeros(n_states, -(-n_channels // LANES) * LANES, dtype=dtype)
    rates[:, :n_channels] = A.detach().double().T * LOG2E
    skip, offset = (
        (torch.zeros(n_channels) if x is None else x.detach()).to(dtype).contiguous().numpy()
        for x in (D, bias)
    )
    return scan.ScanInputs(
        u=_rows(u, dtype), step=_rows(dt, dtype), rates=rates.numpy(),
        B=_rows(B, dtype), C=_rows(C, dtype), skip=skip, bias=offset,
        gate=Rows(skip, 0) if z is None else _rows(z, dtype), soft=soft,
    )  # fmt: skip


def _conv_inputs(x: Tensor, weight: Tensor, bias: Tensor) -> conv.ConvInputs:
    dtype = _dtype(x)
    rows, offset = weight.detach().to(dtype).T.contiguous().numpy(), bias.detach().to(dtype).numpy()
    return conv.ConvInputs(_rows(x, dtype), rows, offset)


def _rows(x: Tensor, dtype: torch.dtype) -> Rows:
    """Look at (B, L, D) as rows; copy only if they do not lie one after the other."""
    rows = x.detach().to(dtype).reshape(-1, x.shape[-1])
    if rows.stride(1) != 1 or rows.stride(0) < rows.shape[1]:
        rows = rows.contiguous()
    n, step = max(rows.shape[0], 1), rows.stride(0)
    flat = rows.as_strided(((n - 1) * step + rows.shape[1],), (1,))
    return Rows(flat.numpy(), step)


def _empty(like: Tensor) -> tuple[Tensor, NDArray[Any]]:
    """Make a tensor of that shape, and look at it as rows."""
    made = torch.empty(like.shape, dtype=_dtype(like))
    return made, made.view(-1, like.shape[-1]).numpy()


def _zeros(n: int, shape: Sequence[int], like: NDArray[Any]) -> NDArray[Any]:
    """Make zeros of that shape for each part of n sequences."""
    return np.zeros((-(-n // PART), *shape), like.dtype)


def _dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _compile() -> None:
    """Run each loop once, in the precision of the weights."""
    weights = (torch.ones(2, 4), torch.ones(2), -torch.ones(2, 3), torch.ones(2))
    weight, bias, A, D = (w.requires_grad_() for w in weights)
    x = torch.ones(1, 2, 2, requires_grad=True)
    u = numba_conv(x, weight, bias)
    B = torch.ones(1, 2, 3)
    y = numba_scan(u, u, A=A, B=B, C=B, D=D, z=u, dt_bias=D, softplus=True)
    torch.autograd.backward(y.sum())


if __name__ == "__main__":
    _compile()
    print(scan_cache())  # noqa: T201
