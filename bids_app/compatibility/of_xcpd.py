"""What XCP-D takes: one space for all, anatomy with transforms, and columns by nuisance set.

It chooses space and resolution once for the whole folder, and leaves out runs without a series
there. Where a mask or a reference of that space is missing it takes one that lies on another
grid, without a word; here such a run is refused. It reads the motion of the head of every run,
whatever is regressed out.

References
----------
XCP-D 26.1.1, ``--input-type fmriprep --file-format nifti``: ``cli.parser``,
``utils.bids.collect_data``, ``collect_run_data``, ``collect_confounds``,
``interfaces.censoring.ProcessMotion`` (``utils.confounds.load_motion``) and
``GenerateConfounds``, ``interfaces.utils.LINCQC``; its ``io_spec.yaml`` and ``nuisance/*.yml``. The
template of infants is not judged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.compatibility.asking import (
    DESCRIPTION,
    ask_description,
    ask_file,
    ask_image,
    ask_metadata,
    ask_tr,
    wanted_series,
)
from neurostorm_app.bids_app.compatibility.confounds import MOTION, expand
from neurostorm_app.bids_app.compatibility.of_xcpd_groups import Group, Groups, find_nearest
from neurostorm_app.bids_app.compatibility.verdicts import Consumer, Missing, Use, with_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from neurostorm_app.bids_app.compatibility.contents import Contents, Sheet
    from neurostorm_app.bids_app.compatibility.folder import Folder, Run

__all__ = ["XCPD"]

VERSION: Final = "XCP-D 26.1.1"
COLLECT: Final = f"{VERSION}, utils.bids.collect_data"
SLOPES: Final = ("", "_derivative1")
COMPONENTS: Final = (r"^w_comp_cor_0[0-4]$", r"^c_comp_cor_0[0-4]$", r"^cosine\d+$")
GLOBAL: Final = "global_signal"
MOVED: Final = (*MOTION, "rmsd")
"""Columns from which it tells how the head moved, for every nuisance set."""
NUISANCE: Final = {
    "24P": expand(MOTION),
    "27P": (*expand(MOTION), GLOBAL, "csf", "white_matter"),
    "36P": expand((*MOTION, GLOBAL, "csf", "white_matter")),
    "acompcor": (*expand(MOTION, SLOPES), *COMPONENTS),
    "acompcor_gsr": (*expand(MOTION, SLOPES), GLOBAL, *COMPONENTS),
    "gsr_only": (GLOBAL,),
}
"""Columns of each nuisance set, and patterns of which one column at least must match."""


@dataclass(slots=True)
class _Judge:
    """Judges the runs of one folder."""

    contents: Contents
    top: tuple[Missing, ...]
    groups: Groups

    def uses(self, run: Run) -> tuple[Use, ...]:
        folder = self.contents.folder
        group = self.groups.find(run.participant, run.entities.get("ses"))
        gate = chain(
            self.top,
            _ask_sessions(run, group),
            _ask_series(self.contents, run, group),
            _ask_anatomy(folder, run, group),
            _ask_tables(folder, run),
            self._motion(run),
        )
        return with_gate(gate, self._nuisance(run))

    def _table(self, run: Run) -> tuple[str, Sheet | str | None]:
        """Read the table of the very name of the run; None if it is not there."""
        path = f"{run.stem}_desc-confounds_timeseries.tsv"
        return path, self.contents.sheet(path) if self.contents.folder.find(path) else None

    def _motion(self, run: Run) -> Iterator[Missing]:
        """Ask for the motion of the head, in numbers."""
        path, sheet = self._table(run)
        rule = f"{VERSION}, utils.confounds.load_motion"
        if sheet is None or isinstance(sheet, str):
            return
        for name in MOVED:
            if name not in sheet.columns:
                yield Missing(kind="column", name=name, where=path, rule=rule)
            elif name in sheet.words:
                yield Missing(kind="value", name=f"numbers in {name}", where=path, rule=rule)

    def _nuisance(self, run: Run) -> Iterator[Use]:
        """Ask for the columns of each set, but for those that every set needs."""
        path, sheet = self._table(run)
        rule = f"{VERSION}, interfaces.censoring.GenerateConfounds; data/nuisance"
        for name, wanted in NUISANCE.items():
            if sheet is None:
                yield Use(name, ())
            elif isinstance(sheet, str) or len(sheet.rows) < 2:
                note = sheet if isinstance(sheet, str) else f"rows: {len(sheet.rows)}"
                text = "a row for each volume"
                wrong = Missing(kind="value", name=text, where=path, rule=rule, note=note)
                yield Use(name, (wrong,))
            else:
                lacking = (
                    column
                    for column in wanted
                    if column not in MOVED and not _matches(column, sheet.columns)
                )
                yield Use(
                    name,
                    tuple(
                        Missing(kind="column", name=column, where=path, rule=f"{rule}/{name}.yml")
                        for column in lacking
                    ),
                )


def _matches(wanted: str, columns: tuple[str, ...]) -> bool:
    if not wanted.startswith("^"):
        return wanted in columns
    return any(re.match(wanted, column, re.IGNORECASE) for column in columns)


def _judge(contents: Contents) -> Callable[[Run], tuple[Use, ...]]:
    return _Judge(contents, tuple(_ask_dataset(contents)), Groups(contents.folder)).uses


def _ask_dataset(contents: Contents) -> Iterator[Missing]:
    yield from ask_metadata(contents, f"{VERSION}, cli.parser; PyBIDS 0.22.0, BIDSLayoutIndexer")
    rule = f"{VERSION}, cli.parser; utils.bids.write_derivative_description"
    lacking = list(ask_description(contents, [], rule))
    yield from lacking
    content = contents.read(DESCRIPTION) if not lacking else ""
    if isinstance(content, dict) and content.get("DatasetType", "derivative") != "derivative":
        note = f"it is {content['DatasetType']!r}"[:80]
        name = "DatasetType: derivative"
        yield Missing(kind="value", name=name, where=DESCRIPTION, rule=rule, note=note)


def _ask_sessions(run: Run, group: Group) -> Iterator[Missing]:
    if group.clash:
        name, note = "anatomical images in one session or in each", group.clash
        yield Missing(kind="value", name=name, where=f"sub-{run.participant}",
                      rule=f"{VERSION}, cli.parser", note=note)  # fmt: skip


def _ask_series(contents: Contents, run: Run, group: Group) -> Iterator[Missing]:
    """Ask for the series in the space and resolution of all, its reference and its mask."""
    folder, path = contents.folder, wanted_series(run, group.space, group.res)
    series = next(
        (
            one
            for one in run.series
            if one.image and one.space == group.space and one.entities.get("res") == group.res
        ),
        None,
    )
    if series is None:
        spaces = sorted({one.space or "no space" for one in run.series if one.image})
        there = f"there are series in {', '.join(spaces)}" if spaces else ""
        note = "it leaves out runs without it" if group.found else there
        yield from ask_file(folder, path, COLLECT, note)
    else:
        yield from ask_image(contents, series.path, f"{VERSION}, utils.bids._get_tr")
        if contents.metadata(series, "RepetitionTime") is not None:  # it is compared, as a number
            yield from ask_tr(contents, series, f"{VERSION}, utils.bids.collect_run_data")
    labels = {**run.entities, "space": group.space, **({"res": group.res} if group.res else {})}
    stem = path.removesuffix("_desc-preproc_bold.nii.gz")
    yield from _ask_beside(folder, run, stem, labels, suffix="boldref")
    yield from _ask_beside(folder, run, stem, labels, suffix="mask")


def _ask_beside(
    folder: Folder, run: Run, stem: str, labels: Mapping[str, str], *, suffix: str
) -> Iterator[Missing]:
    """Ask for the reference or the mask of the grid of a series."""
    desc = "brain" if suffix == "mask" else None
    best = find_nearest(folder, run.folder, labels, suffix=suffix, extension=".nii.gz", desc=desc)
    own = best is not None and {k: v for k, v in best.entities.items() if k != "desc"} == labels
    if best and own and not best.lost:
        return
    added = f"_desc-{desc}" if desc else ""
    note = f"it takes {best.name}, of another grid, in its place" if best and not own else ""
    rule = f"{VERSION}, utils.bids.collect_run_data"
    yield from ask_file(folder, f"{stem}{added}_{suffix}.nii.gz", rule, note)


def _ask_tables(folder: Folder, run: Run) -> Iterator[Missing]:
    stem = f"{run.stem}_desc-confounds_timeseries"
    yield from ask_file(
        folder, f"{stem}.tsv", f"{VERSION}, utils.bids.collect_confounds", _legacy(folder, run)
    )
    labels = {**run.entities, "desc": "confounds"}
    if not find_nearest(folder, run.folder, labels, suffix="timeseries", extension=".json"):
        yield from ask_file(folder, f"{stem}.json", f"{VERSION}, utils.bids.collect_run_data")


def _legacy(folder: Folder, run: Run) -> str:
    older = folder.find(f"{run.stem}_desc-confounds_regressors.tsv")
    return f"{older.name} is of before fMRIPrep 20.2" if older else ""


def _ask_anatomy(folder: Folder, run: Run, group: Group) -> Iterator[Missing]:
    """Ask for an anatomical image, the mask in the space, and the ways there and back."""
    files = [
        file
        for file in folder.of("anat", run.participant)
        if file.entities.get("ses") == group.anat and not file.lost
    ]
    session = (f"ses-{group.anat}",) if group.anat else ()
    name = "_".join((f"sub-{run.participant}", *session))
    stem = f"{name.replace('_', '/')}/anat/{name}"
    kinds = [
        kind
        for kind in ("T1w", "T2w")
        if any(file.suffix == kind and file.extension == ".nii.gz" and file.has(desc="preproc")
               and file.entities.get("space") in (None, "T1w", "T2w") for file in files)
    ]  # fmt: skip
    if not kinds:
        yield Missing(kind="file", name=f"{stem}_desc-preproc_T1w.nii.gz", rule=COLLECT)
    space = group.space
    masks = (
        file.suffix == "mask"
        and file.extension == ".nii.gz"
        and file.has(desc="brain", space=space)
        for file in files
    )
    if not any(masks):
        res = f"_res-{group.res}" if group.res else ""
        path = f"{stem}_space-{space}{res}_desc-brain_mask.nii.gz"
        yield Missing(kind="file", name=path, rule=COLLECT)
    ends = ("T2w",) if kinds == ["T2w"] else ("T1w", "T2w")
    for start, end in (("anat", space), (space, "anat")):
        found = (
            file.suffix == "xfm" and file.extension != ".json"
            and file.entities.get("from") in (ends if start == "anat" else (space,))
            and file.entities.get("to") in (ends if end == "anat" else (space,))
            for file in files
        )  # fmt: skip
        if not any(found):
            one, other = (ends[0] if word == "anat" else word for word in (start, end))
            path = f"{stem}_from-{one}_to-{other}_mode-image_xfm.h5"
            yield Missing(kind="file", name=path, rule=COLLECT)


XCPD = Consumer(name="xcp-d", title="XCP-D", versions="26.1.1", judge=_judge)
