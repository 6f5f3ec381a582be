"""Hyper-parameters under upstream's names, picked and checked for a network of ours."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from neurostorm_app.errors import WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["pick"]

Config = TypeVar("Config")


def pick(kind: type[Config], found: Mapping[str, Any], *, what: str, fix: str) -> Config:
    """Pick the fields of a dataclass from all that a file stores.

    Parameters
    ----------
    kind : type
        A dataclass; fields without a default must be there.
    found : mapping
        Names and values; others are passed over.
    what : str
        Whose configuration it is, for messages.
    fix : str
        What to do about it.

    Raises
    ------
    WrongWeightsError
        If one is missing or of the wrong kind.
    """
    known: tuple[Any, ...] = fields(kind)  # type: ignore[arg-type]
    missing = [f.name for f in known if f.default is MISSING and f.name not in found]
    if missing:
        raise WrongWeightsError(f"the configuration of {what} lacks {', '.join(missing)}", fix=fix)
    try:
        ours = {f.name: found[f.name] for f in known if f.name in found}
        return TypeAdapter(kind).validate_python(ours)
    except ValidationError as why:
        first = why.errors()[0]
        raise WrongWeightsError(
            f"the configuration of {what} says {first['loc'][0]}: {first['input']!r}; "
            f"{first['msg']}",
            fix=fix,
        ) from why
