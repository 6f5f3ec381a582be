"""Write a made-up run as files, and our confounds of it, for other packages to compute again.

Runs where our app is installed; :mod:`consume_confounds` runs where fMRIPrep is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.itk import write_itk_affines
from neurostorm_app.pipelines.preprocess.acquired.echoes import (
    average_echoes,
    combination_weights,
    combine,
    count_good_echoes,
    fit_t2star,
)
from neurostorm_app.pipelines.preprocess.noise.confound_table import ConfoundInputs, make_confounds
from neurostorm_app.pipelines.preprocess.noise.noisemask import find_crown, find_noise_voxels
from neurostorm_app.pipelines.xfm import Affine

T1W = Grid((150, 176, 140), from_matvec(np.diag([1.0, 1, 1]), [-75, -88, -70]))
TURNED = euler2mat(0.15, 0.05, -0.1) @ np.diag([-3.5, 3.5, 4])
CASES = {
    "las": {
        "grid": Grid((46, 54, 36), from_matvec(np.diag([-3.5, 3.5, 4]), [79, -93, -70])),
        "n_skipped": 0,
        "all": False,
    },
    "ras": {
        "grid": Grid((46, 54, 36), from_matvec(np.diag([3.5, 3.5, 4]), [-79, -93, -70])),
        "n_skipped": 3,
        "all": False,
    },
    "oblique": {
        "grid": Grid((46, 54, 38), from_matvec(TURNED, -TURNED @ [22.5, 26.5, 18.5])),
        "n_skipped": 2,
        "all": True,
    },
}
TR = 2.2
N_VOLUMES = 75
COREG = Affine(from_matvec(euler2mat(0.06, -0.05, 0.08), [3.0, -2, 4]))
"""T1w points to points of the BOLD reference."""


def tissues(points: np.ndarray) -> dict[str, np.ndarray]:
    """Make folded white matter, a ribbon around it, and fluid inside and out."""
    x, y, z = np.moveaxis(points, -1, 0)
    radius = np.sqrt((x / 62) ** 2 + (y / 76) ** 2 + (z / 58) ** 2)
    depth = radius + 0.06 * np.sin(x / 9 + 1) * np.sin(y / 11) * np.cos(z / 10)

    def inside(limit: float) -> np.ndarray:
        return 1 / (1 + np.exp((depth - limit) * 60))

    middle, white, brain, head = inside(0.3), inside(0.72), inside(0.86), inside(0.95)
    found = {"gm": brain - white, "wm": white - middle, "csf": middle + head - brain}
    return {name: np.clip(map_, 0, 1).astype(np.float32) for name, map_ in found.items()}


def head_motion(rng: np.random.Generator) -> np.ndarray:
    """Walk slowly, and jump twice."""
    steps = rng.normal(0, 0.05, (N_VOLUMES, 6))
    steps[[30, 52]] += [0.8, -0.6, 0.5, 1.2, -1.0, 1.5]
    walk = np.cumsum(steps, axis=0)
    turns = [euler2mat(*np.radians(numbers[3:])) for numbers in walk]
    return np.stack([from_matvec(t, n[:3]) for t, n in zip(turns, walk, strict=True)])


def simulate(maps: dict[str, np.ndarray], n_skipped: int, rng: np.random.Generator) -> np.ndarray:
    """Give each tissue a course of its own, with drift, noise of all colours, and spikes."""
    time = np.linspace(-1, 1, N_VOLUMES)
    shape = next(iter(maps.values())).shape
    noise = rng.normal(0, 9, (*shape, N_VOLUMES))
    noise[..., 1:] += 0.4 * noise[..., :-1]
    courses = ndimage.gaussian_filter1d(rng.normal(0, 60, (3, N_VOLUMES)), 1.0, axis=1)
    series = noise + rng.normal(0, 15, (*shape, 1)) * time**2
    for (name, map_), course in zip(maps.items(), courses, strict=True):
        level = {"gm": 700.0, "wm": 550.0, "csf": 900.0}[name]
        series += map_[..., None] * (level + course)
    series[..., :n_skipped] *= 1.4
    series[..., [30, 52]] += 80.0
    return np.clip(series, 0, None).astype(np.float32)


def make_case(folder: Path, *, grid: Grid, n_skipped: int, everything: bool, seed: int) -> None:
    """Write one run and our table of it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    anat = tissues(T1W.world())
    anat_mask = sum(anat.values()) > 0.5
    bold = tissues(COREG.inverse()(grid.world()))
    series = simulate(bold, n_skipped, rng)
    reference = series[..., n_skipped:].mean(axis=-1)
    mask = sum(bold.values()) > 0.6
    matrices = head_motion(rng)
    back = COREG.inverse()
    noise, purity = find_noise_voxels(anat, source=T1W, target=grid, mask=mask, xfm=back)
    crown = find_crown(mask, anat_mask=anat_mask, source=T1W, target=grid, xfm=back)
    inputs = ConfoundInputs(
        series=series[mask],
        noise=noise,
        matrices=matrices,
        reference=reference,
        grid=grid,
        tr=TR,
        n_skipped=n_skipped,
        edge=series[crown],
    )
    table, metadata = make_confounds(inputs, return_all_components=everything)
    table.to_csv(folder / "ours.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.12g")
    (folder / "ours.json").write_text(json.dumps(metadata))
    facts = {"tr": TR, "n_skipped": n_skipped, "all": everything, "purity": purity}
    (folder / "facts.json").write_text(json.dumps(facts))
    write_itk_affines(folder / "hmc.txt", matrices)
    write_itk_affines(folder / "bold_to_t1w.txt", [back.matrix])
    image = nib.Nifti1Image(series, grid.affine)
    image.header.set_zooms((*grid.zooms, TR))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, folder / "bold.nii.gz")
    volumes = {"boldref": (reference, grid), "mask": (mask.astype(np.uint8), grid)}
    volumes |= {name: (map_, T1W) for name, map_ in anat.items()}
    volumes |= {
        "t1w_mask": (anat_mask.astype(np.uint8), T1W),
        "crown": (crown.astype(np.uint8), grid),
    }
    for letter, voxels in noise.items():
        placed = np.zeros(grid.shape, np.uint8)
        placed[mask] = voxels
        volumes[f"noise-{letter}"] = (placed, grid)
    for name, (data, its_grid) in volumes.items():
        nib.save(nib.Nifti1Image(data, its_grid.affine), folder / f"{name}.nii.gz")


