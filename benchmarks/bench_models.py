"""Every model on the same scan, side by side: time and memory, each in a process of its own.

    .venv/bin/python benchmarks/bench_models.py --bold BOLD --mask MASK [--tr 2] [--volumes 160]
        [--threads 1] [--max-windows 4] [--models NAME ...] [--write benchmarks/measured.json]

BOLD is a series in MNI152NLin6Asym; without one a series of noise in a template's brain is made.
It is played forwards and backwards until it has so many volumes (at 2 s, 160 are what fMRI-LM was
trained on). A model without weights of its own in the package runs as its untrained control: time
and memory do not depend on values. A parcellation that is not in the package is replaced by blocks
of the brain of the same number. Prints a table in Markdown, then what the plan reckons with
(``NETWORKS`` of ``pipelines/estimate.py``); ``--write`` keeps the numbers for ``docs/models.md``,
with the name of BOLD without its folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SPACE, MIB = "MNI152NLin6Asym", 2**20
NOISE = "noise in a template's brain"
"""What is written of the series where none was given."""
MODELS = {
    "connectome": "connectome",
    "neurostorm": "neurostorm-untrained",
    "neurostorm-mae": "neurostorm-mae-untrained",
    "brainlm": "brainlm-untrained",
    "brainlm-5m": "brainlm-5m-untrained",
    "brainlm-111m": "brainlm-111m-untrained",
    "brainlm-650m": "brainlm-650m-untrained",
    "slim-brain": "slim-brain-untrained",
    "slim-brain, patches of the brain": "slim-brain-untrained",
    "slim-brain-mae": "slim-brain-untrained",
    "fmri-lm": "fmri-lm-untrained",
    "mind-vis": "mind-vis-untrained",
    "neurostorm-demo": "neurostorm-demo",
    "brainlm-demo": "brainlm-demo",
}
"""What is measured, and the model of the registry that it is made of."""


def make_card(line: str):
    """Give the card of a line; parcels that the package lacks become blocks."""
    from neurostorm_app.models import read_card

    card = read_card(MODELS[line])
    if line == "slim-brain-mae":
        card = card.model_copy(update={"architecture": line})
    if line.endswith("patches of the brain"):
        card = card.model_copy(update={"config": {**card.config, "empty_units": "patches"}})
    contract = card.contract
    if contract.kind == "parcels" and contract.n_parcels not in (None, 100):
        blocks = contract.model_copy(update={"atlas": f"Blocks{contract.n_parcels}"})
        card = card.model_copy(update={"contract": blocks})
    return card


def make_scan(folder: Path, asked: argparse.Namespace) -> tuple[Path, Path]:
    """Play a scan forwards and backwards until it is long enough: series and mask."""
    from neurostorm_app.pipelines.templates import load_template

    mask = asked.mask or load_template(SPACE, "2").mask
    brain = np.asarray(nib.load(mask).dataobj) > 0.5
    if asked.bold is None:
        affine = nib.load(mask).affine
        draws = np.random.default_rng(0)
        noise = draws.normal(0, 30, (brain.sum(), 40))
        series = np.zeros((*brain.shape, 40), np.float32)
        series[brain] = 1000 + 200 * draws.random((brain.sum(), 1)) + noise
    else:
        image = nib.load(asked.bold)
        affine, series = image.affine, np.asarray(image.dataobj, dtype=np.float32)
    forth = list(range(series.shape[3]))
    order = (forth + forth[::-1]) * (1 + asked.volumes // (2 * len(forth)))
    path = folder / "bold.nii.gz"
    image = nib.Nifti1Image(series[..., order[: asked.volumes]], affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], asked.tr))
    nib.save(image, path)
    return path, Path(mask)


def make_blocks(path: Path, mask: Path, n: int) -> Path:
    """Cut a brain into so many blocks about as large as each other, at points drawn from it."""
    from scipy.spatial import cKDTree

    image = nib.load(mask)
    places = np.argwhere(np.asarray(image.dataobj) > 0.5)
    points = np.random.default_rng(n).choice(len(places), n, replace=False)
    labels = np.zeros(image.shape, np.int16)
    labels[tuple(places.T)] = 1 + cKDTree(places[points]).query(places)[1]
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    return path


def measure(line: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Embed the scan by one model, in this process and no other."""
    import torch

    from neurostorm_app.pipelines.embed import load_embedder
    from neurostorm_app.pipelines.estimate import READING
    from neurostorm_app.pipelines.forward import window_bytes
    from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

    torch.set_num_threads(asked.threads)
    card = make_card(line)
    contract, atlas = card.contract, None
    if contract.kind == "parcels" and contract.atlas.startswith("Blocks"):
        atlas = folder / f"{contract.atlas}.nii.gz"
        if not atlas.exists():
            make_blocks(atlas, asked.mask, contract.n_parcels)
    embedder = load_embedder(card, atlas=atlas, options=InputOptions(max_windows=asked.max_windows))
    if card.architecture.startswith("neurostorm"):  # compiles what is compiled, once
        with torch.inference_mode():
            embedder.model.embed(torch.zeros(1, 1, *contract.grid.shape, contract.window))
    series = StandardSeries(
        name="scan", bold=asked.bold, mask=asked.mask, confounds=None, tr=asked.tr, space=SPACE,
        res="2",
    )  # fmt: skip
    before, cpu, wall = peak(), seconds(), time.perf_counter()
    found = embedder.embed(series, n_threads=asked.threads)
    wall, cpu, after = time.perf_counter() - wall, seconds() - cpu, peak()
    facts, n = found.conformance, len(found.windows)
    n_all = len(facts.get("salience", {}).get("starts_of_all", [])) or n
    size = window_bytes(contract)
    if contract.kind == "parcels":
        size = 4 * (contract.n_parcels or 100) * found.record["window"]
    return {
        "architecture": card.architecture,
        "parameters": sum(p.numel() for p in embedder.model.parameters()),
        "dimension": int(found.windows.shape[1]),
        "windows": n,
        "windows_of_the_run": n_all,
        "wall": round(wall, 2),
        "cpu": round(cpu, 2),
        "reading": round(READING * math.prod(nib.load(asked.bold).shape), 2),
        "peak_mib": round(after),
        "before_mib": round(before),
        "window_bytes": size,
    }


