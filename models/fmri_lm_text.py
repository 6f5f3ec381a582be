"""Questions with a closed set of answers, and their tokens.

A question is framed as the language model knows questions: by the marks of its chats where it has
them, without thinking aloud, and else by two headings. Question and answer are turned into tokens
apart, so that an answer is the same tokens whether it is learnt or scored.

References
----------
fMRI-LM, arXiv 2511.21760, section 3.4; yuxiangwei0808/fMRI-LM at 037dcf9 (headings).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from neurostorm_app.errors import ContractError, WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from neurostorm_app.models.language import Language

__all__ = ["Question", "TextBatch", "frame_answer", "frame_question", "join", "read_questions"]

CHAT: Final = ("<|im_start|>", "<|im_end|>")
"""Marks of the chats of Qwen."""
MOST: Final = 1000
"""Letters of a question, and of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a scan.

    Parameters
    ----------
    name : str
        Of the column or number that is asked for.
    texts : tuple of str
        The question, and other ways to put it: all are learnt, the first is asked.
    answers : tuple of str
        All that there are, two or more.
    """

    name: str
    texts: tuple[str, ...]
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        """See that it can be asked."""
        words = (*self.texts, *self.answers)
        blank = not all(word.strip() and len(word) <= MOST for word in (self.name, *words))
        alike = len(set(self.answers)) < max(len(self.answers), 2)
        if blank or alike or not self.texts:
            raise ContractError(
                f"the question {self.name[:80]!r} has {len(self.texts)} texts and "
                f"{len(self.answers)} answers; a text of 1 to {MOST} letters and two different "
                "answers were expected",
                fix="give each question a text, and as many answers as there are kinds",
            )

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def read_questions(stored: object, *, source: str) -> tuple[Question, ...]:
    """Read the questions that a language model was tuned for.

    Parameters
    ----------
    stored : object
        A list of what `Question.as_dict` gives.
    source : str
        Where it is from, for messages.

    Raises
    ------
    WrongWeightsError
        If it is none, or empty.
    """
    try:
        rows = list(stored) if isinstance(stored, list) else []
        found = tuple(
            Question(name=row["name"], texts=tuple(row["texts"]), answers=tuple(row["answers"]))
            for row in rows
        )
    except (ContractError, KeyError, TypeError, AttributeError) as why:
        raise WrongWeightsError(
            f"{source}: its questions cannot be read: {why}", fix="give the card as it was written"
        ) from why
    if not found:
        raise WrongWeightsError(
            f"{source}: it was tuned for no question, so none can be asked",
            fix="tune it with `train language`",
        )
    return found


def frame_question(language: Language, text: str) -> list[int]:
    """Turn a question into tokens, up to where the answer begins."""
    if all(map(language.knows, CHAT)):
        begin, end = CHAT
        framed = f"{begin}user\n{text}{end}\n{begin}assistant\n<think>\n\n</think>\n\n"
    else:
        framed = f"### Question: {text}\n### Answer:"
    return language.encode(framed)


def frame_answer(language: Language, text: str) -> list[int]:
    """Turn an answer into tokens, with the one that ends it."""
    lead = "" if all(map(language.knows, CHAT)) else " "
    return [*language.encode(lead + text), language.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Questions with answers, as many tokens each.

    Parameters
    ----------
    ids : Tensor of int64, shape (B, n)
        Tokens; what is padded holds 0 and is seen by nothing.
    real : Tensor of bool, shape (B, n)
        Where there is text.
    answers : Tensor of bool, shape (B, n)
        Where there is an answer, its end included.
    """

    ids: Tensor
    real: Tensor
    answers: Tensor


def join(pairs: Sequence[tuple[list[int], list[int]]]) -> TextBatch:
    """Put questions before their answers.

    Parameters
    ----------
    pairs : sequence of (list of int, list of int)
        Tokens of a question, and of an answer.

    Examples
    --------
    >>> batch = join([([5, 6], [7]), ([5], [8])])
    >>> batch.ids.tolist(), batch.answers.int().tolist()
    ([[5, 6, 7], [5, 8, 0]], [[0, 0, 1], [0, 1, 0]])
    """
    longest = max(len(question) + len(answer) for question, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.int64)
    real = torch.zeros(len(pairs), longest, dtype=torch.bool)
    answers = real.clone()
    for row, (question, answer) in enumerate(pairs):
        n = len(question) + len(answer)
        ids[row, :n] = torch.tensor([*question, *answer])
        real[row, :n] = True
        answers[row, len(question) : n] = True
    return TextBatch(ids=ids, real=real, answers=answers)
