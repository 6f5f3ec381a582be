"""What an option is: a field that holds for one call, and how it looks on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

__all__ = ["Flag", "Frozen"]


@dataclass(frozen=True, slots=True)
class Flag:
    """How a field looks on the command line when its name alone does not say it.

    Parameters
    ----------
    metavar : str
        Stands for the value in the help.
    aliases : tuple of str
        Further spellings; the underscore spelling of each is added by itself.
    """

    metavar: str | None = None
    aliases: tuple[str, ...] = ()


class Frozen(BaseModel):
    """Options that hold for one call."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
