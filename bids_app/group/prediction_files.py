"""What is written of an evaluation: all sources side by side, with verdicts and calibration.

Observed targets, confounds and groups are never written. Neither are the predictions from
confounds alone, nor those after covariates were taken off: they would give the confounds away.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.bids_app.group.phenotype_files import OUT_OF_FOLD
from neurostorm_app.bids_app.group.prediction_bins import calibration
from neurostorm_app.bids_app.participant.outputs import DEMO, PRIVACY
from neurostorm_app.bids_app.participant.predictions import DIAGNOSIS
from neurostorm_app.bids_app.provenance import versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.bids_app.group.cohort import Gathered
    from neurostorm_app.bids_app.group.store import Collected
    from neurostorm_app.pipelines.evaluate.cohort import Design, Evaluation, Interval
    from neurostorm_app.pipelines.evaluate.compare import Comparison

__all__ = ["describe_evaluation", "describe_source", "evaluation_table", "limit_verdicts"]

CONNECTOME: Final = "connectome"
UNTRAINED: Final = "Untrained"
"""Ends the label of a model's twin with random weights."""
COLUMNS: Final = (
    "source",
    "learner",
    "adjusted",
    "metric",
    "value",
    "low",
    "high",
    "p",
    "difference_to_connectome",
    "difference_low",
    "difference_high",
    "verdict",
)


def describe_source(source: str, collected: Mapping[str, Collected]) -> dict[str, Any]:
    """Say what made a source, and what it is there for.

    Parameters
    ----------
    source : str
        Its label.
    collected : mapping
        The runs of each model; a source that is none of them is a network of connectomes.
    """
    if source not in collected:
        return {"Label": source, "Role": "network trained inside the folds", "Of": CONNECTOME}
    one = collected[source]
    role = "foundation model"
    if source == CONNECTOME:
        role = "plain functional connectivity"
    elif source.endswith(UNTRAINED):
        role = "control with random weights"
    told = ("WeightsSHA256", "Space", "Resolution", "Precision", "EmbeddingDimension")
    made = {name: one.fingerprint.get(name) for name in told}
    return {"Label": source, "Role": role, "Demo": one.demo, **made}


def limit_verdicts(
    comparison: Comparison, collected: Mapping[str, Collected], target: str
) -> list[str]:
    """Say what the verdicts cannot claim, because something is not there to compare with.

    Parameters
    ----------
    comparison : Comparison
        Of all sources.
    collected : mapping
        The runs of each model.
    target : str
        What is predicted.
    """
    notes = [
        f"{source} was tuned to predict {tuned!r}: of people it was tuned on, these numbers are too"
        " good, and worth nothing."
        for source, one in collected.items()
        if (tuned := one.fingerprint.get("TunedTo")) is not None
        and str(tuned).casefold() == target.casefold()
    ]
    if CONNECTOME not in collected:
        notes.append(
            "No embeddings of the connectome are here: whether a model beats plain functional "
            "connectivity is not known."
        )
    notes += [
        f"{source} has no untrained control here: whether its training helps is not known."
        for source in comparison.evaluations
        if source in collected
        and source != CONNECTOME
        and not source.endswith(UNTRAINED)
        and source + UNTRAINED not in collected
    ]
    return notes


def evaluation_table(comparison: Comparison, primary: str) -> str:
    """Write all sources side by side: a row a metric, first as they are, then adjusted.

    Parameters
    ----------
    comparison : Comparison
        Of all sources.
    primary : str
        The metric that p-values, differences and verdicts are about.
    """
    lines = ["\t".join(COLUMNS)]
    sides = {"no": comparison.evaluations, "yes": comparison.adjusted}
    for adjusted, evaluations in sides.items():
        for source, evaluation in evaluations.items():
            for metric, interval in evaluation.metrics.items():
                row: dict[str, object] = {
                    "source": source,
                    "learner": evaluation.learner,
                    "adjusted": adjusted,
                    "metric": metric,
                    **_bounds(interval),
                }
                if metric == primary:
                    row["p"] = evaluation.p_value
                if metric == primary and adjusted == "no":
                    row |= _compared(comparison, source)
                lines.append("\t".join(_cell(row.get(name)) for name in COLUMNS))
    return "\n".join(lines) + "\n"


