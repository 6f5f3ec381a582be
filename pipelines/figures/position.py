"""Where a run is among all runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurostorm_app.pipelines.figures.style import BLUE, MUTED, ORANGE, bare, new_figure, to_svg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["position_figure"]


def position_figure(
    places: NDArray[np.float64],
    explained: NDArray[np.float64],
    *,
    own: NDArray[np.bool_],
    here: int,
    label: str,
) -> str:
    """Draw where a run is among all runs.

    Parameters
    ----------
    places : ndarray, shape (N, 2)
        Runs in the plane of two principal components.
    explained : ndarray, shape (2,)
        Share of the variance of each.
    own : ndarray of bool, shape (N,)
        Runs of the same participant.
    here : int
        The run itself.
    label : str
        What the figure shows, for those who cannot see it.
    """
    figure = new_figure(420, 332)
    axes = bare(figure, (58, 30, 330, 252))
    axes.scatter(
        places[~own, 0],
        places[~own, 1],
        color=MUTED,
        s=22,
        alpha=0.55,
        linewidths=0,
        label="other runs",
    )
    rest = own.copy()
    rest[here] = False
    if rest.any():
        axes.scatter(
            places[rest, 0],
            places[rest, 1],
            color=BLUE,
            s=48,
            linewidths=0,
            label="same participant",
        )
    x, y = places[here]
    axes.scatter(
        [x], [y], color=ORANGE, s=110, marker="D", linewidths=0, label="this run", zorder=3
    )
    axes.set_xlabel(f"component 1 ({explained[0]:.0%} of variance)")
    axes.set_ylabel(f"component 2 ({explained[1]:.0%})")
    axes.grid(visible=True)
    axes.margins(0.12)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, labelcolor=MUTED,
        fontsize=10, handletextpad=0.2, columnspacing=1.0, borderpad=0,
    )  # fmt: skip
    return to_svg(figure, label=label)
