"""An EPI of a field map: how it was encoded, and the mean of its volumes at rest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import iter_volumes, open_image
from neurostorm_app.pipelines.preprocess.field.encoding import find_readout, read_phase
from neurostorm_app.pipelines.preprocess.head.motion import MotionEstimator, estimate_motion
from neurostorm_app.pipelines.preprocess.head.reference import rough_head
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.stage import Scan

__all__ = ["Epi", "read_epi"]

N_AVERAGED = 10
"""Volumes of a scan that are averaged."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Epi:
    """An average EPI and how it was encoded.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    volume : ndarray, shape (X, Y, Z)
        Brightness.
    grid : Grid
        Of `volume`, as stored.
    phase : tuple of int
        Voxel axis and sign of the phase encoding.
    readout : float
        Total readout time, s.
    source : str
        What the readout time was taken from.
    """

    name: str
    volume: NDArray[np.float32]
    grid: Grid
    phase: tuple[int, int]
    readout: float
    source: str = "TotalReadoutTime"


def read_epi(scan: Scan, *, fallback_readout: float | None = None) -> Epi:
    """Read a scan of a pair: its encoding, and the mean of its volumes at rest.

    Raises
    ------
    DataError
        If the sidecar does not say how it was encoded.
    """
    image = open_image(scan.path)
    grid = Grid.of(image, scan.path)
    axis, sign = read_phase(scan.metadata, scan.path)
    readout, source = find_readout(
        scan.metadata, n_phase=grid.shape[axis], path=scan.path, fallback=fallback_readout
    )
    volumes = list(itertools.islice(iter_volumes(scan.path), N_AVERAGED))
    return Epi(
        name=scan.path.name,
        volume=_at_rest(volumes, grid),
        grid=grid,
        phase=(axis, sign),
        readout=readout,
        source=source,
    )


def _at_rest(volumes: list[NDArray[np.float32]], grid: Grid) -> NDArray[np.float32]:
    """Average volumes after their motion against the first one was taken off."""
    if len(volumes) == 1:
        return volumes[0]
    estimator = MotionEstimator(volumes[0], grid, rough_head(volumes[0]))
    matrices = estimate_motion(volumes[1:], estimator)
    still = [
        resample_volume(volume, source=grid, target=grid, xfm=Affine(matrix))
        for volume, matrix in zip(volumes[1:], matrices, strict=True)
    ]
    return np.asarray(np.mean([volumes[0], *still], axis=0), dtype=np.float32)
