"""The BOLD nodes of the graph: each calls one step of ours, files in and files out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, traits

from neurostorm_app.pipelines.preprocess import boldoutputs, boldsteps
from neurostorm_app.pipelines.preprocess.nodes import StepNode

__all__ = ["Confounds", "Coregister", "Motion", "Reference", "ResampleBold"]


class _ReferenceInput(BaseInterfaceInputSpec):  # type: ignore[misc]
    bold = traits.Str(mandatory=True)
    tr = traits.Float(mandatory=True)
    dummy_scans = traits.Either(None, traits.Int, usedefault=True)


class _ReferenceOutput(TraitedSpec):  # type: ignore[misc]
    boldref = File(exists=True)
    mask = File(exists=True)
    n_skipped = traits.Int()
    qc = traits.Dict()


class Reference(StepNode):
    """Make the BOLD reference and find the brain in it."""

    input_spec = _ReferenceInput
    output_spec = _ReferenceOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write reference and mask."""
        given = self.given
        return boldsteps.reference(
            Path(given.bold), given.tr, dummy_scans=given.dummy_scans, folder=folder
        )


class _MotionInput(BaseInterfaceInputSpec):  # type: ignore[misc]
    bold = File(exists=True, mandatory=True)
    boldref = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    n_threads = traits.Int(1, usedefault=True, nohash=True)


class _MotionOutput(TraitedSpec):  # type: ignore[misc]
    hmc_xfm = File(exists=True)


class Motion(StepNode):
    """Estimate head motion."""

    input_spec = _MotionInput
    output_spec = _MotionOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write one affine a volume."""
        given = self.given
        found = boldsteps.motion(
            Path(given.bold),
            boldref=Path(given.boldref),
            mask=Path(given.mask),
            folder=folder,
            n_threads=given.n_threads,
        )
        return {"hmc_xfm": found}


class _CoregisterInput(BaseInterfaceInputSpec):  # type: ignore[misc]
    boldref = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    t1w = File(exists=True, mandatory=True)
    t1w_mask = File(exists=True, mandatory=True)
    gm = File(exists=True, mandatory=True)
    wm = File(exists=True, mandatory=True)
    dof = traits.Int(6, usedefault=True)
    seed = traits.Int(mandatory=True)


class _CoregisterOutput(TraitedSpec):  # type: ignore[misc]
    coreg_boldref = File(exists=True)
    mask = File(exists=True)
    coreg_xfm = File(exists=True)
    qc = traits.Dict()


class Coregister(StepNode):
    """Place the BOLD reference on the T1w image."""

    input_spec = _CoregisterInput
    output_spec = _CoregisterOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write the transform, the evened reference and the final BOLD mask."""
        given = self.given
        return boldsteps.coregistration(
            Path(given.boldref),
            mask=Path(given.mask),
            anatomy={name: Path(getattr(given, name)) for name in ("t1w", "t1w_mask", "gm", "wm")},
            dof=given.dof,
            seed=given.seed,
            folder=folder,
        )


class _ConfoundsInput(_MotionInput):
    hmc_xfm = File(exists=True, mandatory=True)
    coreg_xfm = File(exists=True, mandatory=True)
    gm = File(exists=True, mandatory=True)
    wm = File(exists=True, mandatory=True)
    csf = File(exists=True, mandatory=True)
    tr = traits.Float(mandatory=True)
    n_skipped = traits.Int(mandatory=True)
    fd_threshold = traits.Float(mandatory=True)
    dvars_threshold = traits.Float(mandatory=True)


class _ConfoundsOutput(TraitedSpec):  # type: ignore[misc]
    confounds = File(exists=True)
    confounds_json = File(exists=True)
    qc = traits.Dict()


class Confounds(StepNode):
    """Compute the confounds table."""

    input_spec = _ConfoundsInput
    output_spec = _ConfoundsOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write the table and its sidecar."""
        given = self.given
        roles = ("boldref", "mask", "hmc_xfm", "coreg_xfm", "gm", "wm", "csf")
        return boldoutputs.confounds(
            Path(given.bold),
            files={name: Path(getattr(given, name)) for name in roles},
            tr=given.tr,
            n_skipped=given.n_skipped,
            thresholds=(given.fd_threshold, given.dvars_threshold),
            folder=folder,
            n_threads=given.n_threads,
        )


class _ResampleInput(_MotionInput):
    hmc_xfm = File(exists=True, mandatory=True)
    coreg_xfm = File(exists=True, mandatory=True)
    to_std_xfm = File(exists=True, mandatory=True)
    space = traits.Str(mandatory=True)
    res = traits.Str(mandatory=True)
    tr = traits.Float(mandatory=True)


class _ResampleOutput(TraitedSpec):  # type: ignore[misc]
    bold_std = File(exists=True)
    boldref_std = File(exists=True)
    mask_std = File(exists=True)


class ResampleBold(StepNode):
    """Bring the series onto the standard grid by one interpolation."""

    input_spec = _ResampleInput
    output_spec = _ResampleOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write series, reference and mask in standard space."""
        given = self.given
        roles = ("boldref", "mask", "hmc_xfm", "coreg_xfm", "to_std_xfm")
        return boldoutputs.standardization(
            Path(given.bold),
            files={name: Path(getattr(given, name)) for name in roles},
            space=(given.space, given.res),
            tr=given.tr,
            folder=folder,
            n_threads=given.n_threads,
        )
