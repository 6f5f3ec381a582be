"""What all nodes of the graph share: our errors keep their words, and costs are counted.

An error of ours leaves its words as ``error.json`` in the node's folder, because nipype hands
only tracebacks on; what a node took is left as ``spent.json``.
"""

from __future__ import annotations

import json
import resource
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.preprocess.outcome import ERROR_FILE, SPENT_FILE

__all__ = ["StepNode", "WriteQc"]


class StepNode(SimpleInterface):  # type: ignore[misc]
    """A step that keeps the words of our errors and counts what it takes."""

    @property
    def given(self) -> Any:
        """The inputs, by name."""
        return self.inputs

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        started, worked = time.monotonic(), time.process_time()
        try:
            self._results |= _as_text(self.work(folder))
        except AppError as error:
            content = {"kind": type(error).__name__, "what": error.what, "fix": error.fix}
            (folder / ERROR_FILE).write_text(json.dumps(content), encoding="utf-8")
            raise
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        spent = {
            "seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(time.process_time() - worked, 3),
            "peak_mib": round(peak, 1),
        }
        (folder / SPENT_FILE).write_text(json.dumps(spent), encoding="utf-8")
        return runtime

    @abstractmethod
    def work(self, folder: Path) -> dict[str, Any]:
        """Do the step in `folder` and give its outputs by name; files as paths."""


class _QcInput(BaseInterfaceInputSpec):  # type: ignore[misc]
    parts = traits.Dict(mandatory=True)
    one = traits.Dict()
    two = traits.Dict()
    three = traits.Dict()
    four = traits.Dict()


class _QcOutput(TraitedSpec):  # type: ignore[misc]
    qc = File(exists=True)


class WriteQc(StepNode):
    """Write what the steps said about their work into one file; `parts` names the inputs."""

    input_spec = _QcInput
    output_spec = _QcOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write ``qc.json``."""
        content = {name: getattr(self.given, slot) for slot, name in self.given.parts.items()}
        out = folder / "qc.json"
        out.write_text(json.dumps(content, indent=2, default=_as_json), encoding="utf-8")
        return {"qc": out}


def _as_text(value: Any) -> Any:
    """Turn paths into text, which is what traits take."""
    if isinstance(value, Mapping):
        return {name: _as_text(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _as_json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
