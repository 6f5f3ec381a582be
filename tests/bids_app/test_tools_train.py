from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from neurostorm_app.bids_app import tools
from neurostorm_app.errors import ExitCode
from neurostorm_app.pipelines import train

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("name", "call"), tools.DEMOS.items())
def test_each_demo_is_trained_by_its_own_function(
    name: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []
    monkeypatch.setattr(train, call, lambda out, **given: asked.append((out, given)))
    out = tmp_path / "demo.safetensors"
    words = ["train", name, "--out", str(out)]
    assert tools.main_inner(words) == ExitCode.SUCCESS
    assert tools.main_inner([*words, "--seed", "3", "--steps", "5"]) == ExitCode.SUCCESS
    assert asked == [(out, {}), (out, {"steps": 5, "seed": 3})]


def test_only_demos_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "connectome", "--out", str(tmp_path / "file")]
    assert tools.main(words) == ExitCode.USAGE
    assert "connectome" in capsys.readouterr().err
