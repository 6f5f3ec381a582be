"""The viewer inside a page: whole, once, small, and left out where it is not wanted."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.report import subject, viewer
from neurostorm_app.bids_app.report.functional import build_functional
from neurostorm_app.bids_app.report.panels import Notice
from neurostorm_app.bids_app.report.tree import read_participant
from neurostorm_app.bids_app.report.viewer import (
    Scene,
    Shelf,
    build_scene,
    inserted_script,
    viewer_library,
)

NAME = "sub-01_task-rest"
ROOT = Path(__file__).parents[3]


def scene_of(tree, shelf):
    found = read_participant(tree.root, "01")
    return build_scene(found.runs[0], found.anatomy[0] if found.anatomy else None, shelf)


def image_in(text: str) -> nib.Nifti1Image:
    raw = gzip.decompress(base64.b64decode(text))
    return nib.Nifti1Image.from_stream(io.BytesIO(raw))


def test_a_scene_holds_reference_anatomy_and_masks_in_their_place(tree):
    tree.anatomy("01")
    tree.series(NAME)
    shelf = Shelf()
    scene = scene_of(tree, shelf)
    assert isinstance(scene, Scene)
    assert [layer.label for layer in scene.layers] == [
        "BOLD reference",
        "T1w, brain only",
        "BOLD mask",
        "white matter",
    ]
    reference, mask = (image_in(shelf.volumes[scene.layers[i].volume]) for i in (0, 2))
    np.testing.assert_allclose(reference.affine, tree.affine)
    assert reference.get_data_dtype() == np.uint8
    assert np.asarray(reference.dataobj).max() == 255
    np.testing.assert_array_equal(np.asarray(mask.dataobj), tree.dseg > 0)


def test_no_page_holds_a_face(tree):
    tree.anatomy("01")
    tree.series(NAME)
    [path] = tree.root.rglob("*_desc-preproc_T1w.nii.gz")
    head = np.asarray(nib.load(path).dataobj)
    face = np.where(tree.dseg > 0, head, 80).astype(np.float32)
    nib.save(nib.Nifti1Image(face, tree.affine), path)
    shelf = Shelf()
    shown = {layer.label: layer.volume for layer in scene_of(tree, shelf).layers}
    voxels = np.asarray(image_in(shelf.volumes[shown["T1w, brain only"]]).dataobj)
    assert voxels[tree.dseg == 2].min() > 0
    assert not voxels[tree.dseg == 0].any()
    next(tree.root.rglob("sub-01/anat/*_desc-brain_mask.nii.gz")).unlink()
    assert [layer.label for layer in scene_of(tree, Shelf()).layers] == [
        "BOLD reference",
        "BOLD mask",
        "white matter",
    ]


def test_runs_share_the_volumes_that_are_the_same(tree):
    tree.anatomy("01")
    tree.series(NAME)
    shelf = Shelf()
    scene_of(tree, shelf)
    n, room = len(shelf.volumes), shelf.room
    scene_of(tree, shelf)
    assert (len(shelf.volumes), shelf.room) == (n, room)


def test_a_page_that_is_full_says_so(tree):
    tree.series(NAME)
    found = scene_of(tree, Shelf(room=2000))
    assert isinstance(found, Notice)
    assert "no room for more volumes" in found.what


def test_a_damaged_reference_is_a_notice(tree):
    tree.series(NAME)
    path = next(tree.root.rglob("*_boldref.nii.gz"))
    path.write_bytes(path.read_bytes()[:300])
    found = scene_of(tree, Shelf())
    assert isinstance(found, Notice)
    assert path.name in found.what


def test_the_viewer_is_left_out_where_it_is_not_wanted(tree, monkeypatch):
    tree.series(NAME)
    monkeypatch.setattr(subject, "build_models", lambda *_: [])
    monkeypatch.setattr(subject.Tissues, "white", None)
    on = subject.write_subject_page(tree.root, "01").read_text()
    off = subject.write_subject_page(tree.root, "01", viewer="off").read_text()
    assert "data-viewer" in on
    assert on.count('<template id="niivue-library">') == 1
    assert "<template" not in off
    assert "data-viewer" not in off
    assert len(off) < len(on) - len(viewer_library())
    for ident in re.findall(r'data-volume="([^"]+)"', on):
        assert f'<template id="{ident}">' in on


def hashes(texts) -> set[str]:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return {f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests}


def test_the_policy_of_a_page_names_its_scripts_and_no_other_may_run(tree, monkeypatch):
    tree.series(NAME)
    monkeypatch.setattr(subject, "build_models", lambda *_: [])
    monkeypatch.setattr(subject.Tissues, "white", None)
    for choice, inserted in (("on", [inserted_script()]), ("off", [])):
        page = subject.write_subject_page(tree.root, "01", viewer=choice).read_text()
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
        assert policy is not None
        [allowed] = re.findall(r"script-src ([^;]*)", policy[1])
        scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
        assert len(scripts) == 1
        assert set(allowed.split()) == hashes([*scripts, *inserted])


def test_the_script_of_the_viewer_is_the_one_that_the_page_inserts():
    script = (Path(viewer.__file__).parent / "templates" / "viewer.js").read_text()
    [(before, after)] = re.findall(r"textContent = `(.*)\$\{source\}(.*)`;", script)
    library = gzip.decompress(base64.b64decode(viewer_library())).decode()
    assert inserted_script() == before + library + after


def test_the_library_is_the_one_that_its_notice_names():
    script = gzip.decompress(base64.b64decode(viewer_library()))
    told = (ROOT / "scripts" / "viewer" / "README.md").read_text()
    digest = re.search(r"`([0-9a-f]{64})`", told)
    assert digest is not None
    assert hashlib.sha256(script).hexdigest() == digest[1]
    assert digest[1] in (ROOT / "NOTICE").read_text()
    assert len(viewer_library()) < 450_000


@pytest.mark.parametrize("word", [b"eval(", b"new Function", b"importScripts", b"new Worker"])
def test_the_library_does_nothing_that_the_policy_of_the_page_forbids(word):
    assert word not in gzip.decompress(base64.b64decode(viewer_library()))


def test_figures_and_volumes_keep_a_page_under_fifteen_megabytes():
    assert viewer.PAGE + 450_000 + 1e6 < 15e6  # characters: the library, and all words


def test_volumes_give_way_to_the_figures_of_many_runs(tree, monkeypatch):
    """Of a page of one run the volumes stay; where figures take its room they are left out."""
    tree.series(NAME)
    monkeypatch.setattr(subject, "build_models", lambda *_: [])
    whole = subject.write_subject_page(tree.root, "01").read_text()
    monkeypatch.setattr(viewer, "PAGE", 10_000)  # less than the figures take
    full = subject.write_subject_page(tree.root, "01").read_text()
    assert "data-viewer" in whole
    assert "data-viewer" not in full
    assert "This run is not in the viewer: the page has no room for more volumes." in full
    assert full.count("<figure") == whole.count("<figure") - 1


def test_a_panel_knows_what_it_takes_in_the_page(tree):
    tree.series(NAME)
    run = read_participant(tree.root, "01").runs[0]
    panels = build_functional(run, None).panels
    mosaics = [panel for panel in panels if panel.mosaic]
    charts = [panel for panel in panels if not panel.mosaic]
    for panel in mosaics:
        images = sum(map(len, panel.mosaic.images.values()))
        assert panel.size == images + len(panel.mosaic.overlay) > 10_000
    assert all(panel.size == len(panel.svg) > 1000 for panel in charts)
    assert mosaics
    assert charts
