"""Gauss-Newton steps of rigid maps, for a batch of volumes, whatever looks at their voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from neurostorm_app.pipelines.preprocess.head.motion_levels import N_MOTION, RADIUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.preprocess.head.motion_levels import Template

__all__ = ["Pose", "Sight", "descend"]

STRIDE = 10.0
"""Millimetres: no step is longer."""
FURTHEST = 60.0
"""Millimetres: a head is not found further from where it was in the reference."""
RIDGE = 1e-6
"""Added to the diagonal of equations whose diagonal is one."""


class Sight(Protocol):
    """Looks at voxels: filters volumes, and sums normal equations (see ``LoopSight``)."""

    def open(self, volumes: Sequence[NDArray[np.float32]], level: int) -> Any:
        """Filter volumes for a level."""
        ...

    def normal(
        self,
        opened: Any,
        level: int,
        which: NDArray[np.intp],
        matrices: NDArray[np.float64],
        nuisance: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Sum the weighted normal equations of some volumes."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """What was found in a batch of volumes.

    Parameters
    ----------
    matrices : ndarray, shape (B, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    found : ndarray of bool, shape (B,)
        Whether there is a head like that of the reference.
    residuals : ndarray, shape (B,)
        Robust standard deviation of the residuals relative to the contrast of the head.
    """

    matrices: NDArray[np.float64]
    found: NDArray[np.bool_]
    residuals: NDArray[np.float64]


def descend(
    sight: Sight, templates: Sequence[Template], volumes: Sequence[NDArray[np.float32]]
) -> Pose:
    """Measure a batch of volumes on all levels, from rest.

    Parameters
    ----------
    sight : Sight
        Looks at the voxels.
    templates : sequence of Template
        The levels, coarse ones first.
    volumes : sequence of ndarray, shape (X, Y, Z)
        As acquired.

    Returns
    -------
    Pose
        One matrix a volume.
    """
    search = _Search(sight, volumes)
    for level, template in enumerate(templates):
        search.run(level, template)
    found = search.found & (search.residuals < 1.0)
    return Pose(search.matrices, found, np.where(found, search.residuals, np.nan))


class _Search:
    """Where the search for the heads of a batch stands."""

    def __init__(self, sight: Sight, volumes: Sequence[NDArray[np.float32]]) -> None:
        self._sight, self._volumes = sight, volumes
        self._opened, self._fwhm = None, np.nan
        self._nuisance: NDArray[np.float64] | None = None
        self.matrices = np.tile(np.eye(4), (len(volumes), 1, 1))
        self.residuals = np.full(len(volumes), np.inf)
        self.found = np.array([bool(volume.min() < volume.max()) for volume in volumes])

    def run(self, level: int, template: Template) -> None:
        """Take steps on one level until they are short."""
        if template.level.fwhm != self._fwhm:
            self._opened = self._sight.open(self._volumes, level)
            self._fwhm = template.level.fwhm
        if self._nuisance is not None:
            self._nuisance = _widen(self._nuisance, template)
        active = self.found.copy()
        for _ in range(template.level.n_steps):
            which = np.flatnonzero(active)
            if not which.size:
                break
            active[which] = self._step(level, template, which) > template.level.tolerance
            active &= self.found
        self.found &= _near(self.matrices, template.centre)

    def _step(self, level: int, template: Template, which: NDArray[np.intp]) -> NDArray[np.float64]:
        """Move some volumes of the batch one step; give its lengths in mm."""
        given = None if self._nuisance is None else self._nuisance[which]
        normal, seen, scale = self._sight.normal(
            self._opened, level, which, self.matrices[which], given
        )
        solution, fair = _solve(normal, seen)
        gain = solution[:, N_MOTION]
        fair &= gain > 0
        gain = np.where(fair, gain, 1.0)
        delta = np.where(fair[:, None], solution[:, :N_MOTION] / gain[:, None], 0.0)
        length = _length(delta)
        delta *= (STRIDE / np.maximum(length, STRIDE))[:, None]
        self.matrices[which] = self.matrices[which] @ np.linalg.inv(_rigid(delta, template.centre))
        if self._nuisance is None:
            self._nuisance = np.zeros((len(self.matrices), solution.shape[1] - N_MOTION))
        self._nuisance[which] = solution[:, N_MOTION:]
        self.residuals[which] = scale / gain / template.spread
        self.found[which] &= fair
        # Without weights the first step was not the last.
        return length if given is not None else np.full(len(which), np.inf)


def _solve(
    normal: NDArray[np.float64], seen: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Solve normal equations (B, K, K), scaled to a diagonal of one; tell which made sense."""
    size = np.sqrt(np.einsum("bkk->bk", normal))
    fair = (size > 0).all(axis=1)
    size = np.where(size > 0, size, 1.0)
    ridge = RIDGE * np.eye(normal.shape[1])
    even = normal / (size[:, :, None] * size[:, None]) + ridge
    even[~fair] = np.eye(normal.shape[1])
    solution = np.linalg.solve(even, (seen / size)[..., None])[..., 0] / size
    return solution, fair & np.isfinite(solution).all(axis=1)


def _widen(nuisance: NDArray[np.float64], template: Template) -> NDArray[np.float64]:
    """Carry gains and offset to a level whose gain has more terms."""
    n_more = template.columns.shape[1] - N_MOTION - nuisance.shape[1]
    gains, offset = nuisance[:, :-1], nuisance[:, -1:]
    return np.concatenate([gains, np.zeros((len(gains), n_more)), offset], axis=1)


def _length(delta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bound how far a point 50 mm from the centre moves: (B,), mm."""
    shift, path = delta[:, :3], delta[:, 3:]
    return np.asarray(np.linalg.norm(shift, axis=1) + np.linalg.norm(path, axis=1))


def _near(matrices: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which maps leave the head about where it was."""
    moved = matrices[:, :3, :3] @ centre + matrices[:, :3, 3]
    return np.asarray(np.linalg.norm(moved - centre, axis=1) < FURTHEST)


def _rigid(delta: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn about the centre, then shift: (B, 6) in mm to (B, 4, 4)."""
    matrices = np.tile(np.eye(4), (len(delta), 1, 1))
    matrices[:, :3, :3] = Rotation.from_rotvec(delta[:, 3:] / RADIUS).as_matrix()
    matrices[:, :3, 3] = delta[:, :3] + centre - matrices[:, :3, :3] @ centre
    return matrices
