"""What our own models take: runs that the app finds, long enough, cleaned as the card says."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING

from neurostorm_app import __version__
from neurostorm_app.bids_app.compatibility.asking import wanted_series
from neurostorm_app.bids_app.compatibility.contents import Head
from neurostorm_app.bids_app.compatibility.verdicts import Consumer, Missing, Use
from neurostorm_app.bids_app.inputs.precomputed import Precomputed, find_precomputed
from neurostorm_app.errors import AppError, SeriesTooShortError
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.card import ParcelContract, VolumeContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import Run
    from neurostorm_app.models.card import Card, Contract

__all__ = ["model_consumers"]

APP = f"neurostorm-app {__version__}"


class _Shelf:
    """The runs of one folder as the app finds them, looked up once for all models."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self._found: dict[str, Mapping[str, Precomputed | AppError] | AppError] = {}
        self._judged: dict[tuple[str, str], tuple[Use, ...]] = {}

    def judge(self, run: Run, contract: Contract, key: str) -> tuple[Use, ...]:
        """Judge a run by a contract; models of one contract share the verdict."""
        if (run.name, key) not in self._judged:
            self._judged[run.name, key] = self._uses(run, contract)
        return self._judged[run.name, key]

    def _uses(self, run: Run, contract: Contract) -> tuple[Use, ...]:
        found = self._find(run)
        gate = tuple(_ask_run(self.contents, found, run, contract))
        cleaning = () if gate else tuple(_ask_cleaning(self.contents, found, run, contract))
        return Use("embed", gate), Use("as trained", gate or cleaning)

    def _find(self, run: Run) -> Precomputed | AppError | None:
        label = run.participant
        if label not in self._found:
            root = self.contents.folder.root
            try:
                self._found[label] = find_precomputed({root.name: root}, label, (), {})
            except AppError as error:  # a name among theirs that is not BIDS stops the participant
                self._found[label] = error
        found = self._found[label]
        return found if isinstance(found, AppError) else found.get(run.name)


def _judge(
    contents: Contents, *, card: Card, shelf: Callable[[Contents], _Shelf]
) -> Callable[[Run], tuple[Use, ...]]:
    key = card.contract.model_dump_json()
    return lambda run: shelf(contents).judge(run, card.contract, key)


def _ask_run(
    contents: Contents, found: Precomputed | AppError | None, run: Run, contract: Contract
) -> Iterator[Missing]:
    """Ask for what the app refuses a run without."""
    rule = f"{APP}, inputs.precomputed.find_precomputed"
    if isinstance(found, AppError):
        note = found.what.replace(f"{contents.folder.root}/", "")
        name = "a series that can be used"
        yield Missing(kind="value", name=name, where=run.stem, rule=rule, note=note)
    elif found is None:
        spaces = sorted({one.space or "no space" for one in run.series if one.image})
        note = f"there are series in {', '.join(spaces)}" if spaces else ""
        path = wanted_series(run, contract.space, "2")
        yield Missing(kind="file", name=path, rule=rule, note=note)
    else:
        yield from _ask_length(contents, found, contract)
        yield from _ask_numbers(contents, found, contract)


def _path(contents: Contents, found: Precomputed) -> str:
    return found.series.bold.relative_to(contents.folder.root).as_posix()


def _ask_length(contents: Contents, found: Precomputed, contract: Contract) -> Iterator[Missing]:
    """Ask for as many volumes as one window of the model takes."""
    path = _path(contents, found)
    head = contents.head(path)
    n_volumes = head.shape[3] if isinstance(head, Head) else 0
    try:
        _plan(n_volumes, found, contract)
    except SeriesTooShortError as error:
        yield Missing(kind="value", name="a run as long as one window", where=path,
                      rule=f"{APP}, contract of its card", note=error.what)  # fmt: skip


def _plan(n_volumes: int, found: Precomputed, contract: Contract) -> None:
    """Plan the windows of a run as the model would, or raise the error that it would raise."""
    from neurostorm_app.pipelines import prepare_parcels, prepare_voxels, tile
    from neurostorm_app.pipelines.conformance import Findings, place_volumes

    least = 1 if isinstance(contract, VolumeContract) else contract.min_volumes
    if n_volumes < least:
        raise SeriesTooShortError(
            f"it has {n_volumes} volumes; the model takes {least} or more", fix="leave the run out"
        )
    findings = Findings()
    keep = contract.tr_range if isinstance(contract, VolumeContract) else None
    how = contract.time_positions if isinstance(contract, ParcelContract) else "centres"
    n = len(place_volumes(n_volumes, found.series, contract.tr, findings, keep=keep, how=how))
    tr = findings.facts["tr"]
    if isinstance(contract, ParcelContract):
        prepare_parcels.plan_windows(n, contract, tr=tr, findings=findings)
    elif isinstance(contract, VolumeContract):
        tile.plan_windows(n, contract, policy="dense", tr=tr)
    else:
        prepare_voxels.plan_blocks(n, contract, tr=tr)


def _columns(contract: Contract) -> tuple[str, ...]:
    return contract.cleaning.confounds if isinstance(contract, ParcelContract) else ()


def _ask_numbers(contents: Contents, found: Precomputed, contract: Contract) -> Iterator[Missing]:
    """Ask that columns that are regressed out hold numbers."""
    wanted, table = _columns(contract), found.series.confounds
    if not wanted or table is None:
        return
    path = table.relative_to(contents.folder.root).as_posix()
    sheet = contents.sheet(path)
    rule = f"{APP}, pipelines.clean.read_confounds"
    if isinstance(sheet, str):
        yield Missing(kind="value", name="a table", where=path, rule=rule, note=sheet)
        return
    for name in wanted:
        if name in sheet.words:
            yield Missing(kind="value", name=f"numbers in {name}", where=path, rule=rule)
        elif name in sheet.infinite:
            note = "it holds an infinite number"
            yield Missing(kind="value", name=f"finite numbers in {name}", where=path, rule=rule,
                          note=note)  # fmt: skip


def _ask_cleaning(
    contents: Contents, found: object, run: Run, contract: Contract
) -> Iterator[Missing]:
    """Ask for what a model goes on without, and says so."""
    if not isinstance(found, Precomputed):
        return
    rule = f"{APP}, contract of its card"
    stem = _path(contents, found).partition("_desc-preproc_bold.")[0]
    if found.series.mask is None:
        note = "the brain is taken from the series"
        path = f"{stem}_desc-brain_mask.nii.gz"
        yield Missing(kind="file", name=path, rule=rule, note=note)
    wanted = _columns(contract)
    if wanted and found.series.confounds is None:
        path = f"{run.stem}_desc-confounds_timeseries.tsv"
        yield Missing(kind="file", name=path, rule=rule, note="nothing is regressed out")
    elif wanted and found.series.confounds is not None:
        path = found.series.confounds.relative_to(contents.folder.root).as_posix()
        sheet = contents.sheet(path)
        columns = () if isinstance(sheet, str) else sheet.columns
        for name in (name for name in wanted if name not in columns):
            note = "it is not regressed out"
            yield Missing(kind="column", name=name, where=path, rule=rule, note=note)


def model_consumers() -> tuple[Consumer, ...]:
    """Make a consumer of each of our models, by the contract of its card."""
    cards = (read_card(name) for name in list_models())
    shelf = lru_cache(maxsize=1)(_Shelf)  # goes with these consumers
    return tuple(
        Consumer(
            name=card.name,
            title=card.name,
            versions=card.version,
            judge=partial(_judge, card=card, shelf=shelf),
            is_model=True,
        )
        for card in cards
    )
