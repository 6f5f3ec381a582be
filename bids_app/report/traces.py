"""Panels over time: the carpet with its traces, the motion of the head, how confounds go along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.report.panels import Panel, anchor, chart
from neurostorm_app.bids_app.report.reading import numbers
from neurostorm_app.bids_app.report.verdict import FD_HIGH
from neurostorm_app.pipelines.figures import (
    Trace,
    carpet_figure,
    confound_figure,
    motion_figure,
)
from neurostorm_app.pipelines.figures.carpet import PLOT_SPAN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.bids_app.report.measuring import Material

__all__ = ["draw_carpet", "draw_confounds", "draw_motion"]

_CONFOUNDS = {
    "global_signal": "GS",
    "csf": "CSF",
    "white_matter": "WM",
    "std_dvars": "DVARS",
    "framewise_displacement": "FD",
    **{f"trans_{axis}": f"{axis} shift" for axis in "xyz"},
    "rot_x": "pitch",
    "rot_y": "roll",
    "rot_z": "yaw",
    **{f"w_comp_cor_{i:02d}": f"WM comp. {i + 1}" for i in range(3)},
    **{f"c_comp_cor_{i:02d}": f"CSF comp. {i + 1}" for i in range(3)},
    **{f"t_comp_cor_{i:02d}": f"tCompCor {i + 1}" for i in range(3)},
}
"""Columns of the table that are compared, and what stands beside them."""


def draw_carpet(have: Material) -> Panel | None:
    """Draw the series as a carpet under its traces; None if there is nothing over time."""
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


def draw_confounds(have: Material) -> Panel | None:
    """Draw how alike the confounds of a run are; None with fewer than three."""
    found = {
        words: values
        for column, words in _CONFOUNDS.items()
        if (values := numbers(have.table, column)) is not None and _varies(values)
    }
    if len(found) < 3:
        return None
    return chart(
        anchor(have.run.name, "confounds"),
        confound_figure(found, label=f"Correlation of confounds in {have.run.title}."),
        title="Confounds against each other",
        caption=(
            "Pearson correlation of the columns of the confounds table. A global signal that goes "
            "along with FD or DVARS is motion; components that repeat motion cost degrees of "
            "freedom twice."
        ),
    )


def _varies(values: NDArray[np.float64]) -> bool:
    known = values[np.isfinite(values)]
    return known.size > 2 and float(np.ptp(known)) > 0


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


def draw_motion(have: Material) -> Panel | None:
    """Draw how the head moved; None if the table does not say it."""
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
