"""The task of tuning a language model: questions about windows, and their answers.

Participants are apart, never windows, and whoever validates or tests has no part in anything that
is learnt. A step asks one question, in one of its wordings, about a window of each participant
whose turn it is; validation asks every question about whole runs, in its first wording, and draws
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models.fmri_lm_text import TextBatch, frame_answer, frame_question, join
from neurostorm_app.pipelines.train.batches import Draw, Rounds, draw_window, tile_run
from neurostorm_app.pipelines.train.measures import measure_classes
from neurostorm_app.pipelines.train.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from neurostorm_app.models.fmri_lm_language import ScanLanguage
    from neurostorm_app.pipelines.questions import Lesson
    from neurostorm_app.pipelines.train.material import Material
    from neurostorm_app.pipelines.train.split import Split

__all__ = ["Instructing", "Instructions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructing:
    """What is asked of a tuning.

    Parameters
    ----------
    rank : int or None
        Of the updates; None for that of the paper's code.
    tags : bool
        Whether tags stand around the scan.
    validation, test : float
        Shares of the participants that are held out.
    windows : int or None
        Of each run, so many to judge by; None for all.

    Raises
    ------
    UsageError
        If a count is below 1.
    """

    rank: int | None = None
    tags: bool = False
    validation: float = 0.2
    test: float = 0.0
    windows: int | None = None

    def __post_init__(self) -> None:
        counts = {"rank": self.rank, "windows": self.windows}
        wrong = [f"{name} of {n}" for name, n in counts.items() if n is not None and n < 1]
        if wrong:
            raise UsageError(
                f"a language model cannot be tuned with {', '.join(wrong)}",
                fix="give numbers from 1 on, or leave them out",
            )


class Instructions(Task):
    """Answer questions about windows.

    Parameters
    ----------
    model : ScanLanguage
        What of it learns, learns.
    material : Material
        Runs; at least one answer is known of each.
    lessons : sequence of Lesson
        Of the same people and runs.
    split : Split
        Who learns and who is held out.
    settings : Instructing
        Windows to judge by.
    seed : int
        Of everything that is drawn.

    Raises
    ------
    DataError
        If nobody who is held out has an answer to a question.
    """

    def __init__(
        self,
        model: ScanLanguage,
        material: Material,
        lessons: Sequence[Lesson],
        split: Split,
        settings: Instructing,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.material, self.settings = model, material, settings
        self.lessons, self.split = tuple(lessons), split
        self.rounds = Rounds(n=len(split.train), seed=seed)
        for lesson in lessons:
            for side in (split.train, split.validation, *([split.test] if split.test else [])):
                if all(index < 0 for person in side for index in lesson.truth[person]):
                    raise DataError(
                        f"{lesson.question.name!r}: none of {len(side)} participants on one side "
                        "of the split has an answer",
                        fix="hold out a larger share, or leave that question out",
                    )

    def load(self, draw: Draw) -> tuple[Tensor, TextBatch]:
        """Choose a window of each participant whose turn it is, and a question about it."""
        length, windows, pairs = self.material.recipe.window, [], []
        for item in draw.items:
            person = self.split.train[self.rounds.participant(item)]
            runs, rng = self.material.people[person], draw.rng("window", item)
            window = draw_window(runs, length, rng)
            known = [one for one in self.lessons if one.truth[person][window.run] >= 0]
            lesson = known[int(rng.integers(len(known)))]
            question, words = lesson.question, self.model.words
            text = question.texts[int(rng.integers(len(question.texts)))]
            answer = question.answers[lesson.truth[person][window.run]]
            pairs.append((frame_question(words, text), frame_answer(words, answer)))
            windows.append(runs[window.run].window(window.start, length))
        return torch.from_numpy(np.stack(windows)), join(pairs)

    def forward(self, draw: Draw, loaded: tuple[Tensor, TextBatch]) -> Tensor:
        """Compute the loss of a batch."""
        del draw  # nothing is drawn here but dropout
        windows, text = loaded
        device = self.model.tokens.pos_embed.weight.device
        moved = TextBatch(
            ids=text.ids.to(device), real=text.real.to(device), answers=text.answers.to(device)
        )
        loss: Tensor = self.model(windows.to(device), moved)
        return loss

    def validate(self) -> dict[str, float]:
        """Measure the participants of the validation split."""
        return self.measure(self.split.validation)

    def measure(self, people: Sequence[int]) -> dict[str, float]:
        """Ask participants everything: scores are means over windows, and of people over runs.

        Parameters
        ----------
        people : sequence of int
            Numbers of participants.

        Returns
        -------
        dict
            ``loss``, the mean over questions of the cross-entropy of the right answer's share; and
            what `measure_classes` gives, under ``<question>_<name>`` where there are several.
        """
        found: list[list[tuple[Tensor, int]]] = [[] for _ in self.lessons]
        for person in people:
            told = [self._ask(person, run) for run in range(len(self.material.people[person]))]
            for number, lesson in enumerate(self.lessons):
                each = list(zip(told, lesson.truth[person], strict=True))
                known = [(scores[number], index) for scores, index in each if index >= 0]
                if known and not lesson.per_run:
                    known = [(torch.stack([score for score, _ in known]).mean(dim=0), known[0][1])]
                found[number] += known
        measured: dict[str, float] = {}
        losses = []
        for lesson, rows in zip(self.lessons, found, strict=True):
            if not rows:
                continue
            scores = torch.stack([score for score, _ in rows])
            truth = torch.tensor([index for _, index in rows])
            losses.append(float(torch.nn.functional.cross_entropy(scores, truth)))
            n = scores.shape[1]
            logits = scores[:, 1:] - scores[:, :1] if n == 2 else scores
            own = measure_classes(logits.numpy(), truth.numpy(), n)
            lead = f"{lesson.question.name}_" if len(self.lessons) > 1 else ""
            measured |= {f"{lead}{name}": value for name, value in own.items()}
        return {"loss": float(np.mean(losses)), **measured}

    def _ask(self, person: int, run: int) -> list[Tensor]:
        """Score the answers to all questions about a run: the mean over its windows."""
        recipe, found = self.material.recipe, self.material.people[person][run]
        stride = recipe.contract.stride or recipe.window
        device = self.model.tokens.pos_embed.weight.device
        rows = []
        for start in tile_run(found, recipe.window, stride, most=self.settings.windows):
            window = torch.from_numpy(found.window(int(start), recipe.window))[None]
            told = self.model.tell(window.to(device))
            rows.append([self.model.score(told, one.question) for one in self.lessons])
        return [
            torch.stack(scores).double().mean(dim=0).cpu() for scores in zip(*rows, strict=True)
        ]
