"""What the header of a NIfTI file may say, checked on its first bytes before anything is allocated.

A header is 348 bytes that anybody can write. What it announces is compared with the size of the
file: a plain file holds what it announces, and gzip expands what it holds by 1032 at most. So a
file of a few bytes never makes this app ask for gigabytes.

References
----------
https://zlib.net/zlib_tech.html, "Maximum Compression Factor", for the 1032.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import data_type_codes
from nibabel.spatialimages import HeaderDataError

from neurostorm_app.errors import CorruptImageError, NoInputError
from neurostorm_app.pipelines.shortage import as_shortage

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_header"]

VOXELS_MAX: Final = 2**29
"""Voxels of one volume: 812 along each axis, a whole head at 0.25 mm."""
VOLUMES_MAX: Final = 2**20
"""A day and a night at ten volumes a second."""
OFFSET_MAX: Final = 2**24
"""Bytes before the voxels: the header and what other programs hang on to it."""
EXPANSION: Final = 1032
ZOOM_RANGE: Final = (0.01, 100.0)
"""Edge of a voxel, mm."""
SHIFT_MAX: Final = 1e4
"""Of the first voxel from the origin of the world: ten metres, in mm."""
LENGTHS: Final[dict[int, Any]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
"""Bytes of a header, which are also its first number."""
BLOCK: Final = 2**16
FETCH: Final = "fetch or convert the file anew; compare its size and checksum with the source"
REPAIR: Final = "convert the file anew; if others read it, repair its header, not this app's"


def read_header(path: Path) -> nib.Nifti1Header:
    """Read the header of a NIfTI file if what it says can be true.

    Extensions, which may hold anything at all, are not read.

    Raises
    ------
    NoInputError
        If the file may not be read.
    CorruptImageError
        If the header is cut off, contradicts itself, or announces what the file cannot hold.
    """
    raw = _first_bytes(path, max(LENGTHS))
    header = _parse(raw, path)
    _check_shape(header, path)
    _check_type(header, path)
    _check_size(header, path)
    _check_scale(header, path)
    _check_zooms(header, path)
    try:
        header.check_fix()  # codes that the standard does not know become 0, as for all readers
    except HeaderDataError as error:
        raise CorruptImageError(f"{path}: cannot be opened as NIfTI: {error}", fix=FETCH) from error
    _check_affine(header, path)
    return header


def _first_bytes(path: Path, n_bytes: int) -> bytes:
    """Read the start of a file, which is decompressed no further than that."""
    packed = path.suffix == ".gz"
    opened = zlib.decompressobj(wbits=31)
    content = b""
    try:
        with path.open("rb") as file:
            while len(content) < n_bytes and (block := file.read(BLOCK)):
                content += opened.decompress(block, n_bytes) if packed else block
                if packed and opened.eof:
                    break
    except PermissionError as error:
        raise NoInputError(
            f"{path}: this user may not read it", fix="ask for the permission to read the file"
        ) from error
    except (OSError, zlib.error) as error:
        if (failing := as_shortage(error)) is not None:  # of the disk, and not of the file
            raise failing from error
        raise CorruptImageError(f"{path}: cannot be opened as NIfTI: {error}", fix=FETCH) from error
    return content[:n_bytes]


def _parse(raw: bytes, path: Path) -> nib.Nifti1Header:
    first = np.frombuffer(raw[:4].ljust(4, b"\0"), np.int32)
    length = next((n for n in map(int, (first[0], first.byteswap()[0])) if n in LENGTHS), 0)
    if not length or len(raw) < length:
        found = f"{len(raw)} bytes" if len(raw) < min(LENGTHS) else f"a start of {raw[:4].hex()}"
        raise CorruptImageError(
            f"{path}: cannot be opened as NIfTI: expected a header of 348 or 540 bytes that begins "
            f"with this number, found {found}",
            fix=FETCH,
        )
    try:
        # Without the check of the package, which repairs in silence.
        header: nib.Nifti1Header = LENGTHS[length](raw[:length], check=False)
    except (HeaderDataError, ValueError) as error:
        raise CorruptImageError(f"{path}: cannot be opened as NIfTI: {error}", fix=FETCH) from error
    magic = bytes(header["magic"])[:3]
    if not magic.startswith((b"n+1", b"n+2")):
        raise CorruptImageError(
            f"{path}: its header ends in {magic!r}; expected b'n+1' or b'n+2', header and voxels in"
            " one file",
            fix=REPAIR,
        )
    return header


def _check_shape(header: nib.Nifti1Header, path: Path) -> None:
    dim = [int(n) for n in header["dim"]]
    n_axes = dim[0]
    if not 1 <= n_axes <= 7 or min(dim[1 : n_axes + 1]) < 1:
        raise CorruptImageError(
            f"{path}: dim of its header is {dim}; expected the number of axes, 3 or 4, and of "
            "voxels along each, 1 or more",
            fix=REPAIR,
        )
    shape = dim[1 : n_axes + 1]
    n_voxels = int(np.prod([float(n) for n in shape[:3]]))
    n_volumes = int(np.prod([float(n) for n in shape[3:]]))
    if n_voxels > VOXELS_MAX or n_volumes > VOLUMES_MAX:
        raise CorruptImageError(
            f"{path}: its header announces {n_volumes} volumes of {n_voxels} voxels, shape "
            f"{tuple(shape)}; expected {VOLUMES_MAX} of {VOXELS_MAX} at most",
            fix=REPAIR,
        )


def _check_type(header: nib.Nifti1Header, path: Path) -> None:
    code, bits = int(header["datatype"]), int(header["bitpix"])
    dtypes: Any = data_type_codes.dtype
    dtype = dtypes.get(code, None)
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize * 8 != bits:
        said = "nothing that is known" if dtype is None else str(dtype)
        raise CorruptImageError(
            f"{path}: datatype {code} of its header is {said}, bitpix is {bits}; expected whole "
            "or real numbers and their number of bits",
            fix=REPAIR,
        )


def _check_size(header: nib.Nifti1Header, path: Path) -> None:
    """Compare what is announced with the size of the file."""
    start, least = float(header["vox_offset"]), header.single_vox_offset
    if not (least <= start <= OFFSET_MAX and start.is_integer()):
        raise CorruptImageError(
            f"{path}: vox_offset of its header is {start:g}; expected whole bytes between {least} "
            f"and {OFFSET_MAX}",
            fix=REPAIR,
        )
    dim = [int(n) for n in header["dim"]]
    shape = dim[1 : dim[0] + 1]
    n_volumes = int(np.prod(shape[3:], dtype=np.int64))
    n_bytes = int(np.prod(shape[:3], dtype=np.int64)) * int(header["bitpix"]) // 8
    announced, there = int(start) + n_volumes * n_bytes, path.stat().st_size
    if path.suffix == ".gz":
        if announced > EXPANSION * there:
            raise CorruptImageError(
                f"{path}: its header announces {announced} bytes; a gzip file of {there} bytes "
                f"holds {EXPANSION * there} at most",
                fix=FETCH,
            )
    elif announced > there:
        number, rest = divmod(max(there - int(start), 0), n_bytes)
        raise CorruptImageError(
            f"{path}: volume {number} of {n_volumes} has {rest} bytes of {n_bytes}: the file ends "
            "early",
            fix=FETCH,
        )


def _check_scale(header: nib.Nifti1Header, path: Path) -> None:
    """Refuse infinite scales; 0 and NaN say by convention that there is none."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = slope != 0 and not np.isnan(slope)
    if scaled and not (np.isfinite(slope) and np.isfinite(inter)):
        raise CorruptImageError(
            f"{path}: scl_slope and scl_inter of its header are {slope:g} and {inter:g}; expected "
            "finite numbers, or a slope of 0 where values are not scaled",
            fix=REPAIR,
        )


