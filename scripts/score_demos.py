"""Tell how well the demo weights find a participant's other run among preprocessed runs.

Give the folder of results of ``neurostorm-app`` (or any fMRIPrep-like one) for phantoms; several
folders are scored one after the other::

    python scripts/score_demos.py OUT [OUT ...] [--models NAME ...]
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from neurostorm_app.bids_app.inputs.precomputed import Precomputed, find_precomputed
from neurostorm_app.pipelines.stage import OutputSpace
from neurostorm_app.pipelines.train import score_preprocessed

WANTED = (OutputSpace(name="MNI152NLin6Asym", res="2"),)
DEMOS = ("neurostorm-demo", "brainlm-demo")


def main() -> None:
    """Print one line a model and folder."""
    logging.basicConfig(level=logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT")
    parser.add_argument("--models", nargs="+", choices=DEMOS, default=list(DEMOS))
    parser.add_argument("--untrained", type=int, default=3, metavar="N")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.models:
        for folder in asked.folders:
            runs = find_runs(folder)
            done = score_preprocessed(
                name,
                [run.series for run in runs],
                [run.participant for run in runs],
                n_untrained=asked.untrained,
            )
            print(f"{name} {folder}: {done}", flush=True)


def find_runs(folder: Path) -> list[Precomputed]:
    """List the preprocessed runs of all participants of a folder."""
    found = []
    for path in sorted(folder.glob("sub-*/")):
        label = path.name.removeprefix("sub-")
        runs = find_precomputed({"given": folder}, label, WANTED, {})
        for run in runs.values():
            if not isinstance(run, Precomputed):
                raise run
            found.append(run)
    return found


if __name__ == "__main__":
    main()
