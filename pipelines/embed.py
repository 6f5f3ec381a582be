"""From a preprocessed run to vectors: what the shell calls, so that it never sees torch.

The story of a run: open the series, find its brain, bring it to the contract of the model's
card, cut it into windows, take batches of windows through the network, average over windows.
The next run is read while the network works on this one. Memory holds a few batches of windows
and a few volumes, whatever the length and the number of runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from neurostorm_app.errors import AppError, ContractError
from neurostorm_app.models.card import VolumeContract, VoxelContract
from neurostorm_app.pipelines.collect import RunEmbedding, collect
from neurostorm_app.pipelines.computing import check_engine, count_threads, describe_engine
from neurostorm_app.pipelines.forward import Forward, window_bytes
from neurostorm_app.pipelines.inputs import find_inputs
from neurostorm_app.pipelines.prepare_parcels import prepare_parcels
from neurostorm_app.pipelines.prepare_volumes import prepare_volumes
from neurostorm_app.pipelines.prepare_voxels import prepare_voxels
from neurostorm_app.pipelines.progress import Event, tell
from neurostorm_app.pipelines.stage import InputOptions
from neurostorm_app.pipelines.stream import stream_runs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.prepare import Prepared
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["Embedder", "RunEmbedding", "load_embedder"]


def load_embedder(  # noqa: PLR0913
    name: str | Card,
    *,
    weights: Path | None = None,
    weights_dir: Path | None = None,
    atlas: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    options: InputOptions | None = None,
) -> Embedder:
    """Load a model with its weights, ready for runs.

    Parameters
    ----------
    name : str or Card
        What the registry's `read_card` takes or gives, such as ``connectome``.
    weights : Path, optional
        The file of its weights.
    weights_dir : Path, optional
        A folder in which they are looked for.
    atlas : Path, optional
        A label image in the contract's space that replaces the card's parcellation, which is
        otherwise looked for in the package or in the folders of weights.
    device : str
        As torch spells it, ``cpu`` or ``cuda``.
    precision : {'fp32', 'tf32', 'bf16'}
        Of the network's arithmetic; ``tf32`` needs a CUDA device.
    options : InputOptions, optional
        What the user changed about how a run is made ready.

    Returns
    -------
    Embedder
        Holds the network in memory.

    Raises
    ------
    MissingWeightsError, WrongWeightsError
        If the weights are not there, or of another model.
    NoInputError
        If the parcellation is not there.
    UsageError
        If the precision is not possible, the device is not there, or something is given to a
        model that has no use for it.
    """
    from neurostorm_app.models import create_model, read_card
    from neurostorm_app.models.untrained import hash_values
    from neurostorm_app.models.weights import hash_file

    card = read_card(name) if isinstance(name, str) else name
    options = options or InputOptions()
    check_engine(device, precision)
    files = find_inputs(
        card,
        weights=weights,
        weights_dir=weights_dir,
        atlas=atlas,
        statistics=options.statistics,
    )
    model = create_model(card, weights=files.weights, device=device).eval()
    drawn: dict[str, str | None]
    drawn = {"random_weights_sha256": hash_values(model)} if card.control else {}
    return Embedder(
        card=card,
        model=model,
        atlas=files.atlas,
        device=device,
        precision=precision,
        hashes={
            f"{role}_sha256": hash_file(path) if path else None
            for role, path in (
                ("weights", files.weights),
                ("atlas", files.atlas),
                ("coordinates", files.coordinates),
                ("statistics", files.statistics),
            )
        }
        | drawn,
        options=options,
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
        SHA-256 of the files of weights and atlas, and of the weights of an untrained control.
    options : InputOptions
        What the user changed about how a run is made ready.
    learnt : dict
        The batch that memory allowed after it ran out.
    """

    card: Card
    model: nn.Module
    atlas: Path | None
    device: str
    precision: str
    hashes: dict[str, str | None]
    options: InputOptions = field(default_factory=InputOptions)
    learnt: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def embed(
        self, series: StandardSeries, *, batch: int | None = None, n_threads: int | None = None
    ) -> RunEmbedding:
        """Embed one run.

        Parameters
        ----------
        series : StandardSeries
            The run, preprocessed, in a standard space.
        batch : int, optional
            Windows that go through the network together; it costs memory and does not change
            the numbers beyond rounding. By default what 4 GiB allow.
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
        TemporaryError
            If there is not enough memory.
        """
        [(_, outcome)] = self.embed_many([series], batch=batch, n_threads=n_threads)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def embed_many(
        self,
        runs: Iterable[StandardSeries],
        *,
        batch: int | None = None,
        memory: int | None = None,
        n_threads: int | None = None,
    ) -> Generator[tuple[int, RunEmbedding | Exception]]:
        """Embed runs as one stream: the next is prepared while the network works on this one.

        Parameters
        ----------
        runs : iterable of StandardSeries
            Preprocessed, in standard spaces; asked for one by one, in another thread.
        batch : int, optional
            Windows that go through the network together, also of two runs; by default what
            memory allows and is of use.
        memory : int, optional
            Bytes to stay under, 4 GiB by default. Of a GPU, four fifths of what it has.
        n_threads : int, optional
            Threads of torch while the network works; by default as they are.

        Yields
        ------
        index : int
            Which run, from 0 upwards; close the iterator to give up the others.
        outcome : RunEmbedding or Exception
            As of `embed`. One run's error leaves the others.
        """
        forward = Forward(
            card=self.card,
            model=self.model,
            device=self.device,
            precision=self.precision,
            asked=batch,
            memory=memory,
            n_threads=n_threads,
            halved=self.learnt.get("batch"),
        )
        names: list[str] = []
        stream = stream_runs(
            _noting(runs, names),
            prepare=partial(self._prepare, room=forward.room()),
            compute=forward,
            batch=forward.size,
            ahead=forward.size() * window_bytes(self.card.contract),
            tell=partial(_tell_windows, names, self.card.name),
        )
        facts = describe_engine(self.model, self.device, self.precision)
        for index, outcome in stream:
            if forward.halved is not None:
                self.learnt["batch"] = forward.halved
            if isinstance(outcome, Exception):
                yield index, outcome
                continue
            measured = {"batch": forward.size(), "n_threads": n_threads or count_threads()}
            try:
                embedding = collect(outcome, self, facts=facts | measured)
            except AppError as error:
                yield index, error
            else:
                yield index, embedding

    def _prepare(self, run: StandardSeries, *, room: int) -> Prepared:
        contract = self.card.contract
        if isinstance(contract, VolumeContract):
            return prepare_volumes(run, contract, self.options, room=room)
        if self.atlas is None:
            raise ContractError(
                f"{self.card.name} takes {contract.kind}, and no parcellation was given",
                fix="make the embedder by load_embedder, which finds the card's parcellation",
            )
        if isinstance(contract, VoxelContract):
            return prepare_voxels(run, contract, self.atlas, self.options)
        return prepare_parcels(run, contract, self.atlas, self.options)


def _noting(runs: Iterable[StandardSeries], names: list[str]) -> Iterator[StandardSeries]:
    """Give runs on, and note their names in their order."""
    for run in runs:
        names.append(run.name)
        yield run


def _tell_windows(names: Sequence[str], model: str, index: int, done: int, total: int) -> None:
    """Tell how many windows of a run have gone through the network."""
    event = Event(
        name=names[index],
        stage=f"embed {model}",
        state="advanced",
        done=done,
        total=total,
        unit="windows",
    )
    tell(event)
