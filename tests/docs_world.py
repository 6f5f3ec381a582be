"""The folders of the documentation's examples: a dataset, its preprocessed runs, weights of a user.

Small and quickly written, but real: `connectome` embeds the runs, and the group level predicts.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TESTS = Path(__file__).parent
SHAPE, TR, N_VOLUMES = (30, 36, 30), 2.0, 64
AFFINE = np.array([[6.0, 0, 0, -84], [0, 6, 0, -120], [0, 0, 6, -66], [0, 0, 0, 1]])
RAW = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -40], [0, 0, 4, -50], [0, 0, 0, 1]])
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def load_module(name: str) -> Any:
    """Load a file of the tests as a module."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_image(path: Path, data: NDArray[Any], affine: NDArray[Any], tr: float = TR) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header["pixdim"][4] = tr
    nib.save(image, path)
    return path


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_world(root: Path, *, people: int = 12) -> dict[str, Path]:
    """Make the folders, and say which of them stands for which of the examples."""
    rng = np.random.default_rng(20250611)
    bids, prepared = root / "data/bids", root / "data/derivatives/fmriprep"
    write_json(bids / "dataset_description.json", {"Name": "example", "BIDSVersion": "1.8.0"})
    write_json(bids / "task-rest_bold.json", {"RepetitionTime": TR, "TaskName": "rest"})
    (bids / "README").write_text("An example dataset, made by the tests on the fly.\n" * 4)
    about = {"Name": "prepared", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    about["GeneratedBy"] = [{"Name": "fMRIPrep", "Version": "25.2.7"}]  # type: ignore[assignment]
    write_json(prepared / "dataset_description.json", about)
    rows = ["participant_id\tage\tsex\tdiagnosis\tsite"]
    for number in range(1, people + 1):
        label = f"{number:02d}"
        group = "patient" if number % 2 else "control"
        rows.append(f"sub-{label}\t{20 + 2 * number}\t{'FM'[number // 2 % 2]}\t{group}\tA")
        for run in (1, 2) if number < 3 else (1,):
            name = f"sub-{label}_task-rest_run-{run}"
            raw = rng.normal(100, 10, (7, 8, 9, 5)).astype(np.float32)
            write_image(bids / f"sub-{label}/func/{name}_bold.nii.gz", raw, RAW)
            write_prepared(prepared / f"sub-{label}/func", name, rng)
        t1w = rng.normal(100, 10, (7, 8, 9)).astype(np.float32)
        write_image(bids / f"sub-{label}/anat/sub-{label}_T1w.nii.gz", t1w, RAW)
    (bids / "participants.tsv").write_text("\n".join(rows) + "\n")
    levels = {"Levels": {"patient": "ill", "control": "well"}}
    write_json(bids / "participants.json", {"age": {"Units": "year"}, "diagnosis": levels})
    load_module("train_cohort").write_model(root / "models/mine", name="mine")
    return {
        "/data": root / "data",
        "/weights": root / "weights",
        "/models": root / "models",
        "/wheels": root / "wheels",
    }


def write_prepared(folder: Path, name: str, rng: np.random.Generator) -> None:
    """Write one run as fMRIPrep does: series, mask and confounds, in a space of models."""
    grid = np.indices(SHAPE)
    centre = np.array(SHAPE).reshape(3, 1, 1, 1) / 2
    mask = (((grid - centre) / np.array([12, 15, 11]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    courses = rng.normal(0, 12, (8, N_VOLUMES)).cumsum(axis=1)
    regions = (grid[0] // 8 + 4 * (grid[1] // 18)) % 8
    series = 900 + courses[regions] + rng.normal(0, 20, (*SHAPE, N_VOLUMES))
    series = np.where(mask[..., None], series, 0).astype(np.int16)
    stem = f"{name}_space-MNI152NLin6Asym_res-2"
    write_image(folder / f"{stem}_desc-preproc_bold.nii.gz", series, AFFINE)
    write_json(folder / f"{stem}_desc-preproc_bold.json", {"RepetitionTime": TR})
    write_image(folder / f"{stem}_desc-brain_mask.nii.gz", mask.astype(np.uint8), AFFINE)
    moved = rng.normal(0, 0.02, (N_VOLUMES, 6))
    fd = np.abs(np.diff(moved, axis=0)).sum(axis=1)
    columns = ["framewise_displacement", "std_dvars", "global_signal", *MOTION]
    lines = ["\t".join(columns)]
    for i in range(N_VOLUMES):
        first = "n/a" if i == 0 else f"{fd[i - 1]:.5f}"
        rest = "\t".join(f"{x:.5f}" for x in moved[i])
        lines.append(f"{first}\t{'n/a' if i == 0 else '1.0'}\t{rng.normal(900, 2):.4f}\t{rest}")
    (folder / f"{name}_desc-confounds_timeseries.tsv").write_text("\n".join(lines) + "\n")


def finish_world(places: dict[str, Path]) -> None:
    """Add what examples name beside the dataset and its results."""
    data = places["/data"]
    name = "sub-01_task-rest_run-1_space-MNI152NLin6Asym_res-2"
    for kind, ending in (("bold", "desc-preproc_bold"), ("mask", "desc-brain_mask")):
        path = data / f"preprocessed/{kind}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(data / f"derivatives/fmriprep/sub-01/func/{name}_{ending}.nii.gz")
    vector = next((data / "out/sub-02/func").glob("*_run-1_*_desc-connectome_embedding.tsv"))
    name = "sub-9_task-rest_space-MNI152NLin6Asym_res-2_desc-connectome_embedding.tsv"
    elsewhere = data / "elsewhere" / name
    elsewhere.parent.mkdir()
    for ending in (".tsv", ".json"):
        elsewhere.with_suffix(ending).write_bytes(vector.with_suffix(ending).read_bytes())
    new = data / "new_out"  # people of whom nothing was predicted
    new.mkdir()
    for path in (data / "out").iterdir():
        if path.name.startswith(("sub-", "dataset_")):
            (new / path.name).symlink_to(path)
    add_task(data / "out")
    rng = np.random.default_rng(3)
    for number in (1, 2):
        stem = f"sub-{number:02d}_task-rest_space-MNI152NLin2009cAsym_atlas-Tian"
        table = data / f"xcpd/sub-{number:02d}/func/{stem}_stat-mean_timeseries.tsv"
        rows = rng.normal(0, 1, (80, 7)).cumsum(axis=0)
        lines = ["\t".join(f"LH_{i}" for i in range(7))]
        lines += ["\t".join(f"{x:.5f}" for x in row) for row in rows]
        table.parent.mkdir(parents=True)
        table.write_text("\n".join(lines) + "\n")
        write_json(table.with_suffix(".json"), {"RepetitionTime": TR})
    write_json(data / "xcpd/dataset_description.json", {"Name": "XCP-D"})
    i, j, k = np.indices(SHAPE)
    blocks = (i - 8) // 2 + 8 * ((j - 8) // 2) + 80 * ((k - 8) // 2)
    inside = (i >= 8) & (i < 24) & (j >= 8) & (j < 28) & (k >= 8) & (blocks < 424)
    labels = np.where(inside, blocks + 1, 0).astype(np.int16)
    write_image(places["/weights"] / "A424/A424+2mm.nii.gz", labels, AFFINE)
    (places["/weights"] / "pt_neurostorm_mae_5ds.ckpt").touch()


def add_task(out: Path) -> None:
    """Add embeddings of a second task: those of the next participant's first run."""
    tables = sorted(out.glob("sub-*/func/*_task-rest_run-1_*_embedding.tsv"))
    people = sorted({table.name.split("_")[0] for table in tables})
    for table in tables:
        person = table.name.split("_")[0]
        before = people[people.index(person) - 1]
        name = table.name.replace(person, before).replace("task-rest", "task-nback")
        for ending in (".tsv", ".json"):
            copy = (out / before / "func" / name).with_suffix(ending)
            copy.write_bytes(table.with_suffix(ending).read_bytes())


def fill_hub(hub: Any) -> None:
    """Put files of the right names on the hub that is played."""
    from neurostorm_app.models import list_models, read_card

    for name in list_models():
        source = read_card(name).source
        if source is not None and source.revision is not None:
            for file in (source.file, *source.also):
                hub.put(source.repository, source.revision, file, f"{name} {file}".encode())


def write_weights(folder: Path, page: str) -> None:
    """Write random weights under the names of files that a page loads."""
    if page != "docs/library.md":
        return
    import torch

    from neurostorm_app.models import create_model, read_card

    state = create_model("neurostorm-mae-untrained").state_dict()
    content = {
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "hyper_parameters": dict(read_card("neurostorm-mae").config),
    }
    torch.save(content, folder / "pt_neurostorm_mae_5ds.ckpt")
