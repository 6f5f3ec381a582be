"""Provenance and examples: times once each, pictures of a guess."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib

import pytest

from neurostorm_app.bids_app.report.guesses import read_guess
from neurostorm_app.bids_app.report.history import read_history
from neurostorm_app.bids_app.report.model_files import EmbeddingFiles
from neurostorm_app.bids_app.report.subject import write_subject_page
from neurostorm_app.errors import DataError

STAGES = {"anat.brain": 12.0, "run000.motion": 3.5, "fmap000.estimate": 20.0, "run000.qc": 0.0}


def record(tree, name, **more):
    about = {"started": "2026-11-21T11:20:30+00:00", "seconds": 60.0, "stages": STAGES}
    tree.record(name, **(about | more))


def test_units_of_one_piece_of_work_share_its_time(tree):
    record(tree, "sub-01_anat")
    record(tree, "sub-01_task-rest_fit")
    record(tree, "sub-01_x_embedding", started="later", seconds=5.0, stages=None, model="m")
    found = read_history(tree.root, "01")
    assert [unit.together for unit in found.units] == [2, 2, 1]
    assert found.seconds == 65.0


def test_steps_are_listed_in_words_the_longest_first(tree):
    record(tree, "sub-01_anat")
    record(
        tree,
        "sub-01_x_embedding",
        run="sub-01_task-rest_run-1",
        model="m",
        stages=None,
        seconds=9.0,
    )
    found = read_history(tree.root, "01")
    assert [step.name for step in found.stages] == [
        "field map 1: estimate",
        "anatomy: brain",
        "task-rest run-1: embed m",
        "run 1: motion",
    ]
    assert [step.share for step in found.stages] == pytest.approx([1, 0.6, 0.45, 0.175])


def test_steps_of_two_calls_are_added_and_those_of_one_are_not(tree):
    """Each call counts its runs from 0; the second one must not hide the first."""
    record(tree, "sub-01_anat")
    record(tree, "sub-01_task-rest_fit")
    again = {"started": "2026-11-22T08:00:00+00:00", "seconds": 9.0}
    record(tree, "sub-01_task-b_fit", stages={"run000.motion": 4.0}, **again)
    found = {step.name: step.seconds for step in read_history(tree.root, "01").stages}
    assert found["run 1: motion"] == pytest.approx(3.5 + 4.0)
    assert found["anatomy: brain"] == 12.0


def test_the_step_of_a_run_has_its_name_where_the_call_had_no_other(tree):
    record(tree, "sub-01_a_fit", run="sub-01_task-a", stages={"run000.motion": 3.0})
    more = {"started": "later", "stages": {"run000.motion": 4.0}}
    record(tree, "sub-01_b_fit", run="sub-01_task-b", **more)
    found = {step.name: step.seconds for step in read_history(tree.root, "01").stages}
    assert found == {"task-a: motion": 3.0, "task-b: motion": 4.0}


def test_hidden_moments_make_no_piece_of_work_out_of_several(tree):
    """Two embeddings took equally long; an anatomy and a fit were one piece of work."""
    for model in ("a", "b"):
        name = f"sub-01_{model}_embedding"
        record(tree, name, started=None, seconds=5.0, stages=None, model=model)
    record(tree, "sub-01_anat", started=None)
    record(tree, "sub-01_fit", started=None)
    found = read_history(tree.root, "01")
    assert {unit.name: unit.together for unit in found.units} == {
        "sub-01_a_embedding": 1,
        "sub-01_anat": 2,
        "sub-01_b_embedding": 1,
        "sub-01_fit": 2,
    }
    assert found.seconds == 70.0


def test_energy_is_added_up_once_for_each_piece_of_work(tree):
    """Units of one piece have its joules; an embedding comes on top."""
    record(tree, "sub-01_anat")
    page = write_subject_page(tree.root, "01").read_text()
    assert "not measured: no counter of the machine could be read" in page
    joules = {"package-0": 5000.0, "gpu-0": 400.0}
    for name in ("sub-01_anat", "sub-01_fit"):
        record(tree, name, energy=joules)
    record(tree, "sub-01_a_embedding", seconds=5.0, stages=None, model="a", energy=joules)
    page = write_subject_page(tree.root, "01").read_text()
    assert "3 Wh, all that the machine took meanwhile (gpu-0, package-0)<" in page
    record(tree, "sub-01_b_embedding", seconds=6.0, stages=None, model="b", energy=None)
    assert "; not measured for 1 of 3" in write_subject_page(tree.root, "01").read_text()


def test_hashes_of_inputs_and_outputs_are_shown_by_their_paths_in_the_datasets(tree):
    inputs = {"bids:raw:sub-01/func/sub-01_task-rest_bold.nii.gz": "cd34" * 16,
              "file:///home/jane/atlas/parcels.nii.gz": "01ab" * 16}  # fmt: skip
    outputs = {"sub-01/anat/sub-01_dseg.nii.gz": {"sha256": "ef56" * 16, "size": 3, "mtime": 1}}
    record(tree, "sub-01_anat", inputs=inputs, outputs=outputs)
    [unit] = read_history(tree.root, "01").units
    assert [(fact.label, fact.value) for fact in unit.inputs] == [
        ("bids:raw:sub-01/func/sub-01_task-rest_bold.nii.gz", "cd34" * 16),
        ("parcels.nii.gz", "01ab" * 16),
    ]
    [output] = unit.outputs
    assert (output.label, output.value) == ("sub-01/anat/sub-01_dseg.nii.gz", "ef56" * 16)
    page = write_subject_page(tree.root, "01").read_text()
    folded = page[page.index("Settings, hashes of inputs and outputs of each unit") :]
    assert "sub-01/anat/sub-01_dseg.nii.gz" in folded
    assert "ef56" * 16 in folded
    assert "jane" not in page


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/mnt/Lab Drive/jane/atlas.nii.gz", "atlas.nii.gz"),
        ("/data/x,y/jane/z.nii", "z.nii"),
        ("file:///data/jane's/z.nii", "z.nii"),
        ("a\n/home/jane/x", "a\nx"),
        ("read of /home/jane/x", "read of x"),
        ("bids:raw:sub-01/func/x_bold.nii.gz", None),
        ("sub-01/anat/sub-01_dseg.nii.gz", None),
        ("<BIDS_DIR>/sub-01/anat/x.nii", None),
    ],
)
def test_of_a_path_of_the_machine_the_name_of_the_file_is_shown(tree, said, shown):
    settings = {"atlas": said, "more": [{said: 3}]}
    record(tree, "sub-01_anat", inputs={said: "cd34" * 16}, settings=settings)
    [unit] = read_history(tree.root, "01").units
    shown = said if shown is None else shown
    assert [fact.label for fact in unit.inputs] == [shown]
    assert json.loads(unit.settings) == {"atlas": shown, "more": [{shown: 3}]}


@pytest.mark.parametrize("damage", [["a"], "a", 3, None])
def test_a_record_without_hashes_has_none(tree, damage):
    record(tree, "sub-01_anat", inputs=damage, outputs=damage)
    [unit] = read_history(tree.root, "01").units
    assert (unit.inputs, unit.outputs) == ([], [])


def example(**more):
    def pack(*rows):
        return base64.b64encode(zlib.compress(bytes([v for row in rows for v in row]))).decode()

    return {
        "Onset": 40.0,
        "HiddenShare": 0.5,
        "Error": 0.4,
        "ErrorOfMean": 0.3,
        "Unit": "variances",
        "Views": [
            {
                "Title": "axial slice",
                "Shape": [2, 3],
                "Input": pack([0, 90, 255], [10, 20, 30]),
                "Hidden": pack([0, 1, 0], [0, 0, 0]),
                "Output": pack([1, 80, 200], [10, 20, 30]),
            }
        ],
    } | more


def test_what_was_guessed_is_shown_with_its_error_and_that_of_the_mean(tree):
    name = "sub-01_task-rest"
    tree.embedding(name, "neurostormDemo")
    stem = f"{name}_space-MNI152NLin6Asym_res-2_desc-neurostormDemo_reconstruction.json"
    path = tree.root / "logs" / stem
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(example()))
    page = write_subject_page(tree.root, "01").read_text()
    for words in ("Input, axial slice", "Seen by the model, axial slice", "Guess, axial slice"):
        assert words in page
    assert "50 % of it was hidden" in page
    assert "0.4 variances; a guess of the mean of what it saw: 0.3" in page
    assert "The model guesses worse than that" in page


@pytest.mark.parametrize("damage", [{"Views": [{}]}, {"Error": "much"}, {"Views": None}])
def test_a_damaged_example_is_named(tmp_path, damage):
    path = tmp_path / "x_reconstruction.json"
    path.write_text(json.dumps(example(**damage)))
    with pytest.raises(DataError, match="no example of a reconstruction can be read"):
        read_guess(EmbeddingFiles(label="x", guess=path))


def test_a_picture_cut_short_is_named(tmp_path):
    path = tmp_path / "x_reconstruction.json"
    views = example()["Views"]
    views[0]["Output"] = views[0]["Output"][:8]
    path.write_text(json.dumps(example(Views=views)))
    with pytest.raises(DataError, match="no example of a reconstruction"):
        read_guess(EmbeddingFiles(label="x", guess=path))


@pytest.mark.parametrize("shape", [[0, 0], [0, 4], [-2, -3], [2**12, 2**11]])
def test_a_picture_of_no_size_or_of_any_size_is_named(tmp_path, shape):
    path = tmp_path / "x_reconstruction.json"
    views = example()["Views"]
    views[0]["Shape"] = shape
    path.write_text(json.dumps(example(Views=views)))
    with pytest.raises(DataError, match=r"a picture of .* pixels; expected 1 to 4194304"):
        read_guess(EmbeddingFiles(label="x", guess=path))


def test_a_picture_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path):
    path = tmp_path / "x_reconstruction.json"
    views = example()["Views"]
    views[0]["Output"] = base64.b64encode(zlib.compress(bytes(2**26), 9)).decode()
    path.write_text(json.dumps(example(Views=views)))
    tracemalloc.start()
    with pytest.raises(DataError, match="no example of a reconstruction"):
        read_guess(EmbeddingFiles(label="x", guess=path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**23
