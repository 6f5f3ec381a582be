"""An output tree as the app writes it, small and made up: what the reports read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = "space-MNI152NLin6Asym_res-2"
AFFINE = np.array([[6.0, 0, 0, -90], [0, 6, 0, -126], [0, 0, 6, -72], [0, 0, 0, 1]])
SHAPE = (31, 37, 29)
TR = 2.0


def write_image(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header["pixdim"][4] = TR
    nib.save(image, path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_table(path: Path, columns: dict[str, list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(columns), *("\t".join(str(cell) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def head(shape: tuple[int, int, int] = SHAPE, affine: np.ndarray = AFFINE) -> np.ndarray:
    """Make tissues: 0 outside, grey matter 1, white matter 2, CSF 3."""
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    x, y, z = np.moveaxis(nib.affines.apply_affine(affine, ijk), -1, 0)
    radius = np.sqrt((x / 68) ** 2 + ((y + 18) / 86) ** 2 + ((z - 8) / 66) ** 2)
    folds = 0.05 * np.sin(x / 7) * np.sin(y / 8) * np.cos(z / 9)
    dseg = np.zeros(shape, dtype=np.int16)
    dseg[radius < 1] = 1
    dseg[radius + folds < 0.78] = 2
    dseg[((np.abs(x) - 12) / 8) ** 2 + ((y + 10) / 30) ** 2 + ((z - 12) / 14) ** 2 < 1] = 3
    return dseg


@dataclass(kw_only=True)
class Tree:
    """Writes one output tree."""

    root: Path
    n_volumes: int = 60
    shape: tuple[int, int, int] = SHAPE
    affine: np.ndarray | None = None
    seed: int = 7

    def __post_init__(self) -> None:
        self.affine = AFFINE if self.affine is None else self.affine
        self.vectors: dict[tuple[str, str], np.ndarray] = {}
        self.dseg = head(self.shape, self.affine)
        write_json(
            self.root / "dataset_description.json",
            {
                "Name": "neurostorm-app: embeddings of fMRI runs",
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "neurostorm-app", "Version": "0.1.0"}],
                "DatasetLinks": {},
            },
        )

    def rng(self, *marks: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, *(b for m in marks for b in str(m).encode())])

    def anatomy(self, participant: str) -> None:
        stem = self.root / f"sub-{participant}" / "anat" / f"sub-{participant}_{SPACE}"
        t1w = np.choose(self.dseg, [0, 62, 95, 25]).astype(np.float32)
        t1w += self.rng(participant).normal(0, 2, self.shape).astype(np.float32) * (self.dseg > 0)
        write_image(Path(f"{stem}_desc-preproc_T1w.nii.gz"), t1w, self.affine)
        write_image(
            Path(f"{stem}_desc-brain_mask.nii.gz"), (self.dseg > 0).astype("u1"), self.affine
        )
        write_image(Path(f"{stem}_dseg.nii.gz"), self.dseg, self.affine)
        write_json(
            self.root / "logs" / f"sub-{participant}_qc.json",
            {"brain_mask": {"dice": 0.962, "verdict": "ok"}, "tissues": {"gm_litres": 0.71}},
        )

    def native(self, name: str, *, shift: float = 6.0) -> None:
        """Write a run's reference before and after correction, and the tissues it is judged by."""
        person = name.split("_", maxsplit=1)[0]
        func, anat = self.root / person / "func" / name, self.root / person / "anat" / person
        after = np.choose(self.dseg, [0, 700, 620, 900]).astype(np.float32)
        before = np.roll(after, round(shift / 6), axis=1)
        write_image(Path(f"{func}_desc-hmc_boldref.nii.gz"), before, self.affine)
        write_image(Path(f"{func}_desc-coreg_boldref.nii.gz"), after, self.affine)
        mask = (self.dseg > 0).astype("u1")
        write_image(Path(f"{func}_desc-brain_mask.nii.gz"), mask, self.affine)
        field = (40 * np.sin(np.arange(self.shape[1]) / 5))[None, :, None] * (self.dseg > 0)
        path = Path(f"{func}_fmapid-a_desc-boldref_fieldmap.nii.gz")
        write_image(path, field.astype(np.float32), self.affine)
        moved = " ".join(map(str, [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]))
        Path(f"{func}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt").write_text(
            "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
            f"Parameters: {moved}\nFixedParameters: 0 0 0\n"
        )
        write_image(Path(f"{anat}_dseg.nii.gz"), self.dseg, self.affine)
        for number, tissue in enumerate(("GM", "WM", "CSF"), start=1):
            shares = (self.dseg == number).astype(np.float32)
            write_image(Path(f"{anat}_label-{tissue}_probseg.nii.gz"), shares, self.affine)

    def series(self, name: str, *, quiet: bool = True) -> None:
        """Write the preprocessed series of a run with its mask and reference."""
        rng = self.rng(name)
        stem = self.root / name.split("_", maxsplit=1)[0] / "func" / f"{name}_{SPACE}"
        t = np.arange(self.n_volumes)
        base = np.choose(self.dseg, [0, 700, 620, 900]).astype(np.float32)
        slow = np.sin(2 * np.pi * t * TR / 60) + 0.5 * np.sin(2 * np.pi * t * TR / 23 + 1)
        weight = np.choose(self.dseg, [0, 9, 3, 14]).astype(np.float32)
        bold = base[..., None] + weight[..., None] * slow.astype(np.float32)
        bold += rng.normal(0, 8, bold.shape).astype(np.float32) * (self.dseg > 0)[..., None]
        for spike in () if quiet else (18, 19, 20, 41):
            bold[..., spike] += 60 * (self.dseg > 0)
        write_image(Path(f"{stem}_desc-preproc_bold.nii.gz"), bold.astype("f4"), self.affine)
        write_image(
            Path(f"{stem}_desc-brain_mask.nii.gz"), (self.dseg > 0).astype("u1"), self.affine
        )
        write_image(Path(f"{stem}_boldref.nii.gz"), bold.mean(-1), self.affine)
        write_json(
            Path(f"{stem}_desc-preproc_bold.json"),
            {"RepetitionTime": TR, "TaskName": "rest", "SliceTimingCorrected": False},
        )

    def confounds(self, name: str, *, quiet: bool = True, n: int | None = None) -> None:
        n = n or self.n_volumes
        rng = self.rng(name, "confounds")
        steps = rng.normal(0, 0.02, (n, 6)) * [1, 1, 1, 0.01, 0.01, 0.01]
        for spike in () if quiet else [18, 19, 20, 41, *range(44, min(n, 58))]:
            steps[spike, :3] += rng.choice([-1, 1], 3) * rng.uniform(0.5, 1.0, 3)
        moved = np.cumsum(steps, 0)
        fd = np.abs(steps * [1, 1, 1, 50, 50, 50]).sum(1)
        columns: dict[str, list[Any]] = {
            "global_signal": list(np.round(650 + 9 * np.sin(np.arange(n) / 5), 3)),
            "csf": list(np.round(890 + rng.normal(0, 3, n), 3)),
            "white_matter": list(np.round(620 + rng.normal(0, 1, n), 3)),
            "std_dvars": ["n/a", *np.round(1 + 2 * fd[1:], 4)],
            "framewise_displacement": ["n/a", *np.round(fd[1:], 5)],
        }
        for i, axis in enumerate(("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")):
            columns[axis] = list(np.round(moved[:, i], 6))
        folder = self.root / name.split("_", maxsplit=1)[0] / "func"
        write_table(folder / f"{name}_desc-confounds_timeseries.tsv", columns)

    def embedding(
        self, name: str, label: str, *, demo: bool = False, reasons: tuple[str, ...] = ()
    ) -> None:
        """Write windows and the run's vector of one model."""
        centre = self.rng(name.split("_", maxsplit=1)[0], label).normal(0, 1, 45)
        rng = self.rng(name, label)
        n = 1 if label == "connectome" else 8
        windows = centre + 0.4 * np.cumsum(rng.normal(0, 0.5, (n, 45)), 0)
        windows = windows.astype(np.float32)
        pooled = windows.mean(0, keepdims=True)
        dims = [f"dim{i:03d}" for i in range(45)]
        stem = self.root / name.split("_", maxsplit=1)[0] / "func" / f"{name}_{SPACE}_desc-{label}"
        times = {"onset": [i * 14.0 for i in range(n)], "duration": [40.0] * n}
        write_table(
            Path(f"{stem}Windows_embedding.tsv"),
            times | {dim: list(column) for dim, column in zip(dims, windows.T, strict=True)},
        )
        write_table(
            Path(f"{stem}_embedding.tsv"), dict(zip(dims, ([v] for v in pooled[0]), strict=True))
        )
        person = name.split("_", 1)[0]
        sidecar = {
            "Description": ("DEMO WEIGHTS, NOT FOR SCIENCE. " if demo else "") + "Embedding.",
            "Demo": demo,
            "Sources": [f"bids::{person}/func/{name}_{SPACE}_desc-preproc_bold.nii.gz"],
            "Model": {"Name": label, "Version": "1", "License": "Apache-2.0", "Limits": ["small"]},
            "InputConformance": {
                "met": not reasons,
                "reasons": list(reasons),
                "distance": 0.31,
                "coverage": 0.95,
            },
            "Precision": "fp32",
            "Device": "cpu",
        }
        write_json(Path(f"{stem}_embedding.json"), sidecar)
        write_json(Path(f"{stem}Windows_embedding.json"), sidecar)
        self.vectors[name, label] = pooled[0]

    def report(self, name: str, **more: Any) -> None:
        content = {
            "run": name,
            "status": "done",
            "exit_code": 0,
            "error": None,
            "errors": [],
            "stages": [{"name": "preprocess", "seconds": 212.4}],
            "outputs": [],
            "models": ["connectome"],
        }
        write_json(self.root / "logs" / f"{name}_report.json", content | more)

    def record(self, name: str, **more: Any) -> None:
        content = {
            "key": "ab12" * 16,
            "kind": "bold",
            "settings": {"space": "MNI152NLin6Asym", "seed": 42},
            "inputs": {"bids:raw:sub-01/func/x_bold.nii.gz": "cd34" * 16},
            "outputs": {"a": {"sha256": "ef", "size": 3, "mtime": 1}},
            "started": "2026-11-21T11:20:30+00:00",
            "seconds": 212.4,
            "peak_memory": 2.1 * 2**30,
            "versions": {"numpy": "2.3.5", "python": "3.11.7"},
        }
        write_json(self.root / "prov" / f"{name}.json", content | more)

    def run(self, name: str, *, quiet: bool = True, reasons: tuple[str, ...] = ()) -> None:
        """Write a whole run."""
        self.series(name, quiet=quiet)
        self.confounds(name, quiet=quiet)
        self.embedding(name, "connectome")
        self.embedding(name, "neurostormDemo", demo=True, reasons=reasons)
        self.report(name)
        self.record(f"{name}_bold")
        write_json(
            self.root / "logs" / f"{name}_qc.json",
            {"coregistration": {"cost": -0.61, "verdict": "ok"}},
        )

    def retrieval(self, names: list[str]) -> None:
        """Write the tables of the group level."""
        for label in ("connectome", "neurostormDemo"):
            vectors = np.stack([self.vectors[name, label] for name in names])
            people = [name.split("_")[0] for name in names]
            columns: dict[str, list[Any]] = {"participant_id": people, "run": names}
            columns |= {f"dim{i:03d}": list(column) for i, column in enumerate(vectors.T)}
            write_table(self.root / "retrieval" / f"desc-{label}_embedding.tsv", columns)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Start an output tree without participants."""
    return Tree(root=tmp_path / "out")


def fill(tree: Tree) -> Tree:
    """Make two participants: a quiet run each, a moved one, and one that failed."""
    for participant in ("01", "02"):
        tree.anatomy(participant)
        (tree.root / "logs" / f"sub-{participant}_methods.md").write_text(
            "Results come from *neurostorm-app* 0.1.0 [@n4].\n"
        )
        tree.run(f"sub-{participant}_task-rest_run-1")
        tree.run(
            f"sub-{participant}_task-rest_run-2",
            quiet=False,
            reasons=("the series has a TR of 2 s; the model takes 0.8 s",),
        )
    tree.report(
        "sub-01_task-rest_run-3",
        status="failed",
        exit_code=65,
        error={
            "what": "sub-01_task-rest_run-3_bold.nii.gz: the file ends early",
            "fix": "fetch it",
        },
        errors=[
            {"what": "sub-01_task-rest_run-3_bold.nii.gz: the file ends early", "fix": "fetch it"}
        ],
    )
    tree.retrieval([f"sub-{p}_task-rest_run-{r}" for p in ("01", "02") for r in (1, 2)])
    return tree


@pytest.fixture(scope="session")
def make_tree() -> Callable[..., Tree]:
    """Give the maker of trees."""
    return lambda root, **options: Tree(root=root, **options)


@pytest.fixture(scope="session")
def make_full() -> Callable[[Path], Tree]:
    """Give the maker of a tree with two participants."""
    return lambda folder: fill(Tree(root=folder / "out"))


@pytest.fixture
def full(tree: Tree) -> Tree:
    """Make a tree with two participants."""
    return fill(tree)
