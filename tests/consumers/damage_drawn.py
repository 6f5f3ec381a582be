"""Damages drawn by rules: any file, column or key of a derivative may be hit, or two of them.

The same seed draws the same damages. Nothing is hit that our check says it does not look at, such
as the middle of a table.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from damage import Tree

    Damage = Callable[[Tree], None]

SEED = 11
COUNTS = {
    "gone": 12,
    "empty": 6,
    "lost": 5,
    "renamed": 12,
    "doubled": 5,
    "column": 10,
    "table": 5,
    "key": 9,
    "json": 6,
}
"""How many of each kind are drawn."""
N_PAIRS = 10
RENAMES = (
    (r"_run-1_", "_run-2_"),
    (r"_run-1_", "_"),
    (r"_task-rest_", "_task-other_"),
    (r"_space-MNI152NLin6Asym", "_space-MNI152Lin"),
    (r"_space-MNI152NLin2009cAsym", "_space-MNI152NLin2009aAsym"),
    (r"_res-2", ""),
    (r"_res-2", "_res-02"),
    (r"_desc-(preproc|brain|hmc|coreg|confounds)", ""),
    (r"_desc-(preproc|brain|hmc|coreg|confounds)", "_desc-other"),
    (r"_from-T1w", "_from-T2w"),
    (r"_mode-image", ""),
    (r"_label-GM", "_label-gm"),
    (r"_(bold|boldref|mask|dseg|probseg|xfm)\.", r"_other."),
    (r"_timeseries", "_regressors"),
    (r"\.h5$", ".txt"),
    (r"\.txt$", ".h5"),
    (r"\.tsv$", ".csv"),
    (r"_fmapid-pepolar", "_fmapid-other"),
)
"""A part of a name, and what it becomes; each applies where it is found."""
DOUBLES = (
    (r"_res-2_", "_res-1_"),
    (r"_res-2_", "_"),
    (r"_timeseries", "_regressors"),
    (r"_space-MNI152NLin6Asym_res-2_", "_space-T1w_"),
    (r"_desc-brain_mask", "_desc-other_mask"),
)
JSONS = {"a list": "[1]", "null": "null", "cut off": '{"A": ', "twice": "{}{}", "no text": "\x00"}
VALUES = {"gone": None, "null": "null", "text": '"text"', "below zero": "-1", "a list": "[]"}
KEYED = r"dataset_description|_bold\.|_timeseries\."
"""JSON files of which somebody reads a key."""
COLUMNS = re.compile(
    r"(trans|rot)_[xyz](_\w+)?|(csf|white_matter|global_signal)(_\w+)?|framewise_displacement|"
    r"(std_)?dvars|[awc]_comp_cor_0\d|cosine\d+|motion_outlier\d+|rmsd"
)
"""Columns that anybody reads."""


def draw_damages(original: Path) -> dict[str, Damage]:
    """Draw damages of a derivative, by their names."""
    found: dict[str, list[tuple[str, Damage]]] = defaultdict(list)
    for kind, about, change in _list(original):
        found[kind].append((f"{kind} {about}", change))
    draw = random.Random(SEED)
    drawn = [one for kind, n in COUNTS.items() for one in draw.sample(found[kind], n)]
    every = [one for many in found.values() for one in many]
    for _ in range(N_PAIRS):
        (first, one), (second, other) = draw.sample(every, 2)
        drawn.append((f"{first} and {second}", _both(one, other)))
    return {name[:150]: change for name, change in drawn}


def _list(original: Path) -> Iterator[tuple[str, str, Damage]]:
    """List all damages: the kind, what is hit, and how."""
    paths = sorted(
        path.relative_to(original).as_posix()
        for path in original.glob("sub-*/**/*.*")
        if not path.stem.endswith("_embedding")  # nobody else reads it
    )
    for path in (*paths, "dataset_description.json"):
        name = path.rpartition("/")[2].removeprefix("sub-01_").removeprefix("task-rest_run-1_")
        yield "gone", name, lambda tree, path=path: (tree.root / path).unlink(missing_ok=True)
        yield "empty", name, lambda tree, path=path: tree.write(tree.root / path, "")
        yield "lost", name, lambda tree, path=path: _lose(tree, path)
        for before, after in RENAMES if "/" in path else ():
            if (new := re.sub(before, after, path)) != path:
                about = f"{name} to {new.rpartition('/')[2]}"
                yield "renamed", about, lambda tree, path=path, new=new: _move(tree, path, new)
        for before, after in DOUBLES:
            if (new := re.sub(before, after, path)) != path and not path.endswith(".json"):
                about = new.rpartition("/")[2]
                yield "doubled", about, lambda tree, path=path, new=new: _double(tree, path, new)
        if path.endswith(".json"):
            yield from _list_json(original, path, name)
    yield from _list_columns(next(original.glob("sub-*/**/*_desc-confounds_timeseries.tsv")))


def _list_json(original: Path, path: str, name: str) -> Iterator[tuple[str, str, Damage]]:
    for about, text in JSONS.items():
        yield "json", f"{name} {about}", lambda tree, text=text: tree.write(tree.root / path, text)
    keys = json.loads((original / path).read_text()) if re.search(KEYED, name) else ()
    for key in keys:
        if path.endswith("_timeseries.json") and not key.startswith("a_comp_cor_0"):
            continue
        for about, text in VALUES.items():
            yield "key", f"{name} {key} {about}", _set_key(path, key, text)


def _list_columns(table: Path) -> Iterator[tuple[str, str, Damage]]:
    columns = table.read_text().split("\n", 1)[0].split("\t")
    for name in filter(COLUMNS.fullmatch, columns):
        yield "column", f"{name} gone", lambda tree, name=name: tree.drop(re.escape(name))
        yield "column", f"{name} na", lambda tree, name=name: tree.set(name, "n/a", 10**6)
        yield "column", f"{name} words", lambda tree, name=name: tree.set(name, "x", 10**6)
        yield "column", f"{name} inf", lambda tree, name=name: tree.set(name, "inf", 10**6)
        upper = name.upper()
        yield "column", f"{name} upper", lambda tree, n=name, u=upper: tree.rename(re.escape(n), u)
    for about, change in {
        "windows": lambda text: text.replace("\n", "\r\n"),
        "byte order": lambda text: "\ufeff" + text,
        "commas": lambda text: text.replace("\t", ","),
        "spaces": lambda text: text.replace("\t", " "),
        "quoted": lambda text: re.sub(r"(?m)^([^\t]+)", r'"\1"', text),
        "blank line": lambda text: "\n" + text,
        "header alone": lambda text: text.split("\n")[0] + "\n",
        "twice a column": lambda text: re.sub(r"(?m)^([^\t\n]+)", r"\1\t\1", text),
    }.items():
        yield (
            "table",
            about,
            lambda tree, change=change: tree.write(tree.table, change(tree.table.read_text())),
        )


def _lose(tree: Tree, path: str) -> None:
    (tree.root / path).unlink(missing_ok=True)
    (tree.root / path).symlink_to(tree.root / "annex" / "nothing")


def _move(tree: Tree, path: str, new: str) -> None:
    if (tree.root / path).exists():  # another damage may have taken it
        (tree.root / path).rename(tree.root / new)


def _double(tree: Tree, path: str, new: str) -> None:
    """Add a file of another name; an image has another grid too."""
    source = tree.root / path
    if not source.exists() or source.stat().st_size == 0:
        return
    if not path.endswith(".nii.gz"):
        (tree.root / new).write_bytes(source.read_bytes())
        return
    image = nib.load(source)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), tree.root / new)


def _set_key(path: str, key: str, text: str | None) -> Damage:
    def change(tree: Tree) -> None:
        file = tree.root / path
        if not file.exists():
            return
        try:
            content = json.loads(file.read_text())
            content.pop(key)
        except (ValueError, AttributeError, KeyError):
            return  # another damage left no object
        tree.write(file, json.dumps(content if text is None else content | {key: json.loads(text)}))

    return change


def _both(one: Damage, other: Damage) -> Damage:
    def change(tree: Tree) -> None:
        one(tree)
        try:
            other(tree)
        except (AssertionError, FileNotFoundError, ValueError):
            print("the second damage finds nothing to hit any more")

    return change
