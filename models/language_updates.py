"""Low-rank updates of a language model, by peft: what alone is learnt of it.

References
----------
Hu et al., "LoRA", arXiv 2106.09685, section 4.1; fMRI-LM, arXiv 2511.21760 (ranks and layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from neurostorm_app.errors import WrongWeightsError
from neurostorm_app.models.language_extra import alone, need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from neurostorm_app.models.language import Language

__all__ = ["UPDATES", "Update", "add_updates", "list_updates"]

_PART = ".lora_"
"""In the names of what peft makes of an updated layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """How the matrices of a kind of language model are updated.

    Parameters
    ----------
    layers : tuple of str
        Ends of the names of the layers.
    rank : int
        Of the products of two thin matrices.
    alpha : int
        Products are scaled by it over the rank.
    dropout : float
        Of what enters them in training.
    """

    layers: tuple[str, ...]
    rank: int
    alpha: int
    dropout: float


UPDATES: Final = {
    "gpt2": Update(layers=("c_attn",), rank=16, alpha=32, dropout=0.05),
    "qwen3": Update(
        layers=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        rank=8,
        alpha=16,
        dropout=0.1,
    ),
}
"""By the kind of the model, as in the paper's code."""


def add_updates(
    language: Language, *, rank: int, seed: int = 0, state: Mapping[str, Tensor] | None = None
) -> None:
    """Give a language model updates that change nothing at first; they alone learn.

    Parameters
    ----------
    language : Language
        Changed in place.
    rank : int
        Of the updates; they are scaled alike whatever their rank.
    seed : int
        Of first values.
    state : mapping of str to Tensor, optional
        Values of all updates, by the names of `list_updates`.

    Raises
    ------
    WrongWeightsError
        If a value is missing, unknown, of another shape or not finite. None is passed over.
    """
    peft, how = need("peft"), UPDATES[language.kind]
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=how.alpha * rank / how.rank,
        lora_dropout=how.dropout,
        target_modules=list(how.layers),
        fan_in_fan_out=language.kind == "gpt2",  # its matrices lie the other way round
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), alone():
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(settings, language.model)
    language.model.eval()
    if state is not None:
        _put(list_updates(language.model), state)


def list_updates(model: nn.Module) -> dict[str, nn.Parameter]:
    """List the parameters of updates, by their names in the language model."""
    return {name: value for name, value in model.named_parameters() if _PART in name}


@torch.no_grad()
def _put(own: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Give all updates their values, or none."""
    wrong = [name for name in {*own, *state} if name not in own or name not in state]
    for name in own.keys() & state.keys():
        fits = own[name].shape == state[name].shape
        if not fits or not bool(torch.isfinite(state[name]).all()):
            wrong.append(name)
    if wrong:
        raise WrongWeightsError(
            f"the updates are not of this language model: {len(wrong)} of {len(own)} are missing, "
            f"unknown, of another shape or not finite, such as {min(wrong)}",
            fix="give the language model that they were trained with",
        )
    for name, value in own.items():
        value.copy_(state[name])
