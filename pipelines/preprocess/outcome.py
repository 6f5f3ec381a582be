"""What a graph left on disk: files by their roles, errors by their words, and what it took."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app import errors
from neurostorm_app.errors import AppError, TemporaryError
from neurostorm_app.pipelines.preprocess.workflow import Preprocessed
from neurostorm_app.pipelines.shortage import as_shortage, read_shortage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.pipelines.preprocess.workflow import Files

__all__ = ["ERROR_FILE", "SPENT_FILE", "forget_errors", "forget_moved", "gather"]

ERROR_FILE = "error.json"
"""Left by a node whose error is one of ours."""
SPENT_FILE = "spent.json"
"""Left by a node that went through."""


def forget_errors(folder: Path) -> None:
    """Remove the errors of an earlier attempt."""
    for old in folder.rglob(ERROR_FILE):
        old.unlink()


def forget_moved(folder: Path) -> None:
    """Remove nodes whose files somebody has taken away, so that they run again."""
    for path in list(folder.rglob(SPENT_FILE)):
        if not all(Path(made).is_file() for made in _read(path)["files"].values()):
            shutil.rmtree(path.parent)


def gather(  # noqa: PLR0913
    folder: Path,
    *,
    parts: Mapping[str, Sequence[str]],
    names: Mapping[str, str],
    given: Mapping[str, Files],
    needs: Mapping[str, Sequence[str]],
    crash: Exception | None,
    methods: str,
) -> Preprocessed:
    """Gather what the graph left.

    Parameters
    ----------
    folder : Path
        Of the graph; one folder a part in it, one a node in those.
    parts : mapping of str to sequence of str
        The nodes of each part; ``anat`` is the anatomy.
    names : mapping of str to str
        The name of the run for each part that is a run.
    given : mapping of str to mapping
        Files of parts that were there before, by role.
    needs : mapping of str to sequence of str
        For each run, the parts that it rests on, whose files are handed on with its own.
    crash : Exception or None
        What nipype raised, if it did.
    methods : str
        The methods paragraph.

    Returns
    -------
    Preprocessed
        A part counts as done if each of its nodes went through.
    """
    done = {part: _files(folder / part, nodes, given.get(part)) for part, nodes in parts.items()}
    bold: dict[str, Files] = {}
    failed: dict[str, AppError] = {}
    for part, name in names.items():
        missing = next((p for p in (*needs[part], part) if done.get(p) is None), None)
        if missing is None:
            bold[name] = {
                k: v
                for p in (*needs[part], part)
                if p != "anat"
                for k, v in (done[p] or {}).items()
            }
        else:
            failed[name] = _error(folder / missing, names.get(missing, missing), crash)
    spent = {
        f"{path.parents[1].name}.{path.parent.name}": _read(path)
        for path in sorted(folder.rglob(SPENT_FILE))
    }
    return Preprocessed(
        anat=done.get("anat"),
        bold=bold,
        failed=failed,
        methods=methods,
        timings={name: values["seconds"] for name, values in spent.items()},
        peak_mib={name: values["peak_mib"] for name, values in spent.items()},
    )


def _files(part: Path, nodes: Sequence[str], given: Files | None) -> Files | None:
    """Find the files of a part by role, or None if a node did not go through."""
    found: dict[str, Path] = dict(given or {})
    for node in nodes:
        path = part / node / SPENT_FILE
        if not path.is_file():
            return None
        found |= {role: Path(made) for role, made in _read(path)["files"].items()}
    return found if all(made.is_file() for made in found.values()) else None


def _error(part: Path, name: str, crash: Exception | None) -> AppError:
    """Read the error that a node left, or make one of what nipype said."""
    for path in sorted(part.rglob(ERROR_FILE)):
        with contextlib.suppress(ValueError):  # cut off, where the disk is full
            content = _read(path)
            kind: type[AppError] = getattr(errors, content["kind"], AppError)
            return kind(content["what"], fix=content["fix"])
    if isinstance(crash, TemporaryError):
        return crash
    # Nipype writes files of its own, and hands on what went wrong as the text of a traceback.
    lacking = None if crash is None else as_shortage(crash) or read_shortage(str(crash))
    if lacking is not None:
        return lacking
    last = (str(crash or "") or "no reason was given").strip().splitlines()[-1]
    return AppError(
        f"{name}: preprocessing stopped at a step that nobody foresaw: {last}",
        fix=f"report it with the newest file in {part.parents[1] / 'nipype' / 'crash'}",
    )


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
