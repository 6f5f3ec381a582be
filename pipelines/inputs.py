"""The files that a model needs beside a run: weights, parcellation, places, statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import UsageError
from neurostorm_app.models.card import ParcelContract, VolumeContract, VoxelContract

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.models.card import Card

__all__ = ["InputFiles", "find_inputs", "find_parcellation"]

SCALED: Final = frozenset({"robust", "median", "sd"})
"""Scalings that statistics of a cohort have a meaning for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFiles:
    """Files of a model on this machine; None where it takes none.

    Parameters
    ----------
    weights : Path or None
        Its weights.
    config : Path or None
        The ``config.json`` beside them, which counts where they hold no hyper-parameters.
    atlas : Path or None
        The label image of its parcellation, in the contract's space.
    coordinates : Path or None
        The places of the parcels, beside the label image.
    statistics : Path or None
        Of the parcels of the user's cohort.
    """

    weights: Path | None = None
    config: Path | None = None
    atlas: Path | None = None
    coordinates: Path | None = None
    statistics: Path | None = None


def find_inputs(
    card: Card,
    *,
    weights: Path | None = None,
    weights_dir: Path | None = None,
    atlas: Path | None = None,
    statistics: Path | None = None,
) -> InputFiles:
    """Find what a model needs; what was given goes before what lies in folders.

    Parameters
    ----------
    card : Card
        Of the model.
    weights : Path, optional
        The file of its weights.
    weights_dir : Path, optional
        A folder of weights and parcellations; after it, that of ``NEUROSTORM_WEIGHTS``.
    atlas : Path, optional
        A label image instead of the card's parcellation.
    statistics : Path, optional
        Statistics of the parcels of a cohort.

    Returns
    -------
    InputFiles
        All of them exist.

    Raises
    ------
    MissingWeightsError, NoInputError
        If weights or parcellation are not on this machine.
    UsageError
        If something is given to a model that has no use for it.
    """
    contract = card.contract
    if isinstance(contract, VolumeContract):
        if atlas is not None:
            raise UsageError(
                f"{card.name} takes volumes; the parcellation {atlas} has no meaning for it",
                fix="leave the parcellation out, or choose a model that takes parcels",
            )
    else:
        atlas = find_parcellation(contract, atlas, weights_dir)
    if statistics is not None and getattr(contract, "scaling", "") not in SCALED:
        raise UsageError(
            f"{card.name} does not scale parcels; the statistics {statistics} have no meaning "
            "for it",
            fix="leave its statistics out",
        )
    file = _find_weights(card, weights, weights_dir)
    config = file.with_name("config.json") if file and not card.embedded else None
    return InputFiles(
        weights=file,
        config=config if config and config.is_file() else None,
        atlas=atlas,
        coordinates=_find_coordinates(contract, atlas),
        statistics=statistics,
    )


def _find_weights(card: Card, given: Path | None, weights_dir: Path | None) -> Path | None:
    if card.file is None:
        if given is not None:
            raise UsageError(
                f"{card.name} has no weights; the file {given} has no meaning for it",
                fix="leave its weights out",
            )
        return None
    from neurostorm_app.models.weights import find_weights

    return find_weights(card, given=given or card.beside, weights_dir=weights_dir)


def find_parcellation(
    contract: ParcelContract | VoxelContract, given: Path | None, weights_dir: Path | None
) -> Path:
    """Find the label image of a contract; what was given goes before what lies in folders."""
    from neurostorm_app.models.atlases import find_atlas, list_atlases, read_atlas_card
    from neurostorm_app.pipelines.templates import load_parcellation_path

    if contract.atlas in list_atlases():
        card = read_atlas_card(contract.atlas)
        return find_atlas(card, given=given, weights_dir=weights_dir)
    return given or load_parcellation_path(contract.atlas)


def _find_coordinates(contract: object, atlas: Path | None) -> Path | None:
    """Find the points beside a label image; that they are missing is said when they are read."""
    from neurostorm_app.models.atlases import find_coordinates, list_atlases, read_atlas_card

    if not isinstance(contract, ParcelContract) or not contract.coordinates or atlas is None:
        return None
    if contract.atlas not in list_atlases():
        return None
    return find_coordinates(atlas, read_atlas_card(contract.atlas))
