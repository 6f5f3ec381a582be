"""What the values of a fine-tuned head mean: classes with probabilities, or a value in its unit.

Outputs are averaged over the windows of a run before they are turned into probabilities, as
upstream evaluates its networks. Names and units are those of the model's card; where the card
has none, outputs are numbered, and nothing is made up. How sure a network is of a value is not
known, so no interval is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import ContractError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.models.card import Output

__all__ = ["interpret", "sigmoid", "softmax"]

UNNAMED = (
    "the card of these weights does not say what the outputs mean; they are numbered, and are "
    "neither probabilities nor in a unit"
)
NO_INTERVAL = "how far a prediction may be off is not known for these weights"


def interpret(values: NDArray[np.floating], output: Output | None) -> dict[str, Any]:
    """Say what a head says of a run.

    Parameters
    ----------
    values : ndarray, shape (N, n)
        Raw outputs of the head, one row a window: logits, or standardised values.
    output : Output or None
        What they mean, from the card; None if that is not known.

    Returns
    -------
    dict
        Of JSON's types: ``target``, ``kind`` (``binary``, ``classes``, ``value`` or ``unknown``),
        ``outputs`` (n means over windows), ``n_windows``, ``pooling``, ``origin``, ``notes`` and
        ``interval`` (None). Of classes also ``classes``, ``probabilities``, ``predicted`` and
        ``rule``; of a value also ``value``, ``unit`` and ``scaler``.

    Raises
    ------
    ContractError
        If the head has another number of outputs than the card expects.
    DataError
        If an output is not a finite number.

    Examples
    --------
    >>> from neurostorm_app.models.card import Output
    >>> sex = Output(target="sex", kind="binary", classes=("F", "M"), origin="the paper")
    >>> interpret(np.array([[-2.0], [2.5]]), sex)["predicted"]
    'M'
    """
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} outputs of the head are not finite numbers",
            fix="look at the series: constant or missing voxels are the usual cause",
        )
    mean = np.asarray(values, dtype=np.float64).mean(axis=0)
    common: dict[str, Any] = {
        "target": output.target if output else None,
        "kind": output.kind if output else "unknown",
        "outputs": mean.tolist(),
        "n_windows": len(values),
        "origin": output.origin if output else None,
        "interval": None,
        "notes": [NO_INTERVAL] if output else [UNNAMED, NO_INTERVAL],
    }
    if output is None:
        return common | {"pooling": "mean of the outputs over windows"}
    _check_number(mean.size, output)
    if output.kind == "value":
        return common | _value(float(mean[0]), output)
    return common | _classes(mean, output)


def sigmoid(logit: float) -> float:
    """Probability of the positive class from its logit, without overflow.

    Examples
    --------
    >>> sigmoid(0.0), sigmoid(-1e4)
    (0.5, 0.0)
    """
    return float(0.5 * (1 + np.tanh(logit / 2)))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of classes from their logits (n,), without overflow.

    Examples
    --------
    >>> softmax(np.array([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum(), dtype=np.float64)


def _check_number(found: int, output: Output) -> None:
    """See that card and head speak of as many outputs."""
    named = len(output.classes)
    expected = (named or found) if output.kind == "classes" else 1
    if found != expected or (output.kind == "binary" and named not in {0, 2}):
        raise ContractError(
            f"the head gives {found} outputs; the card says {output.kind} of {output.target!r} "
            f"with {named} names, which takes {expected}",
            fix="use the card of these very weights, or correct its `output`",
        )


def _value(mean: float, output: Output) -> dict[str, Any]:
    return {
        "value": mean * output.sd + output.mean,
        "unit": output.unit,
        "scaler": {"mean": output.mean, "sd": output.sd},
        "pooling": "mean of the standardised outputs over windows, then output * sd + mean",
    }


def _classes(mean: NDArray[np.float64], output: Output) -> dict[str, Any]:
    """Name the classes, or number them, and give each its probability."""
    if output.kind == "binary":
        positive = sigmoid(float(mean[0]))
        probabilities, chosen = [sigmoid(-float(mean[0])), positive], int(mean[0] >= 0)
        rule, pooling = "the positive class where the mean logit is 0 or more", "the sigmoid"
    else:
        probabilities, chosen = softmax(mean).tolist(), int(mean.argmax())
        rule, pooling = "the class with the largest mean logit", "the softmax"
    names = list(output.classes) or [f"class{i}" for i in range(len(probabilities))]
    found: dict[str, Any] = {
        "classes": names,
        "probabilities": probabilities,
        "predicted": names[chosen],
        "rule": rule,
        "pooling": f"mean of the logits over windows, then {pooling}",
    }
    if not output.classes:
        found["notes"] = [
            "the card of these weights does not name the classes; they are numbered",
            NO_INTERVAL,
        ]
    return found
