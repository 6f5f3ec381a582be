"""From what a page shows to the page: templates, filters, and the file written at once.

Everything that comes from a file is escaped; only the drawings of this app are taken as they
are. A page loads nothing: style, script and pictures are inside, and its policy forbids more. It
names the scripts by their hashes, so that no other one runs, however it came into the page.
Notices name damaged files by their whole path: a page hides the places in it, as every output does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.derivatives import write_text
from neurostorm_app.bids_app.inputs.links import linked_datasets
from neurostorm_app.bids_app.privacy import Rules
from neurostorm_app.bids_app.report.panels import digits
from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Environment

__all__ = ["page_rules", "render_page"]

_TEMPLATES = Path(__file__).parent / "templates"


def page_rules(output_dir: Path, *, strict: bool) -> Rules:
    """Say what a page may not show: where the output folder and the datasets it links to lie.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    strict : bool
        Whether ``--privacy strict`` was asked for.

    Returns
    -------
    Rules
        Without the datasets if the description that names them is damaged: nothing is read of them.
    """
    places = {"OUTPUT_DIR": output_dir}
    with contextlib.suppress(AppError):
        for name, folder in linked_datasets(output_dir).items():
            if name:
                places["BIDS_DIR" if name == "raw" else f"DERIVATIVES {name}"] = folder
    return Rules(strict=strict, places=places)


def render_page(
    template: str,
    path: Path,
    *,
    rules: Rules,
    context: Mapping[str, Any],
    scripts: Sequence[str] = ("script.js",),
    inserted: Sequence[str] = (),
) -> Path:
    """Fill a template and write the page.

    Parameters
    ----------
    template : str
        File name of the template.
    path : Path
        Where the page goes, in the output folder itself.
    rules : Rules
        What is hidden of notices.
    context : mapping
        What the template shows.
    scripts : sequence of str
        File names of what a page does, in this order.
    inserted : sequence of str
        Texts of scripts that these put into the page.
    """
    from importlib.metadata import version

    script = "".join(_script(name) for name in scripts)
    page = (
        _environment(rules)
        .get_template(template)
        .render(
            **context,
            app_version=version("neurostorm-app"),
            css=(_TEMPLATES / "style.css").read_text(encoding="utf-8"),
            script=script,
            policy=" ".join(_name_script(text) for text in (script, *inserted)),
        )
    )
    write_text(path, page, root=path.parent)
    return path


def _script(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _name_script(text: str) -> str:
    """Name a script as a content security policy does."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _environment(rules: Rules) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["digits"] = digits
    environment.filters["hidden"] = rules.text
    environment.filters["duration"] = _duration
    environment.filters["size"] = _size
    environment.filters["moment"] = _moment
    environment.filters["position"] = _position
    environment.filters["sentence"] = _sentence
    return environment


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not recorded"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
    )


def _size(n_bytes: float | None) -> str:
    if n_bytes is None:
        return "not recorded"
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _moment(text: str) -> str:
    """Shorten a moment to what a reader needs; text that is none stays as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M}" + (" UTC" if moment.tzinfo else "")


def _sentence(text: str) -> str:
    """End a text with one full stop."""
    return f"{str(text).rstrip('. ')}."


def _position(value: float, full: float) -> str:
    """Place a value on a scale from 0 to `full`, in percent."""
    return f"{100 * min(max(value / full, 0.0), 1.0):.1f}%"
