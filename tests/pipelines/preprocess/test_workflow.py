"""The graph of a participant: all files come, and a run that fails fails alone."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat

from neurostorm_app.errors import AppError, CorruptImageError, TemporaryError, UsageError
from neurostorm_app.pipelines.grid import Grid, standard_grid
from neurostorm_app.pipelines.image import open_image, write_volume
from neurostorm_app.pipelines.itk import read_itk_affines, write_itk_composite
from neurostorm_app.pipelines.preprocess.outcome import gather
from neurostorm_app.pipelines.preprocess.workflow import Options, preprocess_participant
from neurostorm_app.pipelines.stage import Fieldmap, OutputSpace, Run, Scan
from neurostorm_app.pipelines.xfm import Affine

T1W = Grid((74, 88, 70), from_matvec(np.diag([2.0, 2, 2]), [-74, -100, -60]))
BOLD = Grid((30, 36, 26), from_matvec(np.diag([-5.0, 5, 5]), [74, -100, -58]))
T = 14
FIT = ("hmc_boldref", "coreg_boldref", "mask", "hmc_xfm", "coreg_xfm", "qc")
TISSUES = ("gm", "wm", "csf")
STD = OutputSpace(name="MNI152NLin6Asym", res="2")
BOLD_STD, MASK_STD = f"bold:{STD.label}", f"mask:{STD.label}"
ONE = Options(spaces=(STD,))
TO_STD = Affine(from_matvec(np.eye(3), [2.0, -3, 1]))
COREG = Affine(from_matvec(euler2mat(0.03, 0.02, -0.02), [2.0, -1, 3]))


def tissues(points):
    """White matter with broad folds, grey around it, fluid inside and outside."""
    x, y, z = np.moveaxis(np.asarray(points) - [0, -12, 10], -1, 0)
    radius = np.sqrt((x / 62) ** 2 + (y / 76) ** 2 + (z / 58) ** 2)
    depth = radius + 0.06 * np.sin(x / 9 + 1) * np.sin(y / 11) * np.cos(z / 10)
    brain = 1 / (1 + np.exp((depth - 0.92) * 40))
    white = 1 / (1 + np.exp((depth - 0.70) * 40))
    fluid = 1 / (1 + np.exp((radius - 0.28) * 40))
    return np.stack([brain - white, white - fluid, fluid]).clip(0, 1)


def motion(number):
    return from_matvec(euler2mat(0.004 * number, 0, -0.003 * number), [0.2 * number, -0.1, 0.0])


@pytest.fixture(scope="module")
def anat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anat")
    grey, white, fluid = tissues(T1W.world()).astype(np.float32)
    images = {"t1w": 600 * grey + 900 * white + 200 * fluid, "gm": grey, "wm": white, "csf": fluid}
    for name, volume in images.items():
        write_volume(folder / f"{name}.nii.gz", volume, grid=T1W)
    mask = grey + white + fluid > 0.5
    write_volume(folder / "mask.nii.gz", mask, grid=T1W, dtype=np.uint8)
    write_itk_composite(folder / "to.h5", TO_STD)
    (folder / "qc.json").write_text("{}")
    write_itk_composite(folder / "from.h5", TO_STD.inverse())
    write_volume(folder / "dseg.nii.gz", mask, grid=T1W, dtype=np.int16)
    paths = {name: folder / f"{name}.nii.gz" for name in ("t1w", "mask", "dseg", *TISSUES)}
    paths |= {f"to:{STD.name}": folder / "to.h5", f"from:{STD.name}": folder / "from.h5"}
    paths |= {f"{role}:{STD.label}": folder / f"{role}.nii.gz" for role in list(paths)[:6]}
    return paths | {"qc": folder / "qc.json"}


def write_bold(path, seed):
    rng = np.random.default_rng(seed)
    volumes = []
    for number in range(T):
        back = np.linalg.inv(motion(number) @ COREG.matrix)
        grey, white, fluid = tissues(apply_affine(back, BOLD.world()))
        volumes.append(650 * grey + 500 * white + 900 * fluid + rng.normal(0, 8, BOLD.shape))
    image = nib.Nifti1Image(np.stack(volumes, -1).astype(np.float32), BOLD.affine)
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bold")
    whole = write_bold(folder / "whole.nii.gz", seed=1)
    packed = whole.read_bytes()
    (folder / "cut.nii.gz").write_bytes(packed[: len(packed) * 2 // 3])
    return [
        Run(name=f"sub-01_task-{name}", participant="01", bold=folder / f"{name}.nii.gz", tr=2.0)
        for name in ("whole", "cut")
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Make an empty home folder, to see that it stays empty."""
    folder = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    os.environ["HOME"] = str(folder)
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def done(runs, anat, home, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("work")
    return preprocess_participant([], runs, work_dir=work_dir, options=ONE, n_procs=1, anat=anat)


def test_the_run_that_is_whole_has_all_its_files(done):
    files = done.bold["sub-01_task-whole"]
    fit = {"hmc_boldref", "coreg_boldref", "mask", "hmc_xfm", "coreg_xfm", "qc"}
    assert fit | {"confounds", "confounds_json", f"boldref:{STD.label}"} <= set(files)
    assert all(path.is_file() for path in files.values())
    image = open_image(files[BOLD_STD])
    assert Grid.of(image) == standard_grid("MNI152NLin6Asym", "2")
    assert image.shape[3] == T
    assert image.header.get_zooms()[3] == pytest.approx(2.0)  # s
    assert (int(image.header["sform_code"]), image.get_data_dtype()) == (4, np.float32)
    assert open_image(files[MASK_STD]).get_data_dtype() == np.uint8
    said = json.loads(files["qc"].read_text())
    assert set(said) == {"facts", "reference", "head", "coregistration", "motion", "quality"}
    assert said["quality"]["verdict"] in {"pass", "look", "fail"}


def test_the_run_that_is_cut_fails_alone_and_by_name(done):
    assert list(done.bold) == ["sub-01_task-whole"]
    error = done.failed["sub-01_task-cut"]
    assert isinstance(error, CorruptImageError)
    assert "cut.nii.gz: volume" in error.what
    assert "checksum" in error.fix


def test_motion_coregistration_and_normalisation_meet_in_one_interpolation(done):
    files = done.bold["sub-01_task-whole"]
    matrices = read_itk_affines(files["hmc_xfm"])
    relative = matrices[10] @ np.linalg.inv(matrices[2])
    truth = motion(10) @ np.linalg.inv(motion(2))
    brain = tissues(T1W.world()).sum(axis=0) > 0.5
    points = T1W.world()[brain]
    off = np.linalg.norm(apply_affine(relative, points) - apply_affine(truth, points), axis=1)
    assert np.percentile(off, 95) < 0.15  # mm
    target = standard_grid("MNI152NLin6Asym", "2")
    grey, white, fluid = tissues(TO_STD(target.world()))
    truth_std = 650 * grey + 500 * white + 900 * fluid
    mean = open_image(files[BOLD_STD]).get_fdata(dtype=np.float32).mean(axis=-1)
    inside = open_image(files[MASK_STD]).get_fdata() > 0
    assert np.corrcoef(mean[inside], truth_std[inside])[0, 1] > 0.9


def test_the_confounds_have_a_row_a_volume(done):
    table = pd.read_csv(done.bold["sub-01_task-whole"]["confounds"], sep="\t", na_values="n/a")
    assert len(table) == T
    assert table["framewise_displacement"].isna().sum() == 1
    assert {"a_comp_cor_00", "white_matter", "csf", "trans_x", "rot_z"} <= set(table.columns)


def test_methods_and_costs_are_told(done):
    assert "interpolated once" in done.methods
    assert "skull-stripped" not in done.methods  # the anatomy was given
    assert "{" not in done.methods
    assert done.timings["run000.motion"] > 0
    assert done.peak_mib["run000.motion"] > 10


def test_nothing_is_written_to_the_home_folder(done, home):
    assert done.bold
    assert not list(home.rglob("*"))


def test_crashes_are_text_in_the_work_dir(done):
    work_dir = done.bold["sub-01_task-whole"]["qc"].parents[3]
    crashes = list((work_dir / "nipype" / "crash").iterdir())
    assert crashes
    assert {path.suffix for path in crashes} == {".txt"}


def test_a_second_call_takes_up_what_is_there(done, runs, anat, home):
    files = done.bold["sub-01_task-whole"]
    before = files[BOLD_STD].stat().st_mtime_ns
    again = preprocess_participant(
        [],
        runs[:1],
        work_dir=files["qc"].parents[3],
        options=ONE,
        n_procs=1,
        anat=anat,
    )
    assert again.bold["sub-01_task-whole"][BOLD_STD].stat().st_mtime_ns == before
    assert not again.failed


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(done, runs, anat, home, tmp_path):
    both = preprocess_participant([], runs, work_dir=tmp_path, options=ONE, n_procs=2, anat=anat)
    assert isinstance(both.failed["sub-01_task-cut"], CorruptImageError)
    one, two = (found.bold["sub-01_task-whole"] for found in (done, both))
    assert one[BOLD_STD].read_bytes() == two[BOLD_STD].read_bytes()
    assert one["confounds"].read_bytes() == two["confounds"].read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(spaces=(STD,), dummy_scans=11), "11 dummy scans leave 3 of 14 volumes"),
    ],
)
def test_options_that_cannot_be_are_refused_with_reason(options, words, runs, anat, home, tmp_path):
    failed = preprocess_participant(
        [], runs[:1], work_dir=tmp_path, options=options, n_procs=1, anat=anat
    ).failed["sub-01_task-whole"]
    assert isinstance(failed, UsageError)
    assert words in failed.what


