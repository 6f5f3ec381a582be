"""The packages of the extra ``language``, imported here and nowhere else, and only when needed.

``pip install 'neurostorm-app[language]'`` brings them: transformers, tokenizers and peft.
"""

from __future__ import annotations

import importlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EXTRA", "OFFLINE", "alone", "need"]

EXTRA: Final = "neurostorm-app[language]"
OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Environment variables by which the libraries are told that there is no network."""


def need(package: str) -> Any:
    """Import a package of the extra.

    Parameters
    ----------
    package : str
        Its name.

    Raises
    ------
    UsageError
        If it is not installed; names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as why:
        raise UsageError(
            f"the package {package} is not installed ({why}); language models need it",
            fix=f"pip install '{EXTRA}'",
        ) from why


@contextmanager
def alone() -> Iterator[None]:
    """Keep the libraries from network and terminal, and leave their settings as they were."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = {name: os.environ.get(name) for name in OFFLINE}
    forbidden = constants.HF_HUB_OFFLINE  # read from the environment once, at its import
    os.environ |= OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        logs = need("transformers").utils.logging
        said, barred = logs.get_verbosity(), logs.is_progress_bar_enabled()
        logs.set_verbosity_error()
        logs.disable_progress_bar()
        try:
            yield
        finally:
            logs.set_verbosity(said)
            if barred:
                logs.enable_progress_bar()
    finally:
        constants.HF_HUB_OFFLINE = forbidden
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
