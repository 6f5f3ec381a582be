"""What choosing salient windows costs: is a phantom's other run still the nearest?

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_salience.py [PEOPLE]

Two runs of each of PEOPLE (default 16) simulated participants, 10 windows of 60 volumes, half of
the windows buried in noise three times as large as the signal. `brainlm-demo` embeds all windows,
the k most salient, or k at random; prints how many runs have their participant's other run
nearest, and the share of windows that was not encoded.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from neurostorm_app.models import create_model, read_card
from neurostorm_app.pipelines.salience import rank_windows
from neurostorm_app.pipelines.train.matching import find_hits
from neurostorm_app.pipelines.train.parcel_phantoms import ParcelPhantoms

NAME, N, NOISE, SEED = "brainlm-demo", 10, 3.0, 31


def bury(run: torch.Tensor, rng: np.random.Generator, window: int) -> np.ndarray:
    """Add noise to half of the windows of a run (V, T)."""
    loud = np.zeros(N)
    loud[rng.choice(N, N // 2, replace=False)] = NOISE
    series = run.numpy().astype(np.float64)
    return series + rng.normal(size=series.shape) * series.std() * np.repeat(loud, window)


def main() -> None:
    torch.set_num_threads(1)
    people = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    card = read_card(NAME)
    phantoms, model = ParcelPhantoms(card, SEED), create_model(NAME)
    rng, window = np.random.default_rng(SEED), phantoms.window
    starts = [i * window for i in range(N)]
    of = [person for person in range(1, people + 1) for _ in (1, 2)]
    vectors, rankings = [], []
    for i, person in enumerate(of):
        run = phantoms.run(person, 1 + i % 2, n_volumes=N * window)
        series = bury(run, rng, window)
        rankings.append(rank_windows(series, starts, window=window, most=N).ranking)
        windows = np.stack([series[:, s : s + window] for s in starts]).astype(np.float32)
        with torch.no_grad():
            places = phantoms.places[None].expand(N, -1, -1)
            vectors.append(model.embed(torch.from_numpy(windows), places).numpy())

    def score(chosen: list[list[int]]) -> int:
        means = np.stack([v[c].mean(axis=0) for v, c in zip(vectors, chosen, strict=True)])
        return int(np.sum(find_hits(means, of, centre=card.centre)))

    print(f"{NAME}, {people} participants, 2 runs, {N} windows: hits of {len(of)}")
    print(f"all windows: {score([list(range(N))] * len(of))}, saved 0 %")
    for k in (5, 3, 2, 1):
        best = score([list(ranking[:k]) for ranking in rankings])
        drawn = [score([list(rng.choice(N, k, replace=False)) for _ in of]) for _ in range(5)]
        print(f"k = {k}: salient {best}, random {np.mean(drawn):.1f}, saved {1 - k / N:.0%}")


if __name__ == "__main__":
    main()