def test_a_failed_anatomy_fails_all_runs_with_its_error(runs, home, tmp_path):
    done = preprocess_participant([runs[1].bold], runs, work_dir=tmp_path, options=ONE, n_procs=1)
    assert done.anat is None
    assert set(done.failed) == {run.name for run in runs}
    assert all("one volume was expected" in error.what for error in done.failed.values())


def test_the_death_of_a_worker_is_noticed_and_may_be_tried_again(anat, tmp_path):
    from neurostorm_app.pipelines.preprocess.plugin import PoolPlugin

    plugin = PoolPlugin(1)
    running, dead, done = Future(), Future(), Future()
    dead.set_exception(BrokenProcessPool("killed"))
    done.set_result({"taskid": 3})
    plugin._task_obj = {1: running, 2: dead, 3: done}
    assert plugin._get_result(1) is None
    assert plugin._get_result(3) == {"taskid": 3}
    assert plugin._get_result(2)["traceback"] == ["killed"]
    assert isinstance(plugin.death, TemporaryError)
    assert "died without a word" in plugin.death.what
    failed = gather(
        tmp_path / "participant",
        parts={"anat": [], "run000": ["motion"]},
        names={"run000": "sub-01_task-rest"},
        given={"anat": anat},
        needs={"run000": ["anat"]},
        crash=plugin.death,
        methods="",
    ).failed
    assert failed == {"sub-01_task-rest": plugin.death}


