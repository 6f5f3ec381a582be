"""The units of work of a participant: what each depends on, and the files it stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.derivatives import derivative_path
from neurostorm_app.bids_app.describe import bids_uri
from neurostorm_app.bids_app.privacy import rules_of
from neurostorm_app.bids_app.provenance import Unit, sha256_of
from neurostorm_app.pipelines.stage import StandardSeries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.engines import Embed, Engines, ModelFiles
    from neurostorm_app.bids_app.inputs.precomputed import Precomputed
    from neurostorm_app.bids_app.participant.pieces import RunPieces
    from neurostorm_app.bids_app.privacy import Rules
    from neurostorm_app.bids_app.provenance import Ledger
    from neurostorm_app.bids_app.results import Progress
    from neurostorm_app.bids_app.settings import Science, Settings
    from neurostorm_app.errors import AppError
    from neurostorm_app.pipelines.resources import Plan
    from neurostorm_app.pipelines.stage import OutputSpace

__all__ = [
    "Call",
    "Ready",
    "choose_space",
    "embedding_paths",
    "embedding_unit",
    "ready_from_precomputed",
    "ready_from_raw",
]

MODEL_ROLES: Final = ("weights", "config", "atlas", "coordinates", "statistics")
"""Files of a model whose content changes its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What all participants of one call share.

    Parameters
    ----------
    settings : Settings
        Of the call.
    engines : Engines
        The doors to the pipelines.
    ledger : Ledger
        The records of the output folder.
    plan : Plan
        Processes, threads and memory.
    models : tuple of ModelFiles
        Models whose files are here.
    missing : mapping
        Errors of models whose files are not.
    scratch : Path
        Deletable.
    series_dir : Path
        Deletable too, on the disk of the results: series are written there and renamed.
    loaded : dict
        Models in memory, or why they could not be loaded, by name.
    hashes : dict
        Hashes of files of models by path.
    held : set
        Keys of pieces that were found whole; they are not looked at again.
    """

    settings: Settings
    engines: Engines
    ledger: Ledger
    plan: Plan
    models: tuple[ModelFiles, ...]
    missing: Mapping[str, AppError]
    scratch: Path
    series_dir: Path
    loaded: dict[str, Embed | AppError] = field(default_factory=dict)
    hashes: dict[Path, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    @property
    def stops(self) -> bool:
        """Whether the first failure ends the work."""
        return self.settings.execution.stop_on_first_crash

    def is_over(self, progress: Mapping[str, Progress]) -> bool:
        """Tell whether a run has failed and that ends the work."""
        return self.stops and any(run.errors for run in progress.values())

    @property
    def root(self) -> Path:
        """The output folder."""
        return self.settings.output_dir

    @property
    def roots(self) -> dict[str, Path]:
        """Folders of datasets by the name in their BIDS URIs; the nearest first."""
        given = dict(self.settings.science.derivatives)
        return {"": self.root, **given, "raw": self.settings.bids_dir}

    @property
    def rules(self) -> Rules:
        """What is hidden from the outputs."""
        return rules_of(self.settings, strict=self.settings.execution.privacy == "strict")

    @property
    def masking(self) -> dict[str, str]:
        """What of the privacy changes images, for the keys of those that show a face."""
        return {"privacy": "strict"} if self.rules.strict else {}

    def uri(self, path: Path) -> str:
        """Write a path as a BIDS URI."""
        return bids_uri(path, self.roots)

    def hash_file(self, path: Path | None) -> str | None:
        """Hash a file of weights or an atlas, once a call."""
        if path is None:
            return None
        if path not in self.hashes:
            self.hashes[path] = sha256_of(path)
        return self.hashes[path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A run in standard space, ready for models.

    Parameters
    ----------
    participant : str
        Without ``sub-``.
    series : StandardSeries
        The files.
    hashes : mapping
        SHA-256 by role: ``series``, ``mask``, ``confounds``.
    notes : tuple of str
        What is to be known of the series.
    """

    participant: str
    series: StandardSeries
    hashes: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, Path]:
        """The files by role."""
        named = {
            "series": self.series.bold,
            "mask": self.series.mask,
            "confounds": self.series.confounds,
        }
        return {role: path for role, path in named.items() if path is not None}


def choose_space(spaces: Iterable[OutputSpace], wanted: str) -> OutputSpace:
    """Choose the output space that a model is fed from.

    Parameters
    ----------
    spaces : iterable of OutputSpace
        Those that are made; one of them is standard.
    wanted : str
        The space of the model's contract.

    Returns
    -------
    OutputSpace
        The model's own, so that nothing is interpolated twice; else the first standard one.
    """
    standard = [space for space in spaces if space.is_standard]
    return next((space for space in standard if space.name == wanted), standard[0])


