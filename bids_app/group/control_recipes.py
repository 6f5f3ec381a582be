"""How an untrained control is to be made, and of which model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from neurostorm_app.errors import DataError
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.card import Card, Contract

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.precomputed import Precomputed
    from neurostorm_app.bids_app.settings import Settings

__all__ = ["Recipe", "Wish", "recorded_card"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How runs were embedded by a model, and how they are to be by its control.

    Parameters
    ----------
    model : str
        Name of the model.
    content : str
        The card of its control, as JSON.
    precision, clip_policy, parity : str
        As of the options.
    gain : float
        As of ``--input-gain``.
    max_windows : int or None
        As of ``--max-windows``.
    atlas, statistics : str or None
        SHA-256 of label image and statistics; None where there was none.
    of_tables : bool
        From series of parcels that were extracted before, not from images.
    links : tuple of (str, Path)
        Folders of datasets by their names.
    """

    model: str
    content: str
    precision: str
    clip_policy: str
    parity: str
    gain: float
    max_windows: int | None
    atlas: str | None
    statistics: str | None
    of_tables: bool
    links: tuple[tuple[str, Path], ...]

    @property
    def card(self) -> Card:
        """The card of the control."""
        return Card.model_validate_json(self.content)

    @property
    def label(self) -> str:
        """The BIDS label of the control."""
        return self.card.label

    def apply(self, settings: Settings) -> Settings:
        """Change the settings of a call to what they were when the model embedded the runs."""
        science = settings.science.model_copy(
            update={
                "models": (self.card.name,),
                "precision": self.precision,
                "clip_policy": self.clip_policy,
                "parity": self.parity,
                "input_gain": self.gain,
                "max_windows": self.max_windows,
                "derivatives": dict(self.links),
            }
        )
        return settings.model_copy(update={"science": science})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A run that lacks a control.

    Parameters
    ----------
    item : Precomputed
        Its series.
    recipe : Recipe
        How the control is to be made.
    inputs : mapping
        Hashes of what the model was given, by BIDS URI; empty where no record is left.
    seconds : float or None
        What the model took.
    """

    item: Precomputed
    recipe: Recipe
    inputs: Mapping[str, str]
    seconds: float | None


def recorded_card(sidecar: Mapping[str, Any], record: Mapping[str, Any] | None) -> Card:
    """Find the card of the model that made an embedding.

    Parameters
    ----------
    sidecar : mapping
        Of the embedding.
    record : mapping or None
        Of its unit; it holds the whole card, also of a model that the user brought.

    Returns
    -------
    Card
        Without a record that of the package, if it has the same contract.

    Raises
    ------
    DataError
        If neither tells.
    """
    try:
        if record is not None:
            return Card.model_validate(record["settings"]["card"])
        name = sidecar["Model"]["Name"]
        # Read, not compared as JSON: an older sidecar lacks what was added with a default.
        contract = TypeAdapter(Contract).validate_python(sidecar["Contract"])
        card = read_card(name) if name in list_models(controls=True) else None
        if card is not None and card.contract == contract:
            return card
    except (KeyError, TypeError, ValidationError) as why:
        raise DataError(
            f"its record or sidecar does not tell the model: {why!r:.200}",
            fix="embed the run again, at the participant level",
        ) from why
    raise DataError(
        f"no record tells the card of {name}, and the package has none with that contract",
        fix="embed the run again, at the participant level",
    )
