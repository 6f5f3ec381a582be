"""What a model guessed of a window, a part of which was hidden: input, what it saw, its guess."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.bids_app.report.reading import expecting, read_json
from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.figures.style import encode_image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.report.model_files import EmbeddingFiles

__all__ = ["Guess", "GuessRow", "read_guess"]

_WIDEST = 300
"""Pixels of the longer side of a picture below which each number becomes several pixels."""
_LARGEST = 2**22
"""Pixels of a picture, at most."""
_DARK = np.array([64, 74, 92], dtype=np.uint8)
"""Colour of what was hidden: bluish, so that it is no grey of the picture."""


@dataclass(frozen=True, kw_only=True)
class GuessRow:
    """One view: the truth, what the network saw of it, and its guess, as data addresses."""

    title: str
    truth: str
    seen: str
    guess: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Guess:
    """An example of what a model makes of a run.

    Parameters
    ----------
    rows : list of GuessRow
        Three slices of a volume, or one picture of all parcels.
    hidden : float
        Share of the window that was hidden.
    error : float
        Mean squared error over what was hidden, in `unit`.
    baseline : float
        The same of a guess that is the mean of what was seen.
    unit : str
        Of both.
    onset : float
        Of the window in seconds.
    """

    rows: list[GuessRow]
    hidden: float
    error: float
    baseline: float
    unit: str
    onset: float


def read_guess(files: EmbeddingFiles) -> Guess | None:
    """Read the example of a model; None if it kept none.

    Raises
    ------
    DataError
        If the file does not hold what it says.
    """
    if files.guess is None:
        return None
    said = read_json(files.guess)
    with expecting("example of a reconstruction", files.guess):
        return Guess(
            rows=[_row(view, files.guess) for view in said["Views"]],
            hidden=float(said["HiddenShare"]),
            error=float(said["Error"]),
            baseline=float(said["ErrorOfMean"]),
            unit=str(said["Unit"]),
            onset=float(said["Onset"]),
        )


def _row(view: Mapping[str, Any], path: Path) -> GuessRow:
    """Make pictures of one view; bytes are shares of the range from low to high."""
    height, width = (int(side) for side in view["Shape"])
    if min(height, width) < 1 or height * width > _LARGEST:
        raise DataError(
            f"{path}: a picture of {height} x {width} pixels; expected 1 to {_LARGEST} of them",
            fix="delete it and run the app again with the same options: it makes what is missing",
        )
    shape = (height, width)
    truth, hidden, guess = (_image(view[key], shape) for key in ("Input", "Hidden", "Output"))
    grey = {name: np.repeat(data[..., None], 3, axis=2) for name, data in
            (("truth", truth), ("guess", guess))}  # fmt: skip
    seen = np.where(hidden[..., None] > 0, _DARK, grey["truth"])
    times = max(1, round(_WIDEST / max(shape)))
    pictures = [
        encode_image(np.ascontiguousarray(pixels.repeat(times, 0).repeat(times, 1)), quality=80)
        for pixels in (grey["truth"], seen, grey["guess"])
    ]
    return GuessRow(
        title=str(view["Title"]),
        truth=pictures[0],
        seen=pictures[1],
        guess=pictures[2],
        width=width * times,
        height=height * times,
    )


def _image(text: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Unpack a picture; no more of it than its shape says, whatever the file holds."""
    most = shape[0] * shape[1] + 1
    raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), most)
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)
