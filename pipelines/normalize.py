"""Scale a series as its card says: one mean and one standard deviation over brain and time.

All statistics are gathered in one pass over a stream of volumes, in float64, so that a run of
any length takes the memory of one volume.

The rule is that of NeuroSTORM's ``datasets/preprocessing_volume.py`` (commit ``a8dc38f``): voxels
outside the mask or exactly 0 are background; negative values become 0; the foreground of all
volumes together gets mean 0 and (unbiased) standard deviation 1; background gets the minimum of
the scaled foreground. One thing differs: a series that was demeaned would lose half of its values
to that clamp, and is refused instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import ContractError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from numpy.typing import NDArray

    from neurostorm_app.models.card import VolumeContract

    Background = Literal["minimum", "zero"]

__all__ = [
    "MAX_NEGATIVES",
    "Moments",
    "Scale",
    "apply_scale",
    "measure_scale",
    "normalize_volume",
    "scale_values",
]

MAX_NEGATIVES = 0.05
"""Largest share of negative brain voxels that passes as ringing of an interpolation.

BOLD is a magnitude: it has no negative values. A cubic B-spline undershoots beside bright edges.
Of a real run brought to 2 mm, 0.002 % of the brain became negative; 3.4 % where the run was
masked before it was interpolated and the mask keeps every voxel that some brain reached. A series
that was demeaned, denoised without its mean or z-scored has about one half.
"""


@dataclass(slots=True)
class Moments:
    """Mean, spread and range of values that come in pieces; a negative value counts as 0.

    Parameters
    ----------
    n, n_negative : int
        Values so far, and how many of them were below 0.
    mean, squares : float
        Their mean, and the sum of their squared distances from it.
    lowest, highest : float
        Their range.

    References
    ----------
    Chan, Golub, LeVeque (1983), The American Statistician 37, equation 2.1, for the merging of
    means and sums of squares.
    """

    n: int = 0
    n_negative: int = 0
    mean: float = 0.0
    squares: float = 0.0
    lowest: float = np.inf
    highest: float = -np.inf

    def add(self, values: NDArray[np.floating]) -> None:
        """Take in values of one volume, shape (n,)."""
        if not values.size:
            return
        inside = values.astype(np.float64)
        self.n_negative += int(np.count_nonzero(inside < 0))
        np.maximum(inside, 0, out=inside)
        self.lowest = min(self.lowest, float(inside.min()))
        self.highest = max(self.highest, float(inside.max()))
        here = float(inside.mean())
        inside -= here
        delta, total = here - self.mean, self.n + inside.size
        self.squares += float(inside @ inside) + delta**2 * self.n * inside.size / total
        self.mean, self.n = self.mean + delta * inside.size / total, total

    @property
    def sd(self) -> float:
        """Unbiased standard deviation; refused if there is none.

        Raises
        ------
        DataError
            If there is no value, or one value everywhere.
        """
        sd = float(np.sqrt(self.squares / (self.n - 1))) if self.n > 1 else 0.0
        if not sd > 1e-6 * abs(self.mean):
            raise DataError(
                f"the brain holds {self.n} values that are not 0, with standard deviation {sd:g}: "
                "there is nothing to scale",
                fix="check that the mask lies on the series, and that the series is not empty",
            )
        return sd


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a global z-score needs to know, and what was found on the way.

    Parameters
    ----------
    mean, sd : float
        Of the foreground after negative values became 0, in the unit of the series.
    lowest : float
        Smallest value of the foreground, in the unit of the series.
    negatives : float
        Share of foreground values that were below 0.
    n_values : int
        Voxels x volumes in the foreground.
    outside : {'minimum', 'zero'}
        Value outside the brain after scaling: the minimum inside, or exactly 0.
    """

    mean: float
    sd: float
    lowest: float
    negatives: float
    n_values: int
    outside: Background = "minimum"

    @property
    def background(self) -> float:
        """Value outside the brain after scaling."""
        return 0.0 if self.outside == "zero" else (self.lowest - self.mean) / self.sd


