"""BrainLM 13M on a batch of windows, beside the same network that keeps its attention matrices.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/bench_brainlm.py [WINDOWS]

Every line is a process of its own, on random weights of the released shape and windows of 424
parcels and 200 volumes. The peer forms, softmaxes and multiplies the 4241 x 4241 weights of
each head for the whole batch, and filters neighbours by a convolution, as upstream does. Prints
wall and CPU seconds of the second call, peak memory of the process, and how the numbers differ;
then the rate of arithmetic beside that of one large matrix multiplication of the same minute.
"""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import time

import numpy as np

CONFIG = {
    "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024,
    "decoder_hidden_size": 512, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 1024, "timepoint_patching_size": 20, "conv_kernel_size": 65,
    "num_landmarks": 64, "segment_means_seq_len": 64, "mask_ratio": 0.2,
}  # fmt: skip

TOKENS, WIDTH, LAYERS = 4241, 512, 4
ATTENTION = 4 * TOKENS**2 * WIDTH
"""Additions and multiplications of one layer's attention; a filter's are one in 300 of it."""

LINEAR = 2 * TOKENS * (4 * WIDTH**2 + 2 * WIDTH * 1024)
KEYS_AND_VALUES = 2 * TOKENS * 2 * WIDTH**2
FULL = LAYERS * (ATTENTION + LINEAR)
CLASS_ONLY = (LAYERS - 1) * (ATTENTION + LINEAR) + KEYS_AND_VALUES


def make(windows):
    import torch

    from neurostorm_app.models.brainlm_files import NativeConfig
    from neurostorm_app.models.brainlm_native import BrainLmNative

    torch.manual_seed(0)
    model = BrainLmNative(NativeConfig.of(CONFIG)).eval()
    signal = torch.randn(windows, 424, 200)
    xyz = (torch.rand(windows, 424, 3) - 0.5) * 140  # mm
    return model, signal, xyz


def keep_matrices(model):
    """Let every layer form its weights of attention, and convolve, as upstream does."""
    from torch.nn import functional as fn

    def attend(projections):
        def run(tokens, _asking):
            q, k, v = (
                projections.split(layer(tokens))
                for layer in (projections.query, projections.key, projections.value)
            )
            scale = q.shape[-1] ** 0.25
            weights = ((q / scale) @ (k / scale).mT).softmax(dim=-1)
            mixed = weights @ v
            mixed = mixed + fn.conv2d(v, projections.conv.weight, padding=(32, 0), groups=4)
            return mixed.transpose(1, 2).flatten(2)

        return run

    for layer in model.vit.encoder.layer:
        layer.attention.self.forward = attend(layer.attention.self)


def encode_at_once(model, signal, xyz):
    """Run the whole batch through every layer together."""
    from neurostorm_app.models.brainlm_scene import choose

    patches = signal.reshape(len(signal), 424, 10, 20)
    hiding = choose(patches, TOKENS - 1, ratio=0.0, noise=None)
    return model.vit(model.vit.embeddings(patches, xyz, hiding))


def measure_product(n=4096):
    """Measure one large matrix multiplication, in GFLOP a CPU second."""
    import torch

    a = torch.randn(n, n)
    a @ a
    began = time.process_time()
    a @ a
    return 2 * n**3 / (time.process_time() - began) / 1e9


def work(kind, windows):
    """Time one way and print what was found as JSON."""
    import torch

    model, signal, xyz = make(windows)
    run = model.encode if kind == "encode" else model.embed
    if kind == "peer":
        keep_matrices(model)
        run = functools.partial(encode_at_once, model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        run(signal[:1], xyz[:1])
        wall, cpu = time.perf_counter(), time.process_time()
        out = run(signal, xyz)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    vectors = (out if out.ndim == 2 else out[:, 0]).float()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"wall": wall, "cpu": cpu, "peak": peak, "product": measure_product()}
    print(json.dumps(found | {"vectors": vectors.tolist()}))


NAMES = {
    "peer": "matrices kept, whole encoder",
    "encode": "ours, whole encoder",
    "embed": "ours, class token",
    "bf16": "ours, class token, bf16",
}


def main(windows):
    found = {}
    for kind, name in NAMES.items():
        command = [sys.executable, __file__, "--one", kind, str(windows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[kind] = one = json.loads(done.stdout)
        base = found["peer"]
        rate = windows * (CLASS_ONLY if kind in {"embed", "bf16"} else FULL) / one["cpu"] / 1e9
        differing = np.abs(np.subtract(one["vectors"], base["vectors"])).max()
        print(
            f"{name:28s} wall {one['wall']:6.2f} s ({base['wall'] / one['wall']:.2f} times less), "
            f"CPU {one['cpu']:6.2f} s ({base['cpu'] / one['cpu']:.2f}), "
            f"peak {one['peak']:.2f} GiB, "
            f"{rate:.0f} GFLOP a CPU second, {rate / one['product']:.0%} of a large fp32 product's "
            f"{one['product']:.0f}; largest difference {differing:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
