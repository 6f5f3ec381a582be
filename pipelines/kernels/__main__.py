"""Compile the loops ahead, and say where they are kept."""

from __future__ import annotations

import numpy as np

from neurostorm_app.models.kernels import scan_cache
from neurostorm_app.pipelines.kernels import alignment, sampling, spline
from neurostorm_app.pipelines.kernels.taps import METHODS, taps_of


def main() -> None:
    """Run each loop once; that of the resampler for each method, with and without distortion."""
    volume, shape = np.zeros((2, 2, 2), dtype=np.float32), (2, 2, 2)
    for order in ("C", "F", None):
        spline.spline_coefficients(np.asarray(volume, order=order) if order else volume[::1, ::-1])
    points, matrix, unit = np.zeros((3, 1)), np.eye(4)[:3], np.zeros(3)
    into, one = np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.float32)
    for method in METHODS:
        taps = taps_of(method)
        padded = spline.pad_voxels(volume, taps.pad).ravel()
        for shift, scale in ((None, None), (one, None), (one, one)):
            sampling.sample(
                padded, shape, taps, matrix, points, unit, shift, scale, into, one.copy(), 0, 1
            )
    align()
    print(scan_cache())  # noqa: T201


def align() -> None:
    """Run the loops of the motion estimator once, on a volume of one voxel and on one point."""
    flat, cube = np.ones((1, 1), dtype=np.float32), np.ones((1, 1, 1), dtype=np.float32)
    band, one = np.zeros((1, 2), dtype=np.intp), np.ones(1, dtype=np.float32)
    alignment.filter_axes(
        cube, (flat, flat, flat), (band, band, band), flat.copy(), flat.copy()[None], cube.copy()
    )
    matrix, point, corner = np.eye(4)[:3].copy(), np.zeros((3, 1)), np.zeros(3)
    inside = np.zeros(1, dtype=np.bool_)
    alignment.find_inside(matrix, point, corner, corner, inside)
    alignment.find_residuals(one, flat, one, one.copy())
    alignment.weigh(one, inside, np.float32(1), one.copy())
    alignment.add_normal(flat, one, one, np.zeros((alignment.TILE, alignment.TILE)))


if __name__ == "__main__":
    main()
