"""A workflow of nipype that smooths a preprocessed run and asks a model for its embedding."""

import sys
from pathlib import Path

from nipype import Node, Workflow
from nipype.interfaces.utility import Function

from neurostorm_app.bids_app.interfaces import EmbedRun


def smooth(in_file: str, fwhm: float) -> str:
    """Smooth a series; stands for whatever your workflow does to it."""
    from pathlib import Path

    from nilearn.image import smooth_img

    out = Path("smooth_bold.nii.gz").resolve()
    smooth_img(in_file, fwhm).to_filename(out)
    return str(out)


def build(bold: Path, mask: Path, work_dir: Path) -> Workflow:
    """Build the workflow."""
    before = Node(Function(["in_file", "fwhm"], ["out_file"], smooth), name="smooth")
    before.inputs.trait_set(in_file=str(bold), fwhm=6.0)
    embed = Node(EmbedRun(model="connectome", mask_file=str(mask)), name="embed")
    workflow = Workflow("mine", base_dir=str(work_dir))
    workflow.connect(before, "out_file", embed, "in_file")
    return workflow


if __name__ == "__main__":
    done = build(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).run()
    embed = next(node for node in done.nodes if node.name == "embed")
    print(embed.result.outputs.embedding, "contract met:", embed.result.outputs.met)
