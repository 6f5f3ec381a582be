"""A description in words: fixed sentences around numbers and the names of networks.

Words are of more and less, never of good and bad, and none is of health. No free text of a user
gets in: the names of networks and components are letters and digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurostorm_app.pipelines.describe_reference import SOME, word_z

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.pipelines.describe import Description

__all__ = ["NOTICE", "write_paragraphs"]

NAMED = 3
"""Pairs of networks, and components, that the text names at an end."""
BEYOND_BY_CHANCE = 0.317
"""Share of a normal distribution that lies more than one standard deviation from its mean."""
NOTICE = (
    "These numbers describe the signal of one run. They change with motion, scan length and "
    "processing, and support no statement about a person."
)


def write_paragraphs(found: Description) -> list[str]:
    """Write what was measured as paragraphs, the notice last.

    Parameters
    ----------
    found : Description
        Of a run.

    Returns
    -------
    list of str
        Without line breaks.
    """
    parts = [_pairs(found), _graph(found)]
    reaches = [v for name, v in found.gradients.items() if name.endswith("_range")]
    if reaches:
        parts.append(f"The first gradients of connectivity reach over {_list(reaches)}.")
    if found.components:
        parts.append(_components(found.components))
    parts += [f"{note[:1].upper()}{note[1:]}." for note in found.notes]
    if found.reference is not None and found.z is not None:
        parts.append(_compared(found.z, n=found.reference.n, among=found.among))
    return [*parts, NOTICE]


def _pairs(found: Description) -> str:
    pairs = found.connectivity
    ranked = sorted(pairs, key=lambda name: (-pairs[name], name))

    def name(some: Sequence[str]) -> str:
        return ", ".join(f"{pair} {pairs[pair]:+.3f}" for pair in some)

    return (
        f"Mean correlations between {found.n_parcels} parcels of {len(found.networks)} networks "
        f"over {found.n_volumes} volumes of {found.tr:g} s. "
        f"Highest: {name(ranked[:NAMED])}. Lowest: {name(ranked[::-1][:NAMED])}."
    )


def _graph(found: Description) -> str:
    graph = found.graph
    strength = {name: graph[f"strength_{name}"] for name in found.networks}
    strongest = max(strength, key=lambda name: (strength[name], name))
    return (
        "The strongest tenth of all correlations, whatever their sign, makes a graph with a "
        f"global efficiency of {graph['global_efficiency']:.3f}, a modularity of "
        f"{graph['modularity']:.3f} and a mean clustering of {graph['avg_clustering']:.3f}; "
        f"its parcels are joined most strongly in {strongest} ({strength[strongest]:.3f})."
    )


def _components(components: Mapping[str, Mapping[str, float]]) -> str:
    slow, later = components["spectral_ratio"], components["autocorr_lag1"]
    outliers = components["outlier_freq"]
    ranked = sorted(slow, key=lambda name: (-slow[name], name))[:NAMED]
    return (
        f"Of {len(slow)} components, the power of slow waves (0.01 to 0.1 Hz) over that of fast "
        f"ones (0.1 to 0.25 Hz) is highest in {', '.join(f'{n} {slow[n]:.2f}' for n in ranked)}. "
        f"On average a volume correlates {_mean(later):+.3f} with the next one, and "
        f"{_mean(outliers):.4f} of all volumes lie more than three standard deviations out."
    )


def _compared(z: Mapping[str, float], *, n: int, among: bool) -> str:
    outside = sorted((name for name in z if abs(z[name]) > SOME), key=lambda n: (-abs(z[n]), n))
    told = "; ".join(f"{name} {word_z(z[name])}" for name in outside) or "none"
    chance = f"{BEYOND_BY_CHANCE * len(z):.0f}"
    return (
        f"Beside a reference of {n} participants, one run each, {len(z)} numbers were compared"
        f"{'; this run is one of them' if among else ''}. More than one standard deviation from "
        f"the mean (of {len(z)}, about {chance} are by chance alone): {told}."
    )


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)
