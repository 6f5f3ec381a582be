"""The last steps of a BOLD run, files in and files out: confounds, and standard space."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.grid import Grid, standard_grid
from neurostorm_app.pipelines.image import MNI, open_image, read_volume, write_series, write_volume
from neurostorm_app.pipelines.itk import read_itk_affines, read_itk_composite
from neurostorm_app.pipelines.preprocess.confound_table import ConfoundInputs, make_confounds
from neurostorm_app.pipelines.preprocess.noisemask import find_noise_voxels
from neurostorm_app.pipelines.resample import VolumeSampler, resample_series, resample_volume
from neurostorm_app.pipelines.xfm import Affine, Chain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["confounds", "standardization"]


def confounds(  # noqa: PLR0913
    bold: Path,
    *,
    files: Mapping[str, Path],
    tr: float,
    n_skipped: int,
    thresholds: tuple[float, float],
    folder: Path,
    n_threads: int,
) -> dict[str, Any]:
    """Compute the confounds table of a run.

    Parameters
    ----------
    bold : Path
        The series as acquired.
    files : mapping of str to Path
        ``boldref``, ``mask``, ``hmc_xfm``, ``coreg_xfm``, and ``gm``, ``wm``, ``csf`` on the
        grid of the T1w image.
    tr : float
        Repetition time in seconds.
    n_skipped : int
        Volumes at the start that are not steady.
    thresholds : tuple of float
        Of framewise displacement (mm) and standardised DVARS.
    folder : Path
        Where to write.
    n_threads : int
        Volumes at a time.

    Returns
    -------
    dict
        Paths ``confounds`` and ``confounds_json``, and ``qc``.
    """
    volume, grid = read_volume(files["boldref"])
    brain = read_volume(files["mask"])[0] > 0
    matrices = read_itk_affines(files["hmc_xfm"])
    coreg = Affine(read_itk_affines(files["coreg_xfm"])[0])
    tissues = {name: read_volume(files[name])[0] for name in ("gm", "wm", "csf")}
    source = Grid.of(open_image(files["gm"]))
    noise, purity = find_noise_voxels(
        tissues, source=source, target=grid, mask=brain, xfm=coreg.inverse()
    )
    inputs = ConfoundInputs(
        series=_still_voxels(bold, grid, brain, matrices=matrices, n_threads=n_threads),
        noise=noise,
        matrices=matrices,
        reference=volume,
        grid=grid,
        tr=tr,
        n_skipped=n_skipped,
    )
    table, metadata = make_confounds(
        inputs, fd_threshold=thresholds[0], dvars_threshold=thresholds[1]
    )
    paths = {
        "confounds": folder / "desc-confounds_timeseries.tsv",
        "confounds_json": folder / "desc-confounds_timeseries.json",
    }
    table.to_csv(paths["confounds"], sep="\t", index=False, na_rep="n/a", float_format="%.10g")
    paths["confounds_json"].write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    qc = _summarize(table) | {"noise_mask_purity": purity}
    qc["noise_mask_voxels"] = {name: int(voxels.sum()) for name, voxels in noise.items()}
    return {**paths, "qc": qc}


def _still_voxels(
    bold: Path,
    grid: Grid,
    brain: NDArray[np.bool_],
    *,
    matrices: NDArray[np.float64],
    n_threads: int,
) -> NDArray[np.float32]:
    """Read the brain's voxels (V, T) on the native grid, head motion taken off."""
    series = np.empty((np.count_nonzero(brain), len(matrices)), dtype=np.float32)
    volumes = resample_series(
        bold, source=grid, target=grid, motion=matrices, mask=brain, n_threads=n_threads
    )
    for number, volume in enumerate(volumes):
        series[:, number] = volume[brain]
    return series


def _summarize(table: pd.DataFrame) -> dict[str, Any]:
    displacement = table["framewise_displacement"].to_numpy()[1:]
    changes = table["std_dvars"].to_numpy()[1:]
    outliers = [name for name in table.columns if name.startswith("motion_outlier")]
    return {
        "fd_mean_mm": round(float(displacement.mean()), 4),
        "fd_max_mm": round(float(displacement.max()), 4),
        "std_dvars_mean": round(float(changes.mean()), 4),
        "n_motion_outliers": len(outliers),
    }


def standardization(
    bold: Path,
    *,
    files: Mapping[str, Path],
    space: tuple[str, str],
    tr: float,
    folder: Path,
    n_threads: int,
) -> dict[str, Path]:
    """Bring series, reference and mask onto a standard grid.

    Parameters
    ----------
    bold : Path
        The series as acquired.
    files : mapping of str to Path
        ``boldref``, ``mask``, ``hmc_xfm``, ``coreg_xfm`` and ``to_std_xfm``.
    space : tuple of str
        TemplateFlow name and resolution index of the grid.
    tr : float
        Repetition time in seconds.
    folder : Path
        Where to write.
    n_threads : int
        Volumes at a time.

    Returns
    -------
    dict of Path
        ``bold_std`` (float32), ``boldref_std`` (float32) and ``mask_std`` (uint8).
    """
    volume, grid = read_volume(files["boldref"])
    target = standard_grid(*space)
    coreg = Affine(read_itk_affines(files["coreg_xfm"])[0])
    points = Chain.of(read_itk_composite(files["to_std_xfm"]), coreg)(target.world())
    matrices = read_itk_affines(files["hmc_xfm"])
    stem = f"space-{space[0]}_res-{space[1]}"
    paths = {
        "bold_std": folder / f"{stem}_desc-preproc_bold.nii.gz",
        "boldref_std": folder / f"{stem}_boldref.nii.gz",
        "mask_std": folder / f"{stem}_desc-brain_mask.nii.gz",
    }
    sampler = VolumeSampler(points.reshape(-1, 3), source=grid)
    still = sampler(volume, np.eye(4)).reshape(target.shape)
    write_volume(paths["boldref_std"], still, grid=target, code=MNI)
    inside = resample_volume(
        read_volume(files["mask"])[0], source=grid, target=target, xfm=lambda _: points, order=1
    )
    write_volume(paths["mask_std"], inside > 0.5, grid=target, dtype=np.uint8, code=MNI)
    volumes = resample_series(
        bold,
        source=grid,
        target=target,
        to_bold=lambda _: points.reshape(-1, 3),
        motion=matrices,
        n_threads=n_threads,
    )
    write_series(
        paths["bold_std"],
        volumes,
        grid=target,
        n_volumes=len(matrices),
        tr=tr,
        code=MNI,
        n_threads=n_threads,
    )
    return paths
