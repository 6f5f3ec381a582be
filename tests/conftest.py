"""What every test may use."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
SEED = 20250611

# These read our outputs with the packages of others, each in an environment of its own.
collect_ignore = ["consumers"]

# What is printed is folded as on a terminal of 80 columns.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# The same examples each time, on a machine as busy as it likes. To look for new ones:
# python -m pytest --hypothesis-profile=search ...
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "steady", parent=settings.get_profile("search"), derandomize=True, database=None
)
settings.load_profile("steady")


def _load_browser() -> ModuleType:
    """Load the fixtures that drive a browser: one for all tests, as two cannot run at once."""
    spec = importlib.util.spec_from_file_location("browser", ROOT / "tests/browser.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["browser"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


browser = _load_browser()
chromium, visit, time_opening = browser.chromium, browser.visit, browser.time_opening


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let names of files that are not UTF-8, where a test logs them, pass between processes."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def settle_chance() -> None:
    """Let what is drawn without a generator of its own not depend on the tests before."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  for packages that draw from it
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture(autouse=True, scope="module")
def process_as_it_was() -> Iterator[None]:
    """Undo what the tests of a file did to their process, as others follow in any order."""
    environ, place, temporary = dict(os.environ), Path.cwd(), tempfile.tempdir
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    settle_chance()
    yield
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ)
    os.chdir(place)
    tempfile.tempdir = temporary
    if threads is not None:
        sys.modules["torch"].set_num_threads(threads)


@pytest.fixture(autouse=True)
def chance_is_settled() -> None:
    """Draw the same numbers in a test whatever was drawn before."""
    settle_chance()


@pytest.fixture
def rng() -> np.random.Generator:
    """Make a seeded generator: the same numbers in every test."""
    return np.random.default_rng(SEED)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a test's command did to the app's logger."""
    logger = logging.getLogger("neurostorm_app")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def shared() -> Path:
    """Find the folder of real scans and golden tensors beside the checkout, or skip."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: real scans and golden tensors cannot be tried")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Play Hugging Face and GitHub on this machine; nothing waits between two tries."""
    from huggingface_hub import close_session

    from neurostorm_app.models import fetch, transfer

    spec = importlib.util.spec_from_file_location("hub_server", ROOT / "tests/hub_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hub_server", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0)
    with module.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(fetch, "GITHUB", f"{server.url}/raw")
        close_session()
        yield server
        close_session()
