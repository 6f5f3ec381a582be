"""Words of neurostorm-app that are given to the jobs of a cluster: which job gets which.

They are read by the app's own parser, so that a wrong one is refused before anything is queued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.cli import build_parser, parse
from neurostorm_app.bids_app.inputs.dataset import check_dataset, list_participants
from neurostorm_app.bids_app.words.options import Prediction
from neurostorm_app.errors import NothingSelectedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.settings import Settings

__all__ = ["Asked", "read_words"]

OURS: Final = frozenset(
    {"work_dir", "clean_workdir", "shard", "dry_run", "reports_only", "executor"}
)
"""Fields that the scripts set themselves."""
OF_MODELS: Final = frozenset(
    {"models", "weights", "weights_dir", "atlas", "parcel_statistics", "device", "batch_size"}
)
"""Fields that a job without a GPU gets other values of."""
PATHS: Final = frozenset(
    {
        *("weights", "weights_dir", "atlas", "derivatives", "parcel_statistics"),
        *("bids_filter_file", "participants_file"),
    }
)
"""Fields that hold paths."""
PREPROCESS: Final = ("--models", "connectome", "--device", "cpu")
"""Models run wherever there are series; this one needs no weights and takes no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the jobs are to do.

    Parameters
    ----------
    settings : Settings
        Of a call at the participant level.
    labels : tuple of str
        Participants, in the order of the array.
    inputs : tuple of Path
        Files and folders beside the dataset that are read.
    participant, preprocess, group, part : tuple of str
        Words for each kind of job: of all work on participants, of the preprocessing alone, of
        the group level, and of a part of it.
    """

    settings: Settings
    labels: tuple[str, ...]
    inputs: tuple[Path, ...]
    participant: tuple[str, ...]
    preprocess: tuple[str, ...]
    group: tuple[str, ...]
    part: tuple[str, ...]


def read_words(bids_dir: Path, output_dir: Path, words: Sequence[str]) -> Asked:
    """Check the words and find out whom to work on.

    Parameters
    ----------
    bids_dir, output_dir : Path
        The dataset, and the folder of the results.
    words : sequence of str
        Options of neurostorm-app, those of the group level among them.

    Raises
    ------
    UsageError
        If a word is wrong, or is for the scripts to set.
    NothingSelectedError
        If there is no participant.
    """
    options = list(_options(words))
    _check(options)
    ours = _without(options, Prediction.model_fields)
    settings, _ = parse([str(bids_dir), str(output_dir), "participant", *ours])
    everyone = _without(options, {"participant_label"})
    group, _ = parse([str(bids_dir), str(output_dir), "group", *everyone])
    participant = _without(options, {*Prediction.model_fields, "participant_label"})
    preprocess = _without(options, {*Prediction.model_fields, "participant_label", *OF_MODELS})
    return Asked(
        settings=settings,
        labels=_labels(settings),
        inputs=_inputs(settings, group),
        participant=participant,
        preprocess=(*preprocess, *PREPROCESS),
        group=everyone,
        part=participant,
    )


def _check(options: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Refuse what the scripts set, and paths that mean another place where a job starts."""
    for field, (flag, *values) in options:
        if field in OURS:
            raise UsageError(
                f"{flag} after --: the scripts set it for each job", fix="leave it out"
            )
        if field in PATHS:
            given = [flag.partition("=")[2]] if "=" in flag else values
            for path in (word.rpartition("=")[2] for word in given):
                if not path.startswith("/"):
                    raise UsageError(
                        f"{flag} after --: {path!r} is relative, and a job may start elsewhere",
                        fix="write the whole path",
                    )


def _inputs(settings: Settings, group: Settings) -> tuple[Path, ...]:
    """List what is read beside the dataset."""
    science, selection = settings.science, settings.selection
    named = (science.weights, science.atlas, science.derivatives, science.parcel_statistics)
    paths = [path for pairs in named for path in pairs.values()]
    single = (science.weights_dir, selection.bids_filter_file, group.prediction.participants_file)
    paths += [path for path in single if path is not None]
    return tuple(dict.fromkeys(path.resolve() for path in paths))


def _options(words: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """Put each option together with its values, and name the field it belongs to."""
    fields: Mapping[str, str] = {
        flag: action.dest
        for action in build_parser()._actions  # noqa: SLF001  argparse has no other way
        for flag in action.option_strings
    }
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("-"):
            flag = word.partition("=")[0] if word.startswith("--") else word[:2]
            found.append((fields.get(flag, ""), [word]))
        elif found:
            found[-1][1].append(word)
        else:
            raise UsageError(
                f"{word!r} after --: expected options of neurostorm-app",
                fix="write BIDS_DIR and OUTPUT_DIR before --, and options after it",
            )
    return found


def _without(
    options: Iterable[tuple[str, Sequence[str]]], fields: Container[str]
) -> tuple[str, ...]:
    return tuple(word for field, words in options if field not in fields for word in words)


def _labels(settings: Settings) -> tuple[str, ...]:
    root = settings.bids_dir
    check_dataset(root, skip=settings.execution.skip_bids_validation)
    here = {*list_participants(root)}
    here = here.union(*map(list_participants, settings.science.derivatives.values()))
    wanted = settings.selection.participant_label or tuple(sorted(here))
    strange = [label for label in wanted if label not in here]
    if strange or not wanted:
        some = ", ".join(f"sub-{label}" for label in strange[:5])
        raise NothingSelectedError(
            f"{root} holds no participant {some}" if strange else f"{root} holds no participants",
            fix="check BIDS_DIR and --participant-label",
        )
    return wanted
