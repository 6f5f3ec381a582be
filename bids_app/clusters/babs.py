"""A configuration of the container for BABS (PennLINC), which runs BIDS Apps under DataLad.

Written against the sections that the documentation of BABS 0.3 names (``bids_app_args``,
``singularity_args``, ``all_results_in_one_zip``, ``zip_foldernames``, ``cluster_resources``,
``script_preamble``, ``job_compute_space``, ``alert_log_messages``) and ``input_datasets``, which
later versions read in place of ``required_files``.

References
----------
https://github.com/PennLINC/babs, docs/preparation_config_yaml_file.rst and notebooks/*.yaml.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.bids_app.clusters.scripts import Jobs

__all__ = ["make_babs"]


def make_babs(jobs: Jobs, version: str) -> str:
    """Write the configuration.

    Parameters
    ----------
    jobs : Jobs
        What the jobs are to do and what they ask of the cluster.
    version : str
        Of the app; it stands in the names of the archives.

    Returns
    -------
    str
        YAML.

    Raises
    ------
    UsageError
        If the work is to be split, which BABS cannot.
    """
    import yaml

    if jobs.inference is not None:
        raise UsageError(
            "--babs with --split: BABS queues one kind of job, and each does all of the work",
            fix="leave one of them out",
        )
    need = jobs.participant
    preamble = [f"module load {shlex.join(jobs.modules)}"] if jobs.modules else []
    asks = [f"--cpus-per-task={need.cpus}", f"--mem={need.mem}", *need.more]
    content: dict[str, Any] = {
        "input_datasets": {
            "BIDS": {
                "required_files": ["func/*_bold.nii*"],
                "is_zipped": False,
                "origin_url": str(jobs.asked.settings.bids_dir),
                "path_in_babs": "inputs/data/BIDS",
            }
        },
        "bids_app_args": {
            "$SUBJECT_SELECTION_FLAG": "--participant-label",
            "-w": "$BABS_TMPDIR",
            **_arguments(jobs.asked.participant),
        },
        "singularity_args": ["--containall", "--writable-tmpfs", *_gpu(need.more)],
        "all_results_in_one_zip": True,
        "zip_foldernames": {"neurostorm": version.partition("+")[0].replace(".", "-")},
        "cluster_resources": {
            "interpreting_shell": "/bin/bash",
            "hard_runtime_limit": need.time,
            "customized_text": "".join(f"#SBATCH {ask}\n" for ask in asks),
        },
        "script_preamble": "\n".join(["# activate here what holds BABS and DataLad", *preamble])
        + "\n",
        "job_compute_space": "${TMPDIR}",
        "alert_log_messages": {"stderr": ["what to do:", "exit code 75"]},
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _arguments(words: Sequence[str]) -> dict[str, str]:
    """Bring options to keys and values; a list is one value, words quoted."""
    found: dict[str, list[str]] = {}
    key = ""
    for word in words:
        if word.startswith("-"):
            key, equals, value = word.partition("=")
            found[key] = [value] if equals else []
        else:
            found[key].append(word)
    return {key: " ".join(map(shlex.quote, values)) for key, values in found.items()}


def _gpu(more: Sequence[str]) -> list[str]:
    return ["--nv"] if any(option.startswith("--gres=gpu") for option in more) else []
