"""The files of a model: found where they are, refused where they have no meaning."""

from __future__ import annotations

import pytest

from neurostorm_app.errors import MissingWeightsError, NoInputError, UsageError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.inputs import find_inputs

CONNECTOME, VOLUMES, BRAINLM = map(read_card, ("connectome", "neurostorm", "brainlm"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make files of the names that are looked for; nothing else is on this machine."""
    monkeypatch.delenv("NEUROSTORM_WEIGHTS", raising=False)
    (tmp_path / "brainlm").mkdir()
    for name in (VOLUMES.file, "brainlm/pytorch_model.bin", "labels.nii.gz", "cohort.json"):
        (tmp_path / name).write_bytes(b"some bytes")
    return tmp_path


def test_a_model_without_files_has_the_parcellation_of_the_package():
    files = find_inputs(CONNECTOME)
    assert "GreyParcels100" in files.atlas.name
    assert (files.weights, files.config, files.coordinates, files.statistics) == (None,) * 4


def test_weights_are_found_in_a_folder(here):
    assert find_inputs(VOLUMES, weights_dir=here).weights == here / VOLUMES.file
    assert find_inputs(VOLUMES, weights_dir=here).atlas is None


def test_weights_are_found_in_the_folder_of_the_environment(here, monkeypatch):
    monkeypatch.setenv("NEUROSTORM_WEIGHTS", str(here))
    assert find_inputs(VOLUMES).weights == here / VOLUMES.file


def test_a_configuration_beside_the_weights_counts(here):
    atlas, config = here / "labels.nii.gz", here / "brainlm" / "config.json"
    assert find_inputs(BRAINLM, weights_dir=here, atlas=atlas).config is None
    config.write_text("{}")
    assert find_inputs(BRAINLM, weights_dir=here, atlas=atlas).config == config


def test_weights_that_are_not_there_are_named(here):
    with pytest.raises(MissingWeightsError, match="are not on this machine"):
        find_inputs(read_card("neurostorm-mae-ratio0.5"), weights_dir=here)


def test_a_parcellation_that_is_not_there_says_how_to_get_it(here):
    with pytest.raises(NoInputError, match="the atlas A424 is not on this machine") as caught:
        find_inputs(BRAINLM, weights_dir=here)
    assert "neurostorm-tools weights fetch A424" in caught.value.fix


def test_what_was_given_goes_before_what_lies_in_a_folder(here):
    labels, cohort = here / "labels.nii.gz", here / "cohort.json"
    files = find_inputs(BRAINLM, weights_dir=here, atlas=labels, statistics=cohort)
    assert (files.atlas, files.statistics) == (labels, cohort)


@pytest.mark.parametrize(
    ("card", "given", "message"),
    [
        (CONNECTOME, "weights", "has no weights; the file"),
        (VOLUMES, "atlas", "takes volumes; the parcellation .* has no meaning"),
        (VOLUMES, "statistics", "does not scale parcels; the statistics"),
        (CONNECTOME, "statistics", "does not scale parcels; the statistics"),
    ],
)
def test_a_file_without_a_meaning_is_refused(here, card, given, message):
    with pytest.raises(UsageError, match=message):
        find_inputs(card, weights_dir=here, **{given: here / "labels.nii.gz"})
