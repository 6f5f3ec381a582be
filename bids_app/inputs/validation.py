"""Validate the input with the official validator, offline.

Only what will be used is validated: with a selection of participants the validator sees a
skeleton of links to their folders, so that a dataset of ten thousand costs no more than one.
What is wrong with a single image is left to the run it belongs to; the others go on.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.scratch import open_scratch, remove_abandoned
from neurostorm_app.errors import BidsError, NoInputError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["find_validator", "validate"]

log = logging.getLogger(__name__)

PROGRAM: Final = "bids-validator-deno"
PER_RUN: Final = frozenset({"SYMLINK_BROKEN", "EMPTY_FILE", "NIFTI_HEADER_UNREADABLE"})
"""Errors of single files; the run of such a file fails with a message of its own."""
SHOWN: Final = 5
SKIP: Final = "correct the dataset, or call with --skip-bids-validation if you know better"


def find_validator() -> Path:
    """Find the validator's program beside this Python, or on the path.

    Raises
    ------
    NoInputError
        If it is not installed.
    """
    beside = Path(sys.prefix) / "bin" / PROGRAM
    program = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if program is None:
        raise NoInputError(
            f"{PROGRAM} is neither in {beside.parent} nor on PATH",
            fix=f"install it (pip install {PROGRAM}), or call with --skip-bids-validation",
        )
    return Path(program)


def validate(root: Path, participants: Sequence[str], *, everyone: bool) -> None:
    """Validate a dataset, or the part of it that belongs to some participants.

    Parameters
    ----------
    root : Path
        The dataset.
    participants : sequence of str
        Labels without ``sub-``.
    everyone : bool
        Whether these are all participants of the dataset.

    Raises
    ------
    BidsError
        If the validator finds an error; the first few are in the message.
    TemporaryError
        If the validator was killed.
    """
    started = time.monotonic()
    temporary = Path(tempfile.gettempdir())
    remove_abandoned(temporary, of_anybody=False)
    with open_scratch(temporary) as scratch:
        folder = root
        # The validator stops at a file that is annexed and not here, such as participants.tsv.
        if not everyone or any(path.is_symlink() and not path.exists() for path in root.iterdir()):
            folder = scratch / "dataset"
            _build_skeleton(root, participants, folder)
        issues = _errors(folder, scratch)
    log.info(
        "validated %d participants of %s in %.1f s: %d errors",
        len(participants),
        root,
        time.monotonic() - started,
        len(issues),
    )
    if issues:
        lines = [_line(issue) for issue in issues[:SHOWN]]
        more = f"\n    and {len(issues) - SHOWN} more" if len(issues) > SHOWN else ""
        raise BidsError(
            f"{root} is not valid BIDS, {len(issues)} errors:\n    " + "\n    ".join(lines) + more,
            fix=SKIP,
        )


def _build_skeleton(root: Path, participants: Sequence[str], folder: Path) -> None:
    """Link the top-level files and some participants' folders into an empty folder."""
    folder.mkdir()
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name == "participants.tsv" and entry.is_file():
                _filter_participants(Path(entry.path), participants, folder / entry.name)
            elif not entry.name.startswith("sub-") and entry.is_file():
                (folder / entry.name).symlink_to(entry.path)
    for label in participants:
        if (root / f"sub-{label}").is_dir():
            (folder / f"sub-{label}").symlink_to(root / f"sub-{label}")


def _filter_participants(table: Path, participants: Sequence[str], target: Path) -> None:
    """Copy the rows of some participants: the validator compares rows and folders."""
    wanted = {f"sub-{label}".encode() for label in participants}
    # As bytes: a mark at the start, or letters that are not UTF-8, are the validator's to judge.
    header, *rows = table.read_bytes().splitlines() or [b""]
    names = header.removeprefix(codecs.BOM_UTF8).split(b"\t")
    column = names.index(b"participant_id") if b"participant_id" in names else 0
    kept = [row for row in rows if wanted.intersection(row.split(b"\t")[column : column + 1])]
    target.write_bytes(b"\n".join([header, *kept]) + b"\n")


def _errors(folder: Path, scratch: Path) -> list[dict[str, Any]]:
    command = [str(find_validator()), str(folder), "--format", "json", "--ignoreWarnings"]
    command += ["--ignoreNiftiHeaders", "--no-color"]
    # The program caches beside $HOME otherwise, which may be read-only or not exist.
    environment = {**os.environ, "DENO_DIR": str(scratch / "deno"), "DENO_NO_UPDATE_CHECK": "1"}
    done = subprocess.run(  # noqa: S603  a list of arguments, no shell
        command, capture_output=True, check=False, text=True, env=environment
    )
    if done.returncode == -signal.SIGKILL:
        raise TemporaryError(
            "the validator was killed (SIGKILL), most often because the memory was used up",
            fix="call again with more memory for the job, or with --skip-bids-validation",
        )
    try:
        issues = json.loads(done.stdout)["issues"]["issues"]
    except (ValueError, KeyError) as error:
        raise BidsError(
            f"the validator ended with code {done.returncode} and no result: "
            f"{done.stderr.strip()[-300:]}",
            fix=SKIP,
        ) from error
    return [i for i in issues if i.get("severity") == "error" and i.get("code") not in PER_RUN]


def _line(issue: dict[str, Any]) -> str:
    code = ".".join(str(issue[key]) for key in ("code", "subCode") if issue.get(key))
    about = str(issue.get("issueMessage", "")).strip().partition("\n")[0]
    return f"{code} {issue.get('location', '')} {about}".strip()
