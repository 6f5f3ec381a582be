"""Which runs lack the untrained control of a model, and how it is to be made.

All of it is read from the sidecar of the model's own embedding and from its record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.group.control_recipes import Recipe, Wish, recorded_card
from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.inputs.links import unquoted
from neurostorm_app.bids_app.inputs.precomputed import Precomputed
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.bids_app.participant.series_tables import root_of
from neurostorm_app.bids_app.verbs.series import read_links
from neurostorm_app.errors import AppError, DataError, NoInputError
from neurostorm_app.models.untrained import LABEL, untrained
from neurostorm_app.pipelines.embed_series import ParcelTable
from neurostorm_app.pipelines.header import check_tr
from neurostorm_app.pipelines.stage import StandardSeries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.provenance import Ledger
    from neurostorm_app.bids_app.settings import Settings
    from neurostorm_app.models.card import Card

__all__ = ["find_wishes"]

ADDED: Final = frozenset({"space", "res", "desc", "suffix"})
WEIGHTS: Final = frozenset({"weights", "config"})
"""Inputs of a model that its control has not."""


def find_wishes(
    settings: Settings, labels: Iterable[str], participants: Sequence[str], *, ledger: Ledger
) -> tuple[list[Wish], dict[str, int], dict[str, dict[str, str]]]:
    """Find the runs that lack the control of a model.

    Parameters
    ----------
    settings : Settings
        Of the call.
    labels : iterable of str
        BIDS labels of models.
    participants : sequence of str
        Without ``sub-``; empty for all.
    ledger : Ledger
        The records of the output folder.

    Returns
    -------
    wishes : list of Wish
        In the order of labels and runs.
    held : dict of str to int
        By the label of the control, how many runs have it.
    missing : dict of str to dict
        By the label of the control, why a run cannot have it.
    """
    wishes: list[Wish] = []
    held: dict[str, int] = {}
    missing: dict[str, dict[str, str]] = {}
    links = {**read_links(ledger.root), **settings.science.derivatives}
    links.pop("raw", None)
    for label in dict.fromkeys(labels):
        for table in _embeddings(ledger.root, label, participants):
            try:
                embedded = _Embedded.of(table, label, ledger)
                if embedded.card.control or embedded.card.file is None:
                    break
                if _is_held(embedded, ledger):
                    held[label + LABEL] = held.get(label + LABEL, 0) + 1
                else:
                    wishes.append(embedded.wish(ledger.root, links))
            except AppError as error:
                missing.setdefault(label + LABEL, {})[_run_name(table)] = error.what
    return wishes, held, missing


def _embeddings(root: Path, label: str, participants: Sequence[str]) -> list[Path]:
    pattern = f"func/sub-*_desc-{label}_embedding.tsv"
    found = sorted([*root.glob(f"sub-*/{pattern}"), *root.glob(f"sub-*/ses-*/{pattern}")])
    return [path for path in found if not participants or parse_name(path)["sub"] in participants]


def _run_name(table: Path) -> str:
    return "_".join(f"{key}-{v}" for key, v in parse_name(table).items() if key not in ADDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Embedded:
    """What an embedding says of itself."""

    table: Path
    card: Card
    sidecar: dict[str, Any]
    record: dict[str, Any] | None

    @classmethod
    def of(cls, table: Path, label: str, ledger: Ledger) -> _Embedded:
        """Read sidecar and record."""
        path = table.with_suffix(".json")
        if not path.is_file():
            raise NoInputError(f"{path} is not there", fix="embed the run again")
        sidecar, record = read_object(path), ledger.read(table.stem)
        card = recorded_card(sidecar, record)
        if card.label != label:
            raise DataError(
                f"{path} is of {card.label}, which its name does not say", fix="embed the run again"
            )
        return cls(table=table, card=card, sidecar=sidecar, record=record)

    def wish(self, root: Path, links: Mapping[str, Path]) -> Wish:
        """Say how the control is to be made."""
        record = self.record or {}
        try:
            said = self._said()
            sources = [_resolve(uri, root, links) for uri in self.sidecar["Sources"]]
            recipe = Recipe(
                model=self.card.name,
                content=untrained(self.card).model_dump_json(),
                precision=str(said["precision"]),
                clip_policy=said.get("clip_policy", "dense"),
                parity=said.get("parity", "none"),
                gain=float(said.get("input_gain", 1.0)),
                max_windows=said.get("max_windows"),
                atlas=said.get("atlas"),
                statistics=said.get("statistics"),
                of_tables=parse_name(sources[0])["suffix"] == "timeseries",
                links=tuple(links.items()),
            )
            notes = tuple(map(str, self.sidecar["Notes"]))
            atlas_in = self.sidecar["InputConformance"].get("atlas_in")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as why:
            if isinstance(why, AppError):
                raise
            raise DataError(
                f"{self.table.with_suffix('.json')} does not tell how it was made: {why!r:.200}",
                fix="embed the run again, at the participant level",
            ) from why
        atlas = str(atlas_in) if recipe.of_tables else None
        series = self._series(sources, said.get("tr"), atlas=atlas)
        return Wish(
            item=Precomputed(
                name=series.name,
                participant=parse_name(self.table)["sub"],
                tree="",
                root=root_of(series.bold),
                series=series,
                notes=notes,
            ),
            recipe=recipe,
            inputs=record.get("inputs", {}),
            seconds=record.get("seconds"),
        )

    def _said(self) -> dict[str, Any]:
        """Gather what changed the numbers, from the record or else from the sidecar."""
        if self.record is not None:
            inputs = self.record["inputs"]
            files = {role: inputs.get(role) for role in ("atlas", "statistics")}
            return {**self.record["settings"], **files}
        facts = self.sidecar["Computation"]
        files = {role: facts.get(f"{role}_sha256") for role in ("atlas", "statistics")}
        own = {"precision": self.sidecar["Precision"], "input_gain": facts.get("gain", 1.0)}
        return {**facts, **own, **files, "tr": self.sidecar["InputConformance"]["tr_in"]}

    def _series(self, sources: Sequence[Path], tr: object, *, atlas: str | None) -> StandardSeries:
        entities = parse_name(self.table)
        bold, *others = sources
        masks = [path for path in others if parse_name(path)["suffix"] == "mask"]
        confounds = [path for path in others if path not in masks]
        facts: dict[str, Any] = {
            "name": _run_name(self.table),
            "bold": bold,
            "mask": masks[0] if masks else None,
            "confounds": confounds[0] if confounds else None,
            "tr": check_tr(tr, bold),
            "space": entities["space"],
            "res": entities.get("res", "native"),
        }
        return StandardSeries(**facts) if atlas is None else ParcelTable(**facts, atlas=atlas)


def _resolve(uri: str, root: Path, links: Mapping[str, Path]) -> Path:
    """Find the file of a BIDS URI.

    Raises
    ------
    NoInputError
        If it is not there, or nothing says where its dataset lies.
    """
    scheme, _, rest = uri.partition(":")
    name, _, inside = rest.partition(":")
    folder = root if not name else links.get(name)
    inside = unquoted(inside)
    if scheme != "bids" or folder is None or ".." in inside.split("/") or inside.startswith("/"):
        raise NoInputError(
            f"{uri}: where this source lies is not known",
            fix="give its dataset with --derivatives NAME=PATH",
        )
    path = folder / inside
    if not path.is_file():
        raise NoInputError(
            f"{path}: this source is not there any more",
            fix="bring it back, or give its dataset with --derivatives NAME=PATH",
        )
    return path


def _is_held(embedded: _Embedded, ledger: Ledger) -> bool:
    """Tell whether a run has the control of this very embedding; no series is looked at."""
    if embedded.record is None:
        return False
    card = embedded.card
    stem = embedded.table.stem.replace(f"_desc-{card.label}_", f"_desc-{card.label}{LABEL}_")
    record = ledger.read(stem)
    if record is None or not embedded.table.with_name(f"{stem}.tsv").is_file():
        return False
    control = untrained(card).model_dump(mode="json")
    try:
        drawn = record["settings"]["card"] == control
        return drawn and _essence(record) == _essence(embedded.record)
    except (KeyError, TypeError, AttributeError):
        return False  # a record that says less than ours do is made anew


def _essence(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take of a record what a model and its control have in common: inputs and settings."""
    inputs = {role: sha for role, sha in record["inputs"].items() if role not in WEIGHTS}
    settings = {key: value for key, value in record["settings"].items() if key != "card"}
    return inputs, settings
