"""Blocks of the documentation, and a shell that runs them with commands of ours in their place.

Bash runs each block as it stands, but for the folders of its examples. What it calls is a small
script that hands its words to the test, which answers with output and exit code.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(
    r"^(?P<pad> *)```(?P<lang>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=pad)```$", re.MULTILINE | re.DOTALL
)
SHELLS = frozenset({"bash", "console", "sh", "shell"})
CALL = """#!{python} -IS
import json, os, socket, sys
asked = {{"name": os.path.basename(sys.argv[0]), "words": sys.argv[1:], "cwd": os.getcwd(),
          "env": {{k: v for k, v in os.environ.items() if k.startswith(("SLURM_", "DOCS_"))}}}}
with socket.socket(socket.AF_UNIX) as door:
    door.connect("\\0" + os.environ["DOCS_DOOR"])
    door.sendall(json.dumps(asked).encode())
    door.shutdown(socket.SHUT_WR)
    parts = []
    while part := door.recv(65536):
        parts.append(part)
answer = json.loads(b"".join(parts))
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """List what a reader reads; the changelog is history."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def blocks() -> list[Block]:
    """Collect the fenced blocks of all pages."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            pad = len(match["pad"])
            lines = [line[pad:] for line in match["text"].splitlines()]
            line = text[: match.start()].count("\n") + 1
            name = str(page.relative_to(ROOT))
            found.append(Block(name, line, match["lang"], "\n".join(lines) + "\n"))
    return found


def commands_of(block: Block) -> str:
    """Take the commands of a block: of a console, the lines behind the dollar sign."""
    if block.language != "console":
        return block.text
    taken, goes_on = [], False
    for line in block.text.splitlines():
        if line.startswith("$ ") or goes_on:
            taken.append(line.removeprefix("$ "))
            goes_on = line.endswith("\\")
    return "\n".join(taken or block.text.splitlines()) + "\n"


@dataclass(frozen=True, slots=True)
class Call:
    """One command that bash called."""

    name: str
    words: list[str]
    cwd: Path
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command."""

    code: int = 0
    out: str = ""
    err: str = ""


@dataclass(slots=True)
class Shell:
    """Runs blocks; a command without a handler and without a place in /usr/bin fails.

    Parameters
    ----------
    folder : Path
        Where blocks run.
    handlers : mapping
        What answers a command, by its name.
    places : mapping
        Folders of the examples, and where they are here.
    """

    folder: Path
    handlers: Mapping[str, Callable[[Call], Answer]]
    places: Mapping[str, Path]
    calls: list[Call] = field(default_factory=list)

    def here(self, text: str) -> str:
        """Put folders of this machine for those of the examples."""
        for example, place in self.places.items():
            text = re.sub(rf"(?<![\w./-]){re.escape(example)}(?![\w-])", str(place), text)
        return text

    def run(self, text: str, *, env: Mapping[str, str] | None = None) -> str:
        """Run commands, and return what they printed; fail as bash does."""
        bin_dir = self.folder / ".bin"
        for name in self.handlers:
            path = bin_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(CALL.format(python=sys.executable))
            path.chmod(0o755)
        door = f"docs-{secrets.token_hex(8)}"
        given = {
            "PATH": f"{bin_dir}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "DOCS_DOOR": door,
            "LANG": "C.UTF-8",
            **(env or {}),
        }
        (self.folder / "tmp").mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, (self.folder / ".said").open("w+") as said:
            listener.bind(f"\0{door}")
            listener.listen()
            listener.settimeout(0.05)
            bash = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", self.here(text)],
                cwd=self.folder,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            while bash.poll() is None:
                with contextlib.suppress(TimeoutError):
                    self._answer(listener.accept()[0])
            said.seek(0)
            printed = said.read()
        assert bash.returncode == 0, f"exit code {bash.returncode} of\n{text}\n{printed}"
        return printed

    def _answer(self, visitor: socket.socket) -> None:
        with visitor:
            visitor.settimeout(60)
            parts = []
            while part := visitor.recv(65536):
                parts.append(part)
            asked = json.loads(b"".join(parts))
            call = Call(asked["name"], asked["words"], Path(asked["cwd"]), asked["env"])
            self.calls.append(call)
            try:
                answer = self.handlers[call.name](call)
            except Exception as error:  # noqa: BLE001  the block fails, with the words of the error
                answer = Answer(code=1, err=f"{type(error).__name__}: {error}\n")
            told = {"code": answer.code, "out": answer.out, "err": answer.err}
            visitor.sendall(json.dumps(told).encode())


def in_process(main: Callable[[Sequence[str]], int], call: Call) -> Answer:
    """Call the main function of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with _inside(call.cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(call.words)
        except SystemExit as left:
            code = int(left.code or 0)
    return Answer(code=int(code), out=out.getvalue(), err=err.getvalue())


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
