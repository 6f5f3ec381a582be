"""The functional section of a run: measures, registration, distortion, noise, motion, signal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.report.anatomical import show_t1w, tissue
from neurostorm_app.bids_app.report.measuring import Material, gather, measure
from neurostorm_app.bids_app.report.native import (
    Tissues,
    draw_distortion,
    draw_field,
    draw_noise,
)
from neurostorm_app.bids_app.report.native_files import NativeAnatomy
from neurostorm_app.bids_app.report.panels import (
    Fact,
    Notice,
    Panel,
    anchor,
    attempt,
    flatten,
    mosaic_panel,
)
from neurostorm_app.bids_app.report.traces import draw_carpet, draw_confounds, draw_motion
from neurostorm_app.bids_app.report.verdict import Measures
from neurostorm_app.pipelines.figures import (
    Contour,
    Picture,
    Volume,
    draw_mosaic,
    read_volume,
)
from neurostorm_app.pipelines.figures.style import colour_stops

if TYPE_CHECKING:
    from collections.abc import Callable

    from neurostorm_app.bids_app.report.tree import Anatomy, RunFiles

__all__ = ["FunctionalSection", "build_functional"]

_TSNR_COLOURS = "magma"


@dataclass(kw_only=True)
class FunctionalSection:
    """One run."""

    run: RunFiles
    ident: str
    measures: Measures
    facts: list[Fact] = field(default_factory=list)
    records: list[Fact] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def build_functional(
    run: RunFiles, anatomy: Anatomy | None, tissues: Tissues | None = None
) -> FunctionalSection:
    """Measure and draw one run.

    Parameters
    ----------
    run : RunFiles
        Its files.
    anatomy : Anatomy or None
        The anatomical images in the same space.
    tissues : Tissues or None
        On the grid of the T1w image, for figures on the run's own grid.
    """
    tissues = tissues or Tissues(NativeAnatomy())
    section = FunctionalSection(run=run, ident=anchor(run.name), measures=Measures())
    have = gather(run, anatomy, section.notices)
    section.measures = measure(have, section.notices)
    section.facts = _facts(have)
    section.records = flatten(run.qc)
    section.notices += _missing(have)
    builds: tuple[Callable[[], Panel | None], ...] = (
        lambda: _registration(have),
        lambda: draw_distortion(run, tissues),
        lambda: draw_field(run),
        lambda: draw_noise(run, tissues, section.notices),
        lambda: draw_carpet(have),
        lambda: draw_motion(have),
        lambda: draw_confounds(have),
        lambda: _tsnr(have),
    )
    panels = [attempt(section.notices, build) for build in builds]
    section.panels = [panel for panel in panels if panel is not None]
    return section


def _facts(have: Material) -> list[Fact]:
    run, facts = have.run, []
    if run.space:
        res = f", res {run.res}" if run.res else ""
        facts.append(Fact(label="Space", value=f"{run.space}{res}"))
    if have.tr:
        facts.append(Fact(label="Repetition time", value=f"{have.tr:g} s"))
    if have.summary:
        shape = " x ".join(str(side) for side in have.summary.mean.grid.shape)
        sides = [f"{side:.3g}" for side in have.summary.mean.grid.zooms]
        zooms = " x ".join(sides if len(set(sides)) > 1 else sides[:1])
        facts.append(Fact(label="Volumes", value=str(have.summary.n_volumes)))
        facts.append(Fact(label="Grid", value=f"{shape} voxels of {zooms} mm"))
    timing = run.sidecar.get("SliceTimingCorrected")
    if timing is not None:
        facts.append(Fact(label="Slice timing", value="corrected" if timing else "not corrected"))
    facts += _distortion(run)
    steady = sum(name.startswith("non_steady_state_outlier") for name in have.table)
    if have.table:
        facts.append(Fact(label="Initial volumes not steady", value=str(steady)))
        facts.append(Fact(label="Confounds", value=f"{len(have.table)} columns"))
    if run.elsewhere:
        facts.append(Fact(label="Taken from the derivative", value=run.elsewhere.split(":")[1]))
    return facts


def _distortion(run: RunFiles) -> list[Fact]:
    how = run.sidecar.get("DistortionCorrection")
    if isinstance(how, dict):
        return [Fact(label="Distortion", value=f"corrected, {how.get('Method', 'no method')}")]
    return [Fact(label="Distortion", value="not corrected")] if run.native.after else []


def _missing(have: Material) -> list[Notice]:
    """Say what a full page would have and this one has not."""
    run, notices = have.run, []
    if run.bold is None:
        where = f" It was read from {run.elsewhere}." if run.elsewhere else ""
        notices.append(Notice(what=f"The preprocessed series is not in this output folder.{where}"))
    if not have.table:
        notices.append(Notice(what="There is no table of confounds: motion cannot be shown."))
    if have.anatomy is None:
        notices.append(
            Notice(what="There is no anatomical image in this space: registration cannot be shown.")
        )
    rows = len(next(iter(have.table.values()), []))
    if have.summary and rows and rows != have.summary.n_volumes:
        notices.append(
            Notice(
                what=f"The table of confounds has {rows} rows and the series "
                f"{have.summary.n_volumes} volumes: they are drawn apart.",
                fix="use the table and the series of one and the same run of preprocessing",
            )
        )
    return notices


def _registration(have: Material) -> Panel | None:
    run, anatomy = have.run, have.anatomy
    reference = read_volume(run.boldref) if run.boldref else have.summary and have.summary.mean
    if not reference:
        return None
    pictures = [Picture(key="bold", label="BOLD reference", volume=reference)]
    contours = []
    if run.mask:
        contours.append(Contour(key="mask", label="BOLD mask", volume=read_volume(run.mask)))
    t1w = show_t1w(anatomy) if anatomy else None
    if t1w is not None:
        pictures.append(Picture(key="t1w", label="T1w", volume=t1w))
    if anatomy and anatomy.dseg:
        contours.append(
            Contour(key="wm", label="white matter", volume=tissue(read_volume(anatomy.dseg), 2))
        )
    brain = contours[0].volume if run.mask else reference
    if len(pictures) == 2:
        title = "BOLD against T1w"
        caption = (
            "Let the two images alternate. The line of the white matter comes from the T1w: on the "
            "BOLD reference it should follow the same edges."
        )
    else:
        title, caption = "BOLD reference", "The mean of the series in standard space with its mask."
    return mosaic_panel(
        anchor(run.name, "registration"),
        draw_mosaic(pictures, contours, brain=brain),
        layers=(pictures, contours),
        title=title,
        caption=caption,
    )


def _tsnr(have: Material) -> Panel | None:
    if have.summary is None:
        return None
    tsnr = have.summary.tsnr
    inside = tsnr.data[tsnr.data > 0]
    high = float(np.ceil(np.percentile(inside, 95) / 10) * 10) if inside.size else 10.0
    picture = Picture(
        key="tsnr",
        label="tSNR",
        volume=Volume(np.maximum(tsnr.data, 0), tsnr.grid),
        limits=(0.0, high),
        colours=_TSNR_COLOURS,
    )
    medians = ", ".join(f"{name} {value:.0f}" for name, value in have.summary.median_tsnr.items())
    return mosaic_panel(
        anchor(have.run.name, "tsnr"),
        draw_mosaic([picture], [], brain=tsnr),
        layers=([picture], []),
        title="Temporal signal-to-noise ratio",
        caption=(
            "Mean over standard deviation after removing a straight line. Dark patches are lost "
            f"signal, as above the nose and the ears. Medians: {medians}."
        ),
        scale={"low": "0", "high": f"{high:.0f}", "stops": colour_stops(_TSNR_COLOURS)},
    )
