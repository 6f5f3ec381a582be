"""What the header of a series says, checked before a single voxel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import CorruptImageError, DataError, NoInputError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import open_image

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "SeriesHeader",
    "check_file",
    "check_present",
    "check_tr",
    "read_series_header",
    "tell_value",
]

SECONDS: Final = {8: 1.0, 16: 1e-3, 24: 1e-6}
"""Of the unit of time, by its NIfTI code; other codes say nothing."""
TIME_UNIT: Final = 0x38
"""Bits of ``xyzt_units`` that hold that code."""
TR_MAX: Final = 60.0
QUOTED_MAX: Final = 3
"""Letters of a text of a sidecar that a message may quote."""
SERIES_VOXELS_MAX: Final = 2**26
"""Voxels of a volume: 406 along each axis, a whole head at 0.5 mm; several are in memory."""


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """Shape and timing of a series.

    Parameters
    ----------
    shape : tuple of int
        (X, Y, Z, T).
    zooms : tuple of float
        Voxel sizes in millimetres.
    tr : float or None
        Repetition time in seconds; None where the header does not say it with a unit.
    """

    shape: tuple[int, int, int, int]
    zooms: tuple[float, float, float]
    tr: float | None


def read_series_header(path: Path) -> SeriesHeader:
    """Read the header of a 4D NIfTI file.

    Raises
    ------
    NoInputError
        If there is no such file, or it is a link to content that is not here.
    CorruptImageError
        If it is not NIfTI, not a series, or its header makes no sense.
    """
    check_present(path)
    image = open_image(path)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) != 4 or min(shape) < 1 or shape[3] < 2:
        raise CorruptImageError(
            f"{path} has shape {shape}; expected a series (X, Y, Z, T) of two volumes or more",
            fix="a BOLD series has four axes and volumes along the last; repair or leave it out",
        )
    n_voxels = shape[0] * shape[1] * shape[2]
    if n_voxels > SERIES_VOXELS_MAX:
        raise CorruptImageError(
            f"{path} has volumes of {n_voxels} voxels; a series has {SERIES_VOXELS_MAX} at most",
            fix="look whether the header is damaged; bring the series to larger voxels otherwise",
        )
    unit = int(image.header["xyzt_units"]) & TIME_UNIT
    step = float(image.header["pixdim"][4])
    tr = step * SECONDS[unit] if unit in SECONDS and step > 0 else None
    i, j, k, t = shape
    return SeriesHeader((i, j, k, t), Grid.of(image, path).zooms, tr)


def check_present(path: Path) -> None:
    """Refuse a file that is not there, or whose content is not.

    Raises
    ------
    NoInputError
        If there is no such file, or it is a link to content that is not on this machine.
    """
    if path.exists():
        return
    if path.is_symlink():
        raise NoInputError(
            f"{path} is a link to content that is not on this machine",
            fix=f"bring it here, for example with: datalad get {path}",
        )
    raise NoInputError(f"{path} does not exist", fix="check the path; is it mounted?")


def check_file(path: Path) -> None:
    """Refuse what is not there, and what never ends when it is read: a pipe, a device.

    Raises
    ------
    NoInputError
        If there is no such file, or it is something else than a file.
    """
    check_present(path)
    if not path.is_file():
        raise NoInputError(f"{path} is no ordinary file; expected an image", fix="take it away")


def check_tr(tr: object, path: Path) -> float:
    """Return a repetition time in seconds, or say why it cannot be one.

    Raises
    ------
    DataError
        If it is not a positive number, or so large that it must be milliseconds.
    """
    if isinstance(tr, bool) or not isinstance(tr, int | float) or not 0 < tr <= TR_MAX:
        raise DataError(
            f"{path}: RepetitionTime is {tell_value(tr)}; expected seconds between 0 and "
            f"{TR_MAX:g}",
            fix="write it into the sidecar in seconds; milliseconds must be divided by 1000",
        )
    return float(tr)


def tell_value(value: object) -> str:
    """Say what a sidecar holds where it should hold something else.

    Messages become outputs, and a text in the wrong place may be the name of a person: only what
    is as short as ``j--`` is quoted.

    Examples
    --------
    >>> [tell_value(value) for value in (2000, "AP", "Jane Doe", ["Jane"], {}, None)]
    ['2000', "'AP'", 'a text of 8 letters', 'a list of 1', 'an object', 'None']
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= QUOTED_MAX else f"a text of {len(value)} letters"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"{value!r:.24}"
