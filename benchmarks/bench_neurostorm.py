"""NeuroSTORM on a CPU: our engine beside the reference engine, one clip of the released shape.

    .venv/bin/python benchmarks/bench_neurostorm.py [THREADS [REPEATS [features mae prompts]]]

The weights are random, so no file is needed. There are two peers, the same network on all windows
at once in torch. ``upstream`` computes the decays and the input of the states of all tokens first,
two tensors (B, D, L, N), and then goes from token to token, as upstream does on a CPU.
``reference`` is our reference engine, which computes both as it goes. Each number comes from a
process of its own, because the peak memory of a process never falls.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

CONFIG = {
    "img_size": [96, 96, 96, 20], "in_chans": 1, "embed_dim": 36, "window_size": [4, 4, 4, 4],
    "first_window_size": [4, 4, 4, 4], "patch_size": [6, 6, 6, 1], "depths": [2, 2, 6, 2],
    "c_multiplier": 2, "last_layer_full_MSA": True, "mask_ratio": 0.5,
}  # fmt: skip


def network(name, engine):
    import torch

    from neurostorm_app.models.autoencoder import NeuroStormMae
    from neurostorm_app.models.blocks import Mamba
    from neurostorm_app.models.neurostorm import NeuroStorm
    from neurostorm_app.models.neurostorm_files import Config

    if engine == "upstream":
        from neurostorm_app.models import scan

        scan._reference, engine = upstream_scan, "reference"  # noqa: SLF001
    torch.manual_seed(0)
    made = {
        "mae": NeuroStormMae,
        "features": NeuroStorm,
        "prompts": NeuroStorm,
        "first": NeuroStorm,
    }
    config = CONFIG | ({"prompt_len": 50} if name == "prompts" else {})
    model = made[name](Config.of(config)).eval()
    for module in model.modules():
        if isinstance(module, Mamba):
            module.engine = engine
    return model


def upstream_scan(u, dt, *, A, B, C):
    import torch

    decay = torch.exp(torch.einsum("bld,dn->bdln", dt, A))
    driven = torch.einsum("bld,bln,bld->bdln", dt, B, u)
    h, y = torch.zeros_like(driven[:, :, 0]), []
    for t in range(u.shape[1]):
        h = decay[:, :, t] * h + driven[:, :, t]
        y.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
    return torch.stack(y, dim=1)


def job(name, engine):
    """Return the call to measure."""
    import torch

    model = network(name, engine)
    x = torch.randn(1, 1, 96, 96, 96, 20, generator=torch.Generator().manual_seed(1))
    if name == "prompts":
        for key, parameter in model.named_parameters():
            parameter.requires_grad_("prompt" in key)
        head = torch.nn.Linear(288, 1)

        def step():
            loss = head(model.embed(x)).square().sum()
            loss.backward()
            return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

        return step
    if name == "mae":
        mask = model.draw_mask(x, generator=torch.Generator().manual_seed(2))
        return torch.inference_mode()(lambda: model.reconstruct(x, mask).pred)
    return torch.inference_mode()(lambda: model.features(x))


def measure(name, engine, threads, repeats, folder):
    import torch

    torch.set_num_threads(threads)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = job(name, engine)
    times = []
    for _ in range(repeats + (name != "first")):
        wall, cpu = time.perf_counter(), time.process_time()
        out = run()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = (sorted(column)[(len(times) - 1) // 2] for column in zip(*times, strict=True))
    torch.save(out.detach()[..., :1].clone(), Path(folder) / f"{name}-{engine}.pt")
    found = {"wall": wall, "cpu": cpu, "peak": peak / 1024, "imports": imported / 1024}
    print(json.dumps(found | {"split": split(run) if name == "features" else {}}))


def split(run):
    """Share the CPU time of a call among its parts; with one thread, so that nothing overlaps."""
    import torch

    from neurostorm_app.models import blocks, patches, scan, scan_cpu

    torch.set_num_threads(1)
    spent = defaultdict(float)

    def clock(owner, name, part):
        inner = getattr(owner, name)

        def timed(*args, **kwargs):
            began = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                spent[part] += time.process_time() - began

        setattr(owner, name, timed)

    functional = torch.nn.functional
    clock(patches.PatchEmbed, "_embed", "patch embedding")
    clock(scan_cpu, "numba_scan", "scan")
    clock(scan, "_reference", "scan")
    clock(blocks, "short_convolution", "convolution and SiLU")
    clock(functional, "linear", "linear layers")
    clock(functional, "layer_norm", "norms")
    clock(functional, "gelu", "GELU")
    run()
    spent.clear()
    began = time.process_time()
    run()
    spent["rest"] = time.process_time() - began - sum(spent.values())
    return dict(spent)


def in_a_process(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment,
    )  # fmt: skip
    return json.loads(done.stdout)


def show(name, title, threads, repeats, folder):
    import torch

    engines = ("upstream", "reference", "numba")
    if name == "prompts":  # upstream's way would keep tens of GiB for the gradients
        engines = engines[1:]
    found = {e: in_a_process(name, e, threads, repeats, folder) for e in engines}
    values = {e: torch.load(Path(folder) / f"{name}-{e}.pt") for e in engines}
    ours = found["numba"]
    print(f"\n{title}, {threads} threads, median of {repeats}; ratio to ours in brackets")
    for engine, f in found.items():
        error = (values[engine] - values["numba"]).abs().max() / values["numba"].abs().max()
        print(f"  {engine:9}  wall {f['wall']:6.3f} s ({f['wall'] / ours['wall']:4.1f})   CPU "
              f"{f['cpu']:6.3f} s ({f['cpu'] / ours['cpu']:4.1f})   peak {f['peak']:5.0f} MiB "
              f"(imports {f['imports']:.0f})   relative difference {error:.1e}")  # fmt: skip
    for engine, f in found.items():
        if f["split"]:
            parts = ", ".join(f"{part} {1e3 * s:.0f}" for part, s in f["split"].items())
            print(f"  {engine}, CPU ms by part, one thread: {parts}")


def first_calls(threads, folder):
    """Time the first call of a process where the loops were never compiled, and then again."""
    from neurostorm_app.models.scan_cpu import scan_cache

    empty = Path(folder) / "numba" / scan_cache().name
    empty.mkdir(parents=True)
    (empty / "started").touch()  # else it would be filled from the folder beside the loops
    for state in ("never", "already"):
        environment = {"NUMBA_CACHE_DIR": str(empty.parent)}
        f = in_a_process("first", "numba", threads, 1, folder, **environment)
        print(f"first call where loops were {state} compiled: wall {f['wall']:.2f} s")


def main(threads=2, repeats=5, *wanted):
    folder = tempfile.mkdtemp()
    titles = {
        "features": "one clip to features",
        "mae": "masked autoencoder, one clip",
        "prompts": "a training step of 50 prompts and a head",
    }
    for name in wanted or titles:
        show(name, titles[name], int(threads), int(repeats), folder)
    first_calls(threads, folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        name, engine, threads, repeats, folder = sys.argv[2:]
        measure(name, engine, int(threads), int(repeats), folder)
    else:
        main(*sys.argv[1:])
