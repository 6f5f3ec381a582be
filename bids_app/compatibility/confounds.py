"""What nilearn's denoising strategies ask of a confounds table, and of the JSON beside it.

References
----------
nilearn 0.12.1 and 0.14.1, ``interfaces.fmriprep``: ``load_confounds_strategy``,
``load_confounds_utils``, ``load_confounds_components``, ``load_confounds_compcor``.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.compatibility.verdicts import Missing, Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from neurostorm_app.bids_app.compatibility.contents import Contents, Sheet
    from neurostorm_app.bids_app.compatibility.folder import File, Folder, Run

__all__ = ["MOTION", "SUFFIXES", "ask_strategies", "ask_table", "expand", "find_tables"]

MOTION: Final = tuple(f"{kind}_{axis}" for kind, axis in product(("trans", "rot"), "xyz"))
SUFFIXES: Final = ("timeseries", "regressors")
"""Suffix of a confounds table, and the one it had before fMRIPrep 20.2."""
FULL: Final = ("", "_derivative1", "_power2", "_derivative1_power2")
VERSION: Final = "nilearn 0.14.1"
IN: Final = f"{VERSION}, interfaces.fmriprep"


def expand(names: Iterable[str], endings: Iterable[str] = FULL) -> tuple[str, ...]:
    """Give each column with its derivative and the squares of both."""
    return tuple(name + ending for name in names for ending in endings)


TISSUES: Final = ("csf", "white_matter")
STRATEGIES: Final[Mapping[str, tuple[str, ...]]] = {
    "simple": (*expand(MOTION), *TISSUES),
    "scrubbing": (*expand(MOTION), *expand(TISSUES), "framewise_displacement", "std_dvars"),
    "compcor": expand(MOTION),
}
"""Columns that must be there, by strategy; cosines are taken where they are."""
JUDGED: Final = ("framewise_displacement", "std_dvars")
"""Columns that choose volumes and are not regressed out: where one is infinite, none is taken."""


def find_tables(folder: Folder, entities: Mapping[str, str], place: str) -> list[File]:
    """Find the tables that nilearn takes for those of an image.

    They lie in its folder, and have ``desc-confounds`` and some entities of its name.
    """
    return [
        file
        for file in folder.files.get(place, ())
        if file.suffix in SUFFIXES
        and file.extension == ".tsv"
        and not file.lost
        and file.has(desc="confounds")
        and all(entities.get(key) == label for key, label in file.entities.items() if key != "desc")
    ]


def ask_table(
    folder: Folder, run: Run, entities: Mapping[str, str]
) -> tuple[File | None, list[Missing]]:
    """Ask for the one confounds table of an image."""
    rule = f"{IN}.load_confounds_utils._get_file_name"
    found = find_tables(folder, entities, run.folder)
    if len(found) == 1:
        return found[0], []
    path = f"{run.stem}_desc-confounds_timeseries.tsv"
    if not found:
        lost = "a link to content that is not on this machine" if folder.is_lost(path) else ""
        return None, [Missing(kind="file", name=path, rule=rule, note=lost)]
    note = f"there are {len(found)}: {', '.join(file.name for file in found)}"
    one = Missing(
        kind="value", name="one table of confounds", where=run.folder, rule=rule, note=note
    )
    return None, [one]


def ask_strategies(
    contents: Contents, run: Run, entities: Mapping[str, str], extra: Iterable[str] = ()
) -> tuple[Use, ...]:
    """Ask what each preset strategy needs of the confounds of an image.

    Parameters
    ----------
    contents : Contents
        Reads files.
    run : Run
        Whose image it is.
    entities : mapping
        Of the image.
    extra : iterable of str
        Columns that every strategy needs besides, such as ``global_signal``.

    Returns
    -------
    tuple of Use
        ``simple``, ``scrubbing`` and ``compcor``.
    """
    file, lacking = ask_table(contents.folder, run, entities)
    if file is None:
        return tuple(Use(name, tuple(lacking)) for name in STRATEGIES)
    sheet = contents.sheet(file.path)
    common = list(_ask_sheet(sheet, file.path))
    common += _ask_json(contents, file)
    if common or isinstance(sheet, str):
        return tuple(Use(name, tuple(common)) for name in STRATEGIES)
    uses = []
    for name, columns in STRATEGIES.items():
        wanted = [*columns, *extra]
        own = list(_ask_columns(sheet, wanted, file.path)) + _ask_marks(sheet, file.path)
        if name == "compcor":
            own += _ask_compcor(contents, file, sheet)
        uses.append(Use(name, tuple(own)))
    return tuple(uses)


def _ask_sheet(sheet: Sheet | str, path: str) -> Iterator[Missing]:
    rule = f"{IN}.load_confounds_utils.load_confounds_file_as_dataframe"
    if isinstance(sheet, str):
        yield Missing(kind="value", name="a table", where=path, rule=rule, note=sheet)
        return
    camel = [name for name in sheet.columns if _is_camel(name)]
    if camel:
        note = f"{camel[0]!r} is in camel case, as before fMRIPrep 1.2"
        yield Missing(kind="value", name="columns in small letters", where=path, rule=rule,
                      note=note)  # fmt: skip
    if _is_number(sheet.columns[0]):
        yield Missing(kind="value", name="names of columns", where=path, rule=rule,
                      note="its first line holds numbers")  # fmt: skip
    if len(sheet.rows) < 2:
        rule = f"{IN}.load_confounds_utils.prepare_output"
        yield Missing(kind="value", name="two rows or more", where=path, rule=rule,
                      note=f"there are {len(sheet.rows)}")  # fmt: skip


def _ask_json(contents: Contents, file: File) -> list[Missing]:
    """Ask that a JSON can be read: one that cannot stops all, while CompCor alone needs one."""
    beside = file.path.removesuffix(".tsv") + ".json"
    if contents.folder.find(beside) is None:
        return []
    content = contents.read(beside)
    rule = f"{IN}.load_confounds_utils.load_confounds_json"
    if not isinstance(content, str):
        return []
    return [Missing(kind="value", name="a JSON object", where=beside, rule=rule, note=content)]


def _ask_columns(sheet: Sheet, wanted: Iterable[str], path: str) -> Iterator[Missing]:
    for name in dict.fromkeys(wanted):
        if name not in sheet.columns:
            rule = f"{IN}.load_confounds_components"
            yield Missing(kind="column", name=name, where=path, rule=rule)
        else:
            yield from _ask_values(sheet, name, path)


def _ask_values(sheet: Sheet, name: str, path: str) -> Iterator[Missing]:
    rule = f"{IN}.load_confounds_utils.prepare_output"
    if name in sheet.words:
        yield Missing(kind="value", name=f"numbers in {name}", where=path, rule=rule)
    elif name in sheet.infinite and name not in JUDGED:
        note = "it holds an infinite number"
        yield Missing(kind="value", name=f"finite numbers in {name}", where=path, rule=rule,
                      note=note)  # fmt: skip
    elif name in sheet.lost:
        note = "its first two rows are n/a; only the first is filled, from the second"
        yield Missing(kind="value", name=f"numbers in {name}", where=path, rule=rule, note=note)


def _ask_marks(sheet: Sheet, path: str) -> list[Missing]:
    """Ask that cosines, which are taken where they are, are numbers."""
    return [m for c in sheet.columns if "cosine" in c for m in _ask_values(sheet, c, path)]


def _ask_compcor(contents: Contents, file: File, sheet: Sheet) -> list[Missing]:
    """Ask for the components of the combined mask, which the JSON tells from others."""
    beside = file.path.removesuffix(".tsv") + ".json"
    rule = f"{IN}.load_confounds_compcor.find_compcor"
    content = contents.read(beside) if contents.folder.find(beside) else None
    if not isinstance(content, dict):
        rule = f"{IN}.load_confounds_utils.load_confounds_json"
        return [Missing(kind="file", name=beside, rule=rule)]
    n_named = sum("a_comp_cor" in key for key in content)
    lacking, used = [], []
    for name in (f"a_comp_cor_{i:02d}" for i in range(n_named)):
        about = content.get(name)
        if not isinstance(about, dict) or "Mask" not in about:
            key = f"{name}.Mask" if isinstance(about, dict) else name
            lacking.append(Missing(kind="key", name=key, where=beside, rule=rule))
        elif about["Mask"] == "combined":
            used.append(name)
    if not used and not lacking:
        key = "a_comp_cor_00 with Mask combined"
        lacking.append(Missing(kind="key", name=key, where=beside, rule=rule))
    return lacking + list(_ask_columns(sheet, used, file.path))


def _is_camel(name: str) -> bool:
    return name not in (name.lower(), name.upper()) and "_" not in name


def _is_number(text: str) -> bool:
    """Tell whether a name is a number other than 0, which nilearn takes for a lost header."""
    try:
        return bool(float(text))
    except ValueError:
        return False
