"""Bring a run to a contract on voxels: rows of voxels of a label image, averaged over blocks.

The voxels are those of the label image, not of the run: their number and order are the same for
every run. The run is looked up where they are, through world coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine

from neurostorm_app.errors import ContractError, DataError, SeriesTooShortError
from neurostorm_app.pipelines.conformance import (
    Findings,
    find_maps,
    measure_coverage,
    place_volumes,
)
from neurostorm_app.pipelines.parcellate import MIN_COVERAGE, read_labels
from neurostorm_app.pipelines.prepare import Prepared, naming, note_mask
from neurostorm_app.pipelines.regrid import sampling_matrix
from neurostorm_app.pipelines.series import find_brain, open_series

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.voxel_contract import VoxelContract
    from neurostorm_app.pipelines.series import SeriesFile
    from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

__all__ = ["fill_up", "place_voxels", "plan_blocks", "prepare_voxels", "scale_rows"]

FLAT = 1e-7
"""Rows whose standard deviation is a smaller share of their mean do not vary: rounding does."""
FEW = 0.15
"""Share of voxels outside of the brain from which a report says so: edges always lose some."""


def prepare_voxels(
    run: StandardSeries, contract: VoxelContract, atlas: Path, options: InputOptions
) -> Prepared:
    """Bring a run to a contract on voxels; reads the series once.

    Parameters
    ----------
    run : StandardSeries
        Preprocessed, in a standard space.
    contract : VoxelContract
        What the model eats.
    atlas : Path
        Label image in the contract's space.
    options : InputOptions
        What the user changed; nothing of it has a meaning for voxels.

    Returns
    -------
    Prepared
        Windows (1, V), one a block. Voxels outside of the brain are 0, the mean.

    Raises
    ------
    CorruptImageError
        If a file is truncated or damaged, or a voxel of the brain is not a finite number.
    SeriesTooShortError
        If there are fewer volumes than the contract asks for, or than a block has.
    ContractError
        If the space is another, the label image, or most voxels lie outside of the brain.
    DataError
        If series and mask do not belong together, or no voxel varies.
    """
    findings = Findings()
    series = open_series(run.bold, min_volumes=contract.min_volumes)
    place_volumes(series.n_volumes, run, None, findings)
    findings.facts |= {"n_volumes_in": series.n_volumes, "n_volumes_used": series.n_volumes}
    _note_options(options, findings)
    with naming(run.bold):
        sizes = plan_blocks(series.n_volumes, contract, tr=run.tr)
    points = place_voxels(atlas, contract)
    maps = find_maps(run, contract.space, findings)
    brain, source = find_brain(series, run.mask)
    note_mask(source, findings)
    to_run = maps and maps[0]
    measure_coverage(brain, series.grid, space=contract.space, findings=findings, xfm=to_run)
    world = points if to_run is None else to_run(points)
    voxels = apply_affine(np.linalg.inv(series.grid.affine), world)
    covered = _find_covered(voxels, brain)
    _note_covered(covered, run.bold, findings)
    rows = _average(series.within(brain), voxels, sizes)
    scaled = scale_rows(rows, covered, contract, path=run.bold)
    n_frames = min(sizes)
    findings.facts |= {"n_voxels": len(points), "voxels_padded": scaled.shape[1],
                       "volumes_in_a_block": n_frames}  # fmt: skip
    starts = np.cumsum([0, *sizes[:-1]])
    return Prepared(
        windows=(row[np.newaxis] for row in scaled),
        starts=[int(start) for start in starts],
        window=n_frames,
        step=run.tr,
        findings=findings,
    )


def plan_blocks(n_volumes: int, contract: VoxelContract, *, tr: float) -> list[int]:
    """Cut a run into consecutive blocks of about the same length.

    Parameters
    ----------
    n_volumes : int
        Of the run.
    contract : VoxelContract
        Its blocks: as many whole volumes as fit, or one. Volumes that are left over make the first
        blocks one volume longer, as upstream does.
    tr : float
        The repetition time of the run, s.

    Returns
    -------
    list of int
        Volumes of each block.

    Raises
    ------
    SeriesTooShortError
        If the run is shorter than a block.

    Examples
    --------
    >>> from neurostorm_app.models.voxel_contract import VoxelContract
    >>> contract = VoxelContract(space="MNI152NLin6Asym", atlas="A", labels=(1,))
    >>> plan_blocks(47, contract, tr=0.75)
    [12, 12, 12, 11]
    """
    frames = contract.block(tr)
    if n_volumes < frames:
        raise SeriesTooShortError(
            f"the run has {n_volumes} volumes of {tr:g} s; one block of "
            f"{contract.seconds:g} s takes {frames}",
            fix="leave the run out",
        )
    n_blocks = n_volumes // frames
    length, longer = divmod(n_volumes, n_blocks)
    return [length + 1] * longer + [length] * (n_blocks - longer)


def place_voxels(atlas: Path, contract: VoxelContract) -> NDArray[np.float64]:
    """Find the voxels of a contract: by ascending label, then by index in C order.

    Parameters
    ----------
    atlas : Path
        Label image in the contract's space.
    contract : VoxelContract
        Its labels.

    Returns
    -------
    ndarray, shape (V, 3)
        World coordinates, RAS+ mm, of the contract's space.

    Raises
    ------
    ContractError
        If a label is not in the image, or the number of voxels is another.
    """
    values, grid = read_labels(atlas)
    wanted = sorted(set(contract.labels))
    missing = sorted(set(wanted) - set(np.unique(values).tolist()))
    if missing:
        raise ContractError(
            f"{atlas}: has no label {', '.join(map(str, missing))}; the model takes the voxels of "
            f"{', '.join(map(str, wanted))}",
            fix=f"give the parcellation {contract.atlas}, or a card with labels of this image",
        )
    indices = np.concatenate([np.argwhere(values == label) for label in wanted])
    if contract.n_voxels is not None and len(indices) != contract.n_voxels:
        raise ContractError(
            f"{atlas}: {len(indices)} voxels have the labels of the model, which takes "
            f"{contract.n_voxels}",
            fix=f"give the label image the model was trained with, {contract.atlas}",
        )
    return np.asarray(apply_affine(grid.affine, indices), dtype=np.float64)


def scale_rows(
    rows: NDArray[np.float64], covered: NDArray[np.bool_], contract: VoxelContract, *, path: Path
) -> NDArray[np.float32]:
    """Fill rows up to whole patches and give all of them together one mean and one deviation.

    Parameters
    ----------
    rows : ndarray, shape (N, V)
        Means of blocks.
    covered : ndarray, shape (V,), bool
        Voxels that lie in the brain; the others become 0.
    contract : VoxelContract
        How far rows are filled up.
    path : Path
        Of the series, for messages.

    Returns
    -------
    ndarray, shape (N, V'), float32
        Mean 0 and standard deviation 1.

    Raises
    ------
    DataError
        If no voxel varies.
    """
    wide = fill_up(rows, contract.padded(rows.shape[1]))
    seen = fill_up(covered, wide.shape[1])
    inside = wide[:, seen]
    mean, sd = float(inside.mean()), float(inside.std())
    if not sd > FLAT * abs(mean):
        raise DataError(
            f"{path}: the voxels that the model takes are all {mean:g}",
            fix="check that this is a BOLD series, and that it covers the back of the head",
        )
    scaled = np.zeros(wide.shape, dtype=np.float32)
    scaled[:, seen] = (inside - mean) / sd
    return scaled


def fill_up(rows: NDArray[Any], length: int) -> NDArray[Any]:
    """Fill the last axis up to a length with what stands at its beginning.

    Examples
    --------
    >>> fill_up(np.array([1, 2, 3]), 5)
    array([1, 2, 3, 1, 2])
    """
    sides = [(0, 0)] * (rows.ndim - 1) + [(0, length - rows.shape[-1])]
    return np.pad(rows, sides, mode="wrap")


def _average(
    series: SeriesFile, voxels: NDArray[np.float64], sizes: list[int]
) -> NDArray[np.float64]:
    """Average over blocks at points, in voxels of the series: (N, V)."""
    weights = sampling_matrix(voxels, series.grid.shape)
    rows = np.zeros((len(sizes), len(voxels)))
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    for block, volume in zip(block_of, series.volumes(), strict=True):
        rows[block] += weights @ volume.ravel(order="F")
    averages: NDArray[np.float64] = rows / np.asarray(sizes)[:, np.newaxis]
    return averages


def _find_covered(voxels: NDArray[np.float64], brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which points, in voxels, are nearest to a voxel of the brain."""
    index = np.rint(voxels).astype(np.int64)
    inside = ((index >= 0) & (index < brain.shape)).all(axis=1)
    covered = np.zeros(len(voxels), dtype=bool)
    covered[inside] = brain[tuple(index[inside].T)]
    return covered


def _note_covered(covered: NDArray[np.bool_], path: Path, findings: Findings) -> None:
    share = float(covered.mean())
    if share < MIN_COVERAGE:
        raise ContractError(
            f"{path}: {share:.0%} of the {covered.size} voxels that the model takes lie in the "
            f"brain mask; at least {MIN_COVERAGE:.0%} must",
            fix="check the field of view, the mask, and that the affine is right",
        )
    findings.facts["voxel_coverage"] = round(share, 4)
    findings.deviations["voxels"] = 1.0 - share
    if share < 1 - FEW:
        findings.reasons.append(
            f"{1 - share:.0%} of the voxels that the model takes lie outside of the brain mask, "
            "and count as 0"
        )


def _note_options(options: InputOptions, findings: Findings) -> None:
    """Record what was asked for and has no meaning for voxels."""
    unused = {
        "clip_policy": options.clip_policy if options.clip_policy != "dense" else None,
        "parity": options.parity if options.parity != "none" else None,
        "gain": options.gain if options.gain != 1 else None,
        "max_windows": options.max_windows,
    }
    without = {name: value for name, value in unused.items() if value is not None}
    if without:
        findings.facts["without_meaning_for_voxels"] = without
