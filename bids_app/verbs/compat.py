"""The verb ``check-compat``: which tools can go on from a derivative, and what each lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse

__all__ = ["add_compat", "call_compat"]

ABOUT: Final = """Say of each run of a derivative folder (ours, fMRIPrep's, another's) whether
nilearn, XCP-D, giga_connectome, fitlins with PyBIDS, fMRIPrep -d and each of our models accept it,
and name every file, column and key that is missing. Only names, JSON files, headers and first
rows are read; nothing is written.

yes: every use is open; partly: some are, such as nilearn's strategy simple but not compcor.

exit codes: 0 the check was made, and what --require names is accepted; 65 it is not;
64 --require names something unknown; 66 there is no such folder, or no run in it;
18 a participant that was asked for has no run."""


def add_compat(verb: Any) -> None:
    """Add the arguments of the verb to its parser.

    Parameters
    ----------
    verb : ArgumentParser
        Of the verb.
    """
    import argparse

    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.description = ABOUT
    verb.add_argument("folder", type=Path, metavar="DIR", help="with the sub- folders in it")
    help_text = "only these participants, with or without sub-"
    verb.add_argument("--participant-label", nargs="+", default=(), metavar="LABEL", help=help_text)
    help_text = (
        "end with an error unless all runs are accepted by these: nilearn, xcp-d, "
        "giga_connectome, fitlins, fmriprep, bids-validator, a model, models, all (the tools but "
        "the validator), or one use, such as xcp-d:36P"
    )
    verb.add_argument("--require", nargs="+", default=(), metavar="NAME", help=help_text)
    help_text = "print JSON: all that is missing, and the function of the tool that asks for it"
    verb.add_argument("--json", action="store_true", help=help_text)


def call_compat(asked: argparse.Namespace) -> None:
    """Check a folder, print what was found, and refuse it if something required is missing.

    Parameters
    ----------
    asked : Namespace
        What `add_compat` defines.

    Raises
    ------
    AppError
        If there is no run, a name is unknown, or something required is missing.
    """
    from neurostorm_app.bids_app.compatibility.checking import check_folder, read_asked, require
    from neurostorm_app.bids_app.compatibility.telling import tell

    wanted = read_asked(asked.require)
    labels = [label.removeprefix("sub-") for label in asked.participant_label]
    report = check_folder(asked.folder.resolve(), labels, wanted)
    if asked.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        for line in tell(report):
            print(line)
    require(report, wanted)
