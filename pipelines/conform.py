"""From a preprocessed run to the grid and the repetition time of a model, volume by volume.

A series in another standard space than the contract's is carried over by one trilinear
interpolation; one in the same space is cropped, flipped and padded where the lattices coincide,
and interpolated once where they do not. Volumes are streamed, so memory does not grow with time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.pipelines.conformance import (
    Findings,
    find_maps,
    measure_coverage,
    place_volumes,
)
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.regrid import find_method, onto_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from neurostorm_app.models.card import VolumeContract
    from neurostorm_app.pipelines.series import SeriesFile
    from neurostorm_app.pipelines.stage import StandardSeries

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["ConformedSeries", "conform_series"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformedSeries:
    """A series as a model's contract wants it, computed volume by volume.

    Parameters
    ----------
    series : SeriesFile
        The series on disk.
    target : Grid
        The contract's grid.
    mask : ndarray, shape of `target`, bool
        The brain mask there: every voxel into which some brain was interpolated.
    carry : callable
        Takes a volume on the grid of the series, gives it on `target`.
    positions : ndarray, shape (T',)
        Where the volumes of the result lie, in volumes of the series.
    """

    series: SeriesFile
    target: Grid
    mask: NDArray[np.bool_]
    carry: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    positions: NDArray[np.float64]

    @property
    def n_volumes(self) -> int:
        """Volumes at the contract's repetition time."""
        return len(self.positions)

    def volumes(self) -> Iterator[NDArray[np.float32]]:
        """Read the series once; yields volumes (X, Y, Z) on the contract's grid and time axis."""
        carried = (self.carry(volume) for volume in self.series.volumes())
        return _in_time(carried, self.positions)


def conform_series(
    series: SeriesFile, run: StandardSeries, contract: VolumeContract, *, brain: NDArray[np.bool_]
) -> tuple[ConformedSeries, Findings]:
    """Prepare a run for a contract on volumes; voxels are read when they are asked for.

    Parameters
    ----------
    series : SeriesFile
        The run's series.
    run : StandardSeries
        Its space and repetition time.
    contract : VolumeContract
        What the model eats.
    brain : ndarray, shape (X, Y, Z), bool
        Brain mask on the grid of the series.

    Returns
    -------
    conformed : ConformedSeries
        The stream of volumes.
    findings : Findings
        What was done, and the deviations in space and time.

    Raises
    ------
    ContractError
        If the series is in a space from which there is no way to the contract's.
    DataError
        If the repetition time makes no sense.
    """
    findings = Findings()
    maps = find_maps(run, contract.space, findings)
    target = Grid.from_rows(contract.grid.shape, contract.grid.affine)
    carry: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    if maps is None:
        method: str = find_method(series.grid, target)
        carry = partial(onto_grid, source=series.grid, target=target)
    else:
        method, carry = "linear", _carrier(series.grid, target, maps[0])
    conformed = ConformedSeries(
        series=series,
        target=target,
        mask=carry(brain.astype(np.float32)) > 1e-6,
        carry=carry,
        positions=place_volumes(series.n_volumes, run, contract.tr, findings),
    )
    findings.facts |= {
        "space_interpolation": method,
        "n_volumes_in": series.n_volumes,
        "n_volumes_used": conformed.n_volumes,
    }
    measure_coverage(
        brain, series.grid, space=contract.space, findings=findings, xfm=maps and maps[0]
    )
    return conformed, findings


def _carrier(
    source: Grid, target: Grid, to_source: PointMap
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Interpolate trilinearly through a map of points that is worked out once for all volumes."""
    voxels = apply_affine(np.linalg.inv(source.affine), to_source(target.world()))
    where = np.moveaxis(voxels, -1, 0).astype(np.float32)

    def carry(volume: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(
            ndimage.map_coordinates(volume, where, order=1, mode="grid-constant", output=np.float32)
        )

    return carry


def _in_time(
    volumes: Iterable[NDArray[np.float32]], positions: NDArray[np.float64]
) -> Iterator[NDArray[np.float32]]:
    """Interpolate linearly between volumes, holding two of them.

    The same numbers as ``resample_time`` of the whole series.
    """
    needed = np.ceil(positions).astype(int)
    part = (positions - (needed - 1)).astype(np.float32)
    ready, before = 0, np.zeros((), dtype=np.float32)
    for t, volume in enumerate(volumes):
        while ready < len(positions) and needed[ready] == t:
            p = part[ready]
            yield volume if p == 1 else before * (1 - p) + volume * p
            ready += 1
        before = volume
