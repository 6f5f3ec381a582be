"""Check an image from within: the bill of materials, what was baked, and what cannot be reached.

Run in the image by ``check-docker.sh`` and ``check-apptainer.sh``; ends with 1 and names what is
wrong, or prints one line for each thing that was seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def find_unlisted(bill: dict[str, Any], installed: dict[str, str]) -> list[str]:
    """Find packages that a bill of materials does not name, or names without a licence.

    Parameters
    ----------
    bill : dict
        Of CycloneDX.
    installed : dict
        Versions by name.

    Returns
    -------
    list of str
        ``name==version`` of each, sorted.
    """
    root = bill["metadata"]["component"]
    listed = {
        (_normalise(component["name"]), component["version"])
        for component in [root, *bill["components"]]
        if component.get("licenses")
    }
    missing = {(_normalise(name), version) for name, version in installed.items()} - listed
    return sorted(f"{name}=={version}" for name, version in missing)


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def find_writable(folders: list[Path]) -> list[Path]:
    """Find the folders in which a file can be made."""
    writable = []
    for folder in folders:
        probe = folder / f".probe-{os.getpid()}"
        try:
            probe.touch()
        except OSError:
            continue
        probe.unlink()
        writable.append(folder)
    return writable


def find_ways_out(routes: Path = Path("/proc/net/route")) -> list[str]:
    """List the interfaces over which something but this machine can be reached."""
    lines = routes.read_text("ascii").splitlines()[1:]
    return sorted({line.split()[0] for line in lines} - {"lo"})


def main() -> None:
    """Look at all, and say it."""
    import numpy as np

    from neurostorm_app.models import read_card
    from neurostorm_app.models.weights import find_weights
    from neurostorm_app.pipelines.figures.neighbourhood import FEWEST, neighbourhood
    from neurostorm_app.pipelines.templates import load_template

    bill = json.loads(Path("/sbom.cdx.json").read_text("utf-8"))
    installed = {d.name: d.version for d in distributions()}
    names = {component["name"] for component in bill["components"]}
    closed = list(map(Path, ("/", "/opt/neurostorm", "/opt/weights", "/bids")))
    wrong = [f"not in the bill of materials: {what}" for what in find_unlisted(bill, installed)]
    wrong += [f"no {name} in the bill of materials" for name in {"torch", "python"} - names]
    wrong += [f"can be written to: {path}" for path in find_writable(closed)]
    wrong += [f"a way out: {name}" for name in find_ways_out()]
    version = subprocess.run(
        ["neurostorm-app", "--version"],  # noqa: S607 - found by the PATH of the image
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if Path("/version").read_text("utf-8") != version:
        wrong.append(f"/version is not {version.strip()}")
    weights = find_weights(read_card("neurostorm-demo"))
    if not weights.is_relative_to("/opt/weights"):
        wrong.append(f"the weights that were baked are not found; {weights} is")
    template = load_template("MNI152NLin6Asym", "2")
    if not template.t1w.is_relative_to("/opt/templateflow"):
        wrong.append(f"the template that was baked is not found; {template.t1w} is")
    if neighbourhood(np.corrcoef(np.random.default_rng(0).normal(size=(FEWEST, 4)))) is None:
        wrong.append(f"no map of neighbours of {FEWEST} runs")
    if os.geteuid() == 0:
        wrong.append("run as root")
    if wrong:
        sys.exit("\n".join(wrong))
    licences = sum("licenses" in component for component in bill["components"])
    sys.stdout.write(
        f"uid {os.geteuid()}, root read-only, no way out\n"
        f"bill of materials: {len(bill['components'])} components, {licences} with licences\n"
        f"{weights}\n{template.t1w}\n"
    )


if __name__ == "__main__":
    main()
