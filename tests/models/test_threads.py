"""Parts of one computation in several threads."""

from __future__ import annotations

import subprocess
import sys

import torch

from neurostorm_app.models.threads import by_slabs, run_parts

NESTED = """
import threading, torch
torch.set_num_threads(2)
from neurostorm_app.models.threads import by_slabs
x = torch.arange(32.0).reshape(2, 16)
out = []
def inner(row):
    return by_slabs(lambda r: r + 1, row, axis=1, thickness=4, shape=tuple(row.shape))
def outer():
    with torch.inference_mode():
        out.append(by_slabs(inner, x, axis=1, thickness=8, shape=(2, 16)))
thread = threading.Thread(target=outer, daemon=True)
thread.start()
thread.join(300)
assert not thread.is_alive(), "the threads wait for each other"
assert torch.equal(out[0], x + 1)
"""


def test_parts_of_parts_started_in_a_new_thread_come_to_an_end() -> None:
    """A fresh process: torch gives each thread its number when it is first asked."""
    done = subprocess.run(
        [sys.executable, "-c", NESTED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_each_part_is_done_once_whatever_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            seen: list[int] = []
            run_parts(seen.append, range(20))
            assert sorted(seen) == list(range(20))
    finally:
        torch.set_num_threads(before)


def test_slabs_are_put_back_where_they_were_cut() -> None:
    x = torch.arange(2 * 3 * 8.0).reshape(2, 8, 3)
    with torch.inference_mode():
        got = by_slabs(lambda slab: slab * 2, x, axis=1, thickness=2, shape=(2, 8, 3))
    assert torch.equal(got, x * 2)
