"""Weights: find the file, verify it, read it without running anything, load it strictly.

A file that is damaged, belongs to another model or holds code is refused, each with its own
message. Nothing is ever loaded partially, and nothing is filled with random numbers.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from neurostorm_app.errors import MissingWeightsError, WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from neurostorm_app.models.card import Card

__all__ = ["Checkpoint", "find_weights", "hash_file", "load_strictly", "read_checkpoint"]

EMBEDDED = Path(__file__).parent / "data"
"""Where the weights lie that ship with the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a file of weights holds.

    Parameters
    ----------
    source : str
        Its path, for messages.
    state : mapping of str to Tensor
        Parameters under the names of the file.
    config : mapping or None
        The hyper-parameters stored beside them, under upstream's names.
    """

    source: str
    state: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None


def find_weights(card: Card, *, given: Path | None = None, weights_dir: Path | None = None) -> Path:
    """Find the file of a card's weights on this machine.

    Parameters
    ----------
    card : Card
        Of a model that has weights.
    given : Path, optional
        The file the user named; nothing else is looked at.
    weights_dir : Path, optional
        A folder of weights: the file itself, or in a folder of the model's name, or at the
        path it has in its repository.

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
    if given is not None:
        places = [given]
    else:
        in_repository = [card.source.file] if card.source else []
        names = [card.file, f"{card.name}/{card.file}", *in_repository]
        places = [weights_dir / name for name in names] if weights_dir else []
        if card.embedded:
            places.append(EMBEDDED / card.file)
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
    return f" (it is {source.file} of {source.repository}, revision {source.revision})"


def hash_file(path: Path) -> str:
    """Hash a file.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_checkpoint(path: Path, *, sha256: str | None = None) -> Checkpoint:
    """Read a file of weights; no code in it is run.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or what ``torch.save`` writes: a state dict, or a Lightning
        checkpoint with ``state_dict`` and ``hyper_parameters``.
    sha256 : str, optional
        What the file's hash must be.

    Returns
    -------
    Checkpoint
        Tensors on the CPU; optimizer states and the like are left out.

    Raises
    ------
    MissingWeightsError
        If there is no such file.
    WrongWeightsError
        If the hash differs, or the file is damaged, holds code or holds no state dict.
    """
    if not path.is_file():
        raise MissingWeightsError(
            f"{path}: there is no such file of weights", fix="check the path of the weights"
        )
    if sha256 is not None and (actual := hash_file(path)) != sha256:
        raise WrongWeightsError(
            f"{path}: its SHA-256 is {actual}; the card says {sha256}",
            fix="fetch the file again: it is damaged, or of another revision or model",
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _read_zip(path)
    found = content if isinstance(content, dict) else {}
    state = found.get("state_dict", found)
    if not _is_state(state):
        raise WrongWeightsError(
            f"{path}: no state dict in it (names and tensors), nor a checkpoint that holds one",
            fix="give a Lightning checkpoint, a torch.save'd state dict or a safetensors file",
        )
    return Checkpoint(source=str(path), state=state, config=found.get("hyper_parameters"))


def _is_state(state: object) -> bool:
    return (
        isinstance(state, dict)
        and len(state) > 0
        and all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items())
    )


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            config = json.loads((file.metadata() or {}).get("config", "null"))
    except (SafetensorError, json.JSONDecodeError) as why:
        raise _damaged(path, str(why)) from why
    return Checkpoint(source=str(path), state=state, config=config)


def _read_zip(path: Path) -> Any:
    """Read what ``torch.save`` writes: a zip of one pickle and raw tensors."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            bare = stream.read(2) in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}
        raise (
            _code(path, "is a bare pickle, which may hold code")
            if bare
            else _damaged(path, "no zip archive")
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as why:
        found = re.search(r"GLOBAL (\S+)", str(why))
        if found is None and "Unsupported" not in str(why):
            raise _damaged(path, str(why)) from why
        name = found.group(1).strip("`") if found else "an object that is no tensor"
        raise _code(path, f"its pickle asks for {name}, which is code") from why
    except (RuntimeError, EOFError, ValueError, OSError, LookupError) as why:
        raise _damaged(path, str(why)) from why


def _code(path: Path, what: str) -> WrongWeightsError:
    return WrongWeightsError(
        f"{path}: {what}; it was not run",
        fix="do not trust this file; ask its source for plain tensors (safetensors)",
    )


def _damaged(path: Path, why: str) -> WrongWeightsError:
    first = (why.splitlines() or ["no reason given"])[0]
    return WrongWeightsError(
        f"{path}: truncated or damaged, or not a file of weights, {path.stat().st_size} bytes "
        f"({first[:120]})",
        fix="fetch the file again and compare its size with the source's",
    )


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
        If a name is missing or unknown, a shape differs or a value is not finite; the message
        names the first few of each kind.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    wrong = [
        f"{len(names)} {kind}: {_first(names)}"
        for kind, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", shapes),
            ("not finite", broken),
        )
        if names
    ]
    if wrong:
        raise WrongWeightsError(
            f"{source}: these are not the weights of this {type(module).__name__}: "
            + "; ".join(wrong),
            fix="give the weights this model was made for, or the hyper-parameters they were "
            "trained with; nothing is loaded partially",
        )
    module.load_state_dict(dict(state), strict=True)


def _first(names: Sequence[str], n: int = 3) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more
