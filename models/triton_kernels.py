"""The two Triton kernels of the selective scan; `scan_triton` launches them and says what they do.

References
----------
Gu and Dao, "Mamba", arXiv 2312.00752, section 3.3.2 and appendix D (fused scan, recomputation).
Goldberg, "What every computer scientist should know about floating-point arithmetic", ACM
Computing Surveys 23 (1991), theorem 4 (the logarithm of 1 + x).
"""

# Kernels are translated, not called: their arguments are pointers and constants of the compiler.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["NUMBERS", "backward_kernel", "forward_kernel"]

NUMBERS = ["length", "n_channels", "n_states", "row_u", "row_dt", "row_B", "row_C", "row_z"]
"""Arguments the kernels are not compiled anew for. Were they known to be multiples of 16, a lane
would get several channels, and the sum over states would cross the whole warp."""


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
