"""Which tools can go on from a derivative: tiers of compatibility, and what each lacks by name.

A nilearn, B XCP-D, C giga_connectome, D fitlins and PyBIDS queries, E entering again by
``--derivatives``, V the validator. Only names and small sidecars are read.

References
----------
nilearn ``load_confounds`` and ``first_level_from_bids``; XCP-D ``collect_data`` and
``collect_run_data``; giga_connectome (space fixed to MNI152NLin2009cAsym); fMRIPrep
``collect_derivatives``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.inputs.acquisitions import name_of
from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.inputs.precomputed import LATER
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.errors import BidsError, DataError, NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Tier", "check_tiers", "require_tiers"]

CLAIMS: Final = {
    "A": "nilearn",
    "B": "XCP-D",
    "C": "giga_connectome",
    "D": "fitlins, PyBIDS",
    "E": "entering again",
    "V": "bids-validator",
}
XCPD_SPACES: Final = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
GIGA_SPACE: Final = "MNI152NLin2009cAsym"
FIELD_PARTS: Final = (("coeff*",), ("preproc",), ("epi", "magnitude"))
"""What fMRIPrep takes of a field map, by the words it may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One tier of compatibility.

    Parameters
    ----------
    letter, who : str
        Its letter, and the tools that can go on.
    missing : tuple of str
        What is not there, by its path in the derivative; empty if the claim holds.
    """

    letter: str
    who: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of a derivative: its folder, its name, and its series by their stems."""

    folder: Path
    name: str
    stems: tuple[str, ...]

    def in_space(self, space: str) -> str | None:
        """Stem of the first series in a space."""
        return next((s for s in self.stems if parse_name(_named(s)).get("space") == space), None)


def _named(stem: str) -> Path:
    from pathlib import Path

    return Path(f"{stem}_bold.nii.gz")


def check_tiers(root: Path, labels: Sequence[str] = ()) -> tuple[Tier, ...]:
    """Look what a derivative lacks for each tier.

    Parameters
    ----------
    root : Path
        The derivative, with the ``sub-`` folders in it.
    labels : sequence of str
        Participants; all by default.

    Returns
    -------
    tuple of Tier
        A, B, C, D, E and V.

    Raises
    ------
    NoInputError
        If no run of theirs is in it.
    """
    labels = list(labels) or sorted(p.name.removeprefix("sub-") for p in root.glob("sub-*/"))
    runs = [run for label in labels for run in _runs(root / f"sub-{label}")]
    if not runs:
        raise NoInputError(
            f"{root} holds no BOLD run of a derivative; expected sub-*/[ses-*/]func/",
            fix="give the folder with the sub- folders in it, and check --participant-label",
        )
    missing: dict[str, list[Path | str]] = {
        "A": [path for run in runs for path in _nilearn(run)],
        "B": [*_xcpd_top(root), *(path for run in runs for path in _xcpd(run))],
        "C": [path for run in runs for path in _giga(run)],
        "D": [path for run in runs for path in _fitlins(run)],
        "E": [path for run in runs for path in _entering(run)],
        "V": list(_validator(root, labels)),
    }
    return tuple(
        Tier(letter=letter, who=who, missing=tuple(_relative(missing[letter], root)))
        for letter, who in CLAIMS.items()
    )


def require_tiers(tiers: Iterable[Tier], letters: str) -> None:
    """Refuse a derivative that lacks one of some tiers.

    Raises
    ------
    DataError
        If something is missing.
    UsageError
        If a letter is not that of a tier.
    """
    if wrong := set(letters) - set(CLAIMS):
        raise UsageError(
            f"--require: {', '.join(sorted(wrong))} is no tier", fix=f"use {''.join(CLAIMS)}"
        )
    if lacking := [tier for tier in tiers if tier.letter in letters and tier.missing]:
        told = "; ".join(f"{tier.letter} lacks {tier.missing[0]}" for tier in lacking)
        raise DataError(
            f"the derivative does not hold what is required: {told}", fix="make what is missing"
        )


def _relative(paths: Iterable[Path | str], root: Path) -> list[str]:
    texts = [p if isinstance(p, str) else p.relative_to(root).as_posix() for p in paths]
    return list(dict.fromkeys(texts))


def _runs(folder: Path) -> Iterator[_Run]:
    """List the runs of a participant: those with a series, with transforms or with confounds."""
    marks = ("_desc-preproc_bold.nii.gz", "_desc-hmc_xfm.txt", "_desc-confounds_timeseries.tsv")
    found: dict[tuple[Path, str], list[str]] = {}
    for func in [*folder.glob("func"), *folder.glob("ses-*/func")]:
        for path in sorted(func.iterdir()):
            if not path.name.endswith(marks):
                continue
            later = {*LATER, "from", "to", "mode"}
            name = "_".join(f"{k}-{v}" for k, v in parse_name(path).items() if k not in later)
            stems = found.setdefault((func, name), [])
            if path.name.endswith(marks[0]):
                stems.append(name_of(path).removesuffix("_desc-preproc"))
    for (func, name), stems in found.items():
        yield _Run(func, name, tuple(stems))


def _absent(*paths: Path) -> Iterator[Path]:
    return (path for path in paths if not path.is_file())