def make_echoes(path: Path) -> None:
    """Write three echoes, and our counts, decays and combinations of them."""
    rng = np.random.default_rng(9)
    times, decay = np.array([0.0145, 0.0385, 0.0625]), rng.uniform(0.01, 0.08, 400)
    signal = np.exp(-times / decay[:, None])[..., None] * rng.uniform(300, 1200, (400, 1, 1))
    echoes = np.abs(signal * (1 + 0.02 * rng.normal(0, 1, (400, 3, 30))) + 1)
    echoes[:5, 2, 7] = 0.0  # no signal once
    echoes[5:10, ::-1] = echoes[5:10]  # grows
    echoes[10:12, 0] = 0.0
    volumes = np.moveaxis(echoes, 2, 0).transpose(0, 2, 1)
    means = average_echoes(volumes)
    n_good = count_good_echoes(means)
    found = {"echoes": echoes, "times": times, "n_good": n_good}
    for method in ("loglin", "curvefit"):
        fit = fit_t2star(means, times.tolist(), n_good, method=method)
        weights = combination_weights(fit.t2star, times.tolist(), n_good)
        found |= {f"{method}_t2star": fit.t2star, f"{method}_s0": fit.s0}
        found[f"{method}_sum"] = np.stack([combine(volume, weights) for volume in volumes], 1)
    np.savez(path, **found)


if __name__ == "__main__":
    for number, (name, facts) in enumerate(CASES.items()):
        make_case(
            Path(sys.argv[1]) / name,
            grid=facts["grid"],
            n_skipped=facts["n_skipped"],
            everything=facts["all"],
            seed=number,
        )
    make_echoes(Path(sys.argv[1]) / "echoes.npz")
