r"""Selective scan: a linear recurrence whose decay, input and output depend on the token.

.. math:: h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t, \qquad y_t = C_t \cdot h_t

One interface, three engines that agree in value and gradient:

``reference``
    The two equations above, token by token, differentiated by autograd. For reading and tests.
``segmented``
    Plain torch for any device. Works on segments of tokens and recomputes their states in the
    backward pass, so nothing of size (B, L, D, N) ever exists.
``mamba-ssm``
    The fused CUDA kernel of the mamba-ssm package, where that is installed.

References
----------
Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv 2312.00752, equations 2a and 4, algorithm 2.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Engine", "scan_engine", "selective_scan"]

Engine = Literal["reference", "segmented", "mamba-ssm"]

SEGMENT = 16
"""Tokens whose states are held at a time in training: 1 / 16 of them are kept for the backward."""

BLOCK = 1 << 22
"""States held at a time in inference: 16 MiB in float32, whatever the number of sequences."""


def scan_engine(device: torch.device | str) -> Engine:
    """Tell which engine a device gets, for the record beside an embedding.

    Parameters
    ----------
    device : torch.device or str
        Where the tensors are.

    Returns
    -------
    str
        ``mamba-ssm`` on CUDA with that package installed, else ``segmented``.

    Examples
    --------
    >>> scan_engine("cpu")
    'segmented'
    """
    if torch.device(device).type == "cuda" and importlib.util.find_spec("mamba_ssm"):
        return "mamba-ssm"
    return "segmented"


def selective_scan(
    u: Tensor, dt: Tensor, *, A: Tensor, B: Tensor, C: Tensor, engine: Engine | None = None
) -> Tensor:
    """Run the recurrence over the tokens of each sequence; the state starts at zero.

    Parameters
    ----------
    u : Tensor, shape (B, L, D)
        Input: B sequences of L tokens with D channels.
    dt : Tensor, shape (B, L, D)
        Step of each token and channel; positive.
    A : Tensor, shape (D, N)
        Decay rates of the N states of each channel; negative.
    B, C : Tensor, shape (B, L, N)
        What a token writes into the states, and reads from them.
    engine : str, optional
        ``reference``, ``segmented`` or ``mamba-ssm``; by default what `scan_engine` says.

    Returns
    -------
    Tensor, shape (B, L, D)
        What each token reads. The skip connection and the gate are the caller's.
    """
    match engine or scan_engine(u.device):
        case "reference":
            return _reference(u, dt, A=A, B=B, C=C)
        case "mamba-ssm":
            return _kernel(u, dt, A=A, B=B, C=C)
        case "segmented":
            if torch.is_grad_enabled() and any(x.requires_grad for x in (u, dt, A, B, C)):
                y: Tensor = _Segmented.apply(u, dt, A, B, C)  # type: ignore[no-untyped-call]
                return y
            return _forward(u, dt, A=A, B=B, C=C)


def _reference(u: Tensor, dt: Tensor, *, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        h = decay * h + (dt[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]  # (B, D, N)
        y.append((h * C[:, t, None, :]).sum(dim=-1))
    return torch.stack(y, dim=1)


def _kernel(u: Tensor, dt: Tensor, *, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
        selective_scan_fn,
    )

    tokens_last = [x.transpose(1, 2).contiguous() for x in (u, dt, B, C)]  # (B, ., L)
    u_, dt_, B_, C_ = tokens_last
    y: Tensor = selective_scan_fn(u_, dt_, A, B_, C_)
    return y.transpose(1, 2)


def _forward(u: Tensor, dt: Tensor, *, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Scan without a thought of gradients, a block of sequences at a time."""
    y = torch.empty_like(u)
    step = max(1, BLOCK // (SEGMENT * A.numel()))
    for first in range(0, u.shape[0], step):
        rows = slice(first, first + step)
        h = u.new_zeros(u[rows].shape[0], *A.shape)
        for start in range(0, u.shape[1], SEGMENT):
            part = rows, slice(start, start + SEGMENT)
            _, states = _segment(h, u[part], dt[part], A, B[part])
            h = states[:, -1]
            y[part] = _read(states, C[part])
    return y


def _segment(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states of one segment that starts from state h; both (B, K, D, N)."""
    decay = torch.exp_(dt[..., None] * A)
    states = (dt * u)[..., None] * B[:, :, None, :]
    for k in range(u.shape[1]):
        h = states[:, k].addcmul_(decay[:, k], h)
    return decay, states


def _read(states: Tensor, C: Tensor) -> Tensor:
    return (states @ C[..., None]).squeeze(-1)


class _Segmented(torch.autograd.Function):
    """Keep the state at the start of each segment; rebuild the others when they are needed."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        h = u.new_zeros(u.shape[0], *A.shape)
        y, starts = torch.empty_like(u), []
        for first in range(0, u.shape[1], SEGMENT):
            part = slice(None), slice(first, first + SEGMENT)
            starts.append(h)
            _, states = _segment(h, u[part], dt[part], A, B[part])
            h = states[:, -1].clone()
            y[part] = _read(states, C[part])
        ctx.save_for_backward(u, dt, A, B, C, *starts)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, ...]:
        u, dt, A, B, C, *starts = ctx.saved_tensors
        du, ddt, dB, dC = (torch.empty_like(x) for x in (u, dt, B, C))
        dA, carry = torch.zeros_like(A), torch.zeros_like(starts[0])
        for s in reversed(range(len(starts))):
            part = slice(None), slice(s * SEGMENT, (s + 1) * SEGMENT)
            decay, states = _segment(starts[s], u[part], dt[part], A, B[part])
            dC[part] = (grad[part][..., None] * states).sum(dim=2)
            dh, carry = _adjoint(grad[part], C[part], decay, carry)
            before = torch.cat([starts[s][:, None], states[:, :-1]], dim=1)
            dexp = before.mul_(decay).mul_(dh)  # gradient of dt * A, (B, K, D, N)
            dA += (dexp * dt[part][..., None]).sum(dim=(0, 1))
            dinput = _read(dh, B[part])  # gradient of dt * u
            du[part] = dinput * dt[part]
            ddt[part] = dinput * u[part] + (dexp * A).sum(dim=-1)
            dB[part] = ((dt[part] * u[part])[..., None] * dh).sum(dim=2)
        return du, ddt, dA, dB, dC


def _adjoint(grad: Tensor, C: Tensor, decay: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the states of one segment, and what it hands to the segment before."""
    dh = grad[..., None] * C[:, :, None, :]
    for k in reversed(range(grad.shape[1])):
        dh[:, k] += carry
        carry = decay[:, k] * dh[:, k]
    return dh, carry
