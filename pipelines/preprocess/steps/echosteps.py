"""The step that several echoes take, files in and files out: T2*, and the weights of the sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.image import read_volume, write_series, write_volume
from neurostorm_app.pipelines.preprocess.acquired.boldseries import AcquiredSeries
from neurostorm_app.pipelines.preprocess.acquired.echoes import (
    average_echoes,
    combination_weights,
    count_good_echoes,
    fit_t2star,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["fit_echoes"]


def fit_echoes(
    files: Mapping[str, Path],
    *,
    folder: Path,
    facts: Mapping[str, Any],
    fit: str,
    n_threads: int,
    device: str,
) -> dict[str, Any]:
    """Fit T2* to the echoes of a run on its native grid, and weigh them by it.

    Parameters
    ----------
    files : mapping
        What `AcquiredSeries.of` takes, and ``mask``.
    folder : Path
        Where to write.
    facts : mapping
        What the first step found.
    fit : {'loglin', 'curvefit'}
        How T2* is fitted.
    n_threads : int
        Volumes at a time.
    device : str
        Where interpolation is computed.

    Returns
    -------
    dict
        Paths ``t2star`` (s; 0 outside the brain) and ``echo_weights`` (X, Y, Z, E), and ``qc``.
    """
    run = AcquiredSeries.of(files, facts=facts, n_threads=n_threads, device=device)
    brain = read_volume(files["mask"])[0] > 0
    means = average_echoes(_aligned(run, brain))
    n_good = count_good_echoes(means)
    found = fit_t2star(means, run.echo_times, n_good, method=fit)  # type: ignore[arg-type]
    inside = combination_weights(found.t2star, run.echo_times, n_good)
    # What is around the brain is summed like most of it, so that no hole opens at its edge.
    weights = np.empty((*brain.shape, len(run.echoes)), dtype=np.float32)
    weights[:] = np.median(inside[n_good > 0], axis=0) if (n_good > 0).any() else 0.0
    weights[brain] = np.where((n_good > 0)[:, None], inside, weights[0, 0, 0])
    shown = np.zeros(brain.shape, dtype=np.float32)
    shown[brain] = found.t2star
    paths = {"t2star": folder / "T2starmap.nii.gz", "echo_weights": folder / "weights.nii.gz"}
    write_volume(paths["t2star"], shown, grid=run.source)
    stack = np.moveaxis(weights, -1, 0)
    write_series(paths["echo_weights"], stack, grid=run.source, n_volumes=len(stack))
    qc = {
        "echo_times_s": list(run.echo_times),
        "t2star_median_ms": round(1000 * float(np.median(shown[brain])), 2),
        "voxels_by_good_echoes": np.bincount(n_good, minlength=len(run.echoes) + 1).tolist(),
        "n_replaced": found.n_replaced,
        "n_unfit": found.n_unfit,
    }
    return {**paths, "qc": qc}


def _aligned(run: AcquiredSeries, brain: NDArray[np.bool_]) -> Iterator[NDArray[np.float32]]:
    """Read the brain's voxels of all echoes (E, V), one time point after another."""
    streams = [run.echo_on(echo, run.source, mask=brain) for echo in range(len(run.echoes))]
    for volumes in zip(*streams, strict=True):
        yield np.stack([volume[brain] for volume in volumes])
