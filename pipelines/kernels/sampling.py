"""Values of a volume at points that move: matrix, shift, weights and sum in one pass.

Nothing as long as the points is stored on the way. Coordinates are float64, and only their
fractions become float32, so that a weight is right to its last bits however far the point is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from neurostorm_app.models.kernels.elementary import jit_apart, kept_jit_apart

__all__ = ["BLOCK", "sample"]

BLOCK = 128
"""Points whose places are computed together, in vector lanes; their sums follow one by one."""

_HALF = 0.5
_intrinsic: Any = intrinsic


@kept_jit_apart
def sample(  # noqa: PLR0913, PLR0917 - the one pass needs all that is known
    padded: Any, shape: Any, taps: Any, matrix: Any, points: Any, unit: Any, shift: Any,
    scale: Any, into: Any, out: Any, first: int, last: int,
) -> None:  # fmt: skip
    """Interpolate at the points from first to last, which is a whole number of blocks away.

    Parameters
    ----------
    padded : ndarray, shape (P,), float32
        Voxels or coefficients with their margin, the last axis fastest.
    shape : tuple of int, length 3
        Of the volume without its margin.
    taps : Taps
        Weights of the method.
    matrix : ndarray, shape (3, 4), float64
        Points to voxels.
    points : ndarray, shape (3, N), float64
        In mm, RAS+.
    unit : ndarray, shape (3,), float64
        The axis in voxels that the shift is along.
    shift, scale : ndarray of float32, shape (N,), or None
        Voxels added to the coordinates, and factor of the values.
    into : ndarray of int32, shape (N,)
        The places of the values in `out`.
    out : ndarray of float32
        What is filled: zero where a point is a voxel and more outside.
    first, last : int
        Which points.
    """
    row = np.uintp(shape[2] + 2 * taps.pad)
    step = np.uintp(shape[1] + 2 * taps.pad) * row
    start, t = np.empty(BLOCK, np.int32), np.empty((3, BLOCK), np.float32)
    for low in range(first, last, BLOCK):
        n = min(last - low, BLOCK)
        _place(shape, taps, matrix, points, unit, shift, low, n, start, t)
        for k in range(n):
            value = np.float32(0)
            if start[k] >= 0:
                place = np.uintp(start[k])
                value = _weigh(padded, place, step, row, taps.polynomial, t[0, k], t[1, k], t[2, k])
                if scale is not None:
                    value *= scale[low + k]
            out[into[low + k]] = value


@jit_apart
def _place(  # noqa: PLR0913, PLR0917
    shape: Any, taps: Any, matrix: Any, points: Any, unit: Any, shift: Any, low: int, n: int,
    start: Any, t: Any,
) -> None:  # fmt: skip
    """Find the lowest voxel around each point of a block (-1: outside), and t along each axis."""
    X, Y, Z = float(shape[0]), float(shape[1]), float(shape[2])
    lift, row = taps.lift, Z + 2 * taps.pad
    step = (Y + 2 * taps.pad) * row
    for k in range(n):
        p, q, r = points[0, low + k], points[1, low + k], points[2, low + k]
        x = matrix[0, 0] * p + matrix[0, 1] * q + matrix[0, 2] * r + matrix[0, 3]
        y = matrix[1, 0] * p + matrix[1, 1] * q + matrix[1, 2] * r + matrix[1, 3]
        z = matrix[2, 0] * p + matrix[2, 1] * q + matrix[2, 2] * r + matrix[2, 3]
        if shift is not None:
            moved = np.float64(shift[low + k])
            x += unit[0] * moved
            y += unit[1] * moved
            z += unit[2] * moved
        inside = (x > -1.0) & (y > -1.0) & (z > -1.0) & (x < X) & (y < Y) & (z < Z)
        x, y, z = x + lift, y + lift, z + lift
        i, j, l = np.floor(x), np.floor(y), np.floor(z)  # noqa: E741
        start[k] = np.int32(i * step + j * row + l) if inside else np.int32(-1)
        t[0, k], t[1, k], t[2, k] = x - i - _HALF, y - j - _HALF, z - l - _HALF


@_intrinsic  # type: ignore[untyped-decorator]
def _weigh(  # noqa: PLR0913, PLR0917
    _context: Any, padded: Any, start: Any, step: Any, row: Any, polynomial: Any,
    tx: Any, ty: Any, tz: Any,
) -> Any:  # fmt: skip
    """Sum the voxels of a cube times their weights, the last axis in one vector.

    Written in the compiler's own language, because a loop would be vectorised over points: that
    gathers voxels one by one and takes three times as long.
    """
    n, signature = (
        len(polynomial[0]),
        types.float32(padded, start, step, row, polynomial, tx, ty, tz),
    )
    vector = ir.VectorType(ir.FloatType(), n)

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        padded, start, step, row, polynomial, *t = args
        data = context.make_array(signature.args[0])(context, b, padded).data
        table = [_pack(b, _items(b, line)) for line in _items(b, polynomial)]
        wx, wy, wz = (_horner(b, table, _pack(b, [x] * n)) for x in t)
        cube, plane_start = None, start
        for i in range(n):
            plane, place = None, plane_start
            for j in range(n):
                at = b.bitcast(b.gep(data, [place]), vector.as_pointer())
                plane = _add_product(b, plane, b.load(at, align=4), _spread(b, wy, j))
                place = b.add(place, row)
            cube = _add_product(b, cube, plane, _spread(b, wx, i))
            plane_start = b.add(plane_start, step)
        total = None
        for part in _lanes(b, b.fmul(cube, wz)):
            total = part if total is None else b.fadd(total, part)
        return total

    return signature, build


def _horner(b: Any, table: Any, t: Any) -> Any:
    value = table[-1]
    for line in table[-2::-1]:
        value = _add_product(b, line, value, t)
    return value


def _add_product(b: Any, total: Any, x: Any, y: Any) -> Any:
    """Add x y to the total, in one instruction where there is one."""
    product = b.fmul(x, y, flags=("contract",))
    return product if total is None else b.fadd(total, product, flags=("contract",))


def _items(b: Any, struct: Any) -> list[Any]:
    return [b.extract_value(struct, i) for i in range(len(struct.type.elements))]


def _lanes(b: Any, vector: Any) -> list[Any]:
    return [b.extract_element(vector, _index(i)) for i in range(vector.type.count)]


def _pack(b: Any, values: list[Any]) -> Any:
    """Put values into the lanes of a vector."""
    vector = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
    for i, value in enumerate(values):
        vector = b.insert_element(vector, value, _index(i))
    return vector


def _spread(b: Any, vector: Any, i: int) -> Any:
    """Put one lane of a vector into all."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.type.count), [i] * vector.type.count)
    return b.shuffle_vector(vector, vector, lanes)


def _index(i: int) -> Any:
    return ir.Constant(ir.IntType(32), i)
