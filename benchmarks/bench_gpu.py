"""NeuroSTORM on a GPU: clips a second, the scan beside the memory's limit, and parity with a CPU.

    .venv/bin/python benchmarks/bench_gpu.py [CLIPS]

The network has the released configuration and drawn weights; a clip is one window of 20 volumes,
and CLIPS (default 8) go through it together. The limit of the scan is the time a plain copy needs
for the bytes that the scan must move at least: u, dt, z, B, C and y once. Without a CUDA device
nothing is measured.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import contextmanager

import torch
from torch.nn import functional as fn

from neurostorm_app.models import read_card, scan
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config

SCANS = [(320, 256, 72, 16), (40, 256, 144, 16), (5, 256, 288, 16), (5, 32, 576, 16)]
"""Sequences, tokens, channels and states of the four stages, for one clip."""

PRECISIONS = ["fp32", "tf32", "bf16"]


def seconds(work, *, repeats: int = 10) -> float:
    """Median time on the device, after two runs that compile and warm up."""
    work(), work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return sorted(times)[repeats // 2]


@contextmanager
def arithmetic(precision: str):
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        yield


def bandwidth() -> float:
    """Bytes a second that a copy of 1 GiB reads and writes."""
    a, b = torch.empty(2, 1 << 28, device="cuda")
    return 2 * a.nbytes / seconds(lambda: b.copy_(a))


def bench_scan(engine: str, n_clips: int, limit: float) -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for n_sequences, length, d, n in SCANS:
            rows = (n_sequences * n_clips, length)
            u, dt, z = (torch.randn(*rows, d, device="cuda", dtype=dtype) for _ in range(3))
            B, C = (torch.randn(*rows, n, device="cuda", dtype=dtype) for _ in range(2))
            A, D = -torch.rand(d, n, device="cuda"), torch.ones(d, device="cuda")
            rest = {"A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": D, "softplus": True}

            def run(u=u, dt=dt, rest=rest):
                with torch.no_grad():
                    return scan.selective_scan(u, dt, **rest, engine=engine)

            took = seconds(run)
            least = sum(x.nbytes for x in (u, dt, z, B, C, u)) / limit
            print(f"scan {engine} {precision} ({rows[0]}, {length}, {d}, {n}): "
                  f"{took * 1e6:.0f} us, {least / took:.0%} of the memory's limit")  # fmt: skip


def bench_network(engine: str, n_clips: int) -> None:
    torch.manual_seed(1)
    network = NeuroStorm(Config.of(read_card("neurostorm").config)).eval()
    clips = fn.avg_pool3d(torch.randn(n_clips * 20, 96, 96, 96), 5, 1, 2)
    clips = clips.reshape(n_clips, 20, 96, 96, 96).movedim(1, -1)[:, None]
    with torch.no_grad():
        expected = network.features(clips[:1])
    network, clips = network.cuda(), clips.cuda()
    scan.scan_engine = lambda _: engine
    for precision in PRECISIONS:
        with arithmetic(precision):
            took = seconds(lambda: network.features(clips))
            found = network.features(clips[:1]).float().cpu()
        worst = float((found - expected).abs().max())
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"network {engine} {precision}: {n_clips / took:.1f} clips/s at {n_clips} together, "
              f"peak {peak:.1f} GiB; features differ from the CPU's by at most {worst:.1e} "
              f"(largest {float(expected.abs().max()):.2f})")  # fmt: skip


def main(n_clips: int) -> None:
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing is measured")
        return
    limit = bandwidth()
    print(f"{torch.cuda.get_device_name()}: a copy moves {limit / 1e9:.0f} GB/s")
    engine_of_cpu = scan.scan_engine
    for engine in ["triton", *["mamba-ssm"] * bool(importlib.util.find_spec("mamba_ssm"))]:
        bench_scan(engine, n_clips, limit)
        bench_network(engine, n_clips)
        scan.scan_engine = engine_of_cpu


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
