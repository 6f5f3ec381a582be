"""Records of runs and evaluations: what another version wrote is named, and costs no page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from neurostorm_app.bids_app.report.group import write_group_page
from neurostorm_app.bids_app.report.records import read_records
from neurostorm_app.bids_app.report.subject import write_subject_page

if TYPE_CHECKING:
    from neurostorm_app.bids_app.report.panels import Notice


@pytest.mark.parametrize("damage", ["field", "kind", "list", "text"])
def test_a_record_of_another_version_is_named_and_its_run_is_measured_again(full, damage):
    path = full.root / "logs" / "sub-01_measures.json"
    write_subject_page(full.root, "01")
    stored = json.loads(path.read_text())
    name = "sub-01_task-rest_run-1"
    if damage == "field":
        stored[name]["measures"]["sharpness"] = 1.0
    elif damage == "kind":
        stored[name]["measures"]["mean_fd"] = "much"
    else:
        stored[name] = [1] if damage == "list" else "text"
    path.write_text(json.dumps(stored))
    notices: list[Notice] = []
    found = {record.name: record for record in read_records(full.root, "01", notices)}
    assert found[name].measures.mean_fd is not None
    [notice] = notices
    assert str(path) in notice.what
    assert (
        f"mean_fd of {name} is a str, no such measure" if damage == "kind" else "no record of"
    ) in notice.what


def test_damaged_evaluations_do_not_cost_the_page(full):
    for name in ("prediction/target-age_evaluation", "retrieval/desc-connectome_reidentification"):
        path = full.root / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"Target": "age", "Reidentification": ["x"]}))
    page = write_group_page(full.root).read_text(encoding="utf-8")
    assert "target-age_evaluation.json: no evaluation can be read" in page
    assert "reidentification.json: no recognition of people can be read" in page
