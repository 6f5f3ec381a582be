"""The two images are made by the same steps, and keep their promises; no engine is needed here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from neurostorm_app import __version__
from neurostorm_app.models import read_card
from neurostorm_app.models.weights import BAKED, find_weights
from neurostorm_app.pipelines.templates import load_template

ROOT = Path(__file__).resolve().parents[1]
CONTAINER = ROOT / "container"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "apptainer.def").read_text(encoding="utf-8")
OTHER_ENGINE = {"BOOTSTRAP", "BASE_IMAGE"}
"""Arguments that the engines spell in ways of their own."""


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONTAINER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pins, sbom, bake, check = map(load, ("pins", "sbom", "bake_templates", "check_image"))


def section(name: str) -> str:
    """Take a section of the definition of Apptainer."""
    return re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", DEFINITION, re.MULTILINE | re.DOTALL)[1]


def pairs(text: str, pattern: str) -> dict[str, str]:
    return {key: value.strip('"') for key, value in re.findall(pattern, text, re.MULTILINE)}


def docker_environment() -> dict[str, str]:
    block = re.search(r"^ENV (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)[1]
    return pairs(block, r"^\s*(\w+)=(.*?)(?: \\)?$")


def definition_environment() -> dict[str, str]:
    return pairs(section("environment"), r"^\s*export (\w+)=(.*)$")


# The two recipes


def test_both_images_set_the_same_environment():
    ours, theirs = docker_environment(), definition_environment()
    kinds = ours.pop("NEUROSTORM_APP_CONTAINER"), theirs.pop("NEUROSTORM_APP_CONTAINER")
    assert kinds == ("docker", "apptainer")
    assert ours == theirs
    assert len(ours) > 10


def test_both_images_bear_the_same_labels():
    block = re.search(r"^LABEL (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)[1]
    ours = pairs(block, r'^\s*([\w.]+)=(".*?")')
    theirs = pairs(section("labels"), r"^\s*([\w.]+) (.*)$")
    spelt = {key: re.sub(r"\$\{(\w+)\}", r"{{ \1 }}", value) for key, value in ours.items()}
    assert spelt == theirs
    assert {key.rpartition(".")[2] for key in ours} >= {
        "title", "version", "revision", "source", "licenses", "created",
    }  # fmt: skip


def test_both_recipes_take_the_same_arguments_with_the_same_defaults():
    ours = pairs(DOCKERFILE, r"^ARG (\w+)=(.*)$")
    theirs = pairs(section("arguments"), r"^\s*(\w+)=(.*)$")
    bases = {ours.pop("BASE_IMAGE"), f"docker.io/library/{theirs.pop('BASE_IMAGE')}"}
    assert len(bases) == 1
    assert theirs.pop("BOOTSTRAP") == "docker"
    assert ours == theirs
    assert ours["VERSION"] == __version__
    assert ours["CREATED"] == ""


def test_both_recipes_take_the_same_steps_of_the_same_script():
    call = r"/src/container/install\.sh (\w+) /src /opt/neurostorm"
    steps = re.findall(call, DOCKERFILE)
    assert steps == re.findall(call, section("post"))
    script = (CONTAINER / "install.sh").read_text(encoding="utf-8")
    assert steps == re.findall(r"^(\w+)\)$", script, re.MULTILINE)


def test_both_recipes_copy_the_same_files():
    copies = re.findall(r"^COPY ((?!--from).*(?:\\\n.*)*)$", DOCKERFILE, re.MULTILINE)
    ours = {word for line in copies for word in line.replace("\\\n", " ").split()[:-1]}
    theirs = {line.split()[-2] for line in section("files").splitlines() if line.count("/src")}
    whole = {name for name in ours if not name.startswith(("container/", "$"))}
    assert whole == theirs - {"container"}
    assert all((ROOT / name).exists() for name in whole | theirs)
    assert all((ROOT / name).is_file() for name in ours if name.startswith("container/"))


def test_the_checks_copy_what_the_recipes_copy_and_know_every_argument():
    steps = (CONTAINER / "check-steps.sh").read_text(encoding="utf-8")
    copied = re.search(r"cp -r --parents (.*?) \"\$context\"", steps, re.DOTALL)[1]
    files = {line.split()[0] for line in section("files").splitlines() if line.count("/src")}
    assert files <= set(copied.replace("\\\n", " ").split())
    known = re.search(r"for name in (.*?); do\n\s+\[\[ -z", steps, re.DOTALL)[1]
    arguments = pairs(section("arguments"), r"^\s*(\w+)=(.*)$")
    assert set(known.replace("\\\n", " ").split()) == set(arguments)


def test_the_image_is_not_run_as_root_and_starts_the_app():
    last = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    user, _, group = re.search(r"^USER (.*)$", last, re.MULTILINE)[1].partition(":")
    assert min(int(user), int(group)) > 0
    assert 'ENTRYPOINT ["neurostorm-app"]' in last
    assert 'exec neurostorm-app "$@"' in section("runscript")


def test_nothing_that_the_image_writes_needs_a_home_or_a_writable_root():
    environment = docker_environment()
    caches = {k: v for k, v in environment.items() if k.endswith(("DIR", "_CACHE_HOME"))}
    assert len(caches) >= 5
    assert environment["HOME"] == "/tmp"
    assert {value.split("/")[1] for value in caches.values()} == {"tmp"}
    assert environment["TEMPLATEFLOW_AUTOUPDATE"] == "off"


def test_what_the_image_finds_offline_is_what_the_app_looks_for():
    environment = docker_environment()
    assert environment[BAKED] == "/opt/weights"
    baked = re.findall(r"^COPY --from=baked (\S+) \S+$", DOCKERFILE, re.MULTILINE)
    assert baked == [environment["TEMPLATEFLOW_HOME"], environment[BAKED]]
    # An empty home would be filled by the templateflow package, and cannot be: it is read-only.
    assert (CONTAINER / "templates" / "README.txt").stat().st_size > 0


def test_every_argument_is_described():
    page = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    arguments = pairs(section("arguments"), r"^\s*(\w+)=(.*)$")
    assert [name for name in arguments if f"`{name}`" not in page] == []


@pytest.mark.parametrize("script", sorted(CONTAINER.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_that_the_shell_understands(script):
    shell = script.read_text(encoding="utf-8").splitlines()[0].rpartition("/")[2].split()[-1]
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Pins


def test_a_later_lock_file_has_the_last_word(tmp_path):
    first, second = tmp_path / "a.lock", tmp_path / "b.lock"
    first.write_text("Triton==3.9.0\ntyping_extensions==4.16.0\n")
    second.write_text("# why\ntriton==3.7.1  # of this torch\n")
    assert pins.read_pins([first, second]) == {
        "triton": "triton==3.7.1",
        "typing-extensions": "typing_extensions==4.16.0",
    }


def test_what_nobody_pinned_is_found():
    there = {"torch": "2.13.0+cpu", "Left_Pad": "1.0", "numpy": "2.0.0", "pip": "23.0.1"}
    lock = {"torch": "torch==2.13.0", "numpy": "numpy==2.3.5"}
    assert pins.find_strays(lock, there) == ["left-pad==1.0", "numpy==2.0.0"]


def test_the_lock_files_pin_whatever_an_image_is_told_to_install():
    known = pins.read_pins([ROOT / "requirements.lock", CONTAINER / "build.lock"])
    needs = pins.list_needs(ROOT / "pyproject.toml", ["cluster"])
    names = {pins.normalise(re.match(r"[\w.-]+", need)[0]) for need in needs}
    assert {"torch", "distributed", "numpy"} <= names
    assert names - known.keys() == set()
    assert all("==" in line for line in known.values())


def test_every_line_of_a_lock_file_is_a_pin():
    for path in sorted(CONTAINER.glob("*.lock")):
        lines = pins.read_pins([path]).values()
        assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
        assert len(lines) > 1


def test_a_part_that_the_app_does_not_have_is_refused():
    with pytest.raises(SystemExit, match=r"EXTRAS: no part is called clutser; there are cluster"):
        pins.list_needs(ROOT / "pyproject.toml", ["clutser"])


@pytest.mark.parametrize(
    ("step", "variant", "message"),
    [
        ("packages", "rocm", "VARIANT is rocm, expected cpu or cuda"),
        ("fly", "cpu", "expected packages"),
    ],
)
def test_an_unknown_variant_or_step_is_refused(tmp_path, step, variant, message):
    done = subprocess.run(
        ["sh", CONTAINER / "install.sh", step, ROOT, tmp_path / "prefix"],
        env={"PATH": os.environ["PATH"], "VARIANT": variant},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 64
    assert message in done.stderr
    assert not (tmp_path / "prefix").exists()


# The bill of materials

STATUS = """Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13.dfsg-1
Description: compression library
 Version: not this one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9
