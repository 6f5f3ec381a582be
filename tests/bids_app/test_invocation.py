"""Options from files: configuration, invocation, and the file that repeats a call."""

from __future__ import annotations

import json
import shlex
import tomllib

import pytest

from neurostorm_app.bids_app.cli import main, main_inner, parse, read_call
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.bids_app.words.kept_settings import keep_settings, settings_text
from neurostorm_app.errors import InvocationError, NoInputError, UsageError

PLACES = ["in", "out", "participant"]
TWO = 'models = ["connectome", "neurostorm-demo"]\n'
CALL = {"InputDataset": ["in"], "OutputLocation": "out", "AnalysisLevel": "participant"}


@pytest.fixture
def written(tmp_path):
    def write(text: str | bytes, name: str = "options.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def configured(path, *words, level="participant"):
    return parse(["in", "out", level, "--config-file", str(path), *words])


@pytest.mark.parametrize(
    "text",
    [
        f"random-seed = 7\n{TWO}use_syn_sdc = true\n",
        f"[science]\nrandom_seed = 7\n{TWO}use-syn-sdc = true\n",
        f"\ufeffrandom_seed = 7\n[science]\n{TWO}use_syn_sdc = true\n[execution]\n",
    ],
)
def test_options_stand_in_sections_or_not_with_dashes_or_underscores(written, text):
    science = configured(written(text))[0].science
    assert science.random_seed == 7
    assert science.models == ("connectome", "neurostorm-demo")
    assert science.use_syn_sdc is True


def test_the_command_line_wins_over_the_file(written):
    path = written('random_seed = 7\nmodels = ["neurostorm-demo"]\nnprocs = 3\n')
    settings, _ = configured(path, "--random-seed", "8", "--models", "connectome")
    assert settings.science.random_seed == 8
    assert settings.science.models == ("connectome",)
    assert settings.execution.nprocs == 3


def test_pairs_may_be_a_table_or_words(written, tmp_path):
    (tmp_path / "fmriprep").mkdir()
    for text in (
        f'[science.derivatives]\nfmriprep = "{tmp_path}/fmriprep"\n',
        f'derivatives = ["fmriprep={tmp_path}/fmriprep"]\n',
    ):
        science = configured(written(text))[0].science
        assert science.derivatives == {"fmriprep": tmp_path / "fmriprep"}


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("random_sed = 1", "there is no option 'random_sed'", "random_seed"),
        ("[science]\nmodel = 1", "there is no option '.science. model'", "models"),
        ("[sience]\nmodels = []", "there is no option 'sience'", "science"),
        ("[execution]\nrandom_seed = 1", "stands in the wrong section", "[science]"),
        ("random_seed = 1\nrandom-seed = 2", "is there a second time", "one of them"),
        ("random_seed = 1\n[science]\nrandom_seed = 2", "is there a second time", "one of"),
        ("random_seed 1", "is not TOML", "one option a line"),
        (b"\xff\xfe", "is not TOML", "one option a line"),
        ("random_seed = -1", "--random-seed cannot be -1", "--random-seed"),
        ("config_file = 'x'", "there is no option 'config_file'", ""),
        ("participant_label = ['../x']", "is not a BIDS label", "label alone"),
    ],
)
def test_a_wrong_file_is_explained(written, text, message, fix):
    with pytest.raises(UsageError, match=message) as caught:
        configured(written(text))
    assert fix in caught.value.fix


def test_a_file_that_is_not_there_is_no_input(tmp_path):
    with pytest.raises(NoInputError, match=r"--config-file: .*none.toml is no file"):
        configured(tmp_path / "none.toml")


def test_one_file_serves_both_levels(written):
    path = written('models = ["connectome"]\n[prediction]\ntarget = "age"\nfolds = 3\n')
    settings, notes = configured(path)
    assert settings.prediction.target == ()
    assert notes == [f"{path}: target, folds: of the group level, and not used at this one"]
    settings, notes = configured(path, level="group")
    assert (settings.prediction.target, settings.prediction.folds, notes) == (("age",), 3, [])


def test_an_invocation_is_a_whole_call(written):
    content = {
        **CALL,
        "ParticipantLabel": ["01", "sub-02"],
        "run_label": ["1"],
        "random_seed": 7,
        "use_syn_sdc": True,
        "anat_only": False,
        "work_dir": None,
        "mem": "4G",
        "verbose": True,
        "notrack": True,
        "low_mem": False,
    }
    path = written(json.dumps(content), "call.json")
    settings, notes = parse(["--invocation", str(path)])
    words = "--participant-label 01 02 --run-label 1 --random-seed 7 --use-syn-sdc --mem 4G -v"
    assert settings == parse([*PLACES, *words.split()])[0]
    assert notes == ["--notrack does nothing: nothing is ever sent anywhere"]
    assert parse([f"--invocation={path}"])[0] == settings


def test_an_invocation_may_name_a_configuration_file(written):
    path = written("random_seed = 7\nnprocs = 2\n")
    call = {**CALL, "config_file": str(path), "nprocs": 1}
    settings, _ = parse(["--invocation", str(written(json.dumps(call), "call.json"))])
    assert (settings.science.random_seed, settings.execution.nprocs) == (7, 1)


