"""The Triton kernels: interpreted, compiled for three generations of GPU, and run where one is.

Triton decides at import whether it interprets, so another process does; this one compiles.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as fn

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model, scan

triton = pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tried")
scan_triton = pytest.importorskip("neurostorm_app.models.scan_triton")
triton_kernels = pytest.importorskip("neurostorm_app.models.triton_kernels")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

Arguments = dict[str, Any]

NAMES = ["u", "dt", "A", "B", "C", "D", "z", "dt_bias"]
OPTIONAL = ["D", "z", "dt_bias"]

CASES: dict[str, tuple[tuple[int, int, int, int], list[str], torch.dtype]] = {
    "everything, segments and a rest": ((2, 37, 20, 5), OPTIONAL, torch.float32),
    "one of each": ((1, 1, 1, 1), OPTIONAL, torch.float32),
    "nothing but the recurrence": ((2, 16, 16, 16), [], torch.float32),
    "a gate alone": ((2, 5, 3, 2), ["z"], torch.float32),
    "no gate": ((1, 18, 17, 3), ["D", "dt_bias"], torch.float32),
    "bfloat16": ((1, 17, 18, 16), OPTIONAL, torch.bfloat16),
    "float16": ((1, 3, 18, 16), OPTIONAL, torch.float16),
    "a long sequence": ((1, 100, 16, 16), [], torch.float32),
    "no sequence": ((0, 3, 4, 5), OPTIONAL, torch.float32),
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of the largest value of its kind: some roundings of the type."""

INTERPRET = """
import sys, torch
from neurostorm_app.models import scan_triton

buffers = scan_triton._floats
for case in (cases := torch.load(sys.argv[1])).values():
    sizes = [0]
    scan_triton._floats = lambda like, *s: sizes.append(torch.Size(s).numel()) or buffers(like, *s)
    probe = case.pop("probe")
    softplus = case.pop("softplus")
    leaves = {k: None if x is None else x.requires_grad_() for k, x in case.items()}
    with torch.no_grad():
        case["silent"] = scan_triton.triton_scan(**leaves, softplus=softplus)
    y = scan_triton.triton_scan(**leaves, softplus=softplus)
    y.backward(probe)
    case.update({k: None if x is None else x.grad for k, x in leaves.items()})
    case.update(y=y.detach(), largest=max(sizes))
torch.save(cases, sys.argv[2])
"""


def reference(  # the equations, token by token, in float64
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, softplus: bool, **rest: Any
) -> Tensor:
    D, z, dt_bias = (rest[name] for name in OPTIONAL)
    step = dt if dt_bias is None else dt + dt_bias
    step = fn.softplus(step) if softplus else step
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[1]):
        h = torch.exp(step[:, t, :, None] * A) * h + (step * u)[:, t, :, None] * B[:, t, None]
        y.append((h * C[:, t, None]).sum(dim=-1))
    out = torch.stack(y, dim=1)
    out = out if D is None else out + D * u
    return out if z is None else out * fn.silu(z)


def differentiate(
    function: Callable[..., Tensor], arguments: Arguments, *, dtype: torch.dtype | None = None
) -> Arguments:
    """Compute y and the gradient of (y * probe).sum() by each tensor."""
    leaves = {k: v for k, v in arguments.items() if k in NAMES}
    leaves = {
        k: None if v is None else v.detach().to(dtype or v.dtype).requires_grad_()
        for k, v in leaves.items()
    }
    y = function(**leaves, softplus=arguments["softplus"])
    y.backward(arguments["probe"].to(y.dtype))
    return {"y": y.detach()} | {k: None if v is None else v.grad for k, v in leaves.items()}


def draw(
    size: tuple[int, int, int, int], given: list[str], dtype: torch.dtype, *, seed: int = 1
) -> Arguments:
    """Draw arguments as a Mamba makes them; some are views that are not contiguous."""
    b, length, d, n = size
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    raw = normal(b, length, d) - 2
    z, _ = normal(b, length, 2 * d).to(dtype).chunk(2, dim=-1)
    _, B, C = normal(b, length, 3 + 2 * n).to(dtype).split([3, n, n], dim=-1)
    made: Arguments = {
        "u": normal(b, d, length).transpose(1, 2).to(dtype),
        "dt": (raw if "dt_bias" in given else fn.softplus(raw)).to(dtype),
        "A": -normal(d, n).exp(),
        "B": B,
        "C": C,
        "D": normal(d),
        "z": z,
        "dt_bias": normal(d),
    }
    made |= {name: None for name in OPTIONAL if name not in given}
    probe = normal(b, 1, d).to(dtype).expand(b, length, d)
    return made | {"softplus": "dt_bias" in given, "probe": probe}


