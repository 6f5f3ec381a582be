"""A dataset full of names, birth dates and serial numbers: no byte of them in any output.

Each poisoned field holds a word of its own that begins with one mark, so that a leak names itself.
"""

from __future__ import annotations

import gzip
import json
import re
from functools import partial

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from nibabel.nifti1 import Nifti1Extension

from neurostorm_app import run
from neurostorm_app.bids_app.cli import main_inner
from neurostorm_app.bids_app.engines import real_engines
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.pipelines.phantom import make_phantom

from .conftest import Dataset, Fake, write_image
from .test_bad_input import BAD, GOOD, SPACE, write_series

MARK = b"ZqPoison"
KEYS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientComments",
    "DeviceSerialNumber",
    "StationName",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "SeriesInstanceUID",
    "StudyDescription",
    "ProtocolName",
    "SeriesDescription",
    "ReferringPhysicianName",
    "OperatorsName",
    "ImageComments",
    "TaskDescription",
    "Instructions",
    "ConversionSoftware",
)
HEADER = ("descrip", "intent_name", "aux_file", "db_name")


def word(field):
    return f"{MARK.decode()}{field}"


def poison(root):
    """Put words into every sidecar, header, extension and table of people below a folder."""
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text())
        if path.name != "dataset_description.json":
            path.write_text(json.dumps(content | {key: word(key) for key in KEYS}))
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        data = np.asarray(image.dataobj)
        new = nib.Nifti1Image(data, image.affine, image.header)
        for field in HEADER:
            new.header[field] = word(field)[: new.header[field].dtype.itemsize].encode()
        new.header.extensions.append(Nifti1Extension("comment", word("Extension").encode()))
        path.write_bytes(gzip.compress(new.to_bytes(), 1))
    people = sorted(path.name for path in root.glob("sub-*"))
    rows = [f"{who}\t40\t{word('Name')}\t{word('Born')}" for who in people]
    table = "\n".join(["participant_id\tage\tname\tborn", *rows])
    (root / "participants.tsv").write_text(table + "\n")


def leaks(out):
    """Find the mark in all files below a folder, unpacked, and in their names."""
    found = set()
    for path in out.rglob("*"):
        content = path.name.encode()
        if path.is_file():
            raw = path.read_bytes()
            content += gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                content += str(table.to_pylist()).encode() + str(table.schema.metadata).encode()
        for hit in re.findall(rb".{0,30}" + MARK + rb"\w*", content):
            found.add(f"{path.relative_to(out)}: {hit!r}")
    return sorted(found)


def test_the_search_finds_what_is_packed(tmp_path):
    for name, content in (("a.nii.gz", gzip.compress(MARK)), ("b.txt", b"x" + MARK)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / word("Name")).mkdir()
    assert len(leaks(tmp_path)) == 3


@pytest.fixture
def preprocessed(tmp_path):
    """A poisoned dataset whose runs are preprocessed, by a poisoned derivative."""
    home = tmp_path / word("User")
    Dataset(home / "bids").participant("01", runs=())
    func = home / "prep" / "sub-01" / "func"
    for seed, name in enumerate((GOOD, BAD)):
        write_series(func, name, seed=seed)
    poison(home / "bids")
    poison(home / "prep")
    return home


def call(home, level, *words):
    words = [str(home / "bids"), str(home / "out"), level, "-d", f"prep={home / 'prep'}", *words]
    words.append("--skip-bids-validation")
    return guarded("neurostorm-app", partial(main_inner, engines=real_engines()), words)


def test_nothing_of_a_derivative_and_its_people_is_in_an_output(preprocessed):
    assert call(preprocessed, "participant") == 0
    assert call(preprocessed, "group") == 0
    made = (preprocessed / "out").rglob(f"{GOOD}_{SPACE}_desc-connectome_embedding.*")
    assert len(list(made)) == 3  # the table, its sidecar, its record
    assert leaks(preprocessed / "out") == []


