"""Write damaged copies of a derivative, and what our check says of each.

Runs where our app is installed; :mod:`consume_compat` and :mod:`consume_compat_xcpd` run where the
other packages are, and compare. Images are thinned first, so that the others read them in no time.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from damage import DAMAGES, Tree

from neurostorm_app.bids_app.compatibility.checking import check_folder

STEP = 8
"""Of so many voxels along each axis one is kept."""


def thin(source: Path, target: Path) -> None:
    """Copy a derivative with fewer voxels and without reports."""
    kinds = ("anat", "func", "fmap")
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        if path.is_dir() or (len(place.parts) > 1 and place.parts[-2] not in kinds):
            continue
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        if not path.name.endswith(".nii.gz"):
            shutil.copy(path, target / place)
            continue
        image = nib.load(path)
        data = np.asarray(image.dataobj[::STEP, ::STEP, ::STEP])
        affine = image.affine @ np.diag([STEP, STEP, STEP, 1])
        small = nib.Nifti1Image(data, affine)
        small.header.set_xyzt_units("mm", "sec")
        small.header.set_zooms((*small.header.get_zooms()[:3], *image.header.get_zooms()[3:]))
        nib.save(small, target / place)


def main(source: Path, target: Path) -> None:
    """Make all copies and verdicts."""
    original = target / "original"
    thin(source, original)
    for name, change in DAMAGES.items():
        folder = target / name.replace(" ", "_").replace("/", "")
        tree = Tree(original, folder / "tree")
        change(tree)
        report = check_folder(tree.root)
        (folder / "verdict.json").write_text(json.dumps(report.as_json()))
    names = sorted(path.name for path in target.iterdir() if (path / "verdict.json").exists())
    (target / "names.json").write_text(json.dumps(names))


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
