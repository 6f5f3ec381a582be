"""What fMRIPrep, DeepPrep or an earlier call of ours has estimated, found by its names.

An anatomy, and what a run's series can be made from at any time: references, mask, transforms
and field. What is not whole is not used, and which file is missing is said; a link to content that
is elsewhere is not missing, but an error that says how to get it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.derivatives import derivative_path
from neurostorm_app.bids_app.inputs.acquisitions import name_of
from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.participant.images import ANAT, anat_in, maps_between, of_field, of_fit
from neurostorm_app.pipelines.header import check_present

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.participant.images import Output
    from neurostorm_app.pipelines.stage import OutputSpace

__all__ = ["Given", "find_anatomy", "find_fit", "find_root"]

log = logging.getLogger(__name__)

NEEDED: Final = ("hmc_boldref", "coreg_boldref", "mask", "hmc_xfm")
"""Roles without which a run is estimated again."""
T1W_NAMES: Final = ("T1w", "anat")
FIELD_ROLES: Final = ("field", "fieldmap", "fmap_coefficients")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Files of a derivative by role.

    Parameters
    ----------
    tree : str
        Name of the derivative, as in ``bids:<tree>:path``.
    files : mapping of str to Path
        Those that are there.
    fmapid : str or None
        Label of the field map that a run was corrected by.
    """

    tree: str
    files: Mapping[str, Path]
    fmapid: str | None = None


def find_root(tree: Path) -> Path:
    """Find the folder of a derivative with the participants in it; DeepPrep's is ``BOLD``."""
    inner = tree / "BOLD"
    return inner if inner.is_dir() and not any(tree.glob("sub-*")) else tree


def find_anatomy(
    trees: Mapping[str, Path], participant: str, spaces: Sequence[OutputSpace]
) -> tuple[Given | None, str]:
    """Find the anatomy of a participant; the first derivative that has all of it wins.

    Parameters
    ----------
    trees : mapping
        Folders by name.
    participant : str
        Without ``sub-``.
    spaces : sequence of OutputSpace
        Of the standard ones, what is there is taken too; what is not can be made.

    Returns
    -------
    Given or None
        All of ``t1w``, ``mask``, ``dseg``, ``gm``, ``wm`` and ``csf``, and what there is of
        transforms and images in standard spaces.
    str
        What is missing where there is none.

    Raises
    ------
    NoInputError
        If a file is a link to content that is not on this machine.
    """
    why = "no desc-preproc_T1w.nii.gz is in it"
    for tree, root in trees.items():
        folder = root / f"sub-{participant}"
        for t1w in sorted([*folder.glob("anat/*"), *folder.glob("ses-*/anat/*")]):
            if not t1w.name.endswith("_desc-preproc_T1w.nii.gz") or "_space-" in t1w.name:
                continue
            stem = name_of(t1w).removesuffix("_desc-preproc")
            files = _there(root, stem, ANAT)
            missing = [o for o in ANAT if o.role not in files]
            if missing:
                why = f"{_path(root, stem, missing[0])} is missing"
                log.warning("sub-%s: the anatomy of %s is not used: %s", participant, tree, why)
                continue
            for space in spaces:
                if space.is_standard:
                    files |= _in_space(root, stem, space)
            qc = root / "logs" / f"sub-{participant}_qc.json"
            files |= {"qc": qc} if _is_here(qc) else {}
            return Given(tree=tree, files=files), ""
    return None, why


def _in_space(root: Path, stem: str, space: OutputSpace) -> dict[str, Path]:
    """Find the anatomy in a standard space: both ways of transforms, all images, or none."""
    maps = maps_between("T1w", space.name, datatype="anat")
    found: dict[str, Path] = {}
    for outputs in (maps, anat_in(space)):
        there = _there(root, stem, outputs)
        found |= there if len(there) == len(outputs) else {}
    return found


def find_fit(
    trees: Mapping[str, Path],
    name: str,
    anat: Given | None,
    why: str,
    spaces: Sequence[OutputSpace],
) -> tuple[Given | None, tuple[str, ...]]:
    """Find what was estimated of a run.

    Parameters
    ----------
    trees : mapping
        Folders by name.
    name : str
        Of the run.
    anat : Given or None
        The anatomy that a given registration leads to.
    why : str
        Why there is none.
    spaces : sequence of OutputSpace
        Templates to which a run without a T1w image may have a way.

    Returns
    -------
    Given or None
        References, mask and transforms, and its field if it was corrected by one.
    tuple of str
        Where it was taken from, or what is missing.

    Raises
    ------
    NoInputError
        If a file is a link to content that is not on this machine.
    """
    notes = []
    for tree, root in trees.items():
        fit = _fit_in(tree, root, name, spaces)
        if fit is None:
            continue
        if "coreg_xfm" in fit.files:
            missing = "" if anat else f"its registration leads to a T1w image, and {why}"
        else:
            missing = _missing_without_t1w(fit, name, spaces)
        missing = _missing_of(fit, root, name) or missing
        if not missing:
            note = f"head motion, registration and field are those of the derivative {tree}"
            return fit, (note,)
        note = f"what the derivative {tree} estimated of the run is not used: {missing}"
        log.warning("%s: %s", name, note)
        notes.append(note)
    return None, tuple(notes)


