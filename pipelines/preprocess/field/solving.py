"""Large symmetric systems, known by what they do to a vector, and the one that says what bends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["bending", "conjugate_gradients"]

MEMBRANE = 1e-3
"""Of the slope beside that of the curvature: enough to hold a field where nothing is seen."""


def conjugate_gradients(
    apply: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    right: NDArray[np.float64],
    *,
    diagonal: NDArray[np.float64],
    tolerance: float,
    n_steps: int,
) -> NDArray[np.float64]:
    """Solve a symmetric positive system, from zero.

    Parameters
    ----------
    apply : callable
        The matrix.
    right, diagonal : ndarray
        Right side, and about the matrix's diagonal, which scales the search.
    tolerance : float
        Stop when the residual has fallen to this share.
    n_steps : int
        Stop after so many.

    Returns
    -------
    ndarray
        Shape of `right`.
    """
    solution = np.zeros_like(right)
    residual = right.copy()
    scaled = residual / diagonal
    direction = scaled
    size = first = float(np.vdot(residual, scaled))
    for _ in range(n_steps):
        if size <= tolerance**2 * first or first == 0.0:
            return solution
        image = apply(direction)
        length = size / float(np.vdot(direction, image))
        solution = solution + length * direction
        residual = residual - length * image
        scaled = residual / diagonal
        before, size = size, float(np.vdot(residual, scaled))
        direction = scaled + (size / before) * direction
    return solution


def bending(shape: Sequence[int]) -> sparse.csr_matrix:
    """Make the matrix of the sum of squared curvatures, and of a little of the slopes'.

    Parameters
    ----------
    shape : sequence of int, length 3
        Of the coefficients, on knots that are about as far apart along each axis.

    Returns
    -------
    sparse matrix, shape (I * J * K, I * J * K)
        Symmetric; its quadratic form is not negative.
    """
    still: list[Any] = [sparse.identity(n, format="csr") for n in shape]
    slope = [_squared(n, 1) for n in shape]
    curve = [_squared(n, 2) for n in shape]
    n_knots = int(np.prod(shape))
    total: Any = sparse.csr_matrix((n_knots, n_knots))
    for a in range(3):
        total = total + _kron(
            [curve[x] + MEMBRANE * slope[x] if x == a else still[x] for x in range(3)]
        )
        total = total + 2.0 * _kron([still[x] if x == a else slope[x] for x in range(3)])
    return sparse.csr_matrix(total)


def _squared(n: int, order: int) -> Any:
    """Make D'D of the differences of an order."""
    differences = sparse.csr_matrix(np.diff(np.eye(n), n=order, axis=0))
    return differences.T @ differences


def _kron(parts: Sequence[Any]) -> Any:
    return sparse.kron(sparse.kron(parts[0], parts[1]), parts[2], format="csr")
