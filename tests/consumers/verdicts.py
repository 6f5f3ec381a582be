"""What our check said of each damaged copy, to compare with what a package does."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")


@dataclass(frozen=True)
class Copy:
    """A damaged copy and our verdicts.

    Parameters
    ----------
    root : Path
        The derivative.
    run : str
        Name of its one run.
    said : dict
        By tool and use: what is missing.
    """

    root: Path
    run: str
    said: dict[str, dict[str, list[dict[str, Any]]]]

    @property
    def subject(self) -> str:
        """Label of the participant."""
        return self.run.split("_")[0][4:]

    @property
    def task(self) -> str:
        """Label of the task."""
        return self.run.split("_task-")[1].split("_")[0]

    def func(self, pattern: str) -> list[Path]:
        """Find files of the run."""
        return sorted(self.root.glob(f"sub-*/**/func/{self.run}{pattern}"))

    def series(self) -> list[Path]:
        """Find the preprocessed series, whether or not their content is here."""
        return self.func("*_desc-preproc_bold.nii.gz")

    def accepted(self, tool: str) -> dict[str, bool]:
        """Tell which uses of a tool are open, as we say."""
        return {use: not missing for use, missing in self.said[tool].items()}


def names() -> list[str]:
    """List the damages."""
    folder = os.environ.get("NEUROSTORM_DAMAGED")
    return json.loads((Path(folder) / "names.json").read_text()) if folder else []


def read_copy(name: str) -> Copy:
    """Read one copy and what was said of it."""
    folder = Path(os.environ["NEUROSTORM_DAMAGED"]) / name
    ((run, tools),) = json.loads((folder / "verdict.json").read_text())["runs"].items()
    said = {
        tool: {use: found["missing"] for use, found in verdict["uses"].items()}
        for tool, verdict in tools.items()
    }
    return Copy(folder / "tree", run, said)


def works(call, *arguments, **named) -> bool:
    """Tell whether a call ends without an error, and with something that is not None or False."""
    try:
        found = call(*arguments, **named)
    except Exception as error:  # noqa: BLE001  whatever a package raises is its refusal
        print(f"{getattr(call, '__name__', call)}: {type(error).__name__}: {str(error)[:200]}")
        return False
    return found is not None and found is not False
