"""Fetching from a server that plays the hub, and goes wrong in every way it can."""

from __future__ import annotations

import fcntl
import hashlib
import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.errors import (
    CannotCreateError,
    ExitCode,
    MissingWeightsError,
    TemporaryError,
    UsageError,
    WrongWeightsError,
)
from neurostorm_app.models import read_card
from neurostorm_app.models.atlases import find_atlas, find_coordinates, read_atlas_card
from neurostorm_app.models.card import Card, Source
from neurostorm_app.models.lockfile import LOCK, read_lock
from neurostorm_app.models.weights import find_weights, read_checkpoint
from neurostorm_app.models.weights_dir import fetch_files

REPOSITORY = "lab/model"
COMMIT = "4c54e0cccf920d9d6af7c647cb866fc19c60cf26"
OTHER = "e96ad7bcbf39" + "0" * 28
BIN, CONFIG = "large/pytorch_model.bin", "large/config.json"
SETTINGS = b'{"hidden_size": 4}'


@pytest.fixture
def content(rng: Any) -> bytes:
    return rng.bytes(300_007)


@pytest.fixture
def card(hub: Any, content: bytes) -> Card:
    """A model on the hub: large weights, a small configuration, a revision known in part."""
    hub.commits[REPOSITORY] = [OTHER]
    hub.put(REPOSITORY, COMMIT, BIN, content, lfs=True)
    hub.put(REPOSITORY, COMMIT, CONFIG, SETTINGS)
    return on_hub()


def on_hub(name: str = "brainlm", **changes: Any) -> Card:
    source = Source(repository=REPOSITORY, revision=COMMIT[:12], file=BIN, also=(CONFIG,))
    return read_card(name).model_copy(
        update={"source": source, "file": "pytorch_model.bin", "sha256": None} | changes
    )


def on_github(revision: str = COMMIT, **changes: Any) -> Card:
    source = Source(host="github", repository=REPOSITORY, revision=revision, file="w.bin")
    return read_card("brainlm").model_copy(
        update={"source": source, "file": "w.bin", "sha256": None} | changes
    )


