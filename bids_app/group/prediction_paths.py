"""Where the files of a target are: those of its evaluation, and those that an earlier call left.

A later call may write fewer files: without ``--baselines`` or ``--save-heads``, or because the
embeddings of a model are gone. What it does not write again is of other people or settings. It is
named and never removed: hours may have gone into it. It is looked for whenever it is told, and
stands in no file: who removes it is told of it no longer, and nothing is evaluated again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurostorm_app.bids_app.group.phenotype_files import is_prediction

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from neurostorm_app.bids_app.provenance import Ledger

__all__ = ["all_leftovers", "evaluation_paths", "find_leftovers", "tell_leftovers"]


def evaluation_paths(root: Path, target: str) -> dict[str, Path]:
    """Paths of the files of a target, by its label."""
    stem = root / "prediction" / f"target-{target}_evaluation"
    return {"json": stem.with_suffix(".json"), "table": stem.with_suffix(".tsv")}


def find_leftovers(ledger: Ledger, target: str) -> list[str]:
    """List predictions and heads of a target that the last evaluation did not write.

    Parameters
    ----------
    ledger : Ledger
        Of the output folder; it knows what the last evaluation wrote.
    target : str
        Label of the target.

    Returns
    -------
    list of str
        Paths in the output folder; a sidecar goes with its file and is not named. None where it is
        not recorded what was written.
    """
    root = ledger.root
    written = (ledger.read(f"target-{target}_evaluation") or {}).get("outputs")
    if not isinstance(written, dict):
        return []
    current = {root / name for name in written}
    tables = (root / "phenotype").glob(f"*_{target}.tsv")
    heads = (root / "prediction").glob(f"target-{target}_desc-*_head.safetensors")
    # A label has no underscore: of another target is what has more of them.
    ours = [path for path in tables if path.stem.count("_") == 1 and is_prediction(path)]
    old = sorted(path for path in (*ours, *heads) if path not in current)
    return [str(path.relative_to(root)) for path in old]


def all_leftovers(ledger: Ledger) -> dict[str, str]:
    """Say it of all targets, by their labels; what there is nothing of is not in it."""
    paths = sorted((ledger.root / "prediction").glob("target-*_evaluation.json"))
    labels = [path.name.removeprefix("target-").removesuffix("_evaluation.json") for path in paths]
    told = {label: tell_leftovers(label, find_leftovers(ledger, label)) for label in labels}
    return {label: words[0] for label, words in told.items() if words}


def tell_leftovers(target: str, names: Collection[str]) -> list[str]:
    """Say what the files are that `find_leftovers` found; nothing if there are none.

    Examples
    --------
    >>> tell_leftovers("age", ["phenotype/bnt_age.tsv"])
    ['left from an earlier evaluation of age, and not of this one: phenotype/bnt_age.tsv']
    """
    told = f"left from an earlier evaluation of {target}, and not of this one: "
    return [told + ", ".join(names)] if names else []
