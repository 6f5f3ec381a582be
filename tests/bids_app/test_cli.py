"""The command line: what is accepted, what is refused, and with which words and code."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from neurostorm_app.bids_app.cli import build_parser, main, parse
from neurostorm_app.bids_app.settings import GROUPS
from neurostorm_app.bids_app.tools import main as tools_main
from neurostorm_app.bids_app.words.compat import FOREIGN
from neurostorm_app.bids_app.words.helps import read_helps
from neurostorm_app.errors import AnalysisLevelError, UsageError

PLACES = ["in", "out", "participant"]


def options(*words):
    settings, _ = parse([*PLACES, *words])
    return settings


def test_help_shows_each_option_with_its_words(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0
    for model in GROUPS.values():
        helps = read_helps(model)
        assert helps.keys() == model.model_fields.keys()
        for name, about in helps.items():
            assert "--" + name.replace("_", "-") in shown
            assert len(about) > 10
            assert about[:40] in shown


HEAVY = {
    *("torch", "nibabel", "numpy", "pandas", "scipy", "bids", "nipype", "nilearn", "matplotlib"),
    *("ants", "sklearn", "numba", "pyarrow", "rich", "yaml", "jinja2", "shtab"),
    *("importlib.metadata", "email", "asyncio", "http", "ssl", "sqlite3", "xml", "unittest"),
    *("multiprocessing", "concurrent.futures.process"),
}


@pytest.mark.parametrize("command", ["cli", "tools"])
def test_help_starts_without_heavy_packages(command):
    """A help is printed by what takes no time to import; what checks values is no part of it."""
    code = (
        "import sys\n"
        f"from neurostorm_app.bids_app.{command} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.startswith("neurostorm_app.")}
    assert not {name for name in ours if ".compatibility" in name or ".report" in name}
    light = {"cgroups", "denoise_strategies", "shortage"}
    assert {name.rpartition(".")[2] for name in ours if ".pipelines." in name} <= light
    if command == "tools":
        assert not loaded & {"pydantic", "neurostorm_app.bids_app.settings"}


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("neurostorm-app 0.")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("participant", "participant"),
        ("subject", "participant"),
        ("session", "participant"),
        ("run", "participant"),
        ("group", "group"),
        ("dataset", "group"),
    ],
)
def test_both_generations_of_level_names_are_known(typed, meant):
    assert parse(["in", "out", typed])[0].level == meant


def test_an_unknown_level_has_its_own_code():
    with pytest.raises(AnalysisLevelError, match="the analysis level is 'particpant'") as caught:
        parse(["in", "out", "particpant"])
    assert caught.value.exit_code == 17
    assert "did you mean participant" in caught.value.fix


@pytest.mark.parametrize(
    "words",
    [
        ["--participant-label", "01", "02"],
        ["--participant_label", "01", "02"],
        ["--participant-label", "sub-01", "sub-02"],
    ],
)
def test_lists_and_both_spellings_are_accepted(words):
    assert options(*words).selection.participant_label == ("01", "02")


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["-t", "rest", "nback"], "task_label", ("rest", "nback")),
        (["--task-id", "rest"], "task_label", ("rest",)),
        (["--session-id", "1"], "session_label", ("1",)),
        (["--run-id", "1", "2"], "run_label", ("1", "2")),
        (["--echo-idx", "1", "echo-2"], "echo_label", ("1", "2")),
    ],
)
def test_names_of_other_apps_are_accepted(words, field, value):
    assert getattr(options(*words).selection, field) == value


@pytest.mark.parametrize("flag", ["--nprocs", "--n_cpus", "--n-cpus", "--nthreads", "--cpus"])
def test_processes_have_many_names(flag):
    assert options(flag, "3").execution.nprocs == 3


@pytest.mark.parametrize(
    ("words", "gib"),
    [(["--mem", "4G"], 4), (["--mem-mb", "2048"], 2), (["--mem_gb", "1.5"], 1.5), ([], None)],
)
def test_memory_is_read_with_its_unit(words, gib):
    memory = options(*words).execution.memory
    assert memory == (None if gib is None else gib * 2**30)


@pytest.mark.parametrize(
    ("words", "message", "fix"),
    [
        (["--model", "x"], "no such option: .*--model", "--models"),
        (["--nproc", "2"], "no such option: .*--nproc", "--nprocs"),
        (["--config-fil", "x"], "no such option: .*--config-fil", "--config-file"),
        (["--bids_exec_specs"], "no such option: .*--bids_exec_specs", "--bids-exec-spec"),
        (["--fs-licence-file", "x"], "no such option: .*--fs-licence-file", "--fs-license-file"),
        (["extra"], "one argument too many: .*extra", "--help"),
        (
            ["--nprocs", "0"],
            "--nprocs.* cannot be .*0.*: Input should be greater than 0",
            "--nprocs",
        ),
        (["--nprocs", "two"], "--nprocs cannot be .*two.*valid integer", "--nprocs"),
        (["--precision", "fp16"], "--precision cannot be .*fp16", "--precision"),
        (["--bold2anat-dof", "7"], "--bold2anat-dof cannot be .*7.*6, 9 or 12", "--help"),
        (["--bold2anat-init", "t2w"], "--bold2anat-init cannot be .*t2w", "--help"),
        (["--slice-time-ref", "end"], "--slice-time-ref cannot be .*end", "--help"),
        (["--slice-time-ref", "1.5"], "--slice-time-ref cannot be .*1.5", "--help"),
        (["--ignore", "t2w"], "--ignore cannot be .*t2w.*fieldmaps", "--help"),
        (["--level", "most"], "--output-level cannot be .*most", "--help"),
        (["--fallback-total-readout-time", "0"], "--fallback-total-readout-time cannot", "--help"),
        (["--shard", "0/4"], "--shard cannot be .*0/4", "--shard"),
        (["--shard", "x"], "--shard cannot be .*x", "--shard"),
        (["--folds", "1"], "--folds cannot be .*1.*greater than or equal to 2", "--folds"),
        (["--permutations", "-5"], "--permutations cannot be .*-5", "--permutations"),
        (["--confidence", "1"], "--confidence cannot be .*1.*less than 1", "--confidence"),
        (["--harmonise", "harmony"], "--harmonise cannot be .*harmony", "--harmonise"),
        (["--baselines", "cnn"], "--baselines cannot be .*cnn.*bnt", "--baselines"),
        (["--target", "age"], "--target: an option of the group level", "group level when"),
        (["--device", "tpu"], "--device cannot be .*tpu", "--device"),
        (["--mem", "much"], "--mem: .*much.* is not a size", "8G"),
        (["--mem", "4G", "--mem-gb", "4"], "were both given", "one of them"),
        (["--participant-label", "../etc"], "etc.* is not a BIDS label", "label alone"),
        (["--output-spaces", "fsaverage"], "is a surface, and surfaces are not made", "res-2"),
        (["--output-spaces", "fsLR:den-91k"], "is a surface, and surfaces are not", "res-2"),
        (["--output-spaces", "MNI152NLin6Sym:res-2"], "is not a space we make", "did you mean"),
        (["--output-spaces", "MNI152NLin6Asym:res-7"], "has a resolution that MNI", "res-2"),
        (["--output-spaces", "MNI152NLin6Asym:cohort-2:res-2"], "names a cohort, and", "res-2"),
        (["--output-spaces", "MNI152NLin6Asym:2mm"], "is not written as SPACE", "res-2"),
        (["--output-spaces", "T1w:res-2"], "has the voxels of the scan", "T1w"),
        (["--weights", "file.pt"], "file.pt.*; expected NAME=PATH", "neurostorm="),
        (["-d", "a b=/"], "a b.* is not a name; expected letters", "NAME=PATH"),
        (["-d", "a=/", "a=/tmp"], "a.* is given twice: .*", "once"),
        (["-d", "raw=/"], "stands for BIDS_DIR", "another name"),
        (["--cifti-output", "91k"], "--cifti-output cannot be honoured", "leave it out"),
        (["--force", "bbr"], "--force cannot be honoured", "leave it out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_is_explained(words, message, fix):
    with pytest.raises(UsageError) as caught:
        parse([*PLACES, *words])
    assert re.search(message, caught.value.what)
    assert fix in caught.value.fix
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ([], ["MNI152NLin6Asym:res-2", "MNI152NLin2009cAsym:res-2"]),
        (["MNI152NLin6Asym"], ["MNI152NLin6Asym:res-native"]),
        (["MNI152NLin6Asym:res-02", "MNI152NLin6Asym:res-2"], ["MNI152NLin6Asym:res-2"]),
        (["func", "run", "bold", "boldref", "sbref", "native"], ["native"]),
        (["anat", "T1w", "MNI152NLin2009cAsym:res-2"], ["T1w", "MNI152NLin2009cAsym:res-2"]),
    ],
)
def test_output_spaces_are_written_as_for_fmriprep(words, labels):
    science = options(*(["--output-spaces", *words] if words else [])).science
    assert [space.label for space in science.spaces] == labels


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--level", "minimal"], "output_level", "minimal"),
        (["--ignore", "fieldmaps", "slicetiming"], "ignore", ("fieldmaps", "slicetiming")),
        (["--slice-time-ref", "start"], "slice_time_ref", 0.0),
        (["--slice_time_ref", "middle"], "slice_time_ref", 0.5),
        (["--slice-time-ref", "0.25"], "slice_time_ref", 0.25),
        (["--bold2t1w-dof", "12"], "bold2anat_dof", 12),
        (["--bold2t1w-init", "header"], "bold2anat_init", "header"),
        (["--use-syn-sdc"], "use_syn_sdc", True),
        (["--fallback-total-readout-time", "0.03"], "fallback_total_readout_time", 0.03),
        (["--me-t2s-fit-method", "curvefit"], "me_t2s_fit_method", "curvefit"),
        (["--return-all-components"], "return_all_components", True),
    ],
)
def test_preprocessing_is_asked_for_as_of_fmriprep(words, field, value):
    assert getattr(options(*words).science, field) == value


def test_targets_are_named_at_the_group_level():
    words = ["--target", "age,sex", "handedness score", "--site_column", "scanner", "--folds", "10"]
    prediction = parse(["in", "out", "group", *words])[0].prediction
    assert prediction.target == ("age", "sex", "handedness score")
    assert (prediction.site_column, prediction.folds) == ("scanner", 10)


def test_a_missing_derivative_is_no_input(capsys):
    assert main([*PLACES, "-d", "fmriprep=/nowhere"]) == 66
    assert "/nowhere does not exist" in capsys.readouterr().err


def test_a_derivative_is_a_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*PLACES, "-d", f"fmriprep={tmp_path}/file"]) == 66
    assert "expected the folder of a derivative" in capsys.readouterr().err


def test_swallowed_places_are_explained():
    with pytest.raises(UsageError, match="arguments are required") as caught:
        parse(["--participant-label", "01", *PLACES])
    assert "BIDS_DIR OUTPUT_DIR LEVEL first" in caught.value.fix


def test_an_error_ends_in_a_message_and_its_code(capsys):
    assert main([*PLACES, "--nprocs", "0"]) == 64
    shown = capsys.readouterr().err
    assert shown.startswith("neurostorm-app: --nprocs cannot be '0': ")
    assert "what to do: see --nprocs" in shown


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda f: f.flags[0])
def test_options_of_other_apps_are_told_from_mistakes(foreign):
    words = [foreign.flags[0], *["x"] * (foreign.nargs in {1, "+"})]
    if foreign.refused:
        with pytest.raises(UsageError, match="cannot be honoured"):
            parse([*PLACES, *words])
    else:
        assert parse([*PLACES, *words])[1] == [f"{foreign.flags[0]} does nothing: {foreign.why}"]


def test_no_two_options_share_a_spelling():
    spellings = [s for action in build_parser()._actions for s in action.option_strings]
    assert len(spellings) == len(set(spellings))


def test_labels_come_from_a_file_too(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("sub-01\n02\n\n")
    assert options("--participant-label", str(names)).selection.participant_label == ("01", "02")
    names.write_text("01;02\n")
    with pytest.raises(UsageError, match="'01;02' is not a BIDS label"):
        options("--participant-label", str(names))


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["--participant-lable", "01"], "did you mean --participant-label or"),
        (["--participant_lable=01"], "did you mean --participant-label or"),
        (["--precision", "fp23"], "did you mean fp32? See --precision in neurostorm-app --help"),
        (["--device", "cuad"], "did you mean cuda?"),
        (["--executor", "dsk"], "did you mean dask?"),
        (["--ignore", "fieldmap"], "did you mean fieldmaps"),
        (["--output-spaces", "MNI152NLin6Asm:res-2"], "did you mean MNI152NLin6Asym:res-2"),
        (["--denoise", "36p"], "did you mean 36P?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_was_meant_is_suggested(words, suggestion):
    with pytest.raises(UsageError) as caught:
        parse([*PLACES, *words])
    assert caught.value.fix.startswith(suggestion)


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["phantm"], "did you mean phantom?"),
        (["phantom", "out", "--participant", "3"], "did you mean --participants"),
        (["weights", "lst"], "did you mean list?"),
        (["completion", "zhs"], "did you mean zsh?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_verbs_and_their_options_are_suggested(words, suggestion, capsys):
    assert tools_main(words) == 64
    assert suggestion in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["--task-label", "rset"], "--task-label rset: did you mean rest?"),
        (["--run-label", "11"], "what to do: --run-label 11: did you mean 1?"),
        (["--echo-idx", "2"], "--echo-label 2: there are none"),
        (["--session-label", "pre"], "--session-label pre: there are none"),
        (["--participant-label", "001"], "did you mean 01"),
        (["--models", "conectome"], "did you mean connectome"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_labels_and_models_are_suggested(dataset, tmp_path, words, suggestion, capsys):
    call = [dataset.root, tmp_path / "out", "participant", "--skip-bids-validation", *words]
    assert main([*map(str, call), "--dry-run"]) != 0
    assert suggestion in capsys.readouterr().err


def test_a_call_is_loud_or_quiet():
    assert options().execution.loudness == 0
    assert options("-v").execution.loudness == 1
    assert options("-vv").execution.loudness == 2
    assert options("--verbose", "-v").execution.loudness == 2
    assert options("-q").execution.loudness == -1
    with pytest.raises(UsageError, match="--quiet and --verbose were both given") as caught:
        options("--quiet", "-v")
    assert "one of them" in caught.value.fix
