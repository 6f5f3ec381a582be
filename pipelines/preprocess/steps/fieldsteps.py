"""The steps of susceptibility distortion, files in and files out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import open_image, write_volume
from neurostorm_app.pipelines.itk import read_itk_affines
from neurostorm_app.pipelines.preprocess.field.distortion import (
    estimate_field,
    field_on,
    place_field,
)
from neurostorm_app.pipelines.preprocess.field.fieldless import estimate_field_from_anatomy
from neurostorm_app.pipelines.stage import Fieldmap, Scan
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["field", "field_again", "field_from_anatomy", "place"]

HEAD = ("t1w", "mask", "gm", "wm", "csf")


def field(  # noqa: PLR0913
    files: Mapping[str, Path],
    *,
    folder: Path,
    name: str,
    kind: str,
    metadata: Sequence[Mapping[str, Any]],
    fallback_readout: float | None,
    seed: int,
) -> dict[str, Any]:
    """Estimate the field from a field map's images ``scan:01``, ``scan:02``, ..."""
    paths = [files[role] for role in sorted(files)]
    scans = tuple(Scan(path=p, metadata=m) for p, m in zip(paths, metadata, strict=True))
    fieldmap = Fieldmap(name=name, kind=kind, scans=scans)  # type: ignore[arg-type]
    made = estimate_field(fieldmap, folder=folder, seed=seed, fallback_readout=fallback_readout)
    return {
        "fieldmap": made["fieldmap"],
        "fmap_reference": made["reference"],
        "fmap_mask": made["mask"],
        "fmap_coefficients": made["coefficients"],
        "qc": dict(_usable(made["qc"], name)),
    }


def place(
    files: Mapping[str, Path], *, folder: Path, facts: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Bring the field to the BOLD reference, and free that of its distortion."""
    made = place_field(
        {
            "fieldmap": files["fieldmap"],
            "reference": files["fmap_reference"],
            "mask": files["fmap_mask"],
            "coefficients": files["fmap_coefficients"],
        },
        boldref=files["hmc_boldref"],
        mask=files["hmc_mask"],
        phase=_phase(facts),
        readout=facts["readout"],
        folder=folder,
        seed=seed,
        jacobian=facts["jacobian"],
    )
    return _named(made, facts) | {"fmap_xfm": made["fmap_xfm"]}


def field_from_anatomy(
    files: Mapping[str, Path], *, folder: Path, facts: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Tell the field from how the BOLD reference differs from the anatomy along the phase axis."""
    made = estimate_field_from_anatomy(
        files["hmc_boldref"],
        files["hmc_mask"],
        {role: files[f"t1w_{role}" if role == "mask" else role] for role in HEAD},
        phase=_phase(facts),
        readout=facts["readout"],
        folder=folder,
        seed=seed,
        jacobian=facts["jacobian"],
    )
    return _named(made, facts)


def field_again(files: Mapping[str, Path], *, folder: Path) -> dict[str, Path]:
    """Bring a field to the BOLD reference by a transform that is there already.

    Parameters
    ----------
    files : mapping
        ``hmc_boldref``, ``fmap_xfm`` (points of the field map to points of the reference), and
        ``fmap_coefficients`` or ``fieldmap`` (Hz).
    folder : Path
        Where to write.
    """
    grid = Grid.of(open_image(files["hmc_boldref"]))
    out = folder / "desc-boldref_fieldmap.nii.gz"
    xfm = Affine(read_itk_affines(files["fmap_xfm"])[0]).inverse()
    known = {"fmap_coefficients": "coefficients", "fieldmap": "fieldmap"}
    given = {ours: files[role] for role, ours in known.items() if role in files}
    write_volume(out, field_on(given, grid, xfm), grid=grid)
    return {"field": out}


def _phase(facts: Mapping[str, Any]) -> tuple[int, int]:
    axis, sign = facts["phase"]
    return int(axis), int(sign)


def _named(made: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "field": made["field"],
        "sdc_boldref": made["boldref"],
        "sdc_mask": made["mask"],
        "qc": {**_usable(made["qc"]), **{key: facts[key] for key in ("jacobian", "readout")}},
    }


def _usable(qc: Mapping[str, Any], name: str = "the anatomy") -> Mapping[str, Any]:
    """Give what was measured of a field; one that fails is not used.

    Raises
    ------
    DataError
        If the verdict is ``fail``.
    """
    if qc["verdict"] == "fail":
        raise DataError(
            f"the field from {name} cannot be used: {' and '.join(qc['reasons'])}",
            fix="repair or leave out the field map; --ignore fieldmaps leaves the distortion",
        )
    return qc
