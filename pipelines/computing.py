"""Where and how a network computes: device, threads, arithmetic, and the words for a record."""

from __future__ import annotations

import platform
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["arithmetic", "check_engine", "count_threads", "describe_engine", "threads"]

PRECISIONS: Final = ("fp32", "tf32", "bf16")
SCAN_PACKAGES: Final = {"numba": "numba", "triton": "triton", "mamba-ssm": "mamba-ssm"}
"""The package whose version counts for each engine of the selective scan."""


def check_engine(device: str, precision: str) -> None:
    """Refuse a device that is not there, and arithmetic that it cannot do.

    Parameters
    ----------
    device : str
        As torch spells it, ``cpu``, ``cuda`` or ``cuda:1``.
    precision : str
        ``fp32``, ``tf32`` or ``bf16``.

    Raises
    ------
    UsageError
        If the precision is unknown or not possible there, or there is no such device.
    """
    import torch

    if precision not in PRECISIONS:
        raise UsageError(
            f"the precision {precision!r} is not known",
            fix="choose fp32 (the default), bf16, or on a CUDA device tf32",
        )
    kind, _, number = device.partition(":")
    if kind not in {"cpu", "cuda"} or (
        kind == "cuda" and not int(number or 0) < torch.cuda.device_count()
    ):
        raise UsageError(
            f"the device {device!r} is not there",
            fix="choose cpu, or start where torch sees a CUDA device",
        )
    if precision == "tf32" and kind == "cpu":
        raise UsageError(
            "the precision tf32 exists only on CUDA devices; the device is the CPU",
            fix="choose fp32 (the default), or --device cuda where there is one",
        )


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """Give torch so many threads, and take them back; None leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def count_threads() -> int:
    """Count the threads that torch uses as things stand."""
    import torch

    return torch.get_num_threads()


@contextmanager
def arithmetic(device: str, precision: str) -> Iterator[None]:
    """Compute without gradients in a given precision; what was set before comes back.

    Parameters
    ----------
    device : str
        As torch spells it.
    precision : {'fp32', 'tf32', 'bf16'}
        ``fp32`` switches the shortened products of newer GPUs off, for convolutions too, where
        they are torch's default. ``bf16`` is torch's autocast: products in 8 bits of mantissa,
        sums and norms in float32.
    """
    import torch

    kind = device.partition(":")[0]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    half = torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")
    shorter = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=precision == "tf32"
    )
    try:
        with torch.inference_mode(), half, shorter:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def describe_engine(model: nn.Module, device: str, precision: str) -> dict[str, Any]:
    """Say what computed, for a record: nothing that differs from one call to the next.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    device, precision : str
        Where and how it computes.

    Returns
    -------
    dict
        Values are JSON's. ``scan_engine`` is None for a network without a selective scan.
    """
    import torch

    from neurostorm_app.models.blocks import Mamba
    from neurostorm_app.models.scan import scan_engine

    scans = any(isinstance(part, Mamba) for part in model.modules())
    engine = scan_engine(device) if scans else None
    return {
        "engine": f"torch {torch.__version__}",
        "scan_engine": engine,
        "scan_package": _package(SCAN_PACKAGES.get(engine, "torch")) if engine else None,
        "device": device,
        "device_name": _device_name(device),
        "precision": precision,
    }


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name}, version not known"


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
