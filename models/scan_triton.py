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
Goldberg, "What every computer scientist should know about floating-point arithmetic", ACM
Computing Surveys 23 (1991), theorem 4 (the logarithm of 1 + x).
"""

# Kernels are translated, not called: their arguments are pointers and constants of the compiler.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from neurostorm_app.errors import UsageError

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

NUMBERS = ["length", "n_channels", "n_states", "row_u", "row_dt", "row_B", "row_C", "row_z"]
"""Arguments the kernels are not compiled anew for. Were they known to be multiples of 16, a lane
would get several channels, and the sum over states would cross the whole warp."""


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
        n_segments = triton.cdiv(length, SEGMENT)
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
    n_states, n_blocks = A.shape[1], triton.cdiv(n_channels, CHANNELS)
    du, ddt, dz = (
        None if x is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x in (u, tensors[1], tensors[6])
    )
    # What the programs add: a sequence to that of channels, a block of channels to that of tokens.
    dA = _floats(u, n_sequences, n_states, n_channels)
    dD, dbias = _floats(u, 2, n_sequences, n_channels)
    dB, dC = _floats(u, 2, n_blocks, n_sequences, length, n_states)
    states = triton.next_power_of_2(n_states)
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
        kernel[u.shape[0] * triton.cdiv(u.shape[2], CHANNELS),](
            *inputs,
            *more,
            *numbers,
            SOFTPLUS=softplus,
            SEGMENT=SEGMENT,
            STATES=triton.next_power_of_2(A.shape[1]),
            CHANNELS=CHANNELS,
            **OPTIONS,
        )


def _rows(x: Tensor) -> Tensor:
    """View (B, L, K) as B * L rows of neighbours, however far apart; copy only where it must."""
    x = x.flatten(0, 1)
    return x if x.stride(1) == 1 else x.contiguous()


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


@triton.jit(do_not_specialize=NUMBERS)
def forward_kernel(  # noqa: PLR0913, PLR0917 - a kernel takes pointers and numbers
    u, dt, A, B, C, D, z, dt_bias, y, starts,
    length, n_channels, n_states, row_u, row_dt, row_B, row_C, row_z,
    SOFTPLUS: tl.constexpr, SEGMENT: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Scan one sequence in one block of channels; see the module for the shapes."""
    sequence, d, in_d, n, in_n = _place(n_channels, n_states, STATES, CHANNELS)
    tile, in_tile = n[:, None] * n_channels + d[None, :], in_n[:, None] & in_d[None, :]
    rate = _load(A, tile, in_tile)
    skip, bias = _load(D, d, in_d), _load(dt_bias, d, in_d)
    h = tl.zeros([STATES, CHANNELS], tl.float32)
    for t in tl.range(0, length, num_stages=4):
        if starts is not None:
            segment = sequence * tl.cdiv(length, SEGMENT) + t // SEGMENT
            first = t % SEGMENT == 0
            tl.store(starts + segment * n_states * n_channels + tile, h, mask=in_tile & first)
        row = sequence * length + t
        x, write = _load(u + row * row_u, d, in_d), _load(B + row * row_B, n, in_n)
        step = _step(_load(dt + row * row_dt, d, in_d) + bias, SOFTPLUS)
        h = tl.exp(step[None, :] * rate) * h + write[:, None] * (step * x)[None, :]
        out = tl.sum(h * _load(C + row * row_C, n, in_n)[:, None], axis=0) + skip * x
        if z is not None:
            gate = _load(z + row * row_z, d, in_d)
            out *= gate * tl.sigmoid(gate)
        tl.store(y + row * n_channels + d, out.to(y.dtype.element_ty), mask=in_d)


