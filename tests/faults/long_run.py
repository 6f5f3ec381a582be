"""A run of 1,200 volumes at 2 mm in half a minute: a small phantom's, upsampled and repeated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import iter_volumes
from neurostorm_app.pipelines.phantom import make_phantom
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (91, 109, 91)
PICTURES, NOISES = 8, 5


def make_long_run(root: Path, *, n_volumes: int = 1200, zoom: float = 2.0) -> Path:
    """Make a dataset of one participant whose series is long and fine; return the series.

    Volumes are eight of a tiny phantom, with its motion, brought to a finer grid of the same field
    of view, in turn, each with other noise; int16, not packed: 1.8 MB a volume at 2 mm.
    """
    make_phantom(root, participants=1, runs=1, n_volumes=PICTURES, scale="tiny", seed=5)
    small = next(root.glob("sub-01/func/*_bold.nii.gz"))
    image = nib.load(small)
    source = Grid.of(image, small)
    shape = tuple(round(n * 2.0 / zoom) for n in SHAPE)
    middle = source.affine @ [*((np.asarray(source.shape) - 1) / 2), 1.0]
    affine = np.diag([zoom, zoom, zoom, 1.0])
    affine[:3, 3] = middle[:3] - zoom * (np.asarray(shape) - 1) / 2
    target = Grid(shape, affine)
    pictures = [
        resample_volume(volume, source=source, target=target, order=1)
        for volume in iter_volumes(small)
    ]
    scale = 4000 / max(float(picture.max()) for picture in pictures)
    rng = np.random.default_rng(7)
    noises = [rng.normal(0, 40, shape).astype(np.float32) for _ in range(NOISES)]
    path = small.with_name(small.name.removesuffix(".gz"))
    write_int16(
        path,
        (
            pictures[t % PICTURES] * scale * (1 + 0.01 * np.sin(t / 40)) + noises[t % NOISES]
            for t in range(n_volumes)
        ),
        target,
        n_volumes=n_volumes,
    )
    sidecar = path.with_suffix(".json")
    content = json.loads(sidecar.read_text())
    content.pop("SliceTiming", None)
    sidecar.write_text(json.dumps(content))
    small.unlink()
    return path


def write_int16(path: Path, volumes, grid: Grid, *, n_volumes: int, tr: float = 2.0) -> None:
    """Write a series as it comes, without packing it."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*grid.shape, n_volumes))
    header.set_sform(grid.affine, code=1)
    header.set_qform(grid.affine, code=1)
    header.set_zooms((*grid.zooms, tr))
    header.set_xyzt_units("mm", "sec")
    header["magic"], header["vox_offset"] = b"n+1", 352
    with path.open("wb") as file:
        file.write(bytes(header.binaryblock) + b"\0\0\0\0")
        for volume in volumes:
            file.write(np.clip(np.rint(volume), 0, 32000).astype(np.int16).tobytes(order="F"))
