"""The second command, for people: phantoms, models, nearest runs, heads, training.

Each verb is thin: it reads its arguments, calls one function, and prints what came of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.bids_app.verbs.ask import add_ask, call_ask
from neurostorm_app.bids_app.verbs.compat import add_compat, call_compat
from neurostorm_app.bids_app.verbs.completion import add_completion, call_completion
from neurostorm_app.bids_app.verbs.describe import add_describe, call_describe
from neurostorm_app.bids_app.verbs.describe_reference import (
    add_describe_reference,
    call_describe_reference,
)
from neurostorm_app.bids_app.verbs.explore import add_explore, call_explore
from neurostorm_app.bids_app.verbs.predict import add_predict, call_predict
from neurostorm_app.bids_app.verbs.query import add_query, call_query
from neurostorm_app.bids_app.verbs.series import add_series, call_series
from neurostorm_app.bids_app.verbs.slurm import add_slurm, call_slurm
from neurostorm_app.bids_app.verbs.statistics import add_statistics, call_statistics
from neurostorm_app.bids_app.verbs.train import add_train, call_train
from neurostorm_app.bids_app.verbs.weights import add_weights, call_weights
from neurostorm_app.bids_app.words.grammar import Parser
from neurostorm_app.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["build_parser", "main", "main_inner"]


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs."""
    parser = Parser(prog="neurostorm-tools", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_phantom(verbs)
    about = "find the runs most like a run"
    add_query(_verb(verbs, "query", call_query, about))
    about = "apply a head that the group level saved to new participants"
    add_predict(_verb(verbs, "predict", call_predict, about))
    about = "embed parcel series that were extracted elsewhere"
    add_series(_verb(verbs, "embed-series", call_series, about))
    about = "describe the connectivity of parcel series that were extracted elsewhere"
    add_describe(_verb(verbs, "describe", call_describe, about))
    about = "make of a cohort's descriptions what others are compared with"
    add_describe_reference(_verb(verbs, "describe-reference", call_describe_reference, about))
    about = "ask a BrainLM for forecasts, reconstructions, networks or perturbations"
    add_explore(_verb(verbs, "explore", call_explore, about))
    about = "ask a language model that was tuned on scans about the runs of a derivative"
    add_ask(_verb(verbs, "ask", call_ask, about))
    about = "say which tools can go on from a derivative, and what is missing for each"
    add_compat(_verb(verbs, "check-compat", call_compat, about))
    add_weights(_verb(verbs, "weights", call_weights, "find, fetch and check weights and atlases"))
    about = "measure how the parcels of a cohort are spread, for models that scale by it"
    add_statistics(_verb(verbs, "statistics", call_statistics, about))
    about = "print job scripts for a SLURM cluster, or say how far they are"
    add_slurm(_verb(verbs, "slurm", call_slurm, about))
    add_train(_verb(verbs, "train", call_train, "train weights: pre-train, tune, or make a demo"))
    about = "print a script with which bash or zsh completes both commands"
    add_completion(_verb(verbs, "completion", call_completion, about))
    return parser


def _verb(verbs: Any, name: str, call: Callable[[argparse.Namespace], None], about: str) -> Any:
    verb = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    verb.set_defaults(call=call)
    return verb


def _add_phantom(verbs: Any) -> None:
    verb = _verb(verbs, "phantom", _phantom, "make a BIDS dataset whose truth is known")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the dataset")
    asked = verb.add_argument_group("what is asked", argument_default=argparse.SUPPRESS)
    asked.add_argument("--participants", type=int, metavar="N", help="people; default 4")
    asked.add_argument("--runs", type=int, metavar="N", help="runs of each; default 2")
    asked.add_argument(
        "--volumes", type=int, dest="n_volumes", metavar="N", help="volumes of a run, one each 2 s"
    )
    asked.add_argument("--seed", type=int, metavar="N", help="the same, the same files; default 1")
    asked.add_argument("--scale", choices=("full", "small", "tiny"), help="small, tiny: for tests")
    kinds = ("none", "pepolar", "phasediff", "phases", "direct")
    asked.add_argument("--fieldmap", choices=kinds, help="uneven field, and scans that show it")
    asked.add_argument("--field", type=float, metavar="X", help="factor of the unevenness")
    asked.add_argument("--echoes", type=int, metavar="N", help="echoes of each series")
    asked.add_argument("--motion", type=float, metavar="MM", help="largest displacement")
    asked.add_argument("--t1w", type=int, metavar="N", help="T1w images of each")
    asked.add_argument("--sbref", action="store_true", help="single-band references")
    asked.add_argument("--activation", type=float, metavar="X", help="factor of the networks")
    asked.add_argument("--drift", type=float, metavar="X", help="factor of the slow drifts")
    asked.add_argument("--spikes", type=int, metavar="N", help="volumes with slices that are off")
    lists = {"type": int, "nargs": "+", "metavar": "N"}
    asked.add_argument("--restless", **lists, help="participants, from 1 on, who move a lot")
    asked.add_argument("--turned", **lists, help="those whose T1w header has the nose pointing up")
    verb.add_argument("--truth", type=Path, metavar="DIR", help="default: OUT-truth")


def _phantom(asked: argparse.Namespace) -> None:
    from neurostorm_app.bids_app.logs import to_terminal
    from neurostorm_app.pipelines.phantom import make_phantom

    to_terminal(0)
    options = {n: v for n, v in vars(asked).items() if n not in {"verb", "call", "out", "truth"}}
    truth = make_phantom(asked.out, truth=asked.truth, **options)
    print(f"dataset: {asked.out}\ntruth: {truth.root}")


def main_inner(argv: Sequence[str] | None = None) -> ExitCode:
    """Do what one verb asks for; errors are raised."""
    asked = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
    asked.call(asked)
    return ExitCode.SUCCESS


def main(argv: Sequence[str] | None = None) -> int:
    """Do what one verb asks for, and turn every error into a message and an exit code."""
    return guarded("neurostorm-tools", main_inner, argv)


if __name__ == "__main__":
    sys.exit(main())
