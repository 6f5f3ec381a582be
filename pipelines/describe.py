"""A run in words and numbers: connectivity by network, graph and gradients, without any weights.

The same run gives the same text at each call. Values are always given as they are; how far they
lie from others is said only where the user gives a reference. Words are of more and less, never of
good and bad.

References
----------
fMRI-LM, arXiv 2511.21760 (which numbers, and their wording).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.describe_gradients import find_gradients
from neurostorm_app.pipelines.describe_reference import word_z
from neurostorm_app.pipelines.describe_values import average_pairs, measure_gradients, measure_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.describe_reference import Reference

__all__ = ["Description", "describe"]

NAMED = 3
"""Pairs of networks that the text names at either end."""
FEWEST = 20
"""Volumes below which no correlation is computed."""
NOTICE = (
    "These numbers describe the signal of one run. They change with motion, scan length and "
    "processing, and support no statement about a person."
)


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
    notes : tuple of str
        What could not be measured, and why.
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
    notes: tuple[str, ...] = ()
    z: Mapping[str, float] | None = None
    reference: Reference | None = None

    @property
    def values(self) -> dict[str, float]:
        """All numbers, those of pairs under ``fc_<pair>``."""
        return {
            **{f"fc_{name}": value for name, value in self.connectivity.items()},
            **self.graph,
            **self.gradients,
        }

    @property
    def comparable(self) -> dict[str, float]:
        """The numbers that can be compared with a cohort's.

        Where networks lie on a gradient cannot: its sign, and the order of gradients, are chance.
        """
        free = {name for name in self.gradients if name.endswith("_mean")}
        return {name: value for name, value in self.values.items() if name not in free}

    def as_json(self) -> dict[str, Any]:
        """Give all numbers and where they come from, for a JSON file."""
        reference = self.reference
        return {
            "Description": NOTICE,
            "Networks": list(self.networks),
            "NumberOfParcels": self.n_parcels,
            "ParcelsLeftOut": self.n_left_out,
            "NumberOfVolumes": self.n_volumes,
            "RepetitionTime": self.tr,
            "Values": {name: round(value, 9) for name, value in self.values.items()},
            "Notes": list(self.notes),
            "Reference": reference
            and {"Pipeline": reference.pipeline, "N": reference.n, "SHA256": reference.sha256},
            "Z": self.z and {name: round(value, 6) for name, value in self.z.items()},
        }

    def as_text(self) -> str:
        """Give the description as paragraphs of Markdown."""
        ranked = sorted(self.connectivity, key=lambda name: (-self.connectivity[name], name))
        strength = {name: self.graph[f"strength_{name}"] for name in self.networks}
        strongest = max(strength, key=lambda name: (strength[name], name))
        graph = self.graph
        pairs = (
            f"Mean correlations between {self.n_parcels} parcels of {len(self.networks)} networks "
            f"over {self.n_volumes} volumes of {self.tr:g} s. "
            f"Highest: {self._name(ranked[:NAMED])}. Lowest: {self._name(ranked[::-1][:NAMED])}."
        )
        joined = (
            "The strongest tenth of all correlations, whatever their sign, makes a graph with a "
            f"global efficiency of {graph['global_efficiency']:.3f}, a modularity of "
            f"{graph['modularity']:.3f} and a mean clustering of {graph['avg_clustering']:.3f}; "
            f"its parcels are joined most strongly in {strongest} ({strength[strongest]:.3f})."
        )
        parts = [pairs, joined]
        reaches = [v for name, v in self.gradients.items() if name.endswith("_range")]
        if reaches:
            parts.append(
                "The first gradients of connectivity reach over "
                + ", ".join(f"{reach:.3f}" for reach in reaches)
                + "."
            )
        parts += [f"Not measured: {note}." for note in self.notes]
        if self.z is not None and self.reference is not None:
            parts.append(self._compared(self.z, self.reference))
        return "\n\n".join([*parts, NOTICE]) + "\n"

    def _name(self, pairs: Sequence[str]) -> str:
        return ", ".join(f"{name} {self.connectivity[name]:+.3f}" for name in pairs)

    @staticmethod
    def _compared(z: Mapping[str, float], reference: Reference) -> str:
        outside = sorted((name for name in z if abs(z[name]) > 1), key=lambda n: (-abs(z[n]), n))
        told = "; ".join(f"{name} {word_z(z[name])}" for name in outside) or "none"
        return (
            f"Beside a reference of {reference.n} runs ({reference.pipeline}), {len(z)} numbers "
            f"were compared. More than one standard deviation from its mean: {told}."
        )


def describe(
    series: NDArray[np.float64],
    networks: Sequence[str | None],
    *,
    tr: float,
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
    reference : Reference, optional
        Of a cohort; without, nothing is compared.

    Returns
    -------
    Description
        The same for the same series.

    Raises
    ------
    DataError
        If series and networks do not belong together, the run is too short, or there are fewer
        than two networks; or the reference is of other numbers.
    """
    kept = _pick(series, networks)
    names = [str(networks[i]) for i in kept]
    fc = np.asarray(np.corrcoef(series[kept]), dtype=np.float64)
    notes: tuple[str, ...] = ()
    gradients: dict[str, float] = {}
    pairs = average_pairs(fc, names)
    try:
        gradients = measure_gradients(find_gradients(fc), names)
    except DataError as why:
        notes = (f"gradients, because {why.what}",)
    found = Description(
        connectivity=pairs,
        graph=measure_graph(fc, names),
        gradients=gradients,
        networks=tuple(sorted(set(names))),
        n_parcels=len(kept),
        n_left_out=len(series) - len(kept),
        n_volumes=series.shape[1],
        tr=tr,
        notes=notes,
    )
    if reference is None:
        return found
    return replace(found, reference=reference, z=reference.compare(found.comparable))


def _pick(series: NDArray[np.float64], networks: Sequence[str | None]) -> list[int]:
    """Find the parcels that have a network and a signal."""
    if series.ndim != 2 or len(series) != len(networks) or series.shape[1] < FEWEST:
        raise DataError(
            f"the series have the shape {series.shape} and {len(networks)} parcels have a place in "
            f"the list of networks; expected one each, and at least {FEWEST} volumes",
            fix="give series (parcels, volumes) and the network of each parcel",
        )
    signal = np.isfinite(series).all(axis=1) & (np.ptp(series, axis=1) > 0)
    kept = [i for i, name in enumerate(networks) if name is not None and signal[i]]
    found = {networks[i] for i in kept}
    if len(found) < 2:
        raise DataError(
            f"{len(kept)} parcels with a signal are of {len(found)} networks; expected parcels of "
            "two networks or more",
            fix="give a parcellation whose names tell the networks, such as Schaefer's",
        )
    return kept
