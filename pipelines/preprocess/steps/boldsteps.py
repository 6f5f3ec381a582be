"""The first steps of a BOLD run, files in and files out: facts, reference, head motion."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import (
    open_image,
    read_volume,
    write_volume,
)
from neurostorm_app.pipelines.itk import write_itk_affines
from neurostorm_app.pipelines.preprocess.acquired.boldseries import finite_part
from neurostorm_app.pipelines.preprocess.acquired.slicetiming import read_slice_times
from neurostorm_app.pipelines.preprocess.head.headmotion import measure_head
from neurostorm_app.pipelines.preprocess.head.intake import survey_series
from neurostorm_app.pipelines.preprocess.head.reference import (
    check_series,
    count_nonsteady,
    find_brain,
    make_reference,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.pipelines.preprocess.acquired.slicetiming import SliceTimes

__all__ = ["facts", "motion", "reference"]

logger = logging.getLogger(__name__)

RIM = 2
"""Voxels around the brain that move with it."""


def facts(  # noqa: PLR0913
    files: Mapping[str, Path],
    *,
    folder: Path,
    name: str,
    tr: float,
    metadata: Mapping[str, Any],
    dummy_scans: int | None,
    slice_time_ref: float | None,
    distortion: Mapping[str, Any],
    echo_times: Sequence[float],
    notes: Sequence[str],
    told: Sequence[str],
) -> dict[str, Any]:
    """Check a run at the door, and settle what later steps need to know of it.

    Parameters
    ----------
    files : mapping
        ``bold:1`` and further echoes as acquired.
    folder : Path
        Where to write.
    name : str
        The label of the run, for messages.
    tr : float
        Repetition time in seconds.
    metadata : mapping
        What the sidecar says of slice timing.
    dummy_scans : int or None
        Volumes at the start that are not steady; None looks for them.
    slice_time_ref : float or None
        Moment that slices are brought to, 0 to 1; None leaves them.
    distortion : mapping
        ``phase``, ``readout`` and ``jacobian``; empty without a field.
    echo_times : sequence of float
        Seconds; empty with a single echo.
    notes : sequence of str
        What is not corrected and why.
    told : sequence of str
        What of the run is known already, and is only kept.

    Returns
    -------
    dict
        The ``facts`` (JSON types), and ``qc``.

    Raises
    ------
    DataError, CorruptImageError
        If the series cannot be preprocessed.
    UsageError
        If dummy scans leave too little.
    """
    bold = files["bold:1"]
    n_volumes = check_series(bold, tr)
    image = open_image(bold)
    grid, shape = Grid.of(image, bold), image.shape
    for path in files.values():
        echo = open_image(path)
        if echo.shape != shape or Grid.of(echo, path) != grid:
            raise DataError(
                f"{path}: an echo of shape {echo.shape}, or of another place, than {bold.name},"
                f" which has {shape}",
                fix="leave the run out, or repair the conversion: echoes of a run have one grid",
            )
    survey = survey_series(bold)
    detected = count_nonsteady(survey.means)
    skipped = detected if dummy_scans is None else dummy_scans
    if n_volumes - skipped < 5:
        raise UsageError(
            f"{bold}: {skipped} dummy scans leave {n_volumes - skipped} of {n_volumes} volumes;"
            " at least 5 are needed",
            fix="give a smaller --dummy-scans, or leave the run out",
        )
    said, timing = list(notes), None
    if slice_time_ref is not None:
        timing, reason = read_slice_times(
            metadata, shape=shape[:3], tr=tr, path=bold, reference=slice_time_ref
        )
        said += [f"slice timing is not corrected: {reason}"] if reason else []
    for note in said:
        logger.warning("%s: %s", name, note)
    head = None
    if survey.head is not None:
        head = folder / "finite.nii.gz"
        write_volume(head, survey.head, grid=grid, dtype=np.uint8)
    settled = {
        "n_skipped": skipped,
        "timing": timing and _as_dict(timing),
        "echo_times": list(echo_times),
        "head": head and str(head),
        **distortion,
    }
    qc = {
        "n_volumes": n_volumes,
        "tr": tr,
        "n_nonsteady_detected": detected,
        "n_nonsteady_used": skipped,
        "n_echoes": max(1, len(echo_times)),
        "slice_timing": timing and {"reference_s": round(timing.reference, 6)},
        "notes": [*told, *said],
        **survey.qc(),
    }
    return {"facts": settled, "qc": qc}


def _as_dict(timing: SliceTimes) -> dict[str, Any]:
    content = asdict(timing)
    return content | {"times": [float(time) for time in timing.times]}


def reference(
    files: Mapping[str, Path], *, folder: Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the BOLD reference and find the brain in it.

    Parameters
    ----------
    files : mapping
        ``bold:1``, and ``sbref`` if there is one.
    folder : Path
        Where to write.
    facts : mapping
        Of the run.

    Returns
    -------
    dict
        Paths ``hmc_boldref`` and ``hmc_mask``, and ``qc``.
    """
    bold = files["bold:1"]
    grid = Grid.of(open_image(bold), bold)
    volume, qc = make_reference(
        bold,
        grid,
        n_skipped=facts["n_skipped"],
        sbref=files.get("sbref"),
        head=finite_part(facts),
    )
    mask = find_brain(volume, grid)
    paths = {"hmc_boldref": folder / "desc-hmc_boldref.nii.gz", "hmc_mask": folder / "mask.nii.gz"}
    write_volume(paths["hmc_boldref"], volume, grid=grid)
    write_volume(paths["hmc_mask"], mask, grid=grid, dtype=np.uint8)
    litres = mask.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1e6
    qc |= {
        "shape": list(grid.shape),
        "zooms_mm": [round(zoom, 4) for zoom in grid.zooms],
        "brain_litres": round(float(litres), 4),
    }
    return {**paths, "qc": qc}


def motion(
    files: Mapping[str, Path],
    *,
    folder: Path,
    facts: Mapping[str, Any],
    n_threads: int,
    device: str,
) -> dict[str, Any]:
    """Estimate head motion; give ``hmc_xfm``, reference points to points of each volume."""
    volume, grid = read_volume(files["hmc_boldref"])
    rigid = ndimage.binary_dilation(read_volume(files["hmc_mask"])[0] > 0, iterations=RIM)
    track, qc = measure_head(
        files["bold:1"],
        grid,
        volume,
        rigid,
        n_skipped=facts["n_skipped"],
        sbref_given="sbref" in files,
        head=finite_part(facts),
        n_threads=n_threads,
        device=device,
    )
    out = folder / "from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    write_itk_affines(out, track.matrices)
    return {"hmc_xfm": out, "qc": qc}