def _confounds(run: _Run) -> Iterator[Path]:
    stem = run.folder / f"{run.name}_desc-confounds_timeseries"
    return _absent(stem.with_suffix(".tsv"), stem.with_suffix(".json"))


def _series(run: _Run, stem: str) -> Iterator[Path | str]:
    """Name what a series lacks: mask and sidecar with its repetition time."""
    yield from _absent(run.folder / f"{stem}_desc-brain_mask.nii.gz")
    sidecar = run.folder / f"{stem}_desc-preproc_bold.json"
    if not sidecar.is_file():
        yield sidecar
    elif "RepetitionTime" not in read_object(sidecar):
        yield f"{sidecar.name}: RepetitionTime"


def _nilearn(run: _Run) -> Iterator[Path | str]:
    yield from _confounds(run)
    if not run.stems:
        yield run.folder / f"{run.name}_[space-<space>_]desc-preproc_bold.nii.gz"
    for stem in run.stems:
        yield from _series(run, stem)


def _xcpd_top(root: Path) -> Iterator[Path]:
    return _absent(root / "dataset_description.json")


def _xcpd(run: _Run) -> Iterator[Path]:
    yield from _confounds(run)
    space = next((space for space in XCPD_SPACES if run.in_space(space)), None)
    if space is None:
        yield run.folder / f"{run.name}_space-{XCPD_SPACES[0]}_desc-preproc_bold.nii.gz"
        return
    stem = run.in_space(space)
    yield from _absent(
        run.folder / f"{stem}_desc-brain_mask.nii.gz", run.folder / f"{stem}_boldref.nii.gz"
    )
    for pattern in (
        "_desc-preproc_T1w.nii.gz",
        f"_space-{space}*_desc-brain_mask.nii.gz",
        f"_from-T1w_to-{space}_mode-image_xfm.h5",
        f"_from-{space}_to-T1w_mode-image_xfm.h5",
    ):
        yield from _in_anat(run, pattern)


def _in_anat(run: _Run, pattern: str) -> Iterator[Path]:
    """Name an anatomical file that is neither in the session nor above it."""
    here = run.folder.parent
    above = here.parent if here.name.startswith("ses-") else here
    found = [p for top in (here, above, *above.glob("ses-*")) for p in top.glob(f"anat/*{pattern}")]
    if "_space-" not in pattern:
        found = [path for path in found if "_space-" not in path.name]
    if not found:
        yield above / "anat" / f"{above.name}{pattern}"


def _giga(run: _Run) -> Iterator[Path | str]:
    yield from _confounds(run)
    stem = run.in_space(GIGA_SPACE)
    if stem is None:
        yield run.folder / f"{run.name}_space-{GIGA_SPACE}_desc-preproc_bold.nii.gz"
    else:
        yield from _series(run, stem)


def _fitlins(run: _Run) -> Iterator[Path | str]:
    yield from _nilearn(run)
    spaces = Counter(parse_name(_named(stem)).get("space") for stem in run.stems)
    for space, n in spaces.items():
        if n > 1:
            yield f"{run.name}: one series in {space or 'native space'}; there are {n}"


def _entering(run: _Run) -> Iterator[Path]:
    names = ("desc-hmc_boldref.nii.gz", "desc-coreg_boldref.nii.gz", "desc-brain_mask.nii.gz")
    yield from _absent(*(run.folder / f"{run.name}_{name}" for name in names))
    for source, target, desc in (("orig", "boldref", "hmc"), ("boldref", "T1w", "coreg")):
        yield from _absent(
            run.folder / f"{run.name}_from-{source}_to-{target}_mode-image_desc-{desc}_xfm.txt"
        )
    for suffix in ("desc-preproc_T1w", "desc-brain_mask", "dseg"):
        yield from _in_anat(run, f"_{suffix}.nii.gz")
    for tissue in ("GM", "WM", "CSF"):
        yield from _in_anat(run, f"_label-{tissue}_probseg.nii.gz")
    for xfm in sorted(run.folder.glob(f"{run.name}_from-boldref_to-*_desc-fmap_xfm.txt")):
        yield from _field(run, parse_name(xfm)["to"])


def _field(run: _Run, fmapid: str) -> Iterator[Path]:
    """Name what a field map lacks; fMRIPrep estimates it anew, but stops at a part of one."""
    session = run.folder.parent
    subject = session.parent if session.name.startswith("ses-") else session
    lacking = []
    for descs in FIELD_PARTS:
        names = [f"_fmapid-{fmapid}_desc-{desc}_fieldmap.nii.gz" for desc in descs]
        ways = [f"{way}fmap/*{name}" for way in ("", "ses-*/") for name in names]
        if not any(True for way in ways for _ in subject.glob(way)):
            lacking.append(subject / "fmap" / f"{subject.name}{names[0]}")
    known = (run.folder / f"{run.name}_fmapid-{fmapid}_desc-boldref_fieldmap.nii.gz").is_file()
    if not known or len(lacking) < len(FIELD_PARTS):
        yield from lacking


def _validator(root: Path, labels: Sequence[str]) -> Iterator[str]:
    here = {path.name.removeprefix("sub-") for path in root.glob("sub-*/")}
    try:
        validate(root, labels, everyone=here <= set(labels))
    except BidsError as error:
        yield from (line.strip() for line in error.what.splitlines())
