"""Where parcels are, for a network that is told: a point of the contract's space for each.

An atlas with a card of its own brings a file of points, on which networks were trained; they are
not the centroids. For any other label image a parcel is where its voxels are on average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine

from neurostorm_app.errors import ContractError, NoInputError
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.pipelines.parcellate import read_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.conformance import Findings
    from neurostorm_app.pipelines.grid import Grid

__all__ = ["find_centroids", "place_parcels", "read_coordinates"]


def place_parcels(
    atlas: Path, contract: ParcelContract, findings: Findings
) -> NDArray[np.float32] | None:
    """Find where the parcels of a label image are, if the network is told.

    Parameters
    ----------
    atlas : Path
        Label image in the contract's space.
    contract : ParcelContract
        Names the atlas, and says whether the network is given places.
    findings : Findings
        Is told where the places come from.

    Returns
    -------
    ndarray, shape (V, 3), float32, or None
        Millimetres, RAS+, in the order of the labels.

    Raises
    ------
    NoInputError
        If the file of points of an atlas with a card is not there.
    ContractError
        If the points are not those of the labels.
    """
    if not contract.coordinates:
        return None
    volume, grid = read_labels(atlas)
    labels = np.unique(volume[volume > 0])
    file = _find_file(atlas, contract.atlas)
    if file is None:
        findings.facts["coordinates"] = {"source": "centroids"}
        return find_centroids(volume, grid, labels)
    findings.facts["coordinates"] = {"source": file.name, "sha256": hash_file(file)}
    return read_coordinates(file, labels)


def _find_file(atlas: Path, name: str) -> Path | None:
    """Find the points beside a label image; None for an atlas that has none of its own."""
    from neurostorm_app.models.atlases import find_coordinates, list_atlases, read_atlas_card

    card = read_atlas_card(name) if name in list_atlases() else None
    if card is None or card.coordinates is None:
        return None
    file = find_coordinates(atlas, card)
    if file is None:
        raise NoInputError(
            f"{atlas}: the coordinates of its parcels are not beside it; the network was trained "
            f"on those of {name}, which are not the centroids",
            fix=f"fetch both files by `neurostorm-tools weights fetch {name}`",
        )
    return file


def read_coordinates(path: Path, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read points: a line a parcel, its label and X, Y, Z in millimetres, without a header.

    Parameters
    ----------
    path : Path
        Numbers with tabs or blanks between them.
    labels : ndarray, shape (V,), int
        Values of the label image, ascending.

    Returns
    -------
    ndarray, shape (V, 3), float32
        Millimetres, + is right, anterior, superior; in the order of `labels`.

    Raises
    ------
    ContractError
        If a line is not four numbers, or the labels differ.
    """
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    try:
        rows = np.array([line for line in lines if line], dtype=np.float64).reshape(-1, 4)
    except ValueError as error:
        raise ContractError(
            f"{path}: is not a table of coordinates; expected a label and three numbers a line, "
            f"without a header: {error}",
            fix="give the file as its source publishes it",
        ) from error
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    if not np.isfinite(rows).all() or not np.array_equal(rows[:, 0], labels):
        raise ContractError(
            f"{path}: its {len(rows)} points are not those of the {len(labels)} labels of the "
            "image beside it",
            fix="give the two files of one atlas",
        )
    return rows[:, 1:].astype(np.float32)


def find_centroids(
    volume: NDArray[np.int64], grid: Grid, labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Average the places of the voxels of each parcel.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z), int
        A label image.
    grid : Grid
        Where its voxels are.
    labels : ndarray, shape (V,), int
        Its values, ascending.

    Returns
    -------
    ndarray, shape (V, 3), float32
        Millimetres, RAS+. The point need not lie inside a parcel that is bent.
    """
    voxels = np.argwhere(volume > 0)
    rows = np.searchsorted(labels, volume[tuple(voxels.T)])
    world = apply_affine(grid.affine, voxels)
    counts = np.bincount(rows, minlength=len(labels))
    sums = [np.bincount(rows, weights=axis, minlength=len(labels)) for axis in world.T]
    return np.asarray(np.stack(sums, axis=1) / counts[:, np.newaxis], dtype=np.float32)
