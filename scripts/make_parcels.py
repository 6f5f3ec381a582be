"""Make GreyParcels100, the embedded parcellation, from the embedded grey matter map.

Run it after ``make_templates.py``; the same map gives the same parcels::

    python scripts/make_parcels.py
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from make_templates import read, save, write_json

from neurostorm_app.pipelines.templates import DATA

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_PER_HEMISPHERE = 50
GREY = 0.4
"""Grey matter probability from which a voxel belongs to a parcel."""


def main() -> None:
    """Cut the grey matter of each hemisphere into 50 compact parcels, in mirrored pairs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    grey, grid = read(DATA / "tpl-MNI152NLin6Asym_res-02_label-GM_probseg.nii.gz")
    labels = np.zeros(grid.shape, dtype=np.uint8)
    world = grid.world()
    centres: NDArray[np.float64] | None = None
    rows: list[dict[str, Any]] = []
    for side in ("L", "R"):
        here = (grey >= GREY) & ((world[..., 0] < 0) == (side == "L"))
        centres, numbers = cut(world[here], grey[here].astype(np.float64), centres)
        labels[here] = numbers + len(rows) + 1
        rows += describe(side, centres, numbers, first=len(rows) + 1)
    stem = "tpl-MNI152NLin6Asym_res-02_atlas-GreyParcels100_dseg"
    save(nib.Nifti1Image(labels, grid.affine), DATA / f"{stem}.nii.gz")
    write_json(DATA / f"{stem}.json", sidecar(rows))


def cut(
    points: NDArray[np.float64], weights: NDArray[np.float64], across: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Cluster points (n, 3), mm; start from the mirror images of other centres, if given.

    Returns
    -------
    centres : ndarray, shape (50, 3)
        From front to back; in the order of `across` if given.
    numbers : ndarray, shape (n,)
        Parcel of each point.
    """
    from sklearn.cluster import KMeans

    start: Any = "k-means++" if across is None else across * [-1, 1, 1]
    n_init = 4 if across is None else 1
    kmeans = KMeans(N_PER_HEMISPHERE, init=start, n_init=n_init, max_iter=500, random_state=1)
    kmeans.fit(points, sample_weight=weights)
    centres, numbers = kmeans.cluster_centers_, kmeans.labels_
    if across is not None:
        return centres, numbers
    order = np.lexsort((centres[:, 2], -np.round(centres[:, 1] / 15)))
    return centres[order], np.argsort(order)[numbers]


def describe(
    side: str, centres: NDArray[np.float64], numbers: NDArray[np.intp], *, first: int
) -> list[dict[str, Any]]:
    """List the parcels of a hemisphere."""
    return [
        {
            "index": first + index,
            "name": f"{side}{index + 1:02d}",
            "hemisphere": side,
            "centroid_mm": [round(float(value), 1) for value in centre],
            "n_voxels": int(np.count_nonzero(numbers == index)),
        }
        for index, centre in enumerate(centres)
    ]


def sidecar(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what the parcellation is, and what it is not."""
    return {
        "Name": "GreyParcels100",
        "Description": "100 compact parcels of grey matter, cortical, subcortical and cerebellar:"
        " k-means of voxel positions weighted by grey matter probability, 50 in the left"
        " hemisphere and 50 in the right that started from their mirror images. Parcels i and"
        " i + 50 face each other. It knows positions, not functions: use it where no functional"
        " atlas is at hand.",
        "Space": "MNI152NLin6Asym",
        "Resolution": "2 mm",
        "Threshold": f"grey matter probability of at least {GREY}",
        "License": "see LICENSE-ICBM.txt: derived from the ICBM 2009c and 2009a templates",
        "GeneratedBy": "scripts/make_parcels.py, scikit-learn KMeans, random_state 1",
        "Labels": rows,
    }


if __name__ == "__main__":
    main()
