"""Field maps: which images make one, and which run it serves."""

from __future__ import annotations

import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.errors import ExitCode, NoInputError

from .conftest import write_image

RUN = "sub-01_task-rest_run-1"
OTHER = "sub-01_task-rest_run-2"
PATH = f"func/{RUN}_bold.nii.gz"


@pytest.fixture
def fmap(dataset):
    """Write an image with its sidecar into the folder fmap of participant 01."""

    def write(name, *, folder="sub-01/fmap", image=True, **metadata):
        stem = f"{folder}/{name}"
        if image:
            write_image(dataset.root / f"{stem}.nii.gz", (7, 8, 9))
        if metadata:
            dataset.json(f"{stem}.json", metadata)
        return dataset.root / f"{stem}.nii.gz"

    return write


@pytest.fixture
def run(settings):
    """Find one run as the app sees it."""

    def find(name=RUN, **options):
        found = find_runs(settings(participant_label=["01"], **options))
        runs = {run.name: run for p in found.participants for run in p.raw}
        return runs[name] if name in runs else found.failed[name]

    return find


def files(run):
    return [scan.path.name.removeprefix("sub-01_") for scan in run.fieldmap.scans]


def pair(fmap, stem="sub-01", **metadata):
    for label, axis in (("AP", "j-"), ("PA", "j")):
        fmap(f"{stem}_dir-{label}_epi", PhaseEncodingDirection=axis, **metadata)


@pytest.mark.parametrize(
    "intended",
    [PATH, [PATH], f"bids::sub-01/{PATH}", [f"bids:raw:sub-01/{PATH}"], f"sub-01/{PATH}"],
    ids=["relative", "list", "URI", "named URI", "from the top"],
)
def test_every_way_to_write_an_intention_is_read(fmap, run, intended):
    pair(fmap, IntendedFor=intended)
    found = run()
    assert (found.fieldmap.name, found.fieldmap.kind) == ("auto00000", "pepolar")
    assert files(found) == ["dir-AP_epi.nii.gz", "dir-PA_epi.nii.gz"]
    assert found.notes == ()
    assert run(OTHER).fieldmap is None
    assert run(OTHER).notes == ("1 field maps of its session are for other runs",)


def test_an_identifier_goes_before_an_intention(fmap, run, dataset):
    pair(fmap, "sub-01_acq-a", IntendedFor=PATH)
    pair(fmap, "sub-01_acq-b", B0FieldIdentifier="pe_pair.1")
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"B0FieldSource": "pe_pair.1"})
    found = run()
    assert found.fieldmap.name == "pepair1"
    assert files(found)[0] == "acq-b_dir-AP_epi.nii.gz"


def test_runs_and_references_tell_a_field_too(fmap, run, dataset):
    reference = fmap(f"{RUN}_sbref", folder="sub-01/func", B0FieldIdentifier=["x", "y"])
    fmap("sub-01_dir-PA_epi", B0FieldIdentifier="x", PhaseEncodingDirection="j")
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"B0FieldSource": ["none", "x"]})
    found = run()
    assert found.fieldmap.kind == "pepolar"
    assert [scan.path for scan in found.fieldmap.scans][1] == reference


def test_an_identifier_that_nothing_has_is_noted(fmap, run, dataset):
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"B0FieldSource": "gone"})
    found = run()
    assert found.fieldmap is None
    assert found.notes == ("no image says that it tells the field that B0FieldSource names",)


@pytest.mark.parametrize(
    ("suffixes", "kind", "order"),
    [
        (["magnitude1", "magnitude2", "phasediff"], "phasediff", [2, 0, 1]),
        (["magnitude1", "phasediff"], "phasediff", [1, 0]),
        (["magnitude1", "magnitude2", "phase1", "phase2"], "phases", [2, 3, 0, 1]),
        (["fieldmap", "magnitude"], "direct", [0, 1]),
    ],
)
@pytest.mark.parametrize("way", ["IntendedFor", "B0FieldIdentifier"])
def test_each_kind_has_its_images_in_order(  # noqa: PLR0917
    fmap, run, dataset, suffixes, kind, order, way
):
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"B0FieldSource": "f1"})
    said = {"IntendedFor": PATH} if way == "IntendedFor" else {"B0FieldIdentifier": "f1"}
    for suffix in suffixes:
        fmap(f"sub-01_{suffix}", **({} if suffix.startswith("magnitude") else said))
    found = run()
    assert found.fieldmap.kind == kind
    assert files(found) == [f"{suffixes[i]}.nii.gz" for i in order]


