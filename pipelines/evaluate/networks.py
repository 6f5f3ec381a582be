"""Networks of connectomes as learners: trained from scratch inside each fold, like any baseline.

Each is trained as many times as there are inner folds; what each says of the rows it did not see
is the inner score, and their mean is the score of new rows. The number of steps is fixed before:
stopping by the rows that are held out would make inner scores too good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from sklearn.model_selection import GroupKFold

from neurostorm_app.models.bnt import BrainNetworkTransformer
from neurostorm_app.models.gcn import ConnectomeGcn
from neurostorm_app.models.matrices import fold_matrices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

__all__ = ["NETWORKS", "NetworkLearner"]

NETWORKS = {"bnt": BrainNetworkTransformer, "gcn": ConnectomeGcn}
INNER = 3
"""Inner folds, and so networks that are averaged."""
STEPS, BATCH = 300, 16
PEAK_RATE, WEIGHT_DECAY = 1e-3, 0.05
"""Chosen on phantoms of other seeds than those of the tests; not tuned to any cohort."""


@dataclass(frozen=True, slots=True)
class NetworkLearner:
    """Train a network of connectomes.

    Parameters
    ----------
    name : {"bnt", "gcn"}
        Brain Network Transformer, or a graph network.
    """

    name: Literal["bnt", "gcn"]
    permutable: bool = False

    def fit(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        groups: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedNetworks:
        """Train.

        Parameters
        ----------
        x : ndarray, shape (n, V * (V - 1) / 2)
            Embeddings of the connectome, not standardised: matrices are made of them.
        y : ndarray, shape (n, K)
            Targets.
        groups : ndarray, shape (n,)
            What stays together.
        seed : int
            Of first weights, order and folds.

        Returns
        -------
        FittedNetworks
            As many as inner folds.

        Raises
        ------
        ContractError
            If the rows of `x` are not the triangle of a matrix.
        """
        matrices = fold_matrices(torch.as_tensor(x, dtype=torch.float32))
        middle, spread = y.mean(axis=0), np.where(y.std(axis=0) > 0, y.std(axis=0), 1.0)
        wanted = torch.as_tensor((y - middle) / spread, dtype=torch.float32)
        folds = GroupKFold(min(INNER, len(set(groups.tolist()))), shuffle=True, random_state=seed)
        inner, networks = np.empty_like(y, dtype=np.float64), []
        for number, (train, rest) in enumerate(folds.split(x, groups=groups)):
            network = _train(self.name, matrices[train], wanted[train], seed=seed + number)
            inner[rest] = _scores([network], matrices[rest])
            networks.append(network)
        return FittedNetworks(tuple(networks), inner * spread + middle, middle, spread)


@dataclass(frozen=True, slots=True)
class FittedNetworks:
    """Networks of the inner folds.

    Parameters
    ----------
    networks : tuple of Module
        (B, V, V) to (B, K).
    inner : ndarray, shape (n, K)
        Scores of the training rows by the network that did not see them.
    middle, spread : ndarray, shape (K,)
        Of the targets of the training rows.
    """

    networks: tuple[nn.Module, ...]
    inner: NDArray[np.float64]
    middle: NDArray[np.float64]
    spread: NDArray[np.float64]

    def scores(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average what the networks say: (m, D) to (m, K)."""
        matrices = fold_matrices(torch.as_tensor(x, dtype=torch.float32))
        return _scores(self.networks, matrices) * self.spread + self.middle


def _train(name: str, matrices: Tensor, wanted: Tensor, *, seed: int) -> nn.Module:
    """Train one network by least squares, with a warm-up and a cosine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = NETWORKS[name](matrices.shape[1], wanted.shape[1])
        optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=STEPS)
        for _ in range(STEPS):
            rows = torch.randperm(len(matrices))[:BATCH]
            loss = (network(matrices[rows]) - wanted[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def _scores(networks: Sequence[nn.Module], matrices: Tensor) -> NDArray[np.float64]:
    said = [network(matrices).double().numpy() for network in networks]
    return np.asarray(np.mean(said, axis=0), dtype=np.float64)
