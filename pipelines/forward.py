"""Batches of windows through a network: in the memory that is planned, and half of it if need be.

On a CPU a batch gains nothing, since one window keeps all cores busy, so windows go one by one:
then an embedding does not depend on its neighbours by a single bit. On a GPU small work is put
together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.errors import TemporaryError
from neurostorm_app.models.card import VolumeContract, VoxelContract
from neurostorm_app.pipelines.computing import arithmetic, threads
from neurostorm_app.pipelines.estimate import NETWORKS
from neurostorm_app.pipelines.reconstruction import (
    choose_shown,
    choose_windows,
    measure_error,
    take_example,
)
from neurostorm_app.pipelines.resources import plan_batch, plan_room
from neurostorm_app.pipelines.stream import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from neurostorm_app.models.card import Card, Contract
    from neurostorm_app.pipelines.example import Example
    from neurostorm_app.pipelines.stream import Item

__all__ = ["Forward", "window_bytes"]

MOST: Final = {("cuda", "volume"): 16, ("cuda", "parcels"): 64, ("cuda", "voxels"): 64}
"""Windows beyond which a larger batch is not tried; on a CPU it is one."""
DEVICE_SHARE: Final = 0.8
"""Share of a GPU's memory that windows may take."""
NO_MEMORY: Final = ("not enough memory", "can't allocate memory", "out of memory")


def window_bytes(contract: Contract) -> int:
    """Count the bytes of one window in float32.

    Parameters
    ----------
    contract : Contract
        What the network eats; where it leaves the number of parcels or volumes open, that of a
        long run of many parcels.

    Examples
    --------
    >>> from neurostorm_app.models import read_card
    >>> window_bytes(read_card("neurostorm").contract)  # 96 x 96 x 96 x 20
    70778880
    """
    if isinstance(contract, VolumeContract):
        return 4 * math.prod(contract.grid.shape) * contract.window
    if isinstance(contract, VoxelContract):
        return 4 * contract.padded(contract.n_voxels or 10_000)
    return 4 * (contract.n_parcels or 500) * (contract.window or 2000)


@dataclass(slots=True, kw_only=True)
class Forward:
    """A network that takes batches of windows, and remembers how large they may be.

    Parameters
    ----------
    card : Card
        What the network is and eats.
    model : torch.nn.Module
        With ``embed(batch[, xyz])``.
    device, precision : str
        Where and how it computes.
    asked : int or None
        Windows of a batch that the user wants.
    memory : int or None
        Bytes that all may take together; None plans for 4 GiB.
    n_threads : int or None
        Of torch, while it computes.
    halved : int or None
        The size of a batch after memory ran out.
    """

    card: Card
    model: nn.Module
    device: str
    precision: str
    asked: int | None = None
    memory: int | None = None
    n_threads: int | None = None
    halved: int | None = None

    def size(self) -> int:
        """Say how many windows go through the network together."""
        return self.halved or self.asked or self._planned()

    def room(self) -> int:
        """Say how many bytes are left to keep a run in memory."""
        cost = 0.0 if self.device.startswith("cuda") else NETWORKS[self.card.architecture].memory
        return plan_room(
            window_bytes(self.card.contract), cost=cost, memory=self.memory, batch=self.size()
        )

    def __call__(self, items: Sequence[Item]) -> list[Output]:
        """Take windows of one shape through the network.

        Parameters
        ----------
        items : sequence of Item
            One batch.

        Returns
        -------
        list of Output
            One a window.

        Raises
        ------
        TemporaryError
            If there is not enough memory, even for half of the batch.
        """
        with threads(self.n_threads), arithmetic(self.device, self.precision):
            try:
                return self._compute(items)
            except (RuntimeError, MemoryError) as error:
                if not _lacks_memory(error):
                    raise
                if self.halved is not None or len(items) == 1:
                    raise self._out_of_memory(len(items)) from error
            self.halved = max(1, len(items) // 2)
            self._free()
            return self._in_halves(items)

    def _in_halves(self, items: Sequence[Item]) -> list[Output]:
        middle = (len(items) + 1) // 2
        try:
            return [*self._compute(items[:middle]), *self._compute(items[middle:])]
        except (RuntimeError, MemoryError) as error:
            if _lacks_memory(error):
                raise self._out_of_memory(middle) from error
            raise

    def _compute(self, items: Sequence[Item]) -> list[Output]:
        inputs = self._inputs(items)
        vectors, values = self._embed(inputs)
        outputs = []
        for i, item in enumerate(items):
            error, example = self._guess(item, [part[i : i + 1] for part in inputs])
            outputs.append(
                Output(
                    vector=vectors[i],
                    values=None if values is None else values[i],
                    error=error,
                    example=example,
                )
            )
        return outputs

    def _inputs(self, items: Sequence[Item]) -> list[Tensor]:
        """Bring windows, and places of parcels where the network is told them, to the device."""
        import torch

        arrays = [_stack([item.window for item in items])]
        places = [item.prepared.xyz for item in items if item.prepared.xyz is not None]
        if places:
            arrays.append(np.stack(places))
        return [torch.from_numpy(array).to(self.device) for array in arrays]

    def _embed(
        self, inputs: Sequence[Tensor]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        model: Any = self.model
        if getattr(model, "head", None) is None:
            return model.embed(*inputs).float().cpu().numpy(), None
        vectors, values = model.embed_with_head(*inputs)
        return vectors.float().cpu().numpy(), values.float().cpu().numpy()

    def _guess(self, item: Item, inputs: Sequence[Tensor]) -> tuple[float | None, Example | None]:
        """Measure how well hidden parts of some windows are guessed; keep pictures of one."""
        n_windows = len(item.prepared.starts)
        guesses = hasattr(self.model, "masked_error")
        # An encoder may come without the decoder that its family has.
        guesses = guesses and bool(getattr(self.model, "can_reconstruct", True))
        if not guesses or item.number not in choose_windows(n_windows):
            return None, None
        shown = item.number == choose_shown(n_windows) and hasattr(self.model, "masked_example")
        if not shown:
            return measure_error(self.model, *inputs, number=item.number), None
        contract = self.card.contract
        affine = np.asarray(contract.grid.affine) if isinstance(contract, VolumeContract) else None
        return take_example(self.model, *inputs, number=item.number, affine=affine)

    def _planned(self) -> int:
        import torch

        kind = self.device.partition(":")[0]
        memory = self.memory
        if kind == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            memory = round(DEVICE_SHARE * total)
        return plan_batch(
            window_bytes(self.card.contract),
            cost=NETWORKS[self.card.architecture].memory,
            memory=memory,
            most=MOST.get((kind, self.card.contract.kind), 1),
        )

    def _free(self) -> None:
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _out_of_memory(self, n_windows: int) -> TemporaryError:
        what = "1 window" if n_windows == 1 else f"{n_windows} windows"
        return TemporaryError(
            f"{self.card.name}: there was not enough memory on {self.device} for {what} at once",
            fix="give the job more memory, or set --batch-size lower"
            if n_windows > 1
            else "give the job more memory, or on a GPU that others use, call again",
        )


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in NO_MEMORY)


def _stack(windows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join windows (..., L) to (B, ..., L), with volumes one after the other in memory."""
    if len(windows) == 1:
        return windows[0][np.newaxis]
    return np.moveaxis(np.stack([np.moveaxis(window, -1, 0) for window in windows]), 1, -1)
