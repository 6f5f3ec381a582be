"""What the tables of embeddings say of themselves: the sidecars of a run and of its windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.embed import RunEmbedding

__all__ = ["CONTROL", "DEMO", "PRIVACY", "common_sidecar", "embedding_sidecars"]

PRIVACY: Final = (
    "Embeddings are personal data: two runs of one person resemble each other, so that a person "
    "can be recognised. Share and store them as you would the scans."
)
DEMO: Final = "DEMO WEIGHTS, NOT FOR SCIENCE. "
CONTROL: Final = "CONTROL, RANDOM WEIGHTS. "


def embedding_sidecars(
    card: Card, embedding: RunEmbedding, *, sources: Sequence[str], notes: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the sidecars of the embeddings of a run and of its windows.

    Parameters
    ----------
    card : Card
        Of the model.
    embedding : RunEmbedding
        What the model gave.
    sources : sequence of str
        BIDS URIs of series, mask and confounds.
    notes : sequence of str
        What is to be known of the series.

    Returns
    -------
    dict
        Of the run.
    dict
        Of the windows.
    """
    n, dimension = embedding.windows.shape
    common = common_sidecar(card, embedding, sources=sources, notes=notes)
    demo = (CONTROL if card.control else "") + (DEMO if card.demo else "")
    run = {"Description": f"{demo}Embedding of the run: {card.title}.", "Shape": [1, dimension]}
    windows = {
        "Description": f"{demo}Embeddings of windows of the run: {card.title}.",
        "Shape": [n, dimension],
        "onset": {"Description": "Start of the window after the first volume", "Units": "s"},
        "duration": {"Description": "Length of the window", "Units": "s"},
    }
    return {**run, **common}, {**windows, **common}


def common_sidecar(
    card: Card, embedding: RunEmbedding, *, sources: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    """Say what is true of every table that a model gives of a run.

    Parameters
    ----------
    card : Card
        Of the model.
    embedding : RunEmbedding
        What the model gave.
    sources : sequence of str
        BIDS URIs of series, mask and confounds.
    notes : sequence of str
        What is to be known of the series.
    """
    record = {
        k: v
        for k, v in embedding.record.items()
        if k not in _MEASURED and not k.startswith("seconds")
    }
    return {
        "Sources": list(sources),
        "Demo": card.demo,
        "Control": card.control,
        "Centre": card.centre,
        "TunedTo": card.output.target if card.output else None,
        "Model": {
            "Name": card.name,
            "Label": card.label,
            "Title": card.title,
            "Version": card.version,
            "Architecture": card.architecture,
            "WeightsSHA256": record.get("weights_sha256"),
            "License": card.licence,
            "CommercialUse": card.commercial_use,
            "Limits": list(card.limits),
            "References": list(card.references),
        },
        "InputConformance": embedding.conformance,
        "Contract": card.contract.model_dump(mode="json"),
        "Pooling": card.pooling,
        "Precision": record.get("precision"),
        "Device": record.get("device"),
        "Computation": record,
        "EmbeddingDimension": embedding.windows.shape[1],
        "Notes": list(notes),
        "Privacy": PRIVACY,
    }


_MEASURED: Final = frozenset({"batch", "n_threads"})
