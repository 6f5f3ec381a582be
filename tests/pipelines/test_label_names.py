"""Voxels of a network are named by a label image and a table: by number, by part, or not at all."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import ContractError, NoInputError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.pipelines.label_names import find_labels, list_label_names, take_voxels
from neurostorm_app.pipelines.prepare_voxels import place_voxels
from neurostorm_app.pipelines.train.material import draw_start

STEM = "tpl-MNI152NLin6Asym_res-02_atlas-Schaefer2018_desc-6Parcels7Networks_dseg"
NAMES = ["LH_Vis_1", "LH_SomMot_1", "LH_VisPeri_1", "RH_Vis_1", "RH_Vis_2", "RH_Limbic_1"]
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 12}
SMALL |= {"decoder_depth": 1, "decoder_num_heads": 2, "mask_ratio": 0.5}


@pytest.fixture
def atlas(tmp_path):
    """Six labels of 5, 10, ..., 30 voxels; TemplateFlow's table is of all resolutions."""
    values = np.zeros((7, 8, 9), dtype=np.int16)
    sizes = [5 * n for n in range(1, 7)]
    values.flat[: sum(sizes)] = np.repeat(np.arange(1, 7), sizes)
    path = tmp_path / f"{STEM}.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), path)
    rows = [f"{n}\t7Networks_{name}\t#781180" for n, name in enumerate(NAMES, start=1)]
    table = tmp_path / f"{STEM.replace('_res-02', '')}.tsv"
    table.write_text("\n".join(["index\tname\tcolor", *rows]) + "\n")
    return path


def test_labels_are_found_by_whole_parts_of_their_names(atlas):
    assert find_labels(atlas, ["Vis"]) == (1, 4, 5)  # VisPeri is another part
    assert find_labels(atlas, ["7Networks_LH_VisPeri_1", "6"]) == (3, 6)
    assert find_labels(atlas, ["5", "1", "5"]) == (1, 5)


def test_the_table_of_the_image_goes_before_that_of_all_resolutions(atlas):
    assert list_label_names(atlas)[1] == "7Networks_LH_Vis_1"
    atlas.with_name(f"{STEM}.tsv").write_text("index\tname\n1\tV1\n")
    assert list_label_names(atlas) == {1: "V1"}


def test_a_card_eats_the_voxels_of_the_labels(atlas):
    base = read_card("mind-vis")
    card = take_voxels(base, atlas, ["Vis"])
    contract = card.contract
    assert contract.labels == (1, 4, 5)
    assert contract.n_voxels == 5 + 20 + 25
    assert contract.atlas == "Schaefer20186Parcels7Networks"
    assert card.config["num_voxels"] == 64  # whole patches of 16
    assert len(place_voxels(atlas, contract)) == 50
    start = draw_start(card, name="visual", seed=1, config=SMALL)
    assert start.model.config.num_voxels == 64
    assert base.contract.labels == (49, 50, 99, 100)
    control = take_voxels(read_card("mind-vis-untrained"), atlas, ["4"])
    network = create_model(control, config={**control.config, **SMALL})
    assert network.config.num_voxels == 32


@pytest.mark.parametrize(
    ("name", "wanted", "kind", "message"),
    [
        ("mind-vis", ["V5"], ContractError, "no label has a name with the part 'V5'; there are"),
        ("mind-vis", ["7"], ContractError, "these labels are not in the image: 7"),
        ("mind-vis", [], ContractError, "these labels are not in the image: none was asked"),
        ("brainlm", ["Vis"], UsageError, "not voxels of labels: they have no meaning for it"),
    ],
)
def test_labels_that_are_not_there_are_refused(atlas, name, wanted, kind, message):
    with pytest.raises(kind, match=message):
        take_voxels(read_card(name), atlas, wanted)


def test_an_image_of_another_space_is_refused(atlas):
    other = atlas.rename(atlas.with_name(atlas.name.replace("NLin6Asym", "NLin2009cAsym")))
    with pytest.raises(UsageError, match="mind-vis takes voxels of MNI152NLin6Asym"):
        take_voxels(read_card("mind-vis"), other, ["1"])


def test_without_a_table_of_names_there_are_numbers_alone(atlas):
    atlas.with_name(f"{STEM.replace('_res-02', '')}.tsv").write_text("label,name\n1,V1\n")
    with pytest.raises(ContractError, match="is no table of labels"):
        find_labels(atlas, ["Vis"])
    atlas.with_name(f"{STEM.replace('_res-02', '')}.tsv").unlink()
    with pytest.raises(NoInputError, match="no table says which label is which"):
        find_labels(atlas, ["Vis"])
    assert find_labels(atlas, ["2"]) == (2,)
