"""What all rules ask in the same way: a file, an image of volumes, a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.compatibility.verdicts import Missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import Folder, Run, Series

__all__ = [
    "ask_description",
    "ask_file",
    "ask_image",
    "ask_metadata",
    "ask_series",
    "ask_tr",
    "wanted_series",
]

DESCRIPTION = "dataset_description.json"


def ask_file(folder: Folder, path: str, rule: str, note: str = "") -> Iterator[Missing]:
    """Ask for a file by its path."""
    if folder.find(path) is None:
        if folder.is_lost(path):
            note = "a link to content that is not on this machine"
        yield Missing(kind="file", name=path, rule=rule, note=note)


def ask_image(contents: Contents, path: str, rule: str, *, axes: int = 4) -> Iterator[Missing]:
    """Ask for an image whose header can be read, with so many axes."""
    lacking = list(ask_file(contents.folder, path, rule))
    yield from lacking
    if lacking:
        return
    head = contents.head(path)
    if isinstance(head, str):
        yield Missing(kind="value", name="an image", where=path, rule=rule, note=head)
    elif len(head.shape) != axes:
        found = f"its shape is {head.shape}"
        yield Missing(kind="value", name=f"{axes} axes", where=path, rule=rule, note=found)


def ask_tr(contents: Contents, series: Series, rule: str) -> Iterator[Missing]:
    """Ask for the repetition time of a series in its metadata."""
    sidecar = f"{series.stem}_desc-preproc_bold.json"
    tr = contents.metadata(series, "RepetitionTime")
    if tr is None:
        found = contents.read(sidecar) if contents.folder.find(sidecar) else "no such file"
        note = found if isinstance(found, str) else ""
        yield Missing(kind="key", name="RepetitionTime", where=sidecar, rule=rule, note=note)
    elif isinstance(tr, bool) or not isinstance(tr, int | float) or tr <= 0:
        name, note = "RepetitionTime above 0 s", f"it is {tr!r}"[:80]
        yield Missing(kind="value", name=name, where=sidecar, rule=rule, note=note)


def ask_metadata(contents: Contents, rule: str) -> Iterator[Missing]:
    """Ask that every JSON file can be read: PyBIDS reads all, and one that it cannot stops it."""
    for files in contents.folder.files.values():
        for file in files:
            if file.extension == ".json" and file.path != DESCRIPTION:
                content = contents.read(file.path)
                if isinstance(content, str):
                    yield Missing(kind="value", name="a JSON object", where=file.path, rule=rule,
                                  note=content)  # fmt: skip


def wanted_series(run: Run, space: str | None = None, res: str | None = None) -> str:
    """Name the series that a run would have in a space."""
    added = f"_space-{space}" if space else ""
    added += f"_res-{res}" if res else ""
    return f"{run.stem}{added}_desc-preproc_bold.nii.gz"


def ask_series(run: Run, rule: str, space: str | None = None) -> Iterator[Missing]:
    """Ask for a series of a run, of a space or of any; each sidecar without one is named."""
    series = [one for one in run.series if space in (None, one.space)]
    if not series:
        yield Missing(kind="file", name=wanted_series(run, space), rule=rule, note=_others(run))
    for one in series:
        if one.image is None:
            yield Missing(kind="file", name=one.path, rule=rule, note=_instead(one))


def _others(run: Run) -> str:
    spaces = sorted({one.space or "no space" for one in run.series if one.image})
    return f"there are series in {', '.join(spaces)}" if spaces else ""


def _instead(series: Series) -> str:
    if any(file.lost for file in series.images.values()):
        return "a link to content that is not on this machine"
    return "an image .nii is there; only .nii.gz is taken" if ".nii" in series.images else ""


def ask_description(contents: Contents, keys: Sequence[str], rule: str) -> Iterator[Missing]:
    """Ask for the description of the dataset and for keys of it that are not empty."""
    lacking = list(ask_file(contents.folder, DESCRIPTION, rule))
    yield from lacking
    if lacking:
        return
    content = contents.read(DESCRIPTION)
    if isinstance(content, str):
        yield Missing(kind="value", name="a JSON object", where=DESCRIPTION, rule=rule,
                      note=content)  # fmt: skip
        return
    for key in keys:
        if key not in content:
            yield Missing(kind="key", name=key, where=DESCRIPTION, rule=rule)


def name_of_generator(content: dict[str, Any]) -> str | None:
    """Find the name of what made a derivative, as PyBIDS does."""
    made = content.get("GeneratedBy")
    listed = made if isinstance(made, list) else []
    names = [one["Name"] for one in listed if isinstance(one, dict) and "Name" in one]
    before = content.get("PipelineDescription")
    older = before.get("Name") if isinstance(before, dict) else None
    return names[0] if names else older
