"""What a training is asked: numbers that decide its result, and some that do not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Plan", "name_differences"]

FREE: Final = {"device", "checkpoint_every"}
"""Of a plan: what may change when a training is taken up again."""
LATER: Final = {"head_rate", "layer_decay", "warm_up", "least_rate"}
"""Of a plan: what older trainings were not asked; left out where it is as theirs was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the optimiser runs.

    Parameters
    ----------
    steps : int
        Of the optimiser; early stopping may make them fewer.
    batch : int
        Windows (pairs of them, for contrastive training) that one process sees at once.
    accumulate : int
        Pieces of a step whose gradients are added up.
    rate : float
        Peak of the learning rate; it warms up over a twentieth of the steps and falls by a cosine.
    head_rate : float or None
        Peak of a new head; None takes that of all.
    layer_decay : float
        From the rate of one block to that of the block before it: 1 gives all the same.
    warm_up : float or None
        Share of the steps in which the rate rises, from 0, before the cosine begins; None takes
        the usual schedule.
    least_rate : float
        Share of its peak below which a rate does not fall.
    weight_decay, max_gradient : float
        Of AdamW; and the norm at which gradients are clipped.
    precision : {'fp32', 'bf16', 'fp16'}
        Of products; weights stay in float32. ``fp16`` needs a GPU.
    device : {'cpu', 'cuda'}
        With a launcher, each process takes the GPU of its rank.
    seed : int
        Of everything that is drawn.
    checkpoint_every, validate_every : int
        Steps between two.
    patience : int
        Validations in a row without a better one after which a training stops; 0 never stops it.
    """

    steps: int = 1000
    batch: int = 4
    accumulate: int = 1
    rate: float = 5e-5
    head_rate: float | None = None
    layer_decay: float = 1.0
    warm_up: float | None = None
    least_rate: float = 0.0
    weight_decay: float = 0.01
    max_gradient: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 0
    checkpoint_every: int = 100
    validate_every: int = 100
    patience: int = 5

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "accumulate", "checkpoint_every", "validate_every")
        small = {name: getattr(self, name) for name in counts if getattr(self, name) < 1}
        if not 0 < self.rate < 1 or not self.max_gradient > 0:
            small |= {n: getattr(self, n) for n in ("rate", "max_gradient")}
        negative = ("patience", "seed", "weight_decay")
        small |= {name: getattr(self, name) for name in negative if not getattr(self, name) >= 0}
        small |= self._odd_shares()
        if small:
            found = ", ".join(f"{name} {value:g}" for name, value in small.items())
            raise UsageError(
                f"a training cannot run with {found}",
                fix="give counts of 1 and more, rates between 0 and 1, and nothing below 0",
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise UsageError(
                "the precision fp16 needs a GPU: its gradients are scaled there; the device is "
                "the CPU",
                fix="choose fp32 or bf16",
            )

    def _odd_shares(self) -> dict[str, float]:
        """Name what is no share or no rate, and was given."""
        fine = {
            "head_rate": self.head_rate is None or 0 < self.head_rate < 1,
            "layer_decay": 0 < self.layer_decay <= 1,
            "warm_up": self.warm_up is None or 0 <= self.warm_up < 1,
            "least_rate": 0 <= self.least_rate < 1,
        }
        return {name: getattr(self, name) for name, good in fine.items() if not good}

    def identity(self) -> dict[str, Any]:
        """Give what decides the result: a training is taken up again only by the same."""
        usual = {field.name: field.default for field in fields(self) if field.name in LATER}
        given = {name: value for name, value in asdict(self).items() if name not in FREE}
        return {n: v for n, v in given.items() if n not in usual or v != usual[n]}


def name_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, under: str = "") -> str:
    """Name the settings that differ, such as ``plan.rate 0.001 and 0.0005``.

    Parameters
    ----------
    ours, theirs : mapping
        Values are JSON's.
    under : str
        What comes before each name.

    Returns
    -------
    str
        Empty if they agree.

    Examples
    --------
    >>> name_differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    'b.c 2 and 3'
    """
    found = []
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found.append(name_differences(one, other, under=f"{under}{name}."))
        elif one != other:
            found.append(f"{under}{name} {_short(one)} and {_short(other)}")
    return ", ".join(part for part in found if part)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:17]}..."
