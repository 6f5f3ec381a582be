"""What may stand in an output: places, moments, faces, and keys of sidecars."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.logs import to_file
from neurostorm_app.bids_app.participant.image_sidecars import carried, image_sidecar, series_facts
from neurostorm_app.bids_app.participant.images import ANAT, of_fieldmap, of_fit
from neurostorm_app.bids_app.privacy import MOMENT, Rules, rules_of
from neurostorm_app.bids_app.settings import build_settings

PLACES = {"BIDS_DIR": Path("/data/jane/bids"), "OUTPUT_DIR": Path("/data/jane")}
LOOSE, STRICT = Rules(places=PLACES), Rules(strict=True, places=PLACES)


@pytest.mark.parametrize(
    ("text", "loose", "strict"),
    [
        ("/data/jane/bids/sub-01 is empty", "<BIDS_DIR>/sub-01 is empty", None),
        ("'/data/jane/bids'", "'<BIDS_DIR>'", None),
        ("/data/jane/bids2/x", "<OUTPUT_DIR>/bids2/x", None),
        ("/data/janet/x.nii: bad", "/data/janet/x.nii: bad", "<hidden>/x.nii: bad"),
        (
            'File "/opt/x/y.py", line 3',
            'File "/opt/x/y.py", line 3',
            'File "<hidden>/y.py", line 3',
        ),
        ("began 2020-02-02T02:02:02+00:00.", None, "began <hidden>."),
        ("born 19700101", None, "born <hidden>"),
        ("bids:raw:sub-20200202/anat/x", None, None),
        ("https://example.org/a/b and 3/4 mm and and/or", None, None),
        ("space-MNI152NLin2009cAsym_res-2", None, None),
        ("2020020200aa11bb", None, None),
    ],
)
def test_places_are_hidden_and_if_strict_all_paths_and_moments(text, loose, strict):
    loose = text if loose is None else loose
    assert LOOSE.text(text) == loose
    assert STRICT.text(text) == (loose if strict is None else strict)


def test_the_home_folder_is_hidden_always(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    assert Rules().text("/home/jane/x and /home/janet/y") == "~/x and /home/janet/y"
    assert Rules(strict=True).text("/home/jane/z/x") == "<hidden>/x"


def test_a_record_loses_moments_and_what_tells_the_machine_if_strict():
    record = {
        "started": "2020-02-02T02:02:02+00:00",
        "seconds": 3.5,
        "hostname": "scanner7",
        "errors": [{"what": "/data/jane/bids/x is empty"}],
        "stamps": {"/data/jane/y": {"size": 5, "mtime": 1580608922, "sha256": "ab"}},
        "none": None,
    }
    assert STRICT.record(record) == {
        "seconds": 3.5,
        "errors": [{"what": "<BIDS_DIR>/x is empty"}],
        "stamps": {"<OUTPUT_DIR>/y": {"size": 5, "mtime": 0, "sha256": "ab"}},
        "none": None,
    }
    loose = LOOSE.record(record)
    assert (loose["started"], loose["hostname"]) == (record["started"], "scanner7")
    assert loose["errors"] == [{"what": "<BIDS_DIR>/x is empty"}]


def test_every_path_among_the_settings_is_a_place(tmp_path):
    (tmp_path / "prep").mkdir()
    options = {"derivatives": {"prep": str(tmp_path / "prep")}, "work_dir": tmp_path / "w"}
    settings = build_settings(tmp_path / "bids", tmp_path / "out", "participant", options)
    rules = rules_of(settings, strict=False)
    text = f"{tmp_path}/bids/a {tmp_path}/out/b {tmp_path}/prep/c {tmp_path}/w/d"
    assert rules.text(text) == "<BIDS_DIR>/a <OUTPUT_DIR>/b <DERIVATIVES prep>/c <WORK_DIR>/d"


def test_a_link_to_a_dataset_is_its_name_alone_if_strict():
    assert LOOSE.link("raw", "../jane/bids") == "../jane/bids"
    assert STRICT.link("raw", "../jane/bids") == "hidden://raw"


def test_images_with_a_face_are_masked_if_strict_and_no_others():
    outputs = (*ANAT, *of_fit(), *of_fieldmap("1", "phasediff"))
    masked = {o.role: STRICT.mask_of(o) for o in outputs if STRICT.mask_of(o)}
    assert masked == {"t1w": "mask", "fmap_reference": "fmap_mask"}
    assert [o.role for o in outputs if LOOSE.mask_of(o)] == []
    assert image_sidecar(ANAT[0], sources=())["SkullStripped"] is False
    assert image_sidecar(ANAT[0], sources=(), masked=True)["SkullStripped"] is True


@pytest.mark.parametrize("strict", [False, True])
def test_a_log_names_neither_places_nor_if_strict_the_moment(tmp_path, strict):
    rules = Rules(strict=strict, places={"BIDS_DIR": tmp_path / "jane"})
    with to_file(tmp_path / "logs", rules) as path:
        log = logging.getLogger("neurostorm_app.x")
        log.info("read %s", tmp_path / "jane" / "sub-01")
        log.error("unexpected", exc_info=OSError(2, "gone", str(tmp_path / "jane" / "x")))
    said = path.read_text()
    assert "<BIDS_DIR>/sub-01" in said
    assert "<BIDS_DIR>/x" in said
    assert "jane" not in said
    assert ("T" in said.split()[0]) is not strict
    assert path.name.startswith("call-0001") is strict


def test_logs_of_two_strict_calls_are_two_files(tmp_path):
    rules = Rules(strict=True)
    with to_file(tmp_path, rules) as first, to_file(tmp_path, rules) as second:
        assert (first.name, second.name) == ("call-0001.log", "call-0002.log")


def test_of_a_sidecar_known_keys_are_carried_over_if_they_are_what_they_should_be():
    raw = {
        "TaskName": "rest",
        "RepetitionTime": 2.0,
        "EchoTime": "Jane Doe",
        "FlipAngle": float("nan"),
        "Manufacturer": "x" * 101,
        "ManufacturersModelName": "Prisma\nJane Doe",
        "PhaseEncodingDirection": {"name": "Jane Doe"},
        "MagneticFieldStrength": True,
        "PatientName": "Jane Doe",
        "ReferringPhysicianName": "Jane Doe",
    }
    assert carried(raw) == {"TaskName": "rest", "RepetitionTime": 2.0}


@pytest.mark.parametrize("times", [["Jane Doe"], [0.0, None], [[0.0]]])
def test_slice_times_that_are_no_numbers_are_not_carried_over(times):
    assert "SliceTiming" not in series_facts({"SliceTiming": times}, {"slice_timing": None})
    given = series_facts({"SliceTiming": [0.0, 0.5]}, {"slice_timing": None})
    assert given["SliceTiming"] == [0.0, 0.5]


def test_a_strict_call_writes_no_face_no_folder_and_no_moment(settings, fake, tmp_path):
    run_app(settings(privacy="strict", anat_only=True), engines=fake.engines())
    out = tmp_path / "out"
    images = sorted(out.rglob("*_desc-preproc_T1w.nii.gz"))
    assert len(images) == 2 * 3  # people; native and two standard spaces
    for path in images:
        mask = path.with_name(path.name.replace("preproc_T1w", "brain_mask"))
        volume, brain = (nib.load(one).get_fdata() for one in (path, mask))
        assert volume[brain > 0].any()
        assert not volume[brain == 0].any()
        said = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert said["SkullStripped"] is True
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert links["raw"] == "hidden://raw"
    for path in (*out.glob("logs/*"), *out.glob("prov/*")):
        text = path.read_text()
        assert str(tmp_path) not in text
        assert not MOMENT.search(text), path


@pytest.mark.parametrize("privacy", ["standard", "strict"])
def test_pages_follow_the_privacy_of_the_call(settings, tmp_path, privacy):
    out = tmp_path / "out"
    (out / "logs").mkdir(parents=True)
    (out / "sub-01").mkdir()
    report = {"run": "sub-01_task-rest", "status": "done"}
    (out / "logs" / "sub-01_task-rest_report.json").write_text(json.dumps(report))
    stored = {"sub-01_task-rest": {"measures": {"/mnt/jane/x": 1}, "verdict": {}}}
    (out / "logs" / "sub-01_measures.json").write_text(json.dumps(stored))
    (out / "logs" / "sub-01_qc.json").write_text("[1]")
    run_app(settings("group", reports_only=True, privacy=privacy))
    run_app(settings("participant", reports_only=True, privacy=privacy))
    group, subject = ((out / name).read_text() for name in ("group.html", "sub-01.html"))
    assert ("/mnt/jane" in group) == (privacy == "standard")
    assert "/sub-01_qc.json: holds a list" in group
    assert str(tmp_path) not in group + subject
