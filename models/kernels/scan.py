"""The selective scan over rows of tokens, and its gradient.

In the innermost loop the channels of a row follow each other in memory, so the compiler makes
vector instructions of it whatever the processor. Sequences are computed one by one, in one order,
so neither the batch nor the number of threads changes a bit of the output. Every function
releases the interpreter and leaves the threads to its caller.

References
----------
Gu and Dao, arXiv 2312.00752, equations 2a and 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neurostorm_app.models.kernels.elementary import (
    LOG2E,
    Rows,
    at,
    exp2,
    jit_apart,
    jit_sums,
    kept_jit,
    sigmoid,
    softplus,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["ScanGradients", "ScanInputs", "scan_backward", "scan_forward"]

SEGMENT = 16
"""Tokens whose states are held at a time in the backward pass."""


class ScanInputs(NamedTuple):
    """What a scan reads; states are laid out (N, W): channels, and zeros up to whole vectors."""

    u: Rows  # D wide
    step: Rows  # D wide, before bias and softplus
    rates: Array  # (N, W), A * LOG2E; never positive
    B: Rows  # N wide
    C: Rows  # N wide
    skip: Array  # (D,)
    bias: Array  # (D,)
    gate: Rows  # D wide; their step is 0 if there is no gate
    soft: bool  # whether step goes through softplus


class ScanGradients(NamedTuple):
    """What the backward pass of a scan writes; the last three are summed over its rows."""

    u: Array  # (rows, D)
    step: Array  # (rows, D)
    B: Array  # (rows, N)
    C: Array  # (rows, N)
    gate: Array  # (rows, D)
    A: Array  # (N, W)
    skip: Array  # (D,)
    bias: Array  # (D,)


class _Token(NamedTuple):
    """Rows of one token: what `_drive` and `_read` write, and the gradients of it."""

    step: Array
    drive: Array
    out: Array
    dout: Array
    dlog: Array  # of step * rates
    ddrive: Array


@jit_apart
def _drive(inputs: ScanInputs, row: int, step: Array, drive: Array) -> None:
    """Compute the step of a token, and step * u."""
    n_channels = inputs.bias.size
    for j in range(n_channels):
        step[j] = at(inputs.step, row, j) + inputs.bias[j]
    if inputs.soft:
        for j in range(step.size):  # whole vectors: a rest of channels would go one by one
            step[j] = softplus(step[j])
    for j in range(n_channels):
        drive[j] = step[j] * at(inputs.u, row, j)


@jit_apart
def _advance(inputs: ScanInputs, row: int, step: Array, drive: Array, h: Array, out: Array) -> None:
    """Move the states of all channels by one token, and read them while they are at hand."""
    out[:] = 0
    for n in range(h.shape[0]):
        b, c = at(inputs.B, row, n), at(inputs.C, row, n)
        for j in range(h.shape[1]):
            state = exp2(step[j] * inputs.rates[n, j]) * h[n, j] + drive[j] * b
            h[n, j] = state
            out[j] += c * state


@jit_apart
def _gate(inputs: ScanInputs, row: int, out: Array, factor: Array, y: Array) -> None:
    """Add the skip connection to what was read, and multiply by the gate."""
    n_channels = inputs.skip.size
    if inputs.gate.step:
        for j in range(n_channels):
            factor[j] = at(inputs.gate, row, j)
        for j in range(factor.size):  # whole vectors
            factor[j] *= sigmoid(factor[j])
    for j in range(n_channels):
        y[row, j] = (out[j] + at(inputs.u, row, j) * inputs.skip[j]) * factor[j]


@kept_jit
def scan_forward(inputs: ScanInputs, y: Array, length: int, first: int, last: int) -> None:
    """Write y, (rows, D), of the sequences from first to before last, each of that length."""
    h = np.empty_like(inputs.rates)
    rows = np.zeros((3, h.shape[1]), h.dtype)
    step, drive, out, factor = rows[0], rows[1], rows[2], np.ones(h.shape[1], h.dtype)
    for s in range(first, last):
        h[:] = 0
        for row in range(s * length, (s + 1) * length):
            _drive(inputs, row, step, drive)
            _advance(inputs, row, step, drive, h, out)
            _gate(inputs, row, out, factor, y)


@jit_apart
def _remember(
    inputs: ScanInputs, row: int, token: _Token, h: Array, decay: Array, after: Array
) -> None:
    """Move the states by one token, and keep the decays and what was before."""
    for n in range(h.shape[0]):
        b = at(inputs.B, row, n)
        for j in range(h.shape[1]):
            decay[n, j] = exp2(token.step[j] * inputs.rates[n, j])
            after[n, j] = decay[n, j] * h[n, j] + token.drive[j] * b


@jit_apart
def _gate_backward(
    inputs: ScanInputs, grads: ScanGradients, row: int, grad: Array, token: _Token
) -> None:
    """Undo `_gate`: write the gradient of what was read to token.dout."""
    skip, dout = inputs.skip, token.dout
    for j in range(skip.size):
        dout[j] = grad[row, j]
    if inputs.gate.step:
        for j in range(skip.size):
            z = at(inputs.gate, row, j)
            s = sigmoid(z)
            slope = s + z * s * (type(s)(1) - s)
            read = token.out[j] + at(inputs.u, row, j) * skip[j]
            grads.gate[row, j] = dout[j] * read * slope
            dout[j] *= z * s
    for j in range(skip.size):
        grads.u[row, j] = dout[j] * skip[j]
        grads.skip[j] += dout[j] * at(inputs.u, row, j)


@jit_sums
def _advance_backward(  # noqa: PLR0913, PLR0917
    inputs: ScanInputs, grads: ScanGradients, row: int, token: _Token,
    before: Array, decay: Array, carry: Array,
) -> None:  # fmt: skip
    """Undo `_remember`: carry is the gradient of the states, from later tokens to earlier."""
    step, drive, dout, dlog, ddrive = token.step, token.drive, token.dout, token.dlog, token.ddrive
    dlog[:] = 0
    ddrive[:] = 0
    for n in range(decay.shape[0]):
        b, c = at(inputs.B, row, n), at(inputs.C, row, n)
        db, dc = type(b)(0), type(b)(0)
        for j in range(decay.shape[1]):
            dh = carry[n, j] + c * dout[j]
            decayed = before[n, j] * decay[n, j]
            dc += dout[j] * (decayed + drive[j] * b)
            db += dh * drive[j]
            ddrive[j] += dh * b
            carry[n, j] = dh * decay[n, j]
            grads.A[n, j] += dh * decayed * step[j]
            dlog[j] += dh * decayed * inputs.rates[n, j]
        grads.B[row, n], grads.C[row, n] = db, dc


@jit_apart
def _drive_backward(inputs: ScanInputs, grads: ScanGradients, row: int, token: _Token) -> None:
    """Undo `_drive`."""
    for j in range(inputs.bias.size):
        u = at(inputs.u, row, j)
        grads.u[row, j] += token.ddrive[j] * token.step[j]
        d = token.dlog[j] / type(u)(LOG2E) + token.ddrive[j] * u
        if inputs.soft:
            d *= sigmoid(at(inputs.step, row, j) + inputs.bias[j])
        grads.step[row, j] = d
        grads.bias[j] += d


@kept_jit
def scan_backward(
    inputs: ScanInputs, grad: Array, grads: ScanGradients, length: int, first: int, last: int
) -> None:
    """Write the gradients of the sequences from first to before last; grad is that of y.

    Of the states only those at the beginnings of segments are kept; the others are computed
    again, segment by segment from the last to the first.
    """
    n, w = inputs.rates.shape
    starts = np.empty((-(-length // SEGMENT), n, w), grad.dtype)
    states = np.empty((SEGMENT + 1, n, w), grad.dtype)
    decays = np.empty((SEGMENT, n, w), grad.dtype)
    carry = np.empty((n, w), grad.dtype)
    rows = np.zeros((6, w), grad.dtype)  # unpacked at once they would not be contiguous
    token = _Token(rows[0], rows[1], rows[2], rows[3], rows[4], rows[5])
    for s in range(first, last):
        carry[:] = 0
        for t in range(length):
            if t == 0:
                states[0] = 0
            if t % SEGMENT == 0:
                starts[t // SEGMENT] = states[0]
            _drive(inputs, s * length + t, token.step, token.drive)
            _advance(inputs, s * length + t, token.step, token.drive, states[0], token.out)
            for j in range(grad.shape[1]):  # what is read is needed below
                grads.gate[s * length + t, j] = token.out[j]
        for k in range(len(starts) - 1, -1, -1):
            begin, end = s * length + k * SEGMENT, s * length + min(length, (k + 1) * SEGMENT)
            states[0] = starts[k]
            for row in range(begin, end):
                i = row - begin
                _drive(inputs, row, token.step, token.drive)
                _remember(inputs, row, token, states[i], decays[i], states[i + 1])
            for row in range(end - 1, begin - 1, -1):
                i = row - begin
                _drive(inputs, row, token.step, token.drive)
                for j in range(grad.shape[1]):
                    token.out[j] = grads.gate[row, j]
                _gate_backward(inputs, grads, row, grad, token)
                _advance_backward(inputs, grads, row, token, states[i], decays[i], carry)
                _drive_backward(inputs, grads, row, token)