def peak() -> float:
    """Read the largest memory of this process, MiB; ``ru_maxrss`` may be that of its parent."""
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return int(line.split()[1]) / 1024


def seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rows(found: dict[str, dict[str, Any]]) -> list[str]:
    """Write the table, in Markdown."""
    lines = [
        "| model | parameters | windows | CPU | wall | CPU a window | peak memory | of it before |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line, one in found.items():
        if "error" in one:
            lines.append(f"| {line} | {one['error']} | | | | | | |")
            continue
        windows = f"{one['windows']} of {one['windows_of_the_run']}"
        lines.append(
            f"| {line} | {one['parameters'] / 1e6:.1f} M | {windows} | {one['cpu']:.1f} s | "
            f"{one['wall']:.1f} s | {one['cpu'] / one['windows']:.2f} s | "
            f"{one['peak_mib'] / 1024:.2f} GiB | {one['before_mib'] / 1024:.2f} GiB |"
        )
    return lines


def plan_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """Write what the plan reckons with: seconds for 100 MB of windows, bytes for each of one."""
    lines = []
    for line, one in found.items():
        if "error" not in one:
            each = (one["cpu"] - one["reading"]) / one["windows"] / one["window_bytes"] * 1e8
            weights = max(one["before_mib"] - 600, 0)  # packages and small ones are reckoned with
            grown = (one["peak_mib"] - 600 - weights) * MIB / one["window_bytes"] - 4
            name = f'"{one["architecture"]}"'
            numbers = f"{max(each, 0):.3g}, {max(grown, 1):.3g}, {weights}"
            lines.append(f"    {name}: Network({numbers}),  # {line}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bold", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--tr", type=float, default=2.0, help="seconds")
    parser.add_argument("--volumes", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-windows", type=int, help="of models with windows; default: all")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked.folder, asked)))
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scan, mask = make_scan(Path(folder), asked)
        for line in asked.models:
            words = [sys.executable, __file__, "--one", line, "--folder", folder, "--mask", mask]
            words += ["--bold", scan, "--tr", asked.tr, "--threads", asked.threads]
            words += ["--max-windows", asked.max_windows] if asked.max_windows else []
            threads = {"OMP_NUM_THREADS": str(asked.threads)}
            done = subprocess.run(
                [str(word) for word in words], capture_output=True, text=True, check=False,
                env={**os.environ, **threads},
            )  # fmt: skip
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                found[line] = {"error": last}
            else:
                found[line] = json.loads(done.stdout.splitlines()[-1])
            print(f"{line}: {found[line]}", file=sys.stderr)
    print("\n".join(rows(found)), "\n")
    print("\n".join(plan_lines(found)))
    if asked.write:
        about = {
            "scan": f"{asked.volumes} volumes of {asked.tr:g} s at 2 mm",
            "series": asked.bold.name if asked.bold else NOISE,
            "threads": asked.threads,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "models": found,
        }
        asked.write.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
