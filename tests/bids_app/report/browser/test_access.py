"""Pages for everybody: axe-core finds nothing serious, in light, dark, on a phone and on paper."""

from __future__ import annotations

from importlib import resources

import pytest

PAGES = ("sub-01.html", "group.html")
PHONE = {"width": 390, "height": 844}
WAYS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": PHONE},
    "phone, dark": {"viewport": PHONE, "color_scheme": "dark"},
    "paper": {},
}
RUN = """() => axe.run(document, {
  resultTypes: ["violations"],
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
})"""
GRAVE = {"serious", "critical"}


@pytest.fixture(scope="session")
def axe() -> str:
    """Find axe-core in the package that brings it."""
    pytest.importorskip("axe_playwright_python", reason="the extra `dev` brings axe-core")
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


def findings(page, axe) -> list[str]:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.evaluate(axe)
    found = page.evaluate(RUN)
    assert found["testEngine"]["name"] == "axe-core"
    return [
        f"{one['impact']}: {one['id']}: {one['help']}: {node['html'][:160]}"
        for one in found["violations"]
        for node in one["nodes"]
        if one["impact"] in GRAVE
    ]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_serious_is_found(visit, site, axe, name, way):
    page = visit(site / name, **WAYS[way])
    if way == "paper":
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert findings(page, axe) == []


def test_a_page_that_shuts_people_out_is_found(visit, site, axe):
    page = visit(site / "group.html")
    page.evaluate("document.querySelector('input[type=search]').removeAttribute('aria-label')")
    page.evaluate("document.querySelector('.filter span').remove()")
    page.evaluate("document.querySelector('input[type=search]').removeAttribute('placeholder')")
    page.evaluate("document.querySelector('.lead').style.color = '#dddddd'")
    kinds = {words.split(": ")[1] for words in findings(page, axe)}
    assert {"label", "color-contrast"} <= kinds
