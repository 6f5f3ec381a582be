"""A training step of each way of tuning NeuroSTORM, and what redundancy dropout drops and costs.

    .venv/bin/python benchmarks/bench_tuning.py [THREADS [REPEATS [STEPS]]]

The released configuration (5,173,020 parameters), one window a batch, AdamW, on the CPU. Steps
start from random weights of a seed, since time and memory do not depend on them; each runs in a
process of its own, because the peak memory of a process never falls. ``inference`` is no step: it
embeds, which no strategy can undercut.

Redundancy dropout is measured on features of windows of phantoms: with our demo weights on the
demo's grid, whose windows are those of the released configuration, and with random weights of the
released configuration on the same windows interpolated to its grid. Then the demo's network is
trained for a few steps with it and without, and guesses what is hidden of other phantoms.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

STRATEGIES = ("inference", "linear", "prompt", "prompt+norm", "lora", "full")
VARIANTS = ("none", "paper", "upstream")


def released(kind, **change):
    import torch

    from neurostorm_app.models import read_card
    from neurostorm_app.models.neurostorm_files import Config

    torch.manual_seed(0)
    return kind(Config.of(read_card("neurostorm").config | change))


def median(step, repeats):
    step()  # allocates, and compiles what was never compiled
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [sorted(column)[len(times) // 2] for column in zip(*times, strict=True)]


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


def tuning(name, repeats):
    import torch

    from neurostorm_app.models.adapters import count_trainable, prepare_tuning
    from neurostorm_app.models.neurostorm import NeuroStorm

    x = torch.randn(1, 1, 96, 96, 96, 20, generator=torch.Generator().manual_seed(1))
    network = released(NeuroStorm).eval()
    if name == "inference":
        with torch.inference_mode():
            wall, cpu = median(lambda: network.embed(x), repeats)
        return {"wall": wall, "cpu": cpu, "peak": peak(), "learning": 0}
    tuned = prepare_tuning(network, name, n_outputs=1, seed=0)
    learning = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-5)

    def step():
        optimiser.zero_grad()
        tuned(x).square().sum().backward()
        optimiser.step()

    wall, cpu = median(step, repeats)
    return {"wall": wall, "cpu": cpu, "peak": peak(), "learning": count_trainable(tuned)}


def phantoms(n=2):
    """Render windows of people that the demo was not trained on: (n, 1, 48, 48, 48, 20)."""
    import torch

    from neurostorm_app.models import read_card
    from neurostorm_app.pipelines.train.volume_phantoms import VolumePhantoms

    made = VolumePhantoms(read_card("neurostorm-demo"), seed=3)
    return torch.cat([made.windows(person, 1, n=1) for person in range(1, n + 1)])


def redundancy(name, repeats):
    import torch

    from neurostorm_app.models import create_model
    from neurostorm_app.models.autoencoder import NeuroStormMae
    from neurostorm_app.models.redundancy_dropout import Redundancy

    weights, _, variant = name.partition(":")
    x = phantoms(1 if weights == "random" else 2)
    if weights == "demo":
        model = create_model("neurostorm-demo")
    else:
        model = released(NeuroStormMae, spatial_mask="window", time_mask="random", mask_ratio=0.5)
        volumes = x.movedim(-1, 1).flatten(0, 2)[:, None]
        volumes = torch.nn.functional.interpolate(volumes, scale_factor=2, mode="trilinear")
        x = volumes[:, 0].reshape(len(x), 1, 20, 96, 96, 96).movedim(2, -1)
    model.train()
    settings = None if variant == "none" else Redundancy(variant=variant)
    model.drop_redundancy(settings, seed=5)

    def step():
        model.zero_grad()
        if model.redundancy:
            model.redundancy.begin(0)
        seed = torch.Generator().manual_seed(2)
        model.masked_error(x, generator=seed).mean().backward()

    wall, cpu = median(step, repeats)
    found = {"wall": wall, "cpu": cpu, "peak": peak()}
    if model.redundancy:
        drop = model.redundancy.measured()
        found |= {"share": drop.share, "expected": drop.expected, "moved": drop.moved, "n": drop.n}
        found["changed"] = change(model, x)
    return found


def change(model, x):
    """Measure how far the features move, relative to their own size."""
    import torch

    from neurostorm_app.models.redundancy_dropout import Redundancy

    settings = model.redundancy.settings
    with torch.no_grad():
        plain = model.eval().features(x)
        model.train().drop_redundancy(Redundancy(variant=settings.variant), seed=5)
        moved = model.features(x)
    return ((moved - plain).norm() / plain.norm()).item()


def pretraining(x, settings, *, seed, steps):
    """Train the demo's network from nothing on windows; guess the hidden of the last 4 without."""
    import torch

    from neurostorm_app.models import read_card
    from neurostorm_app.models.autoencoder import NeuroStormMae
    from neurostorm_app.models.neurostorm_files import Config

    torch.manual_seed(seed)
    model = NeuroStormMae(Config.of(read_card("neurostorm-demo").config)).train()
    model.drop_redundancy(settings, seed=seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    shares = [0.0]
    for step in range(steps):
        draw = torch.Generator().manual_seed(1000 * seed + step)
        if model.redundancy:
            model.redundancy.begin(step)
        optimiser.zero_grad()
        batch = x[torch.randperm(len(x) - 4, generator=draw)[:2]]
        model.masked_error(batch, generator=draw).mean().backward()
        optimiser.step()
        if model.redundancy:
            shares.append(model.redundancy.measured().share)
    with torch.no_grad():
        left = model.eval().masked_error(x[-4:], generator=torch.Generator().manual_seed(7))
    return left.mean().item(), sum(shares) / max(1, len(shares) - 1)


def show_pretraining(threads, steps, seeds=(1, 2)):
    import torch

    from neurostorm_app.models.redundancy_dropout import Redundancy

    torch.set_num_threads(threads)
    x = phantoms(12)[..., :8]
    print(f"redundancy dropout: {steps} steps of pre-training on 8 phantoms, masked error of 4 "
          f"others; seeds {seeds}")  # fmt: skip
    wishes = [None] + [
        Redundancy(variant=variant, strength=strength)
        for variant, strength in (("paper", 1), ("paper", 100), ("upstream", 1), ("upstream", 10))
    ]
    for settings in wishes:
        runs = [pretraining(x, settings, seed=seed, steps=steps) for seed in seeds]
        losses = ", ".join(f"{loss:.4f}" for loss, _ in runs)
        share = sum(share for _, share in runs) / len(runs)
        name = f"{settings.variant}, strength {settings.strength}" if settings else "none"
        print(f"  {name:23} error {losses}   dropped {share:.3%}", flush=True)


def in_a_process(what, name, threads, repeats):
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, name, str(threads), str(repeats)],
        stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main(threads=1, repeats=3, steps=60):
    show_tuning(threads, repeats)
    show_redundancy(threads, repeats)
    show_pretraining(threads, steps)