@pytest.mark.parametrize(
    ("flag", "shown"), [("Help", "usage:"), ("ToolVersion", "neurostorm-app 0.")]
)
def test_an_invocation_may_ask_for_help(written, capsys, flag, shown):
    with pytest.raises(SystemExit) as left:
        parse(["--invocation", str(written(json.dumps({flag: True})))])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(shown)


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("--invocation FILE in out participant", "in out participant"),
        ("in out participant --invocation FILE", "in out participant"),
        ("--invocation=FILE -v", "-v"),
        ("--invocation FILE --invocation FILE", "--invocation"),
    ],
)
def test_an_invocation_and_arguments_together_have_their_own_code(written, capsys, words, others):
    path = written(json.dumps(CALL))
    typed = shlex.split(words.replace("FILE", str(path)))
    with pytest.raises(InvocationError, match="came together with other arguments") as caught:
        read_call(typed)
    assert others in caught.value.what
    assert main(typed) == 19
    assert "what to do: write them into the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("{", "is not JSON", "one object"),
        ("[" * 100_000, "is not JSON", "one object"),
        (b"\xff", "is not JSON", "one object"),
        ("[1]", "holds a list; expected an object", "InputDataset"),
        ({**CALL, "ParticipantLabels": ["1"]}, "which is not one of ours", "ParticipantLabel"),
        ({**CALL, "nothing_like_it": 1}, "which is not one of ours", "--bids-exec-spec"),
        ({**CALL, "InputDataset": ["a", "b"]}, r"InputDataset is \['a', 'b'\]", "one value"),
        ({**CALL, "OutputLocation": None}, "OutputLocation is None; expected one", "one value"),
        ({**CALL, "AnalysisLevel": {}}, "AnalysisLevel is {}; expected one path", "one value"),
        ({**CALL, "run_label": ["1"], "RunLabel": ["2"]}, "a second time, as 'RunLabel'", "one of"),
        ({**CALL, "cifti_output": "91k"}, "--cifti-output cannot be honoured", "leave it out"),
        ({**CALL, "random_seed": "x"}, "--random-seed cannot be 'x'", "--random-seed"),
        ({**CALL, "models": {"a": 1}}, "--models cannot be", "--models"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_invocation_is_explained(written, text, message, fix):
    path = written(json.dumps(text) if isinstance(text, dict) else text)
    with pytest.raises(UsageError, match=message) as caught:
        parse(["--invocation", str(path)])
    assert fix in caught.value.fix


def test_an_invocation_without_a_file_is_explained(tmp_path):
    with pytest.raises(UsageError, match="--invocation names no file"):
        parse(["--invocation"])
    with pytest.raises(NoInputError, match=r"--invocation: .*none.json is no file"):
        parse(["--invocation", str(tmp_path / "none.json")])


def test_the_kept_file_repeats_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prep").mkdir()
    (tmp_path / "filter.json").write_text("{}")
    words = (
        "--participant-label sub-01 02 -d fmriprep=prep --bids-filter-file filter.json --mem 4G"
        " --models connectome neurostorm-demo --random-seed 7 --slice-time-ref start --nprocs 2"
    )
    asked = read_call([*PLACES, *words.split()])
    settings = asked.settings()
    text = settings_text(settings, asked.options)
    (tmp_path / "again.toml").write_text(text)
    again, notes = configured(tmp_path / "again.toml")
    assert again == settings
    assert notes == []
    assert str(tmp_path) not in text  # paths as they were typed
    assert 'derivatives = ["fmriprep=prep"]' in text


def test_the_kept_file_of_the_group_level_repeats_it_too(tmp_path):
    typed = ["in", "out", "group", "--target", "age", 'h\u00e9 "x" \u007f\t', "--no-controls"]
    asked = read_call(typed)
    path = tmp_path / "again.toml"
    path.write_text(settings_text(asked.settings(), asked.options), encoding="utf-8")
    assert configured(path, level="group")[0] == asked.settings()


def test_tables_and_bytes_that_are_no_text_can_be_written(tmp_path):
    given = {"derivatives": {"a": tmp_path}, "work_dir": "caf\udce9"}
    settings = build_settings("in", "out", "participant", given)
    content = tomllib.loads(settings_text(settings, given))
    assert content["science"]["derivatives"] == {"a": str(tmp_path)}
    assert content["execution"]["work_dir"] == "caf?"


def test_the_same_options_are_kept_once(tmp_path):
    settings = build_settings("in", tmp_path, "participant", {"nprocs": 2})
    first = keep_settings(settings, {"nprocs": 2})
    assert first == keep_settings(settings, {"nprocs": 2})
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [first.name]
    assert first.name.startswith("participant-")
    assert first.name.endswith("_settings.toml")


def test_a_call_of_the_app_keeps_its_options(dataset, fake, tmp_path):
    out = tmp_path / "kept"
    words = [dataset.root, out, "participant", "--participant-label", "01", "--random-seed", "3"]
    code = main_inner([str(word) for word in words], engines=fake.engines())
    assert code == 0
    (kept,) = (out / "logs").glob("*_settings.toml")
    assert tomllib.loads(kept.read_text())["science"]["random_seed"] == 3
    before = {path: path.read_bytes() for path in (out / "prov").iterdir()}
    again = [str(word) for word in (*words[:3], "--config-file", kept)]
    assert main_inner(again, engines=fake.engines()) == 0
    assert list((out / "logs").glob("*_settings.toml")) == [kept]
    assert {path: path.read_bytes() for path in (out / "prov").iterdir()} == before


def test_a_dry_run_keeps_nothing(dataset, fake, tmp_path):
    words = [str(dataset.root), str(tmp_path / "dry"), "participant", "--dry-run"]
    assert main_inner(words, engines=fake.engines()) == 0
    assert not (tmp_path / "dry").exists()
