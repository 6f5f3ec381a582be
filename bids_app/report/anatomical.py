"""The anatomical section: mask and tissues on the T1w, and the T1w against its template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.report.panels import Notice, Panel, anchor, attempt, mosaic_panel
from neurostorm_app.pipelines.figures import Contour, Picture, Volume, draw_mosaic, read_volume

if TYPE_CHECKING:
    from neurostorm_app.bids_app.report.tree import Anatomy

__all__ = ["AnatomySection", "build_anatomy", "tissue"]

_GM, _WM = 1, 2


@dataclass(kw_only=True)
class AnatomySection:
    """One standard space."""

    space: str
    panels: list[Panel] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def tissue(dseg: Volume, *labels: int) -> Volume:
    """Take the voxels of some tissues as a region."""
    return Volume(np.isin(dseg.data, labels).astype(np.float32), dseg.grid)


def build_anatomy(anatomy: Anatomy) -> AnatomySection:
    """Draw the anatomical figures of one standard space."""
    section = AnatomySection(space=anatomy.space)
    if anatomy.t1w is None:
        what = f"There is no T1w image in {anatomy.space}: nothing can be drawn."
        section.notices.append(Notice(what=what))
        return section
    if anatomy.mask is None:
        section.notices.append(Notice(what=f"There is no brain mask in {anatomy.space}."))
    for build in (_tissues, _against_template):
        panel = attempt(section.notices, lambda build=build: build(anatomy))  # type: ignore[misc]
        if panel is not None:
            section.panels.append(panel)
    return section


def _contours(anatomy: Anatomy) -> list[Contour]:
    contours = []
    if anatomy.mask is not None:
        contours.append(Contour(key="mask", label="brain mask", volume=read_volume(anatomy.mask)))
    if anatomy.dseg is not None:
        dseg = read_volume(anatomy.dseg)
        contours.append(Contour(key="gm", label="grey matter", volume=tissue(dseg, _GM, _WM)))
        contours.append(Contour(key="wm", label="white matter", volume=tissue(dseg, _WM)))
    return contours


def _tissues(anatomy: Anatomy) -> Panel | None:
    contours = _contours(anatomy)
    if not contours:
        return None
    picture = Picture(key="t1w", label="T1w", volume=_read(anatomy, "t1w"))
    return mosaic_panel(
        anchor("anat", anatomy.space, "tissues"),
        draw_mosaic([picture], contours, brain=_brain(anatomy)),
        layers=([picture], contours),
        title="Brain mask and tissues",
        caption=(
            "The T1w in standard space. The mask should follow the edge of the brain; the line of "
            "the white matter should run between dark and bright."
        ),
    )


def _against_template(anatomy: Anatomy) -> Panel:
    from neurostorm_app.pipelines.templates import load_template

    template = load_template(anatomy.space, anatomy.res or "2")
    contours = [contour for contour in _contours(anatomy) if contour.key != "gm"]
    pictures = [
        Picture(key="t1w", label="T1w", volume=_read(anatomy, "t1w")),
        Picture(key="template", label="template", volume=read_volume(template.t1w)),
    ]
    return mosaic_panel(
        anchor("anat", anatomy.space, "template"),
        draw_mosaic(pictures, contours, brain=_brain(anatomy)),
        layers=(pictures, contours),
        title="T1w against the template",
        caption=(
            f"{anatomy.space}, {template.source}. Let the two images alternate: ventricles, the "
            "outline of the brain and the large sulci should stay in place."
        ),
    )


def _brain(anatomy: Anatomy) -> Volume:
    """Read the mask or, without one, what is not black in the T1w."""
    if anatomy.mask is not None:
        return read_volume(anatomy.mask)
    t1w = _read(anatomy, "t1w")
    return Volume((t1w.data > 0).astype(np.float32), t1w.grid)


def _read(anatomy: Anatomy, which: str) -> Volume:
    return read_volume(getattr(anatomy, which))
