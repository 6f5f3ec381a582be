"""The recurrence against plain loops, and the engines against each other."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from neurostorm_app.models import scan
from neurostorm_app.models.scan import selective_scan

LENGTHS = [1, 5, 16, 37]  # shorter than a segment, one, and several with a rest


@pytest.fixture
def arguments(request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    length = request.param
    return {
        "u": draw(3, length, 4),
        "dt": draw(3, length, 4).exp(),
        "A": -draw(4, 5).exp(),
        "B": draw(3, length, 5),
        "C": draw(3, length, 5),
    }


def run(arguments: dict[str, torch.Tensor], engine: scan.Engine) -> torch.Tensor:
    return selective_scan(**arguments, engine=engine)


@pytest.mark.parametrize("arguments", LENGTHS, indirect=True)
@pytest.mark.parametrize("engine", ["reference", "segmented"])
def test_the_scan_is_the_recurrence_written_as_loops(
    arguments: dict[str, torch.Tensor], engine: scan.Engine
) -> None:
    u, dt, A, B, C = (value.numpy() for value in arguments.values())
    expected = np.zeros_like(u)
    for b in range(u.shape[0]):
        for d in range(u.shape[2]):
            for n in range(A.shape[1]):
                h = 0.0
                for t in range(u.shape[1]):
                    h = math.exp(dt[b, t, d] * A[d, n]) * h + dt[b, t, d] * B[b, t, n] * u[b, t, d]
                    expected[b, t, d] += C[b, t, n] * h
    found = run(arguments, engine).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)  # no unit


@pytest.mark.parametrize("arguments", LENGTHS, indirect=True)
def test_the_engines_agree_in_every_gradient(arguments: dict[str, torch.Tensor]) -> None:
    gradients = {}
    for engine in ("reference", "segmented"):
        leaves = {k: v.clone().requires_grad_() for k, v in arguments.items()}
        y = selective_scan(**leaves, engine=engine)
        (y * torch.arange(y.numel()).reshape(y.shape).cos()).sum().backward()
        gradients[engine] = {k: v.grad for k, v in leaves.items()}
    for name, expected in gradients["reference"].items():
        torch.testing.assert_close(
            gradients["segmented"][name], expected, rtol=1e-10, atol=1e-12, msg=name
        )


@pytest.mark.parametrize("arguments", [19], indirect=True)
def test_the_backward_pass_is_the_derivative(arguments: dict[str, torch.Tensor]) -> None:
    leaves = tuple(v.clone().requires_grad_() for v in arguments.values())
    assert torch.autograd.gradcheck(
        lambda u, dt, A, B, C: selective_scan(u, dt, A=A, B=B, C=C, engine="segmented"), leaves
    )


@pytest.mark.parametrize("arguments", [37], indirect=True)
def test_blocks_of_sequences_do_not_change_a_bit(
    arguments: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(arguments, "segmented")
    monkeypatch.setattr(scan, "BLOCK", 1)
    assert torch.equal(run(arguments, "segmented"), whole)


@pytest.mark.parametrize("arguments", [37], indirect=True)
def test_inference_and_training_read_the_same(arguments: dict[str, torch.Tensor]) -> None:
    silent = run(arguments, "segmented")
    leaves = {k: v.clone().requires_grad_() for k, v in arguments.items()}
    torch.testing.assert_close(run(leaves, "segmented").detach(), silent, rtol=1e-14, atol=0)


def test_a_processor_gets_plain_torch() -> None:
    assert scan.scan_engine("cpu") == "segmented"


def test_cuda_gets_the_kernel_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan.importlib.util, "find_spec", lambda name: name)
    assert scan.scan_engine("cuda:1") == "mamba-ssm"
    assert scan.scan_engine("cpu") == "segmented"
    monkeypatch.setattr(scan.importlib.util, "find_spec", lambda _: None)
    assert scan.scan_engine("cuda:1") == "segmented"


MEMORY = """
import resource, torch
from neurostorm_app.models.scan import selective_scan
torch.set_num_threads(1)
u = torch.rand(256, 256, 64)
B = torch.rand(256, 256, 16)
A = -torch.rand(64, 16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{body}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ("selective_scan(u, u, A=A, B=B, C=B)", 90),
        ("selective_scan(u.requires_grad_(), u, A=A, B=B, C=B).sum().backward()", 250),
    ],
    ids=["forward", "backward"],
)
def test_the_states_of_all_tokens_never_exist_at_once(body: str, limit: int) -> None:
    # All states would take 256 * 256 * 64 * 16 * 4 bytes = 256 MiB, and so would all decays.
    script = MEMORY.format(body=body)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < limit  # MiB
