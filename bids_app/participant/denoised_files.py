"""What denoising writes: names as XCP-D gives them, tables, and what their sidecars say."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.bids_app.derivatives import derivative_path
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.bids_app.participant.image_sidecars import carried
from neurostorm_app.bids_app.participant.images import series_in
from neurostorm_app.pipelines.denoise import correlate
from neurostorm_app.pipelines.parcellate import MIN_COVERAGE
from neurostorm_app.pipelines.stage import OutputSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.denoise_plan import Denoising
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["DenoisedPaths", "said_of", "tables"]

MEASURES: Final[Mapping[str, Mapping[str, Any]]] = {
    "stat-coverage": {
        "Node": {"Description": "Parcel by its value in the label image"},
        "coverage": {
            "Description": "Share of the parcel's voxels in the label image that lie in the field "
            f"of view and the brain mask; a parcel below {MIN_COVERAGE:g} is n/a elsewhere",
        },
    },
    "stat-mean": {
        "Description": "Mean of each parcel of the denoised series; a row a kept volume, a column "
        "a parcel by its value in the label image, n/a where it is not covered or does not vary",
    },
    "stat-pearsoncorrelation": {
        "Measure": "PearsonCorrelation",
        "MeasureDescription": "Pearson's correlation of the mean series of two parcels over the "
        "kept volumes",
        "Weighted": True,
        "Directed": False,
        "ValidDiagonal": True,
        "StorageFormat": "Full",
        "NonNegative": False,
    },
}
"""What is said of a table, by what stands in its name."""
WHY: Final = {
    "framewise_displacement": "1 where framewise displacement is above {fd:g} mm",
    "std_dvars": "1 where standardised DVARS is above {std_dvars:g}",
    "non_steady_state": "1 for an initial volume that is not in steady state",
    "short_segment": "1 where fewer than {segment} volumes lie between two that are left out",
    "censored": "1 for a volume that is left out, for any of these reasons",
}
"""What the columns of the table of outliers say; the first is XCP-D's."""
CENSORED: Final = (
    "dropped; between kept volumes filled by a cubic spline for the filter, as in XCP-D, and at "
    "the ends left out of the filter"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisedPaths:
    """Names the files of a run and a strategy.

    Parameters
    ----------
    series : StandardSeries
        The run.
    root : Path
        The output folder.
    strategy : str
        Stands in the names; empty for the names that XCP-D gives.
    """

    series: StandardSeries
    root: Path
    strategy: str = ""

    def bold(self, *, smoothed: bool = False) -> Path:
        """Name the denoised series."""
        res = self.series.res if self.series.res != "native" else None
        desc = f"denoised{'Smoothed' if smoothed else ''}{self.strategy}"
        return self._name("bold", ".nii.gz", {"space": self.series.space, "res": res, "desc": desc})

    def table(self, atlas: str, stat: str, suffix: str) -> Path:
        """Name a table of parcels."""
        entities = {"space": self.series.space, "atlas": atlas}
        return self._name(f"stat-{stat}_{self._desc}{suffix}", ".tsv", entities)

    def outliers(self) -> Path:
        """Name the table of censored volumes."""
        return self._name(f"{self._desc}outliers", ".tsv", {})

    @property
    def _desc(self) -> str:
        return f"desc-{self.strategy}_" if self.strategy else ""

    def _name(self, suffix: str, extension: str, entities: Mapping[str, str | None]) -> Path:
        return derivative_path(
            self.root,
            self.series.name,
            "func",
            suffix=suffix,
            extension=extension,
            entities=entities,
        )


def tables(
    paths: DenoisedPaths, plan: Denoising, parcels: Mapping[str, tuple[Path, Parcels]]
) -> dict[Path, str]:
    """Write the tables of a run as text.

    Parameters
    ----------
    paths : DenoisedPaths
        Their names.
    plan : Denoising
        What was done.
    parcels : mapping
        Label image and denoised parcels by the label of the atlas.
    """
    made = {paths.outliers(): _outliers(plan)}
    for atlas, (_, cleaned) in parcels.items():
        nodes = [str(label) for label in cleaned.labels]
        matrix = correlate(cleaned.series)
        made |= {
            paths.table(atlas, "coverage", "bold"): _text(
                ["Node", "coverage"], [cleaned.coverage[:, np.newaxis]], nodes
            ),
            paths.table(atlas, "mean", "timeseries"): _text(nodes, [cleaned.series.T]),
            paths.table(atlas, "pearsoncorrelation", "relmat"): _text(
                ["Node", *nodes], [matrix], nodes
            ),
        }
    return made


def _flags(plan: Denoising) -> dict[str, NDArray[np.bool_]]:
    """Gather the reasons why volumes are left out; XCP-D's column is always there."""
    none = {"framewise_displacement": np.zeros_like(plan.nuisance.kept)}
    found = {**none, **plan.nuisance.outliers, "censored": ~plan.nuisance.kept}
    return {name: found[name] for name in WHY if name in found}


def _outliers(plan: Denoising) -> str:
    """Write one row a volume of the series as it was."""
    flags = _flags(plan)
    return _text(list(flags), [np.stack(list(flags.values()), axis=1).astype(float)])


def _text(
    header: Sequence[str], blocks: Iterable[NDArray[np.float64]], names: Sequence[str] = ()
) -> str:
    """Write a table; the rows may have names."""
    lines = ["\t".join(header)]
    for block in blocks:
        for number, row in enumerate(block.tolist()):
            cells = ["n/a" if cell != cell else f"{cell:.8g}" for cell in row]  # noqa: PLR0124
            lines.append("\t".join([*names[number : number + 1], *cells]))
    return "\n".join(lines) + "\n"


def said_of(
    path: Path,
    plan: Denoising,
    run: StandardSeries,
    *,
    sources: Sequence[str],
    notes: Sequence[str],
    fwhm: float,
) -> dict[str, Any]:
    """Make the sidecar of a file.

    Parameters
    ----------
    path : Path
        One of `DenoisedPaths`.
    plan : Denoising
        What was done.
    run : StandardSeries
        The series as it was.
    sources : sequence of str
        BIDS URIs.
    notes : sequence of str
        What is to be known of it.
    fwhm : float
        Width of the smoothing in mm, of a smoothed series.
    """
    common = {"Sources": list(sources), **_method(plan), "Notes": list(notes)}
    if path.name.endswith("outliers.tsv"):
        return {**_columns(plan), **common}
    if path.name.endswith(".tsv"):
        about: Mapping[str, Any] = next(
            words for part, words in MEASURES.items() if f"_{part}_" in path.name
        )
        timing = {"RepetitionTime": run.tr}
        if "_timeseries." in path.name and not plan.freedom.censored:
            timing = {"SamplingFrequency": 1 / run.tr, **timing}
        return {**about, **timing, **common}
    smoothed = {"Smoothing": {"Kernel": "Gaussian", "FWHM": fwhm, "Units": "mm"}}
    return {
        "Description": "Series without noise; 0 outside of the brain mask, 0 on average within it",
        **_facts(run),
        **(smoothed if "desc-denoisedSmoothed" in path.name else {}),
        **common,
    }


def _facts(run: StandardSeries) -> dict[str, Any]:
    """Say of a series how it was acquired, as the sidecar of what it is made of does."""
    sidecar = run.bold.with_name(run.bold.name.partition(".")[0] + ".json")
    facts = carried(read_object(sidecar)) if sidecar.is_file() else {}
    (output,) = series_in(OutputSpace(name=run.space, res=run.res))
    return {**facts, **(output.facts or {}), "RepetitionTime": run.tr, "SkullStripped": True}


def _columns(plan: Denoising) -> dict[str, Any]:
    rule = plan.strategy.censoring
    # Without a threshold nothing exceeds it: the column of XCP-D holds 0 alone.
    limits = asdict(rule) if rule is not None else {"fd": math.inf}
    return {name: {"Description": WHY[name].format(**limits)} for name in _flags(plan)}


def _method(plan: Denoising) -> dict[str, Any]:
    """Say what was done, and what it cost."""
    strategy, freedom, band = plan.strategy, plan.freedom, plan.strategy.band
    filters = {
        "Butterworth filter": {
            "Filter order": band.order,
            "High-pass cutoff (Hz)": band.high_pass,
            "Low-pass cutoff (Hz)": band.low_pass,
            "Directions": "both",
        }
    }
    filtered = band.high_pass is not None or band.low_pass is not None
    return {
        "NuisanceParameters": strategy.name,
        "Strategy": strategy.as_dict(),
        "Confounds": plan.nuisance.names,
        "FirstConfoundsRow": plan.nuisance.first_row,
        "Detrend": "linear",
        "SoftwareFilters": filters if filtered else "n/a",
        "CensoredVolumes": {"Number": freedom.censored, "Treatment": CENSORED},
        "DegreesOfFreedom": asdict(freedom),
        "Software": {"nilearn": version("nilearn"), "neurostorm-app": version("neurostorm-app")},
    }
