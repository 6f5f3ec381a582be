"""Which parameters of a network learn: a head, prompts, norms, low-rank updates, or all.

Each strategy puts a new linear head on the mean feature. What is frozen stays in evaluation mode,
whatever a trainer calls. What was learnt goes back to the names of the released files, low-rank
updates merged, so that it is a model like any other.

=============== ==========================================================================
strategy        what learns, besides the head
=============== ==========================================================================
``linear``      nothing
``prompt``      prompts: learned tokens before each window's own, in each block
``prompt+norm`` prompts, and the gains and offsets of all layer norms
``lora``        low-rank updates of the matrices of all blocks
``full``        everything, positions too
=============== ==========================================================================

References
----------
Jia et al., "Visual Prompt Tuning", arXiv 2203.12119 (deep prompts); Hu et al., "LoRA",
arXiv 2106.09685, section 4.1; Wang et al., arXiv 2506.11167 (task-specific prompt tuning).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from neurostorm_app.errors import UsageError
from neurostorm_app.models.brainlm_face import BrainLm
from neurostorm_app.models.low_rank import add_low_rank, is_low_rank, merge_low_rank
from neurostorm_app.models.neurostorm import NeuroStorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = [
    "Strategy",
    "Tuned",
    "count_trainable",
    "export_config",
    "export_head",
    "export_state",
    "prepare_tuning",
    "trainable_names",
]

Strategy = Literal["linear", "prompt", "prompt+norm", "lora", "full"]


class Tuned(nn.Module):
    """A network of which a part learns, and a linear head on its embedding.

    Parameters
    ----------
    network : NeuroStorm or BrainLm
        With ``requires_grad`` of each parameter as it shall be.
    head : Linear
        Embedding to values.
    strategy : str
        How it was prepared.
    """

    def __init__(self, network: NeuroStorm | BrainLm, head: nn.Linear, strategy: Strategy) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.strategy = strategy
        self._frozen = not any(p.requires_grad for p in network.parameters())
        self.train()

    def embed(self, *inputs: Tensor) -> Tensor:
        """Embed windows: what the network's own ``embed`` takes, to (B, D)."""
        if not self._frozen:
            return self.network.embed(*inputs)
        with torch.no_grad():  # nothing that a backward pass would need is kept
            return self.network.embed(*inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map windows to (B, n_outputs): logits or scaled values."""
        values: Tensor = self.head(self.embed(*inputs))
        return values

    def train(self, mode: bool = True) -> Tuned:  # noqa: FBT001, FBT002 - torch's own
        """Switch what learns; modules without a parameter that learns stay in evaluation mode.

        Parameters
        ----------
        mode : bool
            Whether to train.

        Returns
        -------
        Tuned
            Itself.
        """
        super().train(mode)
        if self.strategy != "full":
            for module in self.network.modules():
                learns = any(p.requires_grad for p in module.parameters(recurse=False))
                module.training = mode and learns
        return self


def prepare_tuning(
    model: nn.Module,
    strategy: Strategy,
    *,
    n_outputs: int,
    prompt_len: int = 50,
    rank: int = 8,
    seed: int,
) -> Tuned:
    """Copy a network, put a head on it and say which parameters learn.

    Parameters
    ----------
    model : NeuroStorm or BrainLm
        With its weights; it stays as it is. Of an autoencoder the encoder is taken, and a head
        it has is left behind.
    strategy : str
        One of the table above.
    n_outputs : int
        Values the head gives.
    prompt_len : int
        Learned tokens before each window's own. Prompts the network has already go on learning,
        if they are as many.
    rank : int
        Of low-rank updates.
    seed : int
        What is new starts from it.

    Returns
    -------
    Tuned
        In training mode, on the device and in the precision of the model.

    Raises
    ------
    UsageError
        If the strategy is unknown or not for this network, or a number is below 1.
    """
    _check(strategy, {"n_outputs": n_outputs, "prompt_len": prompt_len, "rank": rank})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _copy(model, prompt_len=prompt_len if strategy.startswith("prompt") else None)
        head = nn.Linear(_width(network), n_outputs)
        if strategy == "lora":
            blocks = network.vit.encoder if isinstance(network, BrainLm) else network.layers
            add_low_rank(blocks, rank=rank)
    _freeze(network, strategy)
    like = next(model.parameters())
    return Tuned(network, head, strategy).to(like.device, like.dtype)


def trainable_names(model: nn.Module) -> list[str]:
    """List the names of the parameters that learn."""
    return [name for name, p in model.named_parameters() if p.requires_grad]


def count_trainable(model: nn.Module) -> int:
    """Count the numbers that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def export_state(model: Tuned) -> dict[str, Tensor]:
    """Give the weights under upstream's names, low-rank updates merged and prompts kept.

    Parameters
    ----------
    model : Tuned
        After any training.

    Returns
    -------
    dict of str to Tensor
        On the CPU, sharing no memory. Of NeuroSTORM, as in its files: ``model.`` and the head
        under ``output_head.head.``. Files of BrainLM have no place for a linear head: it is left
        to `export_head`.
    """
    merged = merge_low_rank(model.network)
    if isinstance(model.network, NeuroStorm):
        merged = {f"model.{name}": value for name, value in merged.items()}
        head = export_head(model)
        merged |= {f"output_head.head.head.{name}": value for name, value in head.items()}
    return {name: _alone(value) for name, value in merged.items()}


def export_head(model: Tuned) -> dict[str, Tensor]:
    """Give ``weight``, (n_outputs, D), and ``bias``, (n_outputs,), of the head, on the CPU."""
    return {name: _alone(value) for name, value in model.head.state_dict().items()}


def export_config(model: Tuned) -> dict[str, Any]:
    """Give the hyper-parameters that `export_state` loads with, under upstream's names."""
    return asdict(model.network.config)


def _alone(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _check(strategy: str, counts: dict[str, int]) -> None:
    """See that a strategy is known and that counts are counts.

    Raises
    ------
    UsageError
        If not.
    """
    known = get_args(Strategy)
    if strategy not in known:
        raise UsageError(
            f"there is no way of tuning called {strategy!r}", fix=f"give one of {', '.join(known)}"
        )
    wrong = [f"{name} is {n}" for name, n in counts.items() if n < 1]
    if wrong:
        raise UsageError(
            f"a network cannot be tuned where {', '.join(wrong)}", fix="give numbers from 1 on"
        )


def _copy(model: nn.Module, *, prompt_len: int | None) -> NeuroStorm | BrainLm:
    """Copy what embeds; None asks for no prompts.

    Raises
    ------
    UsageError
        If the network cannot be tuned, or not with prompts, or not with so many.
    """
    if isinstance(model, BrainLm):
        if prompt_len is not None:
            raise UsageError(
                "prompts are tokens before the windows of NeuroSTORM's blocks; BrainLM has none",
                fix="tune BrainLM with linear, lora or full",
            )
        return copy.deepcopy(model)
    if not isinstance(model, NeuroStorm):
        raise UsageError(
            f"a {type(model).__name__} has no weights that could be tuned",
            fix="give a model of NeuroSTORM or BrainLM",
        )
    own = model.config.prompt_len
    if prompt_len is not None and own not in {0, prompt_len}:
        raise UsageError(
            f"the network has prompts of {own} tokens; {prompt_len} were asked for",
            fix=f"tune it with prompts of {own} tokens, or start from weights without prompts",
        )
    network = NeuroStorm(replace(model.config, prompt_len=prompt_len or own))
    state = network.state_dict()
    given = model.state_dict()
    network.load_state_dict(state | {name: given[name] for name in state if name in given})
    if prompt_len is not None and not own:
        for name, prompt in network.named_parameters():
            if name.endswith(".prompt"):
                nn.init.normal_(prompt, std=0.02)
    return network


def _width(network: NeuroStorm | BrainLm) -> int:
    if isinstance(network, BrainLm):
        return network.config.hidden_size
    return network.config.stage(len(network.config.depths) - 1)[0]


def _freeze(network: NeuroStorm | BrainLm, strategy: Strategy) -> None:
    """Let learn what a strategy names; what never learns, such as fixed positions, never does."""
    free = {name for name, p in _embedding_parameters(network) if p.requires_grad}
    norms = {
        f"{name}.{part}"
        for name, module in network.named_modules()
        if isinstance(module, nn.LayerNorm)
        for part, _ in module.named_parameters(recurse=False)
    }
    for name, parameter in network.named_parameters():
        prompt = name.endswith(".prompt")
        chosen = {
            "linear": False,
            "prompt": prompt,
            "prompt+norm": prompt or name in norms,
            "lora": is_low_rank(name),
            "full": True,
        }[strategy]
        parameter.requires_grad_(chosen and name in free)


def _embedding_parameters(
    network: NeuroStorm | BrainLm,
) -> Iterator[tuple[str, nn.Parameter]]:
    """Go through what an embedding depends on: of BrainLM, the decoder and the head do not."""
    for name, parameter in network.named_parameters():
        if isinstance(network, NeuroStorm) or name.startswith("vit."):
            yield name, parameter
