"""The verb ``explore``: what a BrainLM tells of the runs of a derivative, beyond their embedding.

Each kind writes one or two tables and one sidecar that says of which weights they are, how they
were made, and what they do not mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.explore import Explorer, ReadyRun
    from neurostorm_app.pipelines.parcel_networks import NetworkScore

__all__ = ["add_explore", "call_explore"]

Rows = list[list[Any]]
"""Of a table, the first are its columns."""
ABOUT: Final = {
    "forecast": "how well the volumes that follow are forecast, beside simpler methods",
    "reconstruct": "how well each parcel is guessed when every token was hidden once",
    "networks": "whether attention tells the networks of parcels, beside their series",
    "perturb": "which parcels must change for the class token to become that of another run",
}


def add_explore(verb: Any) -> None:
    """Add the kinds and their arguments to the parser of the verb."""
    kinds = verb.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, about in ABOUT.items():
        kind = kinds.add_parser(name, help=about, description=about, allow_abbrev=False)
        _add_shared(kind)
        if name == "forecast":
            kind.add_argument("--seen", type=int, metavar="N", help="volumes; default 180")
            kind.add_argument("--horizon", type=int, metavar="N", help="volumes; default 20")
            kind.add_argument("--lstm", action="store_true", help="train a small LSTM too")
        if name == "reconstruct":
            modes = ("first", "mean")
            kind.add_argument("--mode", choices=modes, default="first", help="one round, or three")
        if name == "networks":
            told = (
                "index (the parcel's label) of each parcel and its network, as --describe takes it"
            )
            kind.add_argument("--networks", type=Path, required=True, metavar="TSV", help=told)
            told = "whose attention; from 0, or from the end; default -1, the last"
            kind.add_argument("--layer", type=int, default=-1, metavar="N", help=told)
        if name == "perturb":
            told = "a run, as sub-01_task-rest, whose class token is the target"
            kind.add_argument("--towards", required=True, metavar="RUN", help=told)


def _add_shared(kind: Any) -> None:
    kind.add_argument("derivatives", type=Path, metavar="OUTPUT_DIR", help="of this app")
    kind.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    kind.add_argument("--model", default="brainlm", metavar="NAME", help="a BrainLM")
    told = "preprocessed images, or tables of parcel series (as of --denoise or XCP-D)"
    kind.add_argument(
        "--from", dest="source", choices=("bold", "tables"), default="bold", help=told
    )
    kind.add_argument("--participant-label", nargs="+", metavar="LABEL", help="only these")
    kind.add_argument("--weights", type=Path, metavar="PATH", help="file of the weights")
    kind.add_argument("--weights-dir", type=Path, metavar="DIR", help="where weights lie")
    kind.add_argument("--atlas", type=Path, metavar="PATH", help="the model's label image")
    kind.add_argument("--tr", type=float, metavar="S", help="of tables whose sidecar lacks it")


def call_explore(asked: argparse.Namespace) -> None:
    """Do what the verb asks for; a run that cannot be read or answer is left out, and named.

    Parameters
    ----------
    asked : Namespace
        What `add_explore` defines.

    Raises
    ------
    AppError
        If the model is not of BrainLM, or no run can be read or has an answer.
    """
    from neurostorm_app.bids_app.derivatives import write_json, write_text
    from neurostorm_app.bids_app.logs import to_terminal
    from neurostorm_app.bids_app.verbs.explore_runs import find_runs, read_runs
    from neurostorm_app.pipelines.explore import load_explorer

    to_terminal(0)
    if asked.kind == "forecast":
        _check_lengths(asked)
    explorer = load_explorer(
        asked.model, weights=asked.weights, weights_dir=asked.weights_dir, atlas=asked.atlas
    )
    runs, left_out = read_runs(find_runs(asked, explorer), explorer)
    kinds: dict[str, Callable[..., tuple[dict[str, Rows], dict[str, Any]]]] = {
        "forecast": _forecast,
        "reconstruct": _reconstruct,
        "networks": _networks,
        "perturb": _perturb,
    }
    tables, facts = kinds[asked.kind](asked, explorer, runs, left_out)
    runs = [run for run in runs if run.name not in left_out]
    asked.out.mkdir(parents=True, exist_ok=True)
    stem = f"desc-{explorer.embedder.card.label}_{asked.kind}"
    about = _label(asked, explorer, runs) | {"RunsLeftOut": left_out} | facts
    write_json(asked.out / f"{stem}.json", about)
    for name, rows in tables.items():
        text = "".join("\t".join(_cell(value) for value in row) + "\n" for row in rows)
        write_text(asked.out / f"{stem}{name}.tsv", text)
    print(f"{asked.out}: {asked.kind} of {len(runs)} runs by {explorer.embedder.card.name}")


def _check_lengths(asked: argparse.Namespace) -> None:
    """Refuse to see, or to forecast, no volumes."""
    for option in ("seen", "horizon"):
        n = getattr(asked, option)
        if n is not None and n < 1:
            raise UsageError(
                f"--{option} {n}: volumes are counted from 1",
                fix=f"give --{option} a number of 1 or more, or leave it out",
            )


def _forecast(
    asked: argparse.Namespace,
    explorer: Explorer,
    runs: Sequence[ReadyRun],
    left_out: dict[str, str],
) -> tuple[dict[str, Rows], dict[str, Any]]:
    from neurostorm_app.bids_app.verbs.explore_runs import ask_each
    from neurostorm_app.pipelines.forecast import HORIZON, SEEN, cut_windows
    from neurostorm_app.pipelines.forecast_study import forecast_runs

    seen = SEEN if asked.seen is None else asked.seen
    horizon = HORIZON if asked.horizon is None else asked.horizon

    def count(run: ReadyRun) -> int:
        """Count the windows of a run."""
        return len(cut_windows(run.series.astype("float64"), length=seen + horizon))

    long = [run for run, _ in ask_each(runs, count, left_out)]
    scores = forecast_runs(
        explorer, long, seen=seen, horizon=horizon, lstm="with" if asked.lstm else "without"
    )
    said = {name: score.as_dict() for name, score in scores.items()}
    columns = ["method", "R2", "r", "MSE"]
    steps: Rows = [["step", *scores]]
    each = zip(*(score.mse_steps for score in scores.values()), strict=True)
    steps += [[number, *values] for number, values in enumerate(each, start=1)]
    rows = [[name, *(one[column] for column in columns[1:])] for name, one in said.items()]
    n = len(next(iter(scores.values())).mse_windows)
    facts = {
        "VolumesSeen": seen,
        "VolumesForecast": horizon,
        "Windows": n,
        "Limits": "BrainLM was trained to fill in tokens anywhere, not to forecast; weights that "
        "you trained to forecast know the people they were trained on. Series are scaled by the "
        "whole run. A filter of the series that looks both ways in time makes all forecasts look "
        "better than they are. ar, var and lstm are fitted to other people.",
    }
    return {"": [columns, *rows], "_steps": steps}, facts


def _reconstruct(
    asked: argparse.Namespace,
    explorer: Explorer,
    runs: Sequence[ReadyRun],
    left_out: dict[str, str],
) -> tuple[dict[str, Rows], dict[str, Any]]:
    from neurostorm_app.bids_app.verbs.explore_runs import ask_each
    from neurostorm_app.pipelines.reconstruct_run import (
        HowGuessed,
        RunReconstruction,
        reconstruct_run,
    )

    def guess(run: ReadyRun) -> RunReconstruction:
        """Guess a run's parcels."""
        how = HowGuessed(mode=asked.mode)
        return reconstruct_run(explorer.model, run.series, run.xyz, window=run.window, how=how)

    rows: Rows = [["run", "index", "R2"]]
    said = {}
    for run, made in ask_each(runs, guess, left_out):
        each = zip(run.labels, made.r2_parcels, strict=True)
        rows += [[run.name, label, r2] for label, r2 in each]
        said[run.name] = made.as_dict()
    limits = "R2 is lower for noisy series and higher for smooth ones; it is no data quality."
    return {"": rows}, {"Mode": asked.mode, "Runs": said, "Limits": limits}


