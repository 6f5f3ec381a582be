"""Numbers of the runs to train on, those that ``--describe`` writes: measured once, and kept.

What the cache holds is what the network eats: series that a tokenizer takes with slow waves and
motion in them. A description is of cleaned ones, so runs are read anew. What was measured stands
beside the run in the cache, under the hash of all that it was made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import AppError, DataError
from neurostorm_app.pipelines.describe_networks import digest_networks
from neurostorm_app.pipelines.describe_run import VERSION, describe_run, recipe
from neurostorm_app.pipelines.train.engine import main_first

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neurostorm_app.pipelines.describe_networks import Networks
    from neurostorm_app.pipelines.train.cache_file import CachedRun
    from neurostorm_app.pipelines.train.material import Material

__all__ = ["measure_runs"]

log = logging.getLogger(__name__)

DIGITS: Final = 9
"""Decimals, as the sidecar of a description has them."""


def measure_runs(
    material: Material, networks: Networks, *, device: str
) -> list[list[Mapping[str, float]]]:
    """Measure what descriptions of runs hold, once for all processes of a launcher.

    A run that cannot be described is tried by each of them.

    Parameters
    ----------
    material : Material
        Runs in the cache, of a model of parcels, which know what they were made of.
    networks : Networks
        Of the parcels.
    device : {'cpu', 'cuda'}
        Where will be trained.

    Returns
    -------
    list of list of mapping of str to float
        Of each participant, of each run: the numbers that can be compared between people. Of a run
        that cannot be described there are none, and the log says why.

    Raises
    ------
    DataError
        If it is not known what a run was made of, or there is no parcellation.
    """
    with main_first(device):
        return [[_measure(run, material, networks) for run in runs] for runs in material.people]


def _measure(run: CachedRun, material: Material, networks: Networks) -> Mapping[str, float]:
    """Take the numbers of a run if they are there; else measure and keep them."""
    source, atlas = run.source, material.recipe.atlas
    if source is None or atlas is None:
        raise DataError(
            f"{run.path}: the series or the parcellation it was made of is not known, so it cannot "
            "be described",
            fix="make the runs ready anew, of a model that takes parcels",
        )
    path = _place(run, networks)
    found = _read(path)
    if found is None:
        label = getattr(material.recipe.contract, "atlas", "")
        try:
            made = describe_run(source, label=label, networks=networks, atlas=atlas)
        except AppError as why:
            log.warning("%s: nothing is asked about its description: %s", source.name, why.what)
            return {}
        values = {name: round(x, DIGITS) for name, x in made.description.comparable.items()}
        found = {"values": values, "lacking": made.basis["ConfoundsMissing"]}
        _write(path, found)
    if found["lacking"]:
        log.warning("%s: described without %s", source.name, ", ".join(found["lacking"]))
    values = found["values"]
    return dict(values)


def _place(run: CachedRun, networks: Networks) -> Path:
    """Name the file by the run, the networks of its parcels and the cleaning."""
    content = {
        "run": run.key,
        "networks": digest_networks(networks.by_index, networks.by_index.values()),
        "version": VERSION,
        "recipe": recipe().model_dump(mode="json"),
    }
    name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return run.path.with_name(f"{name}.described.json")


def _read(path: Path) -> dict[str, Any] | None:
    """Read what was measured before; what is damaged is measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.keys() != {"values", "lacking"}:
        return None
    whole = isinstance(found["values"], dict) and isinstance(found["lacking"], list)
    return found if whole else None


def _write(path: Path, found: Mapping[str, Any]) -> None:
    """Keep what was measured, unless the cache is somebody else's and may only be read."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(json.dumps(found), encoding="utf-8")
        aside.replace(path)
    except OSError as why:
        log.warning("%s: what was measured is not kept: %s", path.parent, why.strerror)
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