def close(found: Arguments, expected: Arguments, dtype: torch.dtype) -> None:
    for name, value in expected.items():
        if value is None:
            assert found[name] is None
            continue
        size = float(value.abs().max()) if value.numel() else 0.0
        exact = value.to(found[name])
        torch.testing.assert_close(
            found[name], exact, rtol=0, atol=size * TOLERANCE[dtype] + 1e-30,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arguments]:
    """Run all cases, and one with small and large steps, through Triton's interpreter."""
    folder = tmp_path_factory.mktemp("interpreted")
    cases = {name: draw(*case) for name, case in CASES.items()}
    cases["steps"] = steps()
    torch.save(cases, folder / "cases.pt")
    subprocess.run(
        [sys.executable, "-c", INTERPRET, folder / "cases.pt", folder / "done.pt"],
        check=True, env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    done: dict[str, Arguments] = torch.load(folder / "done.pt")
    return done


def steps() -> Arguments:
    """Make y the step itself: one token, everything else 1."""
    raw = torch.linspace(-16, 30, 47)[:, None, None]
    one = torch.ones(47, 1, 1)
    rest = dict.fromkeys(OPTIONAL)
    matrices = {"A": -torch.ones(1, 1), "B": one, "C": one.clone()}
    return {"u": one.clone(), "dt": raw, **matrices, **rest, "softplus": True, "probe": one.clone()}


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_the_recurrence_in_value_and_every_gradient(
    interpreted: dict[str, Arguments], name: str
) -> None:
    size, given, dtype = CASES[name]
    expected = differentiate(reference, draw(*CASES[name]), dtype=torch.float64)
    close(interpreted[name], expected, dtype)
    assert interpreted[name]["y"].dtype == dtype
    assert interpreted[name]["y"].shape == size[:3]
    assert [n for n in OPTIONAL if interpreted[name][n] is not None] == [
        n for n in OPTIONAL if n in given
    ]


@pytest.mark.parametrize("name", CASES)
def test_training_and_inference_read_the_same_bits(
    interpreted: dict[str, Arguments], name: str
) -> None:
    assert torch.equal(interpreted[name]["silent"], interpreted[name]["y"])


def test_a_step_is_exact_to_rounding_however_small(interpreted: dict[str, Arguments]) -> None:
    raw = steps()["dt"].double()
    found = interpreted["steps"]
    torch.testing.assert_close(found["y"].double(), fn.softplus(raw), rtol=5e-7, atol=0)
    torch.testing.assert_close(found["dt"].double(), torch.sigmoid(raw), rtol=5e-7, atol=0)


def test_the_states_of_all_tokens_never_exist(interpreted: dict[str, Arguments]) -> None:
    b, length, d, n = CASES["a long sequence"][0]
    assert 0 < interpreted["a long sequence"]["largest"] < b * length * d * n / 5  # values


def test_float64_is_refused_because_it_would_be_rounded() -> None:
    arguments = draw((1, 2, 3, 4), [], torch.float32)
    del arguments["probe"]
    with pytest.raises(UsageError, match="the Triton scan got a float64 tensor") as caught:
        scan_triton.triton_scan(**arguments | {"A": arguments["A"].double()})
    assert "reference" in caught.value.fix


FLOATS = {"A", "D", "dt_bias", "starts", "kept", "dA", "dB", "dC", "dD", "dbias"}


def compile_kernel(kernel: Any, dtype: str, *, capability: int, without: set[str]) -> Any:
    """Compile for a GPU that need not be there, as a launch with these types would."""
    constants = {"SEGMENT": scan_triton.SEGMENT, "CHANNELS": scan_triton.CHANNELS, "STATES": 16}
    constants |= {"SOFTPLUS": "dt_bias" not in without}
    absent = {name: None for name in without if name in kernel.arg_names}
    constants |= absent

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in triton_kernels.NUMBERS:
            return "i32"
        return "*fp32" if name in FLOATS else f"*{dtype}"

    source = triton.compiler.ASTSource(
        fn=kernel, signature={name: kind(name) for name in kernel.arg_names}, constexprs=constants
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=scan_triton.OPTIONS)


@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
@pytest.mark.parametrize(
    ("capability", "dtype", "without"),
    [
        (80, "fp32", set()),
        (80, "bf16", set()),
        (90, "fp32", set()),
        (90, "bf16", set()),
        (90, "fp16", set()),
        (90, "fp32", {"D", "z", "dt_bias", "starts", "dz"}),
        (120, "fp32", set()),
        (120, "bf16", set()),
    ],
)
def test_the_kernels_compile_for_gpus_that_are_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str, capability: int, dtype: str,
    without: set[str],
) -> None:  # fmt: skip
    if kernel == "backward_kernel":
        without = without - {"starts"}
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = compile_kernel(
        getattr(triton_kernels, kernel), dtype, capability=capability, without=without
    )
    ptx = compiled.asm["ptx"]
    assert f".entry {kernel}" in ptx
    assert f".target sm_{capability}" in ptx
    assert compiled.asm["cubin"].startswith(b"\x7fELF")  # ptxas took it
    assert not re.search(r"\b(atom|red)\.(global|relaxed|acq)", ptx)  # sums in no fixed order
    assert ".f64" not in ptx  # 64 times slower on most cards
    assert "lg2.approx" not in ptx  # absolute error 2 ** -22: too much for a small step


needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device: the kernels are not run"
)
SHAPES = [(40, 256, 144, 16), (5, 256, 288, 16), (5, 32, 576, 16), (3, 37, 20, 5)]


def move(arguments: Arguments) -> Arguments:
    return {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SHAPES)
def test_a_gpu_computes_the_recurrence(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    arguments = move(draw(size, OPTIONAL, dtype))
    found = differentiate(scan_triton.triton_scan, arguments)
    close(found, differentiate(reference, arguments, dtype=torch.float64), dtype)


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_gives_the_same_bits_again_and_a_sequence_those_it_gives_alone() -> None:
    arguments = move(draw(SHAPES[0], OPTIONAL, torch.float32))
    once, again = (differentiate(scan_triton.triton_scan, arguments) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    alone = {
        k: v[7:8] if isinstance(v, torch.Tensor) and v.ndim == 3 else v
        for k, v in arguments.items()
    }  # fmt: skip
    part = differentiate(scan_triton.triton_scan, alone)
    assert all(torch.equal(once[name][7:8], part[name]) for name in ("y", "u", "dt", "z"))


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_computes_what_mamba_ssm_computes() -> None:
    interface = pytest.importorskip("mamba_ssm.ops.selective_scan_interface")
    arguments = move(draw(SHAPES[1], OPTIONAL, torch.float32))

    def theirs(softplus: bool, **x: Tensor) -> Tensor:
        u, dt, B, C, z = (x[k].transpose(1, 2).contiguous() for k in ("u", "dt", "B", "C", "z"))
        y: Tensor = interface.selective_scan_fn(
            u, dt, x["A"], B, C, x["D"], z=z, delta_bias=x["dt_bias"], delta_softplus=softplus
        )
        return y.transpose(1, 2)

    found, expected = (differentiate(f, arguments) for f in (scan_triton.triton_scan, theirs))
    close(found, expected, torch.bfloat16)  # their exponential and ours are approximate
    torch.testing.assert_close(found["y"], expected["y"], rtol=0, atol=1e-4)  # values reach 30


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("tf32", "tolerance"), [(False, 5e-5), (True, 1e-3)])
def test_the_encoder_on_a_gpu_gives_upstreams_features(
    golden: Path, monkeypatch: pytest.MonkeyPatch, tf32: bool, tolerance: float
) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr(scan, "scan_engine", lambda _: "triton")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    for file in ("enc_fullmsa_batch2", "enc_argparse_default_windows", "enc_prompt5"):
        about = json.loads((golden / f"{file}.json").read_text())
        tensors = load_file(golden / f"{file}.safetensors")
        weights = {
            k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")
        }
        model = create_model("neurostorm", config=about["config"], weights=weights, device="cuda")
        with torch.no_grad():
            features = model.features(tensors["input/x"].cuda()).cpu()
        torch.testing.assert_close(features, tensors["output/features"], atol=tolerance, rtol=0)
