"""A server that plays Hugging Face and GitHub, with faults on demand."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Stored:
    """One file of one revision."""

    content: bytes
    lfs: bool = False
    """Large: its SHA-256 is told, and its bytes come from another host."""
    sent: bytes | None = None
    """What is sent instead of the content."""


@dataclass
class Hub:
    """What the server holds, what was asked of it, and what it shall do wrong."""

    url: str = ""
    files: dict[tuple[str, str, str], Stored] = field(default_factory=dict)
    commits: dict[str, list[str]] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    """After so many bytes each of the next answers breaks off."""
    ranges: bool = True
    lengths: bool = True
    status: int | None = None
    """What every request for a file is answered with."""
    answered_revision: str | None = None
    commits_answer: bytes | None = None
    log: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def put(self, repository: str, revision: str, path: str, content: bytes, **kind: bool) -> None:
        self.files[repository, revision, path] = Stored(content, **kind)
        commits = self.commits.setdefault(repository, [])
        if revision not in commits:
            commits.append(revision)

    def asked(self, method: str, part: str = "") -> list[str]:
        return [path for verb, path, _ in self.log if verb == method and part in path]

    def ranges_asked(self) -> list[str]:
        return [headers["range"] for _, _, headers in self.log if "range" in headers]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:
        """The client hung up, as some tests want it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.log.append((self.command, path, headers))
        if found := re.fullmatch(r"/api/models/(\w+/\w+)/commits/main", path):
            self.answer_commits(found[1])
        elif hub.status is not None:
            self.reply(hub.status, b"no")
        elif found := re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/(.+)", path):
            self.answer_hub(found[1], found[2], unquote(found[3]))
        elif found := re.fullmatch(r"/raw/([\w-]+/\w+)/(\w+)/(.+)", path):
            stored = hub.files.get((found[1], found[2], unquote(found[3])))
            self.send(stored) if stored else self.reply(404, b"404: Not Found")
        elif found := re.fullmatch(r"/cdn/(\w+)", path):
            digests = {hashlib.sha256(s.content).hexdigest(): s for s in hub.files.values()}
            self.send(digests[found[1]])
        else:
            self.reply(404, b"what?")

    def answer_commits(self, repository: str) -> None:
        hub = self.server.hub
        if hub.commits_answer is not None:
            self.reply(200, hub.commits_answer)
            return
        if repository not in hub.commits:
            self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        commits = [
            {
                "id": c,
                "title": "t",
                "message": "",
                "authors": [],
                "date": "2024-04-02T10:00:00.000Z",
            }
            for c in hub.commits[repository]
        ]
        self.reply(200, json.dumps(commits).encode(), {"Content-Type": "application/json"})

    def answer_hub(self, repository: str, revision: str, path: str) -> None:
        hub = self.server.hub
        if revision not in hub.commits.get(repository, []):
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        stored = hub.files.get((repository, revision, path))
        if stored is None:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": revision})
            return
        headers = {"X-Repo-Commit": hub.answered_revision or revision}
        if not stored.lfs:
            content = stored.content
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send(stored, headers | {"ETag": f'"{git}"'})
            return
        digest = hashlib.sha256(stored.content).hexdigest()
        elsewhere = hub.url.replace("127.0.0.1", "localhost")
        headers |= {
            "X-Linked-Size": str(len(stored.content)),
            "X-Linked-ETag": f'"{digest}"',
            "Location": f"{elsewhere}/cdn/{digest}",
        }
        self.reply(302, b"", headers)

    def send(self, stored: Stored, headers: dict[str, str] | None = None) -> None:
        """Send a file or a range of it, or as much as the next fault allows."""
        hub, headers = self.server.hub, dict(headers or {})
        content = stored.content if stored.sent is None or self.command == "HEAD" else stored.sent
        status, start = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and hub.ranges:
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = hub.cuts.pop(0) if hub.cuts and self.command == "GET" else None
        self.reply(status, content[start:], headers, cut=cut)

    def reply(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.hub.lengths:
            self.send_header("Content-Length", str(len(content)))
        self.close_connection = cut is not None or not self.server.hub.lengths
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])


@contextlib.contextmanager
def serve():
    """Run the server while a test needs it."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
