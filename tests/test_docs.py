"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from neurostorm_app.bids_app.cli import build_parser
from neurostorm_app.errors import ExitCode
from neurostorm_app.models import list_models

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts/make_docs.py")
make_docs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_docs)


@pytest.mark.parametrize("name", make_docs.PAGES)
def test_a_generated_page_is_as_new_as_what_it_repeats(name):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == make_docs.PAGES[name](), "run .venv/bin/python scripts/make_docs.py"


def test_the_readme_names_only_options_that_exist():
    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ours = [
        line for line in text.splitlines() if "neurostorm-app /data" in line or "--models" in line
    ]
    used = {flag for line in ours for flag in re.findall(r"(?<=\s)--[a-z-]+", line)}
    foreign = {"--rm", "--network", "--user", "--cleanenv", "--containall"}
    assert used - foreign <= flags


def test_the_readme_names_every_model():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in list_models() if f"`{name}`" not in text] == []


def test_the_table_of_exit_codes_is_complete():
    text = (ROOT / "docs/exit-codes.md").read_text(encoding="utf-8")
    assert {int(code) for code in ExitCode} <= set(
        map(int, re.findall(r"^\| (\d+) \|", text, re.MULTILINE))
    )


def test_every_link_of_the_documentation_leads_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken
