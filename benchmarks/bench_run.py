"""A whole preprocessed run to an embedding: where the time goes, and what is done at once.

    .venv/bin/python benchmarks/bench_run.py [--volumes 750] [--dtype int16|float32]
        [--model neurostorm] [--threads 2] [--batch N] [--memory GIB]
    .venv/bin/python benchmarks/bench_run.py --costs       memory and seconds by size of a batch
    .venv/bin/python benchmarks/bench_run.py --precision   what bf16 does to embeddings

Makes an fMRIPrep-like series, 91 x 109 x 91 at 0.8 s, and embeds it by a network of the released
configuration. Its weights are drawn from a seed, since time and memory do not depend on them; for
`--precision` the demo weights serve too, which were trained. BrainLM's atlas is looked for in the
folder that NEUROSTORM_WEIGHTS names.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_reading import make_series, read_bytes
from isal import igzip

from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.pipelines.computing import arithmetic
from neurostorm_app.pipelines.embed import Embedder, load_embedder
from neurostorm_app.pipelines.forward import window_bytes
from neurostorm_app.pipelines.image import iter_volumes, read_volume, write_volume
from neurostorm_app.pipelines.inputs import find_parcellation
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.templates import load_template

SPACE, GIB = "MNI152NLin6Asym", 2**30


def make_network(name: str) -> torch.nn.Module:
    """Build a network of a card's configuration with seeded weights."""
    card = read_card(name)
    if card.embedded or card.file is None:
        return create_model(name)
    torch.manual_seed(1)
    if card.architecture == "slim-brain":
        return create_model(f"{name}-untrained")
    if card.architecture == "brainlm":
        from neurostorm_app.models.brainlm_files import NativeConfig
        from neurostorm_app.models.brainlm_native import BrainLmNative

        state = BrainLmNative(NativeConfig.of(card.config)).state_dict()
        return create_model(name, config=card.config, weights=state)
    kind = NeuroStormMae if card.architecture == "neurostorm-mae" else NeuroStorm
    state = kind(Config.of(card.config)).state_dict()
    return create_model(name, config=card.config, weights=state)


def make_embedder(name: str, device: str, precision: str = "fp32") -> Embedder:
    card = read_card(name)
    if card.embedded or card.file is None:
        return load_embedder(name, device=device, precision=precision)
    parcels = card.contract.kind == "parcels"
    atlas = find_parcellation(card.contract, None, None) if parcels else None
    return Embedder(
        card=card, model=make_network(name).to(device), atlas=atlas, device=device,
        precision=precision, hashes={},
    )  # fmt: skip


def make_run(folder: Path, n_volumes: int, dtype: str) -> StandardSeries:
    bold, mask = folder / f"{dtype}.nii.gz", folder / "mask.nii.gz"
    make_series(bold, n_volumes, dtype)
    volume, grid = read_volume(load_template(SPACE, "2").mask)
    write_volume(mask, volume > 0.5, grid=grid, dtype=np.uint8)
    return StandardSeries(
        name="run", bold=bold, mask=mask, confounds=None, tr=0.8, space=SPACE, res="2"
    )


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def whole_run(asked: argparse.Namespace) -> None:
    """Print where the time of a run goes."""
    torch.set_num_threads(asked.threads)
    memory = round(asked.memory * GIB)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), asked.volumes, asked.dtype)
        embedder = make_embedder(asked.model, asked.device)
        size = run.bold.stat().st_size / 1e6
        print(f"91x109x91x{asked.volumes} {asked.dtype}, {size:.0f} MB of gzip; {asked.model}, "
              f"{asked.threads} threads, {asked.memory:g} GiB planned")  # fmt: skip
        unpack = timed(lambda: read_bytes(lambda path: igzip.open(path, "rb"), run.bold, 2**21))
        scale = timed(lambda: sum(1 for _ in iter_volumes(run.bold)))
        warm = embedder.embed_many([run], memory=memory)  # compiles what is compiled, once
        next(warm)
        warm.close()
        began = time.perf_counter()
        (_, found), = embedder.embed_many([run], batch=asked.batch, memory=memory)  # fmt: skip
        wall = time.perf_counter() - began
        if isinstance(found, Exception):
            raise found
        record = found.record
        reading, computing = record["seconds_reading"], record["seconds_computing"]
        print(f"{'decompress, once':44s} {unpack:7.2f} s")
        print(f"{'decompress and scale to float32, once':44s} {scale:7.2f} s")
        print(f"{'reading thread: read, resample, scale, tile':44s} {reading:7.2f} s")
        print(f"{'network, with masked error if it has one':44s} {computing:7.2f} s  "
              f"{computing / record['n_windows']:.3f} s a window")  # fmt: skip
        print(f"{'wall':44s} {wall:7.2f} s; both threads busy for "
              f"{reading + computing - wall:.2f} s of it")  # fmt: skip
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{record['n_windows']} windows in batches of {record['batch']}, "
              f"scan by {record['scan_engine']}; peak memory {peak:.2f} GiB")  # fmt: skip


