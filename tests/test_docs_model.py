"""The seven steps of "Add a model" are done to a copy of the package, which then embeds a run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/adding-a-model.md"
EXAMPLE = ROOT / "docs/example-model"
TABLES = {
    "models/registry.py": (
        ("    from neurostorm_app.models import (\n", "        spread,\n"),
        (r"architectures: dict[str, tuple[Build, Differing]] = {" + "\n", None),
    ),
    "models/families.py": (("FAMILIES = {\n", None),),
    "models/untrained.py": (
        ("    networks: dict[str, Callable[[], nn.Module]] = {\n", None),
        ("def _build(architecture: str, config: Mapping[str, Any]) -> nn.Module:\n",
         "    from neurostorm_app.models import spread\n"),
    ),
    "pipelines/estimate.py": (("NETWORKS: Final = {\n", None),),
}  # fmt: skip
"""Where lines go; None is the line that the page gives for the table."""
USE = """
import json, sys
from pathlib import Path
import numpy as np, nibabel as nib, torch
from safetensors.torch import save_file
import neurostorm_app
from neurostorm_app.models import create_model, list_models, read_card
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.stage import StandardSeries

assert Path(neurostorm_app.__file__).is_relative_to(sys.argv[1]), neurostorm_app.__file__
assert "spread" in list_models()
exec(Path("golden.py").read_text())
save_file({"fc.weight": torch.eye(8, 100), "fc.bias": torch.zeros(8)}, "spread.safetensors")
affine = np.array([[6.0, 0, 0, -90], [0, 6, 0, -126], [0, 0, 6, -72], [0, 0, 0, 1]])
rng = np.random.default_rng(1)
image = nib.Nifti1Image(rng.normal(900, 20, (31, 37, 31, 64)).astype(np.float32), affine)
image.header.set_xyzt_units("mm", "sec")
image.header["pixdim"][4] = 2.0
nib.save(image, "bold.nii.gz")
nib.save(nib.Nifti1Image(np.ones((31, 37, 31), np.uint8), affine), "mask.nii.gz")
series = StandardSeries(name="sub-01_task-rest", bold=Path("bold.nii.gz"), mask=Path("mask.nii.gz"),
                        confounds=None, tr=2.0, space="MNI152NLin6Asym", res="native")
for name, weights in (("spread", Path("spread.safetensors")), ("spread-untrained", None)):
    found = load_embedder(name, weights=weights).embed(series)
    print(json.dumps({"model": name, "shape": found.windows.shape, "first": found.onsets[0]}))
print(read_card("spread").title)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """Copy the package, and put in what the page says."""
    folder = tmp_path_factory.mktemp("package")
    package = folder / "neurostorm_app"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src/neurostorm_app", package, ignore=ignored)
    page = PAGE.read_text(encoding="utf-8")
    shutil.copy(EXAMPLE / "spread.py", package / "models/spread.py")
    shutil.copy(EXAMPLE / "spread.yaml", package / "models/cards/spread.yaml")
    for file, places in TABLES.items():
        row = re.search(rf"^\| `{re.escape(file)}` \|[^|]+\| `([^`]+)`", page, re.MULTILINE)
        assert row, f"the page does not say what goes into {file}"
        path = package / file
        text = path.read_text(encoding="utf-8")
        for place, line in places:
            assert text.count(place) == 1, f"{file} has not one line {place!r}"
            text = text.replace(place, place + (line or f"    {row[1]}\n"))
        path.write_text(text, encoding="utf-8")
    golden = re.search(r'```python title="tests/models/test_spread.py"\n(.*?)```', page, re.DOTALL)
    assert golden
    (folder / "golden.py").write_text(golden[1])
    return folder


def test_a_model_that_is_added_by_the_page_embeds_a_run(copy):
    command = [sys.executable, "-W", "ignore", "-c", USE, str(copy)]
    env = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        command, cwd=copy, env=env, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert '"model": "spread", "shape": [3, 8]' in said[0]
    assert '"model": "spread-untrained", "shape": [3, 8]' in said[1]
    assert said[2] == "Parcel spread, the example of the documentation"


def test_the_page_names_seven_steps():
    steps = re.findall(r"^## (\d)\. ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert steps == list("1234567")
