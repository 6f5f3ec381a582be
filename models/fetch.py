"""Ask Hugging Face or GitHub for a file: the only module that ever opens a connection.

It does so when a user asks for it with ``neurostorm-tools weights fetch``, and never otherwise.
Files come by pinned revision. No token is sent anywhere, even where the user has one: all files
are public. ``HF_ENDPOINT`` names a mirror of Hugging Face.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

from neurostorm_app.errors import (
    AppError,
    MissingWeightsError,
    TemporaryError,
    UsageError,
    WrongWeightsError,
)
from neurostorm_app.models.transfer import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neurostorm_app.models.card import Source

__all__ = ["look_up", "open_at", "resolve"]

HUB: Final = "https://huggingface.co"
GITHUB: Final = "https://raw.githubusercontent.com"
TIMEOUT: Final = 30.0
"""Seconds without an answer."""
TRYING_HELPS: Final = {408, 429, 500, 502, 503, 504}
SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_ID = re.compile(r"[0-9a-f]{40}")


def resolve(source: Source) -> str:
    """Find the one commit that a card's revision is the beginning of.

    Parameters
    ----------
    source : Source
        With a revision. One of 40 digits is returned as it is, and nothing is asked.

    Returns
    -------
    str
        The commit, 40 hexadecimal digits.

    Raises
    ------
    MissingWeightsError
        If no commit of the repository begins so, or several do.
    TemporaryError
        If the source cannot be reached.
    UsageError
        If the environment forbids to connect.
    """
    revision = str(source.revision)
    if len(revision) == 40:
        return revision
    from huggingface_hub import HfApi, get_session

    try:
        with _plainly(source.repository):
            get_session().timeout = TIMEOUT
            commits = HfApi(endpoint=_endpoint(), token=False).list_repo_commits(source.repository)
    except (ValueError, KeyError, TypeError) as why:
        if isinstance(why, AppError):
            raise
        raise MissingWeightsError(
            f"{_endpoint()}: does not answer as Hugging Face does when asked for commits ({why!r})",
            fix="check HF_ENDPOINT, and whether the network asks for a login first",
        ) from why
    found = sorted({c.commit_id for c in commits if c.commit_id.startswith(revision)})
    if len(found) != 1:
        raise MissingWeightsError(
            f"{source.repository}: {len(found)} of {len(commits)} commits begin with {revision}; "
            "one is expected",
            fix="get the file by hand and give it with --weights, or use a newer version of the "
            "app whose card names the revision in full",
        )
    return found[0]


def look_up(source: Source, revision: str, file: str) -> Remote:
    """Ask the source for a file without fetching it.

    Parameters
    ----------
    source : Source
        Where it is.
    revision : str
        A commit, in full.
    file : str
        Path in the repository.

    Returns
    -------
    Remote
        Its address, its size, and its hash where the source tells one.

    Raises
    ------
    MissingWeightsError
        If the source has no such file.
    WrongWeightsError
        If it answers with another revision.
    TemporaryError
        If it cannot be reached, or does not say how large the file is.
    UsageError
        If the environment forbids to connect.
    """
    if source.host == "github":
        return _look_up_plain(f"{GITHUB}/{source.repository}/{revision}/{quote(file)}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.repository, file, revision=revision, endpoint=_endpoint())
    with _plainly(url):
        about = get_hf_file_metadata(url, token=False, timeout=TIMEOUT, endpoint=_endpoint())
    if about.commit_hash != revision:
        raise WrongWeightsError(
            f"{url}: the source answers with the revision {about.commit_hash}, not {revision}",
            fix="check HF_ENDPOINT; if it is not set, try again later",
        )
    etag = about.etag or ""
    return Remote(
        url=url,
        size=_known_size(url, about.size),
        sha256=etag if SHA256.fullmatch(etag) else None,
        git_id=etag if GIT_ID.fullmatch(etag) else None,
    )


def _look_up_plain(url: str) -> Remote:
    from huggingface_hub import get_session, hf_raise_for_status

    with _plainly(url):
        answer = get_session().head(url, headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT)
        hf_raise_for_status(answer)
    length = answer.headers.get("Content-Length", "")
    return Remote(url=url, size=_known_size(url, int(length) if length.isdigit() else None))


def _known_size(url: str, size: int | None) -> int:
    if size is None:
        raise TemporaryError(
            f"{url}: the source does not say how large the file is",
            fix="try again later, or get the file by hand and give it with --weights",
        )
    return size


@contextmanager
def open_at(url: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Open a file of the source at a byte.

    Parameters
    ----------
    url : str
        Address of the file.
    start : int
        The first byte that is wanted.

    Yields
    ------
    tuple of int and iterator of bytes
        The byte it really begins with, `start` or 0, and all from there on.

    Raises
    ------
    MissingWeightsError
        If there is no such file.
    TemporaryError
        If the source cannot be reached, or the connection breaks.
    """
    from huggingface_hub import get_session, hf_raise_for_status

    headers = {"Accept-Encoding": "identity"}  # bytes of a range are those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    with (
        _plainly(url),
        get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as answer,
    ):
        hf_raise_for_status(answer)
        begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        yield int(begins[1]) if answer.status_code == 206 and begins else 0, answer.iter_bytes()


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB


@contextmanager
def _plainly(where: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into our errors."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # Its base is that of all errors of the client: httpx until 1.x, httpx2 since 2.0.
    base = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    broken = cast("type[Exception]", base)
    constants.HF_HUB_DISABLE_TELEMETRY = True  # what runs here stays out of the headers
    try:
        yield
    except OfflineModeIsEnabled as why:
        raise UsageError(
            f"{where}: HF_HUB_OFFLINE forbids to connect", fix="unset HF_HUB_OFFLINE, then fetch"
        ) from why
    except HfHubHTTPError as why:
        status = why.response.status_code
        if status in TRYING_HELPS:
            raise TemporaryError(
                f"{where}: the source answers {status}", fix="try again later"
            ) from why
        raise MissingWeightsError(
            f"{where}: the source answers {status}: it has no such file or revision, or wants a "
            "login",
            fix="check HF_ENDPOINT; or get the file by hand and give it with --weights",
        ) from why
    except broken as why:
        raise TemporaryError(
            f"{where}: the source cannot be reached, or broke off ({type(why).__name__}: {why})",
            fix="check the network and its proxy, then call again: what came is kept",
        ) from why
