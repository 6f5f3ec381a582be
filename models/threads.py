"""Parts of one computation in several threads, each of which computes alone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["by_slabs", "pays", "run_parts"]

Part = TypeVar("Part")


def pays(x: Tensor) -> bool:
    """Tell whether to work in parts: on a CPU, unless gradients need all that is in between."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def run_parts(work: Callable[[Part], object], parts: Sequence[Part]) -> None:
    """Do the work on each part, in as many threads as torch would use for one operation.

    In each of them torch computes with that thread alone. So the threads need not meet after
    every operation, and the bits of a part do not depend on their number. A part that is itself
    divided runs in the thread it is in.

    Parameters
    ----------
    work : callable
        What is done; it must not care about the order of the parts.
    parts : sequence
        What it is done to.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        for part in parts:
            work(part)
        return
    inference, device = torch.is_inference_mode_enabled(), "cpu"
    grad, mixed = torch.is_grad_enabled(), torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)

    def alike(part: Part) -> None:
        """Work in the modes of the caller, which belong to its thread."""
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(grad),
            torch.autocast(device, dtype, enabled=mixed),
        ):
            work(part)

    for _ in _pool(n_threads, os.getpid()).map(alike, parts):
        pass


def by_slabs(
    work: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    axis: int,
    thickness: int,
    shape: tuple[int, ...],
) -> Tensor:
    """Work on slabs of each item of a batch, where that pays; else on all at once.

    Parameters
    ----------
    work : callable
        Maps slabs to slabs, each for itself; those that come out lie along axis 1.
    x : Tensor
        A batch along axis 0.
    axis, thickness : int
        Where x is cut, and how thick.
    shape : tuple of int
        Of what comes out.

    Returns
    -------
    Tensor
        Of that shape.
    """
    if not pays(x):
        return work(x)
    n_slabs = x.shape[axis] // thickness
    out = x.new_empty(shape)
    after = shape[1] // n_slabs

    def place(part: tuple[int, int]) -> None:
        """Work on one slab of one item."""
        item, slab = part
        cut = x[item : item + 1].narrow(axis, slab * thickness, thickness)
        out[item, slab * after : (slab + 1) * after] = work(cut)[0]

    run_parts(place, [(item, slab) for item in range(len(x)) for slab in range(n_slabs)])
    return out


@lru_cache(maxsize=1)
def _pool(n_threads: int, _process: int) -> ThreadPoolExecutor:
    """Start threads, once; a forked process has none of its parent's."""
    ready = threading.Barrier(n_threads + 1)

    def alone() -> None:
        """Let torch know that nobody helps this thread."""
        torch.get_num_threads()  # a thread's first call takes the number that was set last
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(n_threads, "neurostorm-part", initializer=alone)
    for _ in range(n_threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(n_threads)  # for threads that start later, it is what was set last
    return pool
