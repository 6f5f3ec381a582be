"""Every command of the documentation is run by bash, with folders of ours for those of examples.

What takes seconds is really done: the app on preprocessed runs, the group level, every tool that
needs no weights. Calls that would preprocess are planned (``--dry-run``); training, weights of
others and containers are read by the parsers of the commands that they call. The slow tests of
`test_docs_whole.py` do these for real.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neurostorm_app.bids_app import cli, tools
from neurostorm_app.bids_app.words.parser import build_parser
from neurostorm_app.pipelines.templates import load_parcellation_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tests/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


shell, world_of, outputs = load("docs_shell"), load("docs_world"), load("docs_outputs")
Answer, Call = shell.Answer, shell.Call
BLOCKS = shell.blocks()
RUN = [block for block in BLOCKS if block.language in shell.SHELLS]
PYTHON = [b for b in BLOCKS if b.language == "python" and "--8<--" not in b.text]
OTHERS = {"text", "yaml", "groovy", "python", "json", "toml", ""}
BY_STEPS = "docs/adding-a-model.md"
"""Its blocks are carried out by `test_docs_model.py`."""
SLOW = {"docs/systems/fmri-lm.md", "docs/systems/mind-vis.md"}
"""Their Python takes networks of many millions of numbers; `test_docs_whole.py` runs it."""
GIVEN = (
    "best_model.pth",
    "tpl-MNI152NLin6Asym_atlas-Schaefer400TianS3_dseg.nii.gz",
)
"""Files of examples that a call is only planned with."""
PARCELS = "tpl-MNI152NLin6Asym_res-02_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.nii.gz"
"""Instead of this one, ours."""
READ = {"train", "explore", "phantom", "describe", "describe-reference", "ask"}
"""Verbs that are read here and run in `test_docs_whole.py`."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make the folders of the examples, with a finished output folder."""
    root = tmp_path_factory.mktemp("world")
    places = world_of.make_world(root, people=10)
    data = places["/data"]
    words = [data / "bids", data / "out", "participant", "--report-viewer", "off"]
    words += ["-d", f"fmriprep={data}/derivatives/fmriprep", "--skip-bids-validation"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main([str(word) for word in words]) == 0, said.getvalue()
        assert cli.main([str(word) for word in (*words[:2], "group")]) == 0, said.getvalue()
    world_of.finish_world(places)
    return places


@pytest.fixture
def sh(world, tmp_path, hub, monkeypatch) -> Iterator[Any]:
    """Make a shell in an empty folder that looks like a checkout."""
    for name in ("docs", "tests", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("Dockerfile", "apptainer.def", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "neurostorm-app.sif").touch()
    (tmp_path / "networks.tsv").write_text("parcel\tnetwork\n")
    for name in GIVEN:
        (tmp_path / name).touch()
    shutil.copy(load_parcellation_path(), tmp_path / PARCELS)
    rows = "".join(f"{i}\t7Networks_LH_{'Vis' if i < 50 else 'Cont'}_{i}\n" for i in range(1, 101))
    (tmp_path / PARCELS.replace(".nii.gz", ".tsv")).write_text("index\tname\n" + rows)
    world_of.fill_hub(hub)
    made = shell.Shell(tmp_path, handlers(world, tmp_path), world)
    for folder in (".venv/bin", "container", "scripts"):
        (tmp_path / folder).mkdir(parents=True)
        for name in made.handlers:
            (tmp_path / folder / name).symlink_to(tmp_path / ".bin" / name)
    return made


def handlers(world: dict[str, Path], folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Say who answers which command."""

    def app(call: Any) -> Any:
        return answer_app(call, world)

    def verbs(call: Any) -> Any:
        return answer_tools(call, world)

    known: dict[str, Callable[[Any], Any]] = {
        "neurostorm-app": app,
        "neurostorm-tools": verbs,
        "docker": lambda call: answer_engine(call, app, verbs),
        "podman": lambda call: answer_engine(call, app, verbs),
        "apptainer": lambda call: answer_apptainer(call, app, verbs),
        "make": lambda call: ran("make", "-n", *call.words),
        "sbatch": answer_sbatch,
        "pip": lambda call: answer_pip(call.words),
        "python3": answer_python,
        "python": answer_python,
        "torchrun": lambda call: parsed(tools.build_parser(), after_module(call.words)),
        "snakemake": answer_snakemake,
        "check-docker.sh": lambda _: ran("bash", "-n", "container/check-docker.sh"),
        "check-apptainer.sh": lambda _: ran("bash", "-n", "container/check-apptainer.sh"),
        "check-wheel.sh": lambda _: ran("bash", "-n", "scripts/check-wheel.sh"),
        "mmdebstrap": lambda _: Answer(),  # Debian's, not ours
        "git": lambda call: ran("git", call.words[0], "-h", code=129),
        "pre-commit": lambda call: ran("test", "-f", ".pre-commit-config.yaml"),
    }
    return known


def ran(*words: str, code: int = 0) -> Any:
    """Run a command in the checkout."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return Answer(code=0 if done.returncode == code else 1, err=done.stderr)


def parsed(parser: Any, words: list[str]) -> Any:
    """Read the words as the command would."""
    parser.parse_args(words)
    return Answer()


def after_module(words: list[str]) -> list[str]:
    at = words.index("-m")
    assert importlib.util.find_spec(words[at + 1]), f"no module {words[at + 1]}"
    return words[at + 2 :]


def answer_app(call: Any, world: dict[str, Path]) -> Any:
    """Run the app: really, where everything is preprocessed, else up to its plan."""
    words = list(call.words)
    if {"--version", "--help", "--bids-exec-spec", "--invocation"} & set(words):
        return shell.in_process(cli.main, call)
    out = call.cwd / words[1]
    words += ["--skip-bids-validation", "--report-viewer", "off"]
    if words[2] == "group":
        words += ["--permutations", "0", "--repeats", "1"] if "--target" in words else []
    elif "-d" not in words:
        words += ["--dry-run"]
        if "brainlm" in words:  # an atlas whose hash is not asked for
            words += ["--atlas", f"brainlm={world['/weights']}/A424/A424+2mm.nii.gz"]
        if not out.exists():  # what a reader would have by now
            shutil.copytree(
                world["/data"] / "out", out, copy_function=lambda a, b: Path(b).symlink_to(a)
            )
    return shell.in_process(cli.main, Call(call.name, words, call.cwd, call.env))


def answer_tools(call: Any, world: dict[str, Path]) -> Any:
    """Run a tool: really, but for what takes minutes or weights that nobody here has."""
    words = list(call.words)
    verb = words[0]
    if verb == "phantom":
        shutil.copytree(world["/data"] / "bids", call.cwd / words[1], dirs_exist_ok=True)
    if verb in READ or words[:2] == ["weights", "verify"]:
        return parsed(tools.build_parser(), words)
    if verb == "weights" and words[1] == "fetch":
        words = [word for word in words if word != "A424"]  # its hash is known
    if verb == "check-compat":  # the output of the examples takes its series from there
        prepared = str(world["/data"] / "derivatives/fmriprep")
        words = [prepared if word == str(world["/data"] / "out") else word for word in words]
    return shell.in_process(tools.main, Call(call.name, words, call.cwd, call.env))


ENGINE = {"-v", "--volume", "--tmpfs", "--user", "--network", "--entrypoint", "-e", "--gpus"}
"""Options of ``docker run`` that take a word."""


def answer_engine(call: Any, app: Any, verbs: Any) -> Any:
    """Take the words behind the image, with the folders of the host, to the command in it."""
    verb, *words = call.words
    if verb == "import":
        return Answer()
    if verb == "build":
        recipe = (ROOT / "Dockerfile").read_text()
        for word in words[1:]:
            if previous(words, word) == "--build-arg":
                assert f"ARG {word.partition('=')[0]}" in recipe, word
        return Answer()
    assert verb == "run", call.words
    binds, entry, at = {}, "neurostorm-app", 0
    while words[at].startswith("-"):
        option = words[at]
        if option in {"-v", "--volume"}:
            host, inside = words[at + 1].split(":")[:2]
            binds[inside] = host
        entry = words[at + 1] if option == "--entrypoint" else entry
        at += 2 if option in ENGINE else 1
    assert words[at].startswith("neurostorm-app"), words[at]
    return enter(call, entry, words[at + 1 :], binds, app, verbs)


def answer_apptainer(call: Any, app: Any, verbs: Any) -> Any:
    verb, *words = call.words
    if verb == "build":
        assert "apptainer.def" in words or words[-1].startswith("docker-daemon://")
        return Answer()
    binds, at = {}, 0
    while words[at].startswith("-"):
        takes = words[at] in {"-B", "--bind"}
        if takes:
            host, *inside = words[at + 1].split(":")
            binds[inside[0] if inside else host] = host
        at += 2 if takes else 1
    assert words[at].endswith(".sif"), words[at]
    entry, rest = "neurostorm-app", words[at + 1 :]
    if verb == "exec":
        entry, *rest = rest
    return enter(call, entry, rest, binds, app, verbs)


def enter(call: Any, entry: str, words: list[str], binds: dict[str, str], app: Any, verbs: Any):
    """Run the command of an image; its folders are those of the host."""
    if entry == "cat":
        assert words == ["/sbom.cdx.json"]
        return Answer(out="{}")
    places = "|".join(re.escape(inside) for inside in sorted(binds, key=len, reverse=True))
    if binds:  # each word once: a folder of the host may look like one of the image
        words = [re.sub(rf"^({places})(?=/|$)", lambda m: binds[m[1]], w) for w in words]
    inner = Call(entry, words, call.cwd, call.env)
    return {"neurostorm-app": app, "neurostorm-tools": verbs}[entry](inner)


def previous(words: list[str], word: str) -> str:
    return words[words.index(word) - 1]


def answer_sbatch(call: Any) -> Any:
    """Check a job as bash would read it, and give it a number."""
    script = call.cwd / call.words[-1]
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    return Answer(code=done.returncode, out="4711\n", err=done.stderr)


def answer_pip(words: list[str]) -> Any:
    """Check that what is installed is this package, with an extra that it has."""
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [word for word in words if word.startswith(".")]
    assert wanted, words
    for name in re.findall(r"\[(.+)\]", wanted[0]):
        assert name in extras["optional-dependencies"], name
    if "-c" in words:
        assert (ROOT / words[words.index("-c") + 1]).is_file()
    return Answer()


def answer_python(call: Any) -> Any:
    """Run a script of the documentation; look whether modules and other scripts are there."""
    first = call.words[0]
    if first == "-m":
        assert importlib.util.find_spec(call.words[1]), call.words
        return Answer()
    script = ROOT / first
    assert script.is_file(), first
    if not first.startswith("docs/"):
        return Answer()
    before, out = sys.argv, io.StringIO()
    sys.argv = call.words
    try:
        with contextlib.chdir(call.cwd), contextlib.redirect_stdout(out):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    return Answer(out=out.getvalue())


def answer_snakemake(call: Any) -> Any:
    """Look for the file and for what is configured; the slow test runs it."""
    at = call.words.index("--snakefile")
    text = (ROOT / call.words[at + 1]).read_text()
    given = [word.partition("=")[0] for word in call.words if re.match(r"[a-z]+=", word)]
    assert all(f'"{name}"' in text for name in given), given
    return Answer()


@pytest.mark.parametrize("page", sorted({block.page for block in RUN}))
def test_the_commands_of_a_page_run(page, sh):
    for block in RUN:
        if block.page == page:
            sh.run(shell.commands_of(block))
    assert sh.calls, "no command of ours was called"


def test_every_file_that_is_written_is_on_the_page_of_output_files(world):
    assert outputs.untold(world["/data"] / "out") == []


def test_the_scripts_of_the_nextflow_processes_run(sh, world):
    """Nextflow itself is not run; what its tasks would run is."""
    text = (ROOT / "docs/pipelines/main.nf").read_text(encoding="utf-8")
    scripts = re.findall(r'"""\n(.*?)"""', text, re.DOTALL)
    assert len(scripts) == text.count("process ") == 2
    filled = {
        "${params.bids}": "/data/bids",
        "${params.out}": "/data/out",
        "${params.options}": "--models connectome -d fmriprep=/data/derivatives/fmriprep",
        "${label}": "01",
        "${task.cpus}": "2",
        "${task.memory.toMega()}": "8000",
    }
    for script in scripts:
        for place, value in filled.items():
            script = script.replace(place, value)  # noqa: PLW2901  a word at a time
        assert "$" not in script, script
        sh.run(script.replace("\\\\\n", "\\\n"))
    assert [call.words[2] for call in sh.calls] == ["participant", "group"]


def test_what_zsh_is_given_is_printed(sh):
    """Zsh need not be here: what it would read is made, not read."""
    for block in BLOCKS:
        if block.language == "zsh":
            inner = re.fullmatch(r'eval "\$\((.+)\)"\n', block.text)
            assert inner, block.name
            assert "#compdef" in sh.run(f"{inner[1]}\n")


def test_a_command_that_nobody_knows_fails(sh):
    with pytest.raises(AssertionError, match="neurostorm-query"):
        sh.run("neurostorm-query /data/out\n")


def test_an_option_that_is_not_there_fails(sh):
    with pytest.raises(AssertionError, match="no such option"):
        sh.run("neurostorm-app /data/bids /data/out participant --no-such-option\n")


def test_every_block_is_of_a_kind_that_somebody_looks_at():
    strange = [
        block.name for block in BLOCKS if block.language not in OTHERS | {"zsh"} | shell.SHELLS
    ]
    assert not strange
    unfenced = [
        f"{page.name}:{number}"
        for page in shell.pages()
        for number, line in enumerate(outside_fences(page), start=1)
        if re.match(r"(    |\$ )\s*(neurostorm-(app|tools)|docker|apptainer|make|pip) ", line)
    ]
    assert not unfenced, "commands outside of a fenced block"


def outside_fences(page: Path) -> list[str]:
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        inside ^= line.lstrip().startswith("```")
        lines.append("" if inside else line)
    return lines


def test_options_that_are_only_told_exist():
    """Of commands in text, in tables and in blocks that are not run."""
    app = {flag for action in build_parser()._actions for flag in action.option_strings}
    known = {"neurostorm-app": app, "neurostorm-tools": flags_of(tools.build_parser()) | app}
    wrong = []
    for page in shell.pages():
        text = page.read_text(encoding="utf-8")
        told = re.findall(r"`((?:neurostorm-app|neurostorm-tools) [^`]+)`", text)
        told += [
            line
            for b in BLOCKS
            if b.page == str(page.relative_to(ROOT)) and b.language == "text"
            for line in b.text.splitlines()
            if re.match(r"neurostorm-(app|tools) ", line)
        ]
        for words in told:
            name = words.split()[0]
            used = set(re.findall(r"(?<=\s)--[a-z][\w-]*", words))
            wrong += [f"{page.name}: {words}: {flag}" for flag in used - known[name]]
        alone = set(re.findall(r"`(--[a-z][\w-]+)", text))
        wrong += [f"{page.name}: {flag}" for flag in alone if not told_of(flag, known, text)]
    assert not wrong, "\n".join(wrong)


FOREIGN = {
    "--network", "--user", "--read-only", "--tmpfs", "--gpus", "--device", "--nv", "--build-arg",
    "--entrypoint", "--containall", "--cleanenv", "--dependency", "--requeue", "--notrack",
    "--executor", "--nolock", "--pty", "--resources", "--processing-level", "--no-index",
}  # fmt: skip
"""Options of Docker, Apptainer, SLURM, Snakemake, Dask, BABS, pip and of other apps."""


def told_of(flag: str, known: dict[str, set[str]], text: str) -> bool:
    return flag in known["neurostorm-tools"] | FOREIGN


def flags_of(parser: Any) -> set[str]:
    """List the options of a parser and of all its verbs."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        choices = getattr(action, "choices", None)
        if isinstance(choices, dict):
            found |= {flag for verb in choices.values() for flag in flags_of(verb)}
    return found


def pages_of_python() -> list[str]:
    return sorted({block.page for block in PYTHON} - SLOW - {BY_STEPS})


@pytest.mark.parametrize("page", pages_of_python())
def test_the_python_of_a_page_runs(page, sh, world, monkeypatch, tmp_path):
    import neurostorm_app

    really = neurostorm_app.run
    made = world["/data"] / "derivatives/fmriprep"

    def run(bids_dir: str, output_dir: str, level: str = "participant", **options: Any) -> Any:
        """Take preprocessed runs, in this process."""
        options |= {"derivatives": {"fmriprep": made}, "nprocs": 1, "report_viewer": "off"}
        return really(bids_dir, output_dir, level, skip_bids_validation=True, **options)

    monkeypatch.setattr(neurostorm_app, "run", run)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    world_of.write_weights(tmp_path, page)
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        for block in PYTHON:
            if block.page == page:
                code = compile(sh.here(block.text), block.name, "exec")
                try:
                    exec(code, {"__name__": "__main__"})
                except SystemExit as left:
                    assert int(left.code or 0) == 0, block.name  # noqa: PT017  it is how they end
