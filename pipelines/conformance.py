"""How far a run is from what a model's contract asks for, and why.

A contract that is not met does not stop a run: an embedding far from what the weights were
trained on may still be wanted. It is said in the sidecar, with reasons and one number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import ContractError, NoInputError
from neurostorm_app.pipelines.header import check_tr
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.regrid import time_positions
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from neurostorm_app.models.card import TimePositions
    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.stage import StandardSeries

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["Findings", "find_maps", "measure_coverage", "place_volumes"]

SAME_TR = 1e-3
"""Repetition times that differ by less than one in a thousand are one: headers round."""
FAR_TR = 1.25
"""Beyond this ratio a resampled series lacks, or aliases, detail that the model was trained on."""
MIN_BRAIN_COVERAGE = 0.85
"""Share of the template brain below which a run is called incomplete.

Whole-head EPI loses a tenth at most, to dropout under the frontal and temporal lobes; a slab
that leaves out the cerebellum or the vertex loses more.
"""
NEAR = 1.25
"""Largest distance of a run that is called near: one part of 1, such as another standard space or
twice the repetition time, and a quarter for the small ones."""


@dataclass(slots=True)
class Findings:
    """What was found about a run while it was brought to a contract.

    Parameters
    ----------
    facts : dict
        Numbers and words for the sidecar.
    reasons : list of str
        Why the contract is not met; empty if it is.
    deviations : dict of str to float
        Parts of the distance: |log2| of the ratio of repetition times; shares, from 0 to 1, of
        template brain not covered, of negative values, of anatomical contrast, of confounds and
        parcels missing; 1 for a series carried over from another space, and for voxels taken from
        elsewhere than the contract says; log2 of how often the masked-reconstruction error
        is above its range, of how much windows of parcels were shortened, of the gain, and of the
        ratio of the parcels' spread to that of their cohort.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    deviations: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Say whether the contract is met, why not, and how far the run is from it.

        The verdict is ``met`` where there is no reason to say otherwise, else ``near`` or ``far``
        by the distance: the sum of the deviations.
        """
        distance = sum(self.deviations.values())
        return {
            "met": not self.reasons,
            "verdict": "met" if not self.reasons else "near" if distance <= NEAR else "far",
            "reasons": list(self.reasons),
            "distance": round(distance, 6),
            "deviations": {name: round(value, 6) for name, value in self.deviations.items()},
            **self.facts,
        }


def find_maps(
    run: StandardSeries, space: str, findings: Findings
) -> tuple[PointMap, PointMap] | None:
    """Find the way between a run's space and a contract's.

    Parameters
    ----------
    run : StandardSeries
        Its space.
    space : str
        The contract's space.
    findings : Findings
        Is told.

    Returns
    -------
    to_run, to_contract : callable
        Maps of points (..., 3), mm, from the contract's space to the run's and back; None if the
        two are one.

    Raises
    ------
    ContractError
        If no map between the two is known.
    """
    findings.facts |= {"space_in": run.space, "space": space}
    findings.deviations["space"] = float(run.space != space)
    if run.space == space:
        return None
    from neurostorm_app.pipelines.templates import between

    try:
        maps = between(space, run.space), between(run.space, space)
    except NoInputError as error:
        raise ContractError(
            f"{run.bold}: is in {run.space}; the model takes {space}, and no map from the one to "
            "the other is known",
            fix=f"give the series in {space}, as fMRIPrep's --output-spaces {space}:res-2 does",
        ) from error
    findings.reasons.append(f"carried over from {run.space} to {space} by a group-level warp")
    return maps


def measure_coverage(
    brain: NDArray[np.bool_],
    grid: Grid,
    *,
    space: str,
    findings: Findings,
    xfm: PointMap | None = None,
) -> None:
    """Measure which share of the template's brain lies in the mask of a run.

    Parameters
    ----------
    brain : ndarray, shape of `grid`, bool
        Brain mask of a run.
    grid : Grid
        Where its voxels are.
    space : str
        TemplateFlow name of the template.
    findings : Findings
        Is told.
    xfm : callable, optional
        Map of points (..., 3), mm, from the template's space to the run's; by default one space.
    """
    from neurostorm_app.pipelines.templates import load_template

    volume, template_grid = read_volume(load_template(space, "2").mask)
    template = volume > 0.5
    share = brain.astype(np.float32)
    covered = resample_volume(share, source=grid, target=template_grid, xfm=xfm, order=0) > 0.5
    coverage = float(covered[template].mean())
    findings.facts["brain_coverage"] = round(coverage, 4)
    findings.deviations["coverage"] = 1.0 - coverage
    if coverage < MIN_BRAIN_COVERAGE:
        findings.reasons.append(
            f"{coverage:.0%} of the template brain is covered; at least {MIN_BRAIN_COVERAGE:.0%} "
            "was expected"
        )


def place_volumes(
    n_volumes: int,
    run: StandardSeries,
    tr: float | None,
    findings: Findings,
    *,
    keep: tuple[float, float] | None = None,
    how: TimePositions = "centres",
) -> NDArray[np.float64]:
    """Place the volumes of a contract's time axis on that of the series.

    Parameters
    ----------
    n_volumes : int
        Length of the series.
    run : StandardSeries
        Its repetition time.
    tr : float or None
        The contract's repetition time in seconds; None keeps the run's.
    findings : Findings
        Is told.
    keep : (float, float), optional
        Lowest and highest repetition time of a run that the contract keeps, in seconds.
    how : {'centres', 'ends'}
        Where the contract has volumes of another repetition time.

    Returns
    -------
    ndarray, shape (T',)
        In volumes of the series.

    Raises
    ------
    DataError
        If the run's repetition time makes no sense.
    """
    tr_in = check_tr(run.tr, run.bold)
    kept = keep is not None and keep[0] * (1 - SAME_TR) <= tr_in <= keep[1] * (1 + SAME_TR)
    tr = tr_in if kept or tr is None else tr
    ratio = tr_in / tr
    findings.facts |= {"tr_in": tr_in, "tr": tr, "time_interpolation": "none"}
    findings.deviations["tr"] = abs(math.log2(ratio))
    if max(ratio, 1 / ratio) > FAR_TR:
        findings.reasons.append(
            f"the repetition time is {tr_in:g} s; the model was trained at {tr:g} s"
        )
    if abs(ratio - 1) < SAME_TR:
        return np.arange(n_volumes, dtype=np.float64)
    findings.facts |= {"time_interpolation": "linear", "time_positions": how}
    return time_positions(n_volumes, tr_in, tr, how=how)
