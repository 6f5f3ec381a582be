"""Charts over time: the carpet plot with its traces, and the motion of the head.

References
----------
Power (2017), A simple but useful way to assess fMRI scan qualities, NeuroImage 154.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.figures.style import (
    BLUE,
    GOLD,
    GREEN,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PINK,
    RED,
    bare,
    new_figure,
    to_svg,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["PLOT_SPAN", "Trace", "carpet_figure", "motion_figure"]

_WIDTH = 900.0
_LEFT, _RIGHT = 92.0, 84.0
PLOT_SPAN = (_LEFT / _WIDTH, 1 - _RIGHT / _WIDTH)
"""Where the time axis begins and ends, as shares of the width: for a cursor over the chart."""

_TRACE_COLOURS = {"GS": INK, "CSF": BLUE, "WM": ORANGE, "DVARS": PINK, "FD": GREEN}
_BAND_COLOURS = {"grey matter": BLUE, "white matter": ORANGE, "CSF": GREEN, "brain": MUTED}
_BAND_NAMES = {"grey matter": "GM", "white matter": "WM", "CSF": "CSF", "brain": "brain"}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Trace:
    """One number a volume.

    Parameters
    ----------
    name : str
        What stands beside it, such as ``FD``.
    values : ndarray, shape (T,)
        Numbers; NaN where there is none.
    unit : str
        Such as ``mm``.
    threshold : float or None
        A level above which volumes are marked.
    """

    name: str
    values: NDArray[np.float64]
    unit: str = ""
    threshold: float | None = None


def carpet_figure(
    carpet: NDArray[np.float32],
    bands: Mapping[str, int],
    *,
    traces: Sequence[Trace],
    tr: float,
    label: str,
) -> str:
    """Draw traces above the carpet, on one axis of time.

    Parameters
    ----------
    carpet : ndarray, shape (R, T)
        Standard deviations from each row's mean, ordered by tissue; no rows draw the traces
        alone.
    bands : mapping
        Tissue to its number of rows.
    traces : sequence of Trace
        Each of length T.
    tr : float
        Repetition time in seconds.
    label : str
        What the figure shows, for those who cannot see it.
    """
    row, gap, bottom = 46.0, 10.0, 40.0
    carpet_height = 250.0 if carpet.shape[0] else 0.0
    height = 8 + len(traces) * (row + gap) + carpet_height + bottom
    figure = new_figure(_WIDTH, height)
    n = carpet.shape[1] if carpet.shape[0] else len(traces[0].values)
    inner = _WIDTH - _LEFT - _RIGHT
    top = 8.0
    for i, trace in enumerate(traces):
        axes = bare(figure, (_LEFT, top, inner, row))
        last = not carpet_height and i == len(traces) - 1
        _draw_trace(axes, trace, tr)
        _time_axis(axes, n, tr, labelled=last)
        top += row + gap
    if carpet_height:
        axes = bare(figure, (_LEFT, top, inner, carpet_height))
        axes.imshow(
            carpet,
            aspect="auto",
            cmap="gray",
            vmin=-2,
            vmax=2,
            interpolation="none",
            extent=(-tr / 2, (n - 0.5) * tr, carpet.shape[0], 0),
        )
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
        _time_axis(axes, n, tr, labelled=True)
        _draw_bands(bare(figure, (_LEFT - 12, top, 7, carpet_height)), bands)
    return to_svg(figure, label=label)


def motion_figure(
    translation: NDArray[np.float64], rotation: NDArray[np.float64], *, tr: float, label: str
) -> str:
    """Draw how the head moved.

    Parameters
    ----------
    translation : ndarray, shape (T, 3)
        Along x, y and z, mm.
    rotation : ndarray, shape (T, 3)
        Around x, y and z, degrees.
    tr : float
        Repetition time in seconds.
    label : str
        What the figure shows, for those who cannot see it.
    """
    figure = new_figure(_WIDTH, 290)
    inner = _WIDTH - _LEFT - _RIGHT
    names = ("x", "y", "z"), ("pitch", "roll", "yaw")
    for i, (values, unit) in enumerate(((translation, "mm"), (rotation, "degrees"))):
        axes = bare(figure, (_LEFT, 10 + i * 122, inner, 108))
        for column, colour, name in zip(values.T, (BLUE, ORANGE, GREEN), names[i], strict=True):
            axes.plot(np.arange(len(column)) * tr, column, color=colour, label=name)
        axes.axhline(0, color=LINE, linewidth=0.8)
        axes.set_ylabel(f"translation ({unit})" if i == 0 else f"rotation ({unit})")
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1.005, 0.5),
            frameon=False,
            handlelength=1.2,
            labelcolor=MUTED,
            fontsize=11,
        )
        axes.grid(axis="y")
        axes.margins(y=0.12)
        _time_axis(axes, len(values), tr, labelled=i == 1)
    return to_svg(figure, label=label)


def _time_axis(axes: Axes, n: int, tr: float, *, labelled: bool) -> None:
    axes.set_xlim(-tr / 2, (n - 0.5) * tr)
    if labelled:
        axes.set_xlabel("time (s)")
    else:
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)


def _draw_trace(axes: Axes, trace: Trace, tr: float) -> None:
    """Draw one trace with its name at the left and its mean and maximum at the right."""
    time = np.arange(len(trace.values)) * tr
    colour = _TRACE_COLOURS.get(trace.name, GOLD)
    axes.plot(time, trace.values, color=colour)
    if trace.threshold is not None:
        above = trace.values > trace.threshold
        axes.axhline(trace.threshold, color=RED, linewidth=0.8, dashes=(4, 3))
        axes.plot(time[above], trace.values[above], ".", color=RED, markersize=4)
    axes.margins(y=0.1)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    unit = f"\n{trace.unit}" if trace.unit else ""
    axes.text(
        -0.018, 0.5, trace.name + unit, transform=axes.transAxes, ha="right", va="center",
        color=colour, linespacing=1.3,
    )  # fmt: skip
    if np.isfinite(trace.values).any():
        axes.text(
            1.012, 0.5, f"mean {np.nanmean(trace.values):.3g}\nmax {np.nanmax(trace.values):.3g}",
            transform=axes.transAxes, va="center", color=MUTED, fontsize=10, linespacing=1.35,
        )  # fmt: skip


def _draw_bands(axes: Axes, bands: Mapping[str, int]) -> None:
    """Draw which rows belong to which tissue."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(sum(bands.values()), 0)
    start = 0
    for name, count in bands.items():
        colour = _BAND_COLOURS.get(name, MUTED)
        axes.barh(start, 1, height=count, left=0, align="edge", color=colour)
        axes.text(
            -0.7, start + count / 2, _BAND_NAMES.get(name, name), ha="right", va="center",
            color=colour,
        )  # fmt: skip
        start += count
