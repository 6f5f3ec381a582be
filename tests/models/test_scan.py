"""The recurrence against plain loops, and the engines against each other."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from neurostorm_app.models import kernels, scan
from neurostorm_app.models.kernels import elementary
from neurostorm_app.models.scan import selective_scan, short_convolution
from neurostorm_app.models.scan_cpu import numba_conv, numba_scan

Arguments = dict[str, torch.Tensor]


def draw(shape: tuple[int, int, int, int], *, seed: int = 1) -> Arguments:
    """Draw float64 arguments for (sequences, tokens, channels, states); all are given."""
    s, length, d, n = shape
    generator = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    return {
        "u": randn(s, length, d), "dt": randn(s, length, d) - 1, "A": -randn(d, n).exp(),
        "B": randn(s, length, n), "C": randn(s, length, n), "D": randn(d),
        "z": randn(s, length, d), "dt_bias": randn(d),
    }  # fmt: skip


def run(arguments: Arguments, engine: scan.Engine) -> torch.Tensor:
    return selective_scan(**arguments, softplus=True, engine=engine)


def gradients(y: torch.Tensor, leaves: Arguments) -> dict[str, torch.Tensor]:
    probe = torch.arange(y.numel()).reshape(y.shape).cos().to(y.dtype)
    found = torch.autograd.grad((y * probe).sum(), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


SHAPES = [(3, 1, 4, 5), (3, 5, 17, 1), (9, 16, 3, 16), (2, 37, 33, 6)]
"""One token; fewer than a segment; one segment and two parts; a rest of tokens and of lanes."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_the_scan_is_the_recurrence_written_as_loops(
    shape: tuple[int, int, int, int], engine: scan.Engine
) -> None:
    arguments = draw(shape)
    u, dt, A, B, C, D, z, bias = (value.numpy() for value in arguments.values())
    expected = np.zeros_like(u)
    h = np.zeros(A.shape)
    for b, t, d in np.ndindex(*u.shape):
        h[d] *= t > 0
        step = math.log1p(math.exp(dt[b, t, d] + bias[d]))
        h[d] = np.exp(step * A[d]) * h[d] + step * B[b, t] * u[b, t, d]
        gate = z[b, t, d] / (1 + math.exp(-z[b, t, d]))
        expected[b, t, d] = (C[b, t] @ h[d] + D[d] * u[b, t, d]) * gate
    found = run(arguments, engine).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)  # no unit


@settings(max_examples=25)
@given(
    shape=some.tuples(*(some.integers(1, n) for n in (10, 40, 35, 18))),
    absent=some.sets(some.sampled_from(["D", "z", "dt_bias"])),
    soft=some.booleans(),
    seed=some.integers(0, 99),
)
def test_the_engines_agree_in_value_and_every_gradient(
    shape: tuple[int, int, int, int], absent: set[str], soft: bool, seed: int
) -> None:
    arguments = {k: v for k, v in draw(shape, seed=seed).items() if k not in absent}
    if not soft:
        arguments["dt"] = arguments["dt"].exp() + 5  # with its bias it stays positive
    found = {}
    for engine in ("reference", "numba"):
        leaves = {k: v.clone().requires_grad_() for k, v in arguments.items()}
        y = selective_scan(**leaves, softplus=soft, engine=engine)
        found[engine] = gradients(y, leaves) | {"y": y.detach()}
    for name, expected in found["reference"].items():
        size = float(expected.abs().max()) + 1
        torch.testing.assert_close(
            found["numba"][name], expected, rtol=1e-9, atol=1e-11 * size, msg=name
        )


@pytest.mark.parametrize("soft", [False, True])
def test_the_backward_pass_of_the_scan_is_its_derivative(*, soft: bool) -> None:
    arguments = draw((2, 19, 3, 2))
    arguments["dt"] = arguments["dt"] if soft else arguments["dt"].exp() + 3
    leaves = tuple(v.requires_grad_() for v in arguments.values())
    assert torch.autograd.gradcheck(
        lambda *given: numba_scan(**dict(zip(arguments, given, strict=True)), softplus=soft), leaves
    )


def test_float32_is_as_near_as_the_references_float32() -> None:
    exact = run(draw((4, 100, 20, 16)), "reference")
    single = {k: v.float() for k, v in draw((4, 100, 20, 16)).items()}
    ours, theirs = (run(single, engine) - exact for engine in ("numba", "reference"))
    assert ours.abs().max() < 2 * theirs.abs().max() < 1e-3  # no unit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_convolution_is_torchs_in_value_and_gradients(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    wide = torch.randn(11, 9, 14, generator=generator, dtype=dtype)
    leaves = {
        "x": wide[..., 7:].requires_grad_(),  # a part of wider rows
        "weight": torch.randn(7, 4, generator=generator, dtype=dtype).requires_grad_(),
        "bias": torch.randn(7, generator=generator, dtype=dtype).requires_grad_(),
    }
    found = [short_convolution(**leaves, engine=e) for e in ("reference", "numba")]
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    expected, ours = (gradients(y, leaves) for y in found)
    for name in leaves:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_backward_pass_of_the_convolution_is_its_derivative() -> None:
    generator = torch.Generator().manual_seed(6)
    leaves = tuple(
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in ((3, 6, 2), (2, 4), (2,))
    )
    assert torch.autograd.gradcheck(numba_conv, leaves)


