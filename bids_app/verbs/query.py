"""The verb ``query``: the runs most like a run, as a table for people or as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from neurostorm_app.bids_app.group.query import Match

__all__ = ["add_query", "call_query"]


def add_query(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    verb.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="of the group level")
    verb.add_argument(
        "--like",
        required=True,
        metavar="RUN",
        help="a run of the index, as sub-01_task-rest_run-1, or the path of an _embedding.tsv",
    )
    verb.add_argument("-k", type=int, default=10, metavar="N", help="how many; default 10")
    help_text = "default: the model of the file; of a run, connectome if it is there"
    verb.add_argument("--model", metavar="NAME", help=help_text)
    verb.add_argument("--json", action="store_true", help="print JSON")


def call_query(asked: argparse.Namespace) -> None:
    """Do what the verb asks for."""
    from neurostorm_app.bids_app.group.query import choose_index, find_nearest, label_of, read_about

    root = asked.output_dir
    label = choose_index(root, asked.model or label_of(asked.like))
    matches = find_nearest(root, asked.like, asked.k, label=label)
    about = read_about(root, label)
    if asked.json:
        print(json.dumps(_answer(asked.like, label, about, matches), indent=2))
    else:
        print("\n".join(_table(asked.like, label, about, matches)))


def _answer(
    like: str, label: str, about: Mapping[str, Any], matches: Sequence[Match]
) -> dict[str, Any]:
    index = about["Index"]
    return {
        "like": like,
        "model": label,
        "demo": about["Demo"],
        "index": {"kind": index["Kind"], "recall": index["Recall"]},
        "matches": [dataclasses.asdict(match) for match in matches],
    }


def _table(like: str, label: str, about: Mapping[str, Any], matches: Sequence[Match]) -> list[str]:
    """Write what was found in columns; what is to be known of it stands above."""
    lines = [about["Description"]] if about["Demo"] else []
    index, width = about["Index"], max((len(match.participant) for match in matches), default=0)
    if recall := index["Recall"]:
        lines.append(
            f"the index is approximate ({index['Kind']}): of the {recall['Nearest']} nearest runs "
            f"it finds {recall['Value']:.1%}"
        )
    lines.append(f"nearest to {like} by {label}:")
    for rank, match in enumerate(matches, start=1):
        who = match.participant.ljust(width)
        lines.append(f"{rank:3d}  {match.similarity:+.3f}  {who}  {match.run}")
    return lines
