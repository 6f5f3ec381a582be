"""The app, and one step of it, as interfaces of nipype: for workflows that embed them.

`NeuroStormApp` is the whole command, in a process of its own. `EmbedRun` takes a series that a
workflow has preprocessed itself, and asks one model for its embedding. Nothing else of the app
imports this module.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    CommandLine,
    CommandLineInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from neurostorm_app.bids_app.derivatives import embedding_table, write_json, write_text
from neurostorm_app.bids_app.participant.outputs import embedding_sidecars
from neurostorm_app.bids_app.settings import GROUPS, Execution
from neurostorm_app.bids_app.words.values import expand_labels
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.header import check_tr, read_series_header
from neurostorm_app.pipelines.resources import find_device
from neurostorm_app.pipelines.stage import StandardSeries

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["EmbedRun", "NeuroStormApp"]

_OUTPUTS: Final = {
    "reports": ("{}.html",),
    "anatomy": ("{}/anat/*_T1w.nii.gz", "{}/ses-*/anat/*_T1w.nii.gz"),
    "series": (
        "{}/func/*_desc-preproc_bold.nii.gz",
        "{}/ses-*/func/*_desc-preproc_bold.nii.gz",
    ),
    "confounds": (
        "{}/func/*_desc-confounds_timeseries.tsv",
        "{}/ses-*/func/*_desc-confounds_timeseries.tsv",
    ),
    "embeddings": ("{}/func/*_embedding.tsv", "{}/ses-*/func/*_embedding.tsv"),
    "run_reports": ("logs/{}_*report.json",),
}
"""Outputs, and where they lie; the braces hold the folder of a participant."""


def _trait(name: str, field: FieldInfo, *, harmless: bool) -> Any:
    """Make the trait of an option.

    Parameters
    ----------
    name : str
        Of the field of the settings.
    field : FieldInfo
        The field.
    harmless : bool
        Whether it changes no number, so that another value is no reason to run again.
    """
    flag = "--" + name.replace("_", "-")
    about = {"desc": " ".join((field.description or "").split()), "nohash": harmless}
    kind, origin = field.annotation, get_origin(field.annotation)
    if kind is bool:
        return traits.Bool(argstr=flag, **about)
    about["argstr"] = f"{flag} %s"
    if origin is Literal:
        return traits.Enum(*get_args(kind), **about)
    if origin is tuple:
        return traits.List(traits.Str, **about)
    if origin is Mapping:
        return traits.Dict(traits.Str, File(resolve=True), **about)
    if Path in get_args(kind):
        return (Directory if name.endswith("_dir") else File)(resolve=True, **about)
    whole = int in {kind, *get_args(kind)}
    number = float in {kind, *get_args(kind)}
    return (traits.Int if whole else traits.Float if number else traits.Str)(**about)


def _make_input_spec() -> Any:
    """Make the inputs of the command from the fields of the settings."""
    places: dict[str, Any] = {
        "bids_dir": Directory(
            exists=True, resolve=True, mandatory=True, position=0, argstr="%s", desc="the dataset"
        ),
        "output_dir": Directory(
            resolve=True, mandatory=True, position=1, argstr="%s", desc="folder of the results"
        ),
        "level": traits.Enum(
            "participant", "group", usedefault=True, position=2, argstr="%s", desc="analysis level"
        ),
    }
    options = {
        name: _trait(name, field, harmless=model is Execution)
        for model in GROUPS.values()
        for name, field in model.model_fields.items()
    }
    about = {"__module__": __name__, "__doc__": "Options of the command."}
    return type("AppInputSpec", (CommandLineInputSpec,), about | places | options)


AppInputSpec: Any = _make_input_spec()


class AppOutputSpec(TraitedSpec):  # type: ignore[misc]
    """Files of the participants that were asked for, or of all."""

    output_dir = Directory(exists=True, desc="folder of the results")
    reports = traits.List(File(exists=True), desc="pages; at the group level group.html")
    anatomy = traits.List(File(exists=True), desc="preprocessed T1w images, all spaces")
    series = traits.List(File(exists=True), desc="preprocessed series, all spaces")
    confounds = traits.List(File(exists=True), desc="tables of confounds")
    embeddings = traits.List(File(exists=True), desc="embeddings of runs and of windows")
    run_reports = traits.List(File(exists=True), desc="what came of each run, JSON")


class NeuroStormApp(CommandLine):  # type: ignore[misc]
    r"""The command as a node.

    Inputs are the options of the command with underscores; relative paths are taken from where they
    are set, not from the folder of the node. Options that change no number are left out of the
    hash of the node. A node fails with the message of the app when its exit code is not 0.

    ``command`` is what starts the app instead of ``neurostorm-app``, such as
    ``apptainer run --cleanenv -B /data neurostorm-app.sif``; inputs may be given by keyword too.

    Examples
    --------
    >>> from neurostorm_app.bids_app.interfaces import NeuroStormApp
    >>> app = NeuroStormApp(bids_dir="/tmp", output_dir="/data/out", models=["connectome"])
    >>> app.inputs.participant_label = ["01", "02"]
    >>> app.inputs.derivatives = {"fmriprep": "/data/fmriprep"}
    >>> print(app.cmdline.replace(" --", "\n--"))
    neurostorm-app /tmp /data/out participant
    --derivatives fmriprep=/data/fmriprep
    --models connectome
    --participant-label 01 02
    """

    _cmd = "neurostorm-app"
    input_spec = AppInputSpec
    output_spec = AppOutputSpec

    def _format_arg(self, name: str, trait_spec: Any, value: Any) -> Any:
        """Write an option as a shell takes it; nipype quotes nothing."""
        flag = trait_spec.argstr.removesuffix("%s").strip()
        if isinstance(value, bool):
            return flag if value else None
        if name == "verbose":
            return " ".join([flag] * value)
        words = value if isinstance(value, list) else [value]
        if isinstance(value, dict):
            words = [f"{key}={path}" for key, path in value.items()]
        return " ".join([flag, *(shlex.quote(str(word)) for word in words)]).strip()

    def _list_outputs(self) -> dict[str, Any]:
        given: Any = self.inputs
        root, labels = Path(given.output_dir), given.participant_label
        if given.level == "group":
            return {"output_dir": str(root), "reports": [str(root / "group.html")]}
        if isdefined(labels):
            people = [f"sub-{label}" for label in expand_labels("participant_label", labels)]
        else:
            people = sorted(path.name for path in root.glob("sub-*") if path.is_dir())
        found: dict[str, Any] = {"output_dir": str(root)}
        for name, patterns in _OUTPUTS.items():
            paths = (
                path
                for person in people
                for pattern in patterns
                for path in root.glob(pattern.format(person))
            )
            found[name] = sorted(map(str, paths))
        return found


class EmbedInputSpec(BaseInterfaceInputSpec):  # type: ignore[misc]
    """A preprocessed run, and a model."""

    in_file = File(exists=True, mandatory=True, desc="preprocessed series, in a standard space")
    mask_file = File(exists=True, desc="brain mask on the grid of the series")
    confounds_file = File(exists=True, desc="fMRIPrep's table of confounds, one row a volume")
    repetition_time = traits.Float(desc="seconds; by default what the header says")
    space = traits.Str("MNI152NLin6Asym", usedefault=True, desc="TemplateFlow's name of the space")
    resolution = traits.Str("native", usedefault=True, desc="TemplateFlow's index of the grid")
    model = traits.Str("connectome", usedefault=True, desc="name of the model")
    weights = File(exists=True, desc="file of its weights")
    weights_dir = Directory(exists=True, desc="folder in which weights are looked for")
    atlas = File(exists=True, desc="label image instead of the model's own parcellation")
    precision = traits.Enum("fp32", "tf32", "bf16", usedefault=True, desc="arithmetic")
    device = traits.Str("auto", usedefault=True, nohash=True, desc="auto, cpu, cuda or cuda:N")


class EmbedOutputSpec(TraitedSpec):  # type: ignore[misc]
    """Tables and what is to be known of them."""

    embedding = File(exists=True, desc="one row: the run")
    windows = File(exists=True, desc="one row a window: onset, duration, vector")
    metadata = File(exists=True, desc="sidecar of the first table")
    met = traits.Bool(desc="whether the run is what the model takes")


class EmbedRun(SimpleInterface):  # type: ignore[misc]
    """Embed one preprocessed run with one model; files are written to the folder of the node.

    Examples
    --------
    >>> from neurostorm_app.bids_app.interfaces import EmbedRun
    >>> EmbedRun(model="brainlm-demo").inputs.space
    'MNI152NLin6Asym'
    """

    input_spec = EmbedInputSpec
    output_spec = EmbedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        try:
            self._results |= _embed(self.inputs, Path(runtime.cwd))
        except AppError as error:
            error.add_note(f"what to do: {error.fix}")  # nipype hands on the traceback alone
            raise
        return runtime


def _embed(given: Any, folder: Path) -> dict[str, Any]:
    """Embed what a node was given, and write what came of it."""
    from neurostorm_app.pipelines.embed import load_embedder

    paths = {
        name: Path(value) if isdefined(value := getattr(given, name)) else None
        for name in ("mask_file", "confounds_file", "weights", "weights_dir", "atlas")
    }
    bold = Path(given.in_file)
    name = bold.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_bold")
    asked = given.repetition_time
    tr = asked if isdefined(asked) else read_series_header(bold).tr
    series = StandardSeries(
        name=name,
        bold=bold,
        mask=paths["mask_file"],
        confounds=paths["confounds_file"],
        tr=check_tr(tr, bold),
        space=given.space,
        res=given.resolution,
    )
    embedder = load_embedder(
        given.model,
        weights=paths["weights"],
        weights_dir=paths["weights_dir"],
        atlas=paths["atlas"],
        device=find_device(given.device),
        precision=given.precision,
    )
    found = embedder.embed(series)
    sources = [path.name for path in (bold, series.mask, series.confounds) if path is not None]
    run, windows = embedding_sidecars(embedder.card, found, sources=sources, notes=())
    stem = folder / f"{name}_desc-{embedder.card.label}"
    leading = {
        "onset": np.asarray(found.onsets, dtype=np.float64),
        "duration": np.asarray(found.durations, dtype=np.float64),
    }
    tables = {
        "embedding": (Path(f"{stem}_embedding"), embedding_table(found.pooled[np.newaxis]), run),
        "windows": (
            Path(f"{stem}Windows_embedding"),
            embedding_table(found.windows, leading),
            windows,
        ),
    }
    for path, table, sidecar in tables.values():
        write_text(path.with_suffix(".tsv"), table)
        write_json(path.with_suffix(".json"), sidecar)
    return {
        **{role: str(path.with_suffix(".tsv")) for role, (path, _, _) in tables.items()},
        "metadata": str(tables["embedding"][0].with_suffix(".json")),
        "met": bool(found.conformance["met"]),
    }
