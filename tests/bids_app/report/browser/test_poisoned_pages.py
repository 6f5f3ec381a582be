"""Hostile labels in a browser: they are shown as text, and nothing of them runs."""

from __future__ import annotations

import json

import pytest

from neurostorm_app.bids_app.report.group import write_group_page
from neurostorm_app.bids_app.report.subject import write_subject_page

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
CLOSING = "</style></script><svg onload=alert(3)>"
POISON = (SCRIPT, IMAGE, CLOSING, "javascript:alert(4)", "{{ 7 * 7 }}", "'-alert(5)-'")
RUN = "sub-01_task-rest_run-1"


@pytest.fixture(scope="session")
def poisoned(tmp_path_factory, make_full):
    """Write poison wherever a dataset or a file of the output may hold words."""
    tree = make_full(tmp_path_factory.mktemp("poisoned"))
    root, words = tree.root, " ".join(POISON)
    columns = f"participant_id\tage\t{SCRIPT}\t{IMAGE}\n"
    rows = f"sub-01\t{SCRIPT}\t{IMAGE}\t{CLOSING}\nsub-02\t3\t{words}\tjavascript:alert(6)\n"
    (root / "participants.tsv").write_text(columns + rows)
    for path in root.rglob("*_bold.json"):
        said = json.loads(path.read_text())
        path.write_text(json.dumps(said | {"TaskName": words, "TaskDescription": words}))
    for path in root.rglob("*_embedding.json"):
        said = json.loads(path.read_text())
        said["Model"] |= {"Name": words, "License": SCRIPT, "Limits": [words]}
        said["InputConformance"]["reasons"] = [words]
        path.write_text(json.dumps(said | {"Description": words}))
    tree.report(RUN, status=SCRIPT, error={"what": words, "fix": words}, errors=[])
    tree.record(f"{RUN}_bold", started=SCRIPT, key=SCRIPT, settings={words: words})
    (root / "logs" / "sub-01_methods.md").write_text(words)
    qc = {words: {"verdict": "fail", "reasons": [words]}}
    (root / "logs" / f"{RUN}_qc.json").write_text(json.dumps(qc))
    told = {"Name": words, "GeneratedBy": [{"Name": words, "Version": SCRIPT}]}
    (root / "dataset_description.json").write_text(json.dumps(told))
    for participant in ("01", "02"):
        write_subject_page(root, participant)
    write_group_page(root)
    return root


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_poison_is_shown_as_text_and_does_not_run(visit, poisoned, name):
    page = visit(poisoned / name)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for control in page.locator("table[data-sortable] th button, select, summary").all():
        control.focus()
        control.press("Enter")
    text = page.locator("body").inner_text()
    assert SCRIPT in text
    assert IMAGE in text
    assert "49" not in page.evaluate("document.title")
    assert page.locator("script").count() == 1
    assert page.locator("img[src=x], svg[onload]").count() == 0
    handlers = "[...document.querySelectorAll('*')].some((e) => e.getAttributeNames()"
    assert not page.evaluate(f"{handlers}.some((name) => name.startsWith('on')))")
    links = "[...document.querySelectorAll('a')].map((link) => link.getAttribute('href'))"
    assert not [link for link in page.evaluate(links) if link.startswith("javascript:")]


def test_a_script_that_gets_in_is_stopped_by_the_policy_of_the_page(visit, poisoned, tmp_path):
    """What escaping should never let through: the page's own policy does not run it."""
    text = (poisoned / "group.html").read_text(encoding="utf-8")
    path = tmp_path / "injected.html"
    inside = "<script>document.title = 'run'</script><img src='x' onerror=\"document.title='run'\">"
    path.write_text(text.replace("<h1>", f"{inside}<h1>"), encoding="utf-8")
    page = visit(path, expected=("Content Security Policy", "Content-Security-Policy"))
    assert page.title() == "Group · neurostorm-app"