def test_a_convolution_of_another_width_is_torchs() -> None:
    x, weight = torch.ones(1, 3, 2), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    filtered = torch.tensor([2.0, 3.0, 3.0])
    found = short_convolution(x, weight, torch.zeros(2), engine="numba")
    torch.testing.assert_close(found[0, :, 0], torch.nn.functional.silu(filtered))
    assert not found[0, :, 1].any()


def test_neither_the_batch_nor_the_threads_change_a_bit() -> None:
    arguments = {k: v.float() for k, v in draw((21, 30, 20, 16)).items()}
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            leaves = {k: v.clone().requires_grad_() for k, v in arguments.items()}
            y = run(leaves, "numba")
            found.append(gradients(y, leaves) | {"y": y.detach()})
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(n_threads)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)
    some_of_them = {k: v[4:7] if v.ndim == 3 else v for k, v in arguments.items()}
    assert torch.equal(run(some_of_them, "numba"), found[0]["y"][4:7])


def test_rows_that_lie_apart_are_read_as_they_are() -> None:
    arguments = draw((3, 6, 4, 2))
    apart = dict(arguments)
    for name in ("u", "z", "B"):
        value = arguments[name]
        apart[name] = torch.cat([value, value + 1], dim=-1)[..., : value.shape[-1]]
    apart["dt"] = arguments["dt"].transpose(0, 1).contiguous().transpose(0, 1)
    apart["C"] = arguments["C"].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(run(apart, "numba"), run(arguments, "numba"))


def test_lower_precision_is_raised_to_float32() -> None:
    half = {k: v.bfloat16() for k, v in draw((2, 9, 5, 3)).items()}
    y = run(half, "numba")
    assert y.dtype == torch.float32
    assert torch.equal(y, run({k: v.float() for k, v in half.items()}, "numba"))


def test_a_sequence_that_is_not_a_number_stays_one_and_alone() -> None:
    arguments = {k: v.float() for k, v in draw((3, 8, 4, 2)).items()}
    arguments["dt"][1, 3] = math.nan
    y = run(arguments, "numba")
    assert y[1, 3:].isnan().all()
    assert y[1, :3].isfinite().all()
    assert y[[0, 2]].isfinite().all()


