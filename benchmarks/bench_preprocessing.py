"""Resampling and head motion beside their peers, on one phantom run, in one process and thread.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_preprocessing.py [VOLUMES]

Peers: scipy's cubic ``map_coordinates`` a volume, as fMRIPrep resamples since 23.2, and
``ants.motion_correction``. Prints CPU seconds a volume, the ratio, and how the numbers differ.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import ants
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid, standard_grid
from neurostorm_app.pipelines.image import iter_volumes, open_image
from neurostorm_app.pipelines.phantom import make_phantom, read_run_truth, score_motion
from neurostorm_app.pipelines.preprocess.motion import MotionEstimator, estimate_motion
from neurostorm_app.pipelines.resample import resample_series
from neurostorm_app.pipelines.xfm import Affine


def peer_resample(volumes, source, target, to_bold, motion):
    points = to_bold(target.world().reshape(-1, 3))
    inverse = np.linalg.inv(source.affine)
    for volume, matrix in zip(volumes, motion, strict=True):
        where = apply_affine(inverse @ matrix, points).T
        moved = ndimage.map_coordinates(volume, where, order=3, mode="grid-constant")
        yield moved.reshape(target.shape)


def timed(work):
    began = time.process_time()
    done = work()
    return done, time.process_time() - began


def main(n_volumes: int) -> None:
    folder = Path(tempfile.mkdtemp())
    truth = make_phantom(folder / "bids", participants=1, runs=1, seed=1, n_volumes=n_volumes)
    bold = next((folder / "bids").rglob("*_task-rest_run-1_bold.nii.gz"))
    run = read_run_truth(next(iter(truth.runs.values())))
    source, target = Grid.of(open_image(bold)), standard_grid("MNI152NLin6Asym", "2")
    to_bold = Affine(run.t1w_to_bold)
    volumes = list(iter_volumes(bold))

    ours, mine = timed(
        lambda: list(
            resample_series(
                bold, source=source, target=target, to_bold=to_bold, motion=list(run.motion)
            )
        )
    )
    theirs, yours = timed(lambda: list(peer_resample(volumes, source, target, to_bold, run.motion)))
    voxels = apply_affine(np.linalg.inv(source.affine), to_bold(target.world()))
    inside = ((voxels > 2) & (voxels < np.asarray(source.shape) - 3)).all(axis=-1)
    span = float(np.ptp(theirs[0][inside]))
    worst = max(
        float(np.abs(a - b)[inside].max()) / span for a, b in zip(ours, theirs, strict=True)
    )
    print(f"one-shot cubic resampling to 2 mm, CPU-s a volume: ours {mine / n_volumes:.3f}, "
          f"scipy as in fMRIPrep {yours / n_volumes:.3f}, ratio {yours / mine:.1f}; "
          f"largest difference {worst:.1e} of the range")  # fmt: skip

    reference = volumes[0]
    mask = reference > 0.3 * np.percentile(reference, 99)
    found, mine = timed(lambda: estimate_motion(volumes, MotionEstimator(reference, source, mask)))
    ants.config.set_ants_deterministic(on=True, seed_value=1)  # one thread
    series = ants.from_numpy(np.stack(volumes, -1), spacing=[*source.zooms, 2.0])
    fixed = ants.from_numpy(reference, spacing=list(source.zooms))
    _, yours = timed(
        lambda: ants.motion_correction(series, fixed=fixed, type_of_transform="BOLDRigid")
    )
    score = score_motion(run, np.asarray(found))
    print(f"head motion, CPU-s a volume: ours {mine / n_volumes:.3f}, ants.motion_correction "
          f"{yours / n_volumes:.3f}, ratio {yours / mine:.1f}; our error, 95th percentile: "
          f"{score['p95_mm']:.3f} mm, {score['p95_deg']:.3f} degrees")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
