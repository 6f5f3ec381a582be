"""What every test may use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    """Make a seeded generator: the same numbers in every test."""
    return np.random.default_rng(20250611)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Find the folder of real scans and golden tensors beside the checkout, or skip."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: real scans and golden tensors cannot be tried")
    return folder
