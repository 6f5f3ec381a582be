"""A run made ready for a network: windows in a stream, and what was found on the way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.conformance import Findings
    from neurostorm_app.pipelines.parcellate import Parcels

__all__ = ["Prepared", "naming", "note_mask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a network is given.

    Parameters
    ----------
    windows : iterator of ndarray, float32
        (C, X, Y, Z, L) or (V, L), computed when asked for.
    starts : list of int
        First volume of each window.
    window : int
        Volumes in a window.
    step : float
        Seconds from one volume to the next.
    findings : Findings
        How the run and the contract differ.
    parcels : Parcels or None
        Cleaned series, where the model eats parcels.
    xyz : ndarray, shape (V, 3), float32, or None
        Where the parcels are, MNI mm, where the network is told.
    n_unused : int
        Volumes at the model's repetition time that are in no window.
    """

    windows: Iterator[NDArray[np.float32]]
    starts: list[int]
    window: int
    step: float
    findings: Findings
    parcels: Parcels | None = None
    xyz: NDArray[np.float32] | None = None
    n_unused: int = 0


def note_mask(source: str, findings: Findings) -> None:
    """Tell where the brain mask came from."""
    findings.facts["mask"] = source
    if source != "given":
        findings.reasons.append(f"no brain mask was given; it was taken from the series ({source})")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file in front of what went wrong in it."""
    try:
        yield
    except AppError as error:
        if str(path) in error.what:
            raise
        raise type(error)(f"{path}: {error.what}", fix=error.fix) from error
