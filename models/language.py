"""Language models of this machine, opened by transformers from a folder and never fetched.

References
----------
Radford et al. (2019), "Language models are unsupervised multitask learners" (GPT-2); Qwen3,
arXiv 2505.09388.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError

from neurostorm_app.errors import WrongWeightsError
from neurostorm_app.models.language_extra import alone, need
from neurostorm_app.models.language_files import find_language

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from neurostorm_app.models.language_files import LanguageFiles

__all__ = ["Language", "open_language"]

MASKS: Final = ("attn.bias", "attn.masked_bias")
"""Ends of names in files of GPT-2 that are no weights; the model makes its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language model that is open.

    Parameters
    ----------
    model : Module
        Stock, of transformers; in evaluation mode, none of its parameters learns.
    kind : str
        ``gpt2`` or ``qwen3``.
    sha256 : str
        Of all that decides what it says.
    tokenizer : object
        Of text.
    end : int
        The token that ends an answer.
    """

    model: nn.Module
    kind: str
    sha256: str
    tokenizer: Any
    end: int

    @property
    def width(self) -> int:
        """Length of a token's vector."""
        return int(self._embedding.shape[1])

    @property
    def n_words(self) -> int:
        """Tokens it knows."""
        return int(self._embedding.shape[0])

    @property
    def n_places(self) -> int:
        """Places of its longest sequence."""
        config: Any = self.model.config
        return int(config.max_position_embeddings)

    @property
    def _embedding(self) -> Tensor:
        model: Any = self.model
        found: Tensor = model.get_input_embeddings().weight
        return found

    def encode(self, text: str) -> list[int]:
        """Turn text into tokens, none added at either end."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def knows(self, word: str) -> bool:
        """Tell whether a word is one token."""
        return self.tokenizer.token_to_id(word) is not None


def open_language(folder: Path, *, device: str = "cpu") -> Language:
    """Open a language model that lies in a folder.

    Parameters
    ----------
    folder : Path
        Of a GPT-2 or a Qwen3, as released.
    device : str
        Where it goes.

    Returns
    -------
    Language
        In float32.

    Raises
    ------
    UsageError
        If the extra is not installed.
    MissingWeightsError
        If the folder or a file of it is not there.
    WrongWeightsError
        If a file is damaged, pickled, of another kind of model, or lacks a tensor.
    """
    files = find_language(folder)
    transformers, tokenizers = need("transformers"), need("tokenizers")
    with alone(), _naming(files):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = tokenizers.Tokenizer.from_file(str(files.words))
    _check(files, model, info)
    model.eval().requires_grad_(requires_grad=False)
    language = Language(
        model=model.to(device),
        kind=files.kind,
        sha256=files.digest(),
        tokenizer=tokenizer,
        end=_find_end(files),
    )
    n_words = max(tokenizer.get_vocab_size(), language.end + 1)
    if n_words > language.n_words:
        raise WrongWeightsError(
            f"{folder}: its tokenizer and the end of an answer take {n_words} tokens; the language "
            f"model knows {language.n_words}",
            fix="give tokenizer.json, config.json and weights of one model",
        )
    return language


@contextmanager
def _naming(files: LanguageFiles) -> Iterator[None]:
    """Turn what the libraries raise about files into our error."""
    strict = importlib.import_module("huggingface_hub.errors").StrictDataclassError
    kinds = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError)
    try:
        yield
    except (*kinds, SafetensorError, strict) as why:
        raise _damaged(files, f"{type(why).__name__}: {why}") from why
    except Exception as why:
        # tokenizers knows no error of its own: it raises the bare class.
        if type(why) is not Exception:
            raise
        raise _damaged(files, str(why)) from why


def _damaged(files: LanguageFiles, why: str) -> WrongWeightsError:
    first = (why.strip().splitlines() or ["no reason given"])[0]
    return WrongWeightsError(
        f"{files.folder}: the language model is damaged, or its files do not belong together "
        f"({first[:160]})",
        fix="fetch all files of the model again",
    )


def _check(files: LanguageFiles, model: Any, info: Mapping[str, Any]) -> None:
    """See that every tensor came from the files: what is missing would be drawn at random."""
    missing, unknown = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    unknown = [name for name in unknown if not name.endswith(MASKS)]
    if missing or unknown:
        raise WrongWeightsError(
            f"{files.folder}: the weights are not of this configuration: {len(missing)} tensors "
            f"are missing and {len(unknown)} unknown, such as {[*missing, *unknown][0]}",
            fix="give config.json and weights of one model; nothing is loaded partially",
        )
    broken = [n for n, value in model.named_parameters() if not torch.isfinite(value).all()]
    if broken:
        raise WrongWeightsError(
            f"{files.folder}: {len(broken)} tensors of the language model hold values that are not "
            f"finite, such as {broken[0]}",
            fix="fetch its weights again",
        )


def _find_end(files: LanguageFiles) -> int:
    end = files.config.get("eos_token_id")
    if isinstance(end, list) and end:
        end = end[0]
    if not isinstance(end, int) or isinstance(end, bool) or end < 0:
        raise WrongWeightsError(
            f"{files.folder}: config.json says eos_token_id {end!r}; the number of the token that "
            "ends an answer was expected",
            fix="give config.json as it was released",
        )
    return end
