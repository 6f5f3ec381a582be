"""A card that a user brings, with its weights beside it: a model like any other.

Nothing in it is believed before it is checked: it may come from anybody. It names one file of its
own folder and that file's hash, and can pass for no model of the package.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from pydantic import ValidationError

from neurostorm_app.errors import MissingWeightsError, UsageError, WrongWeightsError
from neurostorm_app.models.card import Card, VolumeContract
from neurostorm_app.models.families import ARCHITECTURES
from neurostorm_app.models.untrained import LABEL, SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["find_card", "read_given"]

CARD: Final = "card.yaml"
MOST: Final = 256 * 1024
"""Bytes of a card; ours have four thousand."""
DEEPEST: Final = 20
"""Levels of lists within lists."""
NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,99}")
FILE: Final = re.compile(r"[\w+][\w+.\-]{0,199}")


def find_card(name: str) -> Path | None:
    """Find the file that a user means by a path instead of a name.

    Parameters
    ----------
    name : str
        As typed: a file in ``.yaml``, or a folder.

    Returns
    -------
    Path or None
        The card; None if this is no path.

    Raises
    ------
    MissingWeightsError
        If there is no card at this path.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        if not path.is_dir():
            return None
        path /= CARD
    if not path.is_file():
        raise MissingWeightsError(
            f"{path}: there is no such card of a model",
            fix=f"give the folder that holds {CARD} and the file of the weights, or that card",
        )
    return path.resolve()


def read_given(path: Path, shipped: Iterable[Card]) -> Card:
    """Read a card that a user brings, and check it.

    Parameters
    ----------
    path : Path
        A YAML file.
    shipped : iterable of Card
        Those of the package, for which it must not pass.

    Returns
    -------
    Card
        It knows the folder it lies in; see `Card.beside`.

    Raises
    ------
    WrongWeightsError
        If it is no card, or one that cannot be trusted.
    UsageError
        If its name or label is that of a model of the package, or of a control.
    """
    content = _load(path)
    try:
        card = Card.model_validate(content)
    except (ValidationError, RecursionError) as why:
        first = why.errors()[0] if isinstance(why, ValidationError) else None
        field = ".".join(map(str, first["loc"])) if first else "the card"
        said = first["msg"] if first else "too deep"
        raise _wrong(path, f"is not the card of a model: {field}: {said}") from why
    _check(card, path)
    _check_names(card, path, shipped)
    return card.lying_in(path.parent)


def _load(path: Path) -> Any:
    """Read YAML that holds what JSON can hold, no more than a card needs, and no references."""
    if path.stat().st_size > MOST:
        raise _wrong(path, f"has {path.stat().st_size} bytes; a card has at most {MOST}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # A reference to a reference to a reference makes of ten lines a billion.
            if isinstance(event, yaml.AliasEvent):
                raise _wrong(path, f"refers to {event.anchor!r}, another part of itself")
            opens = isinstance(event, yaml.CollectionStartEvent)
            depth += opens - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise _wrong(path, f"is nested deeper than {DEEPEST} levels")
        content = yaml.safe_load(text)
        json.dumps(content, allow_nan=False)
    except WrongWeightsError:
        raise
    except (yaml.YAMLError, ValueError, TypeError) as why:
        first = (str(why).splitlines() or ["no reason given"])[0]
        raise _wrong(path, f"cannot be read as a card: {first}") from why
    return content


def _check(card: Card, path: Path) -> None:
    if card.architecture not in ARCHITECTURES:
        raise _wrong(
            path,
            f"names the architecture {card.architecture!r}; known are {', '.join(ARCHITECTURES)}",
        )
    if card.control or card.embedded or card.source is not None:
        raise _wrong(path, "is of weights in its folder: no control, not embedded, no source")
    if card.file is None or not FILE.fullmatch(card.file):
        raise _wrong(path, f"names the file {card.file!r}; expected the name of one beside it")
    if card.sha256 is None:
        raise _wrong(path, "lacks the SHA-256 of its weights, which alone tells that they are its")
    if not card.config:
        raise _wrong(path, "lacks the configuration of its network")
    if isinstance(card.contract, VolumeContract):
        wanted = [*card.contract.grid.shape, card.contract.window]
        if (size := card.config.get("img_size")) != wanted:
            raise _wrong(path, f"makes windows of {wanted}, and its network takes {size}")


def _check_names(card: Card, path: Path, shipped: Iterable[Card]) -> None:
    if not NAME.fullmatch(card.name) or card.name.lower().endswith(SUFFIX):
        raise UsageError(
            f"{path}: the name {card.name!r} cannot be that of a model; expected letters, digits, "
            f"'.', '_' and '-', and not {SUFFIX} at the end",
            fix="change `name` in the card",
        )
    if len(card.label) > 100:  # it is a part of the names of files
        raise _wrong(path, f"has a label of {len(card.label)} letters; expected at most 100")
    if card.label.lower().endswith((LABEL.lower(), "windows")):
        raise UsageError(
            f"{path}: the label {card.label!r} ends like that of a control or of windows",
            fix="change `label` in the card",
        )
    for other in shipped:
        same = other.name.lower() == card.name.lower()
        if same or other.label.lower() == card.label.lower():
            what = f"name {card.name!r}" if same else f"label {card.label!r}"
            raise UsageError(
                f"{path}: the {what} is that of {other.name}, a model of the package",
                fix="choose another name and label in the card: outputs are told apart by them",
            )


def _wrong(path: Path, what: str) -> WrongWeightsError:
    return WrongWeightsError(
        f"{path}: {what}",
        fix="give the card as the training wrote it; it is plain YAML with the fields of a card",
    )
