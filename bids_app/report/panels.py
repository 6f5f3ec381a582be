"""What a section is made of: figures that a template can lay out, and notices in their place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from neurostorm_app.pipelines.figures import Contour, Mosaic, Picture

__all__ = [
    "Fact",
    "Notice",
    "Panel",
    "anchor",
    "attempt",
    "chart",
    "digits",
    "flatten",
    "mosaic_panel",
    "two_decimals",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A label and a value."""

    label: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that is missing or broken, and what to do about it."""

    what: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure with its words.

    Parameters
    ----------
    ident : str
        Unique in the page.
    title, caption : str
        What is shown, and how to read it.
    svg : str
        A chart; empty for a mosaic.
    mosaic : Mosaic or None
        Pictures with an overlay.
    pictures, contours : list of (str, str)
        Key and label of what can be switched.
    cursor : dict
        Time axis and values for a cursor over a chart.
    scale : dict
        Low, high, unit and colours of a colour scale.
    """

    ident: str
    title: str
    caption: str
    svg: str = ""
    mosaic: Mosaic | None = None
    pictures: list[tuple[str, str]] = field(default_factory=list)
    contours: list[tuple[str, str]] = field(default_factory=list)
    cursor: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Characters that its drawings take in the page."""
        drawn = [self.mosaic.overlay, *self.mosaic.images.values()] if self.mosaic else []
        return len(self.svg) + sum(map(len, drawn))


def anchor(*parts: str) -> str:
    """Make an id out of names.

    Examples
    --------
    >>> anchor("sub-01_task-rest", "carpet")
    'sub-01_task-rest-carpet'
    """
    return "-".join(re.sub(r"[^0-9A-Za-z_-]+", "-", part).strip("-") for part in parts)


def attempt(notices: list[Notice], build: Callable[[], T]) -> T | None:
    """Build a piece of a page; if its file is damaged, say so instead and go on."""
    try:
        return build()
    except AppError as problem:
        notices.append(Notice(what=problem.what, fix=problem.fix))
        return None


def digits(value: float) -> str:
    """Write a number with four digits, or a large one whole: nobody reads powers of ten.

    Examples
    --------
    >>> digits(31.5249), digits(20512.4)
    ('31.52', '20512')
    """
    return f"{value:.4g}" if abs(value) < 9999.5 else f"{value:.0f}"


def two_decimals(value: float) -> str:
    """Write a number with two decimals; nothing is less than nothing.

    Examples
    --------
    >>> two_decimals(-0.004), two_decimals(-0.25)
    ('0.00', '-0.25')
    """
    return f"{value:z.2f}"


def flatten(record: Mapping[str, Any], prefix: str = "") -> list[Fact]:
    """List what a record says, however deep, with its path as the label."""
    facts: list[Fact] = []
    for key, value in record.items():
        label = f"{prefix} {key}".replace("_", " ").strip()
        if isinstance(value, dict):
            facts += flatten(value, label)
        elif isinstance(value, list):
            facts.append(Fact(label=label, value=", ".join(map(_short, value))))
        elif value is not None:
            facts.append(Fact(label=label, value=_short(value)))
    return facts


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def chart(ident: str, svg: str, *, title: str, caption: str, **more: Any) -> Panel:
    """Make a panel of a chart."""
    return Panel(ident=ident, title=title, caption=caption, svg=svg, **more)


def mosaic_panel(
    ident: str,
    mosaic: Mosaic,
    *,
    layers: tuple[Sequence[Picture], Sequence[Contour]],
    title: str,
    caption: str,
    scale: dict[str, Any] | None = None,
) -> Panel:
    """Make a panel of a mosaic, with switches for its layers."""
    pictures, contours = layers
    return Panel(
        ident=ident,
        title=title,
        caption=caption,
        mosaic=mosaic,
        pictures=[(picture.key, picture.label) for picture in pictures],
        contours=[(contour.key, contour.label) for contour in contours],
        scale=scale or {},
    )
