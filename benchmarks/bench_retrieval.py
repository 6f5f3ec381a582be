"""Search among embeddings beside brute force in numpy: queries a second, recall@10, memory.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/bench_retrieval.py [--sizes 10000 100000 1000000]

Vectors are made to look like embeddings of 288 numbers: a common part, one of 50 scanners, a
person (five runs each) and a run, of which the last three have spectra that fall as one over the
square root of the component. Ours centres, as the models' cards ask for. The peer normalises
once, multiplies and takes the ten largest (``argpartition``), 100 queries at a time; single
queries are timed too, as that is what a person at a command line waits for. Queries are runs of
the index, themselves among the answers of neither. Recall is against the peer's answers, not the
one the index states, which is printed beside it. With ``--memory`` one million vectors come in
blocks, are indexed, written, read and asked in a process of its own, whose peak is printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from neurostorm_app.pipelines.retrieve import build_index, load_index, save_index, search_many

DIMENSION, RUNS, SCANNERS, BLOCK = 288, 5, 50, 10_000
KINDS = ("exact", "ivf", "hnsw", "pq")
SPECTRUM = (1 + np.arange(DIMENSION)) ** -0.5


class Embeddings:
    """Blocks of made-up embeddings: the same whenever they are read."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    def __iter__(self):
        rng = np.random.default_rng(0)
        common = 3 * rng.normal(size=DIMENSION) * SPECTRUM
        scanners = 0.5 * rng.normal(size=(SCANNERS, DIMENSION)) * SPECTRUM
        for start in range(0, self.n_rows, BLOCK):
            n_rows = min(BLOCK, self.n_rows - start)
            rng = np.random.default_rng([1, start])
            people = rng.normal(size=(-(-n_rows // RUNS), DIMENSION)) * SPECTRUM
            people += scanners[rng.integers(SCANNERS, size=len(people))]
            runs = 0.7 * rng.normal(size=(n_rows, DIMENSION)) * SPECTRUM
            yield (common + np.repeat(people, RUNS, axis=0)[:n_rows] + runs).astype("f4")


def brute(unit, queries, own, k):
    """Find the k rows of the largest cosines, the query's own left out; (Q, k)."""
    found = []
    for start in range(0, len(queries), 100):
        cosine = queries[start : start + 100] @ unit.T
        cosine[np.arange(len(cosine)), own[start : start + 100]] = -np.inf
        few = np.argpartition(-cosine, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosine, few, 1), axis=1)
        found.append(np.take_along_axis(few, order, 1))
    return np.vstack(found)


def timed(function, *args, **settings):
    begin = time.perf_counter()
    result = function(*args, **settings)
    return result, time.perf_counter() - begin


def compare(n_rows: int, n_queries: int, kinds) -> None:
    vectors = np.concatenate(list(Embeddings(n_rows)))
    own = np.sort(np.random.default_rng(2).choice(n_rows, n_queries, replace=False))
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    truth, seconds = timed(brute, unit, unit[own], own, 10)
    few = own[:: max(1, n_queries // 20)]
    alone = sum(timed(brute, unit, unit[[i]], [i], 10)[1] for i in few) / len(few)
    peer = n_queries / seconds
    print(f"{n_rows:,} vectors of {DIMENSION}, {n_queries} queries")
    print("  kind    build s   file MiB   queries/s   ratio   one query ms   ratio   recall@10"
          "   stated   parameters")  # fmt: skip
    print(f"  numpy {'':>20} {peer:11,.0f} {1:7.1f} {1e3 * alone:14.2f} {1:7.1f} {1:11.3f}")
    del unit
    for kind in kinds:
        index, built = timed(build_index, vectors, centre=True, kind=kind)
        with tempfile.TemporaryDirectory() as folder:
            save_index(index, Path(folder) / "index")
            size = (Path(folder) / "index").stat().st_size / 2**20
        (rows, _), seconds = timed(
            search_many, index, vectors[own], 10, exclude=[{i} for i in own.tolist()]
        )
        waited = sum(timed(search_many, index, vectors[[i]], 10)[1] for i in few) / len(few)
        recall = np.mean([np.isin(a, b).mean() for a, b in zip(rows, truth, strict=True)])
        stated = f"{index.recall.value:8.3f}" if index.recall else f"{'':8}"
        speed = n_queries / seconds
        print(
            f"  {kind:6} {built:8.1f} {size:10.0f} {speed:11,.0f} {speed / peer:7.1f} "
            f"{1e3 * waited:14.2f} {alone / waited:7.1f} {recall:11.3f} {stated}   "
            f"{dict(index.parameters)}",
            flush=True,
        )


def peak() -> float:
    """GiB of resident memory at the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss has the parent's in it
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def million(kind: str, n_rows: int) -> None:
    """Index, write, read and ask with vectors that come in blocks; print the peak of each."""
    before = peak()
    index, built = timed(build_index, Embeddings(n_rows), centre=True, kind=kind, memory=4 * 2**30)
    after = peak()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        save_index(index, path)
        name, recall = index.kind, index.recall
        del index
        index = load_index(path)
        queries = next(iter(Embeddings(1000)))
        search_many(index, queries, 10)
    stated = "" if recall is None else f", stated recall {recall.value:.3f}"
    print(
        f"  {name:6} {n_rows:,} rows in {built:.0f} s{stated}; peak {before:.2f} GiB before, "
        f"{after:.2f} once built, {peak():.2f} once written, read and asked"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--memory", nargs="*", default=["auto", "exact"], choices=("auto", *KINDS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        million(asked.one, 1_000_000)
        return
    for n_rows in asked.sizes:
        compare(n_rows, asked.queries, asked.kinds)
    print("peak memory of one million rows, each in a process of its own")
    for kind in asked.memory:
        subprocess.run([sys.executable, __file__, "--one", kind], check=True)


if __name__ == "__main__":
    main()