def test_a_failure_names_the_file_but_not_the_folder_of_the_user(preprocessed):
    bad = next(preprocessed.rglob(f"{BAD}_{SPACE}_desc-preproc_bold.nii.gz"))
    bad.write_bytes(bad.read_bytes()[:5000])
    assert call(preprocessed, "participant") == 65
    report = (preprocessed / "out" / "logs" / f"{BAD}_report.json").read_text()
    assert bad.name in report
    assert leaks(preprocessed / "out") == []


def test_text_from_a_dataset_is_escaped_on_the_pages(preprocessed):
    evil = "<script>alert(1)</script>"
    for path in (preprocessed / "prep").rglob("*_bold.json"):
        tr = evil if path.name.startswith(BAD) else 2.0
        about = {"RepetitionTime": tr, "TaskName": evil, "InstitutionName": evil}
        path.write_text(json.dumps(about))
    people = f"participant_id\tsite\tage\nsub-01\t{evil}\t40\n"
    (preprocessed / "bids" / "participants.tsv").write_text(people)
    assert call(preprocessed, "participant") == 65
    assert call(preprocessed, "group") == 0
    report = json.loads((preprocessed / "out" / "logs" / f"{BAD}_report.json").read_text())
    assert "RepetitionTime is a text of 25 letters" in report["error"]["what"]
    pages = [path.read_text() for path in (preprocessed / "out").glob("*.html")]
    assert len(pages) == 2
    assert [page for page in pages if evil in page] == []
    assert any("&lt;script&gt;alert(1)" in page for page in pages)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (f"{word('Jane')} Doe", []),
        (f"Doe^{word('Jane')}", []),
        (f"{word('Born')}_1970", []),
        (f"{word('Serial')}-471100", []),
        (word("Long") * 20, []),
        (word("Doe"), ["--privacy", "strict"]),
    ],
)
def test_nothing_of_the_name_of_a_field_is_in_an_output(tmp_path, words, options):
    dataset = Dataset(tmp_path / "bids")
    dataset.participant("01", runs=("1",))
    for label, axis in (("AP", "j-"), ("PA", "j")):
        stem = f"sub-01/fmap/sub-01_dir-{label}_epi"
        write_image(dataset.root / f"{stem}.nii.gz", (7, 8, 9))
        dataset.json(f"{stem}.json", {"PhaseEncodingDirection": axis, "B0FieldIdentifier": words})
    dataset.json("sub-01/sub-01_task-rest_bold.json", {"B0FieldSource": words})
    asked = [str(dataset.root), str(tmp_path / "out"), "participant", "--skip-bids-validation"]
    engines = Fake().engines()
    assert guarded("x", partial(main_inner, engines=engines), [*asked, *options]) == 0
    assert list((tmp_path / "out").rglob("sub-01_fmapid-auto00000_desc-preproc_fieldmap.nii.gz"))
    assert leaks(tmp_path / "out") == []


@pytest.mark.parametrize("strict", [False, True])
def test_one_file_says_where_the_dataset_is_and_if_strict_none(tmp_path, strict):
    home, out = tmp_path / word("User"), tmp_path / "out"
    Dataset(home / "bids").participant("01", runs=("1",))
    asked = [str(home / "bids"), str(out), "participant", "--skip-bids-validation"]
    asked += ["--privacy", "strict"] if strict else []
    assert guarded("x", partial(main_inner, engines=Fake().engines()), asked) == 0
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert links == {"raw": "hidden://raw" if strict else f"../{word('User')}/bids"}
    told = {leak.partition(":")[0] for leak in leaks(out)}
    assert told == (set() if strict else {"dataset_description.json"})


@pytest.mark.slow
def test_nothing_of_a_raw_dataset_is_in_an_output(tmp_path):
    home = tmp_path / word("User")
    make_phantom(home / "bids", participants=1, runs=1, seed=5, scale="tiny")
    poison(home / "bids")
    options = {"models": ("connectome",), "skip_bids_validation": True}
    done = run(home / "bids", home / "out", "participant", **options)
    assert done.exit_code == 0
    assert run(home / "bids", home / "out", "group").exit_code == 0
    assert len(list((home / "out").rglob("*desc-preproc_T1w.nii.gz"))) >= 1
    assert leaks(home / "out") == []
