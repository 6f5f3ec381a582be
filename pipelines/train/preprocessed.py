"""How well a demo tells people apart on runs that went through real preprocessing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.models.card import VolumeContract
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.train.matching import Matching, compare_matching, find_hits
from neurostorm_app.pipelines.train.parcels import build_parcels
from neurostorm_app.pipelines.train.volumes import build_volumes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.embed import Embedder
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["score_preprocessed"]


def score_preprocessed(
    name: str,
    runs: Sequence[StandardSeries],
    people: Sequence[str],
    *,
    n_untrained: int = 3,
) -> Matching:
    """Compare a demo's weights with untrained networks on preprocessed runs.

    Parameters
    ----------
    name : str
        ``neurostorm-demo`` or ``brainlm-demo``.
    runs : sequence of StandardSeries
        At least two of each participant.
    people : sequence of str
        The participant of each run.
    n_untrained : int
        Untrained networks, of the same first values with other seeds.

    Returns
    -------
    Matching
        Shares of runs whose nearest run is of the same participant, as the index would find it.
    """
    embedder = load_embedder(name)
    build = build_volumes if isinstance(embedder.card.contract, VolumeContract) else build_parcels
    untrained = [
        replace(embedder, model=build(embedder.card, seed)) for seed in range(1, n_untrained + 1)
    ]
    hits = [_hits(candidate, runs, people) for candidate in (embedder, *untrained)]
    return compare_matching(hits[0], hits[1:], people)


def _hits(
    embedder: Embedder, runs: Sequence[StandardSeries], people: Sequence[str]
) -> NDArray[np.bool_]:
    vectors = np.stack([embedder.embed(run).pooled for run in runs])
    return find_hits(vectors, people, centre=embedder.card.centre)
