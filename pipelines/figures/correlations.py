"""How the confounds of a run go along with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.figures.style import (
    BLUE,
    INK,
    LINE,
    MUTED,
    RED,
    bare,
    new_figure,
    to_svg,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["confound_figure", "correlate"]

_CELL = 21.0
_LEFT, _TOP, _BOTTOM = 96.0, 10.0, 112.0
_BARS = 250.0
_BRIGHT = 0.6
"""Above this correlation a cell is dark, and its number is white."""


def correlate(columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Correlate columns pair by pair over the rows where both are numbers.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (T,)
        NaN where there is no number.

    Returns
    -------
    ndarray, shape (N, N)
        Pearson's; zero where a pair has fewer than three rows or one does not vary in them.

    Examples
    --------
    >>> t = np.arange(4.0)
    >>> correlate({"up": t, "down": -t})[0].round(3)
    array([ 1., -1.])
    """
    rows = np.stack(list(columns.values()))
    known = np.isfinite(rows)
    matrix = np.eye(len(rows))
    for i in range(len(rows)):
        for j in range(i):
            both = known[i] & known[j]
            a, b = rows[i, both], rows[j, both]
            if both.sum() < 3 or not np.ptp(a) or not np.ptp(b):
                continue
            matrix[i, j] = matrix[j, i] = np.corrcoef(a, b)[0, 1]
    return matrix


def confound_figure(columns: Mapping[str, NDArray[np.float64]], *, label: str) -> str:
    """Draw the correlation of all pairs of confounds, and of each with the first.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (T,)
        Name beside a row to its values; NaN where there is none. The first one, the global signal,
        is compared with the others in bars.
    label : str
        What the figure shows, for those who cannot see it.
    """
    names, matrix = list(columns), correlate(columns)
    side = _CELL * len(names)
    figure = new_figure(_LEFT + side + 96 + _BARS + 20, _TOP + side + _BOTTOM)
    axes = bare(figure, (_LEFT, _TOP, side, side))
    shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
    for i, row in enumerate(matrix):
        for j, value in enumerate(row[:i]):
            if abs(value) >= 0.3:
                colour = "white" if abs(value) > _BRIGHT else "#222222"
                axes.text(
                    j, i, f"{abs(value):.1f}"[1:] if abs(value) < 0.95 else "1",
                    ha="center", va="center", color=colour, fontsize=8.5,
                )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=10)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(shown, cax=bare(figure, (_LEFT, _TOP + side + 78, side, 8)),
                          orientation="horizontal", ticks=[-1, 0, 1])  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(color=LINE, labelcolor=MUTED, labelsize=9, length=2, pad=1)
    _draw_bars(figure, names, matrix[0], side=side)
    return to_svg(figure, label=label)


def _draw_bars(
    figure: Figure, names: Sequence[str], row: NDArray[np.float64], *, side: float
) -> None:
    """Draw how strongly each confound goes along with the first."""
    axes = bare(figure, (_LEFT + side + 96, _TOP, _BARS, side))
    places = np.arange(1, len(names))
    colours = [BLUE if value < 0 else RED for value in row[1:]]
    axes.barh(places, np.abs(row[1:]), height=0.62, color=colours)
    for place, value in zip(places, row[1:], strict=True):
        axes.text(
            abs(value) + 0.02, float(place), f"{value:+.2f}", va="center", color=MUTED, fontsize=9.5
        )
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.18)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks(places, names[1:])
    axes.tick_params(axis="y", length=0, labelsize=10)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"|correlation with {names[0]}|")
    axes.text(
        0, 0, f"{names[0]} against", va="center", ha="left", color=INK, fontsize=10.5,
    )  # fmt: skip
