"""Images on the grids on which they were acquired: what fits and corrections are judged by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["NativeAnatomy", "NativeFiles", "find_native", "find_native_anatomy"]


@dataclass(frozen=True, kw_only=True)
class NativeFiles:
    """A run on its own grid; each None if it is not there.

    Parameters
    ----------
    before, after : Path or None
        Reference before and after the correction of distortion.
    mask : Path or None
        Brain mask of the reference.
    to_t1w : Path or None
        ITK transform from the reference to the T1w image.
    field : Path or None
        Field map in Hz on the grid of the reference.
    """

    before: Path | None = None
    after: Path | None = None
    mask: Path | None = None
    to_t1w: Path | None = None
    field: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NativeAnatomy:
    """Tissues on the grid of the T1w image; each None if it is not there.

    Parameters
    ----------
    dseg : Path or None
        Labels of tissues.
    gm, wm, csf : Path or None
        Probabilities of tissues.
    """

    dseg: Path | None = None
    gm: Path | None = None
    wm: Path | None = None
    csf: Path | None = None


def find_native(files: Iterable[Path]) -> NativeFiles:
    """Choose among the files of a run those on its own grid."""
    here = _without_space(files)
    return NativeFiles(
        before=_last(here, r"_desc-hmc_boldref\.nii\.gz$"),
        after=_last(here, r"_desc-coreg_boldref\.nii\.gz$"),
        mask=_last(here, r"_desc-brain_mask\.nii\.gz$"),
        to_t1w=_last(here, r"_from-boldref_to-T1w_mode-image(_desc-coreg)?_xfm\.txt$"),
        field=_last(here, r"_desc-boldref_fieldmap\.nii\.gz$"),
    )


def find_native_anatomy(files: Iterable[Path]) -> NativeAnatomy:
    """Choose among anatomical files those on the grid of the T1w image."""
    here = _without_space(files)
    return NativeAnatomy(
        dseg=_last(here, r"_dseg\.nii\.gz$"),
        gm=_last(here, r"_label-GM_probseg\.nii\.gz$"),
        wm=_last(here, r"_label-WM_probseg\.nii\.gz$"),
        csf=_last(here, r"_label-CSF_probseg\.nii\.gz$"),
    )


def _without_space(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if "_space-" not in path.name]


def _last(files: Iterable[Path], pattern: str) -> Path | None:
    """Take the last file whose name ends like this."""
    return next((path for path in reversed(list(files)) if re.search(pattern, path.name)), None)