def _networks(
    asked: argparse.Namespace,
    explorer: Explorer,
    runs: Sequence[ReadyRun],
    left_out: dict[str, str],
) -> tuple[dict[str, Rows], dict[str, Any]]:
    import numpy as np

    from neurostorm_app.bids_app.verbs.explore_runs import ask_each
    from neurostorm_app.pipelines.describe_networks import read_networks
    from neurostorm_app.pipelines.explore import score_run_networks

    known = read_networks(asked.networks).of_labels(runs[0].labels.tolist())
    names = sorted({name for name in known if name is not None})
    codes = [-1 if name is None else names.index(name) for name in known]

    def score(run: ReadyRun) -> tuple[Mapping[str, NetworkScore], NDArray[Any]]:
        """Tell the networks of the parcels that are there."""
        present = np.ptp(run.series, axis=1) > 0
        return score_run_networks(explorer, run, np.where(present, codes, -1), layer=asked.layer)

    rows: Rows = [["run", "features", "accuracy", "balanced_accuracy", "chance", "p"]]
    parcels: Rows = [["run", "index", "network", "attention", "series", "class_attention"]]
    for run, (scores, shares) in ask_each(runs, score, left_out):
        rows += [[run.name, kind, *one.as_dict().values()] for kind, one in scores.items()]
        told = [
            [None if code < 0 else names[code] for code in scores[kind].predicted]
            for kind in ("attention", "series")
        ]
        each = zip(run.labels, known, *told, shares, strict=True)
        parcels += [[run.name, *values] for values in each]
    limits = (
        "Neighbouring parcels are alike in smooth data: compare with series, and with a control of "
        "random weights. Layers differ: choose one on other data than it is judged on."
    )
    return {"": rows, "_parcels": parcels}, {"Layer": asked.layer, "Limits": limits}


