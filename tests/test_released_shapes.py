"""Weights of the released shapes, filled by rule, through the command line on a real series.

Nobody's weights are in these tests: names and shapes are those of the released files, values
follow the rules that the golden tensors were made by. They show that files of that layout run
from a preprocessed series to tables, and that the sidecars tell what was done.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from neurostorm_app.bids_app.cli import main
from neurostorm_app.models import read_card

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # a minute on two cores

RUN = "sub-02_task-oneback_run-1_space-MNI152NLin6Asym_res-2_desc"
N_VOLUMES, TR = 40, 2.0


def neurostorm_value(name: str, shape: list[int]) -> np.ndarray:
    """Fill a parameter of NeuroSTORM by the rule of the golden tensors."""
    crc, i = zlib.crc32(name.encode()), np.arange(math.prod(shape), dtype=np.float64)
    phase = 2 * np.pi * (crc % 100003) / 100003
    wave = np.sin(0.7390851 * i * (1 + (crc % 97) / 97) + phase).reshape(shape)
    last = name.rpartition(".")[2]
    if last == "A_log":
        return np.log(np.arange(shape[-1]) + 1) + 0.05 * wave
    if last == "D":
        return 1 + 0.1 * wave
    if name.endswith("dt_proj.bias"):
        return -4 + 0.5 * wave
    if "norm" in name and last == "weight":
        return 1 + 0.1 * wave
    if len(shape) > 1 and last == "weight":
        return np.sqrt(2 / math.prod(shape[1:])) * wave
    return 0.05 * wave


def noise(seed: int, n: int) -> np.ndarray:
    """SplitMix64 from a seed, as numbers in [-1, 1)."""
    with np.errstate(over="ignore"):
        z = (np.uint64(seed) << np.uint64(32)) + np.arange(n, dtype=np.uint64)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1


def brainlm_value(name: str, shape: list[int]) -> np.ndarray:
    """Fill a parameter of BrainLM by the rule of the golden tensors."""
    if name.endswith(".pe"):
        rate = np.exp(np.arange(0, shape[1], 2) * (-math.log(10000.0) / shape[1]))
        angles = np.arange(shape[0])[:, None] * rate
        return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(shape)
    lower = name.lower()
    norm = "layernorm" in lower or "decoder_norm" in lower
    base = 1.0 if norm and lower.endswith("weight") else 0.0
    if norm:
        width = 0.2 if base else 0.1
    elif lower.endswith(".bias"):
        width = 0.05
    elif "cls_token" in lower or "mask_token" in lower:
        width = 0.5
    elif lower.endswith("conv.weight"):
        width = 0.15
    elif "xyz" in lower:
        width = 0.01
    else:
        width = math.sqrt(3 / math.prod(shape[1:]))
    values = noise(zlib.crc32(name.encode()), math.prod(shape))
    return base + width * values.reshape(shape)


def as_tensors(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()}


@pytest.fixture(scope="module")
def weights_dir(shared, tmp_path_factory) -> Path:
    """Make files of the released layouts where `--weights-dir` looks for them."""
    folder = tmp_path_factory.mktemp("weights")
    shapes = json.loads((shared / "golden/neurostorm/default_config_state_dict.json").read_text())
    state = as_tensors({n: neurostorm_value(n, s) for n, s in shapes["NeuroSTORMMAE"].items()})
    card = read_card("neurostorm-mae")
    prefixed = {f"model.{name}": value for name, value in state.items()}
    content = {"state_dict": prefixed, "hyper_parameters": dict(card.config or {})}
    torch.save(content, folder / str(card.file))
    sex = read_card("neurostorm-hcpya-sex")
    encoder = as_tensors({n: neurostorm_value(n, s) for n, s in shapes["NeuroSTORM"].items()})
    head = shapes["heads"]["cls_v1(num_classes=2)"]
    tuned = {f"model.{name}": value for name, value in encoder.items()} | {
        f"output_head.{n}": v
        for n, v in as_tensors({n: neurostorm_value(n, s) for n, s in head.items()}).items()
    }
    torch.save(
        {"state_dict": tuned, "hyper_parameters": dict(sex.config or {})}, folder / str(sex.file)
    )
    golden = shared / "golden" / "brainlm"
    keys = json.loads((golden / "hub_old_13M.keys.json").read_text())["keys"]
    (folder / "brainlm").mkdir()
    torch.save(
        as_tensors({name: brainlm_value(name, shape) for name, shape in keys.items()}),
        folder / "brainlm" / "pytorch_model.bin",
    )
    shutil.copy(golden / "hub_old_13M.config.json", folder / "brainlm" / "config.json")
    for file in ("A424+2mm.nii.gz", "A424_Coordinates.dat"):
        shutil.copy(golden / "atlas" / file, folder / file)
    return folder


@pytest.fixture(scope="module")
def embed(shared, weights_dir, tmp_path_factory):
    """Call the app on the real series; give back the folder of the results."""
    data = shared / "data"

    def call(*models: str, options=(), code=0) -> Path:
        out = tmp_path_factory.mktemp("out")
        words = [data / "studyforrest-sub02", out, "participant"]
        words += ["-d", f"mine={data / 'studyforrest-sub02-mni'}", "--skip-bids-validation"]
        words += ["--models", *models, "--weights-dir", weights_dir, *options]
        assert main([str(word) for word in words]) == code
        return out / "sub-02" / "func"

    return call


def read(folder: Path, label: str, suffix: str = "embedding") -> dict:
    return json.loads((folder / f"{RUN}-{label}_{suffix}.json").read_text())


def table(folder: Path, label: str) -> np.ndarray:
    return np.loadtxt(folder / f"{RUN}-{label}_embedding.tsv", skiprows=1, ndmin=2)


@pytest.fixture(scope="module")
def done(embed) -> Path:
    return embed("neurostorm-mae", "brainlm")


def test_every_sidecar_says_what_computed(done):
    for label in ("neurostormMae", "brainlm"):
        sidecar = read(done, label)
        computation = sidecar["Computation"]
        assert computation["engine"] == f"torch {torch.__version__}"
        assert computation["device"] == "cpu" or computation["device"].startswith("cuda")
        assert computation["device_name"]
        assert computation["precision"] == "fp32"
        assert len(computation["weights_sha256"]) == 64
        assert computation["seeds"]["masked reconstruction"] > 0
        assert not [key for key in computation if key.startswith("seconds")]
        assert sidecar["InputConformance"]["tr_in"] == TR
    assert read(done, "neurostormMae")["Computation"]["scan_engine"] in {
        "numba",
        "mamba-ssm",
        "triton",
    }
    assert read(done, "brainlm")["Computation"]["scan_engine"] is None


def test_volumes_meet_the_contract_as_far_as_the_sidecar_says(done):
    sidecar = read(done, "neurostormMae")
    found, computation = sidecar["InputConformance"], sidecar["Computation"]
    assert found["tr"] == 0.8
    assert found["n_volumes_in"] == N_VOLUMES
    assert found["n_volumes_used"] == N_VOLUMES * TR / 0.8
    assert found["verdict"] == "far"
    assert any("repetition time is 2 s" in reason for reason in found["reasons"])
    assert 0.8 < found["brain_coverage"] <= 1
    assert found["reconstruction_error"] > 0
    assert found["reconstruction_expected"] == "no range is known"
    assert "variances of the run's brain" in found["reconstruction_unit"]
    assert (computation["clip_policy"], computation["parity"]) == ("dense", "none")
    assert (computation["window"], computation["n_windows"]) == (20, 5)
    assert table(done, "neurostormMae").shape == (1, 288)


def test_parcels_meet_the_contract_as_far_as_the_sidecar_says(done):
    sidecar = read(done, "brainlm")
    found, computation = sidecar["InputConformance"], sidecar["Computation"]
    assert found["tr"] == 0.735
    assert found["n_parcels"] == 424
    assert len(found["parcel_coverage"]) == 424
    assert found["coordinates"]["source"] == "A424_Coordinates.dat"
    assert (computation["statistics"], computation["gain"]) == ("the run", 1.0)
    assert computation["window"] == 100  # 109 volumes of 0.735 s; patches of 20
    assert len(computation["atlas_sha256"]) == len(computation["coordinates_sha256"]) == 64
    expected = found["reconstruction_expected"]
    assert (expected["low"], expected["high"]) == (0.25, 0.5)
    assert found["reconstruction_error"] > 0
    assert table(done, "brainlm").shape == (1, 512)


def test_twice_the_same_is_the_same_to_the_byte(done, embed):
    again = embed("neurostorm-mae", "brainlm")
    names = [path.name for path in done.glob("*embedding*")]
    assert len(names) == 8
    for name in names:
        assert (again / name).read_bytes() == (done / name).read_bytes()


def test_threads_and_batches_do_not_count(done, embed):
    other = embed("neurostorm-mae", "brainlm", options=["--omp-nthreads", 1, "--batch-size", 3])
    for label in ("neurostormMae", "brainlm", "neurostormMaeWindows"):
        np.testing.assert_allclose(table(other, label), table(done, label), atol=1e-5)


def test_half_precision_is_another_result_and_near(done, embed):
    half = embed("neurostorm-mae", "brainlm", options=["--precision", "bf16"])
    for label in ("neurostormMae", "brainlm"):
        assert read(half, label)["Precision"] == "bf16"
        found, expected = table(half, label), table(done, label)
        assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.1


def test_fine_tuned_weights_say_what_they_say(embed):
    folder = embed("neurostorm-hcpya-sex")
    sidecar = read(folder, "neurostormHcpyaSex", "prediction")
    assert sidecar["NotForDiagnosis"] is True
    assert sidecar["Prediction"]["classes"] == ["female", "male"]
    rows = (folder / f"{RUN}-neurostormHcpyaSex_prediction.tsv").read_text().splitlines()
    assert len(rows) > 1
    conformance = read(folder, "neurostormHcpyaSex")["InputConformance"]
    assert conformance["reconstruction_error"] is None
    assert "no decoder" in conformance["reconstruction_note"]


def test_a_missing_parcellation_says_how_to_get_it(embed, weights_dir, tmp_path, capsys):
    options = ["--weights", f"brainlm={weights_dir / 'brainlm' / 'pytorch_model.bin'}"]
    embed("brainlm", options=[*options, "--weights-dir", tmp_path], code=66)
    assert "neurostorm-tools weights fetch A424" in capsys.readouterr().err
