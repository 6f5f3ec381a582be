"""Described runs in the output folder: names, sidecars, records, references, pages, privacy."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.describe import describe_output
from neurostorm_app.bids_app.engines import ModelFiles
from neurostorm_app.bids_app.inputs.precomputed import Precomputed, find_precomputed
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.bids_app.participant.describing import describe_runs
from neurostorm_app.bids_app.participant.parcellations import find_components, find_parcellations
from neurostorm_app.bids_app.participant.units import Call, ready_from_precomputed
from neurostorm_app.bids_app.privacy import Rules
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.report.subject import write_subject_page
from neurostorm_app.bids_app.results import Progress
from neurostorm_app.errors import DataError, NoInputError, UsageError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.describe_cohort import Member, build_reference
from neurostorm_app.pipelines.describe_reference import LEAST
from neurostorm_app.pipelines.resources import Plan

from .conftest import AFFINE

SHAPE, N, TR = (7, 8, 9), 120, 2.0
NAME = "sub-01_task-rest"
SPACE = "space-MNI152NLin6Asym"
STEM = f"{NAME}_{SPACE}_atlas-Six_desc-connectivity_descriptors"
OF = ("Vis", "Vis", "Vis", "Cont", "Cont", "Cont")


def save(path, data, tr=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_sform(AFFINE, code=4)
    image.header.set_qform(AFFINE, code=4)
    if tr:
        image.header.set_zooms((3, 3, 4, tr))
    nib.save(image, path)
    return path


@pytest.fixture
def tree(tmp_path, rng):
    """Make a derivative of one run as fMRIPrep leaves it, six slabs of which are parcels."""
    func = tmp_path / "prep" / "sub-01" / "func"
    stem = func / f"{NAME}_{SPACE}_res-2"
    brain = np.zeros(SHAPE, dtype=np.uint8)
    brain[:, 1:7] = 1
    signals = rng.normal(size=(2, N)).cumsum(axis=1)
    own = rng.normal(0, 2, (*SHAPE, N))
    own[:, 1:4] += signals[0]
    own[:, 4:7] += signals[1]
    data = (1000 + own) * brain[..., np.newaxis]
    save(stem.with_name(f"{stem.name}_desc-preproc_bold.nii.gz"), data.astype(np.float32), TR)
    save(stem.with_name(f"{stem.name}_desc-brain_mask.nii.gz"), brain)
    about = {"RepetitionTime": TR, "TaskName": "rest"}
    stem.with_name(f"{stem.name}_desc-preproc_bold.json").write_text(json.dumps(about))
    return tmp_path / "prep"


@pytest.fixture
def atlas(tmp_path):
    labels = np.zeros(SHAPE, dtype=np.int16)
    for i in range(6):
        labels[:, 1 + i] = i + 1
    image = save(tmp_path / "atlases" / "tpl-x_res-02_atlas-Six_dseg.nii.gz", labels)
    rows = [f"{i}\t{name}" for i, name in enumerate(OF, start=1)]
    table = image.with_name("tpl-x_atlas-Six_dseg.tsv")
    table.write_text("\n".join(["index\tnetwork", *rows]) + "\n")
    return image


@pytest.fixture
def make_call(settings, fake, tmp_path, tree, atlas):
    def make(*, strict=False, **options):
        asked = settings(
            derivatives={"prep": tree}, atlas={"connectome": atlas}, describe=True, **options
        )
        (tmp_path / "out").mkdir(exist_ok=True)
        return Call(
            settings=asked,
            engines=fake.engines(),
            ledger=Ledger(tmp_path / "out", Rules(strict=strict)),
            plan=Plan(n_procs=1, n_threads=1, memory=2**30),
            models=(ModelFiles(card=read_card("connectome"), atlas=atlas),),
            missing={},
            scratch=tmp_path / "scratch",
            series_dir=tmp_path / "out" / ".series",
        )

    return make


def run(call, tree):
    """Describe the run as the app would, by a ledger that has to look again."""
    call = replace(call, ledger=Ledger(call.root, call.ledger.rules))
    item = find_precomputed({"prep": tree}, "01", call.settings.science.spaces, {})[NAME]
    assert isinstance(item, Precomputed)
    progress = {NAME: Progress(NAME)}
    makers = {NAME: lambda space: ready_from_precomputed(item, call)}
    describe_runs(makers, progress, call, find_parcellations(call))
    return progress[NAME]


def sidecar(call):
    return json.loads((call.root / "sub-01" / "func" / f"{STEM}.json").read_text())


def write_reference(folder, said):
    """Write a reference of people like one who was described."""
    rng = np.random.default_rng(0)
    values = {n: v for n, v in said["Values"].items() if not n.endswith("_mean")}
    members = {
        f"sub-{i}": Member(
            values={n: v + 0.1 * rng.normal() for n, v in values.items()}, digest=str(i)
        )
        for i in range(LEAST)
    }
    table, about = build_reference(members, basis=said["Basis"], pipeline="of my cohort")
    folder.mkdir(exist_ok=True)
    path = folder / "cohort.tsv"
    path.write_text(table)
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


def test_a_run_gets_numbers_text_and_a_sidecar(make_call, tree):
    call = make_call()
    progress = run(call, tree)
    assert not progress.errors
    expected = {f"sub-01/func/{STEM}{ending}" for ending in (".tsv", ".md", ".json")}
    assert set(progress.outputs) == expected
    said = sidecar(call)
    rows = [
        line.split("\t")
        for line in (call.root / "sub-01/func" / f"{STEM}.tsv").read_text().splitlines()
    ]
    assert rows[0] == ["descriptor", "value"]
    assert {name: float(value) for name, value in rows[1:]} == pytest.approx(
        said["Values"], abs=1e-8
    )
    assert said["Values"]["fc_Vis-Vis"] > said["Values"]["fc_Cont-Vis"]
    text = (call.root / "sub-01/func" / f"{STEM}.md").read_text()
    assert said["Text"] == text
    assert "6 parcels of 2 networks over 120 volumes" in text
    assert (said["Z"], said["Reference"]) == (None, None)
    assert said["Sources"][0].startswith("bids:prep:sub-01/func/")
    assert said["Atlas"]["Networks"]["Name"] == "tpl-x_atlas-Six_dseg.tsv"
    assert said["Basis"]["ConfoundsMissing"]
    assert "no confounds" in said["Input"]["notes"]


def test_what_is_there_is_taken_and_what_changed_is_made_again(make_call, tree, atlas):
    call = make_call()
    run(call, tree)
    path = call.root / "sub-01" / "func" / f"{STEM}.tsv"
    first = path.stat().st_mtime_ns
    again = run(call, tree)
    assert path.stat().st_mtime_ns == first
    assert again.stages == []
    table = atlas.with_name("tpl-x_atlas-Six_dseg.tsv")
    table.write_text(table.read_text().replace("Cont", "Default"))
    run(make_call(), tree)
    assert "fc_Default-Vis" in sidecar(call)["Values"]
    path.unlink()
    run(make_call(), tree)
    assert path.is_file()
    record = json.loads((call.root / "prov" / f"{STEM}.json").read_text())
    assert (record["kind"], record["atlas"], record["participant"]) == ("descriptors", "Six", "01")


def test_z_is_there_beside_a_reference_and_goes_with_it(make_call, tree, tmp_path):
    call = make_call()
    run(call, tree)
    given = write_reference(tmp_path / "references", sidecar(call))
    for where in (given, given.parent):
        compared = make_call(reference_descriptors=where)
        run(compared, tree)
        said = sidecar(call)
        assert said["Reference"]["N"] == LEAST
        assert abs(said["Z"]["fc_Vis-Vis"]) < 3
        assert "Beside a reference of 20 participants" in said["Text"]
        assert "of my cohort" not in said["Text"]
        header = (call.root / "sub-01/func" / f"{STEM}.tsv").read_text().splitlines()[0]
        assert header == "descriptor\tvalue\tz"
    run(make_call(), tree)
    assert sidecar(call)["Z"] is None


def test_a_reference_of_another_atlas_is_refused_before_any_work(make_call, tree, tmp_path):
    call = make_call()
    run(call, tree)
    said = sidecar(call)
    given = write_reference(tmp_path, {**said, "Basis": {**said["Basis"], "Atlas": "Other"}})
    with pytest.raises(UsageError, match="is no reference of the atlas Six"):
        find_parcellations(make_call(reference_descriptors=given))
    with pytest.raises(NoInputError, match="there is no such reference table"):
        find_parcellations(make_call(reference_descriptors=tmp_path / "none.tsv"))


def test_components_are_found_by_the_name_of_the_run(make_call, tree, tmp_path):
    call = make_call(components=tmp_path / "ica")
    with pytest.raises(NoInputError, match="is no folder of time courses"):
        find_parcellations(call)
    func = tmp_path / "ica" / "sub-01" / "func"
    func.mkdir(parents=True)
    run(call, tree)
    notes = sidecar(call)["Input"]["notes"]
    assert "no time courses of components were found for this run" in notes
    courses = np.random.default_rng(0).normal(size=(N, 3))
    np.save(func / f"{NAME}_desc-ICA_mixing.npy", courses)
    for other in ("run-2_desc-ICA_mixing", "desc-confounds_timeseries", "atlas-A_timeseries"):
        (func / f"{NAME}_{other}.tsv").write_text("a\n")
    run(call, tree)
    assert "ica_temp_sd_C002" in sidecar(call)["Values"]
    assert any("desc-ICA_mixing" in source for source in sidecar(call)["Sources"])
    np.save(func / f"{NAME}_desc-ICA_mixing.npy", 3 * courses)
    before = sidecar(call)["Values"]["ica_temp_sd_C002"]
    run(call, tree)
    assert sidecar(call)["Values"]["ica_temp_sd_C002"] == pytest.approx(3 * before)
    (func / f"{NAME}_desc-PCA_mixing.tsv").write_text("a\n")
    with pytest.raises(UsageError, match="two tables may hold the components of sub-01_task-rest"):
        find_components(tmp_path / "ica", NAME)


def test_a_run_that_cannot_be_described_says_why_and_leaves_the_others(make_call, tree, atlas):
    call = make_call()
    table = atlas.with_name("tpl-x_atlas-Six_dseg.tsv")
    table.write_text("index\tnetwork\n1\tA\n2\tA\n3\tB\n40\tB\n")
    (error,) = run(call, tree).errors
    assert isinstance(error, DataError)
    assert "2 parcels with a signal are of 1 networks" in error.what


def test_parcels_without_networks_are_refused_before_any_work(settings, fake, tree, atlas):
    atlas.with_name("tpl-x_atlas-Six_dseg.tsv").unlink()
    asked = settings(derivatives={"prep": tree}, atlas={"connectome": atlas}, describe=True)
    engines = replace(
        fake.engines(),
        find_model=lambda name, science: ModelFiles(
            card=read_card("connectome"), atlas=science.atlas["connectome"]
        ),
    )
    with pytest.raises(UsageError, match=r"no table names the networks of .*atlas-Six"):
        run_app(asked, engines=engines)
    assert fake.calls == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"describe": True, "anat_only": True}, "--describe takes series in a standard space"),
        ({"describe": True, "output_level": "minimal"}, "--describe takes series in a standard"),
        ({"describe": True, "output_spaces": "T1w"}, "--describe takes series in a standard"),
        ({"components": "x"}, "--components: without --describe nothing is described"),
        (
            {"components": "x", "reference_descriptors": "y"},
            "--reference-descriptors, --components: without --describe",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(settings, options, message):
    with pytest.raises(UsageError, match=message):
        settings(**options)


def test_the_app_describes_what_it_embeds_and_takes_it_the_next_time(
    settings, fake, tree, atlas, tmp_path
):
    asked = settings(derivatives={"prep": tree}, atlas={"connectome": atlas}, describe=True)
    engines = replace(
        fake.engines(),
        find_model=lambda name, science: ModelFiles(
            card=read_card("connectome"), atlas=science.atlas["connectome"]
        ),
    )
    asked = asked.model_copy(
        update={"selection": asked.selection.model_copy(update={"participant_label": ("01",)})}
    )
    first = run_app(asked, engines=engines)
    result = next(result for result in first.runs if result.name == NAME)
    assert result.status == "done"
    report = json.loads((tmp_path / "out" / "logs" / f"{NAME}_report.json").read_text())
    assert any(STEM in output for output in report["outputs"])
    again = run_app(asked, engines=engines)
    assert next(r for r in again.runs if r.name == NAME).status == "reused"


def test_the_output_is_a_valid_derivative(make_call, tree, tmp_path):
    call = make_call()
    run(call, tree)
    describe_output(call.root, {"prep": tree})
    validate(call.root, ["01"], everyone=True)
    assert "*_descriptors.*" in (call.root / ".bidsignore").read_text()
    assert "desc-connectivity\t" in (call.root / "descriptions.tsv").read_text()


def test_a_strict_output_names_no_place(make_call, tree, tmp_path):
    call = make_call()
    run(call, tree)
    given = write_reference(tmp_path / "cohort", sidecar(call))
    beside = given.with_suffix(".json")
    about = json.loads(beside.read_text())
    beside.write_text(json.dumps({**about, "Pipeline": "/home/jane/x of 2020-02-02"}))
    call = make_call(strict=True, reference_descriptors=given, privacy="strict")
    run(call, tree)
    assert sidecar(call)["Reference"]["Pipeline"] == "<hidden>/x of <hidden>"
    for path in call.root.rglob(f"*{STEM}*"):
        content = path.read_text()
        assert str(tmp_path) not in content, path
        assert "jane" not in content, path


def test_the_page_shows_the_description(make_call, tree, tmp_path):
    call = make_call()
    run(call, tree)
    run(make_call(reference_descriptors=write_reference(tmp_path / "r", sidecar(call))), tree)
    page = write_subject_page(call.root, "01", viewer="off").read_text()
    assert 'id="descriptions"' in page
    assert '<a href="#descriptions">Descriptions</a>' in page
    assert "Mean correlations between 6 parcels of 2 networks" in page
    assert "support no statement about a person" in page
    said = sidecar(call)
    assert f"{said['Values']['fc_Cont-Vis']:+.2f}" in page
    assert "20 participants" in page
    assert "<li>No confounds.</li>" in page or "<li>no confounds.</li>" in page


def test_a_page_without_descriptions_has_no_such_section_and_a_damaged_one_is_told(
    make_call, tree, tmp_path
):
    call = make_call()
    run(call, tree)
    path = call.root / "sub-01" / "func" / f"{STEM}.json"
    path.write_text('{"Values": 3}')
    page = write_subject_page(call.root, "01", viewer="off").read_text()
    assert "no description can be read" in page
    path.unlink()
    page = write_subject_page(call.root, "01", viewer="off").read_text()
    assert 'id="descriptions"' not in page
