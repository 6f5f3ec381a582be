"""Windows for training: cut from the cache, or read from the preprocessed file each time.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_training_data.py [VOLUMES]

Makes an fMRIPrep-like series on the 2-mm grid, 91 x 109 x 91, int16, gzipped, and asks for windows
of 20 volumes at random places, as NeuroSTORM's contract wants them (96 x 96 x 96). The peer reads a
slice of the file with nibabel, picks the contract's voxels, scales and paints them; it is told the
series' mean and deviation, which cost it one more reading. Each way in a process of its own, best
of three rounds; the files are in the page cache.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from neurostorm_app.models import read_card
from neurostorm_app.pipelines.conform import conform_series
from neurostorm_app.pipelines.normalize import measure_scale, scale_values
from neurostorm_app.pipelines.series import find_brain, open_series
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.templates import load_template
from neurostorm_app.pipelines.train.cache import CacheRecipe, build_cache, estimate_bytes

CONTRACT = read_card("neurostorm").contract
WINDOW = CONTRACT.window
WAYS = ("file", "float32", "float16")


def run_of(path: Path) -> StandardSeries:
    return StandardSeries(
        name="bench", bold=path, mask=load_template("MNI152NLin6Asym", "2").mask, confounds=None,
        tr=0.8, space="MNI152NLin6Asym", res="2",
    )  # fmt: skip


def from_file(path: Path):
    """Give what reads a window from the file."""
    run, series = run_of(path), open_series(path)
    brain, _ = find_brain(series, run.mask)
    conformed, _ = conform_series(series, run, CONTRACT, brain=brain)
    scale, places = measure_scale(conformed.values()), np.flatnonzero(conformed.mask)
    image = nib.load(path)

    def window(start: int) -> np.ndarray:
        piece = np.asarray(image.dataobj[..., start : start + WINDOW], dtype=np.float32)
        painted = np.full((WINDOW, conformed.mask.size), scale.background, dtype=np.float32)
        for volume, target in zip(np.moveaxis(piece, -1, 0), painted, strict=True):
            target[places] = scale_values(conformed.carry(volume), scale)
        return np.moveaxis(painted.reshape(WINDOW, *conformed.mask.shape), 0, -1)[np.newaxis]

    return window, conformed.n_volumes


def from_cache(path: Path, dtype: str):
    """Give what cuts a window from the cache."""
    recipe = CacheRecipe(contract=CONTRACT, dtype=dtype)
    [found] = build_cache([run_of(path)], recipe, path.parent / "cache")
    return lambda start: found.window(start, WINDOW), found.n_volumes


def measure(path: Path, way: str, n: int) -> dict[str, float]:
    window, n_volumes = from_file(path) if way == "file" else from_cache(path, way)
    starts = np.random.default_rng(1).integers(n_volumes - WINDOW + 1, size=n)
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        checks = [float(window(int(start))[0, 48, 48, 48].sum()) for start in starts]
        rounds.append(n / (time.perf_counter() - began))
    # getrusage would give the peak of the process that started this one, if it is higher.
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return {"windows/s": max(rounds), "check": sum(checks[:3]), "peak MiB": int(status) / 1024}


def main() -> None:
    if len(sys.argv) > 2:
        path, way, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        print(json.dumps(measure(path, way, n)))
        return
    spec = importlib.util.spec_from_file_location("r", Path(__file__).with_name("bench_reading.py"))
    reading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reading)
    n_volumes = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    indexed = importlib.util.find_spec("indexed_gzip") is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench_bold.nii.gz"
        reading.make_series(path, n_volumes, "int16")
        size = path.stat().st_size / 2**20
        print(f"{n_volumes} volumes, {size:.0f} MiB on disk; nibabel with indexed_gzip: {indexed}")
        for dtype in ("float32", "float16"):
            recipe = CacheRecipe(contract=CONTRACT, dtype=dtype)
            began = time.perf_counter()
            [found] = build_cache([run_of(path)], recipe, path.parent / "cache")
            seconds, real = time.perf_counter() - began, found.path.stat().st_size / 2**20
            told = estimate_bytes([run_of(path)], recipe) / 2**20
            print(
                f"cache {dtype}: {real:.0f} MiB (told before: {told:.0f}), made in {seconds:.1f} s"
            )
        for way in WAYS:
            n = 3 if way == "file" else 30
            command = [sys.executable, __file__, str(path), way, str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            print(
                f"{way:8s} {found['windows/s']:8.2f} windows/s, peak {found['peak MiB']:.0f} MiB, "
                f"mean of a place {found['check'] / 3 / WINDOW:.4f}"
            )


if __name__ == "__main__":
    main()
