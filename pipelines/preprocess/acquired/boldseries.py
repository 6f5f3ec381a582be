"""The volumes of a run as acquired, and all that is known of where and when they are.

Every step that looks at a run's series takes it from here, so that slices are aligned in time,
echoes are combined, and each volume is interpolated once, whatever the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.image import iter_volumes, read_volume
from neurostorm_app.pipelines.itk import read_itk_affines
from neurostorm_app.pipelines.preprocess.acquired.slicetiming import SliceTimes, align_slices
from neurostorm_app.pipelines.preprocess.field.distortion import shift_of
from neurostorm_app.pipelines.resample import (
    Distortion,
    PointMap,
    resample_series,
    resample_volume,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["AcquiredSeries", "bold_roles", "finite_part"]


def bold_roles(n_echoes: int) -> tuple[str, ...]:
    """Name the files of a run's echoes, ``bold:1`` and so on."""
    return tuple(f"bold:{number + 1}" for number in range(n_echoes))


def finite_part(facts: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Read where the voxels of a series must be finite; None where all are."""
    return read_volume(Path(facts["head"]))[0] > 0 if facts["head"] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquiredSeries:
    """A run's series, to be looked at on any grid.

    Parameters
    ----------
    echoes : tuple of Path
        The series as acquired, (X, Y, Z, T), one an echo.
    source : Grid
        Their grid, which is that of the BOLD reference.
    motion : ndarray, shape (T, 4, 4)
        Points of the BOLD reference to points of each volume, RAS+ mm.
    timing : SliceTimes or None
        When slices were taken; None leaves them as they are.
    n_skipped : int
        Volumes at the start that are not steady.
    distortion : Distortion or None
        Shift along the phase axis; None leaves it.
    echo_times : tuple of float
        Seconds, one an echo.
    head : ndarray of bool, shape (X, Y, Z), or None
        Where voxels must be finite; elsewhere they count as 0.
    weights : tuple of ndarray, shape (X, Y, Z)
        Of the echoes in their sum, on `source`; empty with a single echo, or before they are
        known.
    n_threads : int
        Volumes at a time; it does not change the numbers.
    device : str
        Where interpolation is computed.
    watch : callable, optional
        Shown each volume of the first echo as acquired.
    """

    echoes: tuple[Path, ...]
    source: Grid
    motion: NDArray[np.float64]
    timing: SliceTimes | None = None
    n_skipped: int = 0
    distortion: Distortion | None = None
    echo_times: tuple[float, ...] = ()
    head: NDArray[np.bool_] | None = None
    weights: tuple[NDArray[np.float32], ...] = ()
    n_threads: int = 1
    device: str = "cpu"
    watch: Callable[[NDArray[np.float32]], None] | None = None

    @classmethod
    def of(
        cls,
        files: Mapping[str, Path],
        *,
        facts: Mapping[str, Any],
        n_threads: int,
        device: str,
        watch: Callable[[NDArray[np.float32]], None] | None = None,
    ) -> AcquiredSeries:
        """Read what the steps before have left.

        Parameters
        ----------
        files : mapping
            ``bold:1`` and further echoes in their order, ``hmc_boldref``, ``hmc_xfm``, and where
            there are, ``field`` and ``echo_weights``.
        facts : mapping
            What the reference step found: ``timing``, ``n_skipped``, ``echo_times``, ``phase``,
            ``readout`` and ``jacobian``.
        n_threads : int
            Volumes at a time.
        device : str
            Where interpolation is computed.
        watch : callable, optional
            Shown each volume of the first echo as acquired.
        """
        _, source = read_volume(files["hmc_boldref"])
        timing = facts["timing"]
        return cls(
            echoes=tuple(path for role, path in files.items() if role.startswith("bold:")),
            source=source,
            motion=read_itk_affines(files["hmc_xfm"]),
            timing=timing and SliceTimes(**{**timing, "times": np.asarray(timing["times"])}),
            n_skipped=facts["n_skipped"],
            distortion=_distortion(files.get("field"), facts),
            echo_times=tuple(facts["echo_times"]),
            head=finite_part(facts),
            weights=tuple(iter_volumes(files["echo_weights"])) if "echo_weights" in files else (),
            n_threads=n_threads,
            device=device,
            watch=watch,
        )

    @property
    def n_volumes(self) -> int:
        """Volumes of the run."""
        return len(self.motion)

    def volumes(self, echo: int = 0) -> Iterator[NDArray[np.float32]]:
        """Read the volumes of an echo, slices aligned in time."""
        raw = iter_volumes(self.echoes[echo], brain=self.head)
        if self.watch is not None and echo == 0:
            raw = _watched(raw, self.watch)
        if self.timing is None:
            return raw
        return align_slices(raw, self.timing, n_skipped=self.n_skipped)

    def echo_on(
        self,
        echo: int,
        target: Grid,
        *,
        to_bold: PointMap | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Bring an echo onto a grid; see `on`."""
        return resample_series(
            self.volumes(echo),
            source=self.source,
            target=target,
            to_bold=to_bold,
            motion=self.motion,
            distortion=self.distortion,
            mask=mask,
            n_threads=self.n_threads,
            device=self.device,
        )

    def on(
        self,
        target: Grid,
        *,
        to_bold: PointMap | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Bring the series onto a grid by one interpolation of each volume of each echo.

        Parameters
        ----------
        target : Grid
            Grid of the result.
        to_bold : callable, optional
            Target points to points of the BOLD reference, RAS+ mm; by default the same space.
        mask : ndarray of bool, shape of `target`, optional
            Voxels that are wanted; the others stay zero and cost nothing.

        Yields
        ------
        ndarray, shape of `target`, float32
            The combined volume, if there are several echoes.
        """
        if len(self.echoes) == 1:
            yield from self.echo_on(0, target, to_bold=to_bold, mask=mask)
            return
        weights = self._weights(target, to_bold)
        streams = [
            self.echo_on(echo, target, to_bold=to_bold, mask=mask)
            for echo in range(len(self.echoes))
        ]
        for volumes in zip(*streams, strict=True):
            yield _weighted(volumes, weights)

    def _weights(self, target: Grid, to_bold: PointMap | None) -> NDArray[np.float32]:
        """Weigh the echoes at each voxel of a grid: (E, X, Y, Z), summing to 1."""
        if to_bold is None:
            return np.stack(self.weights)
        return np.stack(
            [
                resample_volume(weight, source=self.source, target=target, xfm=to_bold, order=1)
                for weight in self.weights
            ]
        )


def _watched(
    volumes: Iterator[NDArray[np.float32]], watch: Callable[[NDArray[np.float32]], None]
) -> Iterator[NDArray[np.float32]]:
    for volume in volumes:
        watch(volume)
        yield volume


def _weighted(
    volumes: Sequence[NDArray[np.float32]], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    total: NDArray[np.float32] = volumes[0] * weights[0]
    for volume, weight in zip(volumes[1:], weights[1:], strict=True):
        total += volume * weight
    return total


def _distortion(field: Path | None, facts: Mapping[str, Any]) -> Distortion | None:
    if field is None:
        return None
    phase = (int(facts["phase"][0]), int(facts["phase"][1]))
    shift = shift_of(read_volume(field)[0], phase=phase, readout=facts["readout"])
    return Distortion(shift=shift, axis=phase[0], jacobian=facts["jacobian"])
