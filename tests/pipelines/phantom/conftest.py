"""One tiny phantom for all the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from neurostorm_app.pipelines.phantom import PhantomTruthPaths, make_phantom

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Made:
    """A dataset and its truth."""

    bids: Path
    truth: PhantomTruthPaths


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make two people, two runs each, with distortion."""
    out = tmp_path_factory.mktemp("phantom") / "people"
    truth = make_phantom(out, participants=2, runs=2, seed=3, scale="tiny", fieldmap="pepolar")
    return Made(out, truth)
