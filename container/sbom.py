"""Bill of materials of an image: the Python packages, and what the base image brought.

``sbom.py PACKAGES.json DPKG_STATUS OUT.json``; run by ``install.sh`` while an image is built. What
cyclonedx-py wrote of the environment gets the packages of Debian, where the base image is one, and
the interpreter; the result is checked against the schema of CycloneDX.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

DOC = Path("/usr/share/doc")
LICENCE = re.compile(r"^License: *(\S.*?) *$", re.MULTILINE)


def list_debian(status: str, doc: Path = DOC) -> list[dict[str, Any]]:
    """Make a component of each Debian package.

    Parameters
    ----------
    status : str
        Text of ``/var/lib/dpkg/status``.
    doc : Path
        Folder with the ``copyright`` file of each package.

    Returns
    -------
    list of dict
        Components of CycloneDX; licences are those that a machine-readable copyright file names.
    """
    components = []
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.+)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
        components.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
            | _licences(doc / name / "copyright")
        )
    return components


def _licences(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    names = sorted(set(LICENCE.findall(text))) if text.startswith("Format:") else []
    return {"licenses": [{"license": {"name": name}} for name in names]} if names else {}


def add_components(bill: dict[str, Any], components: list[dict[str, Any]]) -> dict[str, Any]:
    """Add components to a bill of materials, sorted, and let the app depend on them.

    Parameters
    ----------
    bill : dict
        Of CycloneDX; it is left as it is.
    components : list of dict
        With a ``bom-ref`` each.

    Returns
    -------
    dict
        A new one.
    """
    root = bill["metadata"]["component"]["bom-ref"]
    refs = [component["bom-ref"] for component in components]
    dependencies = [
        entry | {"dependsOn": sorted([*entry.get("dependsOn", []), *refs])}
        if entry["ref"] == root
        else entry
        for entry in bill["dependencies"]
    ]
    everything = sorted([*bill["components"], *components], key=lambda c: str(c["bom-ref"]))
    return bill | {"components": everything, "dependencies": dependencies}


def main(packages: Path, status: Path, out: Path) -> None:
    """Write the bill of materials, once it is valid."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    version = platform.python_version()
    python = {
        "type": "application",
        "bom-ref": f"python@{version}",
        "name": "python",
        "version": version,
        "purl": f"pkg:generic/python@{version}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }
    debian = list_debian(status.read_text("utf-8")) if status.is_file() else []
    bill = add_components(json.loads(packages.read_text("utf-8")), [python, *debian])
    text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"not valid as CycloneDX 1.6: {error}")
    out.write_text(text, "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
