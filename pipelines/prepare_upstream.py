"""Bring a run to windows as upstream does, and say how far that is from the contract.

For comparison only: places and times are taken as upstream takes them, and what the contract asks
for is reported, not done. The series is read twice; memory holds one window and a few volumes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine, from_matvec

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.conformance import Findings, measure_coverage, place_volumes
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.header import check_tr
from neurostorm_app.pipelines.image import open_image, read_volume
from neurostorm_app.pipelines.normalize import MAX_NEGATIVES
from neurostorm_app.pipelines.parity import (
    EDGE,
    TR,
    crop_middle,
    fit_window,
    interpolate,
    measure_upstream,
    new_shape,
    resample_as_upstream,
)
from neurostorm_app.pipelines.prepare import Prepared, naming
from neurostorm_app.pipelines.series import find_brain, open_series
from neurostorm_app.pipelines.tile import plan_windows, tile_windows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import VolumeContract
    from neurostorm_app.pipelines.parity import UpstreamScale
    from neurostorm_app.pipelines.series import SeriesFile
    from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

__all__ = ["place_as_upstream", "prepare_as_upstream"]

SAME_PLACE = 0.1
"""Millimetres by which corners of two grids may differ and be one."""
SAME_TR = 1e-3
"""Repetition times that differ by less than one in a thousand are one."""


def prepare_as_upstream(
    run: StandardSeries, contract: VolumeContract, options: InputOptions
) -> Prepared:
    """Prepare a run as upstream does.

    Parameters
    ----------
    run : StandardSeries
        Its series; with a mask, background is what lies outside of it, and without one what is
        exactly 0.
    contract : VolumeContract
        What the model eats.
    options : InputOptions
        Which windows.

    Returns
    -------
    Prepared
        Windows (1, X, Y, Z, L).

    Raises
    ------
    SeriesTooShortError
        If one window takes more volumes than there are.
    DataError
        If the header has no repetition time in seconds, or the mask has another shape.
    """
    series = open_series(run.bold)
    zooms = [float(zoom) for zoom in open_image(run.bold).header.get_zooms()]
    check_tr(zooms[3], run.bold)
    brain, _ = find_brain(series, run.mask)
    series = series.within(brain)
    shape = (*series.grid.shape, series.n_volumes)
    space, n = new_shape(shape, zooms)
    mask = None if run.mask is None else _read_mask(run.mask, series, space)
    with naming(run.bold):
        starts, windowing = plan_windows(n, contract, policy=options.clip_policy, tr=TR)
        scale = measure_upstream(resample_as_upstream(series.volumes(), shape, zooms), mask)
    findings = Findings(facts={"parity": "upstream: for comparison, not for use"})
    _report_place(run, series.grid, contract, findings)
    _report_time(run, series, contract, zooms[3], findings)
    _report_scale(scale, mask, findings)
    if run.space == contract.space:
        measure_coverage(brain, series.grid, space=contract.space, findings=findings)
    findings.facts |= {"n_volumes_in": series.n_volumes, "n_volumes_used": n} | windowing
    volumes = (
        scale.of_levels(scale.to_levels(scale.apply(volume, mask)))
        for volume in resample_as_upstream(series.volumes(), shape, zooms)
    )
    windows = tile_windows(volumes, starts, window=contract.window)
    return Prepared(
        windows=(fit_window(window, contract.grid.shape)[np.newaxis] for window in windows),
        starts=starts,
        window=contract.window,
        step=series.n_volumes * zooms[3] / n,
        findings=findings,
        n_unused=windowing["n_unused"],
    )


def _read_mask(path: Path, series: SeriesFile, space: Sequence[int]) -> NDArray[np.bool_]:
    """Read the mask and stretch it as the series is; every voxel that some of it reaches."""
    volume, grid = read_volume(path)
    if grid.shape != series.grid.shape:
        raise DataError(
            f"{path}: the mask has shape {grid.shape}, the series {series.grid.shape}; "
            "upstream's arithmetic looks at no affine and needs one shape",
            fix="give the mask on the grid of the series, or leave --parity out",
        )
    return np.asarray(crop_middle(interpolate(volume, space)) != 0)


def place_as_upstream(source: Grid, shape: Sequence[int]) -> NDArray[np.float64]:
    """Find where upstream's voxels really lie.

    Parameters
    ----------
    source : Grid
        Of the series.
    shape : sequence of int, length 3
        Of the network's input.

    Returns
    -------
    ndarray, shape (4, 4)
        Voxels of the network's input to the world, mm, RAS+.
    """
    scales, starts = [], []
    space, _ = new_shape((*source.shape, 1), (*source.zooms, 1))
    for n, stretched, edge in zip(source.shape, space, shape, strict=True):
        # Outwards: the network's voxel, in the padded 96, in the stretched axis, in the source.
        first = max(0, stretched - EDGE) // 2 - (max(0, EDGE - stretched) + 1) // 2
        zoom, scale = EDGE / edge, n / stretched
        scales.append(scale * zoom)
        starts.append(scale * (0.5 * zoom + first) - 0.5)
    return np.asarray(source.affine @ from_matvec(np.diag(scales), starts))


def _report_place(
    run: StandardSeries, source: Grid, contract: VolumeContract, findings: Findings
) -> None:
    """Say in which space the run is, and how far its voxels are from where they should lie."""
    findings.facts |= {"space_in": run.space, "space": contract.space}
    findings.deviations["space"] = float(run.space != contract.space)
    if run.space != contract.space:
        findings.reasons.append(
            f"is in {run.space}; the model takes {contract.space}, and parity carries nothing over"
        )
    target = Grid.from_rows(contract.grid.shape, contract.grid.affine)
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in target.shape])).reshape(3, -1).T
    found = apply_affine(place_as_upstream(source, target.shape), ends)
    away = float(np.linalg.norm(found - apply_affine(target.affine, ends), axis=1).max())
    findings.facts["furthest_voxel_mm"] = round(away, 3)
    if away > SAME_PLACE:
        findings.deviations["place"] = 1.0
        findings.reasons.append(
            f"as they are stored, voxels lie up to {away:.1f} mm from where the model takes them"
        )


def _report_time(
    run: StandardSeries,
    series: SeriesFile,
    contract: VolumeContract,
    header_tr: float,
    findings: Findings,
) -> None:
    place_volumes(series.n_volumes, replace(run, tr=header_tr), TR, findings)
    for name, other in (("the sidecar", run.tr), ("the model", contract.tr)):
        ours = header_tr if name == "the sidecar" else TR
        if abs(ours / other - 1) > SAME_TR:
            findings.reasons.append(
                f"parity takes a repetition time of {ours:g} s; {name} says {other:g} s"
            )


def _report_scale(scale: UpstreamScale, mask: NDArray[np.bool_] | None, findings: Findings) -> None:
    findings.facts |= {
        "mask": "what is exactly 0 is background" if mask is None else "given",
        "negatives": scale.negatives,
        "scaling": {
            "mean": scale.mean, "sd": scale.sd, "background": scale.lowest, "step": scale.step
        },
    }  # fmt: skip
    findings.deviations["negatives"] = scale.negatives
    if scale.negatives > MAX_NEGATIVES:
        findings.reasons.append(
            f"{scale.negatives:.1%} of the brain's values are negative and became 0, as upstream "
            "does: the series was demeaned, denoised or z-scored"
        )
