"""What the user can set: what to work on, what changes the numbers, and how to run.

Each field is one option of the command line, one keyword of ``neurostorm_app.run`` and one
row of the documentation; its docstring is its help. `Science` changes numbers and so is part
of the key of every result; `Selection` and `Execution` change none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurostorm_app.bids_app.values import (
    check_paths,
    closest,
    expand_labels,
    named_paths,
    parse_memory,
    parse_space,
)
from neurostorm_app.errors import AnalysisLevelError, UsageError

__all__ = [
    "GROUPS",
    "Execution",
    "Flag",
    "Level",
    "Science",
    "Selection",
    "Settings",
    "build_settings",
]

Level = Literal["participant", "group"]
LEVELS: dict[str, Level] = {
    "participant": "participant",
    "subject": "participant",
    "session": "participant",
    "run": "participant",
    "group": "group",
    "dataset": "group",
}
"""Names of BIDS Apps 1.0 and 2.0; the second are other words for the first."""


@dataclass(frozen=True, slots=True)
class Flag:
    """How a field looks on the command line when its name alone does not say it.

    Parameters
    ----------
    metavar : str
        Stands for the value in the help.
    aliases : tuple of str
        Further spellings; the underscore spelling of each is added by itself.
    """

    metavar: str | None = None
    aliases: tuple[str, ...] = ()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Selection(_Frozen):
    """What to work on."""

    participant_label: Annotated[tuple[str, ...], Flag("LABEL")] = ()
    """Participants, with or without "sub-", or a file with one label a line. Default: all."""
    session_label: Annotated[tuple[str, ...], Flag("LABEL", ("--session-id",))] = ()
    """Sessions, or a file with one label a line. Default: all."""
    task_label: Annotated[tuple[str, ...], Flag("LABEL", ("-t", "--task-id"))] = ()
    """Tasks, or a file with one label a line. Default: all."""
    run_label: Annotated[tuple[str, ...], Flag("LABEL", ("--run-id",))] = ()
    """Runs, or a file with one label a line. Default: all."""
    bids_filter_file: Annotated[Path | None, Flag("FILE")] = None
    """JSON as for fMRIPrep: {"bold": {"task": "rest", "session": null}, "t1w": {...}}; null
    takes files without the entity, "*" files with any value of it."""


class Science(_Frozen):
    """What changes the numbers."""

    models: Annotated[tuple[str, ...], Field(min_length=1), Flag("NAME")] = ("connectome",)
    """Models to embed with; "neurostorm-tools weights list" shows them."""
    weights: Annotated[Mapping[str, Path], Flag("NAME=PATH")] = {}
    """Weights file of a model."""
    weights_dir: Annotated[Path | None, Flag("DIR")] = None
    """Folder where the weights files of the models lie."""
    atlas: Annotated[Mapping[str, Path], Flag("NAME=PATH")] = {}
    """Parcellation (integers, NIfTI) of a model that takes parcels, instead of its own."""
    derivatives: Annotated[Mapping[str, Path], Flag("[NAME=]PATH", ("-d", "--datasets"))] = {}
    """fMRIPrep-like folders; a run that is preprocessed there is not preprocessed again."""
    output_spaces: Annotated[tuple[str, ...], Field(min_length=1), Flag("SPACE:res-N")] = (
        "MNI152NLin6Asym:res-2",
    )
    """Standard space of the preprocessed series: MNI152NLin6Asym:res-2 or
    MNI152NLin2009cAsym:res-2."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the networks; tf32 needs a CUDA device."""
    clip_policy: Literal["dense", "upstream-eval"] = "dense"
    """Which windows of a run are embedded: all of it, or one window every 400 volumes, as the
    released fine-tuned NeuroSTORM files were evaluated."""
    parity: Literal["none", "upstream"] = "none"
    """upstream: prepare volumes by upstream's own arithmetic (header TR, no affine, 8 bits), for
    comparison only."""
    parcel_statistics: Annotated[Mapping[str, Path], Flag("NAME=PATH")] = {}
    """Statistics of the parcels of your cohort, for a model that scales by them; made by
    "neurostorm-tools statistics". Default: those of the run."""
    input_gain: Annotated[float, Field(gt=0), Flag("X")] = 1.0
    """Factor on the scaled series of parcels before the network."""
    dummy_scans: Annotated[int | None, Field(ge=0), Flag("N", ("--dummy-volumes",))] = None
    """Initial volumes that are not in steady state. Default: found in the series."""
    bold2anat_dof: Annotated[int, Field(ge=6, le=6), Flag("6", ("--bold2t1w-dof",))] = 6
    """Degrees of freedom of the BOLD-to-T1w registration; only 6 is implemented."""
    fd_spike_threshold: Annotated[float, Field(gt=0), Flag("MM")] = 0.5
    """Framewise displacement in mm above which a volume is a motion outlier."""
    dvars_spike_threshold: Annotated[float, Field(gt=0), Flag("X")] = 1.5
    """Standardised DVARS above which a volume is a motion outlier."""
    random_seed: Annotated[int, Field(ge=0), Flag("N")] = 42
    """Seed of everything that draws random numbers."""

    @property
    def space(self) -> tuple[str, str]:
        """Space and resolution index of the preprocessed series."""
        return parse_space(self.output_spaces)


