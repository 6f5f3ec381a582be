"""A card says all that is known of one set of weights, and what the network eats.

Cards are data (``cards/*.yaml``). Preprocessing for a model is read from its card and is
typed nowhere else, because a silent mismatch of grid, orientation or repetition time ruins
an embedding without an error.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError

from neurostorm_app.errors import UsageError
from neurostorm_app.models.voxel_contract import VoxelContract

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "AtlasCard",
    "Card",
    "Cleaning",
    "Contract",
    "ExpectedError",
    "GridSpec",
    "KnownFile",
    "Output",
    "ParcelContract",
    "Source",
    "TimePositions",
    "VolumeContract",
    "VoxelContract",
    "fill_contract",
    "read_named",
]

Row = tuple[float, float, float, float]
TimePositions = Literal["centres", "ends"]
"""Where volumes lie at another repetition time. ``centres``: volumes are intervals of time, and new
ones share the same duration. ``ends``: they are points in time, the first and the last stay."""
Inside = Annotated[str, Field(pattern=r"^[\w+][\w+.\-]*(/[\w+][\w+.\-]*)*$")]
"""A path in a repository: relative, and never out of it."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where files come from."""

    host: Literal["huggingface", "github"] = "huggingface"
    repository: Annotated[str, Field(pattern=r"^[\w.\-]+/[\w.\-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")] | None
    """Commit, or the beginning of one where no more is known; None: none is known."""
    file: Inside
    also: tuple[Inside, ...] = ()
    """Files that belong to it, such as the configuration of the weights."""


class KnownFile(_Strict):
    """One file of an atlas."""

    file: Inside
    """Its name, without folders."""
    sha256: Sha256
    size: int | None = None
    """Bytes."""


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
    tr_range: tuple[float, float] | None = None
    """Lowest and highest repetition time, in seconds, that is kept as it is; None: only `tr`."""
    window: Annotated[int, Field(gt=0)]
    """Volumes in a window."""
    stride: Annotated[int, Field(gt=0)]
    """Volumes between the starts of two windows."""
    scaling: Literal["global-zscore"] = "global-zscore"
    """One mean and one standard deviation over all brain voxels and volumes."""
    background: Literal["minimum", "zero"] = "minimum"
    """Value outside the brain after scaling: the lowest inside, or exactly 0, which is the mean."""


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
    time_positions: TimePositions = "centres"
    """Where the volumes of another repetition time are taken."""
    window: Annotated[int, Field(gt=0)] | None = None
    """Volumes in a window; None takes the whole run."""
    stride: Annotated[int, Field(gt=0)] | None = None
    min_volumes: Annotated[int, Field(gt=0)] = 20
    """Fewer volumes than this cannot be used."""
    shortest: Annotated[int, Field(gt=0)] | None = None
    """Fewest volumes of a window where a run is shorter than `window`; None refuses such a run."""
    multiple: Annotated[int, Field(gt=0)] = 1
    """A shortened window has a whole number of so many volumes: the length of a patch."""
    cleaning: Cleaning = Cleaning()
    scaling: Literal["none", "robust", "median", "sd"] = "none"
    """``robust``: each parcel demeaned, minus its median, over its interquartile range, clipped to
    its 1st and 99th percentile. ``median``: the same, not clipped. ``sd``: each parcel demeaned,
    over one standard deviation of all. The statistics are the cohort's where the user gives them,
    else the run's."""
    coordinates: bool = False
    """The network is given the place of each parcel, MNI mm."""


class ExpectedError(_Strict):
    """The masked-reconstruction error to expect of input like that of the training."""

    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(gt=0)]
    """Mean squared error over what is hidden, in the unit of the network's input, squared."""
    origin: str
    """Where the two numbers come from."""


class Output(_Strict):
    """What the values of a fine-tuned head mean."""

    target: str
    """What is predicted, such as ``age``."""
    kind: Literal["binary", "classes", "value"]
    """One logit, one logit a class, or one standardised value."""
    classes: tuple[str, ...] = ()
    """Names by index; for one logit, the name of a negative one and of a positive one."""
    unit: str | None = None
    mean: float = 0.0
    sd: Annotated[float, Field(gt=0)] = 1.0
    """A value in its unit is ``output * sd + mean``."""
    origin: str
    """Where names and numbers come from."""


Contract = Annotated[VolumeContract | ParcelContract | VoxelContract, Field(discriminator="kind")]


def fill_contract(said: Mapping[str, Any]) -> dict[str, Any]:
    """Say a contract in full: an older file lacks what was added since with a default.

    Parameters
    ----------
    said : mapping
        As the sidecar of an embedding or the card of a head has it.

    Returns
    -------
    dict
        Ready for JSON. What this version cannot read, such as that of a later one, stays as it is.

    Examples
    --------
    >>> fill_contract({"kind": "parcels", "space": "T1w", "atlas": "a"})["time_positions"]
    'centres'
    """
    try:
        contract: Contract = TypeAdapter(Contract).validate_python(said)
    except ValidationError:
        return dict(said)
    return contract.model_dump(mode="json")


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
    control: bool = False
    """Random weights, to compare a model with; every output of theirs says CONTROL."""
    source: Source | None = None
    file: str | None = None
    """File name of the weights; None for a model without weights."""
    embedded: bool = False
    """The weights ship inside the package."""
    sha256: Sha256 | None = None
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
    output: Output | None = None
    """Of a fine-tuned file: what its head says."""
    expected_error: ExpectedError | None = None
    """None: no range is known."""
    limits: tuple[str, ...] = ()
    """What a user must know before trusting the output."""
    references: tuple[str, ...] = ()
    _folder: Path | None = PrivateAttr(default=None)

    def lying_in(self, folder: Path) -> Card:
        """Copy the card of a user, and remember its folder; no key and no output depends on it."""
        card = self.model_copy()
        card._folder = folder  # noqa: SLF001  of the same class
        return card

    @property
    def beside(self) -> Path | None:
        """The file of the weights beside the card of a user; None for a card of the package."""
        return self._folder / self.file if self._folder and self.file else None


class AtlasCard(_Strict):
    """What is known of a parcellation that is fetched, not shipped."""

    name: str
    """As in ``ParcelContract.atlas``, such as ``A424``."""
    title: str
    summary: str
    space: str
    """Standard space by its TemplateFlow name."""
    n_parcels: Annotated[int, Field(gt=0)]
    source: Source
    labels: KnownFile
    """The label image."""
    coordinates: KnownFile | None = None
    """Table of the place of each parcel, MNI mm: index, X, Y, Z."""
    licence: str
    commercial_use: bool | None = None
    limits: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


AnyCard = TypeVar("AnyCard", Card, AtlasCard)


def read_named(kind: type[AnyCard], name: str, folder: Path, *, what: str) -> AnyCard:
    """Read the card of a name, or say which names there are.

    Parameters
    ----------
    kind : type
        Of the cards of the folder.
    name : str
        File name without extension.
    folder : Path
        Where the cards lie.
    what : str
        What they are of, for the message.

    Raises
    ------
    UsageError
        If there is none of this name.
    """
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise UsageError(
            f"there is no {what} {name!r}",
            fix=(f"did you mean {' or '.join(near)}? " if near else "")
            + f"Known are {', '.join(known)}",
        )
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    return kind.model_validate(yaml.safe_load(text))
