"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
import statistics
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from neurostorm_app import errors

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bids_app", "pipelines", "models", "src/neurostorm_app")
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not (folder.startswith("src") and path.parent != ROOT / folder)
)
IDS = [str(path.relative_to(ROOT)) for path in MODULES]
ERRORS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.AppError)
}
DOORS = {
    "bids": {"bids_app/inputs/database.py"},
    "nipype": {"pipelines/preprocess/", "bids_app/interfaces.py"},
    "niworkflows": {"pipelines/preprocess/"},
    "templateflow": {"pipelines/templates.py"},
    "huggingface_hub": {"models/fetch.py"},
    "isal": {"pipelines/image.py"},
    "mamba_ssm": {"models/scan.py"},
    "numba": {"models/kernels/", "pipelines/kernels/"},
    "triton": {"models/triton_kernels.py"},
    "faiss": {"pipelines/retrieve"},
    "accelerate": {"pipelines/train/engine.py"},
    "mapie": {"pipelines/evaluate/conformal.py"},
    "dask": {"bids_app/clusters/executor_dask"},
    "dask_jobqueue": {"bids_app/clusters/executor_dask"},
    "distributed": {"bids_app/clusters/executor_dask"},
    "pyarrow": {"bids_app/group/store.py"},
    "rich": {"bids_app/progress/"},
    "shtab": {"bids_app/verbs/completion.py"},
    "transformers": {"models/language_extra.py"},
    "tokenizers": {"models/language_extra.py"},
    "peft": {"models/language_extra.py"},
    "umap": {"pipelines/figures/neighbourhood.py"},
    "ants": {"pipelines/preprocess/", "pipelines/xfm.py"},
    "SimpleITK": {"pipelines/preprocess/"},
    "deepbet": {"pipelines/preprocess/anatomy/brainmask.py"},
}
"""The only modules that may import a package."""
PART_OF = {"llvmlite": "numba", "sqlalchemy": "pybids"}
"""What a package that we name always brings, of exactly the version it needs."""
GUARDED = {"dask", "dask_jobqueue", "distributed", "mamba_ssm", "triton"}
"""Packages of extras, or of some wheels of torch: their doors say when one is not there."""


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_fits_in_one_reading(path):
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= 400, f"{n_lines} lines; the budget is 300 and 400 is a defect"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_no_function_is_above_80_lines(path):
    long = {f.name: length(f) for f in functions(ast.parse(path.read_text())) if length(f) > 80}
    assert not long


def test_the_median_function_has_at_most_15_lines():
    lengths = [length(f) for path in MODULES for f in functions(ast.parse(path.read_text()))]
    assert statistics.median(lengths) <= 15


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_every_module_says_what_it_is_about(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_package_is_imported_only_at_its_door(path):
    here = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for package in {name.split(".")[0] for name in names} & DOORS.keys():
            assert any(here.startswith(door) for door in DOORS[package]), (
                f"{here}:{node.lineno} imports {package}; its door is {sorted(DOORS[package])}"
            )


def imported(path: Path) -> set[str]:
    """List the packages of others that a module imports anywhere, by the names of their folders."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0}
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"neurostorm_app"}


def test_what_is_imported_is_installed_with_the_app():
    """An environment for development has more than a user's, so no other test would see it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {normalise(re.split(r"[<>=;\[ ]", line)[0]) for line in project["dependencies"]}
    brings = packages_distributions()
    for path in MODULES:
        for package in imported(path) - GUARDED:
            of = PART_OF.get(package) or brings[package][0]
            assert normalise(of) in needed, f"{path.relative_to(ROOT)} imports {package} of {of}"


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def raised() -> list[tuple[str, str]]:
    """List the raised errors of ours: where, and the fixed words of the message."""
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            call = node.exc
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name in ERRORS and call.args:
                words = [
                    part.value
                    for part in ast.walk(call.args[0])
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", "\0".join(words)))
    return found


def grams(text: str, n: int = 10) -> set[str]:
    return {text[start : start + n] for start in range(len(text) - n + 1)}


def test_every_error_message_has_a_test():
    """Some string of some test must share ten letters in a row with the message."""
    tested = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path != Path(__file__):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    tested |= grams(node.value.replace("\\", ""))
    untested = [
        f"{place}: {words!r}"
        for place, words in raised()
        if words and not any(grams(piece) & tested for piece in words.split("\0"))
    ]
    assert not untested, "\n".join(untested)


def test_each_error_has_an_exit_code_of_the_table():
    for name in ERRORS:
        assert getattr(errors, name).exit_code in errors.ExitCode
        assert getattr(errors, name).__doc__


def test_an_error_survives_the_trip_between_processes():
    import pickle

    sent = errors.SeriesTooShortError("12 volumes; one window takes 20", fix="leave the run out")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is errors.SeriesTooShortError
    assert (str(received), received.fix) == (str(sent), sent.fix)
    assert received.exit_code == errors.ExitCode.DATA


def test_the_folders_refuse_to_be_imported_under_their_short_names():
    for folder in ("bids_app", "pipelines", "models"):
        source = (ROOT / folder / "__init__.py").read_text()
        with pytest.raises(ImportError, match=f"import neurostorm_app.{folder}"):
            exec(compile(source, folder, "exec"), {"__name__": folder})