@numba.njit
def _powers(x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = elementary.exp2(x[i])
    return y


@numba.njit
def _softplus(x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = elementary.softplus(x[i])
    return y


@numba.njit
def _sigmoid(x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = elementary.sigmoid(x[i])
    return y


def test_powers_of_two_are_within_a_unit_in_the_last_place() -> None:
    x = np.linspace(-125.9, 127.9, 500_001, dtype=np.float32)
    exact = np.exp2(x.astype(np.float64))
    units = np.abs(_powers(x) - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() < 1
    low = _powers(np.array([-127, -1e4, -np.inf, np.nan], dtype=np.float32))
    assert (low[:3] == np.float32(2.0**-126)).all()
    assert np.isnan(low[3])


def test_softplus_and_sigmoid_are_right_everywhere() -> None:
    x = np.linspace(-80, 80, 500_001, dtype=np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(_softplus(x), np.log1p(np.exp(wide)), rtol=6e-6)
    np.testing.assert_allclose(_sigmoid(x), 1 / (1 + np.exp(-wide)), rtol=6e-6)
    far = np.array([-np.inf, -1e30, 1e30, np.inf, np.nan], dtype=np.float32)
    np.testing.assert_allclose(_softplus(far), [0, 0, 1e30, np.inf, np.nan], atol=1e-37)
    np.testing.assert_allclose(_sigmoid(far), [0, 0, 1, 1, np.nan], atol=1e-37)


def test_each_device_has_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan.importlib.util, "find_spec", lambda name: name)
    assert scan.scan_engine("cuda:1") == "mamba-ssm"
    assert scan.scan_engine("cpu") == "numba"
    assert scan.scan_engine("mps") == "reference"
    monkeypatch.setattr(scan.importlib.util, "find_spec", lambda _: None)
    assert scan.scan_engine("cuda:1") == "triton"


MEMORY = """
import torch
from neurostorm_app.models.scan import selective_scan
torch.set_num_threads(1)
def peak():  # in KiB; ru_maxrss would have in it what the parent took
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])
def scan(n):
    u = torch.rand(n, n, 64, requires_grad={grad})
    B = torch.rand(n, n, 16)
    y = selective_scan(u, u, A=-torch.rand(64, 16), B=B, C=B)
    if {grad}:
        y.sum().backward()
scan(8)
before = peak()
scan(256)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize(("grad", "limit"), [(False, 60), (True, 200)])
def test_the_states_of_all_tokens_never_exist_at_once(*, grad: bool, limit: int) -> None:
    # All states would take 256 * 256 * 64 * 16 * 4 bytes = 256 MiB, and so would all decays.
    assert int(in_a_process(MEMORY.format(grad=grad))) < limit  # MiB


def in_a_process(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FORKED = """
import os, torch
from neurostorm_app.models.scan import selective_scan
torch.set_num_threads(2)
x = torch.rand(40, 9, 3)
def scan():
    return selective_scan(x, x, A=-torch.ones(3, 2), B=x[..., :2], C=x[..., :2])
with torch.no_grad():
    y = scan()
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(scan(), y) else 1)
    print(os.waitpid(child, 0)[1])
"""


def test_a_forked_process_starts_its_own_threads() -> None:
    assert in_a_process(FORKED) == "0"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Loops in a folder of their own, and no folder of the user's in sight."""
    (tmp_path / "loops").mkdir()
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "loops" / "__init__.py"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path


def seal(monkeypatch: pytest.MonkeyPatch, *sealed: Path) -> None:
    """Let folders be as on a read-only disk, which the superuser cannot write to either."""
    can_write = kernels._can_write
    monkeypatch.setattr(
        kernels,
        "_can_write",
        lambda folder: not any(folder.is_relative_to(s) for s in sealed) and can_write(folder),
    )


def choose() -> Path:
    return kernels.scan_cache.__wrapped__()


def test_what_was_compiled_is_kept_beside_the_loops(folders: Path) -> None:
    assert choose().parent == folders / "loops" / "__pycache__"
    assert choose().is_dir()


def test_a_given_folder_comes_first(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folders / "given"))
    assert choose().parent == folders / "given"


def test_what_an_image_holds_is_used_where_only_another_folder_can_be_written(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked = choose()
    (baked / "kernels_1").mkdir()
    (baked / "kernels_1" / "scan.nbi").write_text("index")
    (baked / "kernels_1" / "scan.1.nbc").write_text("code")
    seal(monkeypatch, folders / "loops")
    chosen = choose()
    assert chosen == folders / "user" / baked.name
    assert sorted(p.name for p in (chosen / "kernels_1").iterdir()) == ["scan.1.nbc", "scan.nbi"]
    (chosen / "kernels_1" / "scan.nbi").write_text("newer")
    assert (choose() / "kernels_1" / "scan.nbi").read_text() == "newer"


def test_without_any_folder_there_is_a_temporary_one(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(monkeypatch, folders / "loops")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(homeless))
    monkeypatch.setattr(kernels.tempfile, "tempdir", str(folders))
    assert choose().parent == folders


def homeless(_: type[Path]) -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    warm = "from neurostorm_app.models.scan_cpu import _compile; _compile()"
    count = (
        f"{warm}\nfrom neurostorm_app.models.kernels import conv, scan\n"
        "print([sum(f.stats.cache_misses.values()) for f in "
        "(scan.scan_forward, scan.scan_backward, conv.conv_forward, conv.conv_backward)])"
    )
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    in_a_process(warm, **environment)
    assert in_a_process(count, **environment) == "[0, 0, 0, 0]"


ROUNDED = """
import hashlib
import numpy as np
from neurostorm_app.pipelines.kernels.alignment import add_normal
rng = np.random.default_rng(1)
columns, seen = (rng.normal(size=s).astype(np.float32) for s in ((7, 999), (999,)))
weights, normal = rng.random(999, dtype=np.float32), np.zeros((8, 8))
add_normal(columns, seen, weights, normal)
print(hashlib.sha256(normal.tobytes()).hexdigest())
"""


def test_loops_round_alike_whether_compiled_just_now_or_read_from_a_disk(tmp_path: Path) -> None:
    """Whatever of them a process that was killed, or another one at work, has left there."""
    found = [in_a_process(ROUNDED, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    for path in tmp_path.rglob("*add_normal*"):
        path.unlink()
    found.append(in_a_process(ROUNDED, NUMBA_CACHE_DIR=str(tmp_path)))
    assert len(set(found)) == 1
    assert not list(tmp_path.rglob("*add_products*")), "a part is kept on its own"


def test_a_folder_of_somebody_else_is_not_used(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = kernels.os.geteuid()
    monkeypatch.setattr(kernels.os, "geteuid", lambda: owner + 1)
    assert not choose().is_relative_to(folders)
