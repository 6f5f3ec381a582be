"""What BrainLM's decoder and attention tell of the runs of a study: four questions, one reader.

Runs come as preprocessed images or as tables of parcel series; from there on they are made ready
as for embedding, so that the network is given what it is given there. Each question has a module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import ContractError
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.embed_series import ParcelTable, prepare_table
from neurostorm_app.pipelines.forecast import cut_windows
from neurostorm_app.pipelines.parcel_networks import score_networks
from neurostorm_app.pipelines.perturb import find_perturbation
from neurostorm_app.pipelines.prepare_parcels import prepare_parcels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.models.brainlm_face import BrainLm
    from neurostorm_app.pipelines.embed import Embedder
    from neurostorm_app.pipelines.parcel_networks import NetworkScore
    from neurostorm_app.pipelines.perturb import HowPerturbed, Perturbation
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = [
    "Explorer",
    "ReadyRun",
    "load_explorer",
    "perturb_run",
    "score_run_networks",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyRun:
    """A run as the network is given it.

    Parameters
    ----------
    name : str
        Such as ``sub-01_task-rest``.
    series : ndarray, shape (V, T), float32
        Scaled, at the model's repetition time; rows of missing parcels are 0.
    labels : ndarray, shape (V,), int
        Of the parcels in the label image.
    xyz : ndarray, shape (V, 3), float32
        Places of the parcels, MNI mm.
    window : int
        Volumes of a window.
    """

    name: str
    series: NDArray[np.float32]
    labels: NDArray[np.int64]
    xyz: NDArray[np.float32]
    window: int

    @property
    def person(self) -> str:
        """The participant, such as ``sub-01``."""
        return self.name.partition("_")[0]

    def windows(self) -> NDArray[np.float32]:
        """Cut it into windows, (n, V, L), that do not overlap."""
        cut = cut_windows(self.series.astype(np.float64), length=self.window)
        return cut.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explorer:
    """A network of BrainLM with all that its runs need; made by `load_explorer`.

    Parameters
    ----------
    embedder : Embedder
        Holds the card, the label image and the hashes.
    model : BrainLm
        The network, in evaluation mode, on the CPU.
    """

    embedder: Embedder
    model: BrainLm

    def read(self, run: StandardSeries) -> ReadyRun:
        """Read a run, an image or a table of series, and make it ready as for embedding.

        Raises
        ------
        DataError
            If it cannot be read, is too short, or is not of the model's space or parcels.
        """
        contract, atlas = self.embedder.card.contract, self.embedder.atlas
        if not isinstance(contract, ParcelContract) or atlas is None:
            raise _wrong_kind(self.embedder.card.name)
        prepare = prepare_table if isinstance(run, ParcelTable) else prepare_parcels
        prepared = prepare(run, contract, atlas, self.embedder.options)  # type: ignore[arg-type]
        if prepared.parcels is None or prepared.xyz is None:
            raise _wrong_kind(self.embedder.card.name)
        n_parcels = len(prepared.parcels.labels)
        series = np.zeros((n_parcels, prepared.starts[-1] + prepared.window), dtype=np.float32)
        for start, window in zip(prepared.starts, prepared.windows, strict=True):
            series[:, start : start + prepared.window] = window
        return ReadyRun(
            name=run.name,
            series=series,
            labels=prepared.parcels.labels,
            xyz=prepared.xyz,
            window=prepared.window,
        )


def load_explorer(
    name: str,
    *,
    weights: Path | None = None,
    weights_dir: Path | None = None,
    atlas: Path | None = None,
) -> Explorer:
    """Load a network of BrainLM for these questions.

    Parameters
    ----------
    name : str
        Of the model, such as ``brainlm-demo``, or a folder of a model.
    weights, weights_dir, atlas : Path, optional
        As of `load_embedder`.

    Returns
    -------
    Explorer
        On the CPU.

    Raises
    ------
    ContractError
        If the model is not of BrainLM.
    MissingWeightsError, WrongWeightsError, NoInputError, UsageError
        As of `load_embedder`.
    """
    from neurostorm_app.models import read_card
    from neurostorm_app.models.brainlm_face import BrainLm

    if read_card(name).architecture != "brainlm":
        raise _wrong_kind(name)
    embedder = load_embedder(name, weights=weights, weights_dir=weights_dir, atlas=atlas)
    if not isinstance(embedder.model, BrainLm):
        raise _wrong_kind(name)
    return Explorer(embedder=embedder, model=embedder.model.requires_grad_(requires_grad=False))


def score_run_networks(
    explorer: Explorer, run: ReadyRun, networks: NDArray[np.int64], *, layer: int = -1
) -> tuple[dict[str, NetworkScore], NDArray[np.float64]]:
    """Tell the networks of a run's parcels from attention and from its series.

    Parameters
    ----------
    explorer : Explorer
        A network of the native family.
    run : ReadyRun
        The run; missing parcels should have a network below 0.
    networks : ndarray, shape (V,), int
        Of its parcels; below 0 for none.
    layer : int
        Whose attention it is, from 0; negative ones count from the end.

    Returns
    -------
    scores : dict of str to NetworkScore
        Of ``attention``, the mean over windows, and of ``series``.
    shares : ndarray, shape (V,)
        What the class token gives to each parcel, the mean over windows.

    Raises
    ------
    ContractError
        If tokens are not of single parcels.
    DataError
        If there are too few networks or parcels.
    """
    import torch

    from neurostorm_app.models.brainlm_attention import read_class_attention, read_parcel_attention

    model, places = explorer.model, torch.from_numpy(run.xyz.copy())[None]
    between: list[Tensor] = []
    shares: list[Tensor] = []
    with torch.inference_mode():
        for window in torch.from_numpy(run.windows()):
            between.append(read_parcel_attention(model, window[None], places, layer=layer)[0])
            shares.append(read_class_attention(model, window[None], places, layer=layer).parcels[0])
    kinds: Mapping[str, NDArray[np.floating]] = {
        "attention": torch.stack(between).mean(dim=0).numpy(),
        "series": run.series,
    }
    each = torch.stack(shares).sum(dim=2).mean(dim=0)
    return score_networks(kinds, networks), each.numpy().astype(np.float64)


def perturb_run(
    explorer: Explorer, run: ReadyRun, target: ReadyRun, *, how: HowPerturbed | None = None
) -> Perturbation:
    """Perturb the first window of a run until its class token is that of another run.

    Parameters
    ----------
    explorer : Explorer
        The network.
    run : ReadyRun
        Whose first window is changed.
    target : ReadyRun
        The mean class token of its windows is the target.
    how : HowPerturbed, optional
        As of `find_perturbation`, whose limits hold here.

    Returns
    -------
    Perturbation
        Of the first window.
    """
    import torch

    windows = torch.from_numpy(target.windows())
    places = torch.from_numpy(target.xyz.copy()).expand(len(windows), -1, -1)
    with torch.no_grad():
        goal = explorer.model.embed(windows, places).mean(dim=0).numpy()
    return find_perturbation(explorer.model, run.windows()[0], run.xyz, target=goal, how=how)


def _wrong_kind(name: str) -> ContractError:
    return ContractError(
        f"{name} is not a network of BrainLM that is told where parcels are",
        fix="give a model such as brainlm-demo, brainlm or brainlm-111m",
    )