def _check_zooms(header: nib.Nifti1Header, path: Path) -> None:
    """Refuse voxel sizes that no head was ever scanned with."""
    zooms = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    low, high = ZOOM_RANGE
    if not ((zooms >= low) & (zooms <= high)).all():
        metres = ((zooms * 1e3 >= 0.2) & (zooms * 1e3 <= 20)).all()
        guess = "; they look like metres" if metres else ""
        raise _misplaced(path, f"pixdim says that voxels are {_told(zooms)} mm{guess}")


def _check_affine(header: nib.Nifti1Header, path: Path) -> None:
    """Refuse affines that no head was ever scanned with."""
    low, high = ZOOM_RANGE
    try:
        affine: NDArray[Any] = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise _misplaced(path, f"its quaternion is no rotation ({error})") from error
    if not np.isfinite(affine).all():
        raise CorruptImageError(
            f"{path}: its affine cannot be inverted: {affine.tolist()}",
            fix="repair the header (sform, qform or voxel sizes): it says where the voxels are",
        )
    with np.errstate(over="ignore"):
        sizes = voxel_sizes(affine)
    if sizes.max() > high or (0 < sizes.min() < low) or np.abs(affine[:3, 3]).max() > SHIFT_MAX:
        raise _misplaced(
            path,
            f"its affine says that voxels are {_told(sizes)} mm and the first is at "
            f"{_told(affine[:3, 3])} mm",
        )


def _misplaced(path: Path, what: str) -> CorruptImageError:
    low, high = ZOOM_RANGE
    return CorruptImageError(
        f"{path}: {what}; expected voxels between {low:g} and {high:g} mm, {SHIFT_MAX:g} mm from "
        "the origin at most",
        fix="repair the header (sform, qform or voxel sizes): it says where the voxels are, in mm",
    )


def _told(values: NDArray[Any]) -> str:
    return " x ".join(f"{value:g}" for value in values)
