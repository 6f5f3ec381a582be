"""A tuned language model in a file: tokens of the scan and updates; the model itself stays out.

The language model lies in a folder of its own, under its own licence. What the file is of is said
by a hash of that folder's files: with another model the answers would mean nothing.

References
----------
fMRI-LM, arXiv 2511.21760; yuxiangwei0808/fMRI-LM at 037dcf9 (names of the tensors).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models.fmri_lm_language import ScanLanguage
from neurostorm_app.models.fmri_lm_text import read_questions
from neurostorm_app.models.fmri_lm_tokens import UPDATES, ScanTokens, TokensConfig
from neurostorm_app.models.hyper_parameters import pick
from neurostorm_app.models.language import open_language
from neurostorm_app.models.language_updates import add_updates, list_updates
from neurostorm_app.models.registry import create_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from neurostorm_app.models.card import Card
    from neurostorm_app.models.fmri_lm import LmTokenizer
    from neurostorm_app.models.fmri_lm_text import Question
    from neurostorm_app.models.language import Language

__all__ = ["ARCHITECTURE", "TunedConfig", "export_tuned", "open_tuned", "prepare_language"]

ARCHITECTURE: Final = "fmri-lm-language"
_FIX: Final = "give the folder that `neurostorm-tools train language` wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedConfig:
    """What a file says of the language model that it is of.

    Parameters
    ----------
    language : str
        SHA-256 of its files.
    kind : str
        Such as ``gpt2``.
    rank : int
        Of the updates.
    tags : bool
        Whether tags stand around the scan.
    questions : list
        That it was tuned for.
    """

    language: str
    kind: str
    rank: int
    tags: bool
    questions: list[Any]


def prepare_language(
    tokenizer: LmTokenizer, language: Language, *, rank: int, tags: bool, seed: int
) -> ScanLanguage:
    """Make what is tuned: the tokenizer's encoder, a new projection, and updates.

    Parameters
    ----------
    tokenizer : LmTokenizer
        Its encoder is copied.
    language : Language
        It gets updates that change nothing yet.
    rank : int
        Of the updates.
    tags : bool
        Whether tags stand around the scan.
    seed : int
        Of all first values.

    Returns
    -------
    ScanLanguage
        In evaluation mode.
    """
    config = TokensConfig(tokenizer=asdict(tokenizer.config), width=language.width)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tokens = ScanTokens(config)
    tokens.tokenizer.load_state_dict(tokenizer.encoder.state_dict())
    add_updates(language, rank=rank, seed=seed)
    return ScanLanguage(tokens, language, tags=tags)


def export_tuned(
    model: ScanLanguage, questions: Sequence[Question], *, rank: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Give tensors under upstream's names, and the configuration that `open_tuned` reads.

    Parameters
    ----------
    model : ScanLanguage
        After any training.
    questions : sequence of Question
        That it was tuned for.
    rank : int
        Of its updates.

    Returns
    -------
    state : dict of str to Tensor
        On the CPU; nothing of the language model but its updates.
    config : dict
        Of JSON's types.
    """
    state = dict(model.tokens.state_dict())
    state |= {UPDATES + name: value for name, value in list_updates(model.language).items()}
    tuned = TunedConfig(
        language=model.words.sha256,
        kind=model.words.kind,
        rank=rank,
        tags=bool(model.tags[0]),
        questions=[question.as_dict() for question in questions],
    )
    plain = {
        n: v.detach().cpu().clone(memory_format=torch.contiguous_format) for n, v in state.items()
    }
    return plain, asdict(model.tokens.config) | asdict(tuned)


def open_tuned(
    card: Card, folder: Path, *, weights: Path | None = None, device: str = "cpu"
) -> tuple[ScanLanguage, tuple[Question, ...]]:
    """Open a tuned language model.

    Parameters
    ----------
    card : Card
        As a training wrote it.
    folder : Path
        Of the language model that it was tuned with.
    weights : Path, optional
        The file of the card.
    device : str
        Where it computes.

    Returns
    -------
    model : ScanLanguage
        In evaluation mode.
    questions : tuple of Question
        That it was tuned for; no others have an answer.

    Raises
    ------
    ContractError
        If the model was not tuned to answer.
    MissingWeightsError, WrongWeightsError
        If files are missing, damaged, or of another language model.
    UsageError
        If the extra is not installed.
    """
    if card.architecture != ARCHITECTURE:
        raise ContractError(
            f"{card.name} is of the architecture {card.architecture!r}; only {ARCHITECTURE!r} was "
            "tuned to answer questions",
            fix=_FIX,
        )
    tuned = _read(card.config, card.name)
    questions = read_questions(tuned.questions, source=card.name)
    tokens: Any = create_model(card, weights=weights)
    language = open_language(folder, device=device)
    if language.sha256 != tuned.language:
        raise WrongWeightsError(
            f"{folder}: its files have the hash {language.sha256}; {card.name} was tuned with a "
            f"{tuned.kind} of the hash {tuned.language}",
            fix="give the folder of the language model that it was tuned with",
        )
    add_updates(language, rank=tuned.rank, state=tokens.updates)
    return ScanLanguage(tokens.to(device), language, tags=tuned.tags).to(device), questions


def _read(config: Mapping[str, Any], name: str) -> TunedConfig:
    found = pick(TunedConfig, config, what=name, fix=_FIX)
    if not 1 <= found.rank <= 4096:
        raise WrongWeightsError(
            f"{name}: its updates are said to be of rank {found.rank}; 1 or more was expected",
            fix=_FIX,
        )
    return found
