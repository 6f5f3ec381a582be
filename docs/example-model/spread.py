"""Parcel spread: a linear map of how much each parcel varies; the example of the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neurostorm_app.models.checkpoint import Checkpoint

__all__ = ["ParcelSpread"]


class ParcelSpread(nn.Module):
    """Map the standard deviation of each parcel to a vector.

    Parameters
    ----------
    n_parcels : int
        V, of the contract.
    width : int
        D, of the embedding.
    """

    def __init__(self, n_parcels: int, width: int) -> None:
        super().__init__()
        self.n_parcels = n_parcels
        self.project = nn.Linear(n_parcels, width)

    def embed(self, series: Tensor) -> Tensor:
        """Embed windows.

        Parameters
        ----------
        series : Tensor, shape (B, V, T)
            Scaled series of the parcels.

        Returns
        -------
        Tensor, shape (B, D)

        Raises
        ------
        ContractError
            If there are other parcels than the network was made for.
        """
        if series.ndim != 3 or series.shape[1] != self.n_parcels:
            raise ContractError(
                f"parcel spread got series of shape {tuple(series.shape)}; it takes (batch, "
                f"{self.n_parcels}, volumes)",
                fix="give the parcellation of the contract",
            )
        found: Tensor = self.project(series.std(dim=2))
        return found


def network(config: Mapping[str, Any]) -> ParcelSpread:
    """Build the network with random weights."""
    missing = {"n_parcels", "width"} - config.keys()
    if missing:
        raise WrongWeightsError(
            f"the configuration of parcel spread lacks {sorted(missing)}",
            fix="take the config of the card",
        )
    return ParcelSpread(int(config["n_parcels"]), int(config["width"]))


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> ParcelSpread:
    """Build the network and load its weights strictly."""
    made = network(config)
    names = {"fc.weight": "project.weight", "fc.bias": "project.bias"}  # upstream's: ours
    state = {names.get(name, name): value for name, value in checkpoint.state.items()}
    load_strictly(made, state, source=checkpoint.source)
    return made


def differing(checkpoint: Checkpoint, given: Mapping[str, Any]) -> str:
    """Name the hyper-parameters in which a file and what was given differ; empty if none."""
    stored = checkpoint.config or given
    return ", ".join(sorted(key for key in stored if stored[key] != given.get(key)))
