"""One call of the app: its options, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from neurostorm_app.bids_app.words.options import (
    Execution,
    Flag,
    Frozen,
    Prediction,
    Science,
    Selection,
)
from neurostorm_app.bids_app.words.suggestions import suggest_value
from neurostorm_app.bids_app.words.values import (
    Level,
    check_paths,
    closest,
    expand_labels,
    named_paths,
    parse_level,
)
from neurostorm_app.errors import NoInputError, UsageError

__all__ = [
    "GROUPS",
    "Execution",
    "Flag",
    "Prediction",
    "Science",
    "Selection",
    "Settings",
    "build_settings",
]


class Settings(Frozen):
    """One call of the app."""

    bids_dir: Path
    output_dir: Path
    level: Level
    selection: Selection = Field(default_factory=Selection)
    science: Science = Field(default_factory=Science)
    prediction: Prediction = Field(default_factory=Prediction)
    execution: Execution = Field(default_factory=Execution)

    @property
    def runs_models(self) -> bool:
        """Whether there will be series for models."""
        return self.science.output_level == "full" and not self.selection.anat_only


GROUPS: dict[str, type[Frozen]] = {
    "selection": Selection,
    "science": Science,
    "prediction": Prediction,
    "execution": Execution,
}
"""The models whose fields are the options, in the order of ``--help``."""


def build_settings(
    bids_dir: Any, output_dir: Any, level: str, options: Mapping[str, Any]
) -> Settings:
    """Build the settings of one call, or say which option is wrong.

    Parameters
    ----------
    bids_dir, output_dir : path
        The dataset, and the folder of the results.
    level : str
        A name of BIDS Apps 1.0 or 2.0.
    options : mapping
        Options by field name; values as typed by the user or as Python objects.

    Raises
    ------
    AnalysisLevelError
        If the level is not one of ours.
    UsageError
        If an option is unknown, or its value is not allowed.
    """
    owners = {field: group for group, model in GROUPS.items() for field in model.model_fields}
    values: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for field, value in options.items():
        if field not in owners:
            raise UsageError(
                f"there is no option {field!r}",
                fix=closest(field, owners) or "see neurostorm-app --help",
            )
        values[owners[field]][field] = _plain(field, value)
    groups = {group: _checked(model, values[group]) for group, model in GROUPS.items()}
    settings = Settings(
        bids_dir=Path(bids_dir).resolve(),
        output_dir=Path(output_dir).resolve(),
        level=parse_level(level),
        **groups,
    )
    # Wrong ones are refused here.
    execution = settings.execution
    _ = settings.science.spaces, execution.memory, execution.part, execution.loudness
    _check_group_options(settings, options)
    if settings.science.parity == "upstream" and settings.science.max_windows is not None:
        raise UsageError(
            "--max-windows with --parity upstream: upstream embeds the windows it tiles",
            fix="leave one of them out",
        )
    _check_series_options(settings)
    return settings


def _check_series_options(settings: Settings) -> None:
    """Refuse options that take series where none are made, and those that would do nothing."""
    science = settings.science
    asked = {"--denoise": bool(science.strategies), "--describe": science.describe}
    for option in (name for name, wanted in asked.items() if wanted):
        if not (settings.runs_models and science.has_standard):
            raise UsageError(
                f"{option} takes series in a standard space, and the other options leave those out",
                fix=f"leave out {option}, or --anat-only, or a --level below full, or name a "
                "standard space in --output-spaces",
            )
    idle = [name for name in ("reference_descriptors", "components") if getattr(science, name)]
    if idle and not science.describe:
        raise UsageError(
            f"{_flags(idle)}: without --describe nothing is described", fix="add --describe"
        )


def _check_group_options(settings: Settings, given: Mapping[str, Any]) -> None:
    """Refuse options of the group level at the other one, and those that would do nothing."""
    ours = [name for name in given if name in Prediction.model_fields and given[name]]
    ours += ["shard"] if settings.execution.shard else []
    prediction = settings.prediction
    if settings.level != "group" and ours:
        raise UsageError(
            f"{_flags(ours)}: an option of the group level, and the level is {settings.level}",
            fix="leave it out, and call the group level when all participants are done",
        )
    # Re-identification, which needs no target, has intervals too.
    idle = [name for name in ours if name not in {"shard", "confidence", "index_kind"}]
    if idle and not prediction.target:
        raise UsageError(
            f"{_flags(idle)}: without --target nothing is predicted",
            fix="name a column of participants.tsv: --target age",
        )
    if prediction.target and settings.execution.shard:
        raise UsageError(
            f"--target with --shard {settings.execution.shard}: a part is no cohort",
            fix="collect the parts first, then call with --target and without --shard",
        )
    if prediction.index_kind != "auto" and settings.execution.shard:
        raise UsageError(
            f"--index-kind with --shard {settings.execution.shard}: a part has no index",
            fix="collect the parts first, then call with --index-kind and without --shard",
        )
    if prediction.harmonise == "combat" and "none" in prediction.covariates:
        raise UsageError(
            "--harmonise combat with --covariates none: the site is a confound",
            fix="leave one of them out",
        )
    if prediction.harmonise == "combat" and prediction.save_heads:
        raise UsageError(
            "--save-heads with --harmonise combat: a head would need the site of new people",
            fix="leave one of them out",
        )
    table = prediction.participants_file
    if table is not None and not table.is_file():
        raise NoInputError(
            f"--participants-file: {table} is no file", fix="check the path; is it mounted?"
        )


def _flags(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _plain(field: str, value: Any) -> Any:
    """Bring lists, label files and NAME=PATH pairs to what the field holds."""
    if field.endswith("_label"):
        return expand_labels(field, [value] if isinstance(value, str | Path) else value)
    if field in {"weights", "atlas", "derivatives", "parcel_statistics"}:
        if not isinstance(value, Mapping):
            items = [value] if isinstance(value, str | Path) else value
            value = named_paths(field, [str(item) for item in items])
        return check_paths(field, value)
    if field in {"target", "covariates", "baselines"}:
        return _split_commas([value] if isinstance(value, str) else value)
    if field in {"models", "output_spaces", "ignore", "denoise"} and isinstance(value, str):
        return (value,)
    return value


def _split_commas(words: Iterable[Any]) -> tuple[str, ...]:
    """Take words apart at commas, each once; a name may hold a blank."""
    found = [part.strip() for word in words for part in str(word).split(",")]
    return tuple(dict.fromkeys(part for part in found if part))


def _checked(model: type[Frozen], values: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        near = suggest_value(first["input"], first["msg"])
        raise UsageError(
            f"{option} cannot be {first['input']!r}: {first['msg']}",
            fix=f"{near} See {option} in neurostorm-app --help"
            if near
            else f"see {option} in neurostorm-app --help",
        ) from error
