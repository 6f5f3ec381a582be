"""What lies in the folder of a language model, looked at before anything in it is used.

A folder is as its makers release it: ``config.json``, ``tokenizer.json``, and weights as
safetensors, in one file or in several with an index. Pickled weights are refused, and so is a
configuration that asks for code of its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import MissingWeightsError, WrongWeightsError
from neurostorm_app.models.lockfile import hash_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["KINDS", "LanguageFiles", "find_language"]

KINDS: Final = ("gpt2", "qwen3")
"""Language models whose sequences are known to be told a scan as they should."""
CONFIG: Final = "config.json"
WORDS: Final = "tokenizer.json"
WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
PICKLED: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MOST: Final = 100_000_000
"""Bytes of a JSON file; that of Qwen3's words has 11 million."""
_FIX: Final = (
    "give a folder with config.json, tokenizer.json and model.safetensors, as GPT-2 or Qwen3 are "
    "released"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageFiles:
    """The files of a language model.

    Parameters
    ----------
    folder : Path
        Where they lie.
    config : mapping
        What ``config.json`` says.
    weights : tuple of Path
        Safetensors, in the order of their names.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return str(self.config["model_type"])

    @property
    def words(self) -> Path:
        """The text's tokenizer."""
        return self.folder / WORDS

    def digest(self) -> str:
        """Hash all that decides what the model says: configuration, words and weights."""
        parts = [self.folder / CONFIG, self.words, *self.weights]
        lines = [f"{path.name} {hash_file(path)}\n" for path in parts]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_language(folder: Path) -> LanguageFiles:
    """Find the files of a language model; nothing is loaded.

    Parameters
    ----------
    folder : Path
        On this machine; no name of a repository is looked up anywhere.

    Returns
    -------
    LanguageFiles
        All of them exist.

    Raises
    ------
    MissingWeightsError
        If there is no such folder, or a file is missing.
    WrongWeightsError
        If a file is damaged, the weights are pickled, the model is of another kind, or it asks for
        code of its own.
    """
    if not folder.is_dir():
        raise MissingWeightsError(
            f"{folder}: there is no such folder of a language model", fix=_FIX
        )
    config = _read(folder / CONFIG)
    kind = config.get("model_type")
    if kind not in KINDS:
        raise WrongWeightsError(
            f"{folder}: the language model is of the kind {kind!r}; scans can be told to "
            f"{' and '.join(KINDS)}",
            fix="give a GPT-2 or a Qwen3",
        )
    if "auto_map" in config:
        raise WrongWeightsError(
            f"{folder / CONFIG}: it asks for code of its own (auto_map), which is never run",
            fix="give the model as it was released, without code",
        )
    _read(folder / WORDS)
    return LanguageFiles(folder=folder, config=config, weights=_find_weights(folder))


def _find_weights(folder: Path) -> tuple[Path, ...]:
    """List the files of the weights."""
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,)
    if (folder / INDEX).is_file():
        names = _read(folder / INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise WrongWeightsError(f"{folder / INDEX}: it names no file of weights", fix=_FIX)
        paths = [folder / str(name) for name in sorted(set(names.values()))]
        for path in paths:
            if path.parent != folder or path.suffix != ".safetensors" or not path.is_file():
                raise MissingWeightsError(
                    f"{path}: the index of {folder} names this file, and it is no safetensors file "
                    "of that folder",
                    fix="fetch all files of the model again",
                )
        return tuple(paths)
    pickled = sorted(path.name for mask in PICKLED for path in folder.glob(mask))
    if pickled:
        raise WrongWeightsError(
            f"{folder}: its weights are pickled ({', '.join(pickled[:3])}), which may hold code; "
            "they were not read",
            fix=f"give the same model as safetensors: {WHOLE}",
        )
    raise MissingWeightsError(f"{folder}: there is no {WHOLE}, nor {INDEX}", fix=_FIX)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object of the folder."""
    if not path.is_file():
        raise MissingWeightsError(f"{path}: this file of a language model is not there", fix=_FIX)
    if path.stat().st_size > MOST:
        raise WrongWeightsError(
            f"{path}: it has {path.stat().st_size} bytes; a file of its kind has at most {MOST}",
            fix=_FIX,
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as why:
        raise WrongWeightsError(
            f"{path}: it is damaged, or no JSON: {str(why)[:80]}", fix="fetch the file again"
        ) from why
    if not isinstance(content, dict):
        raise WrongWeightsError(
            f"{path}: it is a {type(content).__name__}, not names and values", fix=_FIX
        )
    return content
