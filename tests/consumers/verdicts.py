"""What our check said of each damaged copy, and whether a package does the same."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
COMPARED: Counter[str] = Counter()
AGREED: Counter[str] = Counter()
"""Verdicts by tool."""


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
        By tool and use: what is missing. Empty if we find no such run.
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

    def accepted(self, tool: str, uses: Iterable[str]) -> dict[str, bool]:
        """Tell which uses of a tool are open, as we say."""
        said = self.said.get(tool)
        return {use: said is not None and not said[use] for use in uses}

    def compare(self, tool: str, does: Mapping[str, bool], version: str = "") -> None:
        """Compare what a tool does with what we say, use by use."""
        said = self.accepted(tool, does)
        name = f"{tool} {version}".strip()
        COMPARED[name] += len(does)
        AGREED[name] += sum(said[use] == does[use] for use in does)
        missing = {use: self.said.get(tool, {}).get(use) for use in does if said[use] != does[use]}
        assert said == dict(does), f"what we say is missing: {json.dumps(missing, indent=1)}"


def names() -> list[str]:
    """List the damages."""
    folder = os.environ.get("NEUROSTORM_DAMAGED")
    return json.loads((Path(folder) / "names.json").read_text())["names"] if folder else []


def read_copy(name: str) -> Copy:
    """Read one copy and what was said of it."""
    top = Path(os.environ["NEUROSTORM_DAMAGED"])
    run = json.loads((top / "names.json").read_text())["run"]
    tools = json.loads((top / name / "verdict.json").read_text())["runs"].get(run, {})
    said = {
        tool: {use: found["missing"] for use, found in verdict["uses"].items()}
        for tool, verdict in tools.items()
    }
    return Copy(top / name / "tree", run, said)


def works(call: Callable[..., Any], *arguments: Any, **named: Any) -> bool:
    """Tell whether a call ends without an error, and with something that is not None or False."""
    try:
        found = call(*arguments, **named)
    except Exception as error:  # noqa: BLE001  whatever a package raises is its refusal
        print(f"{getattr(call, '__name__', call)}: {type(error).__name__}: {str(error)[:200]}")
        return False
    return found is not None and found is not False


def all_work(call: Callable[[Any], Any], many: Iterable[Any]) -> bool:
    """Tell whether a call works for each of many, and there are any."""
    found = [works(call, each) for each in many]
    return bool(found) and all(found)
