"""A network of a few thousand numbers, and preprocessed runs of people it takes no time to read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from neurostorm_app.models import read_card
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.card import GridSpec
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.models.neurostorm_files import Config

if TYPE_CHECKING:
    from pathlib import Path

SIZE, MM, WINDOW, TR = 16, 12.0, 4, 2.0
CONFIG: dict[str, Any] = {
    "img_size": [SIZE, SIZE, SIZE, WINDOW],
    "in_chans": 1,
    "embed_dim": 4,
    "window_size": [2, 2, 2, 2],
    "first_window_size": [2, 2, 2, 2],
    "patch_size": [2, 2, 2, 1],
    "depths": [1, 1, 1, 1],
    "c_multiplier": 2,
    "last_layer_full_MSA": True,
    "spatial_mask": "window",
    "time_mask": "random",
    "mask_ratio": 0.5,
}
AFFINE = np.array([[MM, 0, 0, -90.0], [0, MM, 0, -110.0], [0, 0, MM, -80.0], [0, 0, 0, 1.0]])


def write_model(folder: Path, *, seed: int = 0, name: str = "tiny") -> Path:
    """Write an untrained autoencoder as a model of a user."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = NeuroStormMae(Config.of(CONFIG))
    path = folder / "weights.safetensors"
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    save_file(state, path)
    demo = read_card("neurostorm-demo")
    grid = GridSpec(shape=(SIZE,) * 3, affine=tuple(map(tuple, AFFINE[:3].tolist())))
    contract = demo.contract.model_copy(update={"grid": grid, "window": WINDOW, "stride": WINDOW})
    card = demo.model_copy(
        update={
            "name": name,
            "label": name,
            "embedded": False,
            "demo": False,
            "file": path.name,
            "sha256": hash_file(path),
            "size": path.stat().st_size,
            "config": CONFIG,
            "dimension": 32,
            "contract": contract,
            "limits": (),
        }
    )
    (folder / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    assert asdict(network.config)["embed_dim"] == 4
    return folder


def write_cohort(
    root: Path, *, people: int = 8, runs: int = 1, volumes: int = 10, planted: float = 0.0
) -> Path:
    """Write derivatives of people, every second of whom has a planted bright lobe.

    The group and an age that grows with the lobe stand in participants.tsv.
    """
    grid = np.indices((SIZE,) * 3)
    away = np.linalg.norm((grid - 7.5 + 0.0).reshape(3, -1), axis=0).reshape((SIZE,) * 3)
    mask, lobe = away < 6, (away < 6) & (grid[0] < 6)
    still = 1000 + 200 * np.cos(grid[1] / 3) * np.cos(grid[2] / 2)
    rows = ["participant_id\tage\tgroup\tsame"]
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.10.0"}')
    for person in range(people):
        rng = np.random.default_rng(person)
        label, group = f"{person + 1:02d}", person % 2
        age = 30 + 10 * group + rng.normal()
        rows.append(f"sub-{label}\t{age:.1f}\t{'patient' if group else 'control'}\tone")
        folder = root / f"sub-{label}" / "func"
        folder.mkdir(parents=True)
        for run in range(1, runs + 1):
            series = still[..., None] + rng.normal(0, 30, (*still.shape, volumes))
            series[lobe] *= 1 + planted * group
            stem = f"sub-{label}_task-rest_run-{run}_space-MNI152NLin6Asym_res-2"
            _save(series * mask[..., None], folder / f"{stem}_desc-preproc_bold.nii.gz")
            _save(mask.astype(np.uint8), folder / f"{stem}_desc-brain_mask.nii.gz")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def _save(data: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(data.astype(np.float32 if data.ndim == 4 else np.uint8), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((MM, MM, MM, TR))
    nib.save(image, path)