class Execution(_Frozen):
    """How to run; nothing here changes a number."""

    work_dir: Annotated[Path | None, Flag("DIR", ("-w",))] = None
    """Scratch folder, kept. Default: a folder in OUTPUT_DIR that is removed on success."""
    clean_workdir: bool = False
    """Remove what was put into --work-dir on success."""
    nprocs: Annotated[
        int | None,
        Field(gt=0),
        Flag("N", ("--n-procs", "--nthreads", "--n-cpus", "--cpus")),
    ] = None
    """Processes at a time. Default: the cores this job may use."""
    omp_nthreads: Annotated[int | None, Field(gt=0), Flag("N", ("--ants-nthreads",))] = None
    """Threads of one process. Default: the cores this job may use."""
    mem: Annotated[str | None, Flag("SIZE", ("--mem-mb", "--memory"))] = None
    """Memory to stay under, such as 8G or 8000M; a bare number is MB."""
    mem_gb: Annotated[float | None, Field(gt=0), Flag("GB")] = None
    """The same in GB."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Flag("DEVICE")] = "auto"
    """Where the networks run: auto, cpu, cuda or cuda:N."""
    batch_size: Annotated[int | None, Field(gt=0), Flag("N")] = None
    """Windows that go through a network together. Default: what memory allows."""
    dry_run: bool = False
    """Print the plan, run by run, and stop."""
    reports_only: bool = False
    """Write the pages again from what is in OUTPUT_DIR, and do nothing else."""
    skip_bids_validation: Annotated[bool, Flag(None, ("--skip-bids-validator",))] = False
    """Do not validate BIDS_DIR."""
    stop_on_first_crash: bool = False
    """Stop at the first run that fails instead of finishing the others."""
    verbose: Annotated[int, Flag(None, ("-v",))] = 0
    """Say more; twice for everything."""

    @property
    def memory(self) -> int | None:
        """Memory to stay under in bytes."""
        return parse_memory(self.mem, self.mem_gb)


class Settings(_Frozen):
    """One call of the app."""

    bids_dir: Path
    output_dir: Path
    level: Level
    selection: Selection = Selection()
    science: Science = Science()
    execution: Execution = Execution()


GROUPS: dict[str, type[_Frozen]] = {
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
        One of ``LEVELS``.
    options : mapping
        Options by field name; values as typed by the user or as Python objects.

    Raises
    ------
    AnalysisLevelError
        If the level is not one of ours.
    UsageError
        If an option is unknown, or its value is not allowed.
    """
    known = LEVELS.get(level)
    if known is None:
        raise AnalysisLevelError(
            f"the analysis level is {level!r}; expected one of {', '.join(LEVELS)}",
            fix=closest(level, LEVELS) or "write participant or group",
        )
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
        level=known,
        **groups,
    )
    _ = settings.science.space, settings.execution.memory  # wrong ones are refused here
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
    if field in {"models", "output_spaces"} and isinstance(value, str):
        return (value,)
    return value


def _checked(model: type[_Frozen], values: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(
            f"{option} cannot be {first['input']!r}: {first['msg']}",
            fix=f"see {option} in neurostorm-app --help",
        ) from error