def fetch(card: Any, folder: Path) -> list[Any]:
    return fetch_files(card, folder, progress=lambda *_: None)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_model_is_fetched_with_what_belongs_to_it_and_locked(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "weights"
    files = fetch(card, folder)
    assert [f.path.name for f in files] == ["config.json", "pytorch_model.bin"]
    assert [f.was_there for f in files] == [False, False]
    assert (folder / "brainlm/pytorch_model.bin").read_bytes() == content
    assert (folder / "brainlm/config.json").read_bytes() == SETTINGS
    entry = json.loads((folder / LOCK).read_text())["files"]["brainlm/pytorch_model.bin"]
    assert entry.pop("first_seen").endswith("+00:00")
    assert entry == {
        "name": "brainlm",
        "host": "huggingface",
        "repository": REPOSITORY,
        "revision": COMMIT,
        "file": BIN,
        "size": len(content),
        "sha256": sha256(content),
        "licence": "CC-BY-NC-ND-4.0",
    }
    assert not [name for name in names(folder) if name.endswith(".part")]
    assert find_weights(card, weights_dir=folder) == folder / "brainlm/pytorch_model.bin"


def test_what_is_here_is_not_asked_for_again(hub: Any, card: Card, tmp_path: Path) -> None:
    first = fetch(card, tmp_path)
    hub.log.clear()
    second = fetch(card, tmp_path)
    assert hub.log == []
    assert [f.was_there for f in second] == [True, True]
    assert [f.sha256 for f in second] == [f.sha256 for f in first]


def test_no_token_and_no_word_of_this_machine_leaves_it(
    hub: Any, card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(card, tmp_path)
    assert hub.asked("GET", "/cdn/")
    for _, _, headers in hub.log:
        assert "authorization" not in headers
        assert not [value for value in headers.values() if "secret" in value or "torch" in value]


def test_one_commit_must_begin_with_the_revision_of_the_card(
    hub: Any, card: Card, tmp_path: Path
) -> None:
    hub.commits[REPOSITORY].append(COMMIT[:12] + "f" * 28)
    with pytest.raises(MissingWeightsError, match=r"2 of 3 commits begin with 4c54e0cccf92; one"):
        fetch(card, tmp_path)
    hub.commits[REPOSITORY] = [OTHER]
    with pytest.raises(MissingWeightsError, match=r"0 of 1 commits begin with 4c54e0cccf92"):
        fetch(card, tmp_path)
    assert names(tmp_path) == [".weights-fetch"]


def test_a_cut_connection_is_taken_up_where_it_broke(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    fetch(card, tmp_path / "whole")
    hub.cuts += [len(SETTINGS), 1000, 0, 70_000, 200]
    hub.log.clear()
    fetch(card, tmp_path / "cut")
    assert (tmp_path / "cut/brainlm/pytorch_model.bin").read_bytes() == content
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in hub.ranges_asked()]
    assert starts == sorted(starts)
    assert set(starts) == {1000, 71_000, 71_200}


def test_a_later_call_takes_up_what_an_earlier_one_left(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    hub.cuts += [len(SETTINGS), 5000, *[0] * 6]
    with pytest.raises(TemporaryError, match=r"the connection broke off after 5000 of 300007") as e:
        fetch(card, tmp_path)
    assert e.value.exit_code == ExitCode.TEMPORARY
    assert not (tmp_path / "brainlm/pytorch_model.bin").exists()
    assert list(read_lock(tmp_path)) == ["brainlm/config.json"]
    hub.log.clear()
    fetch(card, tmp_path)
    assert set(hub.ranges_asked()) == {"bytes=5000-"}
    assert (tmp_path / "brainlm/pytorch_model.bin").read_bytes() == content


def test_an_interrupted_call_leaves_what_came(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    def interrupt(_: str, here: int, size: int) -> None:
        if size == len(content) and here > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_files(card, tmp_path, progress=interrupt)
    hub.log.clear()
    fetch(card, tmp_path)
    assert hub.ranges_asked()
    assert (tmp_path / "brainlm/pytorch_model.bin").read_bytes() == content


def test_a_source_that_always_begins_anew_is_borne(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    hub.ranges = False
    hub.cuts += [len(SETTINGS), 1000, 2000]
    fetch(card, tmp_path)
    assert (tmp_path / "brainlm/pytorch_model.bin").read_bytes() == content


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (BIN, r"what came has the SHA-256 \w+; the source says \w+; it was removed"),
        (CONFIG, r"what came is not the object \w+ of its repository; it was removed"),
    ],
)
def test_wrong_bytes_never_get_the_name(
    hub: Any, card: Card, tmp_path: Path, file: str, message: str
) -> None:
    stored = hub.files[REPOSITORY, COMMIT, file]
    stored.sent = stored.content[:-1] + bytes([stored.content[-1] ^ 1])
    with pytest.raises(WrongWeightsError, match=message) as caught:
        fetch(card, tmp_path)
    assert caught.value.exit_code == ExitCode.DATA
    assert not (tmp_path / "brainlm" / Path(file).name).exists()
    assert not [name for name in names(tmp_path) if name.endswith(".part")]
    stored.sent = None
    fetch(card, tmp_path)


def test_a_file_that_changed_at_its_source_is_refused_before_it_comes(
    hub: Any, card: Card, tmp_path: Path
) -> None:
    fetch(card, tmp_path)
    (tmp_path / "brainlm/pytorch_model.bin").unlink()
    hub.put(REPOSITORY, COMMIT, BIN, b"other weights", lfs=True)
    hub.log.clear()
    with pytest.raises(
        WrongWeightsError, match=rf"the source offers a file with .*/{LOCK} says [0-9a-f]+"
    ):
        fetch(card, tmp_path)
    assert not hub.asked("GET", "/cdn/")


def test_the_card_knows_better_than_lock_and_source(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    with pytest.raises(WrongWeightsError, match=r"the source offers .*; the card says 0000"):
        fetch(on_hub(sha256="0" * 64), tmp_path)
    fetch(on_hub(sha256=sha256(content)), tmp_path)
    with pytest.raises(WrongWeightsError, match=r"weights-lock.json: holds large/.* card is of"):
        fetch(on_hub(sha256="0" * 64), tmp_path)


def test_a_lock_of_another_revision_is_not_overwritten(
    hub: Any, card: Card, tmp_path: Path
) -> None:
    fetch(card, tmp_path)
    before = (tmp_path / LOCK).read_bytes()
    newer = card.model_copy(
        update={"source": Source(repository=REPOSITORY, revision=OTHER, file=BIN, also=(CONFIG,))}
    )
    with pytest.raises(WrongWeightsError, match=rf"revision {COMMIT}.* card is of .*{OTHER}"):
        fetch(newer, tmp_path)
    assert (tmp_path / LOCK).read_bytes() == before


def test_github_is_asked_for_the_revision_and_the_lock_holds_what_came(
    hub: Any, content: bytes, tmp_path: Path
) -> None:
    hub.put(REPOSITORY, COMMIT, "w.bin", content)
    fetch(on_github(), tmp_path)
    assert hub.asked("GET") == [f"/raw/{REPOSITORY}/{COMMIT}/w.bin"]
    (tmp_path / "brainlm/w.bin").unlink()
    hub.put(REPOSITORY, COMMIT, "w.bin", content[::-1])
    with pytest.raises(
        WrongWeightsError, match=r"what came has the SHA-256 \w+; .*/weights-lock.json says"
    ):
        fetch(on_github(), tmp_path)
    assert not (tmp_path / "brainlm/w.bin").exists()


def test_github_too_is_taken_up_where_it_broke(hub: Any, content: bytes, tmp_path: Path) -> None:
    hub.put(REPOSITORY, COMMIT, "w.bin", content)
    hub.cuts += [4000, *[0] * 6]
    with pytest.raises(TemporaryError, match="the connection broke off after 4000"):
        fetch(on_github(), tmp_path)
    fetch(on_github(), tmp_path)
    assert hub.ranges_asked()[-1] == "bytes=4000-"
    assert (tmp_path / "brainlm/w.bin").read_bytes() == content


def test_a_pointer_of_git_lfs_is_not_the_file(hub: Any, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 30000000\n"
    hub.put(REPOSITORY, COMMIT, "w.bin", pointer)
    with pytest.raises(WrongWeightsError, match="the repository holds a Git LFS pointer there"):
        fetch(on_github(), tmp_path)
    assert names(tmp_path) == [".weights-fetch"]


def test_more_than_was_announced_is_not_taken(hub: Any, content: bytes, tmp_path: Path) -> None:
    hub.put(REPOSITORY, COMMIT, "w.bin", content)
    hub.files[REPOSITORY, COMMIT, "w.bin"].sent = content * 3
    with pytest.raises(WrongWeightsError, match=r"more bytes come than the 300007 that were"):
        fetch(on_github(), tmp_path)


def test_a_source_must_say_how_large_a_file_is(hub: Any, content: bytes, tmp_path: Path) -> None:
    hub.put(REPOSITORY, COMMIT, "w.bin", content)
    hub.lengths = False
    with pytest.raises(TemporaryError, match="does not say how large the file is"):
        fetch(on_github(), tmp_path)


@pytest.mark.parametrize("which", ["file", "revision", "repository", "github"])
def test_what_the_source_does_not_have(hub: Any, card: Card, tmp_path: Path, which: str) -> None:
    del hub.files[REPOSITORY, COMMIT, CONFIG]
    if which == "repository":
        hub.commits.clear()
    if which == "revision":
        source = Source(repository=REPOSITORY, revision="f" * 40, file=BIN)
        card = card.model_copy(update={"source": source})
    with pytest.raises(MissingWeightsError, match=r"the source answers 40[14]: it has no such"):
        fetch(on_github() if which == "github" else card, tmp_path)
    assert names(tmp_path) == [".weights-fetch"]


def test_an_answer_of_another_revision_is_refused(hub: Any, card: Card, tmp_path: Path) -> None:
    hub.answered_revision = OTHER
    with pytest.raises(
        WrongWeightsError, match=rf"answers with the revision {OTHER}, not {COMMIT}"
    ):
        fetch(card, tmp_path)


def test_a_source_in_trouble_is_told_from_one_without_the_file(hub: Any, tmp_path: Path) -> None:
    hub.status = 503
    with pytest.raises(TemporaryError, match="the source answers 503"):
        fetch(on_github(), tmp_path)


def test_a_source_that_cannot_be_reached(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    source = Source(repository=REPOSITORY, revision=COMMIT, file=BIN)
    with pytest.raises(TemporaryError, match=r"the source cannot be reached, or broke off"):
        fetch(on_hub(source=source), tmp_path)


@pytest.mark.parametrize("answer", [b"<html>log in", b'{"error": "no"}', b'[{"id": 1}]'])
def test_a_mirror_that_is_none(hub: Any, card: Card, tmp_path: Path, answer: bytes) -> None:
    hub.commits_answer = answer
    with pytest.raises(MissingWeightsError, match="does not answer as Hugging Face does"):
        fetch(card, tmp_path)


def test_offline_is_offline(
    hub: Any, card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE forbids to connect"):
        fetch(card, tmp_path)
    assert hub.log == []


@contextmanager
def no_file_larger_than(n_bytes: int) -> Any:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_what_came(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    with (
        no_file_larger_than(100_000),
        pytest.raises(CannotCreateError, match=r"writing broke off after \d+ of 300007 bytes") as e,
    ):
        fetch(card, tmp_path)
    assert e.value.exit_code == ExitCode.CANNOT_CREATE
    assert not (tmp_path / "brainlm/pytorch_model.bin").exists()
    hub.log.clear()
    fetch(card, tmp_path)
    assert hub.ranges_asked()
    assert (tmp_path / "brainlm/pytorch_model.bin").read_bytes() == content


def test_a_full_disk_is_seen_before_anything_comes(
    hub: Any, card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CannotCreateError, match=r"50000 bytes are free; 300007 are to come"):
        fetch(card, tmp_path)
    assert not hub.asked("GET", "/cdn/")


def test_a_file_of_the_user_is_never_replaced(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    mine = tmp_path / "brainlm/pytorch_model.bin"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(WrongWeightsError, match=r"is there already, with .*; the source says"):
        fetch(card, tmp_path)
    assert mine.read_bytes() == b"mine"
    mine.write_bytes(content)
    (tmp_path / "brainlm/config.json").write_bytes(SETTINGS)
    (tmp_path / LOCK).unlink()
    hub.log.clear()
    assert [f.was_there for f in fetch(card, tmp_path)] == [True, True]
    assert not hub.asked("GET", "/cdn/")
    assert len(read_lock(tmp_path)) == 2


def test_a_file_that_nothing_is_known_of_is_not_taken_on_trust(hub: Any, tmp_path: Path) -> None:
    hub.put(REPOSITORY, COMMIT, "w.bin", b"theirs")
    (tmp_path / "brainlm").mkdir()
    (tmp_path / "brainlm/w.bin").write_bytes(b"mine")
    with pytest.raises(WrongWeightsError, match="nothing is known to compare it with"):
        fetch(on_github(), tmp_path)


def test_two_models_of_one_file_fetch_it_once(
    hub: Any, card: Card, content: bytes, tmp_path: Path
) -> None:
    fetch(card, tmp_path)
    hub.log.clear()
    fetch(on_hub("brainlm-111m"), tmp_path)
    assert not hub.asked("GET", "/cdn/")
    assert (tmp_path / "brainlm-111m/pytorch_model.bin").read_bytes() == content


def test_one_fetch_at_a_time(hub: Any, card: Card, tmp_path: Path) -> None:
    with (tmp_path / ".weights-fetch").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TemporaryError, match="another fetch writes into this folder"):
            fetch(card, tmp_path)
    fetch(card, tmp_path)


def test_parts_of_other_contents_do_not_stay(hub: Any, card: Card, tmp_path: Path) -> None:
    (tmp_path / "brainlm").mkdir()
    old = tmp_path / "brainlm/.pytorch_model.bin.0123456789ab.part"
    old.write_bytes(b"of another revision")
    fetch(card, tmp_path)
    assert not old.exists()


@pytest.mark.parametrize("name", ["neurostorm-demo", "connectome", "neurostorm-mae-ratio0.5-later"])
def test_what_has_no_known_source_cannot_be_fetched(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{name} cannot be fetched: (it comes|no revision of)"):
        fetch(read_card(name), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"files": {"a": {}}}'])
def test_a_damaged_lock_file_is_never_ignored(
    hub: Any, card: Card, tmp_path: Path, text: str
) -> None:
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(WrongWeightsError, match="is not a lock file of weights"):
        fetch(card, tmp_path)
    assert hub.log == []


def test_loading_enforces_the_lock_for_weights_and_configuration(
    hub: Any, card: Card, tmp_path: Path
) -> None:
    weights, sham = tmp_path / "a.bin", tmp_path / "b.bin"
    torch.save({"x": torch.ones(3)}, weights)
    torch.save({"x": torch.zeros(3)}, sham)
    hub.put(REPOSITORY, COMMIT, BIN, weights.read_bytes(), lfs=True)
    fetch(card, tmp_path / "w")
    path = find_weights(card, weights_dir=tmp_path / "w")
    assert read_checkpoint(path).config == {"hidden_size": 4}
    shutil.copy(sham, path)
    with pytest.raises(WrongWeightsError, match=r"its SHA-256 is \w+; .*/weights-lock.json says"):
        read_checkpoint(path)
    assert read_checkpoint(path, sha256=sha256(sham.read_bytes())).config  # a card's counts more
    path.with_name("config.json").write_text("{}")
    with pytest.raises(WrongWeightsError, match=r"config.json: its SHA-256 is"):
        read_checkpoint(path, sha256=sha256(sham.read_bytes()))


def test_the_atlas_comes_from_its_own_source_with_its_coordinates(hub: Any, tmp_path: Path) -> None:
    labels, places = b"an image", b"1\t2\t3\t4\r\n"
    known = read_atlas_card("A424")
    card = known.model_copy(
        update={
            "labels": known.labels.model_copy(update={"sha256": sha256(labels)}),
            "coordinates": known.coordinates.model_copy(update={"sha256": sha256(places)}),
        }
    )
    commit = "b591d88d0efffc0f059c73dfca1f293554795af1"
    for file, content in ((card.source.file, labels), (card.source.also[0], places)):
        hub.put("vandijklab/BrainLM", commit, file, content)
    fetch(card, tmp_path)
    base = f"/raw/vandijklab/BrainLM/{commit}/toolkit/atlases"
    assert hub.asked("GET") == [f"{base}/A424_Coordinates.dat", f"{base}/A424%2B2mm.nii.gz"]
    image = find_atlas(card, weights_dir=tmp_path)
    assert image == tmp_path / "A424/A424+2mm.nii.gz"
    assert find_coordinates(image, card) == tmp_path / "A424/A424_Coordinates.dat"


def test_a_folder_that_is_none(hub: Any, card: Card, tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    with pytest.raises(NotADirectoryError) as caught:
        fetch(card, tmp_path / "weights")
    assert as_app_error(caught.value).exit_code == ExitCode.INPUT_OUTPUT
    assert hub.log == []
