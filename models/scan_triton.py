r"""The selective scan on a CUDA device, as two Triton kernels: nothing needs to be built.

One program is one warp. It takes one sequence and `CHANNELS` channels from the first token to the
last and keeps their states in registers, so that each input is read from memory once, and the
skip connection, the gate and the softplus of the step cost no traffic of their own:

.. math:: h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t, \qquad
          y_t = (C_t \cdot h_t + D u_t)\,\mathrm{silu}(z_t)

States are tiles (N, channels): a warp's lanes lie along the channels, which are neighbours in
memory, and a token's sum over the states stays almost inside a lane. The next tokens of float32
input are on their way while one is computed (``num_stages``).

For training, the forward pass also keeps the state before every `SEGMENT`-th token. The backward
pass goes over the segments from the last to the first, computes the states of one again, and
carries the gradient of the state. Nothing of size (B, L, D, N) ever exists.

Sums are float32 whatever the inputs are. No atomic operation is used: programs write what they
add to the gradients of A, B, C, D and ``dt_bias`` side by side, and torch sums it in a fixed
order. The same input gives the same bits, and a sequence those it gives alone.

References
----------
Gu and Dao, "Mamba", arXiv 2312.00752, section 3.3.2 and appendix D (fused scan, recomputation).
Tillet, Kung and Cox, "Triton", MAPL 2019, doi:10.1145/3315508.3329973.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from neurostorm_app.errors import UsageError
from neurostorm_app.models.triton_kernels import backward_kernel, forward_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["triton_scan"]

CHANNELS = 16
"""Channels of a program: with 16 states, 8 states a lane and 64 bytes of float32 a row."""

SEGMENT = 16
"""Tokens between two states that training keeps: the square root of a window of 256."""

OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}
"""Of the compiler: a warp a program, and multiply-add as one operation."""


def triton_scan(  # noqa: PLR0913, PLR0917 - the arguments of the recurrence
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Run the recurrence over the tokens of each sequence; the state starts at zero.

    Parameters
    ----------
    u : Tensor, shape (B, L, D)
        Input: B sequences of L tokens with D channels; float32, bfloat16 or float16.
    dt : Tensor, shape (B, L, D)
        Step of each token and channel, before ``dt_bias`` and softplus.
    A : Tensor, shape (D, N)
        Decay rates of the N states of each channel; negative.
    B, C : Tensor, shape (B, L, N)
        What a token writes into the states, and reads from them.
    D : Tensor, shape (D,), optional
        Weight of the skip connection.
    z : Tensor, shape (B, L, D), optional
        Gate, before its silu.
    dt_bias : Tensor, shape (D,), optional
        Added to each step.
    softplus : bool
        Make steps positive by a softplus.

    Returns
    -------
    Tensor, shape (B, L, D)
        In the type of `u`; differentiable in every tensor.

    Raises
    ------
    UsageError
        If a tensor is float64, which the kernels would round.
    """
    tensors = (u, dt, A, B, C, D, z, dt_bias)
    given = [x for x in tensors if x is not None]
    if any(x.dtype == torch.float64 for x in given):
        raise UsageError(
            "the Triton scan got a float64 tensor; it computes in float32",
            fix='cast the inputs to float32, or use engine="reference"',
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        y: Tensor = _Scan.apply(softplus, *tensors)  # type: ignore[no-untyped-call]
        return y
    return _forward(tensors, softplus=softplus, starts=None)


class _Scan(torch.autograd.Function):
    """The two kernels as one differentiable operation."""

    @staticmethod
    def forward(ctx: Any, softplus: Any, *tensors: Any) -> Tensor:
        u, n_states = tensors[0], tensors[2].shape[1]
        n_sequences, length, n_channels = u.shape
        n_segments = -(-length // SEGMENT)
        starts = _floats(u, n_sequences, n_segments, n_states, n_channels)
        ctx.softplus = softplus
        ctx.save_for_backward(*tensors, starts)
        return _forward(tensors, softplus=softplus, starts=starts)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        *tensors, starts = ctx.saved_tensors
        return None, *_backward(grad, tensors, softplus=ctx.softplus, starts=starts)


def _forward(tensors: Sequence[Any], *, softplus: bool, starts: Tensor | None) -> Tensor:
    u = tensors[0]
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    _launch(forward_kernel, tensors, (y, starts), softplus=softplus)
    return y


def _backward(
    grad: Tensor, tensors: Sequence[Any], *, softplus: bool, starts: Tensor
) -> list[Tensor | None]:
    u, A = tensors[0], tensors[2]
    n_sequences, length, n_channels = u.shape
    n_states, n_blocks = A.shape[1], -(-n_channels // CHANNELS)
    du, ddt, dz = (
        None if x is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x in (u, tensors[1], tensors[6])
    )
    # What the programs add: a sequence to that of channels, a block of channels to that of tokens.
    dA = _floats(u, n_sequences, n_states, n_channels)
    dD, dbias = _floats(u, 2, n_sequences, n_channels)
    dB, dC = _floats(u, 2, n_blocks, n_sequences, length, n_states)
    states = _power_of_2(n_states)
    kept = _floats(u, n_sequences * n_blocks, SEGMENT, states, CHANNELS)
    made = (du, ddt, dA, dB, dC, dD, dz, dbias)
    _launch(backward_kernel, tensors, (grad.contiguous(), starts, kept, *made), softplus=softplus)
    dA, dB, dC, dD, dbias = (x.sum(dim=0) for x in (dA, dB, dC, dD, dbias))
    sums = (du, ddt, dA.t(), dB, dC, dD, dz, dbias)
    return [
        None if x is None or y is None else y.to(x.dtype)
        for x, y in zip(tensors, sums, strict=True)
    ]


def _launch(kernel: Any, tensors: Sequence[Any], more: Sequence[Any], *, softplus: bool) -> None:
    """Run a program for each sequence and block; blocks are neighbours, and share B and C."""
    u, dt, A, B, C, D, z, dt_bias = tensors
    rows = [None if x is None else _rows(x) for x in (u, dt, B, C, z)]
    skip, bias = (None if x is None else x.contiguous() for x in (D, dt_bias))
    inputs = [*rows[:2], A.t().contiguous(), *rows[2:4], skip, rows[4], bias]
    numbers = [u.shape[1], u.shape[2], A.shape[1], *(0 if x is None else x.stride(0) for x in rows)]
    with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
        kernel[u.shape[0] * -(-u.shape[2] // CHANNELS),](
            *inputs,
            *more,
            *numbers,
            SOFTPLUS=softplus,
            SEGMENT=SEGMENT,
            STATES=_power_of_2(A.shape[1]),
            CHANNELS=CHANNELS,
            **OPTIONS,
        )


def _rows(x: Tensor) -> Tensor:
    """View (B, L, K) as B * L rows of neighbours, however far apart; copy only where it must."""
    x = x.flatten(0, 1)
    return x if x.stride(1) == 1 else x.contiguous()


def _power_of_2(n: int) -> int:
    """Round up to a power of two: tiles of the compiler have such sides."""
    return 1 << (n - 1).bit_length()


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
