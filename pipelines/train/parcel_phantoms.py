"""Windows of phantoms' parcels, cleaned and scaled by the functions that embedding uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.pipelines.clean import clean_parcels
from neurostorm_app.pipelines.parcel_places import find_centroids
from neurostorm_app.pipelines.parcellate import Parcels, read_labels
from neurostorm_app.pipelines.phantom import TEMPLATE_SPACE, ParcelSignals
from neurostorm_app.pipelines.scale_parcels import measure_statistics, scale_series
from neurostorm_app.pipelines.templates import between, load_parcellation_path
from neurostorm_app.pipelines.tile import window_starts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from neurostorm_app.models.card import Card

__all__ = ["FIRST", "ParcelPhantoms"]

FIRST = 10_001
"""Number of the first participant of training: no phantom that somebody makes has so many."""


class ParcelPhantoms:
    """Runs of phantoms as a model of parcels takes them.

    Parameters
    ----------
    card : Card
        Of a model that takes windows of parcels.
    seed : int
        The phantoms' own.
    """

    def __init__(self, card: Card, seed: int) -> None:
        contract = card.contract
        if not isinstance(contract, ParcelContract) or not contract.window or not contract.tr:
            raise UsageError(
                f"{card.name} takes no windows of parcels, so their series cannot train it",
                fix="train brainlm-demo",
            )
        self.contract, self.tr, self.window = contract, contract.tr, contract.window
        volume, grid = read_labels(load_parcellation_path(contract.atlas))
        self.labels = np.unique(volume[volume > 0])
        self.places = torch.from_numpy(find_centroids(volume, grid, self.labels))
        points = between(contract.space, TEMPLATE_SPACE)(grid.world()[volume > 0])
        rows = np.searchsorted(self.labels, volume[volume > 0])
        self.signals = ParcelSignals(points, rows, seed=seed)

    def run(self, participant: int, run: int, *, n_volumes: int) -> Tensor:
        """Render a run: (V, T), no unit."""
        series = self.signals.series(participant, run, n_volumes=n_volumes, tr=self.tr)
        parcels = Parcels(
            series=series,
            labels=self.labels,
            coverage=np.ones(len(self.labels)),
            grand_mean=1.0,
        )
        cleaned, _ = clean_parcels(parcels, None, tr=self.tr, cleaning=self.contract.cleaning)
        statistics = measure_statistics(cleaned.series, self.labels)
        scaled, _ = scale_series(cleaned.series, statistics, scaling=self.contract.scaling)
        return torch.from_numpy(scaled.astype(np.float32))

    def runs(self, people: Sequence[int], *, n_runs: int, n_volumes: int) -> Tensor:
        """Render runs of participants: (P, R, V, T)."""
        rendered = [
            torch.stack([self.run(p, r, n_volumes=n_volumes) for r in range(1, n_runs + 1)])
            for p in people
        ]
        return torch.stack(rendered)

    def windows(self, run: Tensor) -> Tensor:
        """Cut a run, (V, T), as embedding does: (n, V, L)."""
        stride = self.contract.stride or self.window
        starts = window_starts(run.shape[1], window=self.window, stride=stride)
        return torch.stack([run[:, start : start + self.window] for start in starts])
