"""One-shot resampling of BOLD volumes to MNI 2 mm beside scipy, on two common grids.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_resampling.py [VOLUMES]

The peer is what fMRIPrep does a volume since 23.2: coordinates composed, then
``scipy.ndimage.map_coordinates`` with prefilter, float32. Ours and the peer's turns alternate.
CPU seconds say what a volume costs, wall seconds what one waits while others use the machine.
The peak is of the memory above that before, for volumes, coordinates and results together.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid, standard_grid
from neurostorm_app.pipelines.resample import Distortion, resample_series

TARGET = standard_grid("MNI152NLin6Asym", "2")
SOURCES = (((64, 70, 52), (3.0, 3.0, 3.0)), ((80, 80, 35), (3.0, 3.0, 4.0)))
ORDERS = {"cubic": 3, "linear": 1, "nearest": 0}


def tilted(shape, zooms) -> Grid:
    matrix = euler2mat(0.02, -0.1, 0.03) @ np.diag(zooms)
    return Grid(shape, from_matvec(matrix, [0, -18, 10] - matrix @ ((np.array(shape) - 1) / 2)))


def peer(volumes, source, shift, motion, order):
    points = TARGET.world().reshape(-1, 3)
    to_voxels = np.linalg.inv(source.affine)
    where = apply_affine(to_voxels, points).T
    moved = ndimage.map_coordinates(shift, where, order=1, mode="nearest")
    for volume, matrix in zip(volumes, motion, strict=True):
        where = np.ascontiguousarray(apply_affine(to_voxels @ matrix, points).T)
        where[1] += moved
        out = ndimage.map_coordinates(
            volume, where, order=order, mode="grid-constant", output=np.float32
        )
        yield out.reshape(TARGET.shape)


def peak() -> float:
    """Read the peak of resident memory in MiB, give back what is free, and begin a new one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (high,) = (line for line in lines if line.startswith("VmHWM"))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return int(high.split()[1]) / 1024


def timed(stream) -> tuple[np.ndarray, float, float, float]:
    """Consume a stream: its last volume, CPU and wall seconds, MiB above what was in use."""
    peak()
    before, cpu, wall = peak(), time.process_time(), time.perf_counter()
    last = np.empty(0)
    for last in stream:  # noqa: B007 - one volume at a time, as when it is written
        pass
    return last, time.process_time() - cpu, time.perf_counter() - wall, peak() - before


def measure(shape, zooms, n_volumes: int) -> None:
    rng = np.random.default_rng(0)
    source = tilted(shape, zooms)
    volumes = [ndimage.gaussian_filter(rng.normal(0, 1, shape), 1).astype("f4") for _ in range(4)]
    series = [volumes[t % 4] for t in range(n_volumes)]
    motion = [
        from_matvec(euler2mat(*rng.normal(0, 0.01, 3)), rng.normal(0, 0.5, 3)) for _ in series
    ]
    shift = ndimage.gaussian_filter(rng.normal(0, 60, shape), 6).astype("f4")
    given = {"source": source, "target": TARGET, "motion": motion}
    distortion = Distortion(shift=shift, axis=1, jacobian=False)
    where = apply_affine(np.linalg.inv(source.affine), TARGET.world())
    inside = ((where > 6) & (where < np.array(shape) - 7)).all(axis=-1)
    print(f"{shape} of {zooms} mm to {TARGET.shape} of 2 mm, {n_volumes} volumes; a volume:")
    for method in ("cubic", "lanczos", "linear", "nearest"):
        order = ORDERS.get(method, 3)
        few = max(2, n_volumes // 8)
        _, *cost = timed(peer(series[:few], source, shift, motion[:few], order))
        cpu, wall = cost[0] / few, cost[1] / few
        name = "scipy" if method in ORDERS else "scipy's cubic"
        print(f"  {method:8s} {name}: {cpu:.4f} CPU-s, {wall:.4f} s, {cost[2]:.0f} MiB")
        for n_threads in (1, 2):
            list(resample_series(series[:1], **given | {"motion": motion[:1]}, method=method,
                                 distortion=distortion))  # compile  # fmt: skip
            _, mine, waited, used = timed(
                resample_series(
                    series, **given, distortion=distortion, method=method, n_threads=n_threads
                )
            )
            mine, waited = mine / n_volumes, waited / n_volumes
            print(
                f"           {n_threads} thread{'s' * (n_threads > 1)}: {mine:.4f} CPU-s "
                f"(ratio {cpu / mine:.1f}), {waited:.4f} s (ratio {wall / waited:.1f}), "
                f"{used:.0f} MiB"
            )
        if method in ORDERS:
            last = given | {"motion": motion[-1:]}
            (ours,) = resample_series(series[-1:], **last, method=method)
            (theirs,) = peer(series[-1:], source, 0 * shift, motion[-1:], order)
            wrong = np.abs(ours - theirs)[inside].max() / np.ptp(series[-1])
            print(f"           largest difference without a shift: {wrong:.1e} of the range")


def main(n_volumes: int) -> None:
    for shape, zooms in SOURCES:
        measure(shape, zooms, n_volumes)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