def ready_from_raw(pieces: RunPieces, space: OutputSpace, call: Call) -> Ready:
    """Take a run that we have preprocessed, in one of its spaces; its records hold the hashes."""
    label, run = space.label, pieces.run
    where = {
        "series": (pieces.series[label], f"bold:{label}"),
        "mask": (pieces.references[label], f"mask:{label}"),
        "confounds": (pieces.confounds, "confounds"),
    }
    paths: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    for name, (piece, role) in where.items():
        if piece is not None:
            paths[name] = piece.paths[role]
            known = call.ledger.output_hashes(piece.unit.name)
            hashes[name] = known[str(paths[name].relative_to(call.root))]
    series = StandardSeries(
        name=run.name,
        bold=paths["series"],
        mask=paths["mask"],
        confounds=paths["confounds"],
        tr=run.tr,
        space=space.name,
        res=space.res or "native",
    )
    return Ready(participant=run.participant, series=series, hashes=hashes, notes=run.notes)


def ready_from_precomputed(item: Precomputed, call: Call) -> Ready:
    """Take a run from a derivative; its files are hashed unless a record knows them."""
    series = item.series
    name = next(iter(_embedding_names(series, call.models)), item.name)
    ready = Ready(participant=item.participant, series=series, hashes={}, notes=item.notes)
    hashes = {
        role: call.ledger.hash_input(path, name, call.uri(path))
        for role, path in ready.files.items()
    }
    return Ready(participant=item.participant, series=series, hashes=hashes, notes=item.notes)


def _embedding_names(series: StandardSeries, models: Iterable[ModelFiles]) -> list[str]:
    return [_embedding_name(series, files.card.label) for files in models]


def _embedding_name(series: StandardSeries, label: str) -> str:
    pairs = [f"{key}-{value}" for key, value in _entities(series, label).items() if value]
    return "_".join([series.name, *pairs, "embedding"])


def _entities(series: StandardSeries, desc: str) -> dict[str, str | None]:
    res = series.res if series.res != "native" else None
    return {"space": series.space, "res": res, "desc": desc}


def embedding_unit(ready: Ready, files: ModelFiles, call: Call) -> Unit:
    """Describe the embedding of one run by one model."""
    card, series = files.card, ready.series
    settings: dict[str, Any] = {
        "card": card.model_dump(mode="json"),
        "precision": call.settings.science.precision,
        "tr": series.tr,
        "notes": list(ready.notes),
        **_input_settings(files, call.settings.science),
    }
    inputs = {call.uri(path): ready.hashes[role] for role, path in ready.files.items()}
    for role in MODEL_ROLES:
        if (sha256 := call.hash_file(getattr(files, role))) is not None:
            inputs[role] = sha256
    return Unit(
        name=_embedding_name(series, card.label),
        kind="embedding",
        about={"participant": ready.participant, "run": series.name, "model": card.name},
        settings=settings,
        inputs=inputs,
    )


def _input_settings(files: ModelFiles, science: Science) -> dict[str, Any]:
    """Take of the settings those that change the numbers of this model."""
    contract = files.card.contract
    most: dict[str, Any] = {}
    if science.max_windows is not None and contract.window is not None:
        most = {"max_windows": science.max_windows}
    if contract.kind == "volume":
        return {"clip_policy": science.clip_policy, "parity": science.parity, **most}
    if contract.kind == "voxels" or contract.scaling == "none":
        return most
    return {"input_gain": science.input_gain, **most}


def embedding_paths(series: StandardSeries, label: str, root: Path) -> dict[str, Path]:
    """Paths of the tables of a run: ``run``, ``windows``, ``prediction`` and their sidecars."""

    def path(desc: str, extension: str, suffix: str = "embedding") -> Path:
        """Name one of them."""
        return derivative_path(
            root,
            series.name,
            "func",
            suffix=suffix,
            extension=extension,
            entities=_entities(series, desc),
        )

    return {
        "run": path(label, ".tsv"),
        "run_json": path(label, ".json"),
        "windows": path(f"{label}Windows", ".tsv"),
        "windows_json": path(f"{label}Windows", ".json"),
        "prediction": path(label, ".tsv", "prediction"),
        "prediction_json": path(label, ".json", "prediction"),
    }
