"""The page of the group in a browser: every control is used, and does what it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

_spec = importlib.util.spec_from_file_location("controls", Path(__file__).with_name("controls.py"))
assert _spec is not None
assert _spec.loader is not None
controls = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(controls)
every, unfold = controls.every, controls.unfold
tries = controls.Tries()

NAME = "group.html"
GONE = """
  window.went = [];
  addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || link.getAttribute("href").startsWith("#")) return;
    window.went.push(link.getAttribute("href"));
    event.preventDefault();
  });
"""
"""Writes down where links lead, and stays."""
COLUMN = """(head) => [...head.closest('table').tBodies[0].rows].map((row) => {
  const cell = row.cells[head.cellIndex];
  return cell.dataset.value ?? cell.textContent.trim();
})"""


def key(text: str) -> tuple[bool, float, str]:
    """Order cells as a reader would: numbers by value, what is not known last."""
    number = re.fullmatch(r"(-?[\d.]+) ?%?", text)
    return (text == "", float(number[1]) if number else 0.0, "" if number else text.lower())


@tries("a[href^='#']")
def test_links_within_the_page_lead_to_what_they_name(visit, site):
    page = visit(site / NAME)
    for link in every(page, "a[href^='#']"):
        mark = link.get_attribute("href")[1:]
        link.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == f"#{mark}"
        assert page.locator(f"[id='{mark}']").evaluate(controls.IN_VIEW), mark


@tries("a[href]:not([href^='#'])")
def test_every_other_link_leads_to_a_file_and_a_place_in_it(visit, site):
    page = visit(site / NAME)
    unfold(page)
    page.evaluate(GONE)
    wanted = []
    for link in every(page, "a[href]:not([href^='#'])"):
        wanted.append(link.get_attribute("href"))
        link.focus()
        page.keyboard.press("Enter")
    assert page.evaluate("window.went") == wanted
    missing = {"prediction/target-age_evaluation.tsv", "prediction/target-group_evaluation.tsv"}
    for address in set(wanted) - missing:  # tables are not made here
        name, _, mark = address.partition("#")
        text = (site / name).read_text(encoding="utf-8")
        assert f'id="{mark}"' in text or not mark


def test_a_dot_leads_to_the_run_in_the_page_of_its_participant(visit, site):
    page = visit(site / NAME)
    page.locator(".strip a").first.click()
    page.wait_for_url("**/sub-0*.html#run-*")
    mark = page.evaluate("decodeURIComponent(location.hash.slice(1))")
    assert page.locator(f"[id='{mark}']").evaluate(controls.IN_VIEW)


@tries("#theme")
def test_light_and_dark_change_places(visit, site):
    page = visit(site / NAME, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("#theme").click()
    assert page.evaluate(background) != dark
    page.locator("#theme").press("Space")
    assert page.evaluate(background) == dark


@tries("table[data-sortable] th button")
def test_every_column_sorts_both_ways_by_pointer_and_by_key(visit, site):
    page = visit(site / NAME)
    unfold(page)
    for button in every(page, "table[data-sortable] th button"):
        head = button.locator("xpath=..")
        button.click()
        assert head.get_attribute("aria-sort") == "ascending"
        up = head.evaluate(COLUMN)
        assert up == sorted(up, key=key)
        button.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        down, known = head.evaluate(COLUMN), [text for text in up if text]
        assert [text for text in down if text] == sorted(known, key=key, reverse=True)
        assert sorted(down) == sorted(up)
        assert down[len(known) :] == [""] * (len(up) - len(known))
        others = head.locator("xpath=../th[@aria-sort]")
        assert others.count() == 1


@tries("input[type=search]")
def test_rows_are_filtered_by_all_words(visit, site):
    page = visit(site / NAME)
    rows, count = (
        page.locator("#cohort-table tbody tr:visible"),
        page.locator("#cohort-table-count"),
    )
    for words, n in (("sub-02", 2), ("SUB-02 look", 1), ("not finished", 1), (".*(", 0), ("", 5)):
        page.locator("input[type=search]").fill(words)
        assert rows.count() == n
        assert count.inner_text() == f"{n} of 5 runs"


@tries("select[data-colours]")
def test_dots_are_coloured_by_what_is_chosen(visit, site):
    page = visit(site / NAME)
    for select in every(page, "select[data-colours]"):
        of = select.get_attribute("data-colours")
        dots, legends = (
            page.locator(f"[data-map='{of}'] circle"),
            page.locator(f"[data-legend-of='{of}']"),
        )
        for option in select.locator("option").all():
            chosen = option.get_attribute("value")
            select.select_option(chosen)
            assert [
                legend.get_attribute("data-key") for legend in legends.all() if legend.is_visible()
            ] == [chosen]
            fill = "(dot, key) => [getComputedStyle(dot).fill, dot.dataset[key]]"
            for dot in dots.all():
                painted, meant = dot.evaluate(fill, chosen)
                rgb = tuple(int(meant[i : i + 2], 16) for i in (1, 3, 5))
                assert painted == f"rgb{rgb}"


@tries("summary")
def test_what_is_folded_opens_and_closes(visit, site):
    page = visit(site / NAME)
    for summary in every(page, "summary"):
        summary.click()
        assert summary.evaluate("(one) => one.parentElement.open")
        summary.press("Space")
        assert not summary.evaluate("(one) => one.parentElement.open")


@tries("[tabindex='0']")
def test_what_is_too_wide_can_be_scrolled_by_keys(visit, site):
    page = visit(site / NAME, viewport={"width": 390, "height": 844})
    unfold(page)
    wide = 0
    for part in every(page, "[tabindex='0']"):
        part.focus()
        assert part.evaluate("(one) => one === document.activeElement")
        assert part.get_attribute("aria-label")
        if part.evaluate("(one) => one.scrollWidth > one.clientWidth + 1"):
            wide += 1
            page.keyboard.press("ArrowRight")
            page.wait_for_function("(one) => one.scrollLeft > 0", arg=part.element_handle())
    assert wide
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_print_is_light_and_unfolded(visit, site):
    page = visit(site / NAME, color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") is None


def test_no_control_is_left_untried(visit, site):
    page = visit(site / NAME)
    assert page.evaluate(controls.LEFTOVERS, tries.selectors) == []