@pytest.mark.parametrize(
    ("suffixes", "message"),
    [
        (["phasediff"], "it has no magnitude image"),
        (["phase1", "magnitude1"], "it has only magnitude1, phase1"),
    ],
)
def test_a_field_map_that_is_not_whole_is_not_used(fmap, run, suffixes, message):
    for suffix in suffixes:
        fmap(f"sub-01_{suffix}", IntendedFor=PATH)
    found = run()
    assert found.fieldmap is None
    assert any(message in note for note in found.notes)


def test_a_single_epi_is_completed_by_the_run_of_the_opposite_encoding(fmap, run, dataset):
    dataset.json("task-rest_bold.json", {"RepetitionTime": 2.0, "PhaseEncodingDirection": "j-"})
    fmap(
        "sub-01_dir-PA_epi",
        PhaseEncodingDirection="j",
        IntendedFor=[PATH, PATH.replace("run-1", "run-2")],
    )
    for name in (RUN, OTHER):
        assert files(run(name)) == ["dir-PA_epi.nii.gz", "task-rest_run-1_bold.nii.gz"]
    # What it is made of does not depend on the selection.
    assert files(run(OTHER, run_label=["2"]))[1] == "task-rest_run-1_bold.nii.gz"
    fmap(f"{RUN}_sbref", folder="sub-01/func", PhaseEncodingDirection="j-")
    assert files(run())[1] == "task-rest_run-1_sbref.nii.gz"


def test_epis_of_one_encoding_are_not_used(fmap, run, dataset):
    dataset.json("task-rest_bold.json", {"RepetitionTime": 2.0, "PhaseEncodingDirection": "j"})
    fmap("sub-01_dir-PA_epi", PhaseEncodingDirection="j", IntendedFor=PATH)
    found = run()
    assert found.fieldmap is None
    assert "all its images have the phase encoding 'j', no run" in found.notes[0]


def test_a_field_map_that_names_nobody_stands_for_its_session(fmap, run):
    pair(fmap)
    found = run()
    assert found.fieldmap.name == "auto00000"
    assert found.notes == ("the field map names no run; it is taken because it is of this session",)


def test_a_field_map_of_another_session_is_not_taken(fmap, settings, dataset):
    dataset.participant("05", session="a", runs=("1",))
    dataset.participant("05", session="b", runs=("1",))
    pair(fmap, "sub-05_ses-a", folder="sub-05/ses-a/fmap")
    found = find_runs(settings(participant_label=["05"]))
    runs = {run.name: run for run in found.participants[0].raw}
    assert runs["sub-05_ses-a_task-rest_run-1"].fieldmap is not None
    assert runs["sub-05_ses-b_task-rest_run-1"].fieldmap is None


@pytest.mark.parametrize(
    ("times", "chosen", "how"),
    [
        (("10:00:00", "10:20:00.5"), 1, "time"),
        ((None, None), 0, "name"),
    ],
)
def test_of_several_the_nearest_is_taken_and_said(fmap, run, dataset, times, chosen, how):
    said = {} if times[0] is None else {"AcquisitionTime": "10:18:00"}
    dataset.json(f"sub-01/func/{RUN}_bold.json", said)
    for i, time in enumerate(times, start=1):
        more = {} if time is None else {"AcquisitionTime": time}
        pair(fmap, f"sub-01_run-{i}", IntendedFor=PATH, **more)
    found = run()
    assert found.fieldmap.name == f"auto0000{chosen}"
    assert found.notes == (f"of 2 field maps auto0000{chosen} is taken, the nearest in {how}",)


def test_field_maps_can_be_ignored_and_filtered(fmap, run, tmp_path):
    pair(fmap, "sub-01_acq-a", IntendedFor=PATH)
    assert run(ignore=["fieldmaps"]).fieldmap is None
    query = tmp_path / "filter.json"
    query.write_text('{"fmap": {"acquisition": "b"}}')
    assert run(bids_filter_file=query).fieldmap is None
    query.write_text('{"fmap": {"acquisition": "a"}}')
    assert run(bids_filter_file=query).fieldmap is not None


