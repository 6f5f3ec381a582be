"""Transforms in ITK's files: text of affines, HDF5 composites, and what ANTs leaves behind.

ITK's world is LPS+, which differs from ours (RAS+) by the sign of x and y; nowhere else in the
house are there LPS coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec

from neurostorm_app.errors import CorruptImageError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.xfm import Affine, Chain, Field

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LPS",
    "from_ants",
    "read_itk_affines",
    "read_itk_composite",
    "write_itk_affines",
    "write_itk_composite",
]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ to LPS+ and back."""


def write_itk_affines(path: Path, matrices: Iterable[NDArray[np.float64]]) -> None:
    """Write affines as ITK text, one block each, such as one a volume.

    Parameters
    ----------
    path : Path
        The file to write, ``.txt``.
    matrices : iterable of ndarray, shape (4, 4)
        Reference points to moving points, RAS+ mm.
    """
    lines = ["#Insight Transform File V1.0"]
    for number, matrix in enumerate(matrices):
        numbers = " ".join(repr(float(value)) for value in _itk_parameters(matrix))
        lines += [
            f"#Transform {number}",
            "Transform: AffineTransform_double_3_3",
            f"Parameters: {numbers}",
            "FixedParameters: 0 0 0",
        ]
    path.write_text("\n".join([*lines, ""]), encoding="ascii")


def read_itk_affines(path: Path) -> NDArray[np.float64]:
    """Read affines from ITK text.

    Returns
    -------
    ndarray, shape (N, 4, 4)
        Reference points to moving points, RAS+ mm.

    Raises
    ------
    CorruptImageError
        If the file holds no affine of twelve parameters.
    """
    parameters: list[list[float]] = []
    centres: list[list[float]] = []
    for line in path.read_text(encoding="ascii").splitlines():
        key, _, rest = line.partition(":")
        if key == "Parameters":
            parameters.append([float(word) for word in rest.split()])
        elif key == "FixedParameters":
            centres.append([float(word) for word in rest.split()])
    wrong = [len(row) for row in parameters if len(row) != 12]
    if not parameters or wrong or len(centres) != len(parameters):
        raise CorruptImageError(
            f"{path}: {len(parameters)} transforms, {len(wrong)} of them without twelve parameters;"
            " ITK affines were expected",
            fix="write the transforms anew, or give the file of another derivative",
        )
    return np.stack(
        [_from_itk(row, centre) for row, centre in zip(parameters, centres, strict=True)]
    )


def write_itk_composite(path: Path, xfm: Affine | Field | Chain) -> None:
    """Write a chain as an ITK composite in HDF5, as ANTs and fMRIPrep do.

    ITK applies the last transform of the file first, so the steps are stored from last to
    first. Numbers are float32, compressed.
    """
    import h5py

    steps = Chain.of(xfm).steps
    with h5py.File(path, "w") as file:
        file["ITKVersion"] = np.array([b"5.4.0"], dtype=h5py.string_dtype("ascii"))
        file["HDFVersion"] = np.array([b"1.14.0"], dtype=h5py.string_dtype("ascii"))
        groups = file.create_group("TransformGroup")
        _write_block(groups, 0, "CompositeTransform_float_3_3")
        for number, step in enumerate(reversed(steps), start=1):
            if isinstance(step, Affine):
                _write_block(
                    groups,
                    number,
                    "AffineTransform_float_3_3",
                    values=_itk_parameters(step.matrix),
                    fixed=np.zeros(3),
                )
            else:
                _write_block(
                    groups,
                    number,
                    "DisplacementFieldTransform_float_3_3",
                    values=_itk_displacements(step),
                    fixed=_itk_geometry(step.grid),
                )


def read_itk_composite(path: Path) -> Chain:
    """Read an ITK composite (HDF5) of affines and displacement fields.

    Raises
    ------
    CorruptImageError
        If the file is not HDF5, or holds a transform of another kind.
    """
    import h5py

    steps: list[Affine | Field] = []
    try:
        with h5py.File(path, "r") as file:
            groups: Any = file["TransformGroup"]
            for number in sorted(groups, key=int, reverse=True):
                steps += _read_block(groups[number], path)
    except (OSError, KeyError) as error:
        raise CorruptImageError(
            f"{path}: not an ITK composite transform in HDF5 ({error})",
            fix="write the transform anew, or give the file of another derivative",
        ) from error
    return Chain(tuple(steps))


