"""Files of weights, read without running anything in them.

A file that is damaged, holds code or claims to be larger than it is, is refused, each with its
own message. Tensors are mapped into memory, not copied: a file of 2.6 GB costs its size once.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import MissingWeightsError, WrongWeightsError
from neurostorm_app.models.lockfile import hash_file, recorded_hash
from neurostorm_app.models.stored_config import StoredConfig, name_stored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["Checkpoint", "check_hash", "read_checkpoint"]

HEADER_LIMIT = 100_000_000
"""Bytes of a header that the safetensors format allows."""
POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that stands for another in a git repository."""
STATES = ("state_dict", "model_state_dict", "model")
"""Where a training checkpoint keeps its tensors."""
PICKLES = {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}
"""How a bare pickle begins."""


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
        The hyper-parameters stored with them or beside them, under upstream's names.
    """

    source: str
    state: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None


def check_hash(path: Path, sha256: str | None = None) -> None:
    """Compare a file with what the card says it is, or else the lock file of its folder.

    Parameters
    ----------
    path : Path
        An existing file.
    sha256 : str, optional
        What the card says. Without it, and where no lock file knows the file, nothing is compared.

    Raises
    ------
    WrongWeightsError
        If the hash differs, or the lock file is damaged.
    """
    recorded = (sha256, "the card") if sha256 else recorded_hash(path)
    if recorded is not None and (actual := hash_file(path)) != recorded[0]:
        raise WrongWeightsError(
            f"{path}: its SHA-256 is {actual}; {recorded[1]} says {recorded[0]}",
            fix="fetch the file again: it is damaged, or of another revision or model",
        )


def read_checkpoint(path: Path, *, sha256: str | None = None) -> Checkpoint:
    """Read a file of weights; no code in it is run.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or what ``torch.save`` writes: a state dict such as
        ``pytorch_model.bin``, or a Lightning checkpoint with ``state_dict`` and
        ``hyper_parameters``. Where the file holds no hyper-parameters, those of a ``config.json``
        beside it are taken.
    sha256 : str, optional
        What the file's hash must be; by default what the lock file of its folder says, if any.

    Returns
    -------
    Checkpoint
        Tensors on the CPU, mapped from the file; optimizer states and the like are left out.

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
    check_hash(path, sha256)
    _check_beginning(path)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    state, config = read(path)
    for name, value in state.items():
        _check_plain(path, name, value)
    return Checkpoint(source=str(path), state=state, config=config or _read_beside(path))


def _check_beginning(path: Path) -> None:
    with path.open("rb") as stream:
        first = stream.read(len(POINTER))
    if first == POINTER:
        raise WrongWeightsError(
            f"{path}: stands for the weights in a git repository, and is not the file itself",
            fix="fetch the file, such as with git lfs pull",
        )
    if path.suffix != ".safetensors" and first[:2] in PICKLES:
        raise _code(path, "is a bare pickle, which may hold code")


def _check_plain(path: Path, name: str, value: Tensor) -> None:
    """Refuse a tensor that says it is more than the file holds: a row repeated a billion times."""
    import torch

    odd = value.is_quantized or value.is_meta or value.is_nested
    if odd or value.layout is not torch.strided:
        raise WrongWeightsError(
            f"{path}: {name} is not a plain tensor",
            fix="ask for dense tensors, neither sparse nor quantised",
        )
    claimed, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if claimed > held:
        raise WrongWeightsError(
            f"{path}: {name} claims {claimed} bytes; {held} are in the file",
            fix="do not trust this file; ask its source for plain tensors (safetensors)",
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as stream:
        (header,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
    if header > HEADER_LIMIT:
        raise WrongWeightsError(
            f"{path}: its header claims {header} bytes; the file has {path.stat().st_size}, and "
            f"the format allows {HEADER_LIMIT}",
            fix="fetch the file again: it is damaged, or is no safetensors file",
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get("config", "null")
    except SafetensorError as why:
        raise _damaged(path, str(why)) from why
    return state, _as_config(path, text)


def _read_torch(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    content = _read_zip(path)
    found = content if isinstance(content, dict) else {}
    state: Any = next((found[key] for key in STATES if isinstance(found.get(key), dict)), found)
    if not _is_state(state):
        raise WrongWeightsError(
            f"{path}: no state dict in it (names and tensors), nor a checkpoint that holds one",
            fix="give a Lightning checkpoint, a torch.save'd state dict or a safetensors file",
        )
    stored = found.get("config")
    config = found.get("hyper_parameters", stored if isinstance(stored, StoredConfig) else None)
    config = vars(config) if isinstance(config, (argparse.Namespace, StoredConfig)) else config
    if config is not None and not isinstance(config, dict):
        raise WrongWeightsError(
            f"{path}: its hyper-parameters are a {type(config).__name__}, not names and values",
            fix="give the file as its training wrote it",
        )
    return state, config


def _is_state(state: object) -> bool:
    import torch

    return (
        isinstance(state, dict)
        and len(state) > 0
        and all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items())
    )


def _read_zip(path: Path) -> Any:
    """Read what ``torch.save`` writes: a zip of one pickle and raw tensors."""
    import torch

    _check_archive(path)
    try:
        # A Namespace only carries values; some trainings store their hyper-parameters as one.
        with torch.serialization.safe_globals([argparse.Namespace, *name_stored(path)]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as why:
        found = re.search(r"GLOBAL (\S+)", str(why))
        if found is None and "Unsupported" not in str(why):
            raise _damaged(path, str(why)) from why
        name = found.group(1).strip("`") if found else "an object that is no tensor"
        raise _code(path, f"its pickle asks for {name}, which is code") from why
    except (RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError) as why:
        raise _damaged(path, str(why)) from why


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is; torch packs nothing."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as why:
        # Wrong bytes in the list of entries: no archive, a name that is no text, a version of the
        # format that does not exist, an offset beyond any file.
        raise _damaged(path, f"no zip archive: {why}") from why
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WrongWeightsError(
            f"{path}: its {len(entries)} entries unpack to {claimed} bytes; the file has {size}, "
            "and torch.save packs nothing",
            fix="do not trust this file; ask its source for plain tensors (safetensors)",
        )


def _read_beside(path: Path) -> Mapping[str, Any] | None:
    beside = path.with_name("config.json")
    if not beside.is_file():
        return None
    check_hash(beside)
    return _as_config(beside, beside.read_text(encoding="utf-8", errors="replace"))


def _as_config(path: Path, text: str) -> Mapping[str, Any] | None:
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as why:
        raise _damaged(path, f"its configuration is not JSON: {why}") from why
    if config is not None and not isinstance(config, dict):
        raise WrongWeightsError(
            f"{path}: its configuration is a {type(config).__name__}, not names and values",
            fix="fetch the file again, or leave it out",
        )
    return config


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
