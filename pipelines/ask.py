"""What a tuned language model answers about runs: shares of a closed set of answers, no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from neurostorm_app.errors import ContractError, UsageError
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.models.fmri_lm_language import share
from neurostorm_app.models.fmri_lm_tuned import open_tuned
from neurostorm_app.models.weights import hash_file
from neurostorm_app.pipelines.computing import check_engine
from neurostorm_app.pipelines.inputs import find_inputs
from neurostorm_app.pipelines.prepare_parcels import prepare_parcels
from neurostorm_app.pipelines.stage import InputOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.models.card import Card
    from neurostorm_app.models.fmri_lm_language import ScanLanguage
    from neurostorm_app.models.fmri_lm_text import Question
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["Answered", "Asker", "load_asker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answers to one question about one run.

    Parameters
    ----------
    run : str
        Such as ``sub-01_task-rest``.
    question : Question
        What was asked.
    scores : tuple of float
        Of each answer, the logarithm of the probability that the model gives it as a whole, the
        mean over windows; nats.
    shares : tuple of float
        Of each answer among these; they add up to 1, and are not calibrated.
    n_windows : int
        Of the run.
    """

    run: str
    question: Question
    scores: tuple[float, ...]
    shares: tuple[float, ...]
    n_windows: int

    @property
    def likeliest(self) -> str:
        """The answer with the largest share."""
        return self.question.answers[self.shares.index(max(self.shares))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A tuned language model with all that it needs; made by `load_asker`.

    Parameters
    ----------
    card : Card
        Of the tuning.
    contract : ParcelContract
        Of the card.
    model : ScanLanguage
        In evaluation mode.
    questions : tuple of Question
        That it was tuned for.
    atlas : Path
        Label image.
    options : InputOptions
        What the user changed about how a run is made ready.
    device : str
        Where it computes.
    hashes : mapping of str to str
        SHA-256 of the files, by their role.
    """

    card: Card
    contract: ParcelContract
    model: ScanLanguage
    questions: tuple[Question, ...]
    atlas: Path
    options: InputOptions
    device: str
    hashes: Mapping[str, str]

    def find(self, names: Sequence[str]) -> tuple[Question, ...]:
        """Find questions by name; all if none is named.

        Raises
        ------
        UsageError
            If it was not tuned for one of them.
        """
        known = {question.name: question for question in self.questions}
        if unknown := [name for name in names if name not in known]:
            raise UsageError(
                f"{self.card.name} was not tuned for the question {unknown[0]!r}, and what it "
                "would answer means nothing",
                fix=f"ask for {', '.join(known)}",
            )
        return tuple(known[name] for name in dict.fromkeys(names)) or self.questions

    def ask(self, run: StandardSeries, questions: Sequence[Question]) -> list[Answered]:
        """Ask about a run.

        Parameters
        ----------
        run : StandardSeries
            Preprocessed, in a standard space.
        questions : sequence of Question
            Of `find`.

        Returns
        -------
        list of Answered
            One a question.

        Raises
        ------
        DataError
            If the run cannot be read, is too short, or is not of the model's space or parcels.
        """
        prepared = prepare_parcels(run, self.contract, self.atlas, self.options)
        scores = []
        for window in prepared.windows:
            told = self.model.tell(torch.from_numpy(window)[None].to(self.device))
            scores.append([self.model.score(told, question) for question in questions])
        found = []
        for question, each in zip(questions, zip(*scores, strict=True), strict=True):
            mean = torch.stack(each).double().mean(dim=0)
            found.append(
                Answered(
                    run=run.name,
                    question=question,
                    scores=tuple(mean.tolist()),
                    shares=tuple(share(each).tolist()),
                    n_windows=len(each),
                )
            )
        return found


def load_asker(
    name: str | Card,
    language: Path,
    *,
    weights_dir: Path | None = None,
    atlas: Path | None = None,
    statistics: Path | None = None,
    device: str = "cpu",
) -> Asker:
    """Load a tuned language model, ready to be asked.

    Parameters
    ----------
    name : str or Card
        Folder of a tuning, or its card.
    language : Path
        Folder of the language model that it was tuned with.
    weights_dir : Path, optional
        Where the parcellation is looked for.
    atlas : Path, optional
        A label image that replaces the card's parcellation.
    statistics : Path, optional
        Of the parcels of a cohort.
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    Asker
        Holds both in memory.

    Raises
    ------
    ContractError
        If the model was not tuned to answer questions.
    MissingWeightsError, WrongWeightsError, NoInputError, UsageError
        If files are missing, damaged or of another model, or the extra is not installed.
    """
    from neurostorm_app.models import read_card

    card = read_card(name) if isinstance(name, str) else name
    check_engine(device, "fp32")
    files = find_inputs(card, weights_dir=weights_dir, atlas=atlas, statistics=statistics)
    contract = card.contract
    if not isinstance(contract, ParcelContract) or files.atlas is None:
        raise ContractError(
            f"{card.name} takes {contract.kind}; tokens of fMRI-LM are made of parcels",
            fix="give the folder that `neurostorm-tools train language` wrote",
        )
    model, questions = open_tuned(card, language, weights=files.weights, device=device)
    roles = {"weights": files.weights, "atlas": files.atlas, "statistics": files.statistics}
    hashes = {f"{role}_sha256": hash_file(path) for role, path in roles.items() if path}
    return Asker(
        card=card,
        contract=contract,
        model=model,
        questions=questions,
        atlas=files.atlas,
        options=InputOptions(statistics=statistics),
        device=device,
        hashes=hashes | {"language_sha256": model.words.sha256},
    )
