"""The documentation says what the code does, holds together, and builds without a warning."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from neurostorm_app import __version__
from neurostorm_app.bids_app.cli import build_parser
from neurostorm_app.bids_app.derivatives import derivative_path
from neurostorm_app.bids_app.participant import images
from neurostorm_app.bids_app.report.citing import read_references
from neurostorm_app.errors import ExitCode
from neurostorm_app.models import list_models
from neurostorm_app.pipelines.stage import OutputSpace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
make_docs, card_pages = map(importlib.import_module, ("make_docs", "card_pages"))
SOURCES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
ADDRESS = re.compile(r"https?://[^\s)>\]`'\"|]+")


@pytest.mark.parametrize("name", make_docs.PAGES)
def test_a_generated_page_is_as_new_as_what_it_repeats(name):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == make_docs.PAGES[name](), "run .venv/bin/python scripts/make_docs.py"


@pytest.mark.parametrize("name", make_docs.PARTS)
def test_generated_tables_are_as_new_as_what_they_repeat(name):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    again = make_docs.put_parts(written, make_docs.PARTS[name])
    assert written == again, "run .venv/bin/python scripts/make_docs.py"


def test_each_network_of_the_table_is_one_that_is_measured():
    path = ROOT / "benchmarks/bench_models.py"
    spec = importlib.util.spec_from_file_location("bench_models", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    systems = yaml.safe_load((ROOT / "scripts/systems.yaml").read_text(encoding="utf-8"))
    listed = [line for system in systems for line in system["lines"]]
    assert sorted(listed) == sorted(bench.MODELS)
    assert f"[--write {make_docs.MEASURED.relative_to(ROOT)}]" in bench.__doc__


def test_a_network_that_was_not_measured_is_listed_as_such(tmp_path, monkeypatch):
    known = json.loads(make_docs.MEASURED.read_text(encoding="utf-8"))
    known["models"] = {"connectome": known["models"]["connectome"], "brainlm": {"error": "killed"}}
    known["series"] = "sub-01_bold.nii.gz"
    (tmp_path / "measured.json").write_text(json.dumps(known))
    monkeypatch.setattr(make_docs, "MEASURED", tmp_path / "measured.json")
    page = make_docs.models_page()
    for line in ("brainlm", "neurostorm-demo", "fmri-lm"):
        assert f"| {line} | not measured |" in page
    assert "code Apache-2.0, weights CC BY-NC-ND 4.0 | not measured | not measured |" in page
    assert "| connectome | 0.0 M | 1 |" in page
    assert "2 mm; sub-01_bold.nii.gz)" in page


def test_every_model_has_a_card_page_and_no_page_is_left_over():
    pages = {path.stem for path in (ROOT / "docs/cards").glob("*.md")}
    assert pages == set(list_models())


def test_of_every_model_it_is_said_what_it_was_trained_on_and_what_others_found():
    evidence = card_pages.read_evidence()
    assert set(evidence["models"]) == set(list_models())
    families = {known["family"] for known in evidence["models"].values()}
    assert set(evidence["studies"]) <= families
    for studies in evidence["studies"].values():
        for study in studies:
            assert re.search(r"arXiv:\d{4}\.\d{5}|doi:10\.", study), study


def test_the_readme_names_every_model():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in list_models() if f"`{name}`" not in text] == []


def test_the_options_page_has_every_option():
    text = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    ours = {
        flag
        for group in build_parser()._action_groups
        if "other BIDS apps" not in (group.title or "")
        for action in group._group_actions
        for flag in action.option_strings
        if "_" not in flag
    }
    said = {"--help", "-h", "--version", "--config-file", "--invocation", "--bids-exec-spec"}
    assert [flag for flag in sorted(ours - said) if f"`{flag}`" not in text] == []


def test_the_table_of_exit_codes_is_complete():
    text = (ROOT / "docs/exit-codes.md").read_text(encoding="utf-8")
    assert {int(code) for code in ExitCode} <= set(
        map(int, re.findall(r"^\| (\d+) \|", text, re.MULTILINE))
    )


def prose(path: Path) -> str:
    """Take a page without its blocks of code."""
    return FENCED.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """List what can be linked to in a page: its headings, as Markdown makes them."""
    slugs: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", prose(path), re.MULTILINE):
        words = re.sub(r"[`*\[\]]|\(\S+\)(?=$|\s)", "", heading).lower()
        slug = re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", words).strip())
        slugs.add(slug)
    return slugs


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_every_link_of_a_page_leads_somewhere(path):
    broken = []
    for target in LINK.findall(prose(path)):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        where = (path.parent / unquote(file)) if file else path
        if not where.exists():
            broken.append(f"{target}: no such file")
        elif anchor and where.suffix == ".md" and anchor not in anchors(where):
            broken.append(f"{target}: no such heading; there are {sorted(anchors(where))}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_addresses_outside_are_well_formed(path):
    """Nobody asks whether they answer: that would take a network."""
    for address in ADDRESS.findall(path.read_text(encoding="utf-8")):
        parts = urlsplit(address.rstrip(".,;:"))
        host = parts.hostname or ""
        assert parts.scheme == "https", address
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", host), address
        assert host not in {"example.com", "localhost"}, address


class Page(HTMLParser):
    """Links and ids of a built page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.ids |= {known["id"]} if known.get("id") else set()
        for name in ("href", "src"):
            if known.get(name):
                self.links.append(str(known[name]))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the pages; a warning is an error."""
    if importlib.util.find_spec("mkdocs") is None or not importlib.util.find_spec("mkdocstrings"):
        pytest.skip("MkDocs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_build_without_a_warning_and_their_links_and_anchors_hold(site):
    pages = {path: Page() for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        page.feed(path.read_text(encoding="utf-8"))
    assert len(pages) > 50
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith(("//", "data:")):
                continue
            where = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = where / "index.html" if where.is_dir() else where
            name = path.relative_to(site)
            if not where.exists():
                broken.append(f"{name}: {link}")
            elif parts.fragment and where in pages and parts.fragment not in pages[where].ids:
                broken.append(f"{name}: {link}: no such anchor")
    assert not broken, "\n".join(sorted(set(broken)))


def test_the_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(https?://[^\"]+)", text)
        loaded += re.findall(r"<link[^>]+stylesheet[^>]+href=\"(https?://[^\"]+)", text)
        assert not loaded, path


def test_the_api_pages_show_what_they_promise(site):
    text = "".join(path.read_text() for path in (site / "api").rglob("*.html"))
    for name in (
        "neurostorm_app.run",
        "neurostorm_app.bids_app.interfaces.EmbedRun",
        "neurostorm_app.models.create_model",
        "neurostorm_app.models.card.Card",
        "neurostorm_app.pipelines.embed.load_embedder",
        "neurostorm_app.pipelines.phantom.make_phantom",
        "neurostorm_app.errors.TemporaryError",
    ):
        assert f'id="{name}"' in text, name


def test_the_citation_file_is_valid():
    """By the rules of Citation File Format 1.2.0 that concern it."""
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= known.keys()
    allowed = {"abstract", "license", "references", "type", "version", "keywords", "date-released"}
    assert known.keys() <= allowed | {"cff-version", "message", "title", "authors"}
    assert known["cff-version"] == "1.2.0"
    assert known["version"] == __version__
    assert known["type"] in {"software", "dataset"}
    people = [*known["authors"], *(a for r in known["references"] for a in r["authors"])]
    for one in people:
        assert one.keys() in ({"name"}, {"family-names", "given-names"}), one
    for reference in known["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_the_references_of_the_methods_text_are_whole():
    for key, entry in read_references().items():
        assert re.search(r"doi:10\.\d{4,9}/\S+$", entry.long), key
        assert re.search(r"\(\d{4}\)", entry.long), key
        assert entry.bibtex.count("{") == entry.bibtex.count("}"), key


def test_the_page_of_output_files_has_every_image_and_transform():
    spec = importlib.util.spec_from_file_location("docs_outputs", ROOT / "tests/docs_outputs.py")
    told = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(told)
    spaces = (
        OutputSpace(name="MNI152NLin6Asym", res="2"),
        OutputSpace(name="T1w"),
        OutputSpace(name="native"),
    )
    made = [*images.ANAT, *images.CONFOUNDS, *images.of_fit(), *images.of_field("syn")]
    made += [one for kind in ("pepolar", "direct") for one in images.of_fieldmap("a", kind)]
    made += images.maps_between("T1w", "MNI152NLin2009cAsym", datatype="anat")
    made += images.maps_between("boldref", "MNI152NLin6Asym", datatype="func")
    made += images.anat_in(spaces[0])
    made += [o for s in spaces for o in (*images.references_in(s), *images.series_in(s))]
    missing = []
    for output in made:
        name = "sub-07" if output.datatype != "func" else "sub-07_ses-2_task-rest_run-1"
        path = derivative_path(
            Path(),
            name,
            output.datatype,
            suffix=output.suffix,
            extension=output.extension,
            entities=output.entities,
        )
        twin = path.with_suffix(".tsv") if path.suffix == ".json" else path
        if not any(pattern.match(str(twin)) for pattern in told.patterns()):
            missing.append(str(path))
    assert not missing, "\n".join(missing)
