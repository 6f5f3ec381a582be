"""Write damaged copies of a derivative, and what our check says of each.

Runs where our app is installed; :mod:`consume_compat` and :mod:`consume_compat_xcpd` run where the
other packages are, and compare. Images are thinned first, so that the others read them in no time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from damage import DAMAGES, Tree
from damage_drawn import draw_damages

from neurostorm_app.bids_app.compatibility.checking import check_folder
from neurostorm_app.errors import NoInputError
from neurostorm_app.pipelines.templates import DATA

STEP = 8
"""Of so many voxels along each axis one is kept."""
TEMPLATE = "tpl-MNI152NLin2009cAsym"
GREY = f"{TEMPLATE}_res-02_label-GM_probseg.nii.gz"
"""What giga_connectome takes from TemplateFlow."""


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


def say(root: Path) -> dict:
    """Write what our check says; of a folder that it refuses, nothing about any run."""
    try:
        return check_folder(root).as_json()
    except NoInputError as error:
        return {"runs": {}, "refused": error.what}


def main(source: Path, target: Path) -> None:
    """Make all copies and verdicts."""
    original = target / "original"
    thin(source, original)
    names = []
    for name, change in (DAMAGES | draw_damages(original)).items():
        folder = target / re.sub(r"[\W_]+", ".", name)  # PyBIDS reads entities of folders too
        tree = Tree(original, folder / "tree")
        change(tree)
        (folder / "verdict.json").write_text(json.dumps(say(tree.root)))
        names.append(folder.name)
    home = target / "templateflow" / TEMPLATE
    home.mkdir(parents=True)
    shutil.copy(DATA / GREY, home)
    run = Tree(original, target / "whole").run
    (target / "names.json").write_text(json.dumps({"run": run, "names": names}))
    shutil.rmtree(target / "whole")


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
