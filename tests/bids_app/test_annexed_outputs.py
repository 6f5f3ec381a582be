"""A rerun into a clone of the results, where git-annex has put links in place of the files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.errors import CannotCreateError

if TYPE_CHECKING:
    from pathlib import Path


def annex(out: Path, *, here: bool, suffixes: tuple[str, ...] = ()) -> dict[Path, str]:
    """Put each result into an annex, as ``git annex add`` does; give the kept files' hashes."""
    store = out / ".git" / "annex" / "objects"
    kept: dict[Path, str] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        if path.is_symlink() or (suffixes and not path.name.endswith(suffixes)):
            continue
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        key = store / sha256[:2] / sha256 / f"SHA256E--{sha256}"
        key.parent.mkdir(parents=True, exist_ok=True)
        if not key.exists():
            shutil.copy(path, key)
            key.chmod(0o444)
            key.parent.chmod(0o555)
        path.unlink()
        path.symlink_to(os.path.relpath(key, path.parent))
        kept[key] = sha256
    if not here:
        for key in kept:
            key.parent.chmod(0o755)
            key.unlink()
    return kept


def images(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("sub-*/**/*.nii.gz"))


def test_results_that_are_here_are_taken_through_their_links(settings, fake):
    asked = settings()
    run_app(asked, engines=fake.engines())
    kept = annex(asked.output_dir, here=True)
    result = run_app(asked, engines=fake.engines())
    assert {run.status for run in result.runs} == {"reused"}
    assert all(path.is_symlink() for path in images(asked.output_dir))
    assert {key: hashlib.sha256(key.read_bytes()).hexdigest() for key in kept} == kept


def test_a_change_takes_the_place_of_a_link_and_leaves_the_annex_alone(settings, fake):
    asked = settings()
    run_app(asked, engines=fake.engines())
    kept = annex(asked.output_dir, here=True)
    result = run_app(settings(fd_spike_threshold=0.9), engines=fake.engines())
    assert {run.status for run in result.runs} == {"done"}
    tables = list(asked.output_dir.glob("sub-*/func/*_desc-confounds_timeseries.tsv"))
    assert tables
    assert not [path for path in tables if path.is_symlink()]
    assert all(path.is_symlink() for path in images(asked.output_dir)), "they have not changed"
    assert {key: hashlib.sha256(key.read_bytes()).hexdigest() for key in kept} == kept


def test_results_that_are_elsewhere_are_made_again(settings, fake):
    asked = settings()
    run_app(asked, engines=fake.engines())
    before = {path: path.read_bytes() for path in images(asked.output_dir)}
    annex(asked.output_dir, here=False, suffixes=(".nii.gz", ".tsv"))
    assert before
    assert not [path for path in before if path.exists()]
    result = run_app(asked, engines=fake.engines())
    assert {run.status for run in result.runs} == {"done"}
    assert {path: path.read_bytes() for path in images(asked.output_dir)} == before
    assert not [path for path in asked.output_dir.rglob("*") if path.is_symlink()]


def test_a_clone_that_does_not_say_whose_it_is_is_refused(settings, fake):
    asked = settings()
    run_app(asked, engines=fake.engines())
    annex(asked.output_dir, here=False)
    link = asked.output_dir / "dataset_description.json"
    with pytest.raises(CannotCreateError, match="is a link to a file that is not here, so") as told:
        run_app(asked, engines=fake.engines())
    assert f"datalad get {link}" in told.value.fix
    assert link.is_symlink()
    link.unlink()
    link.write_text(json.dumps({"GeneratedBy": [{"Name": "neurostorm-app"}]}))
    result = run_app(asked, engines=fake.engines())
    assert {run.status for run in result.runs} == {"done"}
