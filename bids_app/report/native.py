"""Figures on the run's own grid: the correction of distortion, and where noise was looked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.bids_app.report.panels import Notice, Panel, anchor, mosaic_panel
from neurostorm_app.pipelines.figures import Contour, Picture, Volume, draw_mosaic, read_volume
from neurostorm_app.pipelines.figures.style import colour_stops
from neurostorm_app.pipelines.grid import Grid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.report.native_files import NativeAnatomy
    from neurostorm_app.bids_app.report.tree import RunFiles

__all__ = ["Tissues", "draw_distortion", "draw_field", "draw_noise"]

_WM = 2
_MARGIN = 8
"""Voxels of the T1w image kept around its tissues: more than any step looks away from one."""
_FIELD_COLOURS = "RdBu_r"
_OTHER = (
    "the tissue maps or the app have changed since: preprocess the run again to see what was used"
)


@dataclass(eq=False)
class Tissues:
    """Tissues of a participant on the grid of the T1w image, read once for all runs.

    Parameters
    ----------
    files : NativeAnatomy
        Where they are.
    """

    files: NativeAnatomy

    @cached_property
    def white(self) -> Volume | None:
        """White matter by its label; None without labels."""
        if self.files.dseg is None:
            return None
        dseg = read_volume(self.files.dseg)
        return Volume((dseg.data == _WM).astype(np.float32), dseg.grid)

    @cached_property
    def maps(self) -> tuple[dict[str, NDArray[np.float32]], Grid] | None:
        """Probabilities ``gm``, ``wm`` and ``csf``, cut to the head; None if one is missing."""
        paths = {"gm": self.files.gm, "wm": self.files.wm, "csf": self.files.csf}
        volumes = {name: read_volume(path) for name, path in paths.items() if path is not None}
        if len(volumes) < len(paths):
            return None
        grid = volumes["gm"].grid
        inside = np.argwhere(np.any([volume.data > 0 for volume in volumes.values()], axis=0))
        if not len(inside):
            return None
        low = np.maximum(inside.min(0) - _MARGIN, 0)
        high = np.minimum(inside.max(0) + 1 + _MARGIN, grid.shape)
        where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ low
        shape = tuple(int(side) for side in high - low)
        cut = {name: volume.data[where] for name, volume in volumes.items()}
        return cut, Grid((shape[0], shape[1], shape[2]), affine)


def draw_distortion(run: RunFiles, tissues: Tissues) -> Panel | None:
    """Draw the reference before and after the correction of distortion; None if it was not done.

    Parameters
    ----------
    run : RunFiles
        The run.
    tissues : Tissues
        For the line of the white matter.
    """
    if run.native.before is None or run.native.after is None or not _corrected(run):
        return None
    before, after = read_volume(run.native.before), read_volume(run.native.after)
    if before.grid == after.grid and np.array_equal(before.data, after.data):
        return None
    pictures = [
        Picture(key="before", label="before", volume=before),
        Picture(key="after", label="after", volume=after),
    ]
    contours = _white_line(run.native.to_t1w, tissues)
    line = " The line of the white matter comes from the T1w." if contours else ""
    how = run.sidecar.get("DistortionCorrection")
    method = f" Corrected by: {how['Method']}." if isinstance(how, dict) and "Method" in how else ""
    return mosaic_panel(
        anchor(run.name, "distortion"),
        draw_mosaic(pictures, contours, brain=_brain(run, after)),
        layers=(pictures, contours),
        title="Before and after the correction of distortion",
        caption=(
            f"The BOLD reference on its own grid.{method} Let the two images alternate: the front "
            f"and the sides of the brain should move towards their true shape.{line}"
        ),
    )


def draw_field(run: RunFiles) -> Panel | None:
    """Draw the field map on the grid of the reference; None if there is none, or no brain."""
    if run.native.field is None:
        return None
    field = read_volume(run.native.field)
    brain = _brain(run, field)
    inside = field.data[brain.data > 0] if brain.grid == field.grid else field.data.ravel()
    if not inside.size:
        return None
    high = max(float(np.ceil(np.percentile(np.abs(inside), 98) / 10) * 10), 10.0)
    shown = field.data * (brain.data > 0) if brain.grid == field.grid else field.data
    picture = Picture(
        key="field",
        label="field map",
        volume=Volume(shown.astype(np.float32), field.grid),
        limits=(-high, high),
        colours=_FIELD_COLOURS,
    )
    return mosaic_panel(
        anchor(run.name, "field"),
        draw_mosaic([picture], [], brain=brain),
        layers=([picture], []),
        title="Field map",
        caption=(
            "How far the magnetic field is off, in Hz, on the grid of the run. It should be smooth,"
            " with its extremes above the nose and the ears."
        ),
        scale={
            "low": f"-{high:.0f} Hz",
            "high": f"+{high:.0f} Hz",
            "stops": colour_stops(_FIELD_COLOURS),
        },
    )


def draw_noise(run: RunFiles, tissues: Tissues, notices: list[Notice]) -> Panel | None:
    """Draw brain mask and the voxels of anatomical CompCor on the run's reference.

    The masks are made again as the preprocessing made them, and their sizes are compared with
    those that it noted.

    Parameters
    ----------
    run : RunFiles
        The run.
    tissues : Tissues
        Of the participant.
    notices : list of Notice
        Gets one if a mask is not of the size that was noted.
    """
    reference = run.native.after or run.native.before
    if reference is None or run.native.mask is None:
        return None
    pictures = [Picture(key="bold", label="BOLD reference", volume=read_volume(reference))]
    brain = read_volume(run.native.mask)
    contours = [Contour(key="mask", label="brain mask", volume=brain)]
    found = _noise(run, tissues, brain)
    noted = _noted(run)
    for letter, key, label in (("w", "noise-w", "white matter"), ("c", "noise-c", "CSF")):
        if letter in found:
            contours.append(Contour(key=key, label=f"CompCor, {label}", volume=found[letter]))
            size = int(found[letter].data.sum())
            if noted.get(letter, size) != size:
                what = f"CompCor mask of {label}: {size} voxels drawn, {noted[letter]} were used."
                notices.append(Notice(what=what, fix=_OTHER))
    sizes = " and ".join(
        f"{int(found[letter].data.sum())} of {label}"
        for letter, label in (("w", "white matter"), ("c", "CSF"))
        if letter in found
    )
    voxels = f" CompCor takes its components from {sizes}, in voxels." if sizes else ""
    return mosaic_panel(
        anchor(run.name, "noise"),
        draw_mosaic(pictures, contours, brain=brain),
        layers=(pictures, contours),
        title="Brain mask and CompCor masks",
        caption=(
            "The BOLD reference on its own grid. The brain mask should follow the edge of the "
            f"brain; the CompCor masks should stay away from grey matter.{voxels}"
        ),
    )


def _corrected(run: RunFiles) -> bool:
    """Tell whether distortion was corrected: the series, a field or the preprocessing says so."""
    told = isinstance(run.sidecar.get("DistortionCorrection"), dict)
    return told or run.native.field is not None or isinstance(run.qc.get("distortion"), dict)


def _noted(run: RunFiles) -> dict[str, int]:
    """Take the sizes of the masks that the preprocessing noted."""
    motion = run.qc.get("motion")
    sizes = motion.get("noise_mask_voxels") if isinstance(motion, dict) else None
    return sizes if isinstance(sizes, dict) else {}


def _noise(run: RunFiles, tissues: Tissues, brain: Volume) -> dict[str, Volume]:
    """Make the CompCor masks again; none without tissues and the transform to them."""
    if run.native.to_t1w is None or tissues.maps is None:
        return {}
    from neurostorm_app.pipelines.preprocess.noise.noisemask import find_noise_voxels
    from neurostorm_app.pipelines.xfm import Affine

    maps, grid = tissues.maps
    inside = brain.data > 0
    voxels, _ = find_noise_voxels(
        maps,
        source=grid,
        target=brain.grid,
        mask=inside,
        xfm=Affine(_to_bold(run.native.to_t1w)).inverse(),
    )
    found = {}
    for letter in ("w", "c"):
        data = np.zeros(brain.grid.shape, dtype=np.float32)
        data[inside] = voxels[letter]
        if data.any():
            found[letter] = Volume(data, brain.grid)
    return found


def _white_line(to_t1w: Path | None, tissues: Tissues) -> list[Contour]:
    """Carry the white matter to the run by moving its grid; none without a transform."""
    if to_t1w is None or tissues.white is None:
        return []
    white = tissues.white
    moved = Volume(white.data, Grid(white.grid.shape, _to_bold(to_t1w) @ white.grid.affine))
    return [Contour(key="wm", label="white matter", volume=moved)]


def _to_bold(to_t1w: Path) -> NDArray[np.float64]:
    """Read the matrix that takes points of the T1w image to points of the run, mm."""
    from neurostorm_app.pipelines.itk import read_itk_affines

    matrix: NDArray[np.float64] = read_itk_affines(to_t1w)[0]
    return matrix


def _brain(run: RunFiles, image: Volume) -> Volume:
    """Read the brain mask of the run or, without one, what is not black in an image."""
    if run.native.mask is not None:
        return read_volume(run.native.mask)
    data: Any = image.data > 0
    return Volume(data.astype(np.float32), image.grid)
