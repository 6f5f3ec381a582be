"""Volumes inside a page, small enough to be carried, for the viewer that a reader may open.

The viewer is NiiVue, which draws by WebGL 2; it lies in the page compressed and is unpacked when
it is asked for, so that a page opens as fast with it as without. Volumes have eight bits a voxel:
they are for looking, not for measuring.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.bids_app.report.panels import Notice, anchor
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.figures import Volume, read_volume
from neurostorm_app.pipelines.figures.slices import onto

if TYPE_CHECKING:
    from neurostorm_app.bids_app.report.tree import Anatomy, RunFiles

__all__ = [
    "BUDGET",
    "PAGE",
    "Layer",
    "Scene",
    "Shelf",
    "build_scene",
    "inserted_script",
    "room_beside",
    "viewer_library",
]

BUDGET: Final = 6_000_000
"""Characters that all volumes of a page may take together."""
PAGE: Final = 13_500_000
"""Characters that figures and volumes may take together: what else is in a page takes up to 1 MB,
and with it the page stays below 15 MB. Figures come first."""
_LIBRARY: Final = Path(__file__).parent / "templates" / "niivue.js.gz"
_T1W: Final = "T1w, brain only"
_GREY_TOP: Final = 99.8
"""Percentile that becomes white."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One volume of a scene.

    Parameters
    ----------
    label : str
        What it is.
    volume : str
        Id of the volume in the page.
    colours : str
        Colour map by NiiVue's name.
    opacity : float
        From 0 to 1.
    shown : bool
        Whether it is shown from the start.
    """

    label: str
    volume: str
    colours: str
    opacity: float
    shown: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the viewer of one run shows: its layers, from the bottom."""

    ident: str
    title: str
    layers: list[Layer]


@dataclass
class Shelf:
    """The volumes of a page, each once, up to a number of characters.

    Parameters
    ----------
    room : int
        Characters that are left.
    volumes : dict
        Id to a compressed NIfTI in base64.
    """

    room: int = BUDGET
    volumes: dict[str, str] = field(default_factory=dict)

    def put(self, volume: Volume, *, grey: bool) -> str | None:
        """Put a volume on the shelf.

        Parameters
        ----------
        volume : Volume
            An image, or a mask above one half.
        grey : bool
            Whether it is an image.

        Returns
        -------
        str or None
            Its id; None if there is no room for it.
        """
        packed = _pack(volume, grey=grey)
        ident = "volume-" + hashlib.sha256(packed.encode()).hexdigest()[:12]
        if ident in self.volumes:
            return ident
        if len(packed) > self.room:
            return None
        self.room -= len(packed)
        self.volumes[ident] = packed
        return ident


def room_beside(figures: int) -> int:
    """Tell how many characters of volumes a page has room for, beside its figures.

    Examples
    --------
    >>> room_beside(2_000_000), room_beside(11_000_000), room_beside(20_000_000)
    (6000000, 2500000, 0)
    """
    return min(BUDGET, max(0, PAGE - figures))


def build_scene(run: RunFiles, anatomy: Anatomy | None, shelf: Shelf) -> Scene | Notice | None:
    """Make the scene of a run in standard space.

    Parameters
    ----------
    run : RunFiles
        Its reference and mask.
    anatomy : Anatomy or None
        T1w, brain mask and tissues in the same space. Of the T1w only the brain is taken, so that
        no page holds a face; without a mask it is left out.
    shelf : Shelf
        Takes the volumes.

    Returns
    -------
    Scene, Notice or None
        None if there is no reference to show; a notice if there is no room for it, or it is
        damaged.
    """
    if run.boldref is None:
        return None
    wanted: list[tuple[str, Path | None, str, float, bool]] = [
        ("BOLD reference", run.boldref, "gray", 1.0, True),
        (_T1W, anatomy.t1w if anatomy and anatomy.mask else None, "gray", 1.0, False),
        ("BOLD mask", run.mask, "warm", 0.2, True),
        ("white matter", anatomy.dseg if anatomy else None, "winter", 0.45, False),
    ]
    layers = []
    for label, path, colours, opacity, shown in wanted:
        if path is None:
            continue
        try:
            volume = read_volume(path)
            if label == _T1W and anatomy and anatomy.mask:
                volume = _brain_of(volume, read_volume(anatomy.mask))
        except AppError as problem:
            return Notice(what=problem.what, fix=problem.fix)
        if label == "white matter":
            volume = Volume((volume.data == 2).astype(np.float32), volume.grid)
        ident = shelf.put(volume, grey=colours == "gray")
        if ident is None:
            return Notice(
                what="This run is not in the viewer: the page has no room for more volumes.",
                fix="open its images in a viewer of your own",
            )
        layers.append(
            Layer(label=label, volume=ident, colours=colours, opacity=opacity, shown=shown)
        )
    return Scene(ident=anchor(run.name, "viewer"), title=run.title, layers=layers)


@functools.cache
def viewer_library() -> str:
    """Read the compressed viewer, in base64."""
    return base64.b64encode(_LIBRARY.read_bytes()).decode()


@functools.cache
def inserted_script() -> str:
    """Give the script that ``viewer.js`` makes of the library: the viewer, and its name."""
    return f"{gzip.decompress(_LIBRARY.read_bytes()).decode()};globalThis.niivue = niivue;"


def _brain_of(head: Volume, mask: Volume) -> Volume:
    """Take away what is not brain: a page that is passed on shows nobody's face."""
    brain = onto(mask, head.grid) > 0.5
    return Volume((head.data * brain).astype(np.float32), head.grid)


def _pack(volume: Volume, *, grey: bool) -> str:
    """Bring a volume to eight bits, compressed, in base64; the same bytes each time."""
    import nibabel as nib

    if grey:
        inside = volume.data[volume.data > 0]
        high = float(np.percentile(inside, _GREY_TOP)) if inside.size else 1.0
        data = np.clip(volume.data / max(high, 1e-6) * 255, 0, 255).astype(np.uint8)
    else:
        data = (volume.data > 0.5).astype(np.uint8)
    image = nib.Nifti1Image(data, volume.grid.affine)
    image.header.set_xyzt_units("mm", "sec")
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode()
