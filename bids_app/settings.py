"""One call of the app: its options, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from neurostorm_app.bids_app.options import Execution, Flag, Frozen, Science, Selection
from neurostorm_app.bids_app.values import (
    Level,
    check_paths,
    closest,
    expand_labels,
    named_paths,
    parse_level,
)
from neurostorm_app.errors import UsageError

__all__ = [
    "GROUPS",
    "Execution",
    "Flag",
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
    selection: Selection = Selection()
    science: Science = Science()
    execution: Execution = Execution()

    @property
    def runs_models(self) -> bool:
        """Whether there will be series for models."""
        return self.science.output_level == "full" and not self.selection.anat_only


GROUPS: dict[str, type[Frozen]] = {
    "selection": Selection,
    "science": Science,
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
    _ = settings.science.spaces, settings.execution.memory  # wrong ones are refused here
    if settings.science.strategies and not (settings.runs_models and settings.science.has_standard):
        raise UsageError(
            "--denoise takes series in a standard space, and the other options leave those out",
            fix="leave out --denoise, or --anat-only, or a --level below full, or name a standard"
            " space in --output-spaces",
        )
    return settings


def _plain(field: str, value: Any) -> Any:
    """Bring lists, label files and NAME=PATH pairs to what the field holds."""
    if field.endswith("_label"):
        return expand_labels(field, [value] if isinstance(value, str | Path) else value)
    if field in {"weights", "atlas", "derivatives", "parcel_statistics"}:
        if not isinstance(value, Mapping):
            items = [value] if isinstance(value, str | Path) else value
            value = named_paths(field, [str(item) for item in items])
        return check_paths(field, value)
    if field in {"models", "output_spaces", "ignore", "denoise"} and isinstance(value, str):
        return (value,)
    return value


def _checked(model: type[Frozen], values: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(
            f"{option} cannot be {first['input']!r}: {first['msg']}",
            fix=f"see {option} in neurostorm-app --help",
        ) from error
