"""The verb ``ask``: what a tuned language model answers about the runs of a derivative.

Answers come from the closed set that it was tuned for, each with its share; there is no other text.
The table stands beside a sidecar that says of which weights it is and what it does not mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from neurostorm_app.models.fmri_lm_text import Question
    from neurostorm_app.pipelines.ask import Answered, Asker

__all__ = ["add_ask", "call_ask"]

COLUMNS: Final = {
    "run": "Of the table's rows, such as sub-01_task-rest",
    "question": "Name of the column or number that was asked for",
    "answer": "One of the answers that the model was tuned for; a row for each",
    "log_likelihood": "Logarithm of the probability that the model gives this answer as a whole, "
    "its end included; the mean over windows; nats",
    "share": "Of this answer among all of the question; they add up to 1. Not calibrated: it is no "
    "probability of being right",
    "likeliest": "1 for the answer with the largest share, 0 for all others",
}
CLOSED: Final = (
    "Answers for research, and not for diagnosis. They are chosen from the answers given in the "
    "tuning, whether or not one of them is right, and say nothing that the tuning's own test does "
    "not support."
)
SEEN: Final = (
    "Whom the model was tuned on is not kept in it. If somebody here was among them, the answer is "
    "worth nothing: it was given in the tuning."
)


def add_ask(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    verb.add_argument(
        "derivatives", type=Path, metavar="OUTPUT_DIR", help="preprocessed runs, as of this app"
    )
    told = "folder that `train language` wrote"
    verb.add_argument("--model", required=True, metavar="DIR", help=told)
    told = "folder of the language model that it was tuned with"
    verb.add_argument("--llm", type=Path, required=True, metavar="DIR", help=told)
    told = "a question it was tuned for; may be given again; default all"
    verb.add_argument("--question", action="append", default=[], metavar="NAME", help=told)
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    verb.add_argument("--participant-label", nargs="+", default=(), metavar="LABEL")
    verb.add_argument("--task-label", action="append", default=[], metavar="LABEL")
    verb.add_argument("--weights-dir", type=Path, metavar="DIR", help="where atlases lie")
    verb.add_argument("--atlas", type=Path, metavar="PATH", help="the model's label image")
    verb.add_argument("--statistics", type=Path, metavar="PATH", help="of a cohort's parcels")
    verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")


def call_ask(asked: argparse.Namespace) -> None:
    """Do what the verb asks for; a run that cannot be read is left out, and named.

    Parameters
    ----------
    asked : Namespace
        What `add_ask` defines.

    Raises
    ------
    AppError
        If the model or the language model cannot be used, it was not tuned for a question, or no
        run can be read.
    """
    from neurostorm_app.bids_app.derivatives import write_json, write_text
    from neurostorm_app.bids_app.logs import to_terminal
    from neurostorm_app.pipelines.ask import load_asker

    to_terminal(0)
    asker = load_asker(
        asked.model,
        asked.llm,
        weights_dir=asked.weights_dir,
        atlas=asked.atlas,
        statistics=asked.statistics,
        device=asked.device,
    )
    questions = asker.find(asked.question)
    found, left_out = _ask(asked, asker, questions)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / f"desc-{asker.card.label}_answers.tsv"
    rows = [list(COLUMNS), *(row for one in found for row in _rows(one))]
    write_text(path, "".join("\t".join(row) + "\n" for row in rows))
    write_json(path.with_suffix(".json"), _about(asker, questions, found, left_out))
    print(CLOSED)
    print(f"{path}: {len(questions)} questions about {len({one.run for one in found})} runs")


def _ask(
    asked: argparse.Namespace, asker: Asker, questions: Sequence[Question]
) -> tuple[list[Answered], dict[str, str]]:
    import logging

    from neurostorm_app.bids_app.verbs.train_cohort import find_runs

    log = logging.getLogger(__name__)
    runs = find_runs(
        [asked.derivatives],
        space=asker.contract.space,
        tasks=asked.task_label,
        participants=asked.participant_label,
    )
    found: list[Answered] = []
    left_out: dict[str, str] = {}
    last: AppError | None = None
    for _, run in runs:
        try:
            found += asker.ask(run, questions)
        except AppError as error:
            log.warning("%s: left out: %s", run.name, error.what)
            left_out[run.name], last = type(error).__name__, error
        else:
            log.info("%s: %s", run.name, ", ".join(q.name for q in questions))
    if not found and last is not None:
        raise last
    return found, left_out


def _rows(one: Answered) -> list[list[str]]:
    each = zip(one.question.answers, one.scores, one.shares, strict=True)
    return [
        [
            one.run,
            one.question.name,
            " ".join(answer.split()),  # a tab would be another column
            f"{score:.6g}",
            f"{share:.6g}",
            str(int(answer == one.likeliest)),
        ]
        for answer, score, share in each
    ]


def _about(
    asker: Asker,
    questions: Sequence[Question],
    found: Sequence[Answered],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Say of which weights the answers are, and what they do not mean."""
    from neurostorm_app import __version__
    from neurostorm_app.bids_app.participant.outputs import DEMO, PRIVACY

    card = asker.card
    return {
        "Description": f"{DEMO if card.demo else ''}Answers about runs: {card.title}. {CLOSED}",
        "NotForDiagnosis": True,
        "Demo": card.demo,
        "Columns": COLUMNS,
        "Model": {
            "Name": card.name,
            "Label": card.label,
            "License": card.licence,
            "Limits": list(card.limits),
            **asker.hashes,
        },
        "LanguageModel": {"Kind": asker.model.words.kind, "SHA256": asker.model.words.sha256},
        "Questions": [question.as_dict() for question in questions],
        "Windows": {one.run: one.n_windows for one in found},
        "RunsLeftOut": left_out,
        "Notes": [SEEN],
        "Privacy": PRIVACY,
        "AppVersion": str(__version__),
    }
