"""Reading a large NIfTI from front to end: gzip readers side by side, in one process.

    .venv/bin/python benchmarks/bench_reading.py [VOLUMES]

Makes an fMRIPrep-like series, 91 x 109 x 91, as int16 and as float32, and reads its bytes volume by
volume with each reader that is installed. The peer is nibabel's default: indexed_gzip where that is
installed, else Python's gzip. The last line of each table is `iter_volumes`, which also scales and
checks. Best of three; the file is in the page cache.
"""

from __future__ import annotations

import gzip
import importlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from neurostorm_app.pipelines.grid import standard_grid
from neurostorm_app.pipelines.image import iter_volumes, read_volume, write_series
from neurostorm_app.pipelines.templates import load_template

SPACE = "MNI152NLin6Asym"


def make_series(path: Path, n_volumes: int, dtype: str) -> None:
    """Write a masked brain with anatomy, slow signal and noise."""
    rng = np.random.default_rng(1)
    mask, grid = read_volume(load_template(SPACE, "2").mask)
    anatomy = mask * (900 + 200 * np.sin(grid.world() @ [0.05, 0.08, 0.11]))
    drift = rng.normal(0, 0.01, (n_volumes, 4)).cumsum(axis=0)
    parts = [np.sin(grid.world() @ rng.normal(0, 0.05, 3)) for _ in range(4)]
    # A tenth of the noise is drawn anew for each volume: to draw all of it takes minutes.
    noise = rng.normal(0, 15, (11, *grid.shape)).astype(np.float32)

    def volumes():
        for t in range(n_volumes):
            change = 1 + sum(d * part for d, part in zip(drift[t], parts, strict=True)) / 50
            grain = noise[t % 11] + np.roll(noise[(t // 11) % 11], t, axis=0)
            yield ((anatomy * change + grain) * (mask > 0.5)).astype(dtype)

    write_series(
        path, volumes(), grid=standard_grid(SPACE, "2"), n_volumes=n_volumes, tr=0.8,
        dtype=dtype, code=4, n_threads=2,
    )  # fmt: skip


def read_bytes(opener, path: Path, size: int) -> int:
    """Read the header and then blocks of one volume, to the end."""
    total = 0
    with opener(path) as file:
        total += len(file.read(352))
        while block := file.read(size):
            total += len(block)
    return total


def openers() -> dict[str, object]:
    """Ways to open a gzip file for reading, those that are installed."""
    found = {
        "nibabel's default": lambda path: nib.openers.ImageOpener(str(path)),
        "gzip (zlib)": partial(gzip.open, mode="rb"),
    }
    wanted = {
        "isal igzip": ("isal.igzip", lambda m, p: m.open(p, "rb")),
        "isal igzip_threaded, 1 thread": (
            "isal.igzip_threaded",
            lambda m, p: m.open(p, "rb", threads=1),
        ),
        "rapidgzip, 1 thread": ("rapidgzip", lambda m, p: m.open(str(p), parallelization=1)),
        "rapidgzip, 2 threads": ("rapidgzip", lambda m, p: m.open(str(p), parallelization=2)),
        "indexed_gzip": ("indexed_gzip", lambda m, p: m.IndexedGzipFile(str(p))),
        "zlib-ng": ("zlib_ng.gzip_ng", lambda m, p: m.open(p, "rb")),
    }
    for name, (module, opened) in wanted.items():
        try:
            found[name] = partial(opened, importlib.import_module(module))
        except ImportError:
            print(f"{name}: not installed")
    return found


def best(work, n: int = 3) -> tuple[float, float]:
    """Least wall and CPU seconds of a few tries."""
    walls, cpus = [], []
    for _ in range(n):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def main(n_volumes: int) -> None:
    """Print one table a type of number."""
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("int16", "float32"):
            path = Path(folder) / f"{dtype}.nii.gz"
            make_series(path, n_volumes, dtype)
            volume = 91 * 109 * 91 * np.dtype(dtype).itemsize
            size = 352 + n_volumes * volume
            print(f"\n91x109x91x{n_volumes} {dtype}: {size / 1e6:.0f} MB in "
                  f"{path.stat().st_size / 1e6:.0f} MB of gzip")  # fmt: skip
            peer = None
            works = {
                name: partial(read_bytes, opened, path, volume)
                for name, opened in openers().items()
            }
            for name, work in works.items():
                assert work() == size, name
                wall, cpu = best(work)
                peer = peer or wall
                print(f"{name:32s} {wall:6.2f} s wall {cpu:6.2f} s CPU {size / wall / 1e6:6.0f} "
                      f"MB/s  {peer / wall:4.1f} times")  # fmt: skip
            wall, cpu = best(lambda path=path: sum(1 for _ in iter_volumes(path)))
            print(f"{'iter_volumes, scaled and checked':32s} {wall:6.2f} s wall {cpu:6.2f} s CPU "
                  f"{size / wall / 1e6:6.0f} MB/s  {peer / wall:4.1f} times")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
