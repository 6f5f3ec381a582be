"""A tiny raw dataset, and engines that write files of the right names in no time."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.engines import Engines, ModelFiles, Preprocessed, Wanted
from neurostorm_app.bids_app.participant.images import (
    ANAT,
    CONFOUNDS,
    anat_in,
    maps_between,
    of_field,
    of_fieldmap,
    of_fit,
    references_in,
    series_in,
)
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.errors import UsageError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.embed import RunEmbedding

if TYPE_CHECKING:
    from pathlib import Path

AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -40], [0, 0, 4, -50], [0, 0, 0, 1]])
POISON = {
    "PatientName": "Jane^Doe",
    "PatientBirthDate": "19700101",
    "DeviceSerialNumber": "SN-4711",
    "InstitutionAddress": "1 Poison Street",
    "AcquisitionDateTime": "2020-02-02T02:02:02",
}


def write_image(path: Path, shape: tuple[int, ...], *, tr: float = 2.0, seed: int = 0) -> Path:
    """Write a small image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if len(shape) == 4:
        image.header.set_zooms((3, 3, 4, tr))
    nib.save(image, path)
    return path


class Dataset:
    """A raw BIDS dataset that can be spoilt."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.json("dataset_description.json", {"Name": "tiny", "BIDSVersion": "1.8.0"})
        (root / "README").write_text(
            "A tiny dataset for tests, made on the fly by the tests.\n" * 4
        )
        self.json("task-rest_bold.json", {"RepetitionTime": 2.0, "TaskName": "rest", **POISON})

    def json(self, name: str, content: object) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    def participant(self, label: str, *, runs=("1", "2"), session=None, t1w=True) -> None:
        folder = self.root / f"sub-{label}"
        stem = f"sub-{label}"
        if session:
            folder /= f"ses-{session}"
            stem += f"_ses-{session}"
        seed = int(hashlib.sha256(stem.encode()).hexdigest()[:6], 16)
        if t1w:
            write_image(folder / "anat" / f"{stem}_T1w.nii.gz", (7, 8, 9), seed=seed)
        for i, run in enumerate(runs):
            name = f"{stem}_task-rest_run-{run}_bold.nii.gz"
            write_image(folder / "func" / name, (7, 8, 9, 5), seed=seed + i + 1)

    def bold(self, label: str, run: str = "1") -> Path:
        return self.root / f"sub-{label}" / "func" / f"sub-{label}_task-rest_run-{run}_bold.nii.gz"


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    made = Dataset(tmp_path / "bids")
    made.participant("01")
    made.participant("02")
    return made


class Fake:
    """Engines that count how often they are called."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.broken: dict[str, Exception] = {}
        self.streams: list[list[str]] = []
        self.prediction: dict[str, Any] | None = None
        self.wanted: list[Wanted] = []
        self.qc: dict[str, Any] = {
            "reference": {"slice_timing": {"reference_s": 0.98}, "notes": []},
            "quality": {"verdict": "pass", "reasons": []},
        }

    def engines(self) -> Engines:
        return Engines(
            preprocess=self.preprocess,
            find_model=self.find_model,
            load_model=self.load_model,
            write_subject_page=self.write_subject_page,
            write_group_page=self.write_group_page,
        )

    def _fail(self, name: str) -> None:
        if name in self.broken:
            raise self.broken[name]

    def preprocess(self, wanted, *, work_dir, series_dir, settings, plan) -> Preprocessed:
        """Make each file that is wanted and was not handed over, and count what was estimated."""
        self.wanted.append(wanted)
        first = (wanted.t1w or (wanted.runs[0].bold,))[0]
        label = first.name.split("_")[0].removeprefix("sub-")
        self._fail(f"preprocess sub-{label}")
        seed = settings.science.random_seed
        standard = [space for space in wanted.spaces if space.is_standard]
        anat = None
        if wanted.anat is not None or wanted.t1w:
            anat = dict(wanted.anat or {})
            if wanted.anat is None:
                self.calls[f"anat {label}"] += 1
                anat |= self._files(ANAT, work_dir / "anat", wanted.t1w[0], seed)
            for space in standard:
                maps = maps_between("T1w", space.name, datatype="anat")
                outputs = [o for o in (*maps, *anat_in(space)) if o.role not in anat]
                if f"to:{space.name}" not in anat:
                    self.calls[f"normalize {label} {space.name}"] += 1
                anat |= self._files(outputs, work_dir / f"anat-{space.name}", first, seed)
        made, failed = {}, {}
        for run in wanted.runs:
            if run.name in self.broken:
                self.calls[f"fit {run.name}"] += 1
                failed[run.name] = self.broken[run.name]
                continue
            made[run.name] = self._run(run, wanted, work_dir / run.name, series_dir, seed)
        return Preprocessed(
            anat=anat, bold=made, failed=failed, methods="What was done.", timings={"n4": 1.0}
        )

    def _run(self, run, wanted, folder: Path, series_dir: Path, seed: int) -> dict[str, Path]:
        files = dict(wanted.fits.get(run.name, {}))
        known = set(files)
        fieldmap = run.fieldmap
        if "hmc_xfm" not in files:
            self.calls[f"fit {run.name}"] += 1
            skipped = {"t2star"} if not run.echoes else set()
            has_t1w = bool(wanted.t1w or wanted.anat)
            skipped |= {"gm", "wm", "csf"} if has_t1w else {"coreg_xfm"}
            outputs = [o for o in of_fit() if o.role not in skipped]
            if fieldmap:
                outputs += of_field(fieldmap.name)
                outputs += of_fieldmap(fieldmap.name, fieldmap.kind)
            files |= self._files(outputs, folder, run.bold, seed)
        wants = {"minimal": 0, "resampling": 1, "full": 2}[wanted.level]
        for space in wanted.spaces:
            if not (wanted.t1w or wanted.anat) and space.is_standard:
                outputs = maps_between("boldref", space.name, datatype="func")
                outputs = [o for o in outputs if o.role not in known]
                files |= self._files(outputs, folder / space.name, run.bold, seed)
            if wants >= 1:
                files |= self._files(references_in(space), folder / space.name, run.bold, seed)
            if wants == 2:
                self.calls[f"series {run.name} {space.label}"] += 1
                place = series_dir / run.name / space.name
                files |= self._files(series_in(space), place, run.bold, seed)
        if wants == 2 and "confounds" not in known:
            self.calls[f"confounds {run.name}"] += 1
            files |= self._files(CONFOUNDS, folder, run.bold, seed)
        files["qc"] = folder / "qc.json"
        files["qc"].parent.mkdir(parents=True, exist_ok=True)
        files["qc"].write_text(json.dumps(self.qc))
        return files

    def _files(self, outputs, folder: Path, source: Path, seed: int) -> dict[str, Path]:
        """Write one small file a role whose content depends on source and settings."""
        folder.mkdir(parents=True, exist_ok=True)
        seed += int(hashlib.sha256(source.read_bytes()).hexdigest()[:6], 16)
        files = {}
        for output in outputs:
            path = folder / f"{output.role.replace(':', '-')}{output.extension}"
            if output.extension == ".nii.gz":
                shape = (5, 6, 7, 4) if output.suffix == "bold" else (5, 6, 7)
                write_image(path, shape, seed=seed)
            elif output.extension == ".tsv":
                path.write_text("trans_x\n" + "0.0\n" * 4)
            elif output.extension == ".json":
                path.write_text("{}")
            else:
                path.write_text(f"{seed}")
            files[output.role] = path
        if any(output.role == "t1w" for output in outputs):
            files["qc"] = folder / "qc.json"
            files["qc"].write_text('{"ok": true}')
        return files

    def find_model(self, name, science) -> ModelFiles:
        self._fail(f"find {name}")
        if name not in {"connectome", "toy"}:
            raise UsageError(f"there is no model {name!r}", fix="did you mean connectome?")
        card = read_card("connectome")
        if name == "toy":
            card = card.model_copy(update={"name": "toy", "label": "toy", "demo": True})
        return ModelFiles(card=card, weights=science.weights.get(name), atlas=None)

    def load_model(self, files, settings, plan):
        self.calls[f"load {files.card.name}"] += 1
        self._fail(f"load {files.card.name}")
        device = settings.execution.device

        def embed(runs):
            self.streams.append([])
            for index, series in enumerate(runs):
                self.streams[-1].append(series.name)
                try:
                    yield index, self._embed(files.card.name, series, device)
                except Exception as error:  # noqa: BLE001  as the real one gives them
                    yield index, error

        return embed

    def _embed(self, name, series, device) -> RunEmbedding:
        self.calls[f"embed {name} {series.name}"] += 1
        self._fail(f"embed {series.name}")
        seed = int(hashlib.sha256(series.bold.read_bytes()).hexdigest()[:6], 16)
        windows = np.random.default_rng(seed).normal(size=(3, 11)).astype(np.float32)
        return RunEmbedding(
            windows=windows,
            onsets=np.array([0.0, 2.0, 4.0]),
            durations=np.full(3, 4.0),
            pooled=windows.mean(axis=0),
            conformance={"met": True, "reasons": []},
            record={"engine": "fake", "device": device, "seconds": 0.1, "n_threads": 1},
            prediction=self.prediction,
        )

    def write_subject_page(self, output_dir, participant) -> Path:
        self.calls[f"page {participant}"] += 1
        self._fail(f"page {participant}")
        path = output_dir / f"sub-{participant}.html"
        path.write_text("<html></html>")
        return path

    def write_group_page(self, output_dir) -> Path:
        self.calls["group page"] += 1
        path = output_dir / "group.html"
        path.write_text("<html></html>")
        return path


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def settings(dataset, tmp_path):
    """Build settings on the tiny dataset; validation is off unless it is asked for."""

    def build(level="participant", **options):
        options.setdefault("skip_bids_validation", True)
        options.setdefault("nprocs", 1)
        return build_settings(dataset.root, tmp_path / "out", level, options)

    return build
