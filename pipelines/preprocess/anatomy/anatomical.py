"""The T1w image, made ready: checked, in RAS order, freed of its bias field, averaged.

Work is done at 1 mm at the finest. The chain serves functional images of 2 mm and more, where
finer anatomy costs time and memory and changes nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import NoInputError
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.anatomy.averaging import average_heads
from neurostorm_app.pipelines.preprocess.anatomy.bias import block_mean, correct_bias, upsample
from neurostorm_app.pipelines.preprocess.anatomy.orientation import (
    check_head,
    conform,
    describe_header,
    with_zooms,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = [
    "block_mean",
    "check_head",
    "conform",
    "correct_bias",
    "prepare_t1w",
    "upsample",
    "with_zooms",
]

logger = logging.getLogger(__name__)


def prepare_t1w(
    paths: Sequence[Path], out: Path, *, work_dir: Path, seed: int = 42
) -> dict[str, Any]:
    """Check, conform and correct the T1w images of a participant, and average several.

    Parameters
    ----------
    paths : sequence of Path
        T1w images, any orientation, in any pose. One stays where it is; several meet in the middle
        of their poses, so that none of them is preferred.
    out : Path
        The image to write: RAS+, float32, arbitrary units, background at zero.
    work_dir : Path
        Folder for scratch files, which are removed.
    seed : int
        Seed of the sampling, when there are several.

    Returns
    -------
    dict
        What was found and done, for the quality report (JSON types): among it ``images`` (what
        each header says), ``average`` (if there are several: weights, likeness, what was left
        out), ``verdict`` (``pass`` or ``look``) and ``reasons``.

    Raises
    ------
    NoInputError
        If `paths` is empty, or a file is not there.
    CorruptImageError
        If an image cannot be read, is constant, or its voxel sizes are not those of a head.
    """
    if not paths:
        raise NoInputError(
            "no T1w image was found", fix="give a dataset with a T1w image, or its derivatives"
        )
    report: dict[str, Any] = {"n_images": len(paths), "sources": [path.name for path in paths]}
    heads: list[tuple[NDArray[np.float32], Grid]] = []
    report |= {"bias_field_spread": [], "images": []}
    reasons: list[str] = []
    for path in paths:
        raw, source = read_volume(path)
        check_head(raw, source, path)
        header = describe_header(path)
        reasons += [f"{path.name}: {reason}" for reason in header.pop("reasons")]
        if not heads:
            report["acquired_zooms_mm"] = [round(zoom, 4) for zoom in source.zooms]
            report["acquired_shape"] = list(source.shape)
        volume, grid = conform(raw, source)
        volume, field = correct_bias(volume, grid)
        report["bias_field_spread"].append(round(float(field), 3))
        report["images"].append({"name": path.name, **header})
        heads.append((volume, grid))
    average, grid = heads[0]
    if len(heads) > 1:
        average, grid, about = average_heads(heads, work_dir=work_dir, seed=seed)
        report["average"] = about
        reasons += [f"{paths[n].name}: {why}" for n, why in about["left_out"].items()]
        report["average"]["left_out"] = {paths[n].name: w for n, w in about["left_out"].items()}
    write_volume(out, average, grid=grid)
    report |= {"shape": list(grid.shape), "zooms_mm": [round(z, 4) for z in grid.zooms]}
    report |= {"verdict": "look" if reasons else "pass", "reasons": reasons}
    logger.info("T1w image: %s", report)
    return report
