"""What giga_connectome takes: series in one space, a mask of the participant, confounds.

It indexes the folder with PyBIDS, and writes that index into it: the folder must not be read-only.

References
----------
giga_connectome 0.4.2.dev77: ``workflow.workflow``, ``utils.get_bids_images``,
``mask.generate_gm_mask_atlas``, ``denoise.denoise_nifti_voxel``,
``postprocess.run_postprocessing_dataset``; PyBIDS 0.15.6 and 0.22.0: ``BIDSLayout``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.compatibility.asking import (
    DESCRIPTION,
    ask_description,
    ask_image,
    ask_metadata,
    ask_series,
    ask_tr,
)
from neurostorm_app.bids_app.compatibility.confounds import ask_strategies
from neurostorm_app.bids_app.compatibility.of_nilearn import join_uses
from neurostorm_app.bids_app.compatibility.verdicts import Consumer, Missing, Use, with_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import Run

__all__ = ["GIGA"]

SPACE: Final = "MNI152NLin2009cAsym"
VERSION: Final = "giga_connectome 0.4.2.dev77"
NAMES: Final = {"simple": "simple", "scrubbing": "scrubbing.5", "compcor": "acompcor50"}
"""Its strategies by those of nilearn that they are."""
SIGNAL: Final = "global_signal"


def _judge(contents: Contents) -> Callable[[Run], tuple[Use, ...]]:
    top = tuple(_ask_dataset(contents))
    return lambda run: with_gate((*top, *_gate(contents, run)), _strategies(contents, run))


def _ask_dataset(contents: Contents) -> Iterator[Missing]:
    """Ask for what makes PyBIDS know the entities of derivatives."""
    yield from ask_metadata(
        contents, f"{VERSION}, utils.get_bids_images; PyBIDS 0.22.0, BIDSLayoutIndexer"
    )
    rule = f"{VERSION}, utils.get_bids_images; PyBIDS 0.22.0, BIDSLayout"
    lacking = list(ask_description(contents, ["DatasetType"], rule))
    yield from lacking
    content = contents.read(DESCRIPTION)
    if not lacking and isinstance(content, dict) and content["DatasetType"] != "derivative":
        note = f"it is {content['DatasetType']!r}"[:80]
        name = "DatasetType: derivative"
        yield Missing(kind="value", name=name, where=DESCRIPTION, rule=rule, note=note)


def _gate(contents: Contents, run: Run) -> Iterator[Missing]:
    """Ask for the series and a mask; a mask of another run of the participant will do."""
    yield from ask_series(run, f"{VERSION}, utils.get_bids_images", SPACE)
    for series in run.series:
        if series.space == SPACE and series.image:
            yield from ask_image(contents, series.path, f"{VERSION}, denoise.denoise_nifti_voxel")
            rule = f"{VERSION}, postprocess.run_postprocessing_dataset"
            yield from ask_tr(contents, series, rule)
    masks = (
        file
        for file in contents.folder.of("func", run.participant)
        if file.suffix == "mask" and file.extension == ".nii.gz" and file.has(space=SPACE)
        and "task" in file.entities and not file.lost
    )  # fmt: skip
    if not any(masks):
        stem = next((s.stem for s in run.series if s.space == SPACE), f"{run.stem}_space-{SPACE}")
        rule = f"{VERSION}, mask.generate_gm_mask_atlas"
        yield Missing(kind="file", name=f"{stem}_desc-brain_mask.nii.gz", rule=rule)


def _strategies(contents: Contents, run: Run) -> tuple[Use, ...]:
    found = [one.entities for one in run.series if one.space == SPACE] or [run.entities]
    plain = join_uses(ask_strategies(contents, run, entities) for entities in found)
    signal = join_uses(ask_strategies(contents, run, entities, [SIGNAL]) for entities in found)
    return (
        *(Use(NAMES[use.name], use.lacking) for use in plain),
        *(Use(f"{NAMES[use.name]}+gsr", use.lacking) for use in signal if use.name != "compcor"),
    )


GIGA = Consumer(
    name="giga_connectome", title="giga_connectome", versions="0.4.2.dev77", judge=_judge
)