"""


def test_packages_of_debian_become_components(tmp_path):
    for name, text in (("zlib1g", "Format: x\nLicense: Zlib\nLicense: Zlib\n"), ("libc6", "LGPL")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "copyright").write_text(text)
    zlib, libc = sbom.list_debian(STATUS, tmp_path)
    assert zlib["purl"] == "pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1?arch=amd64"
    assert zlib["licenses"] == [{"license": {"name": "Zlib"}}]
    assert libc["name"] == "libc6"
    assert "licenses" not in libc


def bill_of(*components):
    return {
        "metadata": {"component": {"bom-ref": "root", "name": "app", "version": "1"}},
        "components": list(components),
        "dependencies": [{"ref": "root", "dependsOn": ["b"]}, {"ref": "b"}],
    }


def test_components_are_added_in_order_and_the_app_depends_on_them():
    bill = bill_of({"bom-ref": "b", "name": "b"})
    whole = sbom.add_components(bill, [{"bom-ref": "c"}, {"bom-ref": "a"}])
    assert [component["bom-ref"] for component in whole["components"]] == ["a", "b", "c"]
    assert whole["dependencies"] == [{"ref": "root", "dependsOn": ["a", "b", "c"]}, {"ref": "b"}]
    assert len(bill["components"]) == 1


def test_what_a_bill_does_not_list_with_a_licence_is_found():
    licence = [{"license": {"id": "MIT"}}]
    bill = bill_of(
        {"name": "Torch_Vision", "version": "1", "licenses": licence},
        {"name": "plain", "version": "2"},
    )
    there = {"torch-vision": "1", "plain": "2", "absent": "3"}
    assert check.find_unlisted(bill, there) == ["absent==3", "plain==2"]


# What is baked


class FakeFlow:
    """Play ``templateflow.api``: a skeleton of empty files, some of which were fetched."""

    def __init__(self, home, has):
        self.folder, self.has = home / "tpl-Made", has
        self.folder.mkdir(parents=True)
        for name in ("tpl-Made_res-01_T1w.nii.gz", "tpl-Made_res-02_T1w.nii.gz"):
            (self.folder / name).touch()
        (self.folder / "template_description.json").write_text("{}")

    def get(self, space, *, suffix, resolution, **_):
        path = self.folder / f"tpl-{space}_res-{resolution[0]:02d}_{suffix}.nii.gz"
        if suffix not in self.has:
            return []
        path.write_bytes(b"an image")
        return [path]


def test_only_files_that_were_fetched_are_baked(tmp_path):
    flow = FakeFlow(tmp_path / "fetched", {"T1w", "mask"})
    assert bake.fetch_template("Made:res-2", flow.get) == "Made"
    kept = {path.name for path in bake.keep_real(flow.folder, tmp_path / "home")}
    assert kept == {
        "template_description.json",
        "tpl-Made_res-02_T1w.nii.gz",
        "tpl-Made_res-02_mask.nii.gz",
    }


def test_a_template_that_templateflow_has_not_stops_the_build(tmp_path):
    flow = FakeFlow(tmp_path / "fetched", {"T1w"})
    with pytest.raises(SystemExit, match="TemplateFlow has no T1w image and brain mask of Made"):
        bake.fetch_template("Made", flow.get)
    with pytest.raises(SystemExit, match=r"'\.\./x' is no space; expected one such as"):
        bake.fetch_template("../x", flow.get)


def test_baked_folders_are_found_by_their_variables(tmp_path, monkeypatch):
    steps = f'. "{CONTAINER}/check-steps.sh"; make_context "{ROOT}" "{tmp_path}"'
    subprocess.run(["bash", "-euc", steps], check=True)
    baked = tmp_path / "baked"
    monkeypatch.setenv(BAKED, str(baked / "weights"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(baked / "templates"))
    assert find_weights(read_card("neurostorm-demo")).is_relative_to(baked)
    template = load_template("MNI152NLin6Asym", "2")
    assert template.source == "TemplateFlow"
    assert template.t1w.is_relative_to(baked)
    # The templateflow package itself finds there what would be fetched, and so fetches nothing.
    from templateflow import client  # now: its home is made, or found, when it is imported

    flow = client.TemplateFlowClient(root=baked / "templates", autoupdate=False)
    assert bake.fetch_template("MNI152NLin6Asym:res-2", flow.get) == "MNI152NLin6Asym"
    kept = bake.keep_real(baked / "templates" / "tpl-MNI152NLin6Asym", tmp_path / "home")
    assert len(kept) == 5


def test_folders_that_can_be_written_to_and_ways_out_are_found(tmp_path):
    assert check.find_writable([tmp_path, tmp_path / "absent"]) == [tmp_path]
    assert list(tmp_path.iterdir()) == []
    table = tmp_path / "route"
    table.write_text("Iface Destination\neth0 00000000\nlo 0000007F\neth0 0011AC\n")
    assert check.find_ways_out(table) == ["eth0"]


# No network


def offline(*command, **options):
    """Run a command in a network namespace of its own: no interface is up, there are no routes."""
    return subprocess.run(
        ["unshare", "--net", "--map-root-user", "--user", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture
def namespace():
    """Skip where no namespace can be made."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    done = offline("true")
    if done.returncode != 0:
        pytest.skip(f"a network namespace may not be made here: {done.stderr.strip()}")


REACH = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
except OSError:
    sys.exit(7)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("namespace")
def test_participant_and_group_run_where_there_is_no_network(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        inside = offline(sys.executable, "-c", REACH, port)
        outside = subprocess.run([sys.executable, "-c", REACH, port], check=False)
    assert (inside.returncode, outside.returncode) == (7, 0), "the namespace closes nothing"

    bids, out, home = tmp_path / "bids", tmp_path / "out", tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(home),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
    }
    for command in (
        ["neurostorm-tools", "phantom", bids, "--participants", "2", "--runs", "1", "--scale", "tiny", "--seed", "1"],  # noqa: E501
        ["neurostorm-app", bids, out, "participant", "--models", "connectome", "neurostorm-demo"],
        ["neurostorm-app", bids, out, "group"],
    ):  # fmt: skip
        done = offline(*command, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (out / "sub-01.html").stat().st_size > 0
    assert (out / "group.html").stat().st_size > 0
    reports = [json.loads(p.read_text("utf-8")) for p in (out / "logs").glob("**/*.json")]
    assert reports
    traces = subprocess.run(
        ["grep", "-rlE", "ConnectionError|NameResolution|Network is unreachable", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert traces.stdout == ""


def test_the_version_is_the_one_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == __version__
