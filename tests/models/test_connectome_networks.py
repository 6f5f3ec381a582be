"""Networks of connectomes: shapes, symmetries and what they can learn."""

from __future__ import annotations

import pytest
import torch

from neurostorm_app.errors import ContractError
from neurostorm_app.models import create_model
from neurostorm_app.models.bnt import BrainNetworkTransformer
from neurostorm_app.models.gcn import ConnectomeGcn
from neurostorm_app.models.matrices import fold_matrices

KINDS = {"bnt": BrainNetworkTransformer, "gcn": ConnectomeGcn}


@pytest.fixture
def vectors():
    series = torch.randn(6, 13, 40, generator=torch.Generator().manual_seed(3))
    series = series + 0.7 * series[:, :1]
    return create_model("connectome").embed(series), series


def build(kind, n_outputs=3):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return KINDS[kind](13, n_outputs).eval()


def test_a_folded_embedding_is_the_matrix_of_correlations(vectors):
    z, series = vectors
    r = torch.stack([torch.corrcoef(one) for one in series])
    torch.testing.assert_close(fold_matrices(z), r, atol=2e-6, rtol=0)


def test_a_vector_that_is_no_triangle_is_refused():
    with pytest.raises(ContractError, match="are not the triangle of any square matrix"):
        fold_matrices(torch.zeros(2, 11))


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_parcels_is_refused(kind):
    with pytest.raises(ContractError, match="the network got matrices of shape"):
        build(kind).predict(torch.zeros(2, 12, 12))


@pytest.mark.parametrize("kind", KINDS)
def test_people_do_not_hear_of_each_other(kind, vectors):
    matrices, network = fold_matrices(vectors[0]), build(kind)
    together = network.predict(matrices)
    alone = torch.cat([network.predict(one[None]) for one in matrices])
    assert together.shape == (6, 3)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_centres_of_clusters_are_orthonormal_at_first():
    centres = build("bnt").readout.centres
    torch.testing.assert_close(centres @ centres.T, torch.eye(len(centres)), atol=1e-5, rtol=0)


def test_the_clusters_do_not_care_for_the_order_of_nodes(vectors):
    readout = build("bnt").readout
    nodes = torch.randn(2, 13, 64, generator=torch.Generator().manual_seed(1))
    turned = nodes[:, torch.randperm(13, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(readout(nodes), readout(turned), atol=1e-5, rtol=0)


def test_edges_are_the_strongest_connections_of_both_signs(vectors):
    network = build("gcn")
    matrices = fold_matrices(vectors[0])
    edges = network.edges(matrices)
    assert torch.equal(edges, edges.mT)
    assert edges.diagonal(dim1=1, dim2=2).sum() == 0
    assert edges.mean() == pytest.approx(0.2, abs=0.02)
    off = matrices.abs() * (1 - torch.eye(13))
    for strength, kept in zip(off, edges.bool(), strict=True):
        assert strength[kept].min() >= strength[~kept].max()
    torch.testing.assert_close(network.edges(1 - matrices - 1 + 2 * torch.eye(13)), edges)


def test_messages_are_those_of_pairs_that_are_laid_out():
    """The dense product is the mean over neighbours of one linear map of both ends."""
    layer = build("gcn").layers[1]
    generator = torch.Generator().manual_seed(4)
    nodes = torch.randn(1, 5, 64, generator=generator)
    edges = torch.tensor(
        [[[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 1, 0]] + [[0] * 5] * 2]
    ).float()
    joint = torch.cat([layer.own.weight, layer.other.weight], dim=1)
    wanted = torch.zeros(5, 64)
    for i in range(5):
        heard = [
            joint @ torch.cat([nodes[0, i], nodes[0, j]]) + layer.own.bias
            for j in range(5)
            if edges[0, i, j]
        ]
        if heard:
            wanted[i] = torch.stack(heard).mean(dim=0)
    torch.testing.assert_close(
        layer(nodes, edges)[0], torch.relu(layer.norm(wanted)), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_between_matrices_is_learned(kind):
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(40, 13, 60, generator=generator)
    label = torch.arange(40) % 2
    series[label == 1, 4] += series[label == 1, 9]
    matrices = fold_matrices(create_model("connectome").embed(series))
    network = build(kind, n_outputs=1).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            loss = (network.predict(matrices[:30])[:, 0] - label[:30].float()).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    guess = network.eval().predict(matrices[30:])[:, 0] > 0.5
    assert (guess.long() == label[30:]).float().mean() >= 0.8