@triton.jit(do_not_specialize=NUMBERS)
def backward_kernel(  # noqa: PLR0913, PLR0915, PLR0917 - as above, and in one piece
    u, dt, A, B, C, D, z, dt_bias, grad, starts, kept, du, ddt, dA, dB, dC, dD, dz, dbias,
    length, n_channels, n_states, row_u, row_dt, row_B, row_C, row_z,
    SOFTPLUS: tl.constexpr, SEGMENT: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Go back over what one program of the forward kernel did, a segment at a time."""
    sequence, d, in_d, n, in_n = _place(n_channels, n_states, STATES, CHANNELS)
    tile, in_tile = n[:, None] * n_channels + d[None, :], in_n[:, None] & in_d[None, :]
    rate = _load(A, tile, in_tile)
    skip, bias = _load(D, d, in_d), _load(dt_bias, d, in_d)
    carry, sum_A = tl.zeros_like(rate), tl.zeros_like(rate)
    sum_D, sum_bias = tl.zeros_like(skip), tl.zeros_like(skip)
    inside = tl.arange(0, STATES)[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    kept += tl.program_id(0).to(tl.int64) * SEGMENT * STATES * CHANNELS + inside
    n_sequences = tl.num_programs(0) // tl.cdiv(n_channels, CHANNELS)
    block = tl.program_id(0) % tl.cdiv(n_channels, CHANNELS)
    by_block = block * n_sequences * length
    n_segments = tl.cdiv(length, SEGMENT)
    for i in range(n_segments):
        segment = n_segments - 1 - i
        begin = sequence * length + segment * SEGMENT
        n_tokens = tl.minimum(SEGMENT, length - segment * SEGMENT)
        at = (sequence * n_segments + segment) * n_states * n_channels
        h = _load(starts + at, tile, in_tile)
        for k in tl.range(0, n_tokens, num_stages=3):
            tl.store(kept + k * STATES * CHANNELS, h)
            row = begin + k
            x, write = _load(u + row * row_u, d, in_d), _load(B + row * row_B, n, in_n)
            step = _step(_load(dt + row * row_dt, d, in_d) + bias, SOFTPLUS)
            h = tl.exp(step[None, :] * rate) * h + write[:, None] * (step * x)[None, :]
        tl.debug_barrier()  # other threads of the warp read what this one kept
        for j in tl.range(0, n_tokens, num_stages=3):
            k = n_tokens - 1 - j
            row = begin + k
            before = tl.load(kept + k * STATES * CHANNELS)
            x, write = _load(u + row * row_u, d, in_d), _load(B + row * row_B, n, in_n)
            read = _load(C + row * row_C, n, in_n)
            raw = _load(dt + row * row_dt, d, in_d) + bias
            step = _step(raw, SOFTPLUS)
            decay = tl.exp(step[None, :] * rate)
            h = decay * before + write[:, None] * (step * x)[None, :]
            dy = _load(grad + row * n_channels, d, in_d)
            if z is not None:
                gate = _load(z + row * row_z, d, in_d)
                share = tl.sigmoid(gate)
                out = tl.sum(h * read[:, None], axis=0) + skip * x
                slope = share * (1.0 + gate * (1.0 - share))
                _store(dz + row * n_channels, d, dy * out * slope, in_d)
                dy *= gate * share
            dh = carry + dy[None, :] * read[:, None]
            carry = decay * dh
            dexponent = carry * before
            dinput = tl.sum(dh * write[:, None], axis=0)
            dstep = dinput * x + tl.sum(dexponent * rate, axis=0)
            if SOFTPLUS:
                dstep *= tl.sigmoid(raw)
            _store(du + row * n_channels, d, dinput * step + dy * skip, in_d)
            _store(ddt + row * n_channels, d, dstep, in_d)
            token = (by_block + row) * n_states
            _store(dB + token, n, tl.sum(dh * (step * x)[None, :], axis=1), in_n)
            _store(dC + token, n, tl.sum(h * dy[None, :], axis=1), in_n)
            sum_A += dexponent * step[None, :]
            sum_D += dy * x
            sum_bias += dstep
        tl.debug_barrier()  # all have read before the next segment is kept
    _store(dA + sequence * n_states * n_channels, tile, sum_A, in_tile)
    _store(dD + sequence * n_channels, d, sum_D, in_d)
    _store(dbias + sequence * n_channels, d, sum_bias, in_d)


@triton.jit
def _place(n_channels, n_states, STATES: tl.constexpr, CHANNELS: tl.constexpr):
    """Tell a program its sequence, its channels and all states, and which of these exist."""
    n_blocks = tl.cdiv(n_channels, CHANNELS)
    sequence = (tl.program_id(0) // n_blocks).to(tl.int64)  # rows times channels pass 2 ** 31
    d = tl.program_id(0) % n_blocks * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, STATES)
    return sequence, d, d < n_channels, n, n < n_states


@triton.jit
def _load(start, offset, exists):
    """Read float32, or zeros where the tensor was left out."""
    if start is None:
        values = tl.zeros(offset.shape, tl.float32)
    else:
        values = tl.load(start + offset, mask=exists, other=0.0).to(tl.float32)
    return values


@triton.jit
def _store(start, offset, values, exists):
    tl.store(start + offset, values.to(start.dtype.element_ty), mask=exists)


@triton.jit
def _step(raw, SOFTPLUS: tl.constexpr):
    """Make a step positive: log(1 + exp(raw)), exact to rounding for small steps too."""
    step = raw
    if SOFTPLUS:
        small = tl.exp(tl.minimum(raw, 20.0))
        one_more = 1.0 + small
        rounded = tl.where(one_more == 1.0, 1.0, one_more - 1.0)
        exact = tl.where(one_more == 1.0, small, tl.log(one_more) * (small / rounded))
        step = tl.where(raw > 20.0, raw, exact)
    return step
