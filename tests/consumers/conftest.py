"""The folder of derivatives that the other packages read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from verdicts import AGREED, COMPARED

SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")


@pytest.fixture(scope="session")
def tree() -> Path:
    """Find the folder that our app wrote."""
    return Path(os.environ["NEUROSTORM_TREE"])


@pytest.fixture(scope="session")
def subject(tree: Path) -> str:
    """Find the label of a participant in it."""
    return min(path.name for path in tree.glob("sub-*") if path.is_dir())[4:]


@pytest.fixture(params=SPACES)
def bold(request: pytest.FixtureRequest, tree: Path, subject: str) -> Path:
    """Find a preprocessed series, in each of the two standard spaces."""
    name = f"*_space-{request.param}_*desc-preproc_bold.nii.gz"
    found = sorted((tree / f"sub-{subject}").rglob(name))
    if not found:
        pytest.skip(f"{tree} has no series in {request.param}")
    return found[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many verdicts agree."""
    for tool, n in sorted(COMPARED.items()):
        terminalreporter.write_line(f"{tool}: {AGREED[tool]} of {n} verdicts agree")
