"""Templates of TemplateFlow for an image: fetched while it is built, found offline ever after.

``bake_templates.py HOME SPACE[:res-N]...``; run by ``install.sh``. Only files that were really
fetched are put there, not the thousands of empty ones that stand for the rest of TemplateFlow.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = re.compile(r"([0-9A-Za-z]+)(?::res-([0-9]+))?")
FILES: tuple[dict[str, Any], ...] = (
    {"suffix": "T1w", "desc": None},
    {"suffix": "T1w", "desc": "brain"},
    {"suffix": "mask", "desc": "brain"},
    {"suffix": "probseg", "label": ["GM", "WM", "CSF"]},
)
"""What the app looks for in a template; it needs the first or second, and the third."""


def fetch_template(asked: str, get: Callable[..., Any]) -> str:
    """Fetch the files of a template that the app can use.

    Parameters
    ----------
    asked : str
        As in ``--output-spaces``, such as ``MNI152NLin6Asym:res-2``; both 1 and 2 if no
        resolution is said.
    get : callable
        ``templateflow.api.get``.

    Returns
    -------
    str
        The space.

    Raises
    ------
    SystemExit
        If this is no space, or TemplateFlow has no T1w image and brain mask of it.
    """
    match = SPACE.fullmatch(asked)
    if match is None:
        sys.exit(f"TEMPLATES: {asked!r} is no space; expected one such as MNI152NLin6Asym:res-2")
    space, res = match[1], [int(match[2])] if match[2] else [1, 2]
    found = [get(space, resolution=res, extension=".nii.gz", **file) or [] for file in FILES]
    if not (found[0] or found[1]) or not found[2]:
        sys.exit(f"TEMPLATES: TemplateFlow has no T1w image and brain mask of {asked}")
    return space


def keep_real(fetched: Path, home: Path) -> list[Path]:
    """Copy what is more than the name of a file.

    Parameters
    ----------
    fetched : Path
        ``tpl-<space>`` where it was fetched to.
    home : Path
        TemplateFlow's home in the image.

    Returns
    -------
    list of Path
        The copies.
    """
    copies = []
    for path in sorted(fetched.iterdir()):
        if path.is_file() and path.stat().st_size > 0:
            (home / fetched.name).mkdir(parents=True, exist_ok=True)
            copies.append(Path(shutil.copyfile(path, home / fetched.name / path.name)))
    return copies


def main(home: Path, asked: list[str]) -> None:
    """Fetch all into a home that is thrown away, and keep what is real."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TEMPLATEFLOW_HOME"] = scratch  # read when templateflow is imported
        from templateflow import api

        for space in {fetch_template(template, api.get): None for template in asked}:
            for path in keep_real(Path(scratch) / f"tpl-{space}", home):
                sys.stdout.write(f"{path} {path.stat().st_size}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