def one_cost(name: str, batch: int, device: str, threads: int) -> None:
    """Print seconds a window and peak memory of one size of a batch; in a process of its own."""
    torch.set_num_threads(threads)
    model, contract = make_network(name).to(device), read_card(name).contract
    if contract.kind == "volume":
        shape = (batch, 1, *contract.grid.shape, contract.window)
    else:
        shape = (batch, contract.n_parcels or 100, contract.window or 400)
    x = torch.randn(shape)
    more = [torch.randn(*shape[:2], 3) * 40] if getattr(contract, "coordinates", False) else []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = [part.to(device) for part in (x, *more)]
    with arithmetic(device, "fp32"):
        model.embed(*inputs)
        walls = [timed(lambda: model.embed(*inputs)) for _ in range(3)]
        hidden = 0.0
        if hasattr(model, "masked_error"):
            one = [part[:1] for part in inputs]
            generator = torch.Generator().manual_seed(1)
            hidden = timed(lambda: model.masked_error(*one, generator=generator))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if device != "cpu":
            before, after = 0, torch.cuda.max_memory_allocated() / 1024
    grown = (after - before) * 1024 + x.numel() * 4
    print(json.dumps({
        "model": name, "batch": batch, "seconds_a_window": round(min(walls) / batch, 4),
        "seconds_of_a_masked_error": round(hidden, 4), "MiB_a_window": round(grown / batch / 2**20),
        "bytes_a_byte_of_window": round(grown / batch / window_bytes(contract), 1),
    }))  # fmt: skip


def costs(asked: argparse.Namespace) -> None:
    """Print what batches cost, each in a fresh process."""
    for name, sizes in (
        ("neurostorm", (1, 2, 4)), ("neurostorm-mae", (1, 2)), ("brainlm", (1, 2, 4, 8)),
        ("connectome", (1, 8)),
    ):  # fmt: skip
        for batch in sizes:
            words = [sys.executable, __file__, "--one", name, "--batch", str(batch)]
            words += ["--device", asked.device, "--threads", str(asked.threads)]
            subprocess.run(words, check=True)


def precisions(asked: argparse.Namespace) -> None:
    """Print how far embeddings move when products are shortened."""
    kinds = ["bf16", "tf32"] if asked.device.startswith("cuda") else ["bf16"]
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), min(asked.volumes, 110), asked.dtype)
        for name in ("neurostorm", "neurostorm-demo", "brainlm"):
            full = make_embedder(name, asked.device).embed(run)
            for kind in kinds:
                other = make_embedder(name, asked.device, kind).embed(run)
                far = np.linalg.norm(other.windows - full.windows, axis=1)
                far = (far / np.linalg.norm(full.windows, axis=1)).max()
                alike = [np.corrcoef(a, b)[0, 1] for a, b in
                         zip(other.windows, full.windows, strict=True)]  # fmt: skip
                spread = full.windows - full.windows.mean(axis=0)
                within = np.linalg.norm(spread, axis=1).max() / np.linalg.norm(full.pooled)
                print(f"{name:16s} {kind}: relative difference {far:.1e}, correlation "
                      f"{min(alike):.6f}; windows of the run differ by {within:.1e}; seconds "
                      f"{full.record['seconds_computing']:.2f} -> "
                      f"{other.record['seconds_computing']:.2f}")  # fmt: skip


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=750)
    parser.add_argument("--dtype", choices=("int16", "float32"), default="int16")
    parser.add_argument("--model", default="neurostorm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB")
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--precision", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one_cost(asked.one, asked.batch or 1, asked.device, asked.threads)
    elif asked.costs:
        costs(asked)
    elif asked.precision:
        precisions(asked)
    else:
        whole_run(asked)


if __name__ == "__main__":
    main()
