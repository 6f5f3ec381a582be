"""What is written of a prediction: a table, and a sidecar that says how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.participant.outputs import DEMO, common_sidecar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.embed import RunEmbedding

__all__ = ["DIAGNOSIS", "prediction_sidecar", "prediction_table"]

DIAGNOSIS: Final = (
    "Not for diagnosis: a prediction for research. On traits of a person, networks of this kind do "
    "not clearly beat plain functional connectivity; check them on people you know before use."
)
COLUMNS: Final = {
    "target": {"Description": "What is predicted; numbered where the card does not say it"},
    "value": {"Description": "The predicted value; of an unnamed output, as the head gives it"},
    "unit": {"Description": "Unit of the value"},
    "class": {"Description": "A class; one row for each"},
    "probability": {"Description": "Of the class, by the network; not calibrated"},
    "lower": {"Description": "Lower end of an interval; n/a where it is not known"},
    "upper": {"Description": "Upper end of an interval; n/a where it is not known"},
}


def prediction_sidecar(
    card: Card, embedding: RunEmbedding, *, sources: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    """Make the sidecar of what fine-tuned weights say of a run.

    Parameters
    ----------
    card : Card
        Of the model.
    embedding : RunEmbedding
        What the model gave; with a prediction.
    sources : sequence of str
        BIDS URIs of series, mask and confounds.
    notes : sequence of str
        What is to be known of the series.
    """
    prediction = dict(embedding.prediction or {})
    said = [*notes, *prediction.pop("notes", [])]
    common = common_sidecar(card, embedding, sources=sources, notes=said)
    del common["EmbeddingDimension"]
    demo, target = DEMO if card.demo else "", prediction.get("target") or "an unnamed target"
    return {
        "Description": f"{demo}Prediction of {target} for the run: {card.title}. {DIAGNOSIS}",
        "NotForDiagnosis": True,
        **COLUMNS,
        "Prediction": prediction,
        **common,
        "Pooling": prediction.get("pooling"),
    }


def prediction_table(prediction: Mapping[str, Any]) -> str:
    r"""Write what a head says of a run as a table: a row a class, a value, or an output.

    Parameters
    ----------
    prediction : mapping
        From :func:`neurostorm_app.pipelines.predict.interpret`.

    Returns
    -------
    str
        Tab-separated, with a header: ``target``, ``value``, ``unit``, ``class``,
        ``probability``, ``lower``, ``upper``; ``n/a`` is what has no meaning or is not known.

    Examples
    --------
    >>> age = {"target": "age", "kind": "value", "value": 31.5, "unit": "years"}
    >>> prediction_table(age).splitlines()[1].split("\t")
    ['age', '31.5', 'years', 'n/a', 'n/a', 'n/a', 'n/a']
    """
    lower, upper = prediction.get("interval") or (None, None)
    row = {"target": prediction["target"], "lower": lower, "upper": upper}
    if prediction["kind"] == "value":
        rows = [row | {"value": prediction["value"], "unit": prediction["unit"]}]
    elif prediction["kind"] == "unknown":
        outputs = enumerate(prediction["outputs"])
        rows = [row | {"target": f"output{i}", "value": value} for i, value in outputs]
    else:
        pairs = zip(prediction["classes"], prediction["probabilities"], strict=True)
        rows = [row | {"class": name, "probability": share} for name, share in pairs]
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(_cell(row.get(name)) for name in COLUMNS) for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
