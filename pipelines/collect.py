"""What came of the windows of a run, put together: its embedding and how it was computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.models.card import VolumeContract, VoxelContract
from neurostorm_app.pipelines.predict import interpret
from neurostorm_app.pipelines.reconstruction import SEED, UNITS, note_error
from neurostorm_app.pipelines.tile import pool_windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.embed import Embedder
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.prepare import Prepared
    from neurostorm_app.pipelines.stage import InputOptions
    from neurostorm_app.pipelines.stream import Done

__all__ = ["RunEmbedding", "collect"]


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
        ``met``, ``verdict``, ``reasons``, ``distance`` and ``deviations`` from the model's
        contract, and the facts behind them. Values are JSON's.
    record : dict
        How it was computed: engine, device, precision, threads, weights, windows. Values are
        JSON's; only ``batch``, ``n_threads`` and those that begin with ``seconds`` differ from
        call to call on one machine.
    parcels : Parcels or None
        Cleaned parcel series for a model that eats parcels.
    prediction : dict or None
        What the head of fine-tuned weights says.
    example : dict or None
        One window, what was hidden of it and how it was guessed, for a report. Values are JSON's.
    """

    windows: NDArray[np.float32]
    onsets: NDArray[np.float64]
    durations: NDArray[np.float64]
    pooled: NDArray[np.float32]
    conformance: dict[str, Any]
    record: dict[str, Any]
    parcels: Parcels | None = None
    prediction: dict[str, Any] | None = None
    example: dict[str, Any] | None = None


def collect(done: Done, embedder: Embedder, *, facts: Mapping[str, Any]) -> RunEmbedding:
    """Make of the outputs of windows the embedding of a run.

    Parameters
    ----------
    done : Done
        A run whose windows have all gone through the network.
    embedder : Embedder
        What it went through.
    facts : mapping
        What computed, for the record.

    Returns
    -------
    RunEmbedding
        Of all windows and of the run.

    Raises
    ------
    ContractError
        If the head of fine-tuned weights has another number of outputs than its card says.
    DataError
        If an output of that head is not a finite number.
    """
    prepared, outputs = done.prepared, done.outputs
    card = embedder.card
    vectors = np.stack([output.vector for output in outputs])
    values = [output.values for output in outputs if output.values is not None]
    errors = {i: o.error for i, o in enumerate(outputs) if o.error is not None}
    note_error(errors, card, prepared.findings)
    record = {
        **facts,
        **embedder.hashes,
        "atlas": embedder.atlas.name if embedder.atlas else None,
        **_policies(card, embedder.options),
        **_describe(prepared),
        "pooling": "mean over windows, all weights equal",
        "dimension": int(vectors.shape[1]),
        "seeds": {"masked reconstruction": SEED} if errors else {},
        "seconds": round(done.seconds_reading + done.seconds_computing, 3),
        "seconds_reading": round(done.seconds_reading, 3),
        "seconds_computing": round(done.seconds_computing, 3),
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
        prediction=interpret(np.stack(values), card.output) if values else None,
        example=_example(done, card),
    )


def _example(done: Done, card: Card) -> dict[str, Any] | None:
    """Take the window that was kept in pictures, if the network guesses."""
    kept = ((i, o.example) for i, o in enumerate(done.outputs) if o.example is not None)
    number, example = next(kept, (0, None))
    if example is None:
        return None
    onset = float(done.prepared.starts[number] * done.prepared.step)
    return example.as_json(unit=UNITS[card.contract.scaling], onset=onset)


def _describe(prepared: Prepared) -> dict[str, Any]:
    """Tell which windows a run was cut into."""
    return {
        "n_windows": len(prepared.starts),
        "window": prepared.window,
        "starts": list(prepared.starts),
        "n_unused_volumes": prepared.n_unused,
        "step": prepared.step,
    }


def _policies(card: Card, options: InputOptions) -> dict[str, Any]:
    """Tell those options that have a meaning for a model."""
    most: dict[str, Any] = {}
    if options.max_windows is not None and card.contract.window is not None:
        most = {"max_windows": options.max_windows}
    if isinstance(card.contract, VolumeContract):
        return {"clip_policy": options.clip_policy, "parity": options.parity, **most}
    if isinstance(card.contract, VoxelContract) or card.contract.scaling == "none":
        return most
    origin = "the run" if options.statistics is None else options.statistics.name
    return {"statistics": origin, "gain": options.gain, **most}