def normalize_volume(
    series: NDArray[np.floating], mask: NDArray[np.bool_], contract: VolumeContract
) -> tuple[NDArray[np.float32], Scale]:
    """Scale a whole series that is in memory.

    Parameters
    ----------
    series : ndarray, shape (X, Y, Z, T)
        On the contract's grid, at its repetition time.
    mask : ndarray, shape (X, Y, Z), bool
        True is brain.
    contract : VolumeContract
        Says which scaling, ``global-zscore`` so far, and the background.

    Returns
    -------
    scaled : ndarray, shape (X, Y, Z, T), float32
        No unit; background is the minimum of the foreground, or 0, as the contract says.
    scale : Scale
        Mean, standard deviation and share of negative values.

    Raises
    ------
    ContractError
        If more than ``MAX_NEGATIVES`` of the brain is negative.
    DataError
        If the brain has no signal at all.
    """
    if contract.scaling != "global-zscore" or contract.background not in {"minimum", "zero"}:
        raise ContractError(
            f"the scaling {contract.scaling!r} with background {contract.background!r} is not "
            "known",
            fix="use global-zscore, and minimum or zero, in the card",
        )
    volumes = np.moveaxis(series, -1, 0)
    scale = measure_scale(volumes, mask, background=contract.background)
    scaled = np.stack([apply_scale(volume, mask, scale) for volume in volumes], axis=-1)
    return scaled, scale


def measure_scale(
    volumes: Iterable[NDArray[np.floating]],
    mask: NDArray[np.bool_] | None = None,
    *,
    background: Background = "minimum",
) -> Scale:
    """Gather mean and standard deviation of the foreground in one pass.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z) or (n,)
        All volumes of the run, or their brain voxels; consumed once.
    mask : ndarray, shape of a volume, bool, optional
        True is brain; by default all of it is.
    background : {'minimum', 'zero'}
        What the contract puts outside the brain.

    Returns
    -------
    Scale
        For `apply_scale` and `scale_values`.

    Raises
    ------
    ContractError
        If more than ``MAX_NEGATIVES`` of the brain is negative.
    DataError
        If the brain has no signal, or the same value everywhere.
    """
    moments = Moments()
    for volume in volumes:
        inside = volume if mask is None else volume[mask]
        moments.add(inside[inside != 0])
    _check_positive(moments.n_negative, moments.n)
    return Scale(
        sd=moments.sd,
        mean=moments.mean,
        lowest=moments.lowest,
        negatives=moments.n_negative / moments.n,
        n_values=moments.n,
        outside=background,
    )


def scale_values(values: NDArray[np.float32], scale: Scale) -> NDArray[np.float32]:
    """Scale voxels of the brain.

    Parameters
    ----------
    values : ndarray, shape (n,), float32
        In the unit that `scale` was measured in; exactly 0 is background.
    scale : Scale
        Of the whole run.

    Returns
    -------
    ndarray, shape (n,), float32
        No unit.
    """
    scaled = np.maximum(values, np.float32(0))
    scaled -= np.float32(scale.mean)
    scaled /= np.float32(scale.sd)
    np.copyto(scaled, np.float32(scale.background), where=values == 0)
    return scaled


def apply_scale(
    volume: NDArray[np.floating], mask: NDArray[np.bool_], scale: Scale
) -> NDArray[np.float32]:
    """Scale one volume.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        In the unit that `scale` was measured in.
    mask : ndarray, shape (X, Y, Z), bool
        True is brain.
    scale : Scale
        Of the whole run.

    Returns
    -------
    ndarray, shape (X, Y, Z), float32
        No unit.
    """
    scaled = np.full(volume.shape, scale.background, dtype=np.float32)
    scaled[mask] = scale_values(volume[mask].astype(np.float32), scale)
    return scaled


def _check_positive(n_negative: int, n: int) -> None:
    if n_negative <= MAX_NEGATIVES * n:
        return
    raise ContractError(
        f"{n_negative / n:.1%} of the brain's values are negative; BOLD has none "
        f"(up to {MAX_NEGATIVES:.0%} pass as ringing): the series was demeaned, denoised or "
        "z-scored",
        fix="give the preprocessed series with its mean (fMRIPrep's desc-preproc_bold), "
        "not residuals or z-scores",
    )
