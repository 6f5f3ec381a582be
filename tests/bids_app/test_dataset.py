"""Finding runs: only what was asked for is opened, and bad runs fail alone."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter

import pytest

from neurostorm_app.bids_app.clusters.status import REPORT
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.bids_app.inputs.misnamed import MISNAMED
from neurostorm_app.bids_app.inputs.sidecars import read_sidecar
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.errors import (
    BidsError,
    CorruptImageError,
    DataError,
    NoInputError,
    NothingSelectedError,
    UsageError,
)

from .conftest import Dataset, write_image

RUN = "sub-01_task-rest_run-1"


@pytest.fixture
def names(settings):
    """Names of the runs that the options select."""

    def find(**options):
        found = find_runs(settings(**options))
        return [run.name for p in found.participants for run in p.raw]

    return find


@pytest.fixture
def failure(settings):
    """The error of one run, and how many others are usable."""

    def find(name, **options):
        found = find_runs(settings(**options))
        return found.failed[name], sum(len(p.raw) for p in found.participants)

    return find


def test_all_runs_are_found_with_what_is_known_of_them(settings, dataset):
    found = find_runs(settings())
    assert [p.label for p in found.participants] == ["01", "02"]
    run = found.participants[0].raw[0]
    assert (run.name, run.participant, run.tr) == (RUN, "01", 2.0)
    assert run.bold == dataset.bold("01")
    assert run.metadata["TaskName"] == "rest"
    assert [p.name for p in found.participants[0].t1w] == ["sub-01_T1w.nii.gz"]


def test_nothing_is_written_into_the_dataset(settings, dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.root.rglob("*")}
    find_runs(settings())
    assert {path: path.stat().st_mtime_ns for path in dataset.root.rglob("*")} == before


def test_participants_that_were_not_asked_for_are_never_opened(names, dataset):
    (dataset.root / "sub-03").symlink_to("nowhere")
    folder = dataset.root / "sub-04" / "func"
    folder.mkdir(parents=True)
    (folder / "sub-04_task-rest_bold.nii.gz").symlink_to("../../.git/annex/objects/x")
    dataset.json("sub-04/func/sub-04_task-rest_bold.json", []).write_text("{ broken")
    closed = dataset.root / "sub-02"
    closed.chmod(0)
    try:
        assert names(participant_label=["01"]) == [RUN, RUN.replace("run-1", "run-2")]
    finally:
        closed.chmod(0o755)


def test_a_label_that_begins_another_is_not_taken_for_it(names, dataset):
    dataset.participant("011", runs=("1",))
    assert all(name.startswith("sub-01_") for name in names(participant_label=["01"]))


def test_an_annexed_scan_that_is_not_here_is_named_with_its_cure(failure, dataset):
    dataset.bold("01").unlink()
    dataset.bold("01").symlink_to("../../.git/annex/objects/x")
    error, others = failure(RUN)
    assert isinstance(error, NoInputError)
    assert "is a link to content that is not on this machine" in error.what
    assert f"datalad get {dataset.bold('01')}" in error.fix
    assert others == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"task_label": ["rest"]}, 4),
        ({"run_label": ["2"]}, 2),
        ({"run_label": ["02"]}, 2),
        ({"participant_label": ["02"], "run_label": ["1"]}, 1),
    ],
)
def test_labels_select_runs(names, options, expected):
    assert len(names(**options)) == expected


def test_sessions_are_selected_and_anatomy_is_not(settings, dataset):
    dataset.participant("05", session="a", runs=("1",))
    dataset.participant("05", session="b", runs=("1",))
    found = find_runs(settings(session_label=["b"]))
    (participant,) = found.participants
    assert [run.name for run in participant.raw] == ["sub-05_ses-b_task-rest_run-1"]
    assert len(participant.t1w) == 2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"run": "1"}, 2),
        ({"run": ["1", "2"]}, 4),
        ({"session": None}, 4),
        ({"session": "*"}, 0),
        ({"run": "*", "task": "rest"}, 4),
        ({"suffix": "bold", "datatype": "func"}, 4),
    ],
    ids=str,
)
def test_a_filter_file_selects_as_in_fmriprep(names, dataset, tmp_path, query, expected):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"bold": query, "fmap": {"acquisition": "x"}}))
    if expected:
        assert len(names(bids_filter_file=path)) == expected
    else:
        with pytest.raises(NothingSelectedError, match="the selection leaves no BOLD run"):
            names(bids_filter_file=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object of queries"),
        ('{"bold": {"sesion": "1"}}', "sesion.* is not an entity"),
        ('{"bold": {"session": "../.."}}', "bold: session: .* is not a BIDS label"),
    ],
)
def test_a_wrong_filter_file_is_explained(names, tmp_path, content, message):
    path = tmp_path / "filter.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        names(bids_filter_file=path)


def test_a_filter_file_that_is_not_there_is_no_input(names, tmp_path):
    with pytest.raises(NoInputError, match=r"--bids-filter-file: .* does not exist"):
        names(bids_filter_file=tmp_path / "none.json")


def test_one_entity_is_selected_in_one_place(names, tmp_path):
    path = tmp_path / "filter.json"
    path.write_text('{"bold": {"task": "rest"}}')
    with pytest.raises(UsageError, match="is selected by an option and by"):
        names(bids_filter_file=path, task_label=["rest"])


def test_a_folder_that_is_not_bids_is_refused(settings, dataset):
    (dataset.root / "dataset_description.json").unlink()
    with pytest.raises(BidsError, match=r"is not a BIDS dataset: dataset_description.json"):
        find_runs(settings(skip_bids_validation=False))


def test_a_file_is_not_a_dataset(settings, dataset, tmp_path):
    from neurostorm_app.bids_app.settings import build_settings

    (tmp_path / "file").touch()
    with pytest.raises(NoInputError, match="is not a folder"):
        find_runs(build_settings(tmp_path / "file", tmp_path / "out", "participant", {}))


def test_a_dataset_without_bold_is_no_input(names, dataset):
    for path in dataset.root.rglob("*_bold.nii.gz"):
        path.unlink()
    with pytest.raises(NoInputError, match="holds no BOLD run; expected sub-"):
        names()


def test_a_selection_of_nothing_has_its_own_code(names):
    with pytest.raises(NothingSelectedError, match="the selection leaves no BOLD run") as caught:
        names(task_label=["nback"])
    assert caught.value.exit_code == 18


def test_a_label_that_no_run_has_is_told_beside_others_that_are_taken(names, caplog):
    assert len(names(task_label=["rest", "rset"], run_label=["01", "2"])) == 4
    assert "no run is selected by --task-label rset: did you mean rest?" in caplog.text
    assert "--run-label" not in caplog.text
    caplog.clear()
    assert len(names(task_label=["rest"], participant_label=["01"])) == 2
    assert "no run is selected" not in caplog.text


def test_an_unknown_participant_is_told_with_near_ones(names):
    with pytest.raises(NothingSelectedError, match="participant '1' is not in") as caught:
        names(participant_label=["1"])
    assert "there are 2: 01, 02" in caught.value.what


def test_a_run_without_t1w_is_taken_and_says_so_loudly(settings, dataset, caplog):
    dataset.participant("03", runs=("1",), t1w=False)
    found = find_runs(settings(participant_label=["03"]))
    (run,) = found.participants[0].raw
    assert run.notes[0].startswith("NO T1w IMAGE: the BOLD reference was registered straight")
    assert "sub-03_task-rest_run-1: NO T1w IMAGE" in caplog.text


def test_t1w_space_without_t1w_is_refused(failure, dataset):
    dataset.participant("03", runs=("1",), t1w=False)
    spaces = ["MNI152NLin6Asym:res-2", "T1w"]
    error, others = failure("sub-03_task-rest_run-1", output_spaces=spaces)
    assert isinstance(error, NoInputError)
    assert "series in T1w space are asked for, and there is no T1w image" in error.what
    assert "--output-spaces" in error.fix
    assert others == 4


def test_a_subdataset_that_is_not_here_is_named_with_its_cure(failure, names, dataset):
    (dataset.root / "sub-03").mkdir()
    error, others = failure("sub-03")
    assert isinstance(error, NoInputError)
    assert "holds no image; expected some in [ses-*/]func" in error.what
    assert f"datalad get {dataset.root / 'sub-03'}" in error.fix
    assert others == 4
    (dataset.root / "sub-03" / "dwi").mkdir()
    assert len(names()) == 4
    error, others = failure("sub-03", participant_label=["01", "03"])
    assert "holds no image" in error.what
    assert others == 2


def test_a_link_to_a_participant_that_is_not_here_is_named(failure, dataset):
    (dataset.root / "sub-03").symlink_to("../.git/annex/sub-03")
    (dataset.root / "sub-04").mkdir()
    (dataset.root / "sub-04" / "func").symlink_to("nowhere")
    for place in ("sub-03", "sub-04/func"):
        error, others = failure(place.partition("/")[0])
        assert f"{place} is a link to content that is not on this machine" in error.what
        assert f"datalad get {dataset.root / place}" in error.fix
        assert others == 4


def test_links_that_lead_around_or_out_are_not_followed_as_folders_of_images(names, dataset):
    (dataset.root / "sub-01" / "func" / "loop").symlink_to("..", target_is_directory=True)
    (dataset.root / "sub-01" / "ses-out").symlink_to("/", target_is_directory=True)
    (dataset.root / "sub-02" / "code").symlink_to("..", target_is_directory=True)
    assert len(names()) == 4


def test_a_bad_name_is_kept_under_the_participant_whose_folder_it_is_in(settings, dataset):
    for folder in ("sub-01/func", "sub-02/func", "sub-02/ses-a/func"):
        place = dataset.root / folder
        for name in ("rest_bold.nii.gz", "sub-02_task-re st_bold.nii.gz", "J\udcf6rg_bold.nii"):
            place.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
    (dataset.root / "sub-01/func/sub-02_task-rest_run-1_bold.nii.gz").touch()
    found = find_runs(settings())
    assert sum(len(p.raw) for p in found.participants) == 4
    owners = [name.rpartition("_file-")[0] for name in found.failed]
    assert Counter(owners) == {"sub-01": 4, "sub-02": 3, "sub-02_ses-a": 3}
    assert all(MISNAMED.fullmatch(name) for name in found.failed)
    assert all(REPORT.fullmatch(f"{name}_report.json") for name in found.failed)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("func/task-rest_bold.nii.gz", "'task-rest_bold.nii.gz' does not begin with a participant"),
        ("fmap/dir-AP_epi.nii.gz", "does not begin with a participant; expected sub-<label> first"),
        ("anat/acq-a_sub-01_T1w.nii.gz", "does not begin with a participant"),
        ("ses-a b/func/sub-01_task-rest_bold.nii.gz", "'ses-a b', which names no session"),
        ("func/sub-01_task-x_desc-%s_bold.nii.gz" % ("a" * 140), "letters before its suffix"),
    ],
)
def test_an_image_after_which_no_result_can_be_named_fails_alone(settings, dataset, place, message):
    path = dataset.root / "sub-01" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dataset.bold("01").read_bytes())
    found = find_runs(settings())
    assert sum(len(p.raw) for p in found.participants) == 4
    ((name, error),) = found.failed.items()
    assert name.startswith("sub-01_")
    assert message in error.what


def test_folders_above_the_dataset_may_have_any_name(tmp_path):
    root = tmp_path / "ses-a b" / "sub-x y"
    Dataset(root).participant("01")
    options = {"skip_bids_validation": True}
    found = find_runs(build_settings(root, tmp_path / "out", "participant", options))
    assert len(found.participants[0].raw) == 2
    assert not found.failed


def test_several_t1w_images_are_taken(settings, dataset):
    write_image(dataset.root / "sub-01/anat/sub-01_run-2_T1w.nii.gz", (7, 8, 9))
    found = find_runs(settings(participant_label=["01"]))
    assert [p.name for p in found.participants[0].t1w] == [
        "sub-01_T1w.nii.gz",
        "sub-01_run-2_T1w.nii.gz",
    ]


def test_anatomy_alone_can_be_asked_for(settings, dataset):
    found = find_runs(settings(anat_only=True))
    assert [(len(p.t1w), p.raw) for p in found.participants] == [(1, ()), (1, ())]
    dataset.participant("03", runs=("1",), t1w=False)
    found = find_runs(settings(anat_only=True))
    assert "has no T1w image, and only the anatomy is asked for" in found.failed["sub-03"].what


def test_a_file_that_is_not_nifti_fails_alone(failure, dataset):
    dataset.bold("01").write_bytes(gzip.compress(b"hello" * 100))
    error, others = failure(RUN)
    assert isinstance(error, CorruptImageError)
    assert others == 3


def test_a_truncated_header_fails_alone(failure, dataset):
    dataset.bold("01").write_bytes(dataset.bold("01").read_bytes()[:50])
    error, others = failure(RUN)
    assert isinstance(error, CorruptImageError)
    assert others == 3


@pytest.mark.parametrize("shape", [(7, 8, 9), (7, 8, 9, 1)])
def test_a_volume_is_not_a_series(failure, dataset, shape):
    write_image(dataset.bold("01"), shape)
    error, _ = failure(RUN)
    assert "expected a series (X, Y, Z, T) of two volumes or more" in error.what


@pytest.mark.parametrize("tr", [0, -2, 2000, "2", True, None])
def test_a_repetition_time_that_cannot_be_is_refused(failure, dataset, tr):
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"RepetitionTime": tr})
    error, others = failure(RUN)
    assert isinstance(error, DataError)
    assert "expected seconds between 0 and 60" in error.what
    assert others == 3


def test_a_repetition_time_that_contradicts_the_header_is_refused(failure, dataset):
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"RepetitionTime": 0.72})
    error, _ = failure(RUN)
    assert "0.72 s in the sidecar and 2 s in the header" in error.what


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[1]", "holds a list; expected a JSON object")],
)
def test_a_broken_sidecar_fails_its_run_alone(failure, dataset, content, message):
    path = dataset.root / "sub-01" / "func" / f"{RUN}_bold.json"
    path.write_text(content)
    error, others = failure(RUN)
    assert isinstance(error, DataError)
    assert message in error.what
    assert others == 3


def test_a_huge_sidecar_is_not_read(failure, dataset):
    path = dataset.root / "sub-01" / "func" / f"{RUN}_bold.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 2**25)
    error, _ = failure(RUN)
    assert "is larger than 16 MiB" in error.what


def test_a_sidecar_with_a_byte_order_mark_is_read(names, dataset):
    path = dataset.root / "sub-01" / "func" / f"{RUN}_bold.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"EchoTime": 0.03}).encode())
    assert RUN in names()


@pytest.fixture
def echoes(dataset):
    """Write a run of three echoes whose numbers are not in the order of their times."""

    def write(times=(0.06, 0.014, 0.038), shapes=((7, 8, 9, 5),) * 3):
        dataset.json("task-multi_bold.json", {"RepetitionTime": 2.0, "TaskName": "multi"})
        for i, (time, shape) in enumerate(zip(times, shapes, strict=True), start=1):
            stem = f"sub-01/func/sub-01_task-multi_echo-{i}_bold"
            write_image(dataset.root / f"{stem}.nii.gz", shape)
            dataset.json(f"{stem}.json", {} if time is None else {"EchoTime": time})
        return "sub-01_task-multi"

    return write


def test_echoes_are_one_run_in_the_order_of_their_times(settings, dataset, echoes):
    name = echoes()
    write_image(dataset.root / "sub-01/func/sub-01_task-multi_echo-2_sbref.nii.gz", (7, 8, 9))
    runs = {run.name: run for run in find_runs(settings()).participants[0].raw}
    assert len(runs) == 3
    run = runs[name]
    assert [scan.metadata["EchoTime"] for scan in run.echoes] == [0.014, 0.038, 0.06]
    assert run.bold == run.echoes[0].path
    assert run.bold.name == "sub-01_task-multi_echo-2_bold.nii.gz"
    assert run.sbref.path.name == "sub-01_task-multi_echo-2_sbref.nii.gz"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((0.014, None, 0.06), "EchoTime is None; echoes are combined by it: expected seconds"),
        ((14.0, 38.0, 62.0), "EchoTime is 14.0; echoes are combined by it"),
        ((0.014, 0.014, 0.06), "two echoes have one EchoTime"),
    ],
)
def test_echoes_without_times_of_their_own_are_refused(failure, echoes, times, message):
    error, others = failure(echoes(times))
    assert isinstance(error, DataError)
    assert message in error.what
    assert others == 4


def test_echoes_of_several_shapes_are_refused(failure, echoes):
    error, _ = failure(echoes(shapes=((7, 8, 9, 5), (7, 8, 9, 5), (7, 8, 9, 6))))
    assert "its echoes differ in shape" in error.what


def test_one_echo_can_be_chosen_as_a_run(names, echoes, tmp_path):
    echoes()
    path = tmp_path / "filter.json"
    path.write_text('{"bold": {"echo": "2", "task": "multi"}}')
    assert names(bids_filter_file=path) == ["sub-01_task-multi_echo-2"]
    assert names(echo_label=["02"]) == ["sub-01_task-multi_echo-2"]


def test_some_echoes_are_combined_without_the_others(settings, echoes):
    name = echoes()
    found = find_runs(settings(echo_label=["1", "2"]))
    (run,) = [run for participant in found.participants for run in participant.raw]
    assert run.name == name
    assert sorted(scan.path.name for scan in run.echoes) == [
        f"{name}_echo-{n}_bold.nii.gz" for n in (1, 2)
    ]


def test_an_echo_that_no_run_has_leaves_nothing_and_those_there_are_named(names, echoes, tmp_path):
    echoes()
    with pytest.raises(NothingSelectedError, match="the selection leaves no BOLD run") as caught:
        names(echo_label=["7"])
    assert caught.value.fix == "--echo-label 7: there are 1, 2, 3"
    assert caught.value.exit_code == 18
    path = tmp_path / "filter.json"
    path.write_text('{"bold": {"echo": 2}}')
    with pytest.raises(UsageError, match="echo is selected by an option and by"):
        names(echo_label=["2"], bids_filter_file=path)


def test_a_single_band_reference_is_taken_unless_it_is_ignored(settings, dataset):
    path = dataset.root / f"sub-01/func/{RUN}_sbref.nii.gz"
    write_image(path, (7, 8, 9))
    run = find_runs(settings()).participants[0].raw[0]
    assert run.sbref.path == path
    assert find_runs(settings()).participants[0].raw[1].sbref is None
    run = find_runs(settings(ignore=["sbref"])).participants[0].raw[0]
    assert run.sbref is None
    assert run.notes == ("its single-band reference is not used, as asked",)


def test_phase_series_are_left_out(names, dataset):
    write_image(
        dataset.root / "sub-01/func/sub-01_task-rest_run-3_part-phase_bold.nii.gz", (7, 8, 9, 5)
    )
    assert len(names()) == 4


def test_sidecars_inherit_as_pybids_says(dataset):
    """The authority is PyBIDS's own index of the same dataset."""
    from bids.layout import BIDSLayout

    dataset.json("bold.json", {"EchoTime": 0.01, "FlipAngle": 70, "Manufacturer": "top"})
    dataset.json("sub-01/sub-01_task-rest_bold.json", {"FlipAngle": 80})
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"EchoTime": 0.03})
    dataset.json("sub-01/func/sub-01_task-rest_run-2_bold.json", {"EchoTime": 0.04})
    layout = BIDSLayout(dataset.root, validate=False)
    for run in ("1", "2"):
        path = dataset.bold("01", run)
        theirs = layout.get_metadata(str(path))
        assert read_sidecar(path, dataset.root) == theirs
        assert theirs["FlipAngle"] == 80
