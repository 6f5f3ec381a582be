"""No network: the app works where there is none, and where there is one it asks for nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from neurostorm_app.pipelines.phantom import make_phantom

from ..bids_app.conftest import Dataset  # noqa: TID252  its data serve here
from ..bids_app.test_bad_input import BAD, GOOD, write_series  # noqa: TID252

HOOK = """
import json, os, socket, sys

CALLS = ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo", "sendto")

def hook(event, args):
    kind, _, name = event.partition(".")
    if kind != "socket" or not name.startswith(CALLS):
        return
    if getattr(args[0], "family", None) == getattr(socket, "AF_UNIX", object()):
        return  # between processes of one machine
    with open(os.environ["ASKED"], "a") as file:
        file.write(json.dumps([event, repr(args), sys.argv[:3]]) + chr(10))

sys.addaudithook(hook)
"""
"""Stands as ``sitecustomize`` before every Python process, those that a pool starts included."""
UNREACHABLE = """
import socket, sys
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    with socket.socket(family, socket.SOCK_STREAM) as there:
        there.settimeout(5)
        try:
            there.connect((address, 80))
        except OSError as error:
            print(error.errno)
        else:
            sys.exit("something answers")
"""
"""Addresses that are kept for documentation, so that nobody is asked if there is a network."""


@pytest.fixture
def watched(tmp_path):
    """The environment of processes that write down what they ask of a network, and where."""
    place = tmp_path / "hook"
    place.mkdir()
    (place / "sitecustomize.py").write_text(HOOK)
    asked = tmp_path / "asked.txt"
    paths = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "ASKED": str(asked)}, asked


@pytest.fixture(scope="session")
def alone():
    """The words that run a command in a namespace without routes."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not here")
    for words in ([unshare, "--net"], [unshare, "--net", "--map-root-user"]):
        done = subprocess.run(
            [*words, sys.executable, "-c", UNREACHABLE],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 and len(done.stdout.split()) == 2:
            return words
    return pytest.skip("this user may not make a network namespace")


def call(words, *, env, before=()):
    command = [*before, sys.executable, "-m", "neurostorm_app.bids_app.cli", *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def asked_of(asked):
    return [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []


def test_a_process_that_asks_is_seen(watched):
    env, asked = watched
    ask = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    spawn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}])"
    for code in (ask, spawn):
        subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert [event for event, *_ in asked_of(asked)] == ["socket.connect"] * 2


def test_nothing_is_asked_of_a_network(watched, tmp_path, tally):
    env, asked = watched
    Dataset(tmp_path / "bids").participant("01", runs=())
    for seed, name in enumerate((GOOD, BAD)):
        write_series(tmp_path / "prep" / "sub-01" / "func", name, seed=seed)
    words = [tmp_path / "bids", tmp_path / "out"]
    derivative = ["-d", f"prep={tmp_path / 'prep'}", "--skip-bids-validation"]
    call([*words, "participant", *derivative], env=env)
    call([*words, "group"], env=env)
    tally("network", injected=2, survived=2 * (asked_of(asked) == []))
    assert asked_of(asked) == []
    assert (tmp_path / "out" / "group.html").is_file()


@pytest.mark.slow
def test_participant_and_group_run_where_no_network_is(watched, alone, tmp_path, tally):
    env, asked = watched
    make_phantom(tmp_path / "bids", participants=2, runs=1, seed=5, scale="tiny")
    words = [tmp_path / "bids", tmp_path / "out"]
    call([*words, "participant", "--models", "connectome"], env=env, before=alone)
    call([*words, "group"], env=env, before=alone)
    pages = {path.name for path in (tmp_path / "out").glob("*.html")}
    tally("network", injected=2, survived=2 * (asked_of(asked) == [] and len(pages) == 3))
    assert pages == {"sub-01.html", "sub-02.html", "group.html"}
    assert asked_of(asked) == []
