"""Completion: what bash and zsh offer, asked of the shells themselves."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

import pytest

from neurostorm_app.bids_app.cli import build_parser
from neurostorm_app.bids_app.tools import main
from neurostorm_app.bids_app.verbs.completion import completion_script
from neurostorm_app.models import list_models

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_shtab_{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

INNER = """
PROMPT=
bindkey '^I' complete-word
autoload -Uz compinit
compinit -D -u
eval "$(<$SCRIPT)"
compadd() {
  local -a offered
  [[ -n "${argv[(r)-[OAD]*]}" ]] || builtin compadd -A offered "$@"
  (( $#offered )) && print -rl -- $offered >> $OFFERED
  builtin compadd "$@"
}
comppostfuncs=(tell_end)
tell_end() { : > $OFFERED.end }
"""
"""An interactive zsh that writes down what its completion adds to what is offered."""
OUTER = """
zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner "source $1"
zpty -w -n inner "$2"
zpty -w -n inner $'\\t'
while [[ ! -e $OFFERED.end ]]; do zpty -rt inner line || read -t 0.05; done
zpty -d inner
"""
"""A terminal for it, in which somebody types a line and a tab."""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh"):
        (folder / shell).write_text(completion_script(shell))
    return folder


@pytest.fixture
def dataset(tmp_path):
    for path in (
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-1_bold.nii.gz",
        "sub-02/func/sub-02_task-nback_echo-2_bold.nii.gz",
        "sub-control3/anat/sub-control3_T1w.nii.gz",
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    return tmp_path


def offered(script, *words):
    """Ask bash what it offers for the last word."""
    ask = ASK.format(function=words[0].replace("-", "_"))
    command = ["bash", "--norc", "-c", ask, "bash", script / "bash", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "command not found" not in done.stderr
    return done.stdout.split()


def app(script, *words):
    return offered(script, "neurostorm-app", *words)


def test_each_option_is_offered_in_one_spelling(script, dataset):
    shown = {
        flag
        for action in build_parser()._actions
        for flag in action.option_strings
        if flag.startswith("--") and "_" not in flag and action.help != "==SUPPRESS=="
    }
    assert set(app(script, dataset, "out", "participant", "--")) == shown
    assert app(script, dataset, "out", "participant", "--part") == [
        "--participant-label",
        "--participants-file",
    ]


CASES = [
    (["--participant-label", ""], {"01", "02", "control3"}),
    (["--participant-label", "01", "c"], {"control3"}),
    (["--session-id", ""], {"a"}),
    (["-t", ""], {"rest", "nback"}),
    (["--run-label", ""], {"1"}),
    (["--echo-idx", ""], {"2"}),
    (["--participant-label", "01", "--task-l"], {"--task-label"}),
    (["--participant-label", "01", "02", "--task-l"], {"--task-label"}),
    (["--participant-label", "01", "02", "--task-label", "r"], {"rest"}),
    (["--output-spaces", "T1w", "MNI152NLin6"], {"MNI152NLin6Asym:res-2"}),
    (["--ignore", "s"], {"slicetiming", "sbref"}),
    (["--precision", ""], {"fp32", "tf32", "bf16"}),
    (["--device", ""], {"auto", "cpu", "cuda"}),
    (["--denoise", "36"], {"36P", "36P+scrub"}),
    (["--dry-run", "--models", "conn"], {"connectome"}),
]
NAMES = [" ".join(words) for words, _ in CASES]


@pytest.mark.parametrize(("words", "wanted"), CASES, ids=NAMES)
def test_values_are_those_of_the_dataset_and_the_settings(script, dataset, words, wanted):
    assert set(app(script, dataset, "out", "participant", *words)) == wanted


def test_places_and_levels_are_offered(script, dataset):
    assert set(app(script, f"{dataset}/sub-0")) == {f"{dataset}/sub-01", f"{dataset}/sub-02"}
    assert set(app(script, dataset, "out", "")) == {"participant", "group"}
    assert set(app(script, dataset, "out", "participant", "--models", "")) == set(list_models())


def test_verbs_and_their_options_are_offered(script):
    assert offered(script, "neurostorm-tools", "ph") == ["phantom"]
    assert offered(script, "neurostorm-tools", "completion", "") == ["bash", "zsh"]
    assert offered(script, "neurostorm-tools", "phantom", "out", "--scale", "") == [
        "full",
        "small",
        "tiny",
    ]
    assert "--participants" in offered(script, "neurostorm-tools", "phantom", "out", "--")


def test_a_hostile_name_is_not_run(script, tmp_path):
    folder = tmp_path / "sub-$(touch ran)"
    folder.mkdir()
    (tmp_path / "sub-01").mkdir()
    app(script, tmp_path, "out", "participant", "--participant-label", "")
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_verb_prints_the_script(shell, capsys, script):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == (script / shell).read_text() + "\n"


with_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")


def typed(script, folder, *words):
    """Ask zsh what it offers for the last word, as somebody who types it."""
    (folder / "inner").write_text(INNER)
    (folder / "outer").write_text(OUTER)
    line = f"{shlex.join(map(str, words[:-1]))} {words[-1]}"
    command = ["zsh", "-f", folder / "outer", folder / "inner", line]
    environment = {**os.environ, "SCRIPT": str(script / "zsh"), "OFFERED": str(folder / "offered")}
    subprocess.run(command, check=True, env=environment, timeout=300, stdin=subprocess.DEVNULL)
    offered = folder / "offered"
    return offered.read_text().split() if offered.exists() else []


@with_zsh
@pytest.mark.parametrize(("words", "wanted"), CASES, ids=NAMES)
def test_zsh_offers_the_same_values(script, dataset, tmp_path_factory, words, wanted):
    folder = tmp_path_factory.mktemp("zsh")
    line = ["neurostorm-app", dataset, "out", "participant", *words]
    assert set(typed(script, folder, *line)) == wanted


@with_zsh
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["neurostorm-app", "data", "out", "participant", "--part"],
         {"--participant-label", "--participants-file"}),
        (["neurostorm-app", "data", "out", ""], {"participant", "group"}),
        (["neurostorm-tools", "ph"], {"phantom"}),
        (["neurostorm-tools", "completion", ""], {"bash", "zsh"}),
        (["neurostorm-tools", "phantom", "out", "--sca"], {"--scale"}),
    ],
    ids=["options", "levels", "verbs", "shells", "options of a verb"],
)  # fmt: skip
def test_zsh_offers_options_levels_and_verbs(script, tmp_path, words, wanted):
    assert set(typed(script, tmp_path, *words)) == wanted


@with_zsh
def test_zsh_does_not_run_a_hostile_name(script, tmp_path):
    dataset = tmp_path / "data"
    (dataset / "sub-$(touch ran)").mkdir(parents=True)
    (dataset / "sub-01").mkdir()
    line = ["neurostorm-app", dataset, "out", "participant", "--participant-label", ""]
    assert typed(script, tmp_path, *line) == ["01"]
    assert not list(tmp_path.rglob("ran"))
