"""Outputs: their names, how they come into being, and where they may not go."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.bids_app.derivatives import (
    copy_aside,
    derivative_path,
    embedding_table,
    move_aside,
    read_embedding,
    write_json,
    write_text,
)
from neurostorm_app.bids_app.describe import (
    bids_uri,
    check_output_dir,
    check_owner,
    describe_output,
)
from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.inputs.links import follow_uri
from neurostorm_app.bids_app.participant.image_sidecars import carried, image_sidecar, series_facts
from neurostorm_app.bids_app.participant.images import (
    ANAT,
    CONFOUNDS,
    anat_in,
    maps_between,
    of_field,
    of_fieldmap,
    of_fit,
    references_in,
    series_in,
)
from neurostorm_app.bids_app.provenance import sha256_of
from neurostorm_app.errors import CannotCreateError, DataError
from neurostorm_app.pipelines.stage import Fieldmap, OutputSpace

from .conftest import POISON


def raising(error):
    def fail(*_):
        raise error

    return fail


def name_of(root, name="sub-01_task-rest", datatype="func", **entities):
    return derivative_path(
        root, name, datatype, suffix="bold", extension=".nii.gz", entities=entities
    )


def test_entities_stand_in_the_order_of_bids(tmp_path):
    path = name_of(tmp_path, desc="preproc", res="2", space="MNI152NLin6Asym")
    assert path.name == "sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"


def test_sessions_have_their_folder(tmp_path):
    path = name_of(tmp_path, name="sub-01_ses-a_task-rest")
    assert path.parent == tmp_path / "sub-01" / "ses-a" / "func"


def test_what_is_left_out_leaves_no_trace(tmp_path):
    assert name_of(tmp_path, space="T1w", res=None).name == "sub-01_task-rest_space-T1w_bold.nii.gz"


@pytest.mark.parametrize(
    ("name", "datatype", "desc"),
    [
        ("sub-01/../../etc", "func", "x"),
        ("sub-01_task-../x", "func", "x"),
        ("ses-01", "func", "x"),
        ("sub-01", "../func", "x"),
        ("sub-01", "func", "../x"),
        ("sub-01", "func", ""),
        ("sub-01\n", "func", "x"),
    ],
)
def test_no_name_leaves_the_output_folder(tmp_path, name, datatype, desc):
    with pytest.raises(DataError, match="cannot name an output of"):
        name_of(tmp_path, name=name, datatype=datatype, desc=desc)


def test_an_entity_that_outputs_do_not_have_is_refused(tmp_path):
    with pytest.raises(DataError, match="are not entities of outputs"):
        name_of(tmp_path, hemi="L")


@pytest.mark.parametrize("name", ["sub-01_bold extra.nii", "bold.nii", "sub-0 1_bold.nii"])
def test_names_that_are_not_bids_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="is not a BIDS name"):
        parse_name(tmp_path / name)


NATIVE, T1W = OutputSpace(name="native"), OutputSpace(name="T1w")
MNI = OutputSpace(name="MNI152NLin6Asym", res="2")
COARSE = OutputSpace(name="MNI152NLin6Asym", res="native")


def names_of(root, outputs, name="sub-01_task-x"):
    return [
        derivative_path(
            root,
            name,
            output.datatype,
            suffix=output.suffix,
            extension=output.extension,
            entities=output.entities,
        ).relative_to(root)
        for output in outputs
    ]


def test_all_outputs_have_names_of_their_own(tmp_path):
    outputs = [*ANAT, *of_fit(), *of_field("a1"), *of_fieldmap("a1", "pepolar"), *CONFOUNDS]
    for space in (NATIVE, T1W, MNI, COARSE):
        outputs += [*references_in(space), *series_in(space)]
    outputs += [*anat_in(MNI), *maps_between("T1w", "MNI152NLin6Asym", datatype="anat")]
    assert len(set(names_of(tmp_path, outputs))) == len(outputs)


@pytest.mark.parametrize(
    ("outputs", "name", "expected"),
    [
        (series_in(NATIVE), "sub-01_task-x", "func/sub-01_task-x_desc-preproc_bold.nii.gz"),
        (series_in(T1W), "sub-01_task-x", "func/sub-01_task-x_space-T1w_desc-preproc_bold.nii.gz"),
        (
            series_in(COARSE),
            "sub-01_task-x",
            "func/sub-01_task-x_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
        ),
        (of_fit()[5:6], "sub-01_task-x", "func/sub-01_task-x_T2starmap.nii.gz"),
        (
            of_field("auto00000")[:1],
            "sub-01_task-x",
            "func/sub-01_task-x_from-boldref_to-auto00000_mode-image_desc-fmap_xfm.txt",
        ),
        (
            of_fieldmap("auto00000", "phasediff")[:1],
            "sub-01",
            "fmap/sub-01_fmapid-auto00000_desc-preproc_fieldmap.nii.gz",
        ),
        (
            of_fieldmap("auto00000", "phasediff")[2:3],
            "sub-01",
            "fmap/sub-01_fmapid-auto00000_desc-magnitude_fieldmap.nii.gz",
        ),
        (
            of_fieldmap("pa", "pepolar")[2:3],
            "sub-01",
            "fmap/sub-01_fmapid-pa_desc-epi_fieldmap.nii.gz",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_files_are_named_as_fmriprep_names_them(tmp_path, outputs, name, expected):
    assert str(names_of(tmp_path, outputs, name)[0]) == f"sub-01/{expected}"


def test_the_sidecar_of_a_series_says_what_was_corrected():
    raw = {"RepetitionTime": 2.0, "SliceTiming": [0.0, 1.0], **POISON}
    qc = {
        "reference": {"slice_timing": {"reference_s": 0.5}, "notes": ["no field map"]},
        "distortion": {"shift_mm": 2.5, "jacobian": True, "deep": {"x": 1}},
    }
    fieldmap = Fieldmap(name="pe", kind="pepolar", scans=())
    facts = series_facts(raw, qc, fieldmap)
    sidecar = image_sidecar(
        series_in(T1W)[0], sources=["bids:raw:x"], reference="bids::t1w", about=facts
    )
    assert sidecar == {
        "SkullStripped": False,
        "RepetitionTime": 2.0,
        "SliceTimingCorrected": True,
        "StartTime": 0.5,
        "DistortionCorrection": {
            "Method": "pepolar",
            "FieldMap": "pe",
            "shift_mm": 2.5,
            "jacobian": True,
        },
        "Notes": ["no field map"],
        "SpatialReference": "bids::t1w",
        "Sources": ["bids:raw:x"],
    }


def test_slice_times_stay_where_they_were_not_corrected():
    facts = series_facts({"SliceTiming": [0.0, 1.0]}, {"reference": {"slice_timing": None}})
    assert facts == {"SliceTimingCorrected": False, "SliceTiming": [0.0, 1.0]}
    assert series_facts({"SliceTiming": [0.0, 1.0]}, {}) == {}


def test_only_what_has_a_resolution_in_its_name_says_it():
    assert "2 mm" in image_sidecar(series_in(MNI)[0], sources=[])["Resolution"]
    assert "Resolution" not in image_sidecar(series_in(COARSE)[0], sources=[])


def test_a_file_on_the_same_disk_is_moved_and_not_copied(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    inode, expected = source.stat().st_ino, sha256_of(source)
    target = tmp_path / "folder" / "target"
    assert move_aside(source, target, root=tmp_path) == expected == sha256_of(target)
    assert not source.exists()
    assert target.stat().st_ino == inode


def test_a_file_on_another_disk_is_copied_and_removed(tmp_path):
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        source = Path(folder) / "source"
        source.write_bytes(b"series")
        move_aside(source, tmp_path / "target")
        assert not source.exists()
    assert (tmp_path / "target").read_bytes() == b"series"


def test_nothing_is_moved_out_of_the_output_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out / "sub-01").symlink_to(tmp_path / "elsewhere")
    (out / "source").write_text("x")
    with pytest.raises(CannotCreateError, match="would leave the output folder"):
        move_aside(out / "source", out / "sub-01" / "file", root=out)


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            write_text(path, "new")
    assert path.read_text() == "old"
    with pytest.raises(FileNotFoundError):
        copy_aside(tmp_path / "none", path)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_text_that_is_no_unicode_is_written_and_json_reads_it_back(tmp_path):
    record = {"what": "J\udcf6rg", "task": "\ud800", "city": "K\u00f6ln"}
    write_json(tmp_path / "x.json", record)
    assert (tmp_path / "x.json").read_bytes().count(b"\\udcf6") == 1
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == record


def test_a_copy_says_what_it_copied(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    copied = copy_aside(source, tmp_path / "copy")
    assert copied == sha256_of(source) == sha256_of(tmp_path / "copy")


def test_outputs_can_be_read_by_the_group_as_the_umask_allows(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_link_out_of_the_output_folder_is_not_followed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out / "sub-01").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotCreateError, match="would leave the output folder"):
        write_text(out / "sub-01" / "file", "x", root=out)


def test_float32_reads_back_bit_by_bit(tmp_path, rng):
    bits = rng.integers(0, 2**32, (50, 13), dtype=np.uint32)
    vectors = bits.view(np.float32)
    vectors[~np.isfinite(vectors)] = 1e-45  # the smallest there is
    write_text(tmp_path / "x.tsv", embedding_table(vectors, {"onset": np.arange(50) * 0.1}))
    np.testing.assert_array_equal(read_embedding(tmp_path / "x.tsv"), vectors)
    header = (tmp_path / "x.tsv").read_text().split("\n")[0].split("\t")
    assert header[:3] == ["onset", "dim000", "dim001"]


def test_numbers_that_are_none_are_never_written():
    with pytest.raises(DataError, match="2 values that are not finite"):
        embedding_table(np.array([[np.nan, 1, np.inf]], dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [("dim000\nx\n", "is not a table of numbers"), ("a\n1\n", "holds no vector")],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_embedding(tmp_path / "x.tsv")


@pytest.mark.parametrize("inside", ["", "sub-01", "derivatives", "sourcedata/x", "code/out"])
def test_results_may_not_go_into_the_input(tmp_path, inside):
    with pytest.raises(CannotCreateError, match="is inside the input") as caught:
        check_output_dir(tmp_path / inside, tmp_path, None)
    assert "derivatives" in caught.value.fix


@pytest.mark.parametrize("place", ["bids/derivatives/x", "bids/derivatives/x/y", "bids-out", "out"])
def test_results_may_go_beside_the_input_and_below_its_derivatives(tmp_path, place):
    check_output_dir(tmp_path / place, tmp_path / "bids", None)
    assert (tmp_path / place).is_dir()


def test_scratch_may_not_go_into_the_input(tmp_path):
    with pytest.raises(CannotCreateError, match="is inside the input"):
        check_output_dir(tmp_path / "out", tmp_path / "bids", tmp_path / "bids" / "work")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreateError, match="cannot be written") as caught:
        check_output_dir(tmp_path / "file" / "out", tmp_path / "bids", None)
    assert caught.value.exit_code == 73


def test_the_folder_of_another_app_is_left_alone(tmp_path):
    path = tmp_path / "dataset_description.json"
    path.write_text(json.dumps({"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}]}))
    with pytest.raises(CannotCreateError, match=r"holds another dataset, made by .*fMRIPrep"):
        check_owner(tmp_path)
    path.write_text("[]")
    with pytest.raises(CannotCreateError, match="made by someone else"):
        check_owner(tmp_path)


def test_the_description_grows_and_is_left_alone_when_right(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    describe_output(out, {"raw": tmp_path / "bids"})
    describe_output(out, {"raw": tmp_path / "bids", "prep": tmp_path / "a b"})
    written = json.loads((out / "dataset_description.json").read_text())
    assert written["DatasetLinks"] == {"raw": "../bids", "prep": "../a%20b"}
    assert written["GeneratedBy"][0]["Name"] == "neurostorm-app"
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    describe_output(out, {"raw": tmp_path / "bids"})
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_the_container_names_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROSTORM_APP_CONTAINER", "docker")
    monkeypatch.setenv("NEUROSTORM_APP_TAG", "neurostorm-app:0.1.0")
    describe_output(tmp_path, {})
    maker = json.loads((tmp_path / "dataset_description.json").read_text())["GeneratedBy"][0]
    assert maker["Container"] == {"Type": "docker", "Tag": "neurostorm-app:0.1.0"}


def test_uris_name_the_dataset(tmp_path):
    roots = {"": tmp_path / "bids" / "derivatives" / "x", "raw": tmp_path / "bids"}
    assert bids_uri(tmp_path / "bids/derivatives/x/a b.tsv", roots) == "bids::a%20b.tsv"
    assert bids_uri(tmp_path / "bids/sub-01/x.nii", roots) == "bids:raw:sub-01/x.nii"
    assert bids_uri(tmp_path / "secret" / "x.nii", roots) == "x.nii"
    assert bids_uri(tmp_path / "bids/J\udcf6rg.nii", roots) == "bids:raw:J%F6rg.nii"
    assert follow_uri("bids:raw:J%F6rg.nii", roots) == tmp_path / "bids/J\udcf6rg.nii"


def test_only_known_keys_of_a_sidecar_are_carried_over():
    metadata = {"EchoTime": 0.03, "Manufacturer": "x" * 1000, "FlipAngle": {"deep": 1}, **POISON}
    assert carried(metadata) == {"EchoTime": 0.03}
