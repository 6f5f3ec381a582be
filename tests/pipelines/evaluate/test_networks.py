"""Networks as learners: they find what is planted, and never see what they are asked about."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.errors import ContractError
from neurostorm_app.models import create_model
from neurostorm_app.pipelines.evaluate import networks
from neurostorm_app.pipelines.evaluate.networks import NetworkLearner


@pytest.fixture(scope="module")
def planted():
    """Of 48 people, 12 parcels: how parcel 3 follows parcel 8 is told by the first target."""
    rng = np.random.default_rng(2)
    series, y = rng.normal(size=(48, 12, 90)), rng.normal(size=(48, 2))
    series[:, 3] += (0.6 + 0.4 * y[:, :1]) * series[:, 8]
    x = create_model("connectome").embed(torch.as_tensor(series))
    return x.numpy(), y * [5.0, 1.0] + [40.0, 0.0]


@pytest.mark.parametrize("name", ["bnt", "gcn"])
def test_what_is_planted_is_found_in_its_unit_and_noise_is_not(name, planted):
    x, y = planted
    fitted = NetworkLearner(name).fit(x[:36], y[:36], np.arange(36), seed=1)
    for found, truth in ((fitted.inner, y[:36]), (fitted.scores(x[36:]), y[36:])):
        assert np.corrcoef(found[:, 0], truth[:, 0])[0, 1] > 0.6
        assert abs(found[:, 0].mean() - 40) < 3
        assert np.corrcoef(found[:, 1], truth[:, 1])[0, 1] < 0.5


def test_a_seed_makes_one_network(monkeypatch, planted):
    monkeypatch.setattr(networks, "STEPS", 5)
    x, y = planted
    one, two, other = (
        NetworkLearner("gcn").fit(x, y, np.arange(48), seed=seed).scores(x) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


def test_inner_scores_come_from_networks_that_did_not_see_the_group(monkeypatch, planted):
    monkeypatch.setattr(networks, "STEPS", 5)
    x, y = planted
    groups, seen = np.arange(48) // 2, []
    train = networks._train

    def spy(name, matrices, wanted, *, seed):
        seen.append({round(float(m[3, 8]), 6) for m in matrices})
        return train(name, matrices, wanted, seed=seed)

    monkeypatch.setattr(networks, "_train", spy)
    NetworkLearner("gcn").fit(x, y, groups, seed=3)
    folded = networks.fold_matrices(torch.as_tensor(x, dtype=torch.float32))
    every = {round(float(m[3, 8]), 6): group for m, group in zip(folded, groups, strict=True)}
    for used in seen:
        inside = {every[value] for value in used}
        outside = {group for value, group in every.items() if value not in used}
        assert not inside & outside
    assert len(seen) == 3


def test_features_that_are_no_matrix_are_refused():
    with pytest.raises(ContractError, match="are not the triangle of any square matrix"):
        NetworkLearner("bnt").fit(np.zeros((9, 11)), np.zeros((9, 1)), np.arange(9), seed=0)
