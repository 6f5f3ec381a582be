"""What a graph left on disk: files by their roles, errors by their words, and what it took."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from neurostorm_app import errors
from neurostorm_app.errors import AppError, TemporaryError
from neurostorm_app.pipelines.preprocess.workflow import AnatFiles, BoldFiles, Preprocessed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ERROR_FILE", "SPENT_FILE", "forget_errors", "gather"]

ERROR_FILE = "error.json"
"""Left by a node whose error is one of ours."""
SPENT_FILE = "spent.json"
"""Left by a node that went through."""

ANAT = {
    "t1w": "prepare/desc-preproc_T1w.nii.gz",
    "mask": "brain/desc-brain_mask.nii.gz",
    "dseg": "segment/dseg.nii.gz",
    "gm": "segment/label-GM_probseg.nii.gz",
    "wm": "segment/label-WM_probseg.nii.gz",
    "csf": "segment/label-CSF_probseg.nii.gz",
    "t1w_std": "standard/{std}_desc-preproc_T1w.nii.gz",
    "mask_std": "standard/{std}_desc-brain_mask.nii.gz",
    "dseg_std": "standard/{std}_dseg.nii.gz",
    "gm_std": "standard/{std}_label-GM_probseg.nii.gz",
    "wm_std": "standard/{std}_label-WM_probseg.nii.gz",
    "csf_std": "standard/{std}_label-CSF_probseg.nii.gz",
    "to_std_xfm": "normalize/from-T1w_to-{space}_mode-image_xfm.h5",
    "from_std_xfm": "normalize/from-{space}_to-T1w_mode-image_xfm.h5",
    "qc": "qc/qc.json",
}
BOLD = {
    "hmc_boldref": "reference/desc-hmc_boldref.nii.gz",
    "coreg_boldref": "coregister/desc-coreg_boldref.nii.gz",
    "mask": "coregister/desc-brain_mask.nii.gz",
    "hmc_xfm": "motion/from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
    "coreg_xfm": "coregister/from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    "confounds": "confounds/desc-confounds_timeseries.tsv",
    "confounds_json": "confounds/desc-confounds_timeseries.json",
    "bold_std": "resample/{std}_desc-preproc_bold.nii.gz",
    "boldref_std": "resample/{std}_boldref.nii.gz",
    "mask_std": "resample/{std}_desc-brain_mask.nii.gz",
    "qc": "qc/qc.json",
}
"""Which node leaves which file."""


def forget_errors(folder: Path) -> None:
    """Remove the errors of an earlier attempt."""
    for old in folder.rglob(ERROR_FILE):
        old.unlink()


def gather(
    folder: Path,
    *,
    parts: Mapping[str, str],
    anat: AnatFiles | None,
    place: tuple[str, str],
    crash: Exception | None,
    methods: str,
) -> Preprocessed:
    """Gather what the graph left.

    Parameters
    ----------
    folder : Path
        Of the graph; one folder a part in it, one a node in those.
    parts : mapping of str to str
        The name of the run for each part.
    anat : AnatFiles or None
        Anatomy that was there before; None if the graph had to make it.
    place : tuple of str
        Standard space and resolution index.
    crash : Exception or None
        What nipype raised, if it did.
    methods : str
        The methods paragraph.

    Returns
    -------
    Preprocessed
        A part counts as done if each of its nodes went through.
    """
    anat_error: AppError | None = None
    if anat is None:
        found = _files(folder / "anat", ANAT, place)
        anat = AnatFiles(**found) if found is not None else None
        anat_error = None if anat is not None else _error(folder / "anat", "anatomy", crash)
    bold: dict[str, BoldFiles] = {}
    failed: dict[str, AppError] = {}
    for part, name in parts.items():
        files = _files(folder / part, BOLD, place) if anat is not None else None
        if files is not None:
            bold[name] = BoldFiles(**files)
        else:
            failed[name] = anat_error or _error(folder / part, name, crash)
    spent = _spent(folder)
    return Preprocessed(
        anat=anat,
        bold=bold,
        failed=failed,
        methods=methods,
        timings={name: values["seconds"] for name, values in spent.items()},
        peak_mib={name: values["peak_mib"] for name, values in spent.items()},
    )


def _files(part: Path, roles: Mapping[str, str], place: tuple[str, str]) -> dict[str, Path] | None:
    """Find the files of a part, or None if a node did not go through."""
    space, res = place
    std = f"space-{space}_res-{res}"
    found = {role: part / name.format(std=std, space=space) for role, name in roles.items()}
    whole = all(path.is_file() and (path.parent / SPENT_FILE).is_file() for path in found.values())
    return found if whole else None


def _error(part: Path, name: str, crash: Exception | None) -> AppError:
    """Read the error that a node left, or make one of what nipype said."""
    for path in sorted(part.rglob(ERROR_FILE)):
        content = json.loads(path.read_text(encoding="utf-8"))
        kind: type[AppError] = getattr(errors, content["kind"], AppError)
        return kind(content["what"], fix=content["fix"])
    if isinstance(crash, TemporaryError):
        return crash
    last = (str(crash or "") or "no reason was given").strip().splitlines()[-1]
    return AppError(
        f"{name}: preprocessing stopped at a step that nobody foresaw: {last}",
        fix=f"report it with the newest file in {part.parents[1] / 'nipype' / 'crash'}",
    )


def _spent(folder: Path) -> dict[str, dict[str, float]]:
    """Read what each node took, by ``<part>.<node>``."""
    return {
        f"{path.parents[1].name}.{path.parent.name}": json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob(SPENT_FILE))
    }
