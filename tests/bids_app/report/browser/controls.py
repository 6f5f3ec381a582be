"""Every control of a page: what counts as one, and which of them a test has tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Locator, Page

__all__ = ["IN_VIEW", "LEFTOVERS", "Tries", "every", "unfold"]

LEFTOVERS = """(tried) => {
  const kinds = `a[href], button, input, select, textarea, summary, canvas, audio, video, iframe,
    object, embed, [tabindex]:not([tabindex="-1"]), [contenteditable], [draggable="true"],
    [role="button"], [role="tab"], [role="slider"], [role="checkbox"], .mosaic:has([value]) .stack`;
  const all = new Set([...document.querySelectorAll(kinds), ...window.listened]);
  const known = [...all].filter((one) => document.contains(one));
  return known.filter((one) => !tried.some((words) => one.matches(words)))
    .map((one) => one.outerHTML.slice(0, 200));
}"""
"""Lists what can be used and was not tried."""

IN_VIEW = """(one) => {
  const box = one.getBoundingClientRect();
  return box.top >= -1 && box.top < innerHeight;
}"""


class Tries:
    """Marks a test as trying every control that a selector finds."""

    def __init__(self) -> None:
        self.selectors: list[str] = []

    def __call__(self, *selectors: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        self.selectors.extend(selectors)
        return lambda test: test


def every(page: Page, selector: str) -> Iterator[Locator]:
    """Give each of the elements; there must be some."""
    found = page.locator(selector)
    n = found.count()
    assert n, f"the page has no {selector}"
    for number in range(n):
        yield found.nth(number)


def unfold(page: Page) -> None:
    """Open all that is folded."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
