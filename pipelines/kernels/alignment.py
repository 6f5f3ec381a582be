"""Loops of the motion estimator: a volume filtered along its axes, and weighted normal equations.

Both work on one volume in one thread and in a fixed order, so that the bits do not depend on how
many volumes are measured at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neurostorm_app.models.kernels.elementary import jit_apart, jit_sums, kept_jit_apart

__all__ = ["TILE", "add_normal", "filter_axes", "find_inside", "find_residuals", "weigh"]

TILE = 4
"""Columns that are multiplied with another one at a time."""
BLOCK = 256
"""Points whose products are summed in float32 before they are added up in float64."""
_ZERO, _ONE = np.float32(0), np.float32(1)


@kept_jit_apart
def filter_axes(volume: Any, along: Any, bands: Any, once: Any, twice: Any, out: Any) -> None:
    """Multiply a volume along its three axes by matrices with few non-zero entries in a row.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z), float32
        C order.
    along : tuple of ndarray, shapes (A, X), (B, Y), (Z, C), float32
        What it is multiplied by; the last one is transposed.
    bands : tuple of ndarray, shapes (A, 2), (B, 2), (Z, 2), int
        From where to where the rows are not zero.
    once, twice : ndarray, shapes (Y, C) and (X, B, C), float32
        Scratch.
    out : ndarray, shape (A, B, C), float32
        What is filled.
    """
    for i in range(volume.shape[0]):
        once[:] = _ZERO
        for j in range(volume.shape[1]):
            for k in range(volume.shape[2]):
                value = volume[i, j, k]
                for c in range(bands[2][k, 0], bands[2][k, 1]):
                    once[j, c] += value * along[2][k, c]
        _mix(once, along[1], bands[1], twice[i])
    n = out.shape[1] * out.shape[2]
    _mix(twice.reshape(volume.shape[0], n), along[0], bands[0], out.reshape(out.shape[0], n))


@jit_apart
def _mix(rows: Any, matrix: Any, bands: Any, out: Any) -> None:
    """Multiply rows (n, m) by a matrix (p, n) from the left."""
    out[:] = _ZERO
    for a in range(out.shape[0]):
        for i in range(bands[a, 0], bands[a, 1]):
            share = matrix[a, i]
            for k in range(out.shape[1]):
                out[a, k] += share * rows[i, k]


@kept_jit_apart
def find_inside(matrix: Any, points: Any, low: Any, high: Any, inside: Any) -> int:
    """Tell which points (3, N), moved by a matrix (3, 4), lie between two corners; count them."""
    n = 0
    for p in range(points.shape[1]):
        x, y, z = points[0, p], points[1, p], points[2, p]
        fair = True
        for axis in range(3):
            row = matrix[axis]
            where = row[0] * x + row[1] * y + row[2] * z + row[3]
            fair &= (where > low[axis]) & (where < high[axis])
        inside[p] = fair
        n += fair
    return n


@kept_jit_apart
def find_residuals(seen: Any, columns: Any, nuisance: Any, out: Any) -> None:
    """Take off what the columns (K, N) explain of what is seen, by numbers (K,)."""
    out[:] = seen
    for low in range(0, seen.size, BLOCK):
        high = min(low + BLOCK, seen.size)
        for c in range(nuisance.size):
            row, share = columns[c], nuisance[c]
            for p in range(low, high):
                out[p] -= row[p] * share


@kept_jit_apart
def weigh(residuals: Any, inside: Any, cut: Any, weights: Any) -> None:
    """Give each point Tukey's weight (1 - (r / cut)^2)^2; zero beyond the cut and outside."""
    for p in range(residuals.size):
        u = residuals[p] / cut
        rest = max(_ONE - u * u, _ZERO)
        weights[p] = rest * rest if inside[p] else _ZERO


@kept_jit_apart
def add_normal(columns: Any, seen: Any, weights: Any, normal: Any) -> None:
    """Sum the weighted products of all columns, and of them with what is seen.

    Parameters
    ----------
    columns : ndarray, shape (K, N), float32
        One row a column; K + 1 is at most the size of `normal`.
    seen, weights : ndarray, shape (N,), float32
        Values of the volume, and how much they count.
    normal : ndarray, shape (M, M), float64
        What is filled below the diagonal and on it; M is a multiple of ``TILE``. Row and column
        K are those of `seen`.
    """
    size, n_columns = normal.shape[0], columns.shape[0]
    plain, weighted = np.zeros((size, BLOCK), np.float32), np.zeros((size, BLOCK), np.float32)
    normal[:] = 0.0
    for low in range(0, seen.size, BLOCK):
        n = min(BLOCK, seen.size - low)
        for c in range(n_columns + 1):
            row = seen if c == n_columns else columns[c]
            for p in range(n):
                plain[c, p] = row[low + p]
                weighted[c, p] = row[low + p] * weights[low + p]
        plain[:, n:] = _ZERO
        for i in range(n_columns + 1):
            for j in range(0, i + 1, TILE):
                _add_products(weighted[i], plain[j : j + TILE], normal[i, j : j + TILE])


@jit_sums
def _add_products(row: Any, rows: Any, sums: Any) -> None:
    """Add the products of a row with four others."""
    a, b, c, d = _ZERO, _ZERO, _ZERO, _ZERO
    for p in range(BLOCK):
        a += row[p] * rows[0, p]
        b += row[p] * rows[1, p]
        c += row[p] * rows[2, p]
        d += row[p] * rows[3, p]
    sums[0] += a
    sums[1] += b
    sums[2] += c
    sums[3] += d