def test_two_identifiers_never_share_a_label(fmap, run, dataset):
    pair(fmap, "sub-01_acq-a", B0FieldIdentifier="f_1")
    pair(fmap, "sub-01_acq-b", B0FieldIdentifier="f1")
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"B0FieldSource": "f1"})
    dataset.json(f"sub-01/func/{OTHER}_bold.json", {"B0FieldSource": "f_1"})
    assert {run().fieldmap.name, run(OTHER).fieldmap.name} == {"f1", "f12"}


@pytest.mark.parametrize(
    ("identifier", "label"),
    [
        ("pepolar0", "pepolar0"),
        ("auto00000", "auto00000"),
        ("sub-01_task-rest.fmap-1", "sub01taskrestfmap1"),
        ("e" * 40, "e" * 40),
        ("e" * 41, "auto00000"),
        ("x" * 250, "auto00000"),
        ("Jane Doe", "auto00000"),
        ("Doe^Jane", "auto00000"),
        ("Jane1970", "auto00000"),
        ("Doe_1970-01-01", "auto00000"),
        ("SN-471_100", "auto00000"),
        ("1.2.840.113619", "auto00000"),
        ("Gr\u00f6\u00dfe", "auto00000"),
        ("..", "auto00000"),
    ],
)
def test_an_identifier_that_may_tell_of_a_person_becomes_a_number(
    fmap, run, dataset, identifier, label
):
    pair(fmap, B0FieldIdentifier=identifier)
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"B0FieldSource": identifier})
    assert run().fieldmap.name == label
    assert run(privacy="strict").fieldmap.name == "auto00000"


def test_numbers_are_given_once(fmap, run, dataset):
    pair(fmap, "sub-01_acq-a", B0FieldIdentifier="Jane Doe")
    pair(fmap, "sub-01_acq-b", IntendedFor=f"func/{OTHER}_bold.nii.gz")
    dataset.json(f"sub-01/func/{RUN}_bold.json", {"B0FieldSource": "Jane Doe"})
    assert (run().fieldmap.name, run(OTHER).fieldmap.name) == ("auto00000", "auto00001")


def test_a_space_asked_for_later_is_corrected_though_the_field_map_changed_its_number(
    fmap, settings, fake, dataset
):
    def call(*spaces):
        asked = settings(participant_label=["01"], output_spaces=spaces)
        result = run_app(asked, engines=fake.engines())
        assert result.exit_code == ExitCode.SUCCESS
        return fake.wanted.pop()

    spaces = ("MNI152NLin6Asym:res-2", "MNI152NLin2009cAsym:res-2")
    pair(fmap, "sub-01_acq-b", IntendedFor=PATH)
    (number,) = [r.fieldmap.name for r in call(spaces[0]).runs if r.fieldmap]
    pair(fmap, "sub-01_acq-a", B0FieldIdentifier="Jane Doe")
    (run,) = [run for run in call(spaces[0]).runs if run.fieldmap]
    assert (number, run.fieldmap.name) == ("auto00000", "auto00001")
    assert files(run)[0] == "acq-b_dir-AP_epi.nii.gz"
    wanted = call(*spaces)
    assert {"fmap_xfm", "field"} <= wanted.fits[RUN].keys()


def test_a_scan_that_is_not_here_fails_its_runs(fmap, run):
    pair(fmap, IntendedFor=PATH)
    path = fmap("sub-01_dir-AP_epi", image=False)
    path.unlink()
    path.symlink_to("../../.git/annex/objects/x")
    error = run()
    assert isinstance(error, NoInputError)
    assert "is a link to content that is not on this machine" in error.what


def test_a_broken_sidecar_of_a_field_map_is_noted(fmap, run, dataset):
    pair(fmap)
    (dataset.root / "sub-01/fmap/sub-01_dir-AP_epi.json").write_text("{")
    found = run()
    assert found.fieldmap is None
    assert any("is not JSON" in note for note in found.notes)
