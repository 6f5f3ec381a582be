"""A configuration of the container for BABS (PennLINC), which runs BIDS Apps under DataLad.

Written against BABS 0.5: its documentation, and the job scripts that it makes from this. In the
container stands only the folder of the job; all else that is read is bound by ``-B``. A container
of ``--containall`` is not told what SLURM gave the job, so the preamble says it.

References
----------
https://github.com/PennLINC/babs, docs/preparation_config_yaml_file.rst and notebooks/*.yaml.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.clusters.scripts import KNOWN, check_paths
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
        If the work is to be split, which BABS cannot, or a path cannot stand in a script.
    """
    import yaml

    if jobs.inference is not None:
        raise UsageError(
            "--babs with --split: BABS queues one kind of job, and each does all of the work",
            fix="leave one of them out",
        )
    settings, inputs = jobs.asked.settings, jobs.asked.inputs
    check_paths([settings.bids_dir])
    check_paths(inputs, bound=True)
    need = jobs.participant
    content: dict[str, Any] = {
        "input_datasets": {
            "BIDS": {
                "required_files": ["func/*_bold.nii*"],
                "is_zipped": False,
                "origin_url": str(settings.bids_dir),
                "path_in_babs": "inputs/data/BIDS",
            }
        },
        "bids_app_args": {
            "$SUBJECT_SELECTION_FLAG": "--participant-label",
            "-w": "$BABS_TMPDIR",
            **_arguments(jobs.asked.participant),
        },
        "singularity_args": [
            "--containall",
            "--writable-tmpfs",
            *(f"-B {shlex.quote(f'{path}:{path}:ro')}" for path in inputs),
            *_gpu(need.more),
        ],
        "all_results_in_one_zip": True,
        "zip_foldernames": {"neurostorm": version.partition("+")[0].replace(".", "-")},
        "cluster_resources": {
            "interpreting_shell": "/bin/bash -l",
            "number_of_cpus": str(need.cpus),
            "hard_memory_limit": need.mem,
            "hard_runtime_limit": need.time,
            **_more(need.more),
        },
        "script_preamble": "\n".join(_preamble(jobs)) + "\n",
        "job_compute_space": "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}",
    }

    class Dumper(yaml.SafeDumper):
        """Writes several lines as they are, for somebody is to edit them."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        """Choose how one text is written."""
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def _arguments(words: Sequence[str]) -> dict[str, str]:
    """Bring options to keys and values; a list is one value, words quoted.

    An option that comes again stands in the value of the first, for a key cannot come twice.
    """
    found: dict[str, list[str]] = {}
    key = ""
    for word in words:
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            if name in found:
                found[name].append(name)
            key = name
            found.setdefault(name, [])
            found[name] += [value] if equals else []
        else:
            found[key].append(word)
    return {key: " ".join(map(shlex.quote, values)) for key, values in found.items()}


def _gpu(more: Sequence[str]) -> list[str]:
    return ["--nv"] if any(option.startswith("--gres=gpu") for option in more) else []


def _more(more: Sequence[str]) -> dict[str, str]:
    """Write the options of ``sbatch`` that BABS has no key for."""
    text = "\n".join(f"#SBATCH {option}" for option in more)
    return {"customized_text": text} if text else {}


def _preamble(jobs: Jobs) -> list[str]:
    lines = ["# activate here what holds BABS and DataLad"]
    lines += [f"module load {shlex.join(jobs.modules)}"] if jobs.modules else []
    ours = " ".join(f'"{kind}ENV_$name=${{!name}}"' for kind in ("APPTAINER", "SINGULARITY"))
    lines += [f"for name in {' '.join(KNOWN)}; do", f'    [ -z "${{!name:-}}" ] || export {ours}']
    return [*lines, "done"]
