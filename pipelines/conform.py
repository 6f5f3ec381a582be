"""From a preprocessed run to the grid and the repetition time of a model, volume by volume.

A series in another standard space than the contract's is carried over by one trilinear
interpolation; one in the same space is cropped, flipped and padded where the lattices coincide,
and interpolated once where they do not. Only voxels of the brain are carried, a quarter of a
grid; what lies outside is background anyway. Volumes are streamed, so memory does not grow with
time, unless room is given to keep the brain of the whole run and read the file once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
from neurostorm_app.pipelines.grid import Grid, vox2vox
from neurostorm_app.pipelines.regrid import find_method, onto_grid, sampling_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from neurostorm_app.models.card import VolumeContract
    from neurostorm_app.pipelines.series import SeriesFile
    from neurostorm_app.pipelines.stage import StandardSeries

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]
    Carry = Callable[[NDArray[np.float32]], NDArray[np.float32]]

__all__ = ["ConformedSeries", "conform_series"]

SOME = 1e-6
"""Share of brain from which a voxel counts as touched by it; less is rounding."""


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
        Takes a volume on the grid of the series, gives the voxels of `mask`, in C order.
    positions : ndarray, shape (T',)
        Where the volumes of the result lie, in volumes of the series.
    room : int
        Bytes that the brain of the run may take in memory; if they are enough, the file is read
        once however often it is asked for.
    """

    series: SeriesFile
    target: Grid
    mask: NDArray[np.bool_]
    carry: Carry
    positions: NDArray[np.float64]
    room: int = 0
    _kept: list[NDArray[np.float32]] = field(default_factory=list, init=False, repr=False)

    @property
    def n_volumes(self) -> int:
        """Volumes at the contract's repetition time."""
        return len(self.positions)

    def values(self) -> Iterator[NDArray[np.float32]]:
        """Read the series; yields the voxels of `mask`, shape (n,), volume by volume.

        They are on the contract's grid and time axis, in the unit of the series.
        """
        return _in_time(self._carried(), self.positions)

    def _carried(self) -> Iterator[NDArray[np.float32]]:
        if len(self._kept) == self.series.n_volumes:
            yield from self._kept
            return
        self._kept.clear()
        keep = 4 * np.count_nonzero(self.mask) * self.series.n_volumes <= self.room
        for volume in self.series.volumes():
            carried = self.carry(volume)
            if keep:
                self._kept.append(carried)
            yield carried


def conform_series(
    series: SeriesFile,
    run: StandardSeries,
    contract: VolumeContract,
    *,
    brain: NDArray[np.bool_],
    room: int = 0,
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
        Brain mask on the grid of the series; outside of it values need not be finite.
    room : int
        Bytes that the brain of the run may take in memory, so that the file is read once.

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
    method, mask, carry = _find_way(series.grid, target, brain, maps and maps[0])
    conformed = ConformedSeries(
        series=series.within(brain),
        target=target,
        mask=mask,
        carry=carry,
        positions=place_volumes(
            series.n_volumes, run, contract.tr, findings, keep=contract.tr_range
        ),
        room=room,
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


def _find_way(
    source: Grid, target: Grid, brain: NDArray[np.bool_], to_source: PointMap | None
) -> tuple[str, NDArray[np.bool_], Carry]:
    """Name the interpolation, carry the mask, and build what carries the voxels in it."""
    share = brain.astype(np.float32)
    if to_source is not None:
        voxels = apply_affine(np.linalg.inv(source.affine), to_source(target.world()))
        where = np.moveaxis(voxels, -1, 0).astype(np.float32)
        mask = ndimage.map_coordinates(share, where, order=1, mode="grid-constant") > SOME
        return "linear", mask, _sampler(voxels[mask], source)
    method = find_method(source, target)
    mask = onto_grid(share, source, target) > SOME
    if method == "block-mean":
        return method, mask, lambda volume: onto_grid(volume, source, target)[mask]
    voxels = apply_affine(vox2vox(source.affine, target.affine), np.argwhere(mask))
    return method, mask, (_gatherer if method == "exact" else _sampler)(voxels, source)


def _gatherer(voxels: NDArray[np.float64], source: Grid) -> Carry:
    """Pick voxels where the lattices coincide: nothing is interpolated."""
    # Volumes come in the order of the file, first axis fastest.
    index = np.rint(voxels).T.astype(np.intp)
    places = np.ravel_multi_index(tuple(index), source.shape, order="F")
    return lambda volume: volume.ravel(order="F")[places]


def _sampler(voxels: NDArray[np.float64], source: Grid) -> Carry:
    """Interpolate trilinearly at points, with weights that are worked out once."""
    matrix = sampling_matrix(voxels, source.shape)
    return lambda volume: np.asarray(matrix @ volume.ravel(order="F"), dtype=np.float32)


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
