"""The step that takes the measure of a run, files in and files out: confounds and quality."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import open_image, read_volume
from neurostorm_app.pipelines.itk import read_itk_composite
from neurostorm_app.pipelines.preprocess.acquired.boldseries import AcquiredSeries
from neurostorm_app.pipelines.preprocess.nodes import SAID
from neurostorm_app.pipelines.preprocess.noise.confound_table import ConfoundInputs, make_confounds
from neurostorm_app.pipelines.preprocess.noise.faults import SliceMeans, coverage
from neurostorm_app.pipelines.preprocess.noise.noisemask import find_crown, find_noise_voxels
from neurostorm_app.pipelines.preprocess.noise.quality import judge_run, measure_run
from neurostorm_app.pipelines.preprocess.steps.boldoutputs import read_coregistration
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.templates import load_template
from neurostorm_app.pipelines.xfm import Chain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["confounds", "quality"]


def confounds(  # noqa: PLR0913
    files: Mapping[str, Path],
    *,
    folder: Path,
    facts: Mapping[str, Any],
    tr: float,
    thresholds: tuple[float, float],
    all_components: bool,
    template: str | None,
    phase_axis: int | None,
    n_threads: int,
    device: str,
) -> dict[str, Any]:
    """Compute the confounds table of a run, and the numbers its quality is judged by.

    Parameters
    ----------
    files : mapping
        What `AcquiredSeries.of` takes, ``mask``, and ``gm``, ``wm``, ``csf``: on the grid of the
        T1w image with ``coreg_xfm`` and ``t1w_mask``, else on that of the BOLD reference; and
        ``to:`` the template.
    folder : Path
        Where to write.
    facts : mapping
        What the first step found.
    tr : float
        Repetition time in seconds.
    thresholds : tuple of float
        Of framewise displacement (mm) and standardised DVARS.
    all_components : bool
        Keep all components of CompCor.
    template : str or None
        The standard space in which coverage is told.
    phase_axis : int or None
        Voxel axis of phase encoding, along which a ghost would lie; None if unknown.
    n_threads : int
        Volumes at a time.
    device : str
        Where interpolation is computed.

    Returns
    -------
    dict
        Paths ``confounds`` and ``confounds_json``, the ``measures`` of the run, and ``qc``.
    """
    reference, grid = read_volume(files["hmc_boldref"])
    brain = read_volume(files["mask"])[0] > 0
    slices = SliceMeans(brain, axis=(facts["timing"] or {}).get("axis", 2))
    run = AcquiredSeries.of(
        files, facts=facts, n_threads=n_threads, device=device, watch=slices.add
    )
    back = read_coregistration(files).inverse()
    tissues = {name: read_volume(files[name])[0] for name in ("gm", "wm", "csf")}
    source = Grid.of(open_image(files["gm"]))
    noise, purity = find_noise_voxels(tissues, source=source, target=grid, mask=brain, xfm=back)
    head = read_volume(files.get("t1w_mask", files["mask"]))[0] > 0
    crown = find_crown(brain, anat_mask=head, source=source, target=grid, xfm=back)
    series, edge = _voxels(run, brain, crown)
    inputs = ConfoundInputs(
        series=series,
        noise=noise,
        matrices=run.motion,
        reference=reference,
        grid=grid,
        tr=tr,
        n_skipped=run.n_skipped,
        edge=edge,
    )
    fd_threshold, dvars_threshold = thresholds
    table, metadata = make_confounds(
        inputs,
        fd_threshold=fd_threshold,
        dvars_threshold=dvars_threshold,
        return_all_components=all_components,
    )
    paths = {
        "confounds": folder / "desc-confounds_timeseries.tsv",
        "confounds_json": folder / "desc-confounds_timeseries.json",
    }
    table.to_csv(paths["confounds"], sep="\t", index=False, na_rep="n/a", float_format="%.10g")
    paths["confounds_json"].write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    seen, view = _coverages(files, brain, grid, template)
    measures = measure_run(
        table,
        series=series,
        reference=reference,
        mask=brain,
        zooms=grid.zooms,
        n_skipped=run.n_skipped,
        slice_means=slices.means,
        phase_axis=phase_axis,
        brain_coverage=seen,
        fov_coverage=view,
        fd_threshold=fd_threshold,
        dvars_threshold=dvars_threshold,
    )
    outliers = [name for name in table.columns if name.startswith("motion_outlier")]
    qc = {
        "fd_mean_mm": measures["fd_mean"],
        "fd_max_mm": measures["fd_max"],
        "std_dvars_mean": measures["std_dvars_mean"],
        "n_motion_outliers": len(outliers),
        "noise_mask_purity": purity,
        "noise_mask_voxels": {name: int(voxels.sum()) for name, voxels in noise.items()},
        "crown_voxels": int(crown.sum()),
    }
    return {**paths, "measures": measures, "qc": qc}


def quality(
    _: Mapping[str, Path],
    *,
    folder: Path,  # noqa: ARG001  every step has one
    measures: Mapping[str, float | None],
    **steps: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge a run by its numbers and by what its steps said of themselves."""
    said = {name.removeprefix(SAID): steps[name] for name in sorted(steps)}
    return {"qc": judge_run(measures, steps=said)}


def _voxels(
    run: AcquiredSeries, brain: NDArray[np.bool_], crown: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read brain (V, T) and crown (E, T) on the native grid, motion and distortion taken off."""
    series = np.empty((np.count_nonzero(brain), run.n_volumes), dtype=np.float32)
    edge = np.empty((np.count_nonzero(crown), run.n_volumes), dtype=np.float32)
    for number, volume in enumerate(run.on(run.source, mask=brain | crown)):
        series[:, number] = volume[brain]
        edge[:, number] = volume[crown]
    return series, edge


def _coverages(
    files: Mapping[str, Path], brain: NDArray[np.bool_], grid: Grid, template: str | None
) -> tuple[float | None, float | None]:
    """Tell which share of the template's brain the mask and the field of view cover."""
    if template is None:
        return None, None
    standard = load_template(template)
    to_bold = Chain.of(read_itk_composite(files[f"to:{template}"]), read_coregistration(files))
    wanted = read_volume(standard.mask)[0] > 0
    seen, view = (
        resample_volume(
            inside.astype(np.float32), source=grid, target=standard.grid, xfm=to_bold, order=0
        )
        for inside in (brain, np.ones_like(brain))
    )
    return coverage(seen > 0, wanted), coverage(view > 0, wanted)
