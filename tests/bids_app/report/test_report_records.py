"""Records of runs and evaluations: what another version wrote is named, and costs no page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from neurostorm_app.bids_app.report.group import write_group_page
from neurostorm_app.bids_app.report.reader import Reader
from neurostorm_app.bids_app.report.records import read_records
from neurostorm_app.bids_app.report.subject import write_subject_page

if TYPE_CHECKING:
    from neurostorm_app.bids_app.report.panels import Notice

SPACE = "space-MNI152NLin6Asym_res-2"


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


def test_one_damaged_evaluation_costs_none_of_the_others(full):
    sound = {"Reidentification": {"Galleries": [
        {"GallerySize": 20, "Rank1ByChance": 0.05, "Rank1": {"value": 0.7, "low": 0.5, "high": 0.9}}
    ]}}  # fmt: skip
    folder = full.root / "retrieval"
    for label, content in (("connectome", {"Reidentification": 3}), ("neurostormDemo", sound)):
        (folder / f"desc-{label}_reidentification.json").write_text(json.dumps(content))
    table = folder / "desc-connectome_embedding.tsv"
    table.write_text(table.read_text() + "x\ty\n")
    page = write_group_page(full.root).read_text(encoding="utf-8")
    assert "desc-connectome_reidentification.json: no recognition of people can be read" in page
    assert "desc-connectome_embedding.tsv: row 6 has 2 cells" in page
    assert "the own in 70% (50% to 90%; guessing: 5.0%)" in page
    assert 'id="model-neurostormDemo"' in page
    assert 'id="model-connectome"' not in page
    subject = write_subject_page(full.root, "01").read_text(encoding="utf-8")
    assert "desc-connectome_embedding.tsv: row 6 has 2 cells" in subject
    assert "Nearest runs</h5>" in subject  # of the other model


FOREIGN_QUALITY = {
    "a measure without a verdict": {"quality": {"measures": {"ghost": {"value": 0.1}}}},
    "a measure without a limit": {"quality": {"measures": {"ghost": {
        "value": 0.1, "verdict": "look", "low": False, "unit": ""}}}},
    "a value in words": {"quality": {"measures": {"ghost": {
        "value": "much", "verdict": "look", "low": False, "unit": "", "look": 1.0}}}},
    "a list of measures": {"quality": {"measures": [1, 2]}},
    "reasons of numbers": {"coregistration": {"verdict": "look", "reasons": [3]}},
}  # fmt: skip


@pytest.mark.parametrize("where", ["sub-01", "sub-01_task-rest"], ids=["anatomy", "run"])
@pytest.mark.parametrize("content", FOREIGN_QUALITY.values(), ids=FOREIGN_QUALITY)
def test_a_foreign_record_of_quality_is_named_and_costs_no_page(tree, content, where):
    tree.confounds("sub-01_task-rest")
    path = tree.root / "logs" / f"{where}_qc.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    for page in (write_group_page(tree.root), write_subject_page(tree.root, "01")):
        text = page.read_text(encoding="utf-8")
        assert f"{where}_qc.json: no record of quality can be read" in text
        assert "The head was quiet" in text or page.name == "group.html"


@pytest.mark.parametrize(
    "content",
    [{"error": "no space"}, {"errors": "no space"}, {"errors": ["no space"]}, {"error": 3}],
    ids=["error in words", "errors in words", "a list of words", "a number"],
)
def test_a_foreign_report_of_a_run_is_named_and_costs_no_page(tree, content):
    tree.report("sub-01_task-rest", status="failed", **content)
    for page in (write_group_page(tree.root), write_subject_page(tree.root, "01")):
        text = page.read_text(encoding="utf-8")
        assert "sub-01_task-rest_report.json: no report of a run can be read" in text


def test_a_report_says_what_it_should_hold(tmp_path):
    path = tmp_path / "sub-01_report.json"
    path.write_text(json.dumps({"error": "no space", "errors": None}))
    problems = []
    assert Reader(problems).report(path) == {}
    [problem] = problems
    assert "error and errors are str and NoneType; expected an object and a list" in problem.what


def test_an_error_without_advice_is_shown_as_it_is(tree):
    tree.report("sub-01_task-rest", status="failed", error={"what": "no space"}, errors=None)
    tree.report("sub-02_task-rest", status="failed", error={"code": 3}, errors=None)
    for page in (write_group_page(tree.root), write_subject_page(tree.root, "01")):
        assert "no space" in page.read_text(encoding="utf-8")
    assert "the run failed" in write_subject_page(tree.root, "02").read_text(encoding="utf-8")


def test_a_reason_in_words_is_one_reason(tree):
    tree.confounds("sub-01_task-rest")
    path = tree.root / "logs" / "sub-01_qc.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"brain": {"verdict": "look", "reasons": "it is small"}}))
    assert "It is small.</span>" in write_subject_page(tree.root, "01").read_text(encoding="utf-8")


@pytest.mark.parametrize("change", [{"met": "yes"}, {"reasons": "no"}], ids=["met", "reasons"])
def test_a_foreign_word_on_the_contract_is_not_recorded(tree, change):
    name = "sub-01_task-rest"
    tree.embedding(name, "connectome")
    for path in tree.root.rglob("*_embedding.json"):
        content = json.loads(path.read_text())
        content["InputConformance"] |= change
        path.write_text(json.dumps(content))
    assert "contract: not recorded" in write_subject_page(tree.root, "01").read_text()
    assert "<td>not recorded" in write_group_page(tree.root).read_text()


NO_NUMBERS = (float("nan"), float("inf"), 10**400, True, "far")


@pytest.mark.parametrize("value", NO_NUMBERS, ids=["nan", "inf", "huge", "true", "word"])
def test_what_is_no_number_in_a_record_is_not_known_and_costs_no_page(tree, value):
    name = "sub-01_task-rest"
    tree.confounds(name)
    tree.embedding(name, "connectome")
    for path in tree.root.rglob("*_embedding.json"):
        content = json.loads(path.read_text())
        content["InputConformance"]["distance"] = value
        path.write_text(json.dumps(content))
    tree.record(f"{name}_bold", seconds=value, peak_memory=value, stages={"run000.motion": value})
    path = tree.root / "logs" / f"{name}_qc.json"
    path.parent.mkdir()
    steps = {"coregistration": "cost", "normalization": "correlation_with_template"}
    path.write_text(json.dumps({step: {key: value} for step, key in steps.items()}))
    for page in (write_group_page(tree.root), write_subject_page(tree.root, "01")):
        text = page.read_text(encoding="utf-8")
        assert "Mean framewise displacement" in text or "Mean motion (FD)" in text
        assert "Edge cost of BOLD on T1w" not in text
        assert "Distance from the contract" not in text
    assert "meets the contract" in text
    [record] = read_records(tree.root, "01", [])
    assert record.models["connectome"].distance is None
    assert record.measures.edge_cost is record.measures.likeness is None


@pytest.mark.parametrize("value", NO_NUMBERS[:3], ids=["nan", "inf", "huge"])
def test_a_stored_measure_that_is_not_finite_was_not_measured(tree, value):
    name = "sub-01_task-rest"
    tree.confounds(name)
    write_subject_page(tree.root, "01")
    path = tree.root / "logs" / "sub-01_measures.json"
    stored = json.loads(path.read_text())
    stored[name]["measures"]["tsnr"] = value
    path.write_text(json.dumps(stored))
    assert "Median tSNR" not in write_group_page(tree.root).read_text(encoding="utf-8")
    notices: list[Notice] = []
    [record] = read_records(tree.root, "01", notices)
    assert record.measures.tsnr is None
    assert record.measures.mean_fd is not None
    assert notices == []


def test_an_endless_repetition_time_is_none(tree):
    tree.series("sub-01_task-rest")
    [path] = tree.root.rglob("*_bold.json")
    path.write_text(json.dumps({"RepetitionTime": float("inf")}))
    for page in (write_group_page(tree.root), write_subject_page(tree.root, "01")):
        assert "inf" not in re.findall(r">(nan|inf)<", page.read_text(encoding="utf-8"))


def test_without_images_the_group_page_calls_no_run_sound(tree):
    tree.n_volumes = 150
    tree.series("sub-01_task-rest")
    tree.confounds("sub-01_task-rest")
    page = write_group_page(tree.root).read_text(encoding="utf-8")
    assert "1 cannot be judged fully" in page
    assert "look sound" not in page
    subject = write_subject_page(tree.root, "01").read_text(encoding="utf-8")
    assert "Registration.</span> Not known: no brain masks of BOLD and T1w" in subject


@pytest.fixture
def home(tmp_path, make_tree):
    """Make an output tree and its derivatives in somebody's home; one file of each is damaged."""
    tree = make_tree(tmp_path / "janedoe" / "out")
    name = "sub-01_task-rest"
    tree.embedding(name, "connectome")
    for path in tree.root.rglob("*_embedding.json"):
        content = json.loads(path.read_text())
        content["Sources"] = [f"bids:prep:sub-01/func/{name}_{SPACE}_desc-preproc_bold.nii.gz"]
        path.write_text(json.dumps(content))
    prep = make_tree(tmp_path / "janedoe" / "prep")
    prep.series(name)
    prep.confounds(name)
    [table] = prep.root.rglob("*_timeseries.tsv")
    table.write_text(table.read_text() + "0\t0\n")
    (mask,) = prep.root.rglob("*_mask.nii.gz")
    mask.write_bytes(b"no image")
    description = tree.root / "dataset_description.json"
    description.write_text(json.dumps({"DatasetLinks": {"prep": "../prep"}}))
    for path, content in (
        ("prediction/target-old_evaluation.json", {}),
        ("logs/sub-01_qc.json", [1]),
        (f"logs/{name}_qc.json", [1]),
    ):
        (tree.root / path).parent.mkdir(exist_ok=True)
        (tree.root / path).write_text(json.dumps(content))
    return tree.root


