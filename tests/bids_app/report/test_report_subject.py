"""The page of a participant: whole, safe, and sensible when pieces are missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from neurostorm_app.bids_app.report.subject import write_subject_page

HOSTILE = '<script>alert("x")</script>'
VOID = {"meta", "img", "input", "br", "hr", "link"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open = text, []
        self.ids: list[str] = []
        self.names: dict[str, list[dict[str, str | None]]] = {}
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.names.setdefault(tag, []).append(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def prose(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(tree, participant: str = "01") -> Page:
    return Page(write_subject_page(tree.root, participant).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_full) -> Page:
    return page_of(make_full(tmp_path_factory.mktemp("subject")))


def test_the_page_answers_the_question_first(page):
    first = page.prose[:2500]
    assert "Can I trust these scans?" in first
    assert "Of 3 runs, 1 needs a look, 1 should not be used as it is, 1 did not finish." in first


def test_a_run_is_judged_with_reasons(page):
    assert "The head moved too much" in page.prose
    assert "the series has a TR of 2 s; the model takes 0.8 s" in page.prose
    assert "The run covers 100% of the participant's brain." in page.prose


def test_demo_weights_are_named_loudly(page):
    assert "DEMO neurostormDemo : demonstration weights, not for science".replace(
        " :", ":"
    ) in page.prose.replace(" :", ":")
    assert page.text.count("demo-chip") >= 3


def test_every_section_is_there(page):
    wanted = ["trust", "summary", "anatomical", "functional", "embeddings", "provenance"]
    assert {*wanted, "methods", "errors"} <= set(page.ids)
    titles = "Brain mask and tissues|T1w against the template|BOLD against T1w|Signal over time"
    for title in f"{titles}|Motion of the head|Temporal signal-to-noise ratio".split("|"):
        assert title in page.prose
    for title in ("Windows against windows", "Path through time", "Functional connectivity"):
        assert title in page.prose


def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    for link in page.names["a"]:
        if link["href"].startswith("#"):
            assert link["href"][1:] in page.ids


def test_nothing_is_loaded_from_anywhere(page):
    assert "http:" not in page.text
    assert "https:" not in page.text
    for tag in ("img", "image"):
        for attributes in page.names.get(tag, []):
            address = attributes.get("src") or attributes.get("href")
            assert address is not None
            assert address.startswith("data:image/")
    assert not {"link", "iframe", "object", "embed", "source"} & page.names.keys()
    assert not any("src" in attributes for attributes in page.names["script"])
    assert "@import" not in page.text
    assert "url(" not in re.sub(r"url\(#", "", page.text)


def test_every_image_says_what_it_shows(page):
    assert page.names["img"]
    assert all(len(image["alt"] or "") > 20 for image in page.names["img"])
    charts = [svg for svg in page.names["svg"] if svg.get("role") == "img"]
    assert all(len(svg["aria-label"] or "") > 8 for svg in charts)
    decoration = [svg for svg in page.names["svg"] if svg.get("role") != "img"]
    assert all(svg.get("aria-hidden") == "true" for svg in decoration)


def test_the_page_is_small(page):
    assert len(page.text) < 5e6  # bytes


def test_a_failed_run_says_what_to_do(page):
    errors = page.prose[page.prose.rindex("Errors") :]
    assert "the file ends early" in errors
    assert "What to do: fetch it" in errors


def test_the_nearest_runs_are_listed_with_the_same_participant_marked(page):
    assert "sub-01_task-rest_run-2 the same" in page.prose


def test_provenance_and_methods_are_shown(page):
    assert "3 min 32 s" in page.prose
    assert "2.10 GiB" in page.prose
    assert "2026-11-21 11:20 UTC" in page.prose
    assert "Results come from *neurostorm-app* 0.1.0 [@n4]." in page.prose


def test_a_page_is_the_same_twice(tree):
    tree.run("sub-01_task-rest")
    first = write_subject_page(tree.root, "01").read_bytes()
    tree.record("sub-01_report", kind="report", seconds=1.0)
    assert write_subject_page(tree.root, "01").read_bytes() == first


def test_a_page_does_not_tell_whether_the_last_call_found_or_made_the_results(tree):
    name, measures = "sub-01_task-rest", tree.root / "logs" / "sub-01_measures.json"
    tree.run(name)
    made = write_subject_page(tree.root, "01").read_bytes(), measures.read_bytes()
    tree.report(name, status="reused", stages=[])
    assert (write_subject_page(tree.root, "01").read_bytes(), measures.read_bytes()) == made
    tree.report(name, status="failed")
    assert write_subject_page(tree.root, "01").read_bytes() != made[0]


def test_hostile_text_is_shown_and_never_run(tree):
    name = "sub-01_task-rest"
    tree.series(name)
    tree.confounds(name)
    tree.embedding(name, "connectome", reasons=(HOSTILE,))
    sidecar = next(tree.root.rglob("*_desc-connectome_embedding.json"))
    content = json.loads(sidecar.read_text())
    content["Model"] |= {"Name": HOSTILE, "License": HOSTILE, "Limits": [HOSTILE]}
    sidecar.write_text(json.dumps(content | {"Description": HOSTILE}))
    tree.report(name, status=HOSTILE, error={"what": HOSTILE, "fix": HOSTILE}, errors=[])
    tree.record(f"{name}_bold", started=HOSTILE, key=HOSTILE, settings={HOSTILE: HOSTILE})
    (tree.root / "logs" / "sub-01_methods.md").write_text(HOSTILE)
    (tree.root / "logs" / f"{name}_qc.json").write_text(json.dumps({HOSTILE: {"verdict": HOSTILE}}))
    description = tree.root / "dataset_description.json"
    description.write_text(json.dumps({"Name": HOSTILE, "GeneratedBy": [{"Name": HOSTILE}]}))
    page = page_of(tree)
    assert len(page.names["script"]) == 1
    assert HOSTILE not in page.text
    assert page.prose.count(HOSTILE) >= 8


def test_a_run_from_a_derivative_says_what_is_not_there(tree):
    """The series lies elsewhere; only embeddings are in the output."""
    name = "sub-01_task-rest"
    tree.embedding(name, "connectome")
    sidecar = next(tree.root.rglob("*_desc-connectome_embedding.json"))
    content = json.loads(sidecar.read_text())
    content["Sources"] = ["bids:gone:sub-01/func/sub-01_task-rest_desc-preproc_bold.nii.gz"]
    for path in tree.root.rglob("*_embedding.json"):
        path.write_text(json.dumps(content))
    tree.report(name)
    page = page_of(tree)
    assert "There are no anatomical images in this output folder" in page.prose
    assert "It was read from bids:gone:sub-01/func" in page.prose
    assert "There is no table of confounds" in page.prose
    assert "Motion. Not known" in page.prose
    assert "Functional connectivity" in page.prose
    assert "embedded by connectome (version 1, no weights)" in page.prose


def test_a_derivative_that_is_still_there_is_drawn(tree, make_tree, tmp_path):
    name = "sub-01_task-rest"
    other = make_tree(tmp_path / "other tree")
    other.series(name)
    other.confounds(name)
    other.anatomy("01")
    tree.embedding(name, "connectome")
    for path in tree.root.rglob("*_embedding.json"):
        content = json.loads(path.read_text())
        content["Sources"] = [s.replace("bids::", "bids:mine:") for s in content["Sources"]]
        path.write_text(json.dumps(content))
    description = {"Name": "x", "DatasetLinks": {"mine": "../other%20tree"}}
    (tree.root / "dataset_description.json").write_text(json.dumps(description))
    page = page_of(tree)
    assert "Signal over time" in page.prose
    assert "BOLD against T1w" in page.prose
    assert "T1w against the template" in page.prose
    assert "Taken from the derivative mine" in page.prose


def test_a_series_without_anatomy_is_compared_with_the_template(tree):
    tree.series("sub-01_task-rest")
    page = page_of(tree)
    assert "of the template's brain" in page.prose
    assert "BOLD against T1w" not in page.prose
    assert "BOLD reference" in page.prose


def test_a_t1w_without_a_mask_is_not_drawn(tree):
    tree.anatomy("01")
    tree.series("sub-01_task-rest")
    for path in (tree.root / "sub-01" / "anat").iterdir():
        if "T1w" not in path.name:
            path.unlink()
    page = page_of(tree)
    assert "without it the T1w would show a face, so it is not drawn" in page.prose
    assert "T1w against the template" not in page.prose
    assert "BOLD against T1w" not in page.prose


def test_no_picture_holds_a_face(tree):
    """What is beyond a centimetre of the brain changes no picture, and what is within it does."""
    tree.anatomy("01")
    tree.series("sub-01_task-rest")
    [path] = tree.root.rglob("*_desc-preproc_T1w.nii.gz")
    t1w = np.asarray(nib.load(path).dataobj)
    away = distance_transform_edt(tree.dseg == 0, sampling=nib.affines.voxel_sizes(tree.affine))
    before = page_of(tree).text
    for nearest, same in ((10, True), (0, False)):
        face = np.where(away > nearest, 200, t1w).astype(np.float32)
        nib.save(nib.Nifti1Image(face, tree.affine), path)
        pictures = [re.findall(r"data:image/[^\"]+", text) for text in (before, page_of(tree).text)]
        assert (pictures[0] == pictures[1]) is same


def test_a_table_of_another_length_is_drawn_apart(tree):
    name = "sub-01_task-rest"
    tree.series(name)
    tree.confounds(name, n=91)
    page = page_of(tree)
    assert "has 91 rows and the series 60 volumes" in page.prose
    assert "Motion of the head" in page.prose


def test_damaged_files_become_notices_and_the_rest_is_drawn(full):
    bold = next(full.root.rglob("sub-01_task-rest_run-1*_desc-preproc_bold.nii.gz"))
    bold.write_bytes(bold.read_bytes()[:5000])
    (full.root / "logs" / "sub-01_qc.json").write_text("{")
    (full.root / "prov" / "sub-01_x_bold.json").write_text("[]")
    page = page_of(full)
    assert "sub-01_qc.json: not readable as JSON" in page.prose
    assert "holds a list where an object was expected" in page.prose
    assert bold.name in page.prose
    assert "BOLD against T1w" in page.prose


def test_a_participant_without_anything_has_a_page(tree):
    page = page_of(tree, "99")
    assert "There is no run of this participant in the output folder." in page.prose


def test_a_verdict_of_the_preprocessing_is_passed_on(tree):
    name = "sub-01_task-rest"
    tree.series(name)
    qc = {"brain_mask": {"verdict": "look: two methods agree by a Dice of 0.71 only"}}
    (tree.root / "logs").mkdir()
    (tree.root / "logs" / "sub-01_qc.json").write_text(json.dumps(qc))
    assert "Brain mask. Two methods agree by a Dice of 0.71 only." in page_of(tree).prose


def test_sessions_have_their_own_runs(tree):
    for session in ("a", "b"):
        tree.confounds(f"sub-01_ses-{session}_task-rest")
        folder = tree.root / "sub-01" / f"ses-{session}" / "func"
        folder.mkdir(parents=True)
        for path in (tree.root / "sub-01" / "func").iterdir():
            path.rename(folder / path.name)
    page = page_of(tree)
    assert "ses a, task rest" in page.prose
    assert "ses b, task rest" in page.prose
