"""The page of a participant, written when something that it shows has changed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.provenance import Unit, now, sha256_of
from neurostorm_app.pipelines.progress import stage

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.bids_app.engines import Engines
    from neurostorm_app.bids_app.provenance import Ledger

__all__ = ["write_page"]

log = logging.getLogger(__name__)

TRIES: Final = 3
"""Times that a page is written again while what it shows changes; else the next call does it."""


def write_page(
    label: str, ledger: Ledger, engines: Engines, *, again: bool = False
) -> tuple[Path, bool]:
    """Write the page of a participant if anything that it shows has changed.

    Parameters
    ----------
    label : str
        Without ``sub-``.
    ledger : Ledger
        The records of the output folder.
    engines : Engines
        The doors to the pipelines.
    again : bool
        Write it whether or not something has changed.

    Returns
    -------
    Path
        The page.
    bool
        Whether it was written.
    """
    root, page = ledger.root, ledger.root / f"sub-{label}.html"
    unit = _page_unit(label, ledger, engines)
    if ledger.holds(unit) and not again:
        return page, False
    begin, started = time.monotonic(), now()
    with stage(f"sub-{label}", "report"):
        page = engines.write_subject_page(root, label)
        for _ in range(TRIES):  # another call may have kept results while this one drew
            if (newer := _page_unit(label, ledger, engines)).key == unit.key:
                break
            unit, page = newer, engines.write_subject_page(root, label)
    measured = {"started": started, "seconds": round(time.monotonic() - begin, 2)}
    measures = root / "logs" / f"sub-{label}_measures.json"  # written along with the page
    written = {path: sha256_of(path) for path in (page, measures) if path.is_file()}
    ledger.write(unit, written, stamps={}, measured=measured)
    took = time.monotonic() - begin
    log.info("sub-%s: page in %.1f s", label, took, extra={"step": True})
    return page, True


def _page_unit(label: str, ledger: Ledger, engines: Engines) -> Unit:
    """Make the unit of the page: it depends on the participant's records and run reports.

    It shows, too, who is nearest and what was predicted, as far as the group level knows.
    """
    root = ledger.root
    inputs: dict[str, str] = {}
    for pattern in (f"sub-{label}_*.json", "desc-*_index.json", "target-*.json"):
        for path in sorted((root / "prov").glob(pattern)):
            record = ledger.read(path.stem)
            if record is not None and record["kind"] != "report":
                inputs[path.stem] = record["key"]
    for report in sorted((root / "logs").glob(f"sub-{label}_*_report.json")):
        inputs[report.stem] = sha256_of(report)
    return Unit(
        name=f"sub-{label}_report",
        kind="report",
        about={"participant": label},
        settings={"viewer": engines.viewer, "strict": ledger.rules.strict},
        inputs=inputs,
    )
