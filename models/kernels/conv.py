"""The short causal convolution before the scan, channel by channel, and its gradient.

Rows, threads and bits are as in the scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neurostorm_app.models.kernels.elementary import LANES, Rows, at, jit_apart, kept_jit, sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["WIDTH", "ConvGradients", "ConvInputs", "conv_backward", "conv_forward"]


WIDTH = 4
"""Tokens that are filtered together: the released networks have no other width."""


class ConvInputs(NamedTuple):
    """What a convolution over the tokens reads."""

    x: Rows  # D wide
    weight: Array  # (WIDTH, D), the last for the token itself
    bias: Array  # (D,)


class ConvGradients(NamedTuple):
    """What the backward pass of a convolution adds to; the last two are summed over its rows."""

    x: Array  # (rows, D)
    weight: Array  # (WIDTH, D)
    bias: Array  # (D,)


@jit_apart
def _filter(inputs: ConvInputs, row: int, t: int, out: Array) -> None:
    """Sum the weighted tokens up to this one, t rows after the first."""
    x, w, bias = inputs.x, inputs.weight, inputs.bias
    if t < WIDTH - 1:
        out[: bias.size] = bias
        for back in range(t + 1):
            for j in range(bias.size):
                out[j] += w[WIDTH - 1 - back, j] * at(x, row - back, j)
        return
    for j in range(bias.size):
        older = w[0, j] * at(x, row - 3, j) + w[1, j] * at(x, row - 2, j)
        out[j] = bias[j] + older + w[2, j] * at(x, row - 1, j) + w[3, j] * at(x, row, j)


@jit_apart
def _silu(d: Array, row: int, y: Array) -> None:
    for j in range(d.size):  # whole vectors: a rest of channels would go one by one
        d[j] *= sigmoid(d[j])
    for j in range(y.shape[1]):
        y[row, j] = d[j]


@kept_jit
def conv_forward(inputs: ConvInputs, y: Array, length: int, first: int, last: int) -> None:
    """Write y, (rows, D), the SiLU of the filtered tokens, as `scan_forward` does."""
    d = np.zeros(-(-inputs.bias.size // LANES) * LANES, y.dtype)
    for row in range(first * length, last * length):
        _filter(inputs, row, row % length, d)
        _silu(d, row, y)


@jit_apart
def _token_backward(
    inputs: ConvInputs, grad: Array, grads: ConvGradients, row: int, t: int, d: Array
) -> None:
    """Undo both for one token; d is what was filtered."""
    for j in range(d.size):
        s = sigmoid(d[j])
        d[j] = grad[row, j] * s * (type(s)(1) + d[j] * (type(s)(1) - s))
        grads.bias[j] += d[j]
    for back in range(min(t + 1, WIDTH)):
        k = WIDTH - 1 - back
        for j in range(d.size):
            grads.weight[k, j] += d[j] * at(inputs.x, row - back, j)
            grads.x[row - back, j] += d[j] * inputs.weight[k, j]


@kept_jit
def conv_backward(
    inputs: ConvInputs, grad: Array, grads: ConvGradients, length: int, first: int, last: int
) -> None:
    """Add to the gradients, of which that of x must be zero at first."""
    d = np.empty_like(inputs.bias)
    for row in range(first * length, last * length):
        _filter(inputs, row, row % length, d)
        _token_backward(inputs, grad, grads, row, row % length, d)
