"""Bring a run to a contract on volumes: windows of a scaled series on the model's grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.conform import conform_series
from neurostorm_app.pipelines.normalize import Scale, measure_scale, scale_values
from neurostorm_app.pipelines.prepare import Prepared, naming, note_mask
from neurostorm_app.pipelines.prepare_upstream import prepare_as_upstream
from neurostorm_app.pipelines.salience import BlockMeans, rank_windows
from neurostorm_app.pipelines.series import find_brain, open_series
from neurostorm_app.pipelines.tile import describe_windows, plan_windows, tile_windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.models.card import VolumeContract
    from neurostorm_app.pipelines.conform import ConformedSeries
    from neurostorm_app.pipelines.conformance import Findings
    from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

__all__ = ["prepare_volumes"]

MANY_NEGATIVES = 1e-3
"""Share of negative values in the brain from which a report says so."""
LOW_CONTRAST = 0.05
"""Standard deviation over the mean, of the whole brain, below which anatomy is missing.

Of BOLD it is 0.2 to 0.5: tissues differ, and coils shade. A series that was divided by its own
mean, voxel by voxel, has the 0.01 to 0.03 of its fluctuations.
"""


def prepare_volumes(
    run: StandardSeries, contract: VolumeContract, options: InputOptions, *, room: int = 0
) -> Prepared:
    """Bring a run to a contract on volumes.

    The series is read once for its statistics and once for the windows; with enough `room` its
    brain stays in memory and the file is read one time.

    Parameters
    ----------
    run : StandardSeries
        Preprocessed, in a standard space.
    contract : VolumeContract
        What the model eats.
    options : InputOptions
        What the user changed.
    room : int
        Bytes that the brain of the run may take in memory.

    Returns
    -------
    Prepared
        Windows (1, X, Y, Z, L).

    Raises
    ------
    CorruptImageError
        If a file is truncated or damaged, or a voxel of the brain is not a finite number.
    SeriesTooShortError
        If one window takes more volumes than there are.
    ContractError
        If the space is another, or the series lost its mean.
    DataError
        If series and mask do not belong together.
    UsageError
        If upstream's arithmetic is asked for and not known for this contract.
    """
    if options.parity == "upstream":
        if options.max_windows is not None:
            raise UsageError(
                "upstream's own arithmetic knows no choice of windows: it embeds what it tiles",
                fix="leave out the choice of windows, or the parity",
            )
        if contract.background != "minimum":
            raise UsageError(
                "upstream's own arithmetic is known for NeuroSTORM alone; this model was trained "
                "with 0 around the brain",
                fix="leave --parity out for it",
            )
        return prepare_as_upstream(run, contract, options)
    series = open_series(run.bold)
    brain, source = find_brain(series, run.mask)
    conformed, findings = conform_series(series, run, contract, brain=brain, room=room)
    n, window = conformed.n_volumes, contract.window
    with naming(run.bold):
        starts, scale, facts = _plan(conformed, contract, options, tr=findings.facts["tr"])
    note_mask(source, findings)
    _note_scale(scale, findings)
    findings.facts |= facts
    return Prepared(
        windows=_paint_windows(conformed, scale, starts, window),
        starts=starts,
        window=window,
        step=series.n_volumes * run.tr / n,
        findings=findings,
        n_unused=facts["n_unused"],
    )


def _plan(
    conformed: ConformedSeries, contract: VolumeContract, options: InputOptions, *, tr: float
) -> tuple[list[int], Scale, dict[str, Any]]:
    """Find where windows start and how they are scaled, in one pass; choose the salient ones.

    The repetition time `tr` (s) is the contract's, or the run's own where the contract keeps it.
    """
    n, window, policy = conformed.n_volumes, contract.window, options.clip_policy
    starts, facts = plan_windows(n, contract, policy=policy, tr=tr)
    if options.max_windows is None:
        return starts, measure_scale(conformed.values(), background=contract.background), facts
    blocks = BlockMeans(conformed.mask)
    scale = measure_scale(blocks.watch(conformed.values()), background=contract.background)
    salience = rank_windows(blocks.series(), starts, window=window, most=options.max_windows)
    chosen = [starts[i] for i in salience.chosen]
    facts = describe_windows(chosen, n, window=window, stride=contract.stride, policy=policy, tr=tr)
    return chosen, scale, facts | {"salience": salience.as_facts()}


def _paint_windows(
    conformed: ConformedSeries, scale: Scale, starts: Sequence[int], window: int
) -> Iterator[NDArray[np.float32]]:
    """Put the scaled brain onto a background; yields windows (1, X, Y, Z, L)."""
    places = np.flatnonzero(conformed.mask)
    scaled = (scale_values(values, scale) for values in conformed.values())
    for brain in tile_windows(scaled, starts, window=window):
        painted = np.full((window, conformed.mask.size), scale.background, dtype=np.float32)
        for volume, values in zip(painted, brain.T, strict=True):
            volume[places] = values
        # Volumes lie one after the other in memory: to interleave them takes ten times longer.
        yield np.moveaxis(painted.reshape(window, *conformed.mask.shape), 0, -1)[np.newaxis]


def _note_scale(scale: Scale, findings: Findings) -> None:
    contrast = scale.sd / scale.mean
    findings.facts |= {
        "negatives": scale.negatives,
        "contrast": contrast,
        "scaling": {"mean": scale.mean, "sd": scale.sd, "background": scale.background},
    }
    findings.deviations["negatives"] = scale.negatives
    if scale.negatives > MANY_NEGATIVES:
        findings.reasons.append(f"{scale.negatives:.2%} of the brain's values are negative")
    if contrast < LOW_CONTRAST:
        findings.deviations["contrast"] = 1.0 - contrast / LOW_CONTRAST
        findings.reasons.append(
            f"the brain's values differ by {contrast:.1%} of their mean; BOLD with its anatomy by "
            "20% and more: the series was divided by its own mean, voxel by voxel"
        )
