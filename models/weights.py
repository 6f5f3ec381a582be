"""Weights: find the file, verify it, load it strictly.

Nothing is ever loaded partially, and nothing is filled with random numbers. Files are looked for
in places of this machine alone; only ``neurostorm-tools weights fetch`` opens a connection.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import MissingWeightsError, WrongWeightsError
from neurostorm_app.models.checkpoint import Checkpoint, check_hash, read_checkpoint
from neurostorm_app.models.families import name_family
from neurostorm_app.models.lockfile import hash_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from neurostorm_app.models.card import Card

__all__ = [
    "BAKED",
    "Checkpoint",
    "check_hash",
    "find_weights",
    "hash_file",
    "list_folders",
    "list_places",
    "load_strictly",
    "read_checkpoint",
]

EMBEDDED = Path(__file__).parent / "data"
"""Where the weights lie that ship with the package."""
BAKED: Final = "NEUROSTORM_WEIGHTS"
"""Environment variable: a folder of weights that is part of an image or an installation."""
ANYBODYS: Final = {"pytorch_model.bin", "model.safetensors", "best_model.pth"}
"""File names that say nothing of the model: they count only in a folder that does."""


def list_folders(weights_dir: Path | None) -> list[Path]:
    """List the folders where weights and atlases are looked for.

    Parameters
    ----------
    weights_dir : Path or None
        The folder the user named.

    Returns
    -------
    list of Path
        That one, then the one that the environment names.
    """
    baked = os.environ.get(BAKED)
    return [folder for folder in (weights_dir, Path(baked) if baked else None) if folder]


def list_places(card: Card, *, weights_dir: Path | None = None) -> list[Path]:
    """List the places where the file of a card's weights may lie, best first.

    Parameters
    ----------
    card : Card
        Of any model.
    weights_dir : Path, optional
        A folder of weights.

    Returns
    -------
    list of Path
        In a folder of the model's name, the file itself, or at the path it has in its
        repository; whether anything is there, is another matter. None for a model without
        weights.
    """
    if card.beside is not None:
        return [card.beside]
    if card.file is None:
        return []
    names = [f"{card.name}/{card.file}"]
    if card.file not in ANYBODYS:
        names.append(card.file)
    if card.source and card.source.file not in ANYBODYS:
        names.append(card.source.file)
    places = [folder / name for folder in list_folders(weights_dir) for name in names]
    return [*places, EMBEDDED / card.file] if card.embedded else places


def find_weights(card: Card, *, given: Path | None = None, weights_dir: Path | None = None) -> Path:
    """Find the file of a card's weights on this machine.

    Parameters
    ----------
    card : Card
        Of a model that has weights.
    given : Path, optional
        The file the user named; nothing else is looked at.
    weights_dir : Path, optional
        A folder of weights; after it, the folder that ``NEUROSTORM_WEIGHTS`` names is looked at,
        then the package.

    Returns
    -------
    Path
        An existing file. Whether it is the right one, `read_checkpoint` finds out.

    Raises
    ------
    MissingWeightsError
        If it is at none of these places, or the card is of a model without weights.
    """
    if card.file is None:
        raise MissingWeightsError(
            f"the model {card.name} has no weights, so there is no file to find",
            fix=f"leave out the weights of {card.name}",
        )
    places = [given] if given is not None else list_places(card, weights_dir=weights_dir)
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places)) or "nowhere: neither a file nor a folder was given"
    raise MissingWeightsError(
        f"the weights of {card.name} are not on this machine; looked at {looked}",
        fix=f"give the file with --weights {card.name}=PATH, or put {card.file} into a folder "
        f"and give that with --weights-dir{_origin(card)}",
    )


def _origin(card: Card) -> str:
    if card.source is None:
        return ""
    source = card.source
    where = f" (it is {source.file} of {source.repository}, revision {source.revision or 'unknown'}"
    if source.revision is None:
        return where + ")"
    return f"{where}; neurostorm-tools weights fetch {card.name} --weights-dir DIR gets it)"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights into a module: every name, every shape, nothing left over.

    Parameters
    ----------
    module : Module
        What the weights are for.
    state : mapping of str to Tensor
        Under the module's own names.
    source : str
        Where the weights come from, for messages.

    Raises
    ------
    WrongWeightsError
        If a name is missing or unknown, a shape or type differs or a value is not finite; the
        message names the first few of each kind.
    """
    import torch

    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    common = [name for name in own if name in state]
    fitting = [name for name in common if state[name].shape == own[name].shape]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in common
        if state[name].shape != own[name].shape
    ]
    types = [
        f"{name} is {state[name].dtype}, expected {own[name].dtype}"
        for name in fitting
        if _kind(state[name]) != _kind(own[name])
    ]
    broken = [name for name in fitting if not torch.isfinite(state[name]).all()]
    wrong = [
        f"{len(names)} {kind}: {_first(names)}"
        for kind, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", shapes),
            ("of another type", types),
            ("not finite", broken),
        )
        if names
    ]
    if wrong:
        raise WrongWeightsError(
            f"{source}: these are not the weights of this {type(module).__name__}: "
            + "; ".join(wrong)
            + _relation(state, own),
            fix="give the weights this model was made for, or the hyper-parameters they were "
            "trained with; nothing is loaded partially",
        )
    module.load_state_dict(dict(state), strict=True)


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def _relation(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    found, wanted = name_family(state), name_family(own)
    if found is None or wanted is None or found == wanted:
        return ""
    return f" (its names are those of {found}; this is {wanted})"


def _first(names: Sequence[str], n: int = 3) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more
