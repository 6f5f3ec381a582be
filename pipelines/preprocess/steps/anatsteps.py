"""The steps of the anatomy, files in and files out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurostorm_app.pipelines.preprocess.anatomy.anatomical import prepare_t1w
from neurostorm_app.pipelines.preprocess.anatomy.brainmask import extract_brain
from neurostorm_app.pipelines.preprocess.anatomy.normalization import normalize
from neurostorm_app.pipelines.preprocess.anatomy.standardanatomy import to_standard
from neurostorm_app.pipelines.preprocess.anatomy.tissue import segment
from neurostorm_app.pipelines.stage import OutputSpace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["brain", "normalization", "prepare", "standard", "tissues"]

TISSUES = ("GM", "WM", "CSF")


def prepare(files: Mapping[str, Path], *, folder: Path) -> dict[str, Any]:
    """Conform, correct and average the T1w images ``raw:1``, ``raw:2``, ...; give ``t1w``."""
    out = folder / "desc-preproc_T1w.nii.gz"
    raw = [files[role] for role in sorted(files)]
    return {"qc": prepare_t1w(raw, out, work_dir=folder), "t1w": out}


def brain(files: Mapping[str, Path], *, folder: Path) -> dict[str, Any]:
    """Find the brain in ``t1w``; give ``mask``."""
    out = folder / "desc-brain_mask.nii.gz"
    return {"qc": extract_brain(files["t1w"], out), "mask": out}


def normalization(
    files: Mapping[str, Path], *, folder: Path, spaces: Sequence[str], seed: int
) -> dict[str, Any]:
    """Find the maps between ``t1w`` and templates; give ``to:`` and ``from:`` each."""
    done = normalize(files["t1w"], files["mask"], spaces=spaces, out_dir=folder, seed=seed)
    maps = {f"to:{space}": done.to_std[space] for space in spaces}
    maps |= {f"from:{space}": done.from_std[space] for space in spaces}
    priors = {f"prior_{name.lower()}": done.priors[name] for name in TISSUES}
    return {**maps, **priors, "qc": dict(done.qc)}


def tissues(files: Mapping[str, Path], *, folder: Path) -> dict[str, Any]:
    """Tell grey matter, white matter and fluid; give ``dseg``, ``gm``, ``wm`` and ``csf``."""
    maps = {name: folder / f"label-{name}_probseg.nii.gz" for name in TISSUES}
    out = folder / "dseg.nii.gz"
    qc = segment(
        files["t1w"],
        files["mask"],
        out_dseg=out,
        out_probsegs=maps,
        priors={name: files[f"prior_{name.lower()}"] for name in TISSUES},
    )
    return {"qc": qc, "dseg": out, **{name.lower(): path for name, path in maps.items()}}


def standard(files: Mapping[str, Path], *, folder: Path, name: str, res: str) -> dict[str, Any]:
    """Bring the anatomy onto the grid of an output space; the template's finest for ``native``."""
    space = OutputSpace(name=name, res=res)
    fine = OutputSpace(name=name, res="1") if res == "native" else space
    images = to_standard(
        files["t1w"],
        files["mask"],
        {tissue: files[tissue.lower()] for tissue in TISSUES},
        files[f"to:{name}"],
        space=fine,
        out_dir=folder,
    )
    return {f"{role.lower()}:{space.label}": path for role, path in images.items()}
