"""The anatomical nodes of the graph: each calls one pure function of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    TraitedSpec,
    traits,
)

from neurostorm_app.pipelines.preprocess.anatomical import prepare_t1w
from neurostorm_app.pipelines.preprocess.brainmask import extract_brain
from neurostorm_app.pipelines.preprocess.nodes import StepNode
from neurostorm_app.pipelines.preprocess.normalization import normalize, to_standard
from neurostorm_app.pipelines.preprocess.tissue import segment

__all__ = ["ExtractBrain", "Normalize", "PrepareT1w", "Segment", "ToStandard"]

TISSUES = ("GM", "WM", "CSF")


class _PrepareInput(BaseInterfaceInputSpec):  # type: ignore[misc]
    t1w = InputMultiPath(File(exists=True), mandatory=True)


class _PrepareOutput(TraitedSpec):  # type: ignore[misc]
    t1w = File(exists=True)
    qc = traits.Dict()


class PrepareT1w(StepNode):
    """Conform, correct and average T1w images."""

    input_spec = _PrepareInput
    output_spec = _PrepareOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write the prepared T1w image."""
        out = folder / "desc-preproc_T1w.nii.gz"
        paths = [Path(path) for path in self.given.t1w]
        return {"qc": prepare_t1w(paths, out, work_dir=folder), "t1w": out}


class _BrainInput(BaseInterfaceInputSpec):  # type: ignore[misc]
    t1w = File(exists=True, mandatory=True)


class _BrainOutput(TraitedSpec):  # type: ignore[misc]
    mask = File(exists=True)
    qc = traits.Dict()


class ExtractBrain(StepNode):
    """Find the brain in the T1w image."""

    input_spec = _BrainInput
    output_spec = _BrainOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write the brain mask."""
        out = folder / "desc-brain_mask.nii.gz"
        return {"qc": extract_brain(Path(self.given.t1w), out), "mask": out}


class _NormalizeInput(_BrainInput):
    mask = File(exists=True, mandatory=True)
    space = traits.Str(mandatory=True)
    res = traits.Str(mandatory=True)
    seed = traits.Int(mandatory=True)


class _NormalizeOutput(TraitedSpec):  # type: ignore[misc]
    to_std_xfm = File(exists=True)
    from_std_xfm = File(exists=True)
    priors = traits.Dict(traits.Str, File(exists=True))
    qc = traits.Dict()


class Normalize(StepNode):
    """Find the map between the participant's brain and the template."""

    input_spec = _NormalizeInput
    output_spec = _NormalizeOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write transforms in both directions and the template's tissues carried back."""
        given = self.given
        done = normalize(
            Path(given.t1w),
            Path(given.mask),
            space=given.space,
            res=given.res,
            out_dir=folder,
            seed=given.seed,
        )
        return {
            "to_std_xfm": done.to_std_xfm,
            "from_std_xfm": done.from_std_xfm,
            "priors": done.priors,
            "qc": dict(done.qc),
        }


class _SegmentInput(_BrainInput):
    mask = File(exists=True, mandatory=True)
    priors = traits.Dict(traits.Str, File(exists=True), mandatory=True)


class _SegmentOutput(TraitedSpec):  # type: ignore[misc]
    dseg = File(exists=True)
    probsegs = traits.Dict(traits.Str, File(exists=True))
    gm = File(exists=True)
    wm = File(exists=True)
    csf = File(exists=True)
    qc = traits.Dict()


class Segment(StepNode):
    """Tell grey matter, white matter and fluid."""

    input_spec = _SegmentInput
    output_spec = _SegmentOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write labels and probabilities."""
        given = self.given
        maps = {name: folder / f"label-{name}_probseg.nii.gz" for name in TISSUES}
        qc = segment(
            Path(given.t1w),
            Path(given.mask),
            out_dseg=folder / "dseg.nii.gz",
            out_probsegs=maps,
            priors={name: Path(path) for name, path in given.priors.items()},
        )
        outputs: dict[str, Any] = {"dseg": folder / "dseg.nii.gz", "qc": qc}
        outputs["probsegs"] = maps
        return outputs | {name.lower(): path for name, path in maps.items()}


class _StandardInput(_BrainInput):
    mask = File(exists=True, mandatory=True)
    probsegs = traits.Dict(traits.Str, File(exists=True), mandatory=True)
    to_std_xfm = File(exists=True, mandatory=True)
    space = traits.Str(mandatory=True)
    res = traits.Str(mandatory=True)


class _StandardOutput(TraitedSpec):  # type: ignore[misc]
    images = traits.Dict(traits.Str, File(exists=True))


class ToStandard(StepNode):
    """Bring the anatomy onto the standard grid."""

    input_spec = _StandardInput
    output_spec = _StandardOutput

    def work(self, folder: Path) -> dict[str, Any]:
        """Write T1w image, mask, labels and probabilities in standard space."""
        given = self.given
        images = to_standard(
            Path(given.t1w),
            Path(given.mask),
            {name: Path(path) for name, path in given.probsegs.items()},
            Path(given.to_std_xfm),
            space=given.space,
            res=given.res,
            out_dir=folder,
        )
        return {"images": images}
