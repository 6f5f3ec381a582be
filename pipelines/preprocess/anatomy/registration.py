"""Registration by ANTs, the same numbers every time: two volumes in, maps of points out.

This is the one door to ``ants.registration``, which ignores its own ``random_seed`` and writes
into the folder of temporary files unless told otherwise. ITK counts its threads once a process:
where somebody has used ANTs before us, registrations run in processes of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurostorm_app.errors import DataError, TemporaryError
from neurostorm_app.pipelines.image import write_volume
from neurostorm_app.pipelines.itk import from_ants
from neurostorm_app.pipelines.shortage import read_shortage
from neurostorm_app.pipelines.xfm import Affine, Chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

    Placed = tuple[NDArray[np.float32], Grid]

__all__ = ["Registered", "register_rigidly", "register_syn", "run_ants"]

THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
"""Read by ITK when it first starts threads; two threads do not add in the same order twice."""


@dataclass(frozen=True, slots=True)
class Registered:
    """Where points of the fixed image are in the moving one, and back.

    Parameters
    ----------
    forward : Chain
        Fixed points to moving points: field, then affine.
    backward : Chain
        Moving points to fixed points: affine, then field.
    """

    forward: Chain
    backward: Chain


def register_rigidly(fixed: Placed, moving: Placed, *, work_dir: Path, seed: int = 42) -> Affine:
    """Find the rigid map between two images of one head.

    Parameters
    ----------
    fixed, moving : tuple of ndarray (X, Y, Z) and Grid
        Brightness of any kind: they are compared by mutual information.
    work_dir : Path
        Folder for scratch files, which are removed.
    seed : int
        Seed of the sampling.

    Returns
    -------
    Affine
        Fixed points to moving points, RAS+ mm.
    """
    done = _register(fixed, moving, work_dir=work_dir, seed=seed, type_of_transform="Rigid")
    (step,) = done.forward.steps
    if not isinstance(step, Affine):
        raise TypeError(f"a rigid registration gave a {type(step).__name__}")
    return step


def register_syn(
    fixed: Placed,
    moving: Placed,
    *,
    work_dir: Path,
    seed: int = 42,
    kind: Literal["SyN", "SyNRA"] = "SyN",
    **options: Any,
) -> Registered:
    """Find the smooth invertible map between two brains (affine, then SyN).

    Parameters
    ----------
    fixed, moving : tuple of ndarray (X, Y, Z) and Grid
        Skull-stripped, background zero. The field is computed on the grid of `fixed`.
    work_dir : Path
        Folder for scratch files, which are removed.
    seed : int
        Seed of the sampling.
    kind : {'SyN', 'SyNRA'}
        Whether a rigid registration comes before the affine one (``SyNRA``).
    **options
        Passed to ``ants.registration``.

    Returns
    -------
    Registered
        Both directions, RAS+ mm.

    References
    ----------
    Avants B. et al. 2008, Med. Image Anal. 12:26, "Symmetric diffeomorphic image registration".
    """
    return _register(fixed, moving, work_dir=work_dir, seed=seed, type_of_transform=kind, **options)


def _register(
    fixed: Placed, moving: Placed, *, work_dir: Path, seed: int, **options: Any
) -> Registered:
    with _scratch(work_dir) as folder:
        for name, (volume, grid) in (("fixed", fixed), ("moving", moving)):
            write_volume(folder / f"{name}.nii", volume, grid=grid)
        try:
            found = (run_ants if _is_first() else _run_aside)(folder, seed, options)
        except TemporaryError:  # of us, and a RuntimeError too
            raise
        except RuntimeError as error:
            if (lacking := read_shortage(str(error))) is not None:
                raise lacking from error
            raise DataError(
                f"the registration of two images failed ({error})",
                fix="look at both images: orientation, field of view and brain mask",
            ) from error
        forward = [from_ants(Path(name)) for name in found["fwdtransforms"]]
        affines = [step.inverse() for step in forward if isinstance(step, Affine)]
        back = [
            from_ants(Path(name))
            for name in found["invtransforms"]
            if name.endswith("InverseWarp.nii.gz")
        ]
    return Registered(Chain(tuple(forward)), Chain((*affines, *back)))


@cache
def _is_first() -> bool:
    """Tell whether nobody in this process has used ANTs before, and left it with more threads."""
    return "ants" not in sys.modules


def run_ants(folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, list[str]]:
    """Register two images that lie in a folder, with the process's own ANTs.

    Parameters
    ----------
    folder : Path
        With ``moving.nii`` and ``fixed.nii``; the transforms are written to it.
    seed : int
        Of the sampling.
    options : mapping
        Of ``ants.registration``; what JSON can hold.

    Returns
    -------
    dict
        Paths by ``fwdtransforms`` and ``invtransforms``.

    Raises
    ------
    RuntimeError
        If ANTs fails.
    """
    import ants
    from ants import config

    # `random_seed` of ants.registration is ignored; this is not, and needs one thread.
    config.set_ants_deterministic(on=True, seed_value=seed)
    fixed, moving = (ants.image_read(str(folder / f"{name}.nii")) for name in ("fixed", "moving"))
    found = ants.registration(fixed, moving, outprefix=f"{folder}/xfm_", **options)
    return {name: list(found[name]) for name in ("fwdtransforms", "invtransforms")}


def _run_aside(folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, list[str]]:
    """Do the same in a process of its own, whose ANTs has one thread."""
    script = (
        "import json, sys; from pathlib import Path;"
        f" from {__name__} import run_ants; folder, seed, options = json.loads(sys.argv[1]);"
        " print(json.dumps(run_ants(Path(folder), seed, options)))"
    )
    asked = json.dumps([str(folder), seed, options])
    command = [sys.executable, "-c", script, asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == -signal.SIGKILL:
        raise TemporaryError(
            "the process of a registration was killed (SIGKILL), most often because its memory was"
            " used up",
            fix="call again with a smaller --nprocs, or give the job more memory and --mem",
        )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or "no reason was given").splitlines()[-1])
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _scratch(work_dir: Path) -> Iterator[Path]:
    """Keep ANTs to one thread and what it writes to a folder, which is removed at the end."""
    temporary, threads = tempfile.tempdir, os.environ.get(THREADS)
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ants-", dir=work_dir) as folder:
        tempfile.tempdir = folder
        os.environ[THREADS] = "1"
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = temporary
            os.environ.pop(THREADS)
            if threads is not None:
                os.environ[THREADS] = threads
