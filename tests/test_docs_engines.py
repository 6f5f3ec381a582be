"""The files for engines: run by Snakemake, and read by a parser of Nextflow's language."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SNAKEFILE = ROOT / "docs/pipelines/Snakefile"

pytestmark = pytest.mark.slow


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tests/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> Path:
    """Make an environment of its own with Snakemake and RefTrace; or take that which is named."""
    if named := os.environ.get("NEUROSTORM_ENGINES"):
        return Path(named)
    folder = tmp_path_factory.mktemp("engines")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/pip", "install", "--quiet", "snakemake>=9", "reftrace>=0.6"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Snakemake and RefTrace could not be installed: {done.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    return load("docs_world").make_world(tmp_path_factory.mktemp("world"), people=3)


def run(engines: Path, places: dict[str, Path], folder: Path, *words: str) -> Any:
    data = places["/data"]
    options = f"--models connectome -d fmriprep={data}/derivatives/fmriprep"
    command = [
        engines / "bin/snakemake",
        "--snakefile",
        SNAKEFILE,
        "--cores",
        "2",
        *words,
        "--config",
    ]
    command += [f"bids={data}/bids", f"out={data}/snake", "participants=01,02"]
    command += [f"options={options} --skip-bids-validation --report-viewer off"]
    here = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_rules_run_and_a_second_call_has_nothing_to_do(engines, places, tmp_path):
    first = run(engines, places, tmp_path)
    assert first.returncode == 0, first.stderr
    out = places["/data"] / "snake"
    assert {path.name for path in out.glob("*.html")} == {
        "sub-01.html",
        "sub-02.html",
        "group.html",
    }
    again = run(engines, places, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_nextflow_file_is_read_by_a_parser_of_its_language(engines):
    """RefTrace's; Nextflow itself is not run."""
    ask = (
        "from reftrace import Module; import sys, json\n"
        "found = Module.from_file(sys.argv[1])\n"
        "print(json.dumps([[p.name for p in found.processes], [p.name for p in found.params]]))"
    )
    command = [engines / "bin/python", "-c", ask, ROOT / "docs/pipelines/main.nf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    processes, params = json.loads(done.stdout)
    assert processes == ["PARTICIPANT", "GROUP"]
    assert params == ["bids", "out", "participants", "options"]