def _fit_in(tree: str, root: Path, name: str, spaces: Iterable[OutputSpace]) -> Given | None:
    """Find the files of a run's estimates in one derivative; None if it has none."""
    files = _there(root, name, of_fit())
    folder = _path(root, name, of_fit()[0]).parent
    if "coreg_xfm" not in files:
        for target in T1W_NAMES:
            path = folder / f"{name}_from-boldref_to-{target}_mode-image_xfm.txt"
            files |= {"coreg_xfm": path} if _is_here(path) else {}
    if not {"hmc_xfm", "hmc_boldref", "coreg_boldref", "coreg_xfm"} & files.keys():
        return None
    for space in spaces:
        if space.is_standard and "coreg_xfm" not in files:
            files |= _there(root, name, maps_between("boldref", space.name, datatype="func"))
    qc = root / "logs" / f"{name}_qc.json"
    files |= {"qc": qc} if _is_here(qc) else {}
    fit = Given(tree=tree, files=files)
    for path in sorted(folder.glob(f"{name}_from-boldref_to-*_xfm.txt")):
        target = parse_name(path)["to"]
        if target not in {*T1W_NAMES, "orig"} and _is_here(path):
            return replace(fit, fmapid=target, files=_with_field(root, name, fit, path, target))
    return fit


def _with_field(root: Path, name: str, fit: Given, xfm: Path, fmapid: str) -> dict[str, Path]:
    """Add the field map that a run was corrected by."""
    files = {**fit.files, "fmap_xfm": xfm, **_there(root, name, of_field(fmapid))}
    folders = [_path(root, name, of_fit()[0]).parent.parent, root / f"sub-{parse_name(xfm)['sub']}"]
    patterns = {
        "fieldmap": "desc-preproc_fieldmap",
        "fmap_reference": "desc-[em]*_fieldmap",
        "fmap_mask": "desc-brain_mask",
        "fmap_coefficients": "desc-coeff*_fieldmap",
    }
    for role, pattern in patterns.items():
        for folder in folders:
            found = sorted(folder.glob(f"fmap/*_fmapid-{fmapid}_{pattern}.nii.gz"))
            # A field of several levels of splines has several files; the field in Hz is one.
            if len(found) == 1 and role not in files and _is_here(found[0]):
                files[role] = found[0]
    return files


def _missing_without_t1w(fit: Given, name: str, spaces: Iterable[OutputSpace]) -> str:
    """Say what a run without a T1w image lacks: a way to each template, and tissues."""
    if not any(role.startswith("to:") for role in fit.files):
        return f"{name}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt is missing"
    for space in spaces:
        if space.is_standard and not {f"to:{space.name}", f"from:{space.name}"} <= fit.files.keys():
            return (
                f"{name}_from-boldref_to-{space.name}_mode-image_xfm.h5 or its inverse is missing"
            )
    for label in ("GM", "WM", "CSF"):
        if label.lower() not in fit.files:
            return f"{name}_label-{label}_probseg.nii.gz is missing"
    return ""


def _missing_of(fit: Given, root: Path, name: str) -> str:
    """Say which file a run lacks, or that it lacks none."""
    for output in of_fit():
        if output.role in NEEDED and output.role not in fit.files:
            return f"{_path(root, name, output)} is missing"
    if fit.fmapid and not any(role in fit.files for role in FIELD_ROLES):
        return f"fmap/*_fmapid-{fit.fmapid}_desc-preproc_fieldmap.nii.gz is missing"
    return ""


def _path(root: Path, stem: str, output: Output, **other: str) -> Path:
    return derivative_path(
        root,
        stem,
        output.datatype,
        suffix=output.suffix,
        extension=output.extension,
        entities={**output.entities, **other},
    )


def _is_here(path: Path) -> bool:
    """Tell whether a file is there; one whose content is elsewhere is not taken for none."""
    if not os.path.lexists(path):
        return False
    check_present(path)
    return path.is_file()


def _there(root: Path, stem: str, outputs: Iterable[Output]) -> dict[str, Path]:
    """Find the files that are there, by role; a resolution may be written with a zero."""
    found: dict[str, Path] = {}
    for output in outputs:
        paths = [_path(root, stem, output)]
        if "res" in output.entities:
            paths.append(_path(root, stem, output, res="0" + output.entities["res"]))
        path = next((path for path in paths if _is_here(path)), None)
        found |= {output.role: path} if path else {}
    return found