def die():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_as_what_may_pass(tmp_path):
    """As the kernel does where memory is short: this process goes on, the worker does not."""
    from nipype.interfaces.utility import Function
    from nipype.pipeline.engine import Node, Workflow

    from neurostorm_app.pipelines.preprocess.plugin import PoolPlugin

    whole = Workflow("whole", base_dir=str(tmp_path))
    whole.config["execution"] = {"crashdump_dir": str(tmp_path), "poll_sleep_duration": "0.1"}
    whole.add_nodes([Node(Function(function=die), "die")])
    plugin = PoolPlugin(1)
    with pytest.raises(RuntimeError):
        whole.run(plugin=plugin)
    assert isinstance(plugin.death, TemporaryError)
    assert plugin.death.exit_code == 75
    assert "fewer processes or more memory" in plugin.death.fix


def test_after_a_death_what_is_left_is_tried_once_more_alone(
    monkeypatch, caplog, runs, anat, home, tmp_path
):
    from neurostorm_app.pipelines.preprocess.graph import ParticipantGraph

    sizes = []

    def die(_, pool):
        sizes.append(pool.processors)
        pool.death = TemporaryError("a worker died", fix="try again")
        return pool.death

    monkeypatch.setattr(ParticipantGraph, "_execute", die)
    done = preprocess_participant(
        [], runs[:1], work_dir=tmp_path, options=ONE, n_procs=2, anat=anat
    )
    assert sizes == [2, 1]
    assert "tried once more, one step at a time" in caplog.text
    assert isinstance(done.failed["sub-01_task-whole"], TemporaryError)


def test_a_script_without_a_guard_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(UsageError, match="called again while one of its workers was starting"):
        preprocess_participant([], [], work_dir=tmp_path, options=ONE, n_procs=2)


def test_a_crash_that_nobody_foresaw_points_to_its_file(anat, tmp_path):
    done = gather(
        tmp_path / "participant",
        parts={"anat": [], "run000": ["motion"]},
        names={"run000": "sub-01_task-rest"},
        given={"anat": anat},
        needs={"run000": ["anat"]},
        crash=RuntimeError("Traceback\nZeroDivisionError: division by zero"),
        methods="",
    )
    error = done.failed["sub-01_task-rest"]
    assert type(error) is AppError
    assert "stopped at a step that nobody foresaw: ZeroDivisionError" in error.what
    assert Path(tmp_path.name).name in error.fix


