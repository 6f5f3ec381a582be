"""Whether two output folders hold the same, byte for byte, but for when and how fast it was made.

What is masked is listed here, and nothing else is: `MASKED` are fields of JSON files, `COLUMNS` of
Parquet files, `SHOWN` what pages show of them. A log is a file of its own call, and is left out.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MASKED = {
    r"prov/.*\.json": (
        "started",
        "seconds",
        "peak_memory",
        "stages",
        r"outputs/.*/mtime",
        r"stamps/.*/mtime",
        r"computation/seconds.*",
    ),
    # Which stages the last call did itself, and how long they took.
    r"logs/.*_report\.json": ("status", "stages"),
    # The next four follow from those above: from times of files, and from reports of runs.
    r"prov/desc-.*_embedding\.json": ("key", "inputs/rows", r"outputs/.*\.parquet/(sha256|size)"),
    r"prov/(sub-[^_]*|group)_report\.json": (
        "key",
        r"inputs/sub-.*_report(\.json)?",
        r"outputs/.*\.html/(sha256|size)",
    ),
}
COLUMNS = ("mtime_ns", "sidecar_mtime_ns")
SHOWN = (r'(?s)(<section id="provenance">).*?(<details|</section>)', r"\1TIMES\2")
"""The tables of moments, seconds and memory; they are drawn from records that are compared."""


def files_of(out: Path) -> dict[str, Path]:
    """List what a call leaves, without logs."""
    found = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not re.fullmatch(r"logs/.*\.log", name)}


def leftovers(out: Path) -> list[str]:
    """Name what was written aside and is still there."""
    names = [str(path.relative_to(out)) for path in out.rglob("*")]
    aside = r"(^|/)\.(work|part|writing)-|\.part$|(^|/)tmp\w{8}$|\.faiss\.\d+$"
    return [name for name in names if re.search(aside, name)]


def plain(name: str, path: Path) -> bytes:
    """Read a file without what is masked in it."""
    content = path.read_bytes()
    if path.suffix == ".html":
        return re.sub(*SHOWN, content.decode()).encode()
    if path.suffix == ".parquet":
        table = pq.read_table(io.BytesIO(content)).drop_columns(list(COLUMNS))
        return repr((table.schema.metadata, table.to_pydict())).encode()
    fields = [field for pattern, some in MASKED.items() if re.fullmatch(pattern, name)
              for field in some]  # fmt: skip
    if not fields:
        return content
    return json.dumps(mask(json.loads(content), "", fields)).encode()


def mask(content: Any, place: str, fields: list[str]) -> Any:
    """Take out the fields that are masked."""
    if not isinstance(content, dict):
        return content
    named = {key: f"{place}{key}" for key in content}
    return {
        key: mask(value, f"{named[key]}/", fields)
        for key, value in content.items()
        if not any(re.fullmatch(field, named[key]) for field in fields)
    }


def differences(out: Path, whole: Path) -> dict[str, int]:
    """Name what is lacking, differs or is too much in `out`, with the bytes of `whole` so lost.

    By a file too many nothing is lost.
    """
    here, there = files_of(out), files_of(whole)
    found = dict.fromkeys(sorted(here.keys() - there.keys()), 0)
    for name, path in there.items():
        if name not in here or not same(name, here[name], path):
            found[name] = path.stat().st_size
    return found


def same(name: str, one: Path, other: Path) -> bool:
    """Tell whether two files of one name say the same."""
    if one.read_bytes() == other.read_bytes():
        return True
    try:
        return plain(name, one) == plain(name, other)
    except (ValueError, pa.ArrowInvalid):  # it is cut off
        return False


def torn(out: Path, whole: Path) -> list[str]:
    """Name the files under their final names that are not whole, at whatever moment.

    Pages and records of what is done so far may differ from the last ones, but not end early.
    """
    found = []
    changing = r"prov/.*|logs/.*|.*\.html|dataset_description\.json|retrieval/\.lock"
    there = files_of(whole)
    for name, path in files_of(out).items():
        if leftover_name(name):
            continue
        if not re.fullmatch(changing, name):
            whole_file = name in there and same(name, path, there[name])
        elif path.suffix == ".json":
            whole_file = is_json(path)
        else:
            whole_file = path.suffix != ".html" or path.read_text().rstrip().endswith("</html>")
        if not whole_file:
            found.append(name)
    return found


def is_json(path: Path) -> bool:
    """Tell whether a file is a whole JSON object."""
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def leftover_name(name: str) -> bool:
    """Tell whether a file was only written aside."""
    return any(part.startswith((".work-", ".part-")) for part in Path(name).parts)
