"""How a chart looks: one frame for all, colours that follow the page, the same bytes each time.

Charts are drawn by matplotlib without its global state. Colours are placeholders in the
drawing and CSS variables in the result, so that one SVG is readable on a light page, on a
dark one and on paper; text stays text, in the page's own font.
"""

from __future__ import annotations

import atexit
import base64
import functools
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = [
    "BLUE",
    "GOLD",
    "GREEN",
    "INK",
    "LINE",
    "MUTED",
    "ORANGE",
    "PINK",
    "RED",
    "bare",
    "colour_stops",
    "encode_image",
    "new_figure",
    "prepare_matplotlib",
    "to_svg",
]

INK, MUTED, LINE = "#0102f0", "#0102f1", "#0102f2"
BLUE, ORANGE, GREEN, PINK, GOLD, RED = (f"#0102f{n}" for n in range(3, 9))
_VARIABLES = {
    INK: "var(--ink,#1d2733)",
    MUTED: "var(--muted,#5b6775)",
    LINE: "var(--line,#d5dbe2)",
    BLUE: "var(--blue,#1f6fb2)",
    ORANGE: "var(--orange,#c4570a)",
    GREEN: "var(--green,#0b7f5f)",
    PINK: "var(--pink,#a8467f)",
    GOLD: "var(--gold,#8f6b00)",
    RED: "var(--red,#c02a2a)",
}
"""Placeholder to CSS variable. Hues of Okabe and Ito (2008), darkened for contrast on white."""

_RC: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "neurostorm-app",
    "text.color": INK,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 10.5,
}

_LOSSLESS_PIXELS = 20_000
"""Embedded pictures above this size are compressed with loss."""


@functools.cache
def prepare_matplotlib() -> None:
    """Keep matplotlib's caches out of the home folder, which may be read-only or another's."""
    if "matplotlib" in sys.modules or "MPLCONFIGDIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="neurostorm-app-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


def _frame() -> AbstractContextManager[None]:
    """Set the style for as long as something is drawn."""
    import matplotlib as mpl

    style: Any = dict(_RC)
    return mpl.rc_context(style)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure.

    Parameters
    ----------
    width, height : float
        Units of the SVG: pixels when it is shown at its own size.
    """
    prepare_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _frame():
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasAgg(figure)
    return figure


def bare(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Add axes at a place given in the units of the figure, from its upper left corner.

    Parameters
    ----------
    figure : Figure
        Where they go.
    place : tuple of float
        Left, top, width and height.
    """
    left, top, width, height = place
    total_width, total_height = (float(side) * 72 for side in figure.get_size_inches())
    with _frame():
        return figure.add_axes(
            (
                left / total_width,
                1 - (top + height) / total_height,
                width / total_width,
                height / total_height,
            )
        )


def to_svg(figure: Figure, *, label: str) -> str:
    """Write a figure as an SVG element that can stand inside a page.

    Parameters
    ----------
    figure : Figure
        The drawing.
    label : str
        What it shows, for those who cannot see it.

    Returns
    -------
    str
        ``<svg>…</svg>`` without header, metadata or links; ids are unique to the drawing.
    """
    from markupsafe import escape

    buffer = io.StringIO()
    with _frame():
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    body = _strip(buffer.getvalue())
    width, height = (round(float(side) * 72) for side in figure.get_size_inches())
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'style="--w:{width}">'
    )
    return head + body + "</svg>"


def _strip(text: str) -> str:
    """Take what is drawn, with variables for colours and short unique ids."""
    body = re.sub(r"^.*?<svg[^>]*>", "", text, count=1, flags=re.DOTALL)
    body = re.sub(r"</svg>\s*$", "", body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font,sans-serif)", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"data:image/png;base64,([^\"]+)", _shrink, body)
    return re.sub(r"\s*\n\s*", "\n", _unique(body))


def _unique(body: str) -> str:
    """Drop the ids nobody refers to and mark the others with a hash of the drawing."""
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    mark = hashlib.sha256(body.encode()).hexdigest()[:8]

    def rename(match: re.Match[str]) -> str:
        return f' id="{mark}{match[1]}"' if match[1] in used else ""

    body = re.sub(r"\sid=\"([^\"]+)\"", rename, body)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{mark}", body)


def _shrink(match: re.Match[str]) -> str:
    """Compress a picture that matplotlib embedded as PNG."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(match[1]))) as picture:
        pixels = np.asarray(picture.convert("RGB" if _is_opaque(picture) else "RGBA"))
    return encode_image(pixels, lossless=pixels.shape[0] * pixels.shape[1] <= _LOSSLESS_PIXELS)


def _is_opaque(picture: Any) -> bool:
    return "A" not in picture.getbands() or picture.getextrema()[-1][0] == 255


def encode_image(pixels: NDArray[Any], *, lossless: bool = False, quality: int = 82) -> str:
    """Compress a picture into a data address.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W) or (H, W, 3) or (H, W, 4)
        Grey, RGB or RGBA; the first row is the top.
    lossless : bool
        Keep every value.
    quality : int
        Of the compression with loss, to 100.

    Returns
    -------
    str
        ``data:image/webp;base64,…``.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, format="WEBP", lossless=lossless, quality=quality, method=4
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def colour_stops(name: str, n: int = 9) -> list[str]:
    """Sample a colour map of matplotlib, for a scale beside a picture.

    Returns
    -------
    list of str
        Hexadecimal colours from low to high.
    """
    prepare_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[name](i / (n - 1))) for i in range(n)]
