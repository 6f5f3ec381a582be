"""Fixtures that open pages as a reader does: in Chromium, from the disk, without a network.

Without Chromium or Playwright these tests are skipped. Chromium comes from the system
(``apt-get install chromium``), or ``NEUROSTORM_CHROMIUM`` says where it is.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WORDS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic")
"""WebGL without a graphics card, for the viewer."""
PATIENCE = 120_000
"""Milliseconds that anything may take on a machine with other work."""
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Start the browser once, or skip."""
    api = pytest.importorskip("playwright.sync_api", reason="the extra `dev` brings Playwright")
    named = os.environ.get("NEUROSTORM_CHROMIUM", "")
    found = [path for name in (named, *NAMES) if name and (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium: apt-get install chromium, or NEUROSTORM_CHROMIUM=/path/to/it")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found[0], args=list(WORDS))
        yield browser
        browser.close()


LISTENED = """
  window.listened = new Set();
  const add = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (kind, ...rest) {
    if (this instanceof Element) window.listened.add(this);
    return add.call(this, kind, ...rest);
  };
"""
"""Takes note of the elements of a page that something may happen to."""


@dataclass
class Opened:
    """A page, and what happened in it that must not."""

    page: Page
    context: BrowserContext
    troubles: list[str] = field(default_factory=list)


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages from the disk; afterwards no error, dialog or request may have been seen."""
    opened: list[Opened] = []

    def open_page(path: Path, expected: tuple[str, ...] = (), **options: Any) -> Page:
        settings = {"viewport": DESKTOP, "color_scheme": "light", "reduced_motion": "reduce"}
        context = chromium.new_context(offline=True, **{**settings, **options})
        context.set_default_timeout(PATIENCE)
        context.add_init_script(LISTENED)
        one = Opened(context.new_page(), context)
        opened.append(one)

        def tell(words: str) -> None:
            if not any(part in words for part in expected):
                one.troubles.append(words)

        page = one.page
        page.on("console", lambda m: tell(m.text) if m.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: tell(f"exception: {error}"))
        page.on("dialog", lambda dialog: (tell(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: _watch(request.url, path, tell))
        page.goto(path.as_uri())
        return page

    yield open_page
    troubles = [trouble for one in opened for trouble in one.troubles]
    for one in opened:
        one.context.close()
    assert troubles == []


@pytest.fixture
def time_opening(visit: Callable[..., Page]) -> Callable[[Path], float]:
    """Open a page three times; milliseconds of the quickest, as a machine has other work too."""
    loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd"

    def measure(path: Path) -> float:
        quickest: float = min(visit(path).evaluate(loaded) for _ in range(3))
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, loaded after {quickest:.0f} ms")
        return quickest

    return measure


def _watch(url: str, path: Path, tell: Callable[[str], None]) -> None:
    """Pages of this folder and pictures inside a page are no requests to anybody."""
    if not url.startswith(("data:", "blob:", path.parent.as_uri())):
        tell(f"request: {url}")