@pytest.mark.parametrize("strict", [False, True], ids=["standard", "strict"])
def test_a_page_names_damaged_files_by_their_place_in_the_datasets(home, strict):
    group = write_group_page(home, strict=strict).read_text(encoding="utf-8")
    subject = write_subject_page(home, "01", strict=strict).read_text(encoding="utf-8")
    assert "&lt;OUTPUT_DIR&gt;/prediction/target-old_evaluation.json: no evaluation" in group
    for page in (group, subject):
        assert "janedoe" not in page
        assert "&lt;OUTPUT_DIR&gt;/logs/sub-01_qc.json: holds a list" in page
        assert "&lt;DERIVATIVES prep&gt;/sub-01/func/sub-01_task-rest_desc-confounds" in page
    assert (
        f"&lt;DERIVATIVES prep&gt;/sub-01/func/sub-01_task-rest_{SPACE}_desc-brain_mask" in subject
    )


def test_a_strict_page_names_no_folder_of_the_machine_at_all(home):
    path = home / "logs" / "sub-01_measures.json"
    path.write_text(
        json.dumps({"sub-01_task-rest": {"measures": {"/mnt/jane/x": 1}, "verdict": {}}})
    )
    assert "/mnt/jane/x" in write_group_page(home).read_text(encoding="utf-8")
    page = write_group_page(home, strict=True).read_text(encoding="utf-8")
    assert "&lt;hidden&gt;/x" in page
    assert "/mnt/jane" not in page


def test_a_page_without_a_readable_description_still_hides_its_folder(tree):
    tree.report("sub-01_task-rest", error="no space")
    (tree.root / "dataset_description.json").write_text("[1]")
    for page in (write_group_page(tree.root), write_subject_page(tree.root, "01")):
        text = page.read_text(encoding="utf-8")
        assert "&lt;OUTPUT_DIR&gt;/logs/sub-01_task-rest_report.json" in text
        assert str(tree.root) not in text
