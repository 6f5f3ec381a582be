"""The verb ``describe-reference``: what descriptions of a cohort amount to, to compare others with.

One run of each participant counts, the first by its name. The table names who is in it: keep it as
you would the dataset.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import DataError, NoInputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from neurostorm_app.pipelines.describe_cohort import Member

__all__ = ["add_describe_reference", "call_describe_reference"]


def add_describe_reference(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    verb.add_argument("out", type=Path, metavar="OUT_FILE", help="a .tsv; a .json goes beside it")
    verb.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="output folders with descriptions (--describe, or the verb describe); each is a "
        "cohort of its own people, all of them are joined",
    )
    verb.add_argument("--atlas-name", metavar="NAME", help="where runs are described by several")
    verb.add_argument(
        "--pipeline", metavar="TEXT", help="how the runs were prepared; default: this app's version"
    )
    for option, what in (("--task-label", "task"), ("--participant-label", "participant")):
        verb.add_argument(
            option, action="append", metavar="LABEL", help=f"only this {what}; may be repeated"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The description of a run, as it was written."""

    path: Path
    who: str
    atlas: str
    basis: Mapping[str, Any]
    member: Member


def call_describe_reference(asked: argparse.Namespace) -> None:
    """Do what the verb asks for.

    Parameters
    ----------
    asked : Namespace
        What `add_describe_reference` defines.

    Raises
    ------
    UsageError
        If there are too few participants, or descriptions by several atlases.
    NoInputError
        If there are none.
    DataError
        If they were made in different ways, or cannot be read.
    """
    from neurostorm_app import __version__
    from neurostorm_app.bids_app.derivatives import write_json, write_text
    from neurostorm_app.pipelines.describe_cohort import build_reference

    if asked.out.suffix != ".tsv":
        raise UsageError(
            f"{asked.out}: a reference is a table", fix="give the name of a file in .tsv"
        )
    found = _of_one_atlas(list(_find(asked)), asked)
    members = {one.who: one.member for one in reversed(found)}
    members = {who: members[who] for who in sorted(members)}
    table, about = build_reference(
        members,
        basis=found[0].basis,
        pipeline=asked.pipeline or f"neurostorm-app {__version__}",
    )
    # A table without its JSON file is refused: a call that is cut short leaves none of two makes.
    asked.out.with_suffix(".json").unlink(missing_ok=True)
    write_text(asked.out, table)
    write_json(asked.out.with_suffix(".json"), about)
    print(
        f"{asked.out}: {len(table.splitlines()) - 1} numbers of {len(members)} participants by "
        f"{found[0].atlas}; of {len(found)} runs, the first of each participant"
    )


def _find(asked: argparse.Namespace) -> Iterator[_Found]:
    """Read the descriptions of all runs that are asked for, in the order of their names."""
    from neurostorm_app.bids_app.inputs.entities import parse_name
    from neurostorm_app.bids_app.participant.descriptor_files import DESC, SUFFIX

    wanted = {label.removeprefix("sub-") for label in asked.participant_label or ()}
    tasks = set(asked.task_label or ())
    roots = list(dict.fromkeys(path.resolve() for path in asked.folders))
    for root in roots:
        if not root.is_dir():
            raise NoInputError(f"{root} is no folder with descriptions", fix="check the path")
        for path in sorted(root.glob(f"sub-*/**/*_desc-{DESC}_{SUFFIX}.json")):
            said = parse_name(path)
            if (wanted and said["sub"] not in wanted) or (tasks and said.get("task") not in tasks):
                continue
            if asked.atlas_name not in (None, said.get("atlas")):
                continue
            who = f"sub-{said['sub']}" if len(roots) == 1 else f"{root.name}/sub-{said['sub']}"
            yield _read(path, who)


def _read(path: Path, who: str) -> _Found:
    from neurostorm_app.pipelines.describe import is_comparable
    from neurostorm_app.pipelines.describe_cohort import Member

    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        basis = dict(said["Basis"])
        values = {n: float(v) for n, v in said["Values"].items() if is_comparable(n)}
        member = Member(values=values, digest=str(said["Digest"]))
        return _Found(path=path, who=who, atlas=str(basis["Atlas"]), basis=basis, member=member)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as why:
        raise DataError(
            f"{path}: no description of a run can be read: {type(why).__name__} {why}",
            fix="remove it, and describe the run again",
        ) from why


def _of_one_atlas(found: Sequence[_Found], asked: argparse.Namespace) -> Sequence[_Found]:
    """Refuse descriptions that have not one and the same basis."""
    from neurostorm_app.pipelines.describe_reference import name_differing

    if not found:
        raise NoInputError(
            f"{', '.join(map(str, asked.folders))}: holds no descriptions that were asked for",
            fix="describe runs first: neurostorm-app ... --describe; check the labels",
        )
    atlases = sorted({one.atlas for one in found})
    if len(atlases) > 1:
        raise UsageError(
            f"there are descriptions by the atlases {', '.join(atlases)}; a reference is of one",
            fix=f"choose it: --atlas-name {atlases[0]}",
        )
    for one in found:
        if other := name_differing(found[0].basis, one.basis):
            raise DataError(
                f"{one.path}: was made otherwise than {found[0].path.name}: {other} differs",
                fix="describe all runs alike, or leave it out with --participant-label",
            )
    return found