def from_ants(path: Path) -> Affine | Field:
    """Read what ants.registration leaves on disk: ``0GenericAffine.mat`` or a warp in NIfTI.

    Returns
    -------
    Affine or Field
        Fixed points to moving points for the forward transforms, RAS+ mm.
    """
    from scipy.io import loadmat

    if path.suffix == ".mat":
        content = loadmat(path)
        (name,) = (key for key in content if "Transform" in key)
        return Affine(_from_itk(content[name].ravel(), content["fixed"].ravel()))
    image = nib.Nifti1Image.from_filename(path)
    vectors = np.asarray(image.dataobj, dtype=np.float32).reshape((*image.shape[:3], 3))
    return Field(Grid.of(image, path), vectors * np.array([-1, -1, 1], dtype=np.float32))


def _itk_parameters(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    lps = LPS @ matrix @ LPS
    return np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]])


def _from_itk(parameters: ArrayLike, centre: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(parameters, dtype=np.float64)
    linear, about = values[:9].reshape(3, 3), np.asarray(centre, dtype=np.float64)
    shift = values[9:] + about - linear @ about
    return np.asarray(LPS @ from_matvec(linear, shift) @ LPS, dtype=np.float64)


def _itk_displacements(field: Field) -> NDArray[np.float32]:
    lps = field.displacement * np.array([-1, -1, 1], dtype=np.float32)
    return lps.transpose(2, 1, 0, 3).ravel()


def _itk_geometry(grid: Grid) -> NDArray[np.float64]:
    """Size, origin, spacing and direction cosines (row by row), LPS."""
    lps = LPS @ grid.affine
    spacing = np.asarray(grid.zooms)
    direction = lps[:3, :3] / spacing
    return np.concatenate([grid.shape, lps[:3, 3], spacing, direction.ravel()])


def _write_block(
    groups: Any,
    number: int,
    kind: str,
    *,
    values: NDArray[np.floating] | None = None,
    fixed: NDArray[np.float64] | None = None,
) -> None:
    import h5py

    group = groups.create_group(str(number))
    group["TransformType"] = np.array([kind.encode()], dtype=h5py.string_dtype("ascii"))
    if values is not None:
        group["TransformFixedParameters"] = fixed
        packing: dict[str, Any] = (
            {"compression": "gzip", "compression_opts": 4} if values.size > 12 else {}
        )
        made = group.create_dataset(
            "TransformParameters", data=values.astype(np.float32), **packing
        )
        # Else its place in the file depends on when the last reference to it goes; profilers of
        # other threads, such as that of Dask, keep some.
        made.flush()


def _read_block(group: Any, path: Path) -> list[Affine | Field]:
    kind = group["TransformType"][0].decode()
    if kind.startswith("CompositeTransform"):
        return []
    values = np.asarray(group["TransformParameters"])
    # Spelt so ("Tranform") by ITK below 4.8 and by many files of today.
    name = "TransformFixedParameters"
    fixed = np.asarray(group[name] if name in group else group["TranformFixedParameters"])
    if kind.startswith("DisplacementFieldTransform"):
        return [_read_field(values, fixed)]
    if values.size == 12:
        return [Affine(_from_itk(values, fixed))]
    raise CorruptImageError(
        f"{path}: a transform of kind {kind}; only affines and displacement fields are read",
        fix="convert it to a displacement field",
    )


def _read_field(values: NDArray[np.floating], fixed: NDArray[np.float64]) -> Field:
    x, y, z = (int(n) for n in fixed[:3])
    direction = fixed[9:18].reshape(3, 3)
    affine = LPS @ from_matvec(direction * fixed[6:9], fixed[3:6])
    vectors = values.reshape(z, y, x, 3).transpose(2, 1, 0, 3).astype(np.float32)
    grid = Grid((x, y, z), np.asarray(affine, dtype=np.float64))
    return Field(grid, vectors * np.array([-1, -1, 1], dtype=np.float32))
