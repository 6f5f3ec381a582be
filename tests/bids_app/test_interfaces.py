"""The interfaces for nipype, run by nipype."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype import Node, Workflow
from nipype.interfaces.utility import IdentityInterface

from neurostorm_app.bids_app.derivatives import read_embedding
from neurostorm_app.bids_app.interfaces import EmbedRun, NeuroStormApp
from neurostorm_app.bids_app.settings import GROUPS

AFFINE = np.array([[6.0, 0, 0, -84], [0, 6, 0, -120], [0, 0, 6, -66], [0, 0, 0, 1]])
SHAPE, N_VOLUMES, TR = (30, 36, 30), 24, 2.0
STEM = "sub-01_task-rest_space-MNI152NLin6Asym_res-2"


def write(path: Path, data: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header["pixdim"][4] = TR
    nib.save(image, path)
    return path


@pytest.fixture
def func(tmp_path, rng):
    """One preprocessed run, as fMRIPrep writes it."""
    folder = tmp_path / "prepared/sub-01/func"
    series = (900 + rng.normal(0, 20, (*SHAPE, N_VOLUMES))).astype(np.int16)
    write(folder / f"{STEM}_desc-preproc_bold.nii.gz", series)
    write(folder / f"{STEM}_desc-brain_mask.nii.gz", np.ones(SHAPE, np.uint8))
    about = {"Name": "prepared", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    (tmp_path / "prepared/dataset_description.json").write_text(json.dumps(about))
    return folder


def test_every_option_of_the_command_is_an_input():
    options = {name for model in GROUPS.values() for name in model.model_fields}
    assert options <= set(NeuroStormApp().inputs.copyable_trait_names())


def test_words_are_quoted_and_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").mkdir()
    app = NeuroStormApp(bids_dir="my data", output_dir="out", models=["connectome", "a b"])
    app.inputs.weights = {"neurostorm": "w.ckpt"}
    app.inputs.verbose, app.inputs.use_syn_sdc, app.inputs.anat_only = 2, True, False
    words = app.cmdline
    assert words.startswith(f"neurostorm-app '{tmp_path}/my data' {tmp_path}/out participant ")
    assert "--models connectome 'a b'" in words
    assert f"--weights neurostorm={tmp_path}/w.ckpt" in words
    assert "--verbose --verbose" in words
    assert "--use-syn-sdc" in words
    assert "--anat-only" not in words


def test_what_changes_no_number_does_not_change_the_hash_of_a_node(tmp_path):
    def hashed(**options):
        app = NeuroStormApp(bids_dir=tmp_path, output_dir=tmp_path / "out", **options)
        return app.inputs.get_hashval()[1]

    assert hashed(nprocs=1) == hashed(nprocs=2, mem="4G", device="cpu")
    assert hashed(random_seed=1) != hashed(random_seed=2)


def test_a_workflow_embeds_a_run_of_its_own(func, tmp_path):
    given = Node(IdentityInterface(["bold", "mask"]), name="given")
    given.inputs.bold = str(func / f"{STEM}_desc-preproc_bold.nii.gz")
    given.inputs.mask = str(func / f"{STEM}_desc-brain_mask.nii.gz")
    embed = Node(EmbedRun(model="connectome"), name="embed")
    workflow = Workflow("mine", base_dir=str(tmp_path / "work"))
    workflow.connect([(given, embed, [("bold", "in_file"), ("mask", "mask_file")])])
    done = workflow.run(plugin="Linear")
    outputs = next(node for node in done.nodes if node.name == "embed").result.outputs
    assert read_embedding(Path(outputs.embedding)).shape == (1, 4950)
    first = Path(outputs.windows).read_text().splitlines()[1].split("\t")
    assert first[:2] == ["0", str(int(N_VOLUMES * TR))]
    about = json.loads(Path(outputs.metadata).read_text())
    assert about["Model"]["Name"] == "connectome"
    assert about["Sources"] == [
        f"{STEM}_desc-preproc_bold.nii.gz",
        f"{STEM}_desc-brain_mask.nii.gz",
    ]
    assert outputs.met is about["InputConformance"]["met"]


def test_an_error_of_ours_says_what_to_do_in_the_traceback(func, tmp_path):
    embed = Node(EmbedRun(model="connectome", space="fsaverage"), name="embed")
    embed.inputs.in_file = str(func / f"{STEM}_desc-preproc_bold.nii.gz")
    embed.base_dir = str(tmp_path)
    with pytest.raises(Exception, match="what to do: "):
        embed.run()


def test_the_app_is_a_node(func, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    app = Node(NeuroStormApp(bids_dir=dataset.root, output_dir=tmp_path / "out"), name="app")
    app.inputs.derivatives = {"fmriprep": str(tmp_path / "prepared")}
    app.inputs.trait_set(participant_label=["01"], models=["connectome"], report_viewer="off")
    app.inputs.trait_set(skip_bids_validation=True, task_label=["rest"], nprocs=1)
    names = ["reports", "embeddings", "run_reports", "series"]
    after = Node(IdentityInterface(names), name="after")  # nipype gathers what somebody takes
    workflow = Workflow("study", base_dir=str(tmp_path / "work"))
    workflow.connect(app, "reports", after, "reports")
    for name in names[1:]:
        workflow.connect(app, name, after, name)
    (tmp_path / "bids/sub-01/func").joinpath("sub-01_task-rest_run-2_bold.nii.gz").unlink()
    dataset.bold("01").rename(dataset.bold("01").with_name("sub-01_task-rest_bold.nii.gz"))
    done = workflow.run(plugin="Linear")
    outputs = next(node for node in done.nodes if node.name == "app").result.outputs
    assert outputs.reports == [str(tmp_path / "out/sub-01.html")]
    assert len(outputs.embeddings) == 2
    assert json.loads(Path(outputs.run_reports[0]).read_text())["status"] == "done"
    assert outputs.series == []


def test_outputs_are_those_of_the_participants_that_were_asked_for(tmp_path):
    out = tmp_path / "out"
    for label in ("01", "02"):
        for folder in ("func", "ses-1/func"):
            path = out / f"sub-{label}/{folder}/sub-{label}_desc-preproc_bold.nii.gz"
            path.parent.mkdir(parents=True)
            path.touch()
        (out / f"sub-{label}.html").touch()
    labels = tmp_path / "labels.txt"
    labels.write_text("sub-02\n")
    app = NeuroStormApp(bids_dir=tmp_path, output_dir=out)
    assert [len(app._list_outputs()[name]) for name in ("reports", "series")] == [2, 4]
    app.inputs.participant_label = [str(labels)]
    assert app._list_outputs()["reports"] == [str(out / "sub-02.html")]
    app.inputs.level = "group"
    assert app._list_outputs()["reports"] == [str(out / "group.html")]
