"""Ways to damage a derivative of one run: a file, a column, a key, a value is not as it should be.

Each function takes a `Tree`. What is lacking then is not written here: our check and the other
packages say so themselves, and have to agree.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

LIN6, LIN2009 = "MNI152NLin6Asym", "MNI152NLin2009cAsym"


class Tree:
    """A copy of a derivative; its files are links to those of the original until one changes."""

    def __init__(self, original: Path, root: Path) -> None:
        shutil.copytree(original, root, copy_function=os.link)
        self.root = root
        self.func = next(root.glob("sub-*/**/func"))
        self.anat = next(root.glob("sub-*/**/anat"))
        table = next(self.func.glob("*_desc-confounds_timeseries.tsv"))
        self.run = table.name.removesuffix("_desc-confounds_timeseries.tsv")
        self.table = table
        self.components = table.with_suffix(".json")

    def series(self, space: str = LIN6) -> Path:
        return next(self.func.glob(f"{self.run}_space-{space}*_desc-preproc_bold.nii.gz"))

    def beside(self, ending: str, space: str = LIN6) -> Path:
        """Path of what belongs to a series, such as ``_desc-brain_mask.nii.gz``."""
        path = self.series(space)
        return path.with_name(path.name.replace("_desc-preproc_bold.nii.gz", ending))

    def write(self, path: Path, text: str) -> None:
        path.unlink(missing_ok=True)  # the original shares the file
        path.write_text(text)

    def edit(self, path: Path, change) -> None:
        content = json.loads(path.read_text())
        change(content)
        self.write(path, json.dumps(content))

    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.table.read_text().splitlines()]

    def drop(self, pattern: str) -> None:
        """Leave columns out of the table."""
        rows = self.rows()
        kept = [i for i, name in enumerate(rows[0]) if not re.fullmatch(pattern, name)]
        assert len(kept) < len(rows[0]), pattern
        self.write(self.table, "".join("\t".join(row[i] for i in kept) + "\n" for row in rows))

    def rename(self, pattern: str, new: str) -> None:
        """Rename columns of the table."""
        rows = self.rows()
        renamed = [re.sub(f"^{pattern}$", new, name) for name in rows[0]]
        assert renamed != rows[0], pattern
        self.write(self.table, "\n".join("\t".join(row) for row in [renamed, *rows[1:]]) + "\n")

    def set(self, column: str, text: str, n: int) -> None:
        """Put a text into the first rows of a column."""
        rows = self.rows()
        at = rows[0].index(column)
        for row in rows[1 : n + 1]:
            row[at] = text
        self.write(self.table, "\n".join("\t".join(row) for row in rows) + "\n")

    def remove(self, folder: Path, pattern: str) -> None:
        found = list(folder.glob(pattern))
        assert found, pattern
        for path in found:
            path.unlink()

    def save(self, path: Path, data: np.ndarray) -> None:
        affine = nib.load(path).affine
        path.unlink()
        nib.save(nib.Nifti1Image(data, affine), path)


def key(name: str, value: object = None):
    """Change a key of the description of the dataset, or take it out."""

    def change(tree: Tree) -> None:
        path = tree.root / "dataset_description.json"
        tree.edit(path, lambda d: d.pop(name) if value is None else d.update({name: value}))

    return change


def gone(where: str, pattern: str):
    return lambda tree: tree.remove(getattr(tree, where), pattern)


def no_column(pattern: str):
    return lambda tree: tree.drop(pattern)


def legacy(tree: Tree) -> None:
    for path in (tree.table, tree.components):
        path.rename(path.with_name(path.name.replace("_timeseries", "_regressors")))


def two_tables(tree: Tree) -> None:
    os.link(tree.table, str(tree.table).replace("_timeseries", "_regressors"))


def other_space(tree: Tree) -> None:
    for path in list(tree.root.rglob("*_space-MNI152*")):
        new = re.sub(r"space-MNI152NLin\w+?Asym", "space-MNI", path.name)
        path.rename(path.with_name(new)) if "2009c" in path.name else path.unlink()


def no_tr(tree: Tree) -> None:
    for path in tree.func.glob("*_desc-preproc_bold.json"):
        tree.edit(path, lambda sidecar: sidecar.pop("RepetitionTime"))


def broken_sidecars(tree: Tree) -> None:
    for path in tree.func.glob("*_desc-preproc_bold.json"):
        tree.write(path, "{")


def other_grid(tree: Tree) -> None:
    path = tree.beside("_desc-brain_mask.nii.gz")
    tree.save(path, np.asarray(nib.load(path).dataobj)[:-1])


def two_resolutions(tree: Tree) -> None:
    for path in list(tree.func.glob(f"{tree.run}_space-{LIN6}_res-2_*")):
        os.link(path, str(path).replace("_res-2_", "_res-1_"))


def not_compressed(tree: Tree) -> None:
    for path in list(tree.func.glob("*_desc-preproc_bold.nii.gz")):
        nib.save(nib.load(path), str(path).removesuffix(".gz"))
        path.unlink()


def lost_content(tree: Tree) -> None:
    path = tree.series(LIN6)
    path.unlink()
    path.symlink_to(tree.root / "annex" / "nothing")


def garbage(tree: Tree) -> None:
    for path in list(tree.func.glob("*_desc-preproc_bold.nii.gz")):
        tree.write(path, "this is no image")


def one_volume(tree: Tree) -> None:
    for path in list(tree.func.glob("*_desc-preproc_bold.nii.gz")):
        tree.save(path, np.asarray(nib.load(path).dataobj)[..., 0])


def no_components(tree: Tree) -> None:
    tree.edit(tree.components, lambda d: [d.pop(name) for name in list(d) if "comp_cor" in name])


def one_row(tree: Tree) -> None:
    tree.write(tree.table, "".join(tree.table.read_text().splitlines(keepends=True)[:2]))


def no_header(tree: Tree) -> None:
    tree.write(tree.table, "".join(tree.table.read_text().splitlines(keepends=True)[3:]))


DAMAGES = {
    "none": lambda tree: None,
    "no description": gone("root", "dataset_description.json"),
    "no DatasetType": key("DatasetType"),
    "another DatasetType": key("DatasetType", "raw"),
    "no GeneratedBy": key("GeneratedBy"),
    "no BIDSVersion": key("BIDSVersion"),
    "no confounds": gone("func", "*_desc-confounds_timeseries.tsv"),
    "no JSON of confounds": gone("func", "*_desc-confounds_timeseries.json"),
    "broken JSON of confounds": lambda tree: tree.write(tree.components, "{"),
    "legacy names": legacy,
    "two tables": two_tables,
    "no trans_x": no_column("trans_x"),
    "no rmsd": no_column("rmsd"),
    "motion in words": lambda tree: tree.set("rot_z", "much", 10**6),
    "no square": no_column("rot_z_derivative1_power2"),
    "no csf": no_column("csf"),
    "no derivative of csf": no_column("csf_derivative1"),
    "no global_signal": no_column("global_signal"),
    "no framewise_displacement": no_column("framewise_displacement"),
    "no std_dvars": no_column("std_dvars"),
    "no a_comp_cor_00": no_column("a_comp_cor_00"),
    "no w_comp_cor": no_column("w_comp_cor_.*"),
    "no cosines": no_column("cosine.*"),
    "cosines with an underscore": lambda tree: tree.rename(r"cosine(\d+)", r"cosine_\1"),
    "camel case": lambda tree: tree.rename("global_signal", "GlobalSignal"),
    "no Mask": lambda tree: tree.edit(tree.components, lambda d: d["a_comp_cor_00"].pop("Mask")),
    "no components": no_components,
    "first row n/a": lambda tree: tree.set("trans_x", "n/a", 1),
    "two rows n/a": lambda tree: tree.set("trans_x", "n/a", 2),
    "words": lambda tree: tree.set("csf", "high", 2),
    "infinite": lambda tree: tree.set("trans_x", "inf", 1),
    "one row": one_row,
    "no header": no_header,
    "no mask": gone("func", f"*_space-{LIN6}*_desc-brain_mask.nii.gz"),
    "no masks": gone("func", "*_space-MNI*_desc-brain_mask.nii.gz"),
    "mask of another grid": other_grid,
    "no boldref": gone("func", f"*_space-{LIN6}*_boldref.nii.gz"),
    "no series in 2009c": gone("func", f"*_space-{LIN2009}*_bold.*"),
    "no series in NLin6": gone("func", f"*_space-{LIN6}*_bold.*"),
    "another space": other_space,
    "no RepetitionTime": no_tr,
    "no sidecars": gone("func", "*_desc-preproc_bold.json"),
    "broken sidecars": broken_sidecars,
    "no T1w": gone("anat", "*_desc-preproc_T1w.nii.gz"),
    "no anatomical mask": gone("anat", f"*_space-{LIN6}*_desc-brain_mask.nii.gz"),
    "no way to the template": gone("anat", f"*_from-T1w_to-{LIN6}_mode-image_xfm.h5"),
    "no way back": gone("anat", f"*_from-{LIN6}_to-T1w_mode-image_xfm.h5"),
    "no tissue": gone("anat", "sub-??_label-WM_probseg.nii.gz"),
    "no head motion": gone("func", "*_from-orig_to-boldref_*_xfm.txt"),
    "no reference": gone("func", "*_desc-coreg_boldref.nii.gz"),
    "two resolutions": two_resolutions,
    "not compressed": not_compressed,
    "lost content": lost_content,
    "garbage": garbage,
    "one volume": one_volume,
}
"""Damages by name."""
