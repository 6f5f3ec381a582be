"""Runs kept ready for training: one file a run, from which any window is cut at once.

A run goes through the functions that make it ready for embedding, one time. What they give is
kept: of volumes the voxels of the brain and where they lie, of parcels their series. A file is
named by what went into it, so that it is made again only when that changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from neurostorm_app.errors import (
    AppError,
    CannotCreateError,
    DataError,
    NoInputError,
    SeriesTooShortError,
)
from neurostorm_app.models.card import ParcelContract, VolumeContract, VoxelContract
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.pipelines.conform import conform_series
from neurostorm_app.pipelines.conformance import Findings, place_volumes
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.normalize import measure_scale, scale_values
from neurostorm_app.pipelines.prepare import naming
from neurostorm_app.pipelines.prepare_parcels import prepare_parcels
from neurostorm_app.pipelines.prepare_voxels import prepare_voxels
from neurostorm_app.pipelines.series import find_brain, open_series
from neurostorm_app.pipelines.stage import InputOptions
from neurostorm_app.pipelines.train.cache_file import CachedRun, open_cached, write_cached

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import Contract
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["CacheRecipe", "CachedRun", "build_cache", "estimate_bytes"]

log = logging.getLogger(__name__)

ROOM: Final = 2 << 30
"""Bytes a run's brain may take in memory while it is read; a longer run is read twice."""
BRAIN_SHARE: Final = 0.35
"""Share of a standard grid that is brain, rounded up, where no mask tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRecipe:
    """How runs are made ready.

    Parameters
    ----------
    contract : VolumeContract, ParcelContract or VoxelContract
        What the model eats.
    atlas : Path or None
        Label image, for a model that takes parcels or voxels.
    options : InputOptions
        What the user changed; windows are not tiled here, so its clip policy has no meaning.
    dtype : {'float16', 'float32'}
        Of the values on disk. In float16 a voxel is rounded by at most 1/2000 of its value, a
        hundredth of the standard deviation of its fluctuations.
    """

    contract: Contract
    atlas: Path | None = None
    options: InputOptions = field(default_factory=InputOptions)
    dtype: Literal["float16", "float32"] = "float16"

    @property
    def window(self) -> int:
        """Volumes of a window; of voxels, one block.

        Raises
        ------
        DataError
            If the model takes whole runs.
        """
        if isinstance(self.contract, VoxelContract):
            return 1
        if self.contract.window is None:
            raise DataError(
                "the model takes whole runs, so there are no windows to train on",
                fix="choose a model with a window, such as neurostorm or brainlm",
            )
        return self.contract.window

    def key(self, run: StandardSeries) -> str:
        """Hash all that decides what a run becomes: contract, options and the files' content."""
        files = {
            "bold": run.bold,
            "mask": run.mask,
            "confounds": run.confounds,
            "atlas": self.atlas,
            "statistics": self.options.statistics,
        }
        for path in filter(None, files.values()):
            if not path.is_file():  # a dangling link, as DataLad leaves them
                raise NoInputError(f"{path}: there is no such file", fix="get its content")
        content = {
            "app": version("neurostorm-app"),
            "files": {role: path and hash_file(path) for role, path in files.items()},
            "run": [run.tr, run.space, run.res],
            "gain": self.options.gain,
            "dtype": self.dtype,
            "contract": self.contract.model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def build_cache(
    runs: Sequence[StandardSeries], recipe: CacheRecipe, folder: Path
) -> list[CachedRun | AppError]:
    """Make runs ready, where that is not done yet; a call that is killed loses one run.

    Parameters
    ----------
    runs : sequence of StandardSeries
        Preprocessed, in a standard space.
    recipe : CacheRecipe
        How they are made ready.
    folder : Path
        Of the cache; it is made.

    Returns
    -------
    list of CachedRun or AppError
        One a run; an error where it cannot be used.

    Raises
    ------
    CannotCreateError
        If there is not enough space, or the folder cannot be written.
    """
    found: list[CachedRun | AppError] = []
    missing: list[int] = []
    keys: dict[int, str] = {}
    for number, run in enumerate(runs):
        try:
            keys[number] = recipe.key(run)
            found.append(open_cached(folder / f"{keys[number]}.windows"))
        except AppError as error:
            found.append(error)
            if number in keys:
                missing.append(number)
    if missing:
        _check_space([runs[number] for number in missing], recipe, folder)
    for done, number in enumerate(missing, start=1):
        run = runs[number]
        try:
            found[number] = _cache_run(run, recipe, keys[number], folder)
        except AppError as error:
            found[number] = error
            log.warning("%s: left out: %s", run.name, error.what)
        else:
            log.info("%s made ready for training, %d of %d", run.name, done, len(missing))
    return found


def estimate_bytes(runs: Iterable[StandardSeries], recipe: CacheRecipe) -> int:
    """Estimate from headers and masks how many bytes runs take in the cache.

    Parameters
    ----------
    runs : iterable of StandardSeries
        Preprocessed; one that cannot be read counts as nothing.
    recipe : CacheRecipe
        How they are made ready.

    Returns
    -------
    int
        Rounded up by the rim that interpolation adds to a brain.
    """
    contract, item, total = recipe.contract, np.dtype(recipe.dtype).itemsize, 0
    for run in runs:
        try:
            series = open_series(run.bold)
            keep = contract.tr_range if isinstance(contract, VolumeContract) else None
            how = contract.time_positions if isinstance(contract, ParcelContract) else "centres"
            n_volumes = len(
                place_volumes(series.n_volumes, run, contract.tr, Findings(), keep=keep, how=how)
            )
            total += n_volumes * item * _count_values(run, contract)
        except AppError as error:
            log.debug("%s: not counted: %s", run.name, error)
    return total


def _count_values(run: StandardSeries, contract: Contract) -> int:
    if isinstance(contract, VoxelContract):
        return contract.padded(contract.n_voxels or 10_000)
    if not isinstance(contract, VolumeContract):
        return contract.n_parcels or 500
    n_voxels = int(np.prod(contract.grid.shape))
    if run.mask is None:
        return round(BRAIN_SHARE * n_voxels)
    mask, grid = read_volume(run.mask)
    target = abs(np.linalg.det(np.asarray(contract.grid.affine)[:, :3]))
    here = np.count_nonzero(mask > 0.5) * abs(np.linalg.det(grid.affine[:3, :3])) / target
    return min(round(float(1.25 * here)), n_voxels)


def _check_space(runs: Sequence[StandardSeries], recipe: CacheRecipe, folder: Path) -> None:
    needed = estimate_bytes(runs, recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CannotCreateError(
            f"{folder}: the cache cannot be made there: {error.strerror}",
            fix="choose another folder with --cache-dir",
        ) from error
    log.info(
        "%d runs are to be made ready: about %.2f GiB in %s, where %.2f GiB are free",
        *(len(runs), needed / 2**30, folder, free / 2**30),
    )
    if free < needed:
        raise CannotCreateError(
            f"{folder}: {free} bytes are free; the cache takes about {needed}",
            fix="free space, or choose another folder with --cache-dir",
        )


def _cache_run(run: StandardSeries, recipe: CacheRecipe, key: str, folder: Path) -> CachedRun:
    path = folder / f"{key}.windows"
    header: dict[str, Any] = {"key": key, "dtype": recipe.dtype, "xyz": None}
    if isinstance(recipe.contract, VolumeContract):
        _cache_volumes(run, recipe.contract, header, path)
    else:
        rows = _read_rows(run, recipe, header)
        header |= {"shape": rows.shape[1:], "n_values": rows.shape[1]}
        header |= {"n_volumes": len(rows), "background": 0.0}
        write_cached(path, header, np.empty(0, dtype=np.int32), rows)
    return open_cached(path)


def _cache_volumes(
    run: StandardSeries, contract: VolumeContract, header: dict[str, Any], path: Path
) -> None:
    """Keep the scaled brain of a run."""
    series = open_series(run.bold)
    brain, _ = find_brain(series, run.mask)
    conformed, _ = conform_series(series, run, contract, brain=brain, room=ROOM)
    _check_length(run, conformed.n_volumes, contract.window)
    with naming(run.bold):
        scale = measure_scale(conformed.values(), background=contract.background)
    places = np.flatnonzero(conformed.mask).astype(np.int32)
    header |= {"shape": conformed.mask.shape, "n_volumes": conformed.n_volumes}
    header |= {"n_values": len(places), "background": scale.background}
    rows = (scale_values(values, scale) for values in conformed.values())
    write_cached(path, header, places, rows)


def _read_rows(
    run: StandardSeries, recipe: CacheRecipe, header: dict[str, Any]
) -> NDArray[np.float32]:
    """Read the scaled series of parcels, or of voxels, one row a volume or a block: (T, n)."""
    contract = recipe.contract
    if recipe.atlas is None or isinstance(contract, VolumeContract):
        raise DataError(
            f"{run.bold}: no parcellation was given to make its parcels from",
            fix="give the label image of the model",
        )
    if isinstance(contract, VoxelContract):
        blocks = prepare_voxels(run, contract, recipe.atlas, recipe.options).windows
        return np.concatenate(list(blocks))
    whole = contract.model_copy(update={"window": None})
    prepared = prepare_parcels(run, whole, recipe.atlas, recipe.options)
    (parcels,) = prepared.windows
    _check_length(run, parcels.shape[1], recipe.window)
    if prepared.xyz is not None:
        header["xyz"] = prepared.xyz.tolist()
    return parcels.T


def _check_length(run: StandardSeries, n_volumes: int, window: int) -> None:
    if n_volumes < window:
        raise SeriesTooShortError(
            f"{run.bold}: {n_volumes} volumes at the model's repetition time; a window of "
            f"training takes {window}",
            fix="nothing: the run is left out of the training",
        )
