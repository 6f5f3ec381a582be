"""A folder with all that pages can show, for a browser to open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCES = {
    "connectome": (0.78, [(0.2, 0.25), (0.35, 0.3), (0.5, 0.55), (0.7, 0.65)]),
    "neurostormDemo": (0.55, [(0.4, 0.5), (0.6, 0.45)]),
    "confounds": (0.52, []),
}


def evaluation(kind: str, name: str) -> dict[str, Any]:
    """Make an evaluation as the group level writes it."""
    metric, others = ("auroc", ("brier",)) if kind == "classes" else ("r2", ("r", "mae"))
    sources = {}
    for source, (value, groups) in SOURCES.items():
        scale = 1.0 if kind == "classes" else 60.0
        rows = [
            {"Participants": 9, "Predicted": p * scale, "Observed": o * scale} for p, o in groups
        ]
        sources[source] = {
            "Metrics": {metric: {"Value": value, "Low": value - 0.1, "High": value + 0.1}}
            | {other: {"Value": 0.2, "Low": 0.1, "High": 0.3} for other in others},
            "PValue": 0.004,
            "ByChance": {"Median": 0.5, "Low": 0.42, "High": 0.58},
            "Model": {"Role": "plain functional connectivity"},
            "Calibration": [row | {"Class": "patient"} for row in rows] if scale == 1 else rows,
            "Coverage": None if kind == "classes" else 0.88,
            "MeanWidth": None if kind == "classes" else 31.0,
        }
    return {
        "Demo": False,
        "Target": {"Name": name, "Kind": kind, "Units": None if kind == "classes" else "years"},
        "Finding": f"{name}: predicted by connectome in 40 participants",
        "Sources": sources,
        "Verdicts": {"connectome": {"effect": "found", "sentence": "it predicts"}},
        "Cohort": {"Rows": 40, "Participants": 40},
        "Design": {
            "n_folds": 5,
            "n_repeats": 2,
            "n_permutations": 499,
            "confidence": 0.9,
            "harmonise": "none",
        },
        "Adjusted": {"Covariates": ["motion"]},
        "Notes": ["the cohort is small"],
    }


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, make_full: Callable[[Path], Any]) -> Path:
    """Make a folder with all that pages can show, and its pages."""
    from neurostorm_app.bids_app.report.group import write_group_page
    from neurostorm_app.bids_app.report.subject import write_subject_page

    tree = make_full(tmp_path_factory.mktemp("site"))
    root: Path = tree.root
    tree.native("sub-01_task-rest_run-1")
    people = "participant_id\tage\tsite\nsub-01\t31\tParis\nsub-02\t44\tRome\n"
    (root / "participants.tsv").write_text(people)
    (root / "prediction").mkdir()
    (root / "phenotype").mkdir()
    for kind, name in (("classes", "group"), ("value", "age")):
        path = root / "prediction" / f"target-{name}_evaluation.json"
        path.write_text(json.dumps(evaluation(kind, name)))
    table = "participant_id\tpredicted\tlower\tupper\nsub-01\t33.1\t20\t46\nsub-02\t41\t28\t54\n"
    (root / "phenotype" / "connectome_age.tsv").write_text(table)
    write_group_page(root)
    for participant in ("01", "02"):
        write_subject_page(root, participant)
    write_group_page(root)
    return root
