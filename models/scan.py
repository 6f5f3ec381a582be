r"""Selective scan: a linear recurrence whose decay, input and output depend on the token.

.. math:: h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t, \qquad y_t = C_t \cdot h_t + D u_t

One interface, four engines that agree in value and gradient:

``reference``
    The two equations above, token by token, differentiated by autograd. For reading and tests.
``numba``
    Compiled loops for the CPU. Nothing of size (B, L, D, N) ever exists.
``mamba-ssm``
    The fused CUDA kernel of the mamba-ssm package, where that is installed.
``triton``
    Our CUDA kernel; torch for CUDA brings its compiler.

References
----------
Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv 2312.00752, equations 2a and 4, algorithm 2.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as fn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Engine", "scan_engine", "selective_scan", "short_convolution"]

Engine = Literal["reference", "numba", "mamba-ssm", "triton"]


def scan_engine(device: torch.device | str) -> Engine:
    """Tell which engine a device gets, for the record beside an embedding.

    Parameters
    ----------
    device : torch.device or str
        Where the tensors are.

    Returns
    -------
    str
        On CUDA ``mamba-ssm``, or ``triton`` where that package is not installed; ``numba`` on a
        CPU; ``reference`` on any other device.

    Examples
    --------
    >>> scan_engine("cpu")
    'numba'
    """
    match torch.device(device).type:
        case "cuda":
            return "mamba-ssm" if importlib.util.find_spec("mamba_ssm") else "triton"
        case "cpu":
            return "numba"
        case _:
            return "reference"


def selective_scan(  # noqa: PLR0913 - the equation has that many letters
    u: Tensor,
    dt: Tensor,
    *,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = False,
    engine: Engine | None = None,
) -> Tensor:
    """Run the recurrence over the tokens of each sequence; the state starts at zero.

    Parameters
    ----------
    u : Tensor, shape (B, L, D)
        Input: B sequences of L tokens with D channels.
    dt : Tensor, shape (B, L, D)
        Step of each token and channel; positive once bias and softplus are applied.
    A : Tensor, shape (D, N)
        Decay rates of the N states of each channel; negative.
    B, C : Tensor, shape (B, L, N)
        What a token writes into the states, and reads from them.
    D : Tensor, shape (D,), optional
        Weight of the skip connection from u.
    z : Tensor, shape (B, L, D), optional
        Gate: the result is multiplied by its SiLU.
    dt_bias : Tensor, shape (D,), optional
        Added to dt first.
    softplus : bool
        Whether dt then goes through softplus.
    engine : str, optional
        ``reference``, ``numba``, ``mamba-ssm`` or ``triton``; by default what `scan_engine` says.

    Returns
    -------
    Tensor, shape (B, L, D)
        What each token reads, with the skip connection, gated.
    """
    match engine or scan_engine(u.device):
        case "numba":
            from neurostorm_app.models.scan_cpu import numba_scan

            return numba_scan(u, dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, softplus=softplus)
        case "triton":
            from neurostorm_app.models.scan_triton import triton_scan

            return triton_scan(u, dt, A, B, C, D, z, dt_bias, softplus)
        case "mamba-ssm":
            return _mamba_ssm(u, dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, softplus=softplus)
        case "reference":
            dt = dt if dt_bias is None else dt + dt_bias
            y = _reference(u, fn.softplus(dt) if softplus else dt, A=A, B=B, C=C)
            y = y if D is None else y + D * u
            return y if z is None else y * fn.silu(z)


def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, engine: Engine | None = None
) -> Tensor:
    """Filter each channel over its tokens, causally, and apply SiLU.

    Parameters
    ----------
    x : Tensor, shape (B, L, D)
        May be a part of wider rows.
    weight : Tensor, shape (D, K)
        The last of K is for the token itself, the first for the oldest.
    bias : Tensor, shape (D,), optional
        Added to each token.
    engine : str, optional
        As in `selective_scan`; all but ``numba`` take torch's convolution, and so does ``numba``
        if K is not 4 or there is no bias.

    Returns
    -------
    Tensor, shape (B, L, D)
        A token depends on itself and the K - 1 before it; before the first are zeros.
    """
    if (engine or scan_engine(x.device)) == "numba" and weight.shape[1] == 4 and bias is not None:
        from neurostorm_app.models.scan_cpu import numba_conv

        return numba_conv(x, weight, bias)
    n_channels, k = weight.shape
    padded = fn.conv1d(
        x.transpose(1, 2), weight[:, None], bias, padding=k - 1, groups=n_channels
    )  # (B, D, L + K - 1)
    return fn.silu(padded[..., : x.shape[1]]).transpose(1, 2)


def _reference(u: Tensor, dt: Tensor, *, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        h = decay * h + (dt[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]  # (B, D, N)
        y.append((h * C[:, t, None, :]).sum(dim=-1))
    return torch.stack(y, dim=1)


def _mamba_ssm(  # noqa: PLR0913
    u: Tensor, dt: Tensor, *, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, dt_bias: Tensor | None, softplus: bool,
) -> Tensor:  # fmt: skip
    from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
        selective_scan_fn,
    )

    u, dt, B, C = (x.transpose(1, 2).contiguous() for x in (u, dt, B, C))  # (B, ., L)
    z = z if z is None else z.transpose(1, 2).contiguous()
    y: Tensor = selective_scan_fn(
        u, dt, A, B, C, D, z=z, delta_bias=dt_bias, delta_softplus=softplus
    )
    return y.transpose(1, 2)
