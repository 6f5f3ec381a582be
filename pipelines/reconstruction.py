"""How well a masked autoencoder guesses what is hidden of a run, and so how usual the run is.

A network that was trained to fill in what is hidden does it badly on input unlike any that it
has seen: another scaling, another orientation, another scanner. A few windows of each run are
enough to tell, and cost little beside embedding all of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from neurostorm_app.models.card import VolumeContract
from neurostorm_app.pipelines.example import Example, draw_example

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from neurostorm_app.models.card import Card
    from neurostorm_app.models.example import MaskedExample
    from neurostorm_app.pipelines.conformance import Findings

__all__ = ["SEED", "choose_shown", "choose_windows", "measure_error", "note_error", "take_example"]

SEED: Final = 20250611
"""Of what is hidden; the number of the window is added."""
N_WINDOWS: Final = 3
ONE_IN: Final = 8
"""At most one window in so many: hiding and guessing takes two to three times an embedding."""
UNITS: Final = {
    "global-zscore": "variances of the run's brain",
    "none": "squares of the unit of the parcels' series",
    "robust": "squared interquartile ranges of a parcel",
    "median": "squared interquartile ranges of a parcel",
    "sd": "variances of the parcels' series",
    "run-zscore": "variances of the run's voxels",
}
"""Unit of the error by the contract's scaling."""


def choose_windows(n_windows: int) -> frozenset[int]:
    """Choose the windows on which the error is measured, spread over the run.

    Parameters
    ----------
    n_windows : int
        Of the run.

    Returns
    -------
    frozenset of int
        One in eight, at least one and at most three.

    Examples
    --------
    >>> sorted(choose_windows(38)), sorted(choose_windows(9)), sorted(choose_windows(2))
    ([6, 19, 31], [2, 6], [1])
    """
    n = min(N_WINDOWS, math.ceil(n_windows / ONE_IN))
    return frozenset((2 * k + 1) * n_windows // (2 * n) for k in range(n))


def choose_shown(n_windows: int) -> int:
    """Choose the window that a report shows: the middle one of `choose_windows`.

    Examples
    --------
    >>> choose_shown(38), choose_shown(1)
    (19, 0)
    """
    chosen = sorted(choose_windows(n_windows))
    return chosen[len(chosen) // 2]


def measure_error(model: nn.Module, *inputs: Tensor, number: int) -> float:
    """Hide a part of one window and compare the network's guess with the truth.

    Parameters
    ----------
    model : torch.nn.Module
        With ``masked_error``.
    *inputs : Tensor, shape (1, ...)
        What ``embed`` is given.
    number : int
        Of the window in its run: what is hidden depends on it and on nothing else.

    Returns
    -------
    float
        Mean squared error over what was hidden, in the unit of the input, squared.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED + number)
    error: Tensor = model.masked_error(*inputs, generator=generator)  # type: ignore[operator]
    return float(error.float().mean())


def take_example(
    model: nn.Module, *inputs: Tensor, number: int, affine: NDArray[np.float64] | None
) -> tuple[float, Example]:
    """Do what `measure_error` does, and keep pictures of it.

    Parameters
    ----------
    model : torch.nn.Module
        With ``masked_example``.
    *inputs : Tensor, shape (1, ...)
        What ``embed`` is given.
    number : int
        Of the window in its run.
    affine : ndarray, shape (4, 4), or None
        Of the window's grid; None for parcels.

    Returns
    -------
    error : float
        As `measure_error` gives it.
    example : Example
        The same window in pictures.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED + number)
    made: MaskedExample = model.masked_example(*inputs, generator=generator)  # type: ignore[operator]
    truth, guess = (part[0].float().cpu().numpy() for part in (made.truth, made.guess))
    hidden = made.hidden[0].cpu().numpy()
    counted = None if made.counted is None else made.counted[0].cpu().numpy()
    error = float(made.error.float().mean())
    return error, draw_example(truth, guess, hidden, error=error, affine=affine, counted=counted)


def note_error(errors: Mapping[int, float], card: Card, findings: Findings) -> None:
    """Compare the errors of a run with those to expect, and tell.

    Parameters
    ----------
    errors : mapping of int to float
        By number of the window; empty where the network has no decoder.
    card : Card
        Its contract gives the unit, its ``expected_error`` the range.
    findings : Findings
        Is told.
    """
    if not errors:
        findings.facts["reconstruction_error"] = None
        findings.facts["reconstruction_note"] = (
            "the network has no decoder, or none that guesses what is hidden"
        )
        return
    mean = sum(errors.values()) / len(errors)
    contract, expected = card.contract, card.expected_error
    unit = UNITS[contract.scaling]
    finite = math.isfinite(mean)
    findings.facts |= {
        "reconstruction_error": round(mean, 6) if finite else None,
        "reconstruction_unit": unit,
        "reconstruction_windows": sorted(errors),
        "reconstruction_seed": SEED,
        "reconstruction_expected": "no range is known",
    }
    if not finite:
        findings.reasons.append("the masked-reconstruction error is not a finite number")
    if expected is None:
        return
    findings.facts["reconstruction_expected"] = expected.model_dump(mode="json")
    findings.deviations["reconstruction"] = 0.0
    if finite and mean > expected.high:
        findings.deviations["reconstruction"] = math.log2(mean / expected.high)
        eats = "volumes" if isinstance(contract, VolumeContract) else contract.kind
        findings.reasons.append(
            f"the network guesses hidden {eats} with an error of {mean:.3g} {unit}; "
            f"{expected.low:.3g} to {expected.high:.3g} were expected"
        )