def test_a_step_that_took_its_time_is_told(caplog, monkeypatch):
    from types import SimpleNamespace

    from neurostorm_app.pipelines.preprocess import plugin

    clock = iter([0.0, 12.0])
    monkeypatch.setattr(plugin.time, "monotonic", lambda: next(clock))
    tell = plugin.StepLog({"run000": "sub-01_task-rest_run-1"})
    node = SimpleNamespace(fullname="participant.run000.motion")
    with caplog.at_level("INFO", logger=plugin.logger.name):
        tell(node, "start")
        tell(node, "end")
    assert caplog.messages == ["sub-01_task-rest_run-1: motion in 12 s"]


def test_a_nipype_that_was_there_before_us_writes_where_we_say(tmp_path):
    import nipype

    from neurostorm_app.pipelines.preprocess import workflow

    nipype.config.set("execution", "crashdump_dir", str(tmp_path / "elsewhere"))
    workflow._settle_nipype(tmp_path / "work/nipype")
    from neurostorm_app.pipelines.preprocess.graph import ParticipantGraph, apply_settings

    apply_settings(tmp_path / "work")
    graph = ParticipantGraph(
        [], [], options=workflow.Options(), n_procs=1, series_dir=tmp_path, fits={}
    )
    written = graph._whole.config["execution"]
    assert written["crashdump_dir"] == str(tmp_path / "work/nipype/crash")
    assert written["crashfile_format"] == "txt"


@pytest.fixture(scope="module")
def minimal(runs, anat, home, tmp_path_factory):
    options = Options(spaces=(STD,), level="minimal")
    return preprocess_participant(
        [], runs[:1], work_dir=tmp_path_factory.mktemp("fit"), options=options, n_procs=1, anat=anat
    )


def test_level_minimal_leaves_out_what_can_be_made_again(minimal):
    files = minimal.bold["sub-01_task-whole"]
    assert set(FIT) <= set(files)
    assert not [role for role in files if ":" in role and not role.startswith("bold:1")]
    assert "confounds" not in files
    assert "Confounds" not in minimal.methods


def test_what_was_estimated_before_gives_the_same_series(minimal, done, runs, anat, home, tmp_path):
    name = "sub-01_task-whole"
    fit = {role: minimal.bold[name][role] for role in FIT}
    again = preprocess_participant(
        [], runs[:1], work_dir=tmp_path, options=ONE, n_procs=1, anat=anat, fits={name: fit}
    )
    assert not {"run000.motion", "run000.reference", "run000.coregister"} & set(again.timings)
    for role in (BOLD_STD, MASK_STD, "confounds"):
        assert again.bold[name][role].read_bytes() == done.bold[name][role].read_bytes()
    said = json.loads(again.bold[name]["qc"].read_text())
    assert {"facts", "reference", "coregistration", "motion", "quality"} <= set(said)


def test_native_and_t1w_spaces_lie_where_they_should(minimal, runs, anat, home, tmp_path):
    name = "sub-01_task-whole"
    spaces = (OutputSpace(name="native"), OutputSpace(name="T1w"))
    files = preprocess_participant(
        [],
        runs[:1],
        work_dir=tmp_path / "work",
        series_dir=tmp_path / "series",
        options=Options(spaces=spaces),
        n_procs=1,
        anat=anat,
        fits={name: {role: minimal.bold[name][role] for role in FIT}},
    ).bold[name]
    native, t1w = open_image(files["bold:native"]), open_image(files["bold:T1w"])
    assert files["bold:native"].is_relative_to(tmp_path / "series")
    assert Grid.of(native) == BOLD
    assert t1w.header.get_zooms()[:3] == (5, 5, 5)  # mm, of the series
    points = Grid.of(t1w).world()
    truth = 650 * tissues(points)[0] + 500 * tissues(points)[1] + 900 * tissues(points)[2]
    inside = open_image(files["mask:T1w"]).get_fdata() > 0
    mean = t1w.get_fdata(dtype=np.float32).mean(axis=-1)
    assert np.corrcoef(mean[inside], truth[inside])[0, 1] > 0.9
    still = native.get_fdata(dtype=np.float32)[open_image(files["mask"]).get_fdata() > 0]
    assert still.std(axis=1).mean() < 60  # of 650; head motion unchecked leaves 90


def test_series_that_were_taken_away_are_made_again(runs, anat, home, tmp_path):
    def ask():
        return preprocess_participant(
            [], runs[:1], work_dir=tmp_path, options=ONE, n_procs=1, anat=anat
        ).bold["sub-01_task-whole"][BOLD_STD]

    before = ask().read_bytes()
    ask().rename(tmp_path / "elsewhere.nii.gz")
    assert ask().read_bytes() == before