def _bounds(interval: Interval) -> dict[str, object]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _compared(comparison: Comparison, source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    difference = comparison.differences.get((source, "connectome"))
    if difference is not None:
        found["difference_to_connectome"] = difference.value
        found |= {"difference_low": difference.low, "difference_high": difference.high}
    if source in comparison.verdicts:
        found["verdict"] = comparison.verdicts[source].sentence
    return found


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe_evaluation(
    gathered: Gathered,
    comparison: Comparison,
    design: Design,
    *,
    sources: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Say all of an evaluation that may be said, as JSON can hold it.

    Parameters
    ----------
    gathered : Gathered
        The cohort.
    comparison : Comparison
        Of all sources.
    design : Design
        How it was done.
    sources : mapping
        What made each source, by its label.
    notes : sequence of str
        What is to be known besides.
    """
    cohort, target = gathered.cohort, gathered.cohort.target
    demo = any(about.get("Demo") for about in sources.values())
    return {
        "Description": f"{DEMO if demo else ''}How well {target.name} can be told from each source,"
        f" all on the same rows. {OUT_OF_FOLD} {DIAGNOSIS}",
        "NotForDiagnosis": True,
        "Demo": demo,
        "Target": _target(gathered),
        "Cohort": {
            "Rows": cohort.n_rows,
            "RowIs": gathered.labels.row_is,
            "Participants": cohort.n_participants,
            "Groups": cohort.n_groups,
            "LeftOut": gathered.left_out,
        },
        "Design": dataclasses.asdict(design),
        "Finding": comparison.sentence,
        "Verdicts": {s: dataclasses.asdict(v) for s, v in comparison.verdicts.items()},
        "Sources": {
            source: {
                **_evaluated(evaluation),
                "Model": dict(sources.get(source, {})),
                "Calibration": calibration(cohort, evaluation) if source in sources else None,
            }
            for source, evaluation in comparison.evaluations.items()
        },
        "Adjusted": {
            "Covariates": list(comparison.covariates),
            "Sources": {s: _evaluated(e) for s, e in comparison.adjusted.items()},
        },
        "Differences": [
            {"Of": one, "From": other, **_interval(interval)}
            for (one, other), interval in comparison.differences.items()
        ],
        "Confounds": _confounds(gathered, comparison.covariates),
        "Notes": [*gathered.notes, *comparison.notes, *notes],
        "Privacy": PRIVACY,
        "Versions": versions(),
    }


def _target(gathered: Gathered) -> dict[str, Any]:
    target, table = gathered.cohort.target, gathered.labels.column.table
    return {
        "Name": target.name,
        "Table": (table.paths[0].name if len(table.paths) == 1 else f"{table.stem}.tsv")
        if table.paths
        else None,
        "Kind": target.kind,
        "Classes": list(target.classes) or None,
        "Units": target.unit,
    }


def _confounds(gathered: Gathered, covariates: Sequence[str]) -> dict[str, Any]:
    """Say which confounds there were, of how many rows, and nothing of anybody."""
    found = {}
    for name, confound in gathered.cohort.confounds.items():
        names = isinstance(confound.values, tuple)
        known = sum(
            bool(value) if isinstance(value, str) else not math.isnan(value)
            for value in confound.values
        )
        found[name] = {
            "Kind": "names" if names else "numbers",
            "Missing": gathered.cohort.n_rows - known,
            "Covariate": name in covariates,
        }
    return found


def _evaluated(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "Learner": evaluation.learner,
        "Metrics": {name: _interval(interval) for name, interval in evaluation.metrics.items()},
        "PValue": evaluation.p_value,
        "Permutations": evaluation.n_permutations,
        "ByChance": _by_chance(evaluation),
        "Coverage": _round(evaluation.coverage),
        "MeanWidth": _round(evaluation.width),
        "Notes": list(evaluation.notes),
    }


def _by_chance(evaluation: Evaluation) -> dict[str, float | None] | None:
    """Say what the primary metric reaches with the target rearranged: median and 90 percent."""
    if evaluation.null is None or not evaluation.null.size:
        return None
    low, middle, high = np.quantile(evaluation.null, [0.05, 0.5, 0.95])
    return {"Median": _round(middle), "Low": _round(low), "High": _round(high)}


def _interval(interval: Interval) -> dict[str, float | None]:
    pairs = {"Value": interval.value, "Low": interval.low, "High": interval.high}
    return {name: _round(value) for name, value in pairs.items()}


def _round(value: float | None) -> float | None:
    """Round to what means something; a number that does not exist is null in JSON."""
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")
