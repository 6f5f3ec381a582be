"""A scan before a text: who sees whom, and where each stands, as in fMRI-LM's public code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from neurostorm_app.errors import ContractError
from neurostorm_app.models.fmri_lm_splice import Splice, as_additive

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "fmri_lm"
TAGS = {"gpt2": (0, 0), "gpt2_delim": (6, 7), "qwen_lora": (6, 7)}


@pytest.fixture(scope="module")
def folder() -> Path:
    if not FOLDER.is_dir():
        pytest.skip("the numbers of the public code are not beside the project")
    return FOLDER


def test_masks_are_those_of_the_public_code(folder) -> None:
    arrays = np.load(folder / "data_and_descriptors.npz")
    splice = Splice(n_steps=2, n_parcels=3)
    assert (splice.steps_mask().numpy() == arrays["next_time_mask_T2_N3"]).all()
    text = torch.from_numpy(arrays["combine_mask_in_text"])
    assert (splice.mask(text).numpy() == arrays["combine_mask_out"]).all()


@pytest.mark.parametrize("name", TAGS)
def test_sequences_are_those_of_the_public_code(folder, name: str) -> None:
    tensors = load_file(folder / f"llm_splice_{name}.safetensors")
    before, after = TAGS[name]
    splice = Splice(n_steps=2, n_parcels=6, before=before, after=after)
    assert torch.equal(splice.steps_mask(), tensors["fmri_mask"][0].bool())
    text = tensors["f2t.text_mask"]
    assert torch.equal(splice.mask(text)[:, None], tensors["f2t.mask_used"].bool())
    places = splice.positions(text.shape[1])
    assert torch.equal(places.expand(2, -1), tensors["f2t.pos_ids"])


def test_a_scan_never_sees_text_and_text_never_sees_what_comes() -> None:
    splice = Splice(n_steps=3, n_parcels=4, before=2, after=1)
    seen = splice.mask(torch.tensor([[1, 1, 1, 0]]))[0]
    assert splice.n_prefix == 15
    assert not seen[:15, 15:].any()
    assert seen[15:18, :15].all()
    assert seen[15:18, 15:18].tolist() == torch.ones(3, 3).tril().bool().tolist()
    assert not seen[18].any()
    assert not seen[:, 18].any()
    assert seen[2, :6].all()  # the first token of a step sees the last one
    assert not seen[2, 6:].any()


def test_what_is_not_seen_gets_no_attention() -> None:
    seen = Splice(n_steps=2, n_parcels=2).mask(torch.ones(1, 3))
    weights = as_additive(seen).softmax(dim=-1)
    assert weights.shape == (1, 1, 7, 7)
    assert (weights[:, 0][~seen] == 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 1, 7))


def test_many_tokens_of_a_scan_take_few_places() -> None:
    places = Splice(n_steps=5, n_parcels=450).positions(100)
    assert len(places) == 2350
    assert int(places.max()) == 104


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"n_parcels": 0}, {"before": -1}])
def test_a_sequence_without_a_scan_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="expected 1 or more, and tags of 0 or more"):
        Splice(**({"n_steps": 2, "n_parcels": 3} | wrong))


def test_a_mask_of_one_text_alone_is_refused() -> None:
    with pytest.raises(ContractError, match="the mask of a text has the shape"):
        Splice(n_steps=1, n_parcels=1).mask(torch.ones(4))