def show_tuning(threads, repeats):
    print(f"tuning: one step of one window, {threads} threads, median of {repeats}")
    found = {name: in_a_process("tuning", name, threads, repeats) for name in STRATEGIES}
    whole = found["full"]
    for name, f in found.items():
        print(f"  {name:12} wall {f['wall']:6.2f} s ({f['wall'] / whole['wall']:4.2f} of full)   "
              f"CPU {f['cpu']:6.2f} s ({f['cpu'] / whole['cpu']:4.2f})   peak {f['peak']:5.0f} MiB "
              f"({f['peak'] / whole['peak']:4.2f})   learning {f['learning']:,}")  # fmt: skip


def show_redundancy(threads, repeats):
    for weights, title in (
        ("demo", "demo weights, 2 windows of 48 x 48 x 48"),
        ("random", "random weights, released configuration, 1 window"),
    ):
        print(f"redundancy dropout: a pre-training step, {title}")
        plain = None
        for variant in VARIANTS:
            f = in_a_process("redundancy", f"{weights}:{variant}", threads, repeats)
            plain = plain or f
            more = f"{f['cpu'] / plain['cpu'] - 1:+.0%}"
            line = (f"  {variant:9} wall {f['wall']:6.2f} s   CPU {f['cpu']:6.2f} s ({more})   "
                    f"peak {f['peak']:5.0f} MiB")  # fmt: skip
            if variant != "none":
                unit = "tokens" if variant == "upstream" else "entries"
                line += (f"   dropped {f['share']:.3%} of {f['n']:,} {unit} (expected "
                         f"{f['expected']:.3%}), tokens changed {f['moved']:.2%}, "
                         f"features move by {f['changed']:.2%}")  # fmt: skip
            print(line)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        what, name, threads, repeats = sys.argv[2:]
        import torch

        torch.set_num_threads(int(threads))
        measure = {"tuning": tuning, "redundancy": redundancy}[what]
        print(json.dumps(measure(name, int(repeats))))
    else:
        main(*(int(a) for a in sys.argv[1:]))
