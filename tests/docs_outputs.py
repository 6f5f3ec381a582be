"""Names on the page of output files, as patterns of paths."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/outputs.md"
PARTS = {
    "<src>": r"sub-[0-9A-Za-z]+(_(?:ses|task|acq|ce|dir|rec|run)-[0-9A-Za-z]+)+",
    "<std>": r"space-[0-9A-Za-z]+(_res-\w+)?",
    "<S>": "[0-9A-Za-z]+",
    "<N>": "[0-9A-Za-z]+",
    "<I>": r"\d+",
    "<key>": r"[0-9a-f]{12}",
    "<hash>": r"[0-9a-f]{8}",
    "<time>": r"\d+T\d+",
    "<process>": r"\d+",
    "<id>": r"[0-9A-Za-z]+",
    "<model>": "[0-9A-Za-z]+",
    "<atlas>": "[0-9A-Za-z]+",
    "<target>": "[0-9A-Za-z]+",
    "sub-01": r"sub-[0-9A-Za-z]+",
    "MNI152NLin6Asym": "MNI152NLin[0-9A-Za-z]+",
}


def patterns() -> list[re.Pattern[str]]:
    """Make a pattern of each name in the first column of the tables of the page."""
    found = []
    text = PAGE.read_text(encoding="utf-8")
    for section in re.split(r"(?m)^(?=## )", text):
        folders = re.findall(r"`([\w/-]+)/`", section.partition("\n")[0])
        folder = f"{folders[0]}/" if len(folders) == 1 else ""
        for row in re.findall(r"^\| (`[^|]+?) \|", section, re.MULTILINE):
            names = [n for n in re.findall(r"`([^`]+)`", row) if "." in n and n[:2] != "--"]
            found += [re.compile(_pattern(folder + name)) for name in names]
    return found


def _pattern(name: str) -> str:
    """Write a name with its placeholders as a pattern."""
    name = re.escape(name)
    for mark, part in PARTS.items():
        name = name.replace(re.escape(mark), part)
    choices = re.sub(r"\\\{([\w,]+)\\\}", lambda m: f"({m[1].replace(',', '|')})", name)
    choices = choices.replace(r"\*", ".+")
    return f"^{choices.replace('[0-9A-Za-z]+/', '[0-9A-Za-z]+/(?:ses-[0-9A-Za-z]+/)?', 1)}$"


def untold(output_dir: Path) -> list[str]:
    """List the files of an output folder that the page does not tell of."""
    known = patterns()
    left = []
    for path in sorted(output_dir.rglob("*")):
        name = str(path.relative_to(output_dir))
        bare = re.sub(r"\.json$", "", name)
        twins = [f"{bare}{ext}" for ext in (".nii.gz", ".tsv", ".txt", ".h5", ".safetensors")]
        told = any(p.match(n) for p in known for n in ([name, *twins] if bare != name else [name]))
        if path.is_file() and not told:
            left.append(name)
    return left
