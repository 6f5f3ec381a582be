"""Loops of the CPU engine, compiled by numba: arrays in, arrays out.

Compiling takes seconds, so what was compiled is kept. `scan_cache` says where; to fill that
folder ahead, for instance while an image is built: ``python -m neurostorm_app.models.scan_cpu``.
What is kept holds for one kind of processor; on another one the loops are compiled again.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numba.core import config

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["conv", "kept_in", "scan", "scan_cache"]

_SOURCES = tuple(Path(__file__).parent / f"{name}.py" for name in ("elementary", "scan", "conv"))


@cache
def scan_cache() -> Path:
    """Choose the folder of the compiled loops: the first that can be written to.

    ``NUMBA_CACHE_DIR``; ``__pycache__`` beside the loops; ``$XDG_CACHE_HOME`` or ``~/.cache``; a
    temporary folder that goes when the process ends. A folder beside the loops that can only be
    read, as in an image, is copied to the one that is chosen.

    Returns
    -------
    Path
        It exists, and its name changes with the loops.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
    name = f"neurostorm-app-{digest[:12]}"
    beside = Path(__file__).parent / "__pycache__" / name
    for parent in (os.environ.get("NUMBA_CACHE_DIR"), beside.parent, _user_cache()):
        if parent and _can_write(folder := Path(parent) / name):
            break
    else:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if folder != beside and not any(folder.iterdir()):
        _copy(beside, folder)
    return folder


def _copy(source: Path, target: Path) -> None:
    """Copy what was compiled, in an order and a way that another process may read meanwhile."""
    for path in sorted(source.rglob("*.nb?"), key=lambda p: p.suffix):  # data, then the indices
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        whole = copy.with_name(f"{path.name}.{os.getpid()}")
        shutil.copyfile(path, whole)
        whole.replace(copy)


def _user_cache() -> Path | None:
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in the table of users
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return None


def _can_write(folder: Path) -> bool:
    """Tell whether a folder is ours to write to: what lies in it will be run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return folder.stat().st_uid == os.geteuid()


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Let numba keep in `folder` the loops that are defined meanwhile."""
    settings: Any = config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        settings.CACHE_DIR = before


with kept_in(scan_cache()):  # numba looks for the folder when it sees a loop
    from neurostorm_app.models.kernels import conv, scan
