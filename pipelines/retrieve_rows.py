"""Embeddings by the block: rows of an index come from one array or from many shards.

Whatever blocks the rows come in, they are handed on in blocks of one size, so that an index does
not depend on how its shards were cut, and a million vectors never lie in memory twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Blocks", "Survey", "block_rows", "check_vectors", "draw", "gather", "iterate", "survey"]

Blocks: TypeAlias = "NDArray[np.floating] | Iterable[NDArray[np.floating]]"
"""All rows (N, D), or blocks of them (n, D). What is no array is read again at each pass."""
BLOCK_BYTES: Final = 64 * 2**20
"""Bytes of one block: 58,254 vectors of 288 numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What one pass over the rows tells.

    Parameters
    ----------
    n_rows : int
        Number of vectors, N.
    dimension : int
        Length of a vector, D.
    mean : ndarray, shape (D,), float64
        Over all rows.
    """

    n_rows: int
    dimension: int
    mean: NDArray[np.float64]


def survey(rows: Blocks) -> Survey:
    """Count the rows and check each.

    Parameters
    ----------
    rows : ndarray, shape (N, D), or iterable of ndarray, shape (n, D)
        All rows, or blocks of them; an iterable is read again at each pass.

    Raises
    ------
    DataError
        If there is no row, lengths differ, a value is not finite, or a vector has no length.
    """
    n_rows, n_bad, first_bad = 0, 0, 0
    total: NDArray[np.float64] | None = None
    for block in iterate(rows):
        lengths = np.linalg.norm(block, axis=1)
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if bad.size and not n_bad:
            first_bad = n_rows + int(bad[0])
        n_bad += bad.size
        n_rows += len(block)
        part = block.sum(axis=0, dtype=np.float64)
        total = part if total is None else total + part
    if total is None:
        raise _shapeless("the embeddings", (0,))
    if n_bad:
        raise _bad("the embeddings", first_bad, n_bad)
    return Survey(n_rows=n_rows, dimension=total.size, mean=total / n_rows)


def iterate(rows: Blocks) -> Iterator[NDArray[np.float32]]:
    """Hand on the rows in blocks of one size; the last may be smaller.

    Parameters
    ----------
    rows : ndarray, shape (N, D), or iterable of ndarray, shape (n, D)
        All rows, or blocks of them.

    Yields
    ------
    ndarray, shape (n, D), float32
        C order.

    Raises
    ------
    DataError
        If a block is no table of numbers, or two have vectors of different lengths.
    """
    waiting: list[NDArray[np.float32]] = []
    n_waiting = 0
    for piece in _pieces(rows):
        if waiting and piece.shape[1] != waiting[0].shape[1]:
            raise DataError(
                f"one block holds vectors of {waiting[0].shape[1]} numbers, the next of "
                f"{piece.shape[1]}",
                fix="join embeddings of the same model and parcellation",
            )
        size = block_rows(piece.shape[1])
        waiting.append(piece)
        n_waiting += len(piece)
        if n_waiting < size:
            continue
        together = _join(waiting)
        whole = n_waiting - n_waiting % size
        for start in range(0, whole, size):
            yield together[start : start + size]
        waiting, n_waiting = [together[whole:]], n_waiting - whole
    if n_waiting:
        yield _join(waiting)


def gather(rows: Blocks, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pick rows by number.

    Parameters
    ----------
    rows : ndarray, shape (N, D), or iterable of ndarray, shape (n, D)
        All rows, or blocks of them.
    wanted : ndarray, shape (M,), int
        Row numbers, ascending.

    Returns
    -------
    ndarray, shape (M, D), float32
        In the order of ``wanted``.
    """
    picked, start = [], 0
    for block in iterate(rows):
        low, high = np.searchsorted(wanted, (start, start + len(block)))
        picked.append(block[wanted[low:high] - start])
        start += len(block)
    return np.concatenate(picked)


def draw(n_rows: int, most: int, *, seed: Sequence[int]) -> NDArray[np.int64]:
    """Draw row numbers, ascending: at most so many, all if there are no more."""
    if n_rows <= most:
        return np.arange(n_rows, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(n_rows, most, replace=False)
    return np.sort(drawn).astype(np.int64)


def check_vectors(vectors: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    """Check vectors that are asked with, and hand them back as faiss takes them.

    Raises
    ------
    DataError
        If they are no table, a value is not finite, or a vector has no length.
    """
    found = np.ascontiguousarray(vectors, dtype=np.float32)
    if found.ndim != 2 or not found.size:
        raise _shapeless(name, found.shape)
    lengths = np.linalg.norm(found, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise _bad(name, int(bad[0]), bad.size)
    return found


def block_rows(dimension: int) -> int:
    """Say how many vectors of a length make one block."""
    return max(1, BLOCK_BYTES // (4 * dimension))


def _pieces(rows: Blocks) -> Iterator[NDArray[np.float32]]:
    """Cut a large array into views; take blocks as they come, a single vector as one row."""
    if not isinstance(rows, np.ndarray):
        for block in rows:
            yield _table(np.atleast_2d(block))
        return
    if rows.ndim != 2 or not rows.size:
        raise _shapeless("the embeddings", rows.shape)
    size = block_rows(rows.shape[1])
    for start in range(0, len(rows), size):
        yield _table(rows[start : start + size])


def _table(block: NDArray[np.floating]) -> NDArray[np.float32]:
    found = np.ascontiguousarray(block, dtype=np.float32)
    if found.ndim != 2 or not found.size:
        raise _shapeless("the embeddings", found.shape)
    return found


def _join(blocks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    kept = [block for block in blocks if len(block)]
    return kept[0] if len(kept) == 1 else np.concatenate(kept)


def _shapeless(name: str, shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"{name} have shape {shape}; one row of numbers for each run was expected",
        fix="embed at least one run before an index is built or asked",
    )


def _bad(name: str, first: int, n_bad: int) -> DataError:
    return DataError(
        f"{name}: row {first} is not finite or has no length, as have {n_bad} in all",
        fix="embed these runs again, or leave them out",
    )
