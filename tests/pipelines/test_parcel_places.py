"""Where parcels are: the published points of an atlas, or the centroids of a label image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import ContractError, NoInputError
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.parcel_places import place_parcels, read_coordinates

TOY = ParcelContract(space="MNI152NLin6Asym", atlas="toy", coordinates=True)
LAS = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -40], [0, 0, 2, -20], [0, 0, 0, 1]])
LABELS = np.array([3, 4, 9])


@pytest.fixture
def atlas(tmp_path):
    labels = np.zeros((9, 8, 7), dtype=np.int16)
    labels[0:3, 1:3, 4] = 3
    labels[5, 6, 1] = 4
    labels[8, 2:7, 0:5:4] = 9
    nib.save(nib.Nifti1Image(labels, LAS), tmp_path / "toy.nii.gz")
    return tmp_path / "toy.nii.gz"


def test_a_centroid_is_the_mean_place_of_the_voxels_in_the_world(atlas):
    findings = Findings()
    places = place_parcels(atlas, TOY, findings)
    np.testing.assert_allclose(places, [[28, -37, -12], [20, -28, -18], [14, -32, -16]])  # mm
    assert places.dtype == np.float32
    assert findings.facts["coordinates"] == {"source": "centroids"}


def test_a_network_that_is_not_told_places_gets_none(atlas):
    findings = Findings()
    assert place_parcels(atlas, TOY.model_copy(update={"coordinates": False}), findings) is None
    assert findings.facts == {}


def test_the_published_points_of_an_atlas_are_needed(atlas):
    contract = TOY.model_copy(update={"atlas": "A424"})
    with pytest.raises(NoInputError, match="which are not the centroids") as caught:
        place_parcels(atlas, contract, Findings())
    assert "neurostorm-tools weights fetch A424" in caught.value.fix


def test_points_are_put_in_the_order_of_the_labels(tmp_path):
    path = tmp_path / "points.dat"
    path.write_bytes(b"4\t14\t-78\t4\r\n3\t44\t-64\t-4\r\n9\t18\t0\t32")
    found = read_coordinates(path, LABELS)
    np.testing.assert_array_equal(found, [[44, -64, -4], [14, -78, 4], [18, 0, 32]])


@pytest.mark.parametrize(
    "text",
    ["index x y z\n3 1 2 3\n4 1 2 3\n9 1 2 3\n", "3 1 2\n4 1 2\n9 1 2\n", "3 1 2 3\n4 1 2\n"],
    ids=["header", "three columns", "ragged"],
)
def test_a_table_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "points.dat"
    path.write_text(text)
    with pytest.raises(ContractError, match="is not a table of coordinates"):
        read_coordinates(path, LABELS)


@pytest.mark.parametrize("last", ["8 1 2 3", "9 1 nan 3", ""])
def test_points_of_other_labels_are_refused(tmp_path, last):
    path = tmp_path / "points.dat"
    path.write_text(f"3 1 2 3\n4 1 2 3\n{last}")
    with pytest.raises(ContractError, match="points are not those of the 3 labels"):
        read_coordinates(path, LABELS)
