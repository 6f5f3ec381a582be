"""Charts of embeddings: how alike windows are, and the way they take through time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.figures.style import INK, LINE, MUTED, bare, new_figure, to_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32] | NDArray[np.float64]

__all__ = [
    "cohort_figure",
    "connectome_figure",
    "project",
    "similarity",
    "similarity_figure",
    "trajectory_figure",
]

_SEQUENTIAL = "cividis"
_DIVERGING = "RdBu_r"
_MANY = 30
"""More participants than this are not named on the axes."""


def project(vectors: Vectors, n: int = 2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project vectors onto their principal components.

    Parameters
    ----------
    vectors : ndarray, shape (N, D)
        Embeddings.
    n : int
        Components that are kept; fewer vectors give zeros in those that do not exist.

    Returns
    -------
    coordinates : ndarray, shape (N, n)
        Scores; the largest loading of each component is positive.
    explained : ndarray, shape (n,)
        Share of the variance.
    """
    from sklearn.decomposition import PCA

    rows = np.asarray(vectors, dtype=np.float64)
    kept = min(n, *rows.shape)
    coordinates, explained = np.zeros((len(rows), n)), np.zeros(n)
    if np.ptp(rows, axis=0).any():  # vectors that are all the same have no direction
        fitted = PCA(kept, svd_solver="full").fit(rows)
        coordinates[:, :kept] = fitted.transform(rows)
        explained[:kept] = fitted.explained_variance_ratio_
    return coordinates, explained


def similarity(vectors: Vectors, *, centre: bool = False) -> NDArray[np.float64]:
    """Compare every vector with every other by the cosine of their angle.

    Parameters
    ----------
    vectors : ndarray, shape (N, D)
        Embeddings.
    centre : bool
        Take each vector's own mean away first: the cosine is then Pearson's correlation.

    Returns
    -------
    ndarray, shape (N, N)
        Between -1 and 1.
    """
    from sklearn.metrics.pairwise import cosine_similarity

    rows = np.asarray(vectors, dtype=np.float64)
    if centre:
        rows = rows - rows.mean(1, keepdims=True)
    alike: Any = cosine_similarity(rows)
    return np.asarray(np.clip(alike, -1, 1), dtype=np.float64)


def similarity_figure(
    vectors: Vectors, onsets: NDArray[np.float64], *, label: str, name: str = "cosine similarity"
) -> str:
    """Draw the cosine similarity of all pairs of windows.

    Parameters
    ----------
    vectors : ndarray, shape (N, D)
        Embeddings of the windows in order of time.
    onsets : ndarray, shape (N,)
        Their first moments in seconds.
    label : str
        What the figure shows, for those who cannot see it.
    name : str
        Beside the scale of the colours.
    """
    matrix = similarity(vectors)
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    figure = new_figure(420, 332)
    axes = bare(figure, (58, 12, 270, 270))
    step = float(np.median(np.diff(onsets)))
    edges = (onsets[0] - step / 2, onsets[-1] + step / 2)
    shown = axes.imshow(
        matrix,
        cmap=_SEQUENTIAL,
        vmin=float(others.min()),
        vmax=max(float(others.max()), float(others.min()) + 1e-6),
        interpolation="none",
        extent=(*edges, *edges[::-1]),
    )
    axes.set_xlabel("window onset (s)")
    axes.set_ylabel("window onset (s)")
    _scale(figure, shown, (342, 12, 10, 270), name)
    return to_svg(figure, label=label)


