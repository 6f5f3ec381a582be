"""What the loops share: how they are compiled, and functions that become vector instructions.

numba calls the ``exp`` of the C library value by value unless Intel's SVML is installed. The
functions needed here are therefore polynomials in float32; in float64 they are the library's.

References
----------
Muller, "Elementary Functions", chapter 11 (range reduction). The coefficients are minimax fits,
made with Lawson's algorithm.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numba
import numpy as np
from numba.core.compiler import Compiler
from numba.extending import overload

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "LANES", "LOG2E", "Rows", "at", "exp2", "jit", "jit_apart", "jit_sums", "kept_jit",
    "kept_jit_apart", "log1p", "sigmoid", "softplus",
]  # fmt: skip

Function = TypeVar("Function", bound="Callable[..., Any]")

LANES = 16
"""Channels are padded to so many where it matters: the longest vectors of current processors."""

LOG2E = 1.4426950408889634

_LOWEST, _ROUND = np.float32(-126), np.float32(1.5 * 2**23)  # x + _ROUND ends in the integer
_E1, _E2, _E3, _E4, _E5, _E6 = map(
    np.float32, (0.69314718, 0.24022648, 0.055503324, 0.0096184369, 0.0013398875, 0.00015353362)
)
_L1, _L2, _L3, _L4 = map(np.float32, (0.33333209, 0.20010763, 0.14000902, 0.14006008))
_ONE, _TWO = np.float32(1), np.float32(2)

_njit: Any = numba.njit
_JIT: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


class _Apart(Compiler):
    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()  # type: ignore[no-untyped-call]


def jit(function: Function, *, kept: bool = False, **options: Any) -> Function:
    """Compile; a product and a sum may be fused, and nothing else may change.

    Parameters
    ----------
    function : callable
        A loop, or a part of some.
    kept : bool
        Whether Python calls it, and what is compiled is kept for other processes. A part is put
        into each loop that calls it, and is not kept: as a function of its own it would be
        optimised once for itself and once more for the loop, and which of both is run, and how it
        rounds, would depend on whether the loop was compiled just now or read from a disk.
    **options
        More of numba's.
    """
    how = {"cache": True} if kept else {"forceinline": True}
    compiled: Function = _njit(**_JIT, **how, **{"fastmath": {"contract"}, **options})(function)
    return compiled


def jit_apart(function: Function, *, kept: bool = False, **options: Any) -> Function:
    """Compile a function whose arrays do not overlap, so that nothing has to check whether."""
    return jit(function, kept=kept, pipeline_class=_Apart, **options)


def jit_sums(function: Function) -> Function:
    """Do as `jit_apart`; sums may be made in vector lanes: in another, but fixed, order."""
    return jit_apart(function, fastmath={"contract", "reassoc", "nsz"})


kept_jit = partial(jit, kept=True)
kept_jit_apart = partial(jit_apart, kept=True)


class Rows(NamedTuple):
    """Rows that may be parts of wider rows: row r begins at ``r * step`` of flat."""

    flat: NDArray[Any]
    step: int


@jit
def at(rows: Rows, r: int, j: int) -> Any:
    """Read one value of a row; without looking at the row as an array, which costs as much."""
    return rows.flat[np.uintp(r * rows.step + j)]


def exp2(x: Any) -> Any:
    """Raise 2 to x < 128; in float32 within a unit in the last place, and never below 2^-126."""
    return np.exp2(x)


@overload(exp2, jit_options={"fastmath": {"contract"}})
def _exp2(x: Any) -> Any:
    def library(x: Any) -> Any:
        return np.exp2(x)

    def polynomial(x: Any) -> Any:
        x = _LOWEST if x < _LOWEST else x  # noqa: FURB136 - a NaN must come out as a NaN
        rounded = x + _ROUND
        f = x - (rounded - _ROUND)
        p = _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
        exponent = np.float32(rounded).view(np.int32) << np.int32(23)
        return np.int32(np.float32(p).view(np.int32) + exponent).view(np.float32)

    return polynomial if x == numba.float32 else library


def log1p(y: Any) -> Any:
    """Take the logarithm of 1 + y, for y of 0 to 1."""
    return np.log1p(y)


@overload(log1p, jit_options={"fastmath": {"contract"}})
def _log1p(y: Any) -> Any:
    def library(y: Any) -> Any:
        return np.log1p(y)

    def polynomial(y: Any) -> Any:
        s = y / (_TWO + y)
        z = s * s
        return _TWO * s * (_ONE + z * (_L1 + z * (_L2 + z * (_L3 + z * _L4))))

    return polynomial if y == numba.float32 else library


@jit
def sigmoid(x: Any) -> Any:
    """Compute 1 / (1 + e^-x)."""
    one, highest, power = type(x)(1), type(x)(127), x * type(x)(-LOG2E)
    return one / (one + exp2(highest if power > highest else power))  # noqa: FURB136


@jit
def softplus(x: Any) -> Any:
    """Compute log(1 + e^x)."""
    zero = type(x)(0)
    return (x if x > zero else zero) + log1p(exp2(abs(x) * type(x)(-LOG2E)))  # noqa: FURB136
