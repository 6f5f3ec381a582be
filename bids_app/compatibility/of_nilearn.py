"""What nilearn takes: confounds of a strategy, a mask, a first-level model.

References
----------
nilearn 0.12.1 and 0.14.1: ``interfaces.fmriprep.load_confounds_strategy``,
``maskers.NiftiMasker``, ``glm.first_level.first_level_from_bids``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.compatibility.asking import ask_file, ask_image, ask_series
from neurostorm_app.bids_app.compatibility.confounds import (
    TISSUES,
    VERSION,
    ask_strategies,
    ask_table,
)
from neurostorm_app.bids_app.compatibility.contents import Head
from neurostorm_app.bids_app.compatibility.verdicts import Consumer, Missing, Use, with_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import Run, Series

__all__ = ["NILEARN", "join_uses"]

CHECK = f"{VERSION}, interfaces.fmriprep.load_confounds_utils._check_images"


def _judge(contents: Contents) -> Callable[[Run], tuple[Use, ...]]:
    return lambda run: _uses(contents, run)


def _uses(contents: Contents, run: Run) -> tuple[Use, ...]:
    gate = list(ask_series(run, CHECK))
    for one in run.series:
        if one.image:
            gate += ask_image(contents, one.path, f"{VERSION}, image.load_img")
    each = [_of_series(contents, run, one) for one in run.series]
    none = (*ask_strategies(contents, run, run.entities), Use("mask", ()), Use("first-level", ()))
    return (*with_gate(gate, join_uses(each or [none])), _aroma(contents, run))


def join_uses(each: Iterable[tuple[Use, ...]]) -> tuple[Use, ...]:
    """Join the uses of several series: what one of them lacks, the run lacks."""
    found: dict[str, dict[Missing, None]] = {}
    for uses in each:
        for use in uses:
            found.setdefault(use.name, {}).update(dict.fromkeys(use.lacking))
    return tuple(Use(name, tuple(lacking)) for name, lacking in found.items())


def _of_series(contents: Contents, run: Run, series: Series) -> tuple[Use, ...]:
    strategies = ask_strategies(contents, run, series.entities)
    mask = tuple(ask_mask(contents, series, f"{VERSION}, maskers.NiftiMasker.fit_transform"))
    level = [*_ask_tr(contents, series), *_ask_no_second(contents, run, series)]
    return (*strategies, Use("mask", mask), Use("first-level", tuple(level)))


def _ask_no_second(contents: Contents, run: Run, series: Series) -> list[Missing]:
    """Ask that there be no second table of confounds; none at all will do."""
    _, lacking = ask_table(contents.folder, run, series.entities)
    rule = f"{VERSION}, glm.first_level.first_level_from_bids"
    return [replace(one, rule=rule) for one in lacking if one.kind == "value"]


def ask_mask(contents: Contents, series: Series, rule: str) -> Iterator[Missing]:
    """Ask for a series and for its brain mask, on one grid."""
    path = f"{series.stem}_desc-brain_mask.nii.gz"
    lacking = [*ask_image(contents, series.path, rule), *ask_image(contents, path, rule, axes=3)]
    yield from lacking
    if lacking:
        return
    of_series, of_mask = contents.head(series.path), contents.head(path)
    if isinstance(of_series, Head) and isinstance(of_mask, Head):
        grid = of_series.shape[:3]
        if of_mask.shape != grid:
            note = f"its shape is {of_mask.shape}"
            yield Missing(kind="value", name=f"the grid {grid} of the series", where=path,
                          rule=rule, note=note)  # fmt: skip


def _ask_tr(contents: Contents, series: Series) -> Iterator[Missing]:
    """Ask for the repetition time in the sidecar; nilearn inherits nothing from above."""
    sidecar = f"{series.stem}_desc-preproc_bold.json"
    rule = f"{VERSION}, interfaces.bids.infer_repetition_time_from_dataset"
    note = "it then looks in the raw dataset, or wants t_r"
    content = contents.read(sidecar) if contents.folder.find(sidecar) else {}
    if isinstance(content, str):
        yield Missing(kind="value", name="a JSON object", where=sidecar, rule=rule, note=content)
    elif not content:
        yield from ask_file(contents.folder, sidecar, rule, note)
    elif "RepetitionTime" not in content:
        yield Missing(kind="key", name="RepetitionTime", where=sidecar, rule=rule, note=note)


def _aroma(contents: Contents, run: Run) -> Use:
    """Judge the strategy for series that ICA-AROMA cleaned, which fMRIPrep made until 23.2."""
    found = [
        file
        for file in contents.folder.files.get(run.folder, ())
        if file.name.startswith(f"{run.name}_")
        and file.name.endswith("_desc-smoothAROMAnonaggr_bold.nii.gz")
    ]
    if not found:
        path = f"{run.stem}_space-MNI152NLin6Asym_desc-smoothAROMAnonaggr_bold.nii.gz"
        return Use("ica_aroma", (Missing(kind="file", name=path, rule=CHECK),), optional=True)
    simple = ask_strategies(contents, run, found[0].entities)[0]
    lacking = (m for m in simple.lacking if m.kind != "column" or m.name in TISSUES)
    return Use("ica_aroma", tuple(lacking), optional=True)


NILEARN = Consumer(name="nilearn", title="nilearn", versions="0.12.1, 0.14.1", judge=_judge)