def _perturb(
    asked: argparse.Namespace,
    explorer: Explorer,
    runs: Sequence[ReadyRun],
    left_out: dict[str, str],
) -> tuple[dict[str, Rows], dict[str, Any]]:
    from neurostorm_app.bids_app.verbs.explore_runs import ask_each
    from neurostorm_app.pipelines.explore import perturb_run
    from neurostorm_app.pipelines.perturb import LIMITS

    targets = [run for run in runs if run.name == asked.towards]
    if not targets or len(runs) < 2:
        raise UsageError(
            f"--towards {asked.towards}: the runs are {', '.join(run.name for run in runs)}; one "
            "of them is the target, and one more is perturbed",
            fix="name one of these runs",
        )
    rows: Rows = [["run", "index", "size"]]
    said = {}
    others = [run for run in runs if run.name != asked.towards]
    answers = ask_each(others, lambda run: perturb_run(explorer, run, targets[0]), left_out)
    for run, found in answers:
        rows += [[run.name, *values] for values in zip(run.labels, found.size, strict=True)]
        said[run.name] = {k: v for k, v in found.as_dict().items() if k != "Limits"}
    return {"": rows}, {"Towards": asked.towards, "Runs": said, "Limits": LIMITS}


def _label(
    asked: argparse.Namespace, explorer: Explorer, runs: Sequence[ReadyRun]
) -> dict[str, Any]:
    """Say of which weights a result is."""
    from neurostorm_app.bids_app.participant.outputs import CONTROL, DEMO

    card = explorer.embedder.card
    mark = (CONTROL if card.control else "") + (DEMO if card.demo else "")
    return {
        "Description": f"{mark}{card.title}: {ABOUT[asked.kind]}.",
        "Demo": card.demo,
        "Control": card.control,
        "Model": {
            "Name": card.name,
            "Label": card.label,
            "License": card.licence,
            "Limits": list(card.limits),
            **explorer.embedder.hashes,
        },
        "Input": asked.source,
        "RunNames": [run.name for run in runs],
    }


def _cell(value: object) -> str:
    """Write a cell; what is not known, or no finite number, is n/a."""
    if value is None or value != value:  # noqa: PLR0124
        return "n/a"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
