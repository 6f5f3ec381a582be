"""Files of heads: plain arrays in safetensors, and a card in JSON; read strictly, never run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from neurostorm_app.errors import NoInputError, WrongWeightsError
from neurostorm_app.pipelines.evaluate.calibrate import Calibration
from neurostorm_app.pipelines.evaluate.cohort import Target
from neurostorm_app.pipelines.evaluate.heads import LEARNER, Head

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["pack_head", "read_head", "write_head"]

FORMAT: Final = "neurostorm-app head 1"
LARGEST: Final = 2**30
"""Bytes of a file that is opened: the longest embedding known has 0.1 million numbers."""
NOTICE: Final = (
    "Not for diagnosis: a head for research, no better than its out-of-fold performance, on people "
    "like those it was fitted on."
)
PRIVACY: Final = (
    "No label, name or row of a participant is in this file. Weights are learned from people, "
    "though, and can tell something of them where they were few: share it as you would "
    "group results."
)


def pack_head(head: Head, *, version: str) -> tuple[bytes, dict[str, Any]]:
    """Bring a head to the bytes of a safetensors file and the content of its card.

    Parameters
    ----------
    head : Head
        The head.
    version : str
        Of the app.
    """
    arrays = {"weights": head.weights, "intercept": head.intercept}
    if head.calibration is not None:
        arrays["slope"] = np.array([head.calibration.slope])
        arrays["biases"] = head.calibration.biases
        arrays["prevalences"] = head.calibration.prevalences
    if head.half_width is not None:
        arrays["half_width"] = np.array([head.half_width])
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    demo = "DEMO WEIGHTS, NOT FOR SCIENCE. " if head.demo else ""
    card = {
        "Format": FORMAT,
        "Description": f"{demo}{head.target.name} from embeddings of {head.source}. {NOTICE}",
        "NotForDiagnosis": True,
        "Demo": head.demo,
        "Source": head.source,
        "Fingerprint": dict(head.fingerprint),
        "Target": head.target.name,
        "Kind": head.target.kind,
        "Classes": list(head.target.classes),
        "Units": head.target.unit,
        "Learner": LEARNER,
        "Confidence": head.confidence,
        "NumberOfRows": head.n_rows,
        "NumberOfParticipants": head.n_participants,
        "RowIs": "session" if head.per_session else "participant",
        "OutOfFoldPerformance": {name: dict(told) for name, told in head.performance.items()},
        "Privacy": PRIVACY,
        "AppVersion": version,
        "SHA256": hashlib.sha256(content).hexdigest(),
    }
    return content, card


def write_head(head: Head, path: Path, *, version: str) -> None:
    """Write a head and, beside it in ``.json``, its card.

    Parameters
    ----------
    head : Head
        The head.
    path : Path
        In ``.safetensors``.
    version : str
        Of the app.
    """
    content, card = pack_head(head, version=version)
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def read_head(path: Path) -> Head:
    """Read a head and its card.

    Parameters
    ----------
    path : Path
        The safetensors file; the card lies beside it.

    Raises
    ------
    NoInputError
        If one of the two is not there.
    WrongWeightsError
        If they are damaged, do not belong together, or are of something else.
    """
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise NoInputError(
                f"{file} is not there; a head is a .safetensors file with a .json beside it",
                fix="check the path, and copy both files",
            )
        if file.stat().st_size > LARGEST:
            raise _wrong(file, "is larger than any head")
    content = path.read_bytes()
    card = _read_card(path.with_suffix(".json"))
    if hashlib.sha256(content).hexdigest() != card["SHA256"]:
        raise _wrong(path, "is not the file that its card describes")
    try:
        arrays = load(content)
    except SafetensorError as error:
        raise _wrong(path, f"is no safetensors file: {error}") from error
    _check_arrays(path, arrays, card)
    return _build(arrays, card)


def _wrong(path: Path, why: str) -> WrongWeightsError:
    return WrongWeightsError(f"{path} {why}", fix="get both files of the head again")


KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "Demo": bool,
    "Source": str,
    "Fingerprint": dict,
    "Target": str,
    "Kind": str,
    "Classes": list,
    "Units": (str, type(None)),
    "Confidence": float,
    "NumberOfRows": int,
    "NumberOfParticipants": int,
    "RowIs": str,
    "OutOfFoldPerformance": dict,
    "SHA256": str,
}
"""What a card has to hold."""


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _wrong(path, f"is not JSON: {error}") from error
    if not isinstance(card, dict) or card.get("Format") != FORMAT:
        raise _wrong(path, f"is no card of a head in the format {FORMAT!r}")
    wrong = [k for k, kind in KINDS.items() if k not in card or not isinstance(card[k], kind)]
    n_classes = len(card["Classes"]) if "Classes" not in wrong else 0
    if not wrong and (card["Kind"] == "value") != (n_classes == 0):
        wrong = ["Kind", "Classes"]
    if wrong or card["Kind"] not in {"value", "classes"} or n_classes == 1:
        raise _wrong(path, f"lacks, or holds nonsense in, {', '.join(wrong) or 'Kind'}")
    return card


AT_LEAST_0: Final = frozenset({"half_width", "slope"})


def _check_arrays(path: Path, arrays: dict[str, NDArray[Any]], card: dict[str, Any]) -> None:
    """Check names, kinds, sizes and numbers of the arrays against the card."""
    dimension, n_classes = card["Fingerprint"].get("EmbeddingDimension"), len(card["Classes"])
    n_scores = 1 if n_classes <= 2 else n_classes
    shapes = {"weights": (dimension, n_scores), "intercept": (n_scores,)}
    if n_classes:
        shapes |= {"slope": (1,), "biases": (n_classes,), "prevalences": (n_classes,)}
    elif "half_width" in arrays:
        shapes["half_width"] = (1,)
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        raise _wrong(path, f"holds arrays {found}; its card asks for {shapes}")
    for name, array in arrays.items():
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise _wrong(path, f"holds numbers in {name} that are not finite, or not float64")
    lowest = min(
        (float(array.min()) for name, array in arrays.items() if name in AT_LEAST_0), default=0
    )
    shares = arrays.get("prevalences", np.ones(1))
    if lowest < 0 or not (shares > 0).all() or not np.isclose(shares.sum(), 1):
        raise _wrong(path, "holds a half-width, a slope or prevalences that cannot be")


def _build(arrays: dict[str, NDArray[Any]], card: dict[str, Any]) -> Head:
    calibration = None
    if card["Classes"]:
        calibration = Calibration(
            slope=float(arrays["slope"][0]),
            biases=arrays["biases"],
            prevalences=arrays["prevalences"],
        )
    return Head(
        source=card["Source"],
        fingerprint=card["Fingerprint"],
        target=Target(
            name=card["Target"],
            kind=card["Kind"],
            values=np.empty(0),
            classes=tuple(map(str, card["Classes"])),
            unit=card["Units"],
        ),
        weights=arrays["weights"],
        intercept=arrays["intercept"],
        calibration=calibration,
        half_width=float(arrays["half_width"][0]) if "half_width" in arrays else None,
        confidence=card["Confidence"],
        n_rows=card["NumberOfRows"],
        n_participants=card["NumberOfParticipants"],
        per_session=card["RowIs"] == "session",
        performance=card["OutOfFoldPerformance"],
        demo=card["Demo"],
    )
