"""A run in words and numbers: connectivity by network, graph and gradients, without any weights.

The same run gives the same text at each call. Values are always given as they are; how far they
lie from others is said only where the user gives a reference.

References
----------
fMRI-LM, arXiv 2511.21760 (which numbers, and their wording).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.describe_gradients import find_gradients
from neurostorm_app.pipelines.describe_text import NOTICE, write_paragraphs
from neurostorm_app.pipelines.describe_values import average_pairs, measure_gradients, measure_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.describe_reference import Reference

__all__ = ["FEWEST", "Description", "describe", "is_comparable"]

FEWEST = 20
"""Volumes below which no correlation is computed."""
DIGITS = 6
"""Decimals by which a run is known again among those of a reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What was measured of a run.

    Parameters
    ----------
    connectivity, graph, gradients : mapping of str to float
        By name; `gradients` is empty where there are none, and `notes` say why.
    networks : tuple of str
        In alphabetical order.
    n_parcels, n_left_out : int
        Used, and left out: without a network, missing, or without variation.
    n_volumes : int
        Of the run.
    tr : float
        Repetition time, s.
    components : mapping of str to mapping of str to float
        By measure, then by component; empty without time courses.
    notes : tuple of str
        What could not be measured or compared, and why.
    z : mapping of str to float, or None
        Distance from the reference, in its standard deviations.
    reference : Reference or None
        Of the user.
    """

    connectivity: Mapping[str, float]
    graph: Mapping[str, float]
    gradients: Mapping[str, float]
    networks: tuple[str, ...]
    n_parcels: int
    n_left_out: int
    n_volumes: int
    tr: float
    components: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    z: Mapping[str, float] | None = None
    reference: Reference | None = None

    @property
    def values(self) -> dict[str, float]:
        """All numbers; of pairs as ``fc_<pair>``, of components as ``ica_<measure>_<name>``."""
        return {
            **{f"fc_{name}": value for name, value in self.connectivity.items()},
            **self.graph,
            **self.gradients,
            **{
                f"ica_{measure}_{name}": value
                for measure, of in self.components.items()
                for name, value in of.items()
            },
        }

    @property
    def comparable(self) -> dict[str, float]:
        """The numbers that can be compared with a cohort's, see `is_comparable`."""
        return {name: value for name, value in self.values.items() if is_comparable(name)}

    @property
    def digest(self) -> str:
        """SHA-256 of the comparable numbers, by which the run is known again in a reference."""
        rounded = {name: round(value, DIGITS) for name, value in self.comparable.items()}
        return hashlib.sha256(json.dumps(rounded, sort_keys=True).encode()).hexdigest()

    @property
    def among(self) -> bool:
        """Whether the run is one of those of the reference."""
        return self.reference is not None and self.digest in self.reference.members

    def as_json(self) -> dict[str, Any]:
        """Give all numbers and where they come from, for a JSON file."""
        reference = self.reference
        return {
            "Networks": list(self.networks),
            "NumberOfParcels": self.n_parcels,
            "ParcelsLeftOut": self.n_left_out,
            "NumberOfVolumes": self.n_volumes,
            "RepetitionTime": self.tr,
            "Values": {name: round(value, 9) for name, value in self.values.items()},
            "Digest": self.digest,
            "Notes": list(self.notes),
            "Reference": reference and {**reference.as_dict(), "HoldsThisRun": self.among},
            "Z": self.z and {name: round(value, 6) for name, value in self.z.items()},
            "Notice": NOTICE,
        }

    def as_text(self) -> str:
        """Give the description as paragraphs of Markdown."""
        return "\n\n".join(write_paragraphs(self)) + "\n"


def is_comparable(name: str) -> bool:
    """Tell whether a number can be compared with a cohort's.

    Where networks lie on a gradient cannot: its sign, and the order of gradients, are chance. Nor
    can components, which have other names, or other courses under one name, in each run.

    Examples
    --------
    >>> is_comparable("gradient1_range"), is_comparable("gradient1_Vis_mean")
    (True, False)
    """
    placed = name.startswith("gradient") and name.endswith("_mean")
    return not placed and not name.startswith("ica_")


def describe(
    series: NDArray[np.float64],
    networks: Sequence[str | None],
    *,
    tr: float,
    components: Mapping[str, Mapping[str, float]] | None = None,
    reference: Reference | None = None,
) -> Description:
    """Describe the connectivity of a run.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Mean series of parcels, cleaned; rows of missing parcels hold NaN.
    networks : sequence of str or None
        Network of each parcel; None leaves it out, such as one below the cortex.
    tr : float
        Repetition time, s.
    components : mapping of str to mapping of str to float, optional
        What was measured of the time courses of components.
    reference : Reference, optional
        Of a cohort; without, nothing is compared.

    Returns
    -------
    Description
        The same for the same series. A network of which fewer than two parcels have a signal is
        left out.

    Raises
    ------
    DataError
        If series and networks do not belong together, the run is too short, or there are fewer
        than two networks; or the reference is of other numbers.
    """
    kept, notes = _pick(series, networks)
    names = [str(networks[i]) for i in kept]
    fc = np.asarray(np.corrcoef(series[kept]), dtype=np.float64)
    gradients: dict[str, float] = {}
    try:
        gradients = measure_gradients(find_gradients(fc), names)
    except DataError as why:
        notes.append(f"not measured: gradients, because {why.what}")
    found = Description(
        connectivity=average_pairs(fc, names),
        graph=measure_graph(fc, names),
        gradients=gradients,
        networks=tuple(sorted(set(names))),
        n_parcels=len(kept),
        n_left_out=len(series) - len(kept),
        n_volumes=series.shape[1],
        tr=tr,
        components=components or {},
        notes=tuple(notes),
    )
    if reference is None:
        return found
    return replace(found, reference=reference, z=reference.compare(found.comparable))


def _pick(
    series: NDArray[np.float64], networks: Sequence[str | None]
) -> tuple[list[int], list[str]]:
    """Find the parcels that have a signal and a network of two or more; tell what that leaves."""
    if series.ndim != 2 or len(series) != len(networks) or series.shape[1] < FEWEST:
        raise DataError(
            f"the series have the shape {series.shape} and {len(networks)} parcels have a place in "
            f"the list of networks; expected one each, and at least {FEWEST} volumes",
            fix="give series (parcels, volumes) and the network of each parcel",
        )
    signal = np.isfinite(series).all(axis=1) & (np.ptp(series, axis=1) > 0)
    named = {name for name in networks if name is not None}
    counts = Counter(networks[i] for i in np.flatnonzero(signal))
    whole = {name for name in named if counts[name] > 1}
    kept = [i for i, name in enumerate(networks) if name in whole and signal[i]]
    if len(whole) < 2:
        raise DataError(
            f"{len(kept)} parcels with a signal are of {len(whole)} networks; expected two "
            "networks or more, of two parcels each",
            fix="give a parcellation whose names tell the networks, such as Schaefer's",
        )
    lost = sorted(named - whole)
    notes = [f"not measured: {', '.join(lost)}, of which fewer than two parcels have a signal"]
    return kept, notes if lost else []