def trajectory_figure(vectors: Vectors, onsets: NDArray[np.float64], *, label: str) -> str:
    """Draw the way of the windows through the plane of their first two components.

    Parameters
    ----------
    vectors : ndarray, shape (N, D)
        Embeddings of the windows in order of time.
    onsets : ndarray, shape (N,)
        Their first moments in seconds.
    label : str
        What the figure shows, for those who cannot see it.
    """
    places, explained = project(vectors)
    figure = new_figure(420, 332)
    axes = bare(figure, (72, 12, 256, 270))
    axes.plot(*places.T, color=LINE, linewidth=1.0, zorder=1)
    shown = axes.scatter(
        places[:, 0],
        places[:, 1],
        c=onsets,
        cmap=_SEQUENTIAL,
        s=38,
        zorder=2,
        edgecolors=MUTED,
        linewidths=0.7,
    )
    for i, name in ((0, "start"), (-1, "end")):
        axes.annotate(
            name, (places[i, 0], places[i, 1]), xytext=(6, 6), textcoords="offset points", color=INK
        )
    axes.set_xlabel(f"component 1 ({explained[0]:.0%} of variance)")
    axes.set_ylabel(f"component 2 ({explained[1]:.0%})")
    axes.margins(0.12)
    axes.grid(visible=True)
    axes.set_aspect("equal", adjustable="datalim")
    _scale(figure, shown, (342, 12, 10, 270), "window onset (s)")
    return to_svg(figure, label=label)


def connectome_figure(edges: Vectors, *, label: str) -> str:
    """Draw a connectivity matrix from its upper triangle.

    Parameters
    ----------
    edges : ndarray, shape (V (V - 1) / 2,)
        Fisher-z correlations of pairs of parcels, row by row above the diagonal.
    label : str
        What the figure shows, for those who cannot see it.

    Raises
    ------
    DataError
        If no whole number of parcels has that many pairs.
    """
    n = round((1 + np.sqrt(1 + 8 * edges.size)) / 2)
    if edges.size == 0 or n * (n - 1) // 2 != edges.size:
        raise DataError(
            f"{edges.size} numbers are not the pairs of any number of parcels",
            fix="give the upper triangle of a square matrix without its diagonal",
        )
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = edges
    matrix += matrix.T
    limit = max(float(np.percentile(np.abs(edges), 99)), 1e-6)
    figure = new_figure(420, 332)
    axes = bare(figure, (58, 12, 270, 270))
    shown = axes.imshow(matrix, cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="none")
    axes.set_xlabel("parcel")
    axes.set_ylabel("parcel")
    _scale(figure, shown, (342, 12, 10, 270), "Fisher z")
    return to_svg(figure, label=label)


def _scale(
    figure: Figure, shown: ScalarMappable, place: tuple[float, float, float, float], name: str
) -> Axes:
    """Draw the scale of the colours."""
    axes = bare(figure, place)
    bar = figure.colorbar(shown, cax=axes)
    bar.outline.set_visible(False)
    bar.set_label(name, color=MUTED)
    axes.tick_params(color=LINE, labelcolor=MUTED, labelsize=10)
    return axes


def cohort_figure(matrix: NDArray[np.float64], groups: Sequence[str], *, label: str) -> str:
    """Draw the similarity of all pairs of runs, with lines between participants.

    Parameters
    ----------
    matrix : ndarray, shape (N, N)
        Similarities.
    groups : sequence of str
        Participant of each run, runs of one participant in a row.
    label : str
        What the figure shows, for those who cannot see it.
    """
    n = len(matrix)
    others = matrix[~np.eye(n, dtype=bool)]
    figure = new_figure(420, 332)
    axes = bare(figure, (58, 12, 270, 270))
    low, high = float(others.min()), float(others.max())
    shown = axes.imshow(
        matrix, cmap=_SEQUENTIAL, vmin=low, vmax=max(high, low + 1e-6), interpolation="none"
    )
    starts = [i for i in range(n) if i == 0 or groups[i] != groups[i - 1]]
    centres = [(a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], n], strict=True)]
    if len(starts) <= _MANY:
        for start in starts[1:]:
            axes.axhline(start - 0.5, color=LINE, linewidth=0.8)
            axes.axvline(start - 0.5, color=LINE, linewidth=0.8)
        names = [groups[start] for start in starts]
        axes.set_yticks(centres, names)
        axes.set_xticks(centres, names, rotation=90 if n > 8 else 0)
    axes.tick_params(length=0)
    axes.set_xlabel("participant")
    _scale(figure, shown, (342, 12, 10, 270), "similarity")
    return to_svg(figure, label=label)
