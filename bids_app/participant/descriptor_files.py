"""What describing writes: names, a table of numbers, a text, and what the sidecar says."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.derivatives import derivative_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.pipelines.describe import Description
    from neurostorm_app.pipelines.describe_run import DescribedRun
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["DESC", "SUFFIX", "descriptor_paths", "descriptor_sidecar", "descriptor_table"]

DESC: Final = "connectivity"
SUFFIX: Final = "descriptors"
COLUMNS: Final = {
    "descriptor": {
        "Description": "Name of the number: fc_<network>-<network> is the mean correlation within "
        "a network or between two, a parcel with itself left out; global_efficiency, modularity, "
        "avg_clustering and strength_<network> are of the graph of the tenth of correlations that "
        "is strongest, whatever their sign; gradient<N>_range and _var tell how far a gradient of "
        "connectivity reaches, gradient<N>_<network>_mean where a network lies on it, whose sign "
        "is chance; ica_<measure>_<component> are of time courses that were given"
    },
    "value": {"Description": "Of the run; no unit, but for ica_abs_mean_amp and ica_temp_sd"},
}
Z: Final = {
    "Description": "(value - mean) / standard deviation of the reference; n/a where a number is "
    "not compared"
}


def descriptor_paths(series: StandardSeries, atlas: str, root: Path) -> dict[str, Path]:
    """Name the files of a run and an atlas.

    Parameters
    ----------
    series : StandardSeries
        The run.
    atlas : str
        Label of the atlas.
    root : Path
        The output folder.

    Returns
    -------
    dict
        ``table``, ``text`` and ``sidecar``.
    """

    def path(extension: str) -> Path:
        """Name one of them."""
        return derivative_path(
            root,
            series.name,
            "func",
            suffix=SUFFIX,
            extension=extension,
            entities={"space": series.space, "atlas": atlas, "desc": DESC},
        )

    return {"table": path(".tsv"), "text": path(".md"), "sidecar": path(".json")}


def descriptor_table(found: Description) -> str:
    """Write the numbers, one row each; with z where there is a reference."""
    lines = ["descriptor\tvalue" + ("" if found.z is None else "\tz")]
    for name, value in found.values.items():
        cells = [name, f"{value:.9g}"]
        if found.z is not None:
            cells.append(f"{found.z[name]:.6g}" if name in found.z else "n/a")
        lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"


def descriptor_sidecar(
    found: DescribedRun,
    *,
    sources: Sequence[str],
    atlas: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Say what the numbers of a run are, and the same in words.

    Parameters
    ----------
    found : DescribedRun
        Of the run.
    sources : sequence of str
        BIDS URIs of what it was made from.
    atlas : mapping
        Label, hash of the label image, name and hash of the table of networks.
    notes : sequence of str
        What is to be known of the series.
    """
    compared = {} if found.description.z is None else {"z": Z}
    return {
        "Description": "Numbers that describe the connectivity of the run by networks, and the "
        "same in words; no weights, no chance",
        **COLUMNS,
        **compared,
        "Text": found.description.as_text(),
        "Sources": list(sources),
        "Atlas": dict(atlas),
        **found.description.as_json(),
        "Basis": dict(found.basis),
        "Input": {**found.facts, "notes": [*notes, *found.facts.get("notes", ())]},
        "Software": {"neurostorm-app": version("neurostorm-app")},
    }
