"""What fitlins takes, and PyBIDS for it: a named derivative, one series a space, a design.

References
----------
fitlins 0.11.0: ``cli.run``, ``interfaces.bids.BIDSSelect``, ``interfaces.bids.LoadBIDSModel``;
PyBIDS 0.22.0: ``BIDSLayout``, ``variables.io.load_variables``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.compatibility.asking import (
    DESCRIPTION,
    ask_description,
    ask_file,
    ask_image,
    ask_metadata,
    ask_series,
    ask_tr,
    name_of_generator,
)
from neurostorm_app.bids_app.compatibility.confounds import SUFFIXES
from neurostorm_app.bids_app.compatibility.verdicts import Consumer, Missing, Use, with_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import Run

__all__ = ["FITLINS"]

VERSION: Final = "fitlins 0.11.0"
PYBIDS: Final = "PyBIDS 0.22.0"


def _judge(contents: Contents) -> Callable[[Run], tuple[Use, ...]]:
    top = tuple(_ask_dataset(contents))

    def uses(run: Run) -> tuple[Use, ...]:
        select = Use("select", tuple(_ask_one(run)))
        design = Use("design", tuple(_ask_design(contents, run)))
        return with_gate(top, (select, design, Use("mask", tuple(_ask_mask(contents, run)))))

    return uses


def _ask_dataset(contents: Contents) -> Iterator[Missing]:
    """Ask for what PyBIDS demands of a folder that is given as derivatives."""
    yield from ask_metadata(contents, f"{VERSION}, cli.run; {PYBIDS}, BIDSLayoutIndexer")
    rule = f"{VERSION}, cli.run; {PYBIDS}, layout.validation"
    yield from ask_description(contents, ["Name", "BIDSVersion"], rule)
    content = contents.read(DESCRIPTION) if contents.folder.find(DESCRIPTION) else ""
    if isinstance(content, dict) and name_of_generator(content) is None:
        yield Missing(kind="key", name="GeneratedBy[0].Name", where=DESCRIPTION, rule=rule)


def _ask_one(run: Run) -> Iterator[Missing]:
    """Ask for a series, and for one only in each space."""
    rule = f"{VERSION}, interfaces.bids.BIDSSelect"
    yield from ask_series(run, rule)
    spaces = Counter(one.space for one in run.series if one.image)
    for space, n in spaces.items():
        if n > 1:
            name = f"one series of the run in {space or 'its own space'}"
            yield Missing(kind="value", name=name, where=run.folder, rule=rule,
                          note=f"there are {n}")  # fmt: skip


def _ask_design(contents: Contents, run: Run) -> Iterator[Missing]:
    """Ask for the length of the run, and for its confounds as PyBIDS finds them."""
    rule = f"{PYBIDS}, variables.io._load_time_variables"
    if not run.series:
        yield from ask_series(run, rule)
    for series in run.series:
        yield from ask_image(contents, series.path, rule)
        yield from ask_tr(contents, series, rule)
    tables = [
        file
        for file in contents.folder.files.get(run.folder, ())
        if file.suffix in SUFFIXES and file.extension == ".tsv" and file.has(desc="confounds")
        and all(file.entities.get(k) == run.entities.get(k) for k in ("sub", "ses", "task", "run"))
        and not file.lost
    ]  # fmt: skip
    if not tables:
        yield from ask_file(contents.folder, f"{run.stem}_desc-confounds_timeseries.tsv", rule)
    for file in tables:
        sheet = contents.sheet(file.path)
        if isinstance(sheet, str):
            yield Missing(kind="value", name="a table", where=file.path, rule=rule, note=sheet)


def _ask_mask(contents: Contents, run: Run) -> Iterator[Missing]:
    rule = f"{VERSION}, interfaces.bids.BIDSSelect"
    yield from ask_series(run, rule)
    for series in run.series:
        path, note = f"{series.stem}_desc-brain_mask.nii.gz", "it goes on without a mask"
        yield from ask_file(contents.folder, path, rule, note)


FITLINS = Consumer(name="fitlins", title="fitlins, PyBIDS", versions="0.11.0, 0.22.0", judge=_judge)
