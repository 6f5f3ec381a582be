"""The verb ``statistics``: how the parcels of a cohort are spread, for models that scale by it.

The series go through the same cleaning and resampling as before embedding. What is written names
no participant.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import AppError, NoInputError, UsageError

if TYPE_CHECKING:
    import argparse

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["add_statistics", "call_statistics"]

log = logging.getLogger(__name__)


def add_statistics(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    verb.add_argument("out", type=Path, metavar="OUT_FILE", help="a .tsv; a .json goes beside it")
    verb.add_argument(
        "derivatives",
        type=Path,
        nargs="+",
        metavar="DERIVATIVE_DIR",
        help="fMRIPrep-like folders; each is a cohort of its own people, all of them are joined",
    )
    verb.add_argument("--model", required=True, metavar="NAME", help="such as brainlm")
    verb.add_argument("--atlas", type=Path, metavar="PATH", help="its label image")
    verb.add_argument("--weights-dir", type=Path, metavar="DIR", help="where to look for it")
    for option, what in (("--task-label", "task"), ("--participant-label", "participant")):
        verb.add_argument(
            option, action="append", metavar="LABEL", help=f"only this {what}; may be repeated"
        )


def call_statistics(asked: argparse.Namespace) -> None:
    """Do what the verb asks for."""
    from neurostorm_app import __version__
    from neurostorm_app.bids_app.derivatives import write_json, write_text
    from neurostorm_app.bids_app.logs import to_terminal
    from neurostorm_app.bids_app.provenance import sha256_of
    from neurostorm_app.pipelines.cohort import measure_cohort
    from neurostorm_app.pipelines.inputs import find_parcellation
    from neurostorm_app.pipelines.statistics_file import describe_cohort, format_cohort

    to_terminal(0)
    contract = _contract(asked)
    atlas = find_parcellation(contract, asked.atlas, asked.weights_dir)
    runs, failed = _find(asked, contract.space)
    cohort = measure_cohort(runs, contract, atlas)
    cohort = dataclasses.replace(cohort, left_out={**failed, **cohort.left_out})
    about = describe_cohort(
        cohort, contract, atlas_sha256=sha256_of(atlas), version=str(__version__)
    )
    # A table without a sidecar is refused: a call that is cut short leaves no pair of two makes.
    asked.out.with_suffix(".json").unlink(missing_ok=True)
    write_text(asked.out, format_cohort(cohort))
    write_json(asked.out.with_suffix(".json"), about)
    found = cohort.statistics
    print(
        f"{asked.out}: {len(found.labels)} parcels in {found.n_runs} runs of "
        f"{found.n_participants} participants; {len(cohort.left_out)} runs left out"
    )


def _contract(asked: argparse.Namespace) -> ParcelContract:
    from neurostorm_app.models import read_card
    from neurostorm_app.models.card import ParcelContract

    if asked.out.suffix != ".tsv":
        raise UsageError(
            f"{asked.out}: the statistics are a table", fix="give the name of a file in .tsv"
        )
    contract = read_card(asked.model).contract
    if not isinstance(contract, ParcelContract) or contract.scaling == "none":
        raise UsageError(
            f"{asked.model} does not scale parcels; it has no use for statistics",
            fix="choose a model that does, such as brainlm",
        )
    return contract


def _find(
    asked: argparse.Namespace, space: str
) -> tuple[list[tuple[str, StandardSeries]], dict[str, AppError]]:
    """Find all runs, each with a word for its participant; the runs of a folder are its own."""
    from neurostorm_app.bids_app.inputs.dataset import list_participants
    from neurostorm_app.bids_app.inputs.precomputed import find_precomputed
    from neurostorm_app.pipelines.stage import OutputSpace

    filters = {"task": asked.task_label} if asked.task_label else {}
    wanted = [OutputSpace(name=space, res="2")]
    runs: list[tuple[str, StandardSeries]] = []
    failed: dict[str, AppError] = {}
    for root in dict.fromkeys(path.resolve() for path in asked.derivatives):
        if not root.is_dir():
            raise NoInputError(f"{root} is not a folder of derivatives", fix="check the path")
        for label in list_participants(root):
            if asked.participant_label and label not in asked.participant_label:
                continue
            found = find_precomputed({root.name: root}, label, wanted, filters)
            for name, item in found.items():
                if isinstance(item, AppError):
                    log.warning("%s: left out: %s", name, item.what)
                    failed[f"{root}/{name}"] = item
                else:
                    runs.append((f"{root}/{label}", item.series))
    if not runs:
        folders = ", ".join(map(str, asked.derivatives))
        raise NoInputError(
            f"{folders}: no preprocessed series was found that can be used",
            fix="expected sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz in a standard space; "
            "check the labels",
        )
    return runs, failed
