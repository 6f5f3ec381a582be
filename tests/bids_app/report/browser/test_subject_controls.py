"""The page of a participant in a browser: every control is used, and does what it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("controls", Path(__file__).with_name("controls.py"))
assert _spec is not None
assert _spec.loader is not None
controls = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(controls)
every, unfold = controls.every, controls.unfold
tries = controls.Tries()

NAME = "sub-01.html"
LIMIT = 15e6


def opacity(locator) -> float:
    return float(locator.evaluate("(one) => getComputedStyle(one).opacity"))


def shown(locator) -> bool:
    return locator.evaluate("(one) => getComputedStyle(one).display") != "none"


def test_the_page_opens_from_the_disk_and_is_small(visit, site):
    assert (site / NAME).stat().st_size < LIMIT
    assert visit(site / NAME).title() == "sub-01 · neurostorm-app"


@pytest.mark.slow  # a clock, and the machine may have other work
@pytest.mark.parametrize("name", [NAME, "group.html"])
def test_the_pages_open_in_less_than_two_seconds(time_opening, site, name):
    assert time_opening(site / name) < 2000  # ms


def test_the_page_can_be_read_without_scripts(visit, site):
    page = visit(site / NAME, java_script_enabled=False)
    assert page.get_by_role("heading", name="Can I trust these scans?").is_visible()
    for button in page.locator("button").all():
        assert not button.is_visible()


@tries("a[href^='#']")
def test_links_within_the_page_lead_to_what_they_name(visit, site):
    page = visit(site / NAME)
    for link in every(page, "a[href^='#']"):
        mark = link.get_attribute("href")[1:]
        link.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == f"#{mark}"
        assert page.locator(f"[id='{mark}']").evaluate(controls.IN_VIEW), mark


@tries("a[href='group.html']")
def test_the_group_page_is_one_click_away(visit, site):
    page = visit(site / NAME)
    for link in every(page, "a[href]:not([href^='#'])"):
        link.click()
        page.wait_for_url("**/group.html")
        assert page.title() == "Group · neurostorm-app"
        page.go_back()


@tries("#theme")
def test_light_and_dark_change_places_and_are_remembered(visit, site):
    page = visit(site / NAME)
    button = page.locator("#theme")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    assert button.inner_text() == "Dark"
    button.click()
    assert button.inner_text() == "Light"
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark
    page.locator("#theme").press("Enter")
    assert page.evaluate(background) == light


@tries(".mosaic input[type=radio]", ".mosaic:has([value=second]) .stack")
def test_pictures_change_places(visit, site):
    page = visit(site / NAME)
    for figure in every(page, ".mosaic:has(input[type=radio])"):
        picture = figure.locator(".stack img").nth(1)
        labels = figure.locator("label:has(input[type=radio])")
        first, second, both = labels.nth(0), labels.nth(1), labels.nth(2)
        assert opacity(picture) == 0
        second.click()
        assert opacity(picture) == 1
        both.click()
        assert picture.evaluate("(one) => getComputedStyle(one).animationName") == "flicker"
        first.click()
        assert opacity(picture) == 0
        figure.locator("[value=first]").press("ArrowRight")
        assert opacity(picture) == 1
        figure.locator("[value=second]").press("ArrowLeft")
        stack = figure.locator(".stack")
        stack.scroll_into_view_if_needed()
        stack.hover()
        page.mouse.down()
        assert opacity(picture) == 1
        page.mouse.up()
        assert opacity(picture) == 0


@tries(".mosaic input[data-layer]")
def test_lines_are_hidden_and_shown(visit, site):
    page = visit(site / NAME)
    for box in every(page, ".mosaic input[data-layer]"):
        layer = box.get_attribute("data-layer")
        line = box.locator("xpath=ancestor::figure").locator(f".contour.{layer}").first
        assert shown(line)
        box.uncheck()
        assert not shown(line)
        box.press("Space")
        assert shown(line)


@tries("[data-cursor] .plot")
def test_values_are_read_where_the_pointer_is(visit, site):
    page = visit(site / NAME)
    for figure in every(page, "[data-cursor]"):
        plot, readout = figure.locator(".plot"), figure.locator(".readout")
        assert readout.inner_text() == "Move over the chart to read values."
        plot.scroll_into_view_if_needed()
        plot.hover()
        words = readout.inner_text()
        assert re.match(r"volume \d+ of 60, \d+\.\d s: ", words), words
        assert figure.locator(".cursor").is_visible()
        page.mouse.move(2, 2)
        assert not figure.locator(".cursor").is_visible()


@tries("button[data-copy]")
def test_texts_are_copied(visit, site):
    page = visit(site / NAME, permissions=["clipboard-read", "clipboard-write"])
    unfold(page)
    for button in every(page, "button[data-copy]"):
        button.click()
        page.wait_for_function("(one) => one.textContent === 'Copied'", arg=button.element_handle())
        source = page.locator(f"#{button.get_attribute('data-copy')}").text_content()
        assert source
        assert page.evaluate("navigator.clipboard.readText()") == source


def test_where_nothing_may_be_copied_the_text_is_selected(visit, site):
    page = visit(site / NAME)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    button = page.locator("button[data-copy=methods-text]")
    button.click()
    assert button.inner_text() == "Selected: press Ctrl+C"
    text = page.locator("#methods-text").text_content().strip()
    assert page.evaluate("getSelection().toString()").strip() == text


@tries("summary")
def test_what_is_folded_opens_and_closes(visit, site):
    page = visit(site / NAME)
    for summary in every(page, "summary"):
        before = summary.evaluate("(one) => one.parentElement.open")
        summary.click()
        assert summary.evaluate("(one) => one.parentElement.open") is not before
        summary.press("Enter")
        assert summary.evaluate("(one) => one.parentElement.open") is before


@tries(".scroller[tabindex]", ".table-wrap[tabindex]")
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


@tries(
    "button[data-open]",
    ".viewer canvas",
    ".viewer input[data-volume]",
    ".viewer input[data-axis]",
)
def test_the_viewer_opens_and_walks_through_the_volume(visit, site):
    page = visit(site / NAME)
    for figure in every(page, "[data-viewer]"):
        button, canvas = figure.locator("button[data-open]"), figure.locator("canvas")
        note = figure.locator(".viewer-note")
        button.click()
        page.wait_for_function("(one) => 'open' in one.dataset", arg=figure.element_handle())
        assert not button.is_visible()
        places = [note.inner_text()]
        assert re.fullmatch(r"x -?\d+, y -?\d+, z -?\d+ mm", places[0])
        for slider in every(figure, "input[data-axis]"):
            slider.press("Home")
            for _ in range(6):
                slider.press("PageUp")
            places.append(note.inner_text())
        box = canvas.bounding_box()
        canvas.click(position={"x": box["width"] / 6, "y": box["height"] / 2})
        places.append(note.inner_text())
        assert len(set(places)) == len(places)
        for layer in every(figure, "input[data-volume]"):
            before, was = canvas.screenshot(), layer.is_checked()
            layer.click()
            assert layer.is_checked() is not was
            assert canvas.screenshot() != before
            layer.click()


def test_no_control_is_left_untried(visit, site):
    page = visit(site / NAME)
    assert page.evaluate(controls.LEFTOVERS, tries.selectors) == []


def test_a_control_that_nobody_tries_is_found(visit, site):
    page = visit(site / NAME)
    page.evaluate("document.body.append(document.createElement('textarea'))")
    page.evaluate("document.querySelector('h1').addEventListener('click', () => {})")
    left = page.evaluate(controls.LEFTOVERS, tries.selectors)
    assert [words[:9] for words in left] == ["<textarea", "<h1>sub-0"]
