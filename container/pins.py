"""Pins of the images: merge lock files, tell what the app needs, find what nobody pinned.

``pins.py merge LOCK...``, ``pins.py needs PYPROJECT [EXTRA...]``, ``pins.py check LOCK``; run by
``install.sh`` while an image is built.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

UNPINNED = {"pip"}
"""It comes with the base image's Python."""


def read_pins(paths: list[Path]) -> dict[str, str]:
    """Read lock files; a later one has the last word.

    Parameters
    ----------
    paths : list of Path
        Lines of ``name==version``; a hash sign begins a comment.

    Returns
    -------
    dict
        Lines by normalised name.
    """
    texts = [line.partition("#")[0] for p in paths for line in p.read_text("utf-8").splitlines()]
    lines = [text.strip() for text in texts if text.strip()]
    return {normalise(line.partition("==")[0]): line for line in lines}


def list_needs(pyproject: Path, extras: list[str]) -> list[str]:
    """List the requirements of the app.

    Parameters
    ----------
    pyproject : Path
        Its ``pyproject.toml``.
    extras : list of str
        Names of optional parts.

    Returns
    -------
    list of str
        As they are written there.

    Raises
    ------
    SystemExit
        If there is no such part.
    """
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    known = project["optional-dependencies"]
    if strange := [extra for extra in extras if extra not in known]:
        sys.exit(f"EXTRAS: no part is called {' '.join(strange)}; there are {', '.join(known)}")
    return [*project["dependencies"], *(need for extra in extras for need in known[extra])]


def find_strays(pins: dict[str, str], installed: dict[str, str]) -> list[str]:
    """Find what is installed and not, or not so, pinned.

    Parameters
    ----------
    pins : dict
        Of `read_pins`.
    installed : dict
        Versions by name.

    Returns
    -------
    list of str
        ``name==version`` of each, sorted. The local part of a version (``+cpu``) is passed over.
    """
    there = {normalise(name): version.partition("+")[0] for name, version in installed.items()}
    return sorted(
        f"{name}=={version}"
        for name, version in there.items()
        if name not in UNPINNED and pins.get(name, "").partition("==")[2] != version
    )


def normalise(name: str) -> str:
    """Write the name of a package as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def main(arguments: list[str]) -> None:
    """Do what the first word says."""
    match arguments:
        case ["merge", *locks]:
            lines = list(read_pins(list(map(Path, locks))).values())
        case ["needs", pyproject, *extras]:
            lines = list_needs(Path(pyproject), extras)
        case ["check", lock]:
            installed = {d.name: d.version for d in distributions()}
            if strays := find_strays(read_pins([Path(lock)]), installed):
                sys.exit(f"not as the lock files say: {' '.join(strays)}")
            lines = []
        case _:
            sys.exit(__doc__)
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
