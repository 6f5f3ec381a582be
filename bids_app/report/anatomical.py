"""The anatomical section: mask and tissues on the T1w, and the T1w against its template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.report.panels import Notice, Panel, anchor, attempt, mosaic_panel
from neurostorm_app.pipelines.figures import (
    Contour,
    Picture,
    Volume,
    draw_mosaic,
    near,
    read_volume,
)

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.bids_app.report.tree import Anatomy

__all__ = ["AnatomySection", "build_anatomy", "show_t1w", "tissue"]

_GM, _WM = 1, 2
_MARGIN = 8.0
"""Millimetres around the brain that are shown: enough to judge the mask, too little for a face."""


@dataclass(kw_only=True)
class AnatomySection:
    """One standard space."""

    space: str
    panels: list[Panel] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def tissue(dseg: Volume, *labels: int) -> Volume:
    """Take the voxels of some tissues as a region."""
    return Volume(np.isin(dseg.data, labels).astype(np.float32), dseg.grid)


def show_t1w(anatomy: Anatomy) -> Volume | None:
    """Read of the T1w the brain and a little around it: a page that is passed on shows no face.

    Returns
    -------
    Volume or None
        None without a T1w, or without the mask that says where the brain is.
    """
    if anatomy.t1w is None or anatomy.mask is None:
        return None
    return near(read_volume(anatomy.t1w), read_volume(anatomy.mask), _MARGIN)


def build_anatomy(anatomy: Anatomy) -> AnatomySection:
    """Draw the anatomical figures of one standard space."""
    section = AnatomySection(space=anatomy.space)
    t1w, mask = anatomy.t1w, anatomy.mask
    if t1w is None:
        what = f"There is no T1w image in {anatomy.space}: nothing can be drawn."
        section.notices.append(Notice(what=what))
        return section
    if mask is None:
        what = f"There is no brain mask in {anatomy.space}: without it the T1w would show a face, "
        section.notices.append(Notice(what=what + "so it is not drawn."))
        return section
    seen = attempt(section.notices, lambda: _see(t1w, mask, anatomy.dseg))
    if seen is None:
        return section
    for build in (_tissues, _against_template):
        panel = attempt(section.notices, lambda build=build: build(anatomy, seen))  # type: ignore[misc]
        if panel is not None:
            section.panels.append(panel)
    return section


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What both figures show."""

    t1w: Picture
    brain: Volume
    contours: list[Contour]


def _see(t1w: Path, mask: Path, segmentation: Path | None) -> _Seen:
    brain = read_volume(mask)
    contours = [Contour(key="mask", label="brain mask", volume=brain)]
    if segmentation is not None:
        dseg = read_volume(segmentation)
        contours.append(Contour(key="gm", label="grey matter", volume=tissue(dseg, _GM, _WM)))
        contours.append(Contour(key="wm", label="white matter", volume=tissue(dseg, _WM)))
    shown = near(read_volume(t1w), brain, _MARGIN)
    return _Seen(Picture(key="t1w", label="T1w", volume=shown), brain, contours)


def _tissues(anatomy: Anatomy, seen: _Seen) -> Panel:
    return mosaic_panel(
        anchor("anat", anatomy.space, "tissues"),
        draw_mosaic([seen.t1w], seen.contours, brain=seen.brain),
        layers=([seen.t1w], seen.contours),
        title="Brain mask and tissues",
        caption=(
            f"The T1w in standard space, as far as {_MARGIN:g} mm from the brain. The mask should "
            "follow the edge of the brain; the line of the white matter should run between dark "
            "and bright."
        ),
    )


def _against_template(anatomy: Anatomy, seen: _Seen) -> Panel:
    from neurostorm_app.pipelines.templates import load_template

    template = load_template(anatomy.space, anatomy.res or "2")
    contours = [contour for contour in seen.contours if contour.key != "gm"]
    known = near(read_volume(template.t1w), seen.brain, _MARGIN)
    pictures = [seen.t1w, Picture(key="template", label="template", volume=known)]
    return mosaic_panel(
        anchor("anat", anatomy.space, "template"),
        draw_mosaic(pictures, contours, brain=seen.brain),
        layers=(pictures, contours),
        title="T1w against the template",
        caption=(
            f"{anatomy.space}, {template.source}, both as far as {_MARGIN:g} mm from the brain of "
            "the T1w. Let the two images alternate: ventricles, the outline of the brain and the "
            "large sulci should stay in place."
        ),
    )
