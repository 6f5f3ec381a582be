"""From a preprocessed run to vectors: what the shell calls, so that it never sees torch.

The story of a run: open the series, find its brain, bring it to the contract of the model's
card, cut it into windows, take batches of windows through the network, average over windows.
Memory holds a batch of windows and a few volumes, whatever the length of the run.
"""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import ContractError, UsageError
from neurostorm_app.models.card import ParcelContract, VolumeContract
from neurostorm_app.pipelines.prepare import prepare_parcels, prepare_volumes
from neurostorm_app.pipelines.tile import pool_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.prepare import Prepared
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["Embedder", "RunEmbedding", "load_embedder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEmbedding:
    """The embeddings of one run, and what must be known to trust them.

    Parameters
    ----------
    windows : ndarray, shape (N, D), float32
        One row a window.
    onsets, durations : ndarray, shape (N,)
        When each window starts after the run's first volume, and how long it is; seconds.
    pooled : ndarray, shape (D,), float32
        The run: the mean over windows.
    conformance : dict
        ``met``, ``reasons``, ``distance`` and ``deviations`` from the model's contract, and the
        facts behind them. Values are JSON's.
    record : dict
        How it was computed: engine, device, precision, threads, weights, windows. Values are
        JSON's; only ``seconds``, ``batch`` and ``n_threads`` differ from machine to machine.
    parcels : Parcels or None
        Cleaned parcel series for a model that eats parcels.
    """

    windows: NDArray[np.float32]
    onsets: NDArray[np.float64]
    durations: NDArray[np.float64]
    pooled: NDArray[np.float32]
    conformance: dict[str, Any]
    record: dict[str, Any]
    parcels: Parcels | None = None


def load_embedder(
    name: str,
    *,
    weights: Path | None = None,
    weights_dir: Path | None = None,
    atlas: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Embedder:
    """Load a model with its weights, ready for runs.

    Parameters
    ----------
    name : str
        A name of the registry, such as ``connectome``.
    weights : Path, optional
        The file of its weights.
    weights_dir : Path, optional
        A folder in which they are looked for.
    atlas : Path, optional
        A label image in the contract's space that replaces the card's parcellation.
    device : str
        As torch spells it, ``cpu`` or ``cuda``.
    precision : {'fp32', 'bf16'}
        Of the network's arithmetic.

    Returns
    -------
    Embedder
        Holds the network in memory.

    Raises
    ------
    MissingWeightsError, WrongWeightsError
        If the weights are not there, or of another model.
    UsageError
        If the precision is not known, the device is not there, or a parcellation is given to a
        model that has no use for one.
    """
    from neurostorm_app.models import create_model, read_card
    from neurostorm_app.models.weights import find_weights, hash_file

    card = read_card(name)
    _check_engine(device, precision)
    if atlas is not None and not isinstance(card.contract, ParcelContract):
        raise UsageError(
            f"{name} takes volumes; the parcellation {atlas} has no meaning for it",
            fix="leave the parcellation out, or choose a model that takes parcels",
        )
    file = None
    if card.file is not None or weights is not None:
        file = find_weights(card, given=weights, weights_dir=weights_dir)
    if isinstance(card.contract, ParcelContract) and atlas is None:
        from neurostorm_app.pipelines.templates import load_parcellation_path

        atlas = load_parcellation_path(card.contract.atlas)
    return Embedder(
        card=card,
        model=create_model(name, weights=file, device=device).eval(),
        atlas=atlas,
        device=device,
        precision=precision,
        hashes={
            "weights_sha256": hash_file(file) if file else None,
            "atlas_sha256": hash_file(atlas) if atlas else None,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """A model that takes runs; made by `load_embedder`.

    Parameters
    ----------
    card : Card
        What is known of its weights.
    model : torch.nn.Module
        With ``embed(batch) -> (B, D)``, in evaluation mode.
    atlas : Path or None
        The label image, for a model that takes parcels.
    device, precision : str
        Where and how the network computes.
    hashes : dict
        SHA-256 of the files of weights and atlas.
    """

    card: Card
    model: nn.Module
    atlas: Path | None
    device: str
    precision: str
    hashes: dict[str, str | None]

    def embed(
        self, series: StandardSeries, *, batch: int = 1, n_threads: int | None = None
    ) -> RunEmbedding:
        """Embed one run.

        Parameters
        ----------
        series : StandardSeries
            The run, preprocessed, in a standard space.
        batch : int
            Windows that go through the network together; it costs memory and does not change
            the numbers beyond rounding.
        n_threads : int, optional
            Threads of torch while this runs; by default as they are.

        Returns
        -------
        RunEmbedding
            Of all windows and of the run.

        Raises
        ------
        CorruptImageError
            If a file is truncated or damaged.
        SeriesTooShortError
            If one window takes more volumes than there are.
        ContractError
            If the series cannot be brought to the contract: wrong space, no signal of its own
            scale, another number of parcels.
        DataError
            If series, mask and confounds do not belong together.
        """
        start = time.perf_counter()
        with _threads(n_threads) as used:
            prepared = self._prepare(series)
            vectors = self._run(prepared.windows, batch)
        record = self._record(prepared, vectors) | {
            "batch": batch,
            "n_threads": used,
            "seconds": round(time.perf_counter() - start, 3),
        }
        starts = np.asarray(prepared.starts)
        return RunEmbedding(
            windows=vectors,
            onsets=starts * prepared.step,
            durations=np.full(len(starts), prepared.window * prepared.step),
            pooled=pool_windows(vectors),
            conformance=prepared.findings.as_dict(),
            record=record,
            parcels=prepared.parcels,
        )

    def _prepare(self, run: StandardSeries) -> Prepared:
        contract = self.card.contract
        if isinstance(contract, VolumeContract):
            return prepare_volumes(run, contract)
        if self.atlas is None:
            raise ContractError(
                f"{self.card.name} takes parcels, and no parcellation was given",
                fix="make the embedder by load_embedder, which finds the card's parcellation",
            )
        return prepare_parcels(run, contract, self.atlas)

    def _run(self, windows: Iterable[NDArray[np.float32]], batch: int) -> NDArray[np.float32]:
        """Take windows through the network, `batch` at a time; (N, D)."""
        import torch

        rows = []
        stream = iter(windows)
        with torch.inference_mode(), _precision(self.device, self.precision):
            while held := list(itertools.islice(stream, batch)):
                tensor = torch.from_numpy(_stack(held)).to(self.device)
                embedded: torch.Tensor = self.model.embed(tensor)  # type: ignore[operator]
                rows.append(embedded.float().cpu().numpy())
        return np.concatenate(rows)

    def _record(self, prepared: Prepared, vectors: NDArray[np.float32]) -> dict[str, Any]:
        import torch

        return {
            "engine": f"torch {torch.__version__}",
            "device": self.device,
            "precision": self.precision,
            **self.hashes,
            "atlas": self.atlas.name if self.atlas else None,
            "n_windows": len(prepared.starts),
            "window": prepared.window,
            "starts": list(prepared.starts),
            "pooling": "mean over windows, all weights equal",
            "dimension": int(vectors.shape[1]),
        }


def _stack(windows: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join windows (..., L) to (B, ..., L), with volumes one after the other in memory."""
    if len(windows) == 1:
        return windows[0][np.newaxis]
    return np.moveaxis(np.stack([np.moveaxis(window, -1, 0) for window in windows]), 1, -1)


def _check_engine(device: str, precision: str) -> None:
    import torch

    if precision not in {"fp32", "bf16"}:
        raise UsageError(
            f"the precision {precision!r} is not known", fix="choose fp32 (the default) or bf16"
        )
    if device.partition(":")[0] not in {"cpu", "cuda"} or (
        device.startswith("cuda") and not torch.cuda.is_available()
    ):
        raise UsageError(
            f"the device {device!r} is not there",
            fix="choose cpu, or start where torch sees a CUDA device",
        )


@contextmanager
def _threads(n_threads: int | None) -> Iterator[int]:
    """Give torch so many threads, and take them back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _precision(device: str, precision: str) -> Iterator[None]:
    import torch

    with torch.autocast(
        device.partition(":")[0], dtype=torch.bfloat16, enabled=precision == "bf16"
    ):
        yield
