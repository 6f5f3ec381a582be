"""SLIM-Brain's encoder on one window of 40 volumes, beside NeuroSTORM's on the same clip.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_slim_brain.py [LINE ...]

Every line is a process of its own, on random weights of the released shapes and noise in an
ellipsoid as large as a brain; LINE is one of those below, by default all. Prints wall and CPU
seconds of one forward pass, and the peak memory of the process before and after it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

LINES = {
    "slim-brain": "all 135 mask units, 8 at a time",
    "slim-brain at once": "all 135 mask units folded into one batch",
    "slim-brain 40 units": "40 mask units, the others deleted",
    "slim-brain patches": "patches of the brain alone",
    "slim-brain bf16": "all 135 mask units, products in bf16",
    "neurostorm": "two windows of 20 volumes, one after the other",
}


def make_clip(n_volumes: int):
    import torch

    axes = [torch.linspace(-1.0, 1.0, 96) for _ in range(3)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    brain = (x / 0.72) ** 2 + (y / 0.9) ** 2 + (z / 0.75) ** 2 < 1
    clip = torch.randn(1, 1, n_volumes, 96, 96, 96, generator=torch.Generator().manual_seed(0))
    return clip.mul_(brain).movedim(2, -1)


def make_work(line: str):
    import torch

    from neurostorm_app.models import create_model, read_card, slim_brain

    name = line.split(maxsplit=1)[0]
    card = read_card(f"{name}-untrained")
    more = {"empty_units": "patches"} if line.endswith("patches") else {}
    model = create_model(card, config={**card.config, **more})
    clip = make_clip(40)
    if name == "neurostorm":
        return lambda: [model.embed(part) for part in clip.split(20, dim=-1)]
    keep = None
    if line.endswith("at once"):
        slim_brain.AT_ONCE = 2**30
    if line.endswith("40 units"):
        keep = torch.zeros(1, 135, dtype=torch.bool)
        keep[0, torch.randperm(135, generator=torch.Generator().manual_seed(1))[:40]] = True
    return lambda: model.embed(clip, keep=keep)


def measure(line: str) -> dict[str, float]:
    import torch

    from neurostorm_app.pipelines.computing import arithmetic

    work = make_work(line)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode(), arithmetic("cpu", "bf16" if "bf16" in line else "fp32"):
        work()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "before": before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    asked = sys.argv[1:] or list(LINES)
    for line in asked:
        call = [sys.executable, __file__, "--one", line]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{line:22} {found['wall']:7.1f} s wall {found['cpu']:7.1f} s CPU, peak "
            f"{found['peak']:.2f} GiB ({found['before']:.2f} before): {LINES[line]}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
