"""What every test may use."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    """Make a seeded generator: the same numbers in every test."""
    return np.random.default_rng(20250611)


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
