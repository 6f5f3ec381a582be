"""Small files of the output tree, read so that a damaged one costs itself alone.

A file may be whole as JSON and still be another's: what the pages take from records is taken once
while they are read, and a record from which it cannot be taken is a problem that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.reading import expecting, read_json
from neurostorm_app.bids_app.report.verdict_said import weigh_records
from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Reader", "errors_of"]


@dataclass
class Reader:
    """Reads small files and keeps the errors.

    Parameters
    ----------
    problems : list of AppError
        Gets one for each damaged file, which then reads as empty.
    """

    problems: list[AppError]

    def json(self, path: Path | None) -> dict[str, Any]:
        """Read a JSON object."""
        return self._read(path, "object", bool)

    def quality(self, path: Path) -> dict[str, Any]:
        """Read what the preprocessing says of its own work."""
        return self._read(path, "record of quality", lambda content: [*weigh_records(content)])

    def report(self, path: Path) -> dict[str, Any]:
        """Read what became of a run."""
        return self._read(path, "report of a run", errors_of)

    def _read(
        self, path: Path | None, what: str, check: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        try:
            content = read_json(path)
            if path is not None:
                with expecting(what, path):
                    check(content)
        except AppError as problem:
            self.problems.append(problem)
            return {}
        return content


def errors_of(report: dict[str, Any]) -> tuple[dict[str, str], ...]:
    """List the errors of a run: ``what`` was found, and ``fix``, what to do.

    Raises
    ------
    TypeError
        If the report holds something else in their place.

    Examples
    --------
    >>> errors_of({"status": "failed", "error": {"what": "no space"}})
    ({'what': 'no space', 'fix': ''},)
    """
    one, many = report.get("error"), report.get("errors")
    if not isinstance(one, dict | None) or not isinstance(many, list | None):
        kinds = f"{type(one).__name__} and {type(many).__name__}"
        raise TypeError(f"error and errors are {kinds}; expected an object and a list")
    return tuple(
        {"what": str(error.get("what") or "the run failed"), "fix": str(error.get("fix") or "")}
        for error in many or [one]
        if error is not None
    )
