"""What all nodes of the graph share: a function of ours as a node.

Files and values come in by name and go out by name. An error of ours leaves its words as
``error.json`` in the node's folder, because nipype hands only tracebacks on; what a node gave and
what it took is left as ``spent.json``.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import (
    DynamicTraitedSpec,
    File,
    SimpleInterface,
    traits,
)

from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.preprocess.outcome import ERROR_FILE, SPENT_FILE
from neurostorm_app.pipelines.progress import inside
from neurostorm_app.pipelines.resources import own_peak_memory
from neurostorm_app.pipelines.shortage import as_shortage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SAID", "Step", "trait_name", "write_qc"]

SAID = "qc_of_"
"""What a step said, by the name under which it goes into the quality file."""


class Step(SimpleInterface):  # type: ignore[misc]
    """A function of ours as a node.

    Parameters
    ----------
    function : callable
        Of a module, so that workers find it. Takes a mapping of files by role, and by keyword
        ``folder`` (where to write), `values`, `links` and `loose`; gives a mapping.
    needs : tuple of str
        Roles of the files it takes.
    links : tuple of str
        Values that earlier nodes give.
    gives : tuple of str
        Roles of the files and names of the values that it gives.
    values : mapping
        Choices that change the result; what JSON can hold.
    loose : mapping
        Choices that do not, such as threads.
    """

    input_spec = DynamicTraitedSpec
    output_spec = DynamicTraitedSpec

    def __init__(
        self,
        function: Callable[..., Mapping[str, Any]],
        *,
        needs: tuple[str, ...] = (),
        links: tuple[str, ...] = (),
        gives: tuple[str, ...] = (),
        values: Mapping[str, Any] | None = None,
        loose: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._recipe: dict[str, Any] = {
            "function": function,
            "needs": needs,
            "links": links,
            "gives": gives,
            "values": dict(values or {}),
            "loose": dict(loose or {}),
        }
        for role in needs:
            self.inputs.add_trait(trait_name(role), File(exists=True))
        for name in links:
            self.inputs.add_trait(name, traits.Any)
        self.inputs.add_trait("values", traits.Dict(self._recipe["values"]))
        self.inputs.add_trait("loose", traits.Dict(self._recipe["loose"], nohash=True))
        self.inputs.trait_set(values=self._recipe["values"], loose=self._recipe["loose"])

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the traits again where nipype copies a node: they belong to the object."""
        return _revive, (self._recipe, self._given.trait_get())

    @property
    def _given(self) -> Any:
        """The inputs, whose traits belong to the object."""
        return self.inputs

    def _outputs(self) -> Any:
        outputs = self.output_spec()
        for name in self._recipe["gives"]:
            outputs.add_trait(trait_name(name), traits.Any)
        return outputs

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        started, worked = time.monotonic(), time.process_time()
        recipe, given = self._recipe, self._given
        files = {role: Path(getattr(given, trait_name(role))) for role in recipe["needs"]}
        linked = {name: getattr(given, name) for name in recipe["links"]}
        try:
            with inside(folder.parent.name, folder.name):
                choices = {**given.values, **linked, **given.loose}
                made = recipe["function"](files, folder=folder, **choices)
        except AppError as error:
            _leave(error, folder)
            raise
        except (OSError, MemoryError, RuntimeError) as error:
            if (shortage := as_shortage(error)) is None:
                raise
            _leave(shortage, folder)
            raise shortage from error
        self._results |= {trait_name(name): _as_text(made[name]) for name in recipe["gives"]}
        peak = own_peak_memory() / 2**20
        spent = {
            "seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(time.process_time() - worked, 3),
            "peak_mib": round(peak, 1),
            "files": {
                name: str(made[name]) for name in recipe["gives"] if isinstance(made[name], Path)
            },
        }
        (folder / SPENT_FILE).write_text(json.dumps(spent), encoding="utf-8")
        return runtime


def _leave(error: AppError, folder: Path) -> None:
    """Leave the words of an error, if the disk has room for them: nipype's traceback has too."""
    content = {"kind": type(error).__name__, "what": error.what, "fix": error.fix}
    with contextlib.suppress(OSError):
        (folder / ERROR_FILE).write_text(json.dumps(content), encoding="utf-8")


def _revive(recipe: Mapping[str, Any], inputs: Mapping[str, Any]) -> Step:
    step = Step(recipe["function"], **{k: v for k, v in recipe.items() if k != "function"})
    step.inputs.trait_set(**inputs)
    return step


def trait_name(role: str) -> str:
    """Write a role as nipype can name it."""
    return role.replace(":", "__").replace("-", "_")


def write_qc(files: Mapping[str, Path], *, folder: Path, **parts: Any) -> dict[str, Path]:
    """Write what the steps said about their work into one file, after what was said before."""
    out = folder / "qc.json"
    said: dict[str, Any] = {}
    if "qc_before" in files:
        said = json.loads(files["qc_before"].read_text(encoding="utf-8"))
    said |= {name.removeprefix(SAID): part for name, part in parts.items()}
    content = json.dumps(said, indent=2, default=_as_json)
    out.write_text(content, encoding="utf-8")
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
