"""The options of a call, kept so that it can be repeated: a configuration file in ``logs/``.

The records of ``prov/`` hold, for each result, what changed its numbers; this file holds the whole
call. It names neither the time nor the folders of the call: these are to be put in again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.privacy import Rules
from neurostorm_app.bids_app.settings import GROUPS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.settings import Settings

__all__ = ["keep_settings", "settings_text"]


def settings_text(settings: Settings, given: Mapping[str, Any]) -> str:
    """Write the options of a call as a configuration file that repeats it.

    Parameters
    ----------
    settings : Settings
        Of the call.
    given : mapping
        What the user gave, by field name: paths are written as they were typed.

    Returns
    -------
    str
        TOML. Neither the dataset nor the output folder is named.
    """
    from neurostorm_app import __version__

    level = settings.level
    lines = [
        f"# The options of a call of neurostorm-app {__version__}. To repeat it:",
        f"# neurostorm-app BIDS_DIR OUTPUT_DIR {level} --config-file THIS_FILE",
    ]
    for group, model in GROUPS.items():
        lines += ["", f"[{group}]"]
        for name, field in model.model_fields.items():
            value = getattr(getattr(settings, group), name)
            if "Path" in str(field.annotation):
                value = given.get(name)
            idle = group == "prediction" and name not in given
            if not (idle or value is None or value in ((), {})):
                lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def keep_settings(
    settings: Settings, given: Mapping[str, Any], *, rules: Rules | None = None
) -> Path:
    """Write the options of a call into the output folder; the same options, the same file.

    Parameters
    ----------
    settings : Settings
        Of the call.
    given : mapping
        What the user gave, by field name.
    rules : Rules, optional
        What is hidden: folders of the call become the words that stand for them.

    Returns
    -------
    Path
        ``logs/<level>-<hash>_settings.toml``.
    """
    from neurostorm_app.bids_app.derivatives import write_text

    text = (rules or Rules()).text(settings_text(settings, given))
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = settings.output_dir / "logs" / f"{settings.level}-{key}_settings.toml"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text, root=settings.output_dir)
    return path
