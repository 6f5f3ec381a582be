"""Scripts for a cluster: each is sound bash, holds no label, and asks what was asked."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from neurostorm_app.bids_app.clusters.status import read_standing
from neurostorm_app.bids_app.clusters.submit import blocks, ranges
from neurostorm_app.bids_app.verbs.slurm import add_slurm, call_slurm
from neurostorm_app.bids_app.words.grammar import Parser
from neurostorm_app.errors import NoInputError, NothingSelectedError, UsageError

NASTY = "a 'b' $(touch pwned) `id` \"c\" %j;é"


@pytest.fixture
def bids(tmp_path):
    root = tmp_path / NASTY
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "none", "BIDSVersion": "1.8.0"}')
    for label in ("02", "01", "A+b", "10", "x1"):
        (root / f"sub-{label}").mkdir()
    (root / "sub-evil;rm").mkdir()
    return root


@pytest.fixture
def slurm(bids, tmp_path, capsys):
    """Call the verb; give what it prints and the scripts it wrote."""

    def call(*words, root=bids):
        parser = Parser(prog="neurostorm-tools slurm")
        add_slurm(parser)
        cut = words.index("--") if "--" in words else len(words)
        folder = tmp_path / f"scripts {NASTY}"
        ours = [str(root), str(tmp_path / "out"), *words[:cut]]
        if not {"--print", "--status", "--babs"} & {*words}:
            ours += ["--out-dir", str(folder)]
        capsys.readouterr()
        ours = [word for word in ours if word != "--print"]
        call_slurm(parser.parse_args([*map(str, ours), *map(str, words[cut:])]))
        files = {path.name: path.read_text() for path in folder.glob("*.*")}
        return capsys.readouterr().out, files

    return call


def check(scripts):
    """Let bash read the scripts, and find no label in them."""
    for name, text in scripts.items():
        if name != "participants.txt":
            done = subprocess.run(
                ["bash", "-n"], check=False, input=text, text=True, capture_output=True
            )
            assert done.returncode == 0, (name, done.stderr)
            assert text.startswith("#!/bin/bash\n")
            assert not re.search(r"sub-(01|02|A)", text)


def asks(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line]


def test_one_array_and_the_group_after_it(slurm):
    printed, scripts = slurm("--limit", "2", "--partition", "long", "--account", "lab")
    check(scripts)
    names = ["group.sbatch", "participant.sbatch", "participants.txt", "submit.sh"]
    assert sorted(scripts) == names
    assert scripts["participants.txt"].split() == ["01", "02", "10", "A+b", "x1"]
    assert "--array=0-4%2" in scripts["submit.sh"]
    assert '"--dependency=afterok:${participant0}"' in scripts["submit.sh"]
    given = asks(scripts["participant.sbatch"])
    for ask in ("--partition=long", "--account=lab", "--requeue", "--signal=B:TERM@120"):
        assert ask in given
    assert "--mem=8G" in given
    assert "--mem=16G" in asks(scripts["group.sbatch"])
    assert "sacct" not in "".join(scripts.values())
    assert "queue them: bash" in printed


def test_the_same_call_gives_the_same_scripts(slurm):
    assert slurm("--print") == slurm("--print")
    printed, scripts = slurm("--print")
    assert not scripts
    assert printed.count("==> ") == 4


def test_paths_and_words_reach_the_app_as_they_are(slurm, bids, tmp_path):
    program = tmp_path / "it's a program"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$(dirname "$0")/words"\n')
    program.chmod(0o755)
    _, scripts = slurm(
        "--command", shlex.quote(str(program)), "--", "--task-label", "rest", "-v", "--mem=1G"
    )
    script = scripts["participant.sbatch"]
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "3"}
    environment |= {"SLURM_ARRAY_JOB_ID": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash"],
        check=False,
        input=script,
        env=environment,
        text=True,
        capture_output=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:3] == [str(bids), str(tmp_path / "out"), "participant"]
    assert words[3:9] == ["--task-label", "rest", "-v", "--mem=1G", "--participant-label", "A+b"]
    assert not (tmp_path / "pwned").exists()
    assert not list(tmp_path.glob("neurostorm-*")), "scratch is removed"


@pytest.mark.parametrize("task", ["5", "99"])
def test_a_task_without_a_label_does_nothing(slurm, tmp_path, task):
    _, scripts = slurm("--command", "touch ran")
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": task}
    done = subprocess.run(
        ["bash"],
        check=False,
        input=scripts["participant.sbatch"],
        env=environment,
        text=True,
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 64
    assert "has no label" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("restarts", [0, 3])
@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
@pytest.mark.parametrize("code", [0, 65, 75])
def test_only_exit_code_75_of_a_running_job_queues_it_again(slurm, tmp_path, restarts, state, code):
    for name, text in {
        "squeue": f'[ "$5" = 7_2 ] && echo {state}',
        "scontrol": f'echo "$@" >> "{tmp_path}/calls"',
        "app": f"exit {code}",
    }.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    _, scripts = slurm("--command", "app")
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "9"}
    environment |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    environment |= {"SLURM_RESTART_COUNT": str(restarts), "TMPDIR": str(tmp_path)}
    script = scripts["participant.sbatch"]
    done = subprocess.run(
        ["bash"], check=False, input=script, env=environment, text=True, capture_output=True
    )
    assert done.returncode == code
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    again = code == 75 and state == "RUNNING" and restarts == 0
    assert calls == ("requeue 7_2\n" if again else "")


def test_a_container_sees_what_it_reads_and_no_more(slurm, bids, tmp_path):
    (tmp_path / "weights").mkdir()
    image = tmp_path / "app.sif"
    with pytest.raises(NoInputError, match=r"app\.sif is not there"):
        slurm("--image", image)
    image.touch()
    with pytest.raises(UsageError, match="cannot stand in a job script: a line break"):
        slurm("--image", image, root=bids.rename(tmp_path / "a:b"))
    (tmp_path / "a:b").rename(tmp_path / "plain")
    words = ("--image", image, "--module", "apptainer/1.3", "--split", "--")
    words += ("--weights-dir", tmp_path / "weights", "--models", "neurostorm", "connectome")
    _, scripts = slurm(*words, root=tmp_path / "plain")
    check(scripts)
    for name, gpu in {"preprocess": False, "inference": True, "group": False}.items():
        script = scripts[f"{name}.sbatch"]
        call = next(line for line in script.splitlines() if line.startswith("run "))
        assert f"-B {tmp_path}/plain:{tmp_path}/plain:ro" in call
        assert f"-B {tmp_path}/weights:{tmp_path}/weights:ro" in call
        assert f"-B {tmp_path}/out " in call
        assert ("--nv" in call) is gpu
        assert "module load apptainer/1.3" in script
        assert '|| export "APPTAINERENV_SLURM_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"' in script


def test_preprocessing_and_models_are_jobs_of_their_own(slurm, tmp_path):
    words = ("--split", "--chunk", "2", "--parts", "3", "--max-array", "3", "--gpu-partition", "g")
    app = ("--models", "connectome", "brainlm-demo", "--device=cuda", "--output-spaces")
    app += ("MNI152NLin6Asym:res-2", "--target", "age", "--batch-size", "4")
    _, scripts = slurm(*words, "--", *app)
    check(scripts)
    calls = {
        name: next(line for line in text.splitlines() if line.startswith("run "))
        for name, text in scripts.items()
        if name.endswith(".sbatch")
    }
    space = "--output-spaces MNI152NLin6Asym:res-2"
    assert f"participant {space} --models connectome --device cpu" in calls["preprocess.sbatch"]
    models = "--models connectome brainlm-demo --device=cuda"
    assert f"participant {models} {space} --batch-size 4" in calls["inference.sbatch"]
    assert "--target" not in calls["inference.sbatch"] + calls["part.sbatch"]
    assert '--shard "$SLURM_ARRAY_TASK_ID/3"' in calls["part.sbatch"]
    assert f"group {models} {space} --target age" in calls["group.sbatch"]
    assert "--gres=gpu:1" in asks(scripts["inference.sbatch"])
    assert "--partition=g" in asks(scripts["inference.sbatch"])
    assert not [ask for ask in asks(scripts["preprocess.sbatch"]) if "gres" in ask]
    submit = scripts["submit.sh"]
    assert "--array=0-2 preprocess" in submit
    assert "--array=0-1 --export=ALL,NEUROSTORM_FIRST=3 preprocess" in submit
    fills = re.findall(r'--array=(\d) "--dependency=afterok:(\S+)" inference', submit)
    first, second = "${preprocess0}", "${preprocess1}"
    assert fills == [
        ("0", f"{first}_0:{first}_1"),
        ("1", f"{first}_2:{second}_0"),
        ("2", f"{second}_1"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mem", "8G\n#SBATCH --uid=0"), "cannot be '8G.n#SBATCH --uid=0' in a job script"),
        (("--time", "soon"), "--time cannot be 'soon'"),
        (("--partition", "a b"), "--partition cannot be 'a b'"),
        (("--gres", "gpu:1;id"), "--gres cannot be"),
        (("--module", "x; id"), "is not the name of a module"),
        (("--chunk", "0"), "--chunk 0: expected a number of at least 1"),
        (("--requeues", "-1"), "--requeues -1: expected a number of at least 0"),
        (("--command", "'open"), "is no command: it is empty, or a quotation"),
        (("--command", ""), "is no command: it is empty"),
        (("--", "-w", "/x"), "-w after --: the scripts set it for each job"),
        (("--", "--shard", "1/2"), "--shard after --: the scripts set it"),
        (("--", "01"), "'01' after --: expected options of neurostorm-app"),
        (("--", "--weights-dir", "here"), "'here' is relative, and a job may start elsewhere"),
        (("--", "--derivatives=a=b"), "'b' is relative, and a job may start elsewhere"),
        (("--", "--modles", "x"), "no such option: '--modles'"),
        (("--split", "--", "--anat-only"), "--split with options that run no model"),
        (("--babs", "--split"), "--babs with --split: BABS queues one kind of job"),
    ],
)
def test_what_a_cluster_would_take_for_something_else_is_refused(slurm, words, message):
    with pytest.raises(UsageError, match=message):
        slurm(*words)


def test_participants_are_those_of_the_dataset(slurm, tmp_path):
    _, scripts = slurm("--", "--participant-label", "sub-10", "01")
    assert scripts["participants.txt"].split() == ["10", "01"]
    with pytest.raises(UsageError, match="lists other participants, and tasks in the queue"):
        slurm()
    with pytest.raises(NothingSelectedError, match="holds no participant sub-77"):
        slurm("--print", "--", "--participant-label", "77")
    with pytest.raises(UsageError, match="not a BIDS label"):
        slurm("--print", "--", "--participant-label", "a;b")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "dataset_description.json").write_text("{}")
    with pytest.raises(NothingSelectedError, match="holds no participants"):
        slurm("--print", root=empty)


def write_report(out, name, *, code=0, models=("connectome",), what="broken"):
    (out / "logs").mkdir(parents=True, exist_ok=True)
    error = {"what": what} if code else None
    report = {"run": name, "status": "failed" if code else "done", "exit_code": code}
    text = json.dumps({**report, "error": error, "models": list(models)})
    (out / "logs" / f"{name}_report.json").write_text(text)


def test_the_status_says_what_is_left_and_how_to_queue_it(slurm, tmp_path):
    out = tmp_path / "out"
    told, _ = slurm("--status")
    assert "5 participants: 0 done, 0 without all models, 0 failed, 5 missing" in told
    write_report(out, "sub-01_task-rest_run-1")
    write_report(out, "sub-01_task-rest_run-2", code=65, what="no volumes")
    write_report(out, "sub-02_task-rest")
    write_report(out, "sub-A+b_task-rest", models=())
    (out / "logs" / "sub-x1_task-rest_report.json").write_text('{"status"')
    (out / "logs" / "sub-01_qc.json").write_text("{}")
    told, _ = slurm("--status", "--limit", "9", "--max-array", "4")
    lines = told.splitlines()
    assert lines[0].endswith("1 done, 1 without all models, 2 failed, 1 missing")
    assert "failed: task 0: sub-01_task-rest_run-2 [exit code 65]: no volumes" in lines
    told = "sub-x1_task-rest [exit code 75]: sub-x1_task-rest_report.json is damaged"
    assert f"failed: task 4: {told}" in lines
    assert "missing: tasks 2" in lines
    first = "--export=ALL,NEUROSTORM_FIRST=4"
    assert lines[-3:] == [
        "first0=$(sbatch --parsable --array=0,2-3%9 participant.sbatch)",
        f"first1=$(sbatch --parsable --array=0%9 {first} participant.sbatch)",
        'sbatch --parsable "--dependency=afterok:${first0}:${first1}" group.sbatch',
    ]
    assert shlex.split(lines[-4])[0] == "cd"


def test_the_status_of_split_work_queues_each_kind_for_itself(slurm, tmp_path):
    for label in ("01", "02", "10", "A+b", "x1"):
        models = ["connectome", "brainlm-demo"] if label in {"01", "02"} else ["connectome"]
        write_report(tmp_path / "out", f"sub-{label}_task-rest", models=models)
    words = ("--status", "--split", "--chunk", "2", "--", "--models", "connectome", "brainlm-demo")
    told, _ = slurm(*words)
    assert told.splitlines()[-2:] == [
        "then0=$(sbatch --parsable --array=1-2 inference.sbatch)",
        'sbatch --parsable "--dependency=afterok:${then0}" group.sbatch',
    ]
    for label in ("10", "A+b", "x1"):
        models = ["connectome", "brainlm-demo"]
        write_report(tmp_path / "out", f"sub-{label}_task-rest", models=models)
    assert slurm(*words)[0].splitlines()[-1].startswith("nothing is left to do")


def test_a_participant_is_as_bad_as_its_worst_run(tmp_path):
    write_report(tmp_path, "sub-01_run-1", code=75)
    write_report(tmp_path, "sub-01_run-2", code=65)
    write_report(tmp_path, "sub-01_run-3")
    worst = read_standing(tmp_path, ["01"], ["connectome"]).failed
    assert worst == {0: ("sub-01_run-2", 65, "broken")}


def test_the_report_of_an_anatomy_made_alone_says_nothing_of_the_runs(tmp_path):
    write_report(tmp_path, "sub-01", models=())
    assert read_standing(tmp_path, ["01"], ["connectome"]).partial == [0]
    assert read_standing(tmp_path, ["01"], []).done == [0]
    write_report(tmp_path, "sub-01_task-rest")
    assert read_standing(tmp_path, ["01"], ["connectome"]).done == [0]
    write_report(tmp_path, "sub-01", code=73, models=(), what="no page")
    assert read_standing(tmp_path, ["01"], ["connectome"]).failed == {0: ("sub-01", 73, "no page")}


def test_a_report_that_is_elsewhere_is_named_and_one_that_is_gone_is_not(tmp_path, monkeypatch):
    write_report(tmp_path, "sub-01_task-rest")
    link = tmp_path / "logs" / "sub-01_task-rest_report.json"
    link.unlink()
    link.symlink_to("../.git/annex/objects/x")
    name, code, told = read_standing(tmp_path, ["01"], []).failed[0]
    assert (name, code) == ("sub-01_task-rest", 75)
    assert told.endswith(f"is a link to a file that is not here: datalad get {link}")
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    assert read_standing(tmp_path, ["01"], []).missing == [0]


def test_numbers_of_an_array_are_written_short():
    assert ranges([3]) == "3"
    assert ranges([]) == ""
    assert list(blocks(7, 3)) == [(0, 3), (3, 3), (6, 1)]


def test_the_configuration_for_babs_can_be_read_and_holds_the_options(slurm, bids):
    words = ("--babs", "--cpus", "4", "--mem", "9G", "--partition", "p", "--gres", "gpu:1")
    app = ("--models", "connectome", "brainlm-demo", "-v", "--mem=9G", "-v")
    app += ("--weights-dir", "/w x")
    told, scripts = slurm(*words, "--module", "apptainer/1.3", "--", *app)
    assert not scripts
    content = yaml.safe_load(told)
    assert content["bids_app_args"] == {
        "$SUBJECT_SELECTION_FLAG": "--participant-label",
        "-w": "$BABS_TMPDIR",
        "--models": "connectome brainlm-demo",
        "-v": "-v",
        "--mem": "9G",
        "--weights-dir": "'/w x'",
    }
    assert content["all_results_in_one_zip"] is True
    assert list(content["zip_foldernames"]) == ["neurostorm"]
    assert re.fullmatch(r"[\w-]+", content["zip_foldernames"]["neurostorm"])
    assert content["cluster_resources"] == {
        "interpreting_shell": "/bin/bash -l",
        "number_of_cpus": "4",
        "hard_memory_limit": "9G",
        "hard_runtime_limit": "12:00:00",
        "customized_text": "#SBATCH --partition=p\n#SBATCH --gres=gpu:1",
    }
    bound = "-B '/w x:/w x:ro'"
    assert content["singularity_args"] == ["--containall", "--writable-tmpfs", bound, "--nv"]
    assert content["input_datasets"]["BIDS"]["origin_url"] == str(bids)
    assert "module load apptainer/1.3" in content["script_preamble"]
    assert "script_preamble: |\n  # activate here what holds BABS and DataLad\n" in told
    preamble = content["script_preamble"].replace("module", ": module")
    done = subprocess.run(
        ["bash", "-euc", f"{preamble}printenv"],
        check=True,
        env={"PATH": "/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "4"},
        capture_output=True,
        text=True,
    )
    given = [line for line in done.stdout.splitlines() if "ENV_" in line]
    names = ("APPTAINERENV", "SINGULARITYENV")
    assert sorted(given) == [f"{name}_SLURM_CPUS_PER_TASK=4" for name in names]


def test_the_configuration_for_babs_asks_for_nothing_that_was_not_asked(slurm, bids):
    content = yaml.safe_load(slurm("--babs", "--", "--models=connectome")[0])
    assert content["bids_app_args"]["--models"] == "connectome"
    assert "customized_text" not in content["cluster_resources"]
    assert "module" not in content["script_preamble"]
    with pytest.raises(UsageError, match="cannot stand in a job script: a line break"):
        slurm("--babs", "--", "--weights-dir", "/a:b")