def test_without_a_t1w_image_the_methods_say_so(runs, home, tmp_path):
    done = preprocess_participant([], runs[:1], work_dir=tmp_path, options=ONE, n_procs=1)
    assert done.anat is None
    assert "no T1-weighted image" in done.methods
    files = done.bold[runs[0].name]
    assert f"to:{STD.name}" in files
    assert BOLD_STD in files
    assert "coreg_xfm" not in files
    said = json.loads(files["qc"].read_text())["normalization"]
    assert said["verdict"] != "pass"
    assert "there is no T1w image" in said["reasons"][0]


def test_what_nobody_foresaw_in_one_run_leaves_the_others_alone(
    monkeypatch, runs, anat, home, tmp_path
):
    from neurostorm_app.pipelines.preprocess.steps import boldsteps

    check = boldsteps.check_series

    def stumble(path, tr):
        if path.name == "other.nii.gz":
            raise KeyError("a defect")
        return check(path, tr)

    monkeypatch.setattr(boldsteps, "check_series", stumble)
    other = tmp_path / "other.nii.gz"
    other.symlink_to(runs[0].bold)
    two = [replace(runs[0], name="sub-01_task-other", bold=other), runs[0]]
    options = Options(spaces=(STD,), level="minimal")
    done = preprocess_participant([], two, work_dir=tmp_path, options=options, n_procs=1, anat=anat)
    assert list(done.bold) == [runs[0].name]
    error = done.failed["sub-01_task-other"]
    assert type(error) is AppError
    assert "KeyError: 'a defect'" in error.what


def test_echoes_that_lie_elsewhere_are_refused(runs, anat, home, tmp_path):
    image = nib.load(runs[0].bold)
    moved = from_matvec(np.eye(3), [5.0, 0, 0]) @ image.affine
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), tmp_path / "echo2.nii.gz")
    paths = (runs[0].bold, tmp_path / "echo2.nii.gz")
    echoes = tuple(
        Scan(path=path, metadata={"EchoTime": 0.01 * n}) for n, path in enumerate(paths, start=1)
    )
    run = replace(runs[0], echoes=echoes)
    error = preprocess_participant(
        [], [run], work_dir=tmp_path / "work", options=ONE, n_procs=1, anat=anat
    ).failed[run.name]
    assert "echo2.nii.gz: an echo of shape" in error.what


def test_a_field_map_goes_through_the_graph_and_is_taken_up_again(runs, anat, home, tmp_path):
    """A field of one strength everywhere moves the head as a whole; nothing else may change."""
    volume = np.asarray(nib.load(runs[0].bold).dataobj)[..., 0]
    write_volume(tmp_path / "hertz.nii.gz", np.full(BOLD.shape, 20.0), grid=BOLD)
    write_volume(tmp_path / "magnitude.nii.gz", volume, grid=BOLD)
    scans = (
        Scan(path=tmp_path / "hertz.nii.gz", metadata={"Units": "Hz"}),
        Scan(path=tmp_path / "magnitude.nii.gz"),
    )
    run = replace(
        runs[0],
        metadata={"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.03},
        fieldmap=Fieldmap(name="direct", kind="direct", scans=scans),
    )

    def ask(folder, **more):
        done = preprocess_participant(
            [], [run], work_dir=tmp_path / folder, options=ONE, n_procs=1, anat=anat, **more
        )
        assert not done.failed, done.failed
        return done, done.bold[run.name]

    done, files = ask("one")
    field = open_image(files["field"]).get_fdata()[open_image(files["mask"]).get_fdata() > 0]
    assert np.median(field) == pytest.approx(20, abs=1)  # Hz
    said = json.loads(files["qc"].read_text())
    assert {"fieldmap", "distortion"} <= set(said)
    assert said["distortion"]["jacobian"] is False  # of a map that was measured
    assert "map" in done.methods
    fit = {role: files[role] for role in (*FIT, "fmap_xfm", "fmap_reference")}
    # Between the knots and beyond the edge, the image of a field is not quite its splines.
    for role, difference in (("field", 0), ("fmap_coefficients", 0.02), ("fieldmap", 5)):
        again, made = ask(f"again-{role}", fits={run.name: fit | {role: files[role]}})
        assert "taken as they were" in again.methods
        one, two = (
            open_image(path[BOLD_STD]).get_fdata(dtype=np.float32) for path in (files, made)
        )
        assert np.percentile(np.abs(two - one), 99) <= difference  # of 900
