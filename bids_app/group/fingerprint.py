"""What made an embedding: equal where two are compared, and told where it differs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.provenance import key_of
from neurostorm_app.errors import DataError
from neurostorm_app.models.card import fill_contract

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.group.rows import Entry

__all__ = [
    "AGAIN",
    "SAID",
    "TOLD",
    "describe_differences",
    "differences",
    "identity",
    "read_content",
    "read_fingerprint",
    "shown",
]

OPTIONS: Final = (
    "clip_policy",
    "parity",
    "gain",
    "max_windows",
    "statistics_sha256",
    "coordinates_sha256",
)
"""What of the computation changes vectors, beside weights, contract, atlas and precision."""
SAID: Final = ("Centre", "Control", "TunedTo")
"""What newer sidecars say beside; it does not tell runs apart."""
AGAIN: Final = "embed it again: remove the table, and call the participant level"
TOLD: Final = 6
"""Differences that a message names."""
SHORT: Final = 16
"""Letters of a value that a message shows: enough to tell two hashes apart."""


def read_content(path: Path) -> bytes:
    """Read a file of a run.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}",
            fix="get the content of the file, or embed the run again",
        ) from error


def read_fingerprint(entry: Entry) -> dict[str, Any]:
    """Read from a sidecar what made an embedding: what must be equal where two are compared.

    Parameters
    ----------
    entry : Entry
        Whose sidecar to read.

    Returns
    -------
    dict
        ``WeightsSHA256``, ``Contract``, ``Atlas``, ``Space``, ``Resolution``, ``Precision``,
        ``EmbeddingDimension``, ``Options`` and ``Demo``; ``Centre``, ``Control`` and ``TunedTo``
        if they are said. Device, engine and versions are not in it: they change the last digits
        alone.

    Raises
    ------
    DataError
        If there is no sidecar, or it does not say these.
    """
    path = entry.sidecar
    if not path.is_file():
        raise DataError(f"{path} is not there: nothing says what made {entry.path.name}", fix=AGAIN)
    try:
        content = json.loads(read_content(path))
        computation = content["Computation"]
        made_by = {
            "WeightsSHA256": content["Model"]["WeightsSHA256"],
            "Contract": dict(content["Contract"]),
            "Atlas": computation.get("atlas_sha256") or computation.get("atlas"),
            **_place(entry.path),
            "Precision": content["Precision"],
            "EmbeddingDimension": int(content["EmbeddingDimension"]),
            "Options": {key: computation[key] for key in OPTIONS if computation.get(key)},
            "Demo": bool(content["Demo"]),
            **{key: bool(content[key]) for key in SAID[:2] if key in content},
            **({"TunedTo": str(content["TunedTo"])} if content.get("TunedTo") else {}),
        }
        # In one order, whatever that of the sidecar is: what is written depends on it.
        return dict(json.loads(json.dumps(made_by, sort_keys=True)))
    except KeyError as error:
        raise DataError(f"{path} does not say {error}", fix=AGAIN) from error
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no sidecar of an embedding: {error}", fix=AGAIN) from error


def _place(path: Path) -> dict[str, str | None]:
    entities = parse_name(path)
    return {"Space": entities.get("space"), "Resolution": entities.get("res")}


def identity(fingerprint: Mapping[str, Any]) -> str:
    """Hash what must be equal where two embeddings are compared."""
    return key_of(_compared(fingerprint))


def _compared(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    compared = {key: value for key, value in fingerprint.items() if key not in SAID}
    if "Contract" in compared:
        compared["Contract"] = fill_contract(compared["Contract"])
    return compared


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Bring nested mappings to one level, names joined by dots and values as JSON.

    Examples
    --------
    >>> flatten({"Contract": {"tr": 0.8}, "Space": "T1w"})
    {'Contract.tr': '0.8', 'Space': '"T1w"'}
    """
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def differences(fingerprints: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what is not the same in all fingerprints, of what `identity` looks at."""
    flats = [flatten(_compared(fingerprint)) for fingerprint in fingerprints]
    names = dict.fromkeys(name for flat in flats for name in flat)
    return [name for name in names if len({flat.get(name) for flat in flats}) > 1]


def shown(fingerprint: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Write some values of a fingerprint, each behind its name and no longer than needed."""
    flat = flatten(fingerprint)
    return [f"{name} {_short(flat.get(name))}" for name in names]


def _short(value: str | None) -> str:
    if value is None:
        return "not said"
    bare = value.strip('"')
    return bare if len(bare) <= SHORT else f"{bare[:SHORT]}…"


def describe_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say in what two fingerprints differ; empty if they are equal.

    Examples
    --------
    >>> describe_differences({"Space": "T1w", "Demo": True}, {"Space": "MNI", "Demo": True})
    'Space T1w, the other Space MNI'
    """
    names = differences([one, other])[:TOLD]
    pairs = zip(shown(one, names), shown(other, names), strict=True)
    return "; ".join(f"{mine}, the other {theirs}" for mine, theirs in pairs)
