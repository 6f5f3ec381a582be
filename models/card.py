"""A card says all that is known of one set of weights, and what the network eats.

Cards are data (``cards/*.yaml``). Preprocessing for a model is read from its card and is
typed nowhere else, because a silent mismatch of grid, orientation or repetition time ruins
an embedding without an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Card", "Cleaning", "Contract", "GridSpec", "ParcelContract", "Source", "VolumeContract"]

Row = tuple[float, float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where the weights come from."""

    repository: str
    revision: str
    file: str


class GridSpec(_Strict):
    """Shape and affine (voxel to world, RAS+ mm, first three rows) of a network's input."""

    shape: tuple[int, int, int]
    affine: tuple[Row, Row, Row]


class VolumeContract(_Strict):
    """What a network eats that takes windows of volumes."""

    kind: Literal["volume"] = "volume"
    space: str
    """Standard space by its TemplateFlow name."""
    grid: GridSpec
    tr: Annotated[float, Field(gt=0)]
    """Repetition time in seconds; the series is resampled to it."""
    window: Annotated[int, Field(gt=0)]
    """Volumes in a window."""
    stride: Annotated[int, Field(gt=0)]
    """Volumes between the starts of two windows."""
    scaling: Literal["global-zscore"] = "global-zscore"
    """One mean and one standard deviation over all brain voxels and volumes."""
    background: Literal["minimum"] = "minimum"
    """Value outside the brain after scaling."""


class Cleaning(_Strict):
    """How parcel series are cleaned before a network or a correlation sees them."""

    confounds: tuple[str, ...] = ()
    """Columns of the confounds table that are regressed out."""
    high_pass: float | None = None
    """Hz."""
    low_pass: float | None = None
    """Hz."""
    detrend: bool = True


class ParcelContract(_Strict):
    """What a model eats that takes the mean series of parcels."""

    kind: Literal["parcels"] = "parcels"
    space: str
    atlas: str
    """Name of the parcellation."""
    n_parcels: Annotated[int, Field(gt=0)] | None = None
    """None: whatever parcellation is given."""
    tr: Annotated[float, Field(gt=0)] | None = None
    """Repetition time in seconds; None keeps the run's own."""
    window: Annotated[int, Field(gt=0)] | None = None
    """Volumes in a window; None takes the whole run."""
    stride: Annotated[int, Field(gt=0)] | None = None
    min_volumes: Annotated[int, Field(gt=0)] = 20
    """Fewer volumes than this cannot be used."""
    cleaning: Cleaning = Cleaning()


Contract = Annotated[VolumeContract | ParcelContract, Field(discriminator="kind")]


class Card(_Strict):
    """What is known of one set of weights.

    Attributes that are ``None`` are not known, and say so wherever they are shown.
    """

    name: str
    """The model's name on the command line, such as ``neurostorm-demo``."""
    label: Annotated[str, Field(pattern=r"^[0-9A-Za-z]+$")]
    """Its BIDS label in ``desc-<label>``, such as ``neurostormDemo``."""
    title: str
    architecture: str
    """Key of the registry's constructors, such as ``neurostorm``."""
    version: str
    summary: str
    demo: bool = False
    """Weights for trying the app, not for science; every output of theirs says DEMO."""
    source: Source | None = None
    file: str | None = None
    """File name of the weights; None for a model without weights."""
    embedded: bool = False
    """The weights ship inside the package."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    size: int | None = None
    """Bytes."""
    licence: str
    commercial_use: bool | None = None
    layout: str | None = None
    """Layout of the file, such as ``2026-05`` for NeuroSTORM."""
    config: dict[str, Any] = {}
    """The upstream's own keys; what ``create_model(config=...)`` takes."""
    dimension: int | None = None
    """Length of an embedding; None if it depends on the parcellation."""
    pooling: str
    """How a window's and a run's vector come about."""
    centre: bool = False
    """Vectors share a large common part: their mean over runs is taken off before they are
    compared."""
    contract: Contract
    limits: tuple[str, ...] = ()
    """What a user must know before trusting the output."""
    references: tuple[str, ...] = ()
