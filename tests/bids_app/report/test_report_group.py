"""The page of the group."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from neurostorm_app.bids_app.report.colouring import colourings
from neurostorm_app.bids_app.report.group import write_group_page
from neurostorm_app.bids_app.report.neighbours import read_cohort
from neurostorm_app.bids_app.report.strips import ticks
from neurostorm_app.bids_app.report.subject import write_subject_page
from neurostorm_app.errors import DataError

_spec = importlib.util.spec_from_file_location(
    "subject_tests", Path(__file__).with_name("test_report_subject.py")
)
assert _spec is not None
assert _spec.loader is not None
subject_tests = importlib.util.module_from_spec(_spec)
sys.modules["subject_tests"] = subject_tests
_spec.loader.exec_module(subject_tests)
Page, HOSTILE = subject_tests.Page, subject_tests.HOSTILE


def page_of(tree):
    return Page(write_group_page(tree.root).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def group_tree(tmp_path_factory, make_full):
    tree = make_full(tmp_path_factory.mktemp("group"))
    for participant in ("01", "02"):
        write_subject_page(tree.root, participant)
    people = "participant_id\tage\tgroup\nsub-01\t31\tcontrol\nsub-02\t44\tpatient\n"
    (tree.root / "participants.tsv").write_text(people)
    return tree


@pytest.fixture(scope="module")
def page(group_tree):
    return page_of(group_tree)


def test_the_first_screen_names_failures_and_bad_runs(page):
    first = page.prose[:900]
    assert "2 participants, 5 runs" in first
    assert "1 not finished" in first
    assert "sub-01, task rest, run 3" in first
    assert "the file ends early" in first
    assert "The head moved too much" in first


def test_the_privacy_of_embeddings_is_stated(page):
    assert "Embeddings are personal data" in page.prose


def test_the_table_has_a_row_a_run_and_links_to_the_pages(page, group_tree):
    body = page.text[page.text.index('id="cohort-table"') :].split("</table>")[0]
    assert body.count("<tr>") == 1 + 5
    links = {link["href"] for link in page.names["a"] if link["href"].startswith("sub-")}
    for link in links:
        name, _, mark = link.partition("#")
        target = (group_tree.root / name).read_text()
        assert not mark or f'id="{mark}"' in target
    assert "control" in body
    assert "patient" in body


def test_columns_that_nobody_fills_are_left_out(page, full):
    def heads(one):
        return set(re.findall(r"<th[^>]*><button[^>]*>([^<]+)<", one.text))

    assert {"Mean FD, mm", "tSNR", "Dice"} <= heads(page)
    for path in full.root.rglob("*_timeseries.tsv"):
        path.unlink()
    assert not {"Mean FD, mm", "tSNR", "Dice"} & heads(page_of(full))  # no image was read either


def test_a_legend_says_how_many_it_leaves_out():
    names = [f"sub-{n:02d}_task-rest" for n in range(30)]
    records = [
        SimpleNamespace(
            name=name,
            participant=name[4:6],
            verdict=SimpleNamespace(level="good"),
            measures=SimpleNamespace(mean_fd=None),
        )
        for name in names
    ]
    people, verdicts = colourings(records, {})
    assert (len(people.legend), people.more) == (24, 6)
    assert (len(verdicts.legend), verdicts.more) == (1, 0)


def test_retrieval_is_counted(page):
    assert page.prose.count("of the same participant for 4 of 4 runs") == 2


def test_runs_can_be_coloured_by_participant_verdict_motion_and_columns(page):
    options = re.findall(r"<option[^>]*>([^<]+)<", page.text)
    assert options[:5] == ["participant", "verdict", "mean motion (mm)", "age", "group"]
    dots = [c for c in page.names["circle"] if "data-c0" in c]
    assert len(dots) == 8
    assert all(re.fullmatch(r"#[0-9a-f]{6}", dot["data-c3"]) for dot in dots)


def test_the_group_page_is_whole(page):
    assert len(page.ids) == len(set(page.ids))
    assert "http" not in page.text.replace('http-equiv="Content-Security-Policy"', "")
    assert "DEMO" in page.prose
    assert "What to do: fetch it" in page.prose


def test_a_group_without_participant_pages_uses_the_tables(make_full, tmp_path):
    tree = make_full(tmp_path)
    page = page_of(tree)
    assert "The head moved too much" in page.prose
    assert "Median tSNR" not in page.prose


def test_hostile_labels_are_shown_as_text(full):
    people = f"participant_id\t{HOSTILE}\nsub-01\t{HOSTILE}\nsub-02\tb\n"
    (full.root / "participants.tsv").write_text(people)
    full.report("sub-02_task-rest_run-1", errors=[{"what": HOSTILE, "fix": HOSTILE}])
    page = page_of(full)
    assert len(page.names["script"]) == 1
    assert HOSTILE not in page.text
    assert HOSTILE in page.prose


def test_participants_of_the_raw_dataset_are_found_by_its_link(full, tmp_path):
    raw = tmp_path / "raw data"
    raw.mkdir()
    (raw / "participants.tsv").write_text("participant_id\tsite\nsub-01\tParis\nsub-02\tRome\n")
    content = {"Name": "x", "DatasetLinks": {"raw": "../raw%20data"}}
    (full.root / "dataset_description.json").write_text(json.dumps(content))
    assert "Paris" in page_of(full).prose


def test_an_empty_folder_has_a_page(tree):
    page = page_of(tree)
    assert "There is no run in the output folder." in page.prose
    assert "There is no index of embeddings" in page.prose


def test_one_run_makes_no_map(tree):
    tree.run("sub-01_task-rest")
    tree.retrieval(["sub-01_task-rest"])
    assert "holds one run only" in page_of(tree).prose


def test_a_damaged_table_is_named_and_the_page_goes_on(full):
    path = full.root / "retrieval" / "desc-connectome_embedding.tsv"
    path.write_text(path.read_text() + "x\ty\n")
    page = page_of(full)
    assert "desc-connectome_embedding.tsv: row 6 has 2 cells; the header has 47" in page.prose
    assert "Cohort" in page.prose


def test_a_table_of_embeddings_must_name_its_runs(full):
    path = full.root / "retrieval" / "desc-connectome_embedding.tsv"
    path.write_text(path.read_text().replace("run\t", "what\t", 1))
    with pytest.raises(DataError, match="no column names the runs") as caught:
        read_cohort(full.root, "connectome")
    assert "group level again" in caught.value.fix


def test_similarity_is_that_of_the_index(full):
    """An index that takes the mean off compares without it, and so does the page."""
    from neurostorm_app.pipelines.retrieve import build_index, save_index, search

    plain = read_cohort(full.root, "connectome")
    index = build_index(plain.vectors, centre=True)
    save_index(index, full.root / "retrieval" / "desc-connectome_index.faiss")
    centred = read_cohort(full.root, "connectome")
    rows, values = search(index, plain.vectors[0], 3, exclude=[0])
    found = centred.nearest(plain.names[0], 3)
    assert [plain.names[row] for row in rows] == [other.name for other in found]
    np.testing.assert_allclose(values, [other.similarity for other in found], atol=1e-5)
    assert not np.allclose(plain.similarity, centred.similarity)


def test_a_run_that_is_not_in_the_index_has_no_neighbours(full):
    assert read_cohort(full.root, "connectome").nearest("sub-09_task-rest") == []


def test_ticks_are_round_and_span_the_range():
    assert ticks(0, 0.47) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert ticks(5, 5) == [5, 5.2, 5.4, 5.6, 5.8, 6]
    assert ticks(-3, 140) == [-50, 0, 50, 100, 150]


def test_the_folder_may_be_moved(group_tree, tmp_path):
    """Pages link to each other by name alone."""
    moved = shutil.copytree(group_tree.root, tmp_path / "elsewhere")
    page = Page((moved / "group.html").read_text() if (moved / "group.html").exists() else "")
    assert str(group_tree.root) not in page.text
