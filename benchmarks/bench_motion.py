"""Head motion beside ``ants.motion_correction``, on one phantom run, in one process and thread.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_motion.py [VOLUMES]

Prints CPU seconds a volume, the ratio, and our error; how exact both are under disturbances is
printed by ``tests/pipelines/preprocess/test_motion_truth.py`` (``make test-slow``).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import ants
import numpy as np

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import iter_volumes, open_image
from neurostorm_app.pipelines.phantom import make_phantom, read_run_truth, score_motion
from neurostorm_app.pipelines.preprocess.head.motion import MotionEstimator, estimate_motion


def timed(work):
    began = time.process_time()
    done = work()
    return done, time.process_time() - began


def main(n_volumes: int) -> None:
    folder = Path(tempfile.mkdtemp())
    truth = make_phantom(folder / "bids", participants=1, runs=1, seed=1, n_volumes=n_volumes)
    bold = next((folder / "bids").rglob("*_task-rest_run-1_bold.nii.gz"))
    run = read_run_truth(next(iter(truth.runs.values())))
    grid = Grid.of(open_image(bold))
    volumes = list(iter_volumes(bold))
    reference = volumes[0]
    mask = reference > 0.3 * np.percentile(reference, 99)
    MotionEstimator(reference, grid, mask)(reference)  # compiles what is not kept yet
    found, mine = timed(lambda: estimate_motion(volumes, MotionEstimator(reference, grid, mask)))
    ants.config.set_ants_deterministic(on=True, seed_value=1)  # one thread
    series = ants.from_numpy(np.stack(volumes, -1), spacing=[*grid.zooms, 2.0])
    fixed = ants.from_numpy(reference, spacing=list(grid.zooms))
    _, yours = timed(
        lambda: ants.motion_correction(series, fixed=fixed, type_of_transform="BOLDRigid")
    )
    score = score_motion(run, np.asarray(found))
    print(f"head motion, CPU-s a volume: ours {mine / n_volumes:.3f}, ants.motion_correction "
          f"{yours / n_volumes:.3f}, ratio {yours / mine:.1f}; our error, 95th percentile: "
          f"{score['p95_mm']:.3f} mm, {score['p95_deg']:.3f} degrees")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
