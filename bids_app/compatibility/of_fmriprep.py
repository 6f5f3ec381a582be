"""What fMRIPrep takes from a folder given by ``--derivatives``; what is missing it computes.

A field map of which a part is missing is another matter: it stops there.

References
----------
fMRIPrep 25.2.7: ``utils.bids.collect_derivatives``, ``utils.bids.collect_fieldmaps``; sMRIPrep
0.19.5: ``utils.bids.collect_derivatives``; their ``io_spec.json`` and ``fmap_spec.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.compatibility.asking import ask_metadata
from neurostorm_app.bids_app.compatibility.verdicts import Consumer, Missing, Use, with_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import File, Folder, Run

__all__ = ["FMRIPREP"]

VERSION: Final = "fMRIPrep 25.2.7"
SMRIPREP: Final = "sMRIPrep 0.19.5"
IMAGES: Final = (".nii.gz", ".nii")
ANEW: Final = "it is computed anew"
FIELD: Final = {
    "preproc": ("preproc",),
    "coeff": ("coeff", "coeff0", "coeff1"),
    "magnitude": ("magnitude", "epi"),
}
"""Words of the parts of a field map, by the one that is asked for."""
ANATOMY: Final[tuple[tuple[str, dict[str, str | None]], ...]] = (
    ("T1w", {"desc": "preproc"}),
    ("mask", {"desc": "brain"}),
    ("dseg", {"desc": None}),
    ("probseg", {"label": "GM"}),
    ("probseg", {"label": "WM"}),
    ("probseg", {"label": "CSF"}),
)
"""Suffix and entities of what is taken of the anatomy, in its own space."""
OWN: Final = frozenset({"T1w", "T2w", "boldref", "orig", "scanner", "anat", "fsnative"})
"""Ends of a transform that are no template."""


def _judge(contents: Contents) -> Callable[[Run], tuple[Use, ...]]:
    folder = contents.folder
    top = tuple(ask_metadata(contents, f"{VERSION}, utils.bids; PyBIDS 0.22.0, BIDSLayoutIndexer"))

    def uses(run: Run) -> tuple[Use, ...]:
        found = (
            Use("anatomy", tuple(_ask_anatomy(folder, run))),
            Use("normalisation", tuple(_ask_templates(folder, run))),
            Use("run", tuple(_ask_run(folder, run))),
            _field_maps(folder, run),
        )
        return with_gate(top, found)

    return uses


def _here(file: File, extensions: tuple[str, ...]) -> bool:
    return file.extension in extensions and not file.lost


def _ask_anatomy(folder: Folder, run: Run) -> Iterator[Missing]:
    rule = f"{SMRIPREP}, utils.bids.collect_derivatives"
    stem = f"sub-{run.participant}/anat/sub-{run.participant}"
    for suffix, labels in ANATOMY:
        found = (
            file.suffix == suffix and file.has(space=None, **labels) and _here(file, IMAGES)
            for file in folder.of("anat", run.participant)
        )
        if not any(found):
            added = "".join(f"_{key}-{label}" for key, label in labels.items() if label)
            path = f"{stem}{added}_{suffix}.nii.gz"
            yield Missing(kind="file", name=path, rule=rule, note=ANEW)


def _ask_templates(folder: Folder, run: Run) -> Iterator[Missing]:
    """Ask for both transforms of each template in which the run has a series."""
    rule = f"{SMRIPREP}, utils.bids.collect_derivatives"
    stem = f"sub-{run.participant}/anat/sub-{run.participant}"
    spaces = {one.space for one in run.series if one.space and one.space not in OWN}
    for space in sorted(spaces) or ["MNI152NLin2009cAsym"]:
        for ends in ({"from": "T1w", "to": space}, {"from": space, "to": "T1w"}):
            found = (
                file.suffix == "xfm" and file.has(mode="image", **ends)
                and _here(file, (".h5", ".txt"))
                for file in folder.of("anat", run.participant)
            )  # fmt: skip
            if not any(found):
                path = f"{stem}_from-{ends['from']}_to-{ends['to']}_mode-image_xfm.h5"
                yield Missing(kind="file", name=path, rule=rule, note=ANEW)


def _of_run(folder: Folder, run: Run) -> Iterator[File]:
    """Iterate over the files that have all entities of a run."""
    for file in folder.of("func", run.participant):
        if run.entities.items() <= file.entities.items():
            yield file


def _ask_run(folder: Folder, run: Run) -> Iterator[Missing]:
    rule = f"{VERSION}, utils.bids.collect_derivatives"
    files = list(_of_run(folder, run))
    for desc in ("hmc", "coreg"):
        found = (
            file.suffix == "boldref" and file.has(space=None, desc=desc) and _here(file, IMAGES)
            for file in files
        )
        if not any(found):
            path = f"{run.stem}_desc-{desc}_boldref.nii.gz"
            yield Missing(kind="file", name=path, rule=rule, note=ANEW)
    for start, ends, desc in (
        ("orig", ("boldref",), "hmc"),
        ("boldref", ("T1w", "T2w", "anat"), "coreg"),
    ):
        found = (
            file.suffix == "xfm" and file.has(from_=start, mode="image")
            and file.entities.get("to") in ends and _here(file, (".txt",))
            for file in files
        )  # fmt: skip
        if not any(found):
            path = f"{run.stem}_from-{start}_to-{ends[0]}_mode-image_desc-{desc}_xfm.txt"
            yield Missing(kind="file", name=path, rule=rule, note=ANEW)


def _field_maps(folder: Folder, run: Run) -> Use:
    """Judge the field maps of the participant; without any it does not count.

    A part alone stops it. All may be missing where we applied the field: then it is estimated from
    raw scans.
    """
    held: dict[str, set[str]] = {
        file.entities["to"]: set()
        for file in _of_run(folder, run)
        if file.suffix == "xfm" and file.has(from_="boldref", desc="fmap") and "to" in file.entities
    }
    known = {word for words in FIELD.values() for word in words}
    for file in folder.of("fmap", run.participant):
        name, word = file.entities.get("fmapid"), file.entities.get("desc")
        if file.suffix == "fieldmap" and name and word and word in known and _here(file, IMAGES):
            held.setdefault(name, set()).add(word)
    lacking: list[Missing] = []
    for name, words in sorted(held.items()):
        ours = folder.find(f"{run.stem}_fmapid-{name}_desc-boldref_fieldmap.nii.gz")
        parts = [part for part, any_of in FIELD.items() if not words.intersection(any_of)]
        if len(parts) < len(FIELD) or ours is None:
            lacking += (_part(run, name, part) for part in parts)
    return Use("field map", tuple(lacking), optional=not held)


def _part(run: Run, name: str, part: str) -> Missing:
    """Name a part of a field map that is not there."""
    rule = f"{VERSION}, utils.bids.collect_fieldmaps"
    owner = "_".join(f"{key}-{run.entities[key]}" for key in ("sub", "ses") if key in run.entities)
    path = f"{owner.replace('_', '/')}/fmap/{owner}_fmapid-{name}_desc-{part}_fieldmap.nii.gz"
    return Missing(kind="file", name=path, rule=rule, note="without it, it stops")


FMRIPREP = Consumer(name="fmriprep", title="fMRIPrep -d", versions="25.2.7", judge=_judge)
