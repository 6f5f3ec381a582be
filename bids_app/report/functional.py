"""The functional section of a run: measures, registration, carpet, motion, signal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.report.anatomical import tissue
from neurostorm_app.bids_app.report.measuring import Material, gather, measure
from neurostorm_app.bids_app.report.panels import (
    Fact,
    Notice,
    Panel,
    anchor,
    attempt,
    chart,
    flatten,
    mosaic_panel,
)
from neurostorm_app.bids_app.report.reading import numbers
from neurostorm_app.bids_app.report.verdict import FD_HIGH, Measures
from neurostorm_app.pipelines.figures import (
    Contour,
    Picture,
    Trace,
    Volume,
    carpet_figure,
    draw_mosaic,
    motion_figure,
    read_volume,
)
from neurostorm_app.pipelines.figures.carpet import PLOT_SPAN
from neurostorm_app.pipelines.figures.style import colour_stops

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def build_functional(run: RunFiles, anatomy: Anatomy | None) -> FunctionalSection:
    """Measure and draw one run.

    Parameters
    ----------
    run : RunFiles
        Its files.
    anatomy : Anatomy or None
        The anatomical images in the same space.
    """
    section = FunctionalSection(run=run, ident=anchor(run.name), measures=Measures())
    have = gather(run, anatomy, section.notices)
    section.measures = measure(have, section.notices)
    section.facts = _facts(have)
    section.records = flatten(run.qc)
    section.notices += _missing(have)
    for build in (_registration, _carpet, _motion, _tsnr):
        panel = attempt(section.notices, lambda build=build: build(have))  # type: ignore[misc]
        if panel is not None:
            section.panels.append(panel)
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
    steady = sum(name.startswith("non_steady_state_outlier") for name in have.table)
    if have.table:
        facts.append(Fact(label="Initial volumes not steady", value=str(steady)))
        facts.append(Fact(label="Confounds", value=f"{len(have.table)} columns"))
    if run.elsewhere:
        facts.append(Fact(label="Taken from the derivative", value=run.elsewhere.split(":")[1]))
    return facts


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
    if anatomy and anatomy.t1w:
        pictures.append(Picture(key="t1w", label="T1w", volume=read_volume(anatomy.t1w)))
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


def _carpet(have: Material) -> Panel | None:
    if have.tr is None or (have.summary is None and not have.table):
        return None
    summary = have.summary
    rows = len(next(iter(have.table.values()), []))
    together = summary is None or rows in (0, summary.n_volumes)
    traces = _traces(have) if rows and together else []
    if not traces and summary is not None:
        mean = summary.tissue_means["brain"]
        traces = [Trace(name="GS", values=mean)]
    if not traces:
        return None
    carpet = summary.carpet if summary else np.zeros((0, rows), dtype=np.float32)
    words = f"Traces and carpet plot of {have.run.title}."
    tissues = " Rows are voxels, ordered by tissue." if summary and len(summary.bands) > 1 else ""
    return chart(
        anchor(have.run.name, "carpet"),
        carpet_figure(
            carpet, summary.bands if summary else {}, traces=traces, tr=have.tr, label=words
        ),
        title="Signal over time",
        caption=(
            "GS is the mean over the brain, FD the framewise displacement with its limit of "
            f"{FD_HIGH} mm.{tissues} Vertical bands through all tissues are motion or breathing."
        ),
        cursor={
            "span": PLOT_SPAN,
            "tr": have.tr,
            "values": [(trace.name, _rounded(trace.values)) for trace in traces],
        },
    )


def _traces(have: Material) -> list[Trace]:
    columns = (
        ("GS", "global_signal", ""),
        ("CSF", "csf", ""),
        ("WM", "white_matter", ""),
        ("DVARS", "std_dvars" if "std_dvars" in have.table else "dvars", ""),
        ("FD", "framewise_displacement", "mm"),
    )
    found = []
    for name, column, unit in columns:
        values = numbers(have.table, column)
        if values is not None:
            limit = FD_HIGH if name == "FD" else None
            found.append(Trace(name=name, values=values, unit=unit, threshold=limit))
    return found


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]


def _motion(have: Material) -> Panel | None:
    moved = [numbers(have.table, f"trans_{axis}") for axis in "xyz"]
    turned = [numbers(have.table, f"rot_{axis}") for axis in "xyz"]
    if have.tr is None or any(column is None for column in moved + turned):
        return None
    return chart(
        anchor(have.run.name, "motion"),
        motion_figure(
            np.stack([c for c in moved if c is not None], axis=1),
            np.degrees(np.stack([c for c in turned if c is not None], axis=1)),
            tr=have.tr,
            label=f"Motion of the head in {have.run.title}.",
        ),
        title="Motion of the head",
        caption="Against the reference volume. Slow drifts are common; steps and spikes are not.",
    )
