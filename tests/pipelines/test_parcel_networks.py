"""Attention in the order of parcels, and networks that are told from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.errors import ContractError, DataError
from neurostorm_app.models.brainlm_attention import read_class_attention, read_parcel_attention
from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.models.brainlm_vit import BrainLmVit
from neurostorm_app.pipelines.parcel_networks import predict_networks, score_networks

PATCH, N_PATCHES, N_NETWORKS, EACH = 24, 3, 4, 10
SHAPE = {"hidden_size": PATCH, "num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 8}
BOTH = SHAPE | {f"decoder_{name}": size for name, size in SHAPE.items()}
NATIVE = BOTH | {"timepoint_patching_size": PATCH, "conv_kernel_size": 3, "mask_ratio": 0.2}
NATIVE |= {"num_landmarks": 64, "segment_means_seq_len": 64}
VIT = BOTH | {"patch_size": 16, "num_channels": 3, "mask_ratio": 0.75, "num_hidden_layers": 2}
LABELS = np.random.default_rng(3).permutation(np.repeat(np.arange(N_NETWORKS), EACH))


def comparing() -> BrainLmNative:
    """Build a network whose tokens are its input, and whose attention is their likeness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BrainLmNative(NativeConfig.of(NATIVE)).eval()
    inner = model.vit.embeddings
    layer = model.vit.encoder.layer[0].attention.self
    with torch.no_grad():
        inner.pos_embedding.pe.zero_()
        for part in (inner.signal_embedding_projection, layer.query, layer.key):
            part.weight.copy_(torch.eye(PATCH))
            part.bias.zero_()
        inner.xyz_embedding_projection.weight.zero_()
        inner.xyz_embedding_projection.bias.zero_()
    return model.requires_grad_(requires_grad=False)


def planted(seed: int, *, strength: float = 1.0) -> torch.Tensor:
    """Series of parcels that carry the signal of their network, and noise: (1, V, T)."""
    draws = np.random.default_rng(seed)
    shared = draws.standard_normal((N_NETWORKS, PATCH * N_PATCHES))
    series = strength * shared[LABELS]
    series = series + draws.standard_normal((len(LABELS), PATCH * N_PATCHES))
    return torch.from_numpy(series.astype(np.float32))[None]


def test_planted_networks_are_told_from_attention_and_from_series_above_chance():
    signal = planted(1)
    attention = read_parcel_attention(comparing(), signal, torch.zeros(1, len(LABELS), 3))
    kinds = {"attention": attention[0].numpy(), "series": signal[0].numpy()}
    scores = score_networks(kinds, LABELS)
    for score in scores.values():
        assert score.chance == 0.25
        assert score.accuracy > 0.75
        assert score.p == 1 / 200


def test_where_there_are_no_networks_none_are_told():
    told, p_values = [], []
    for seed in range(8):
        signal = planted(seed, strength=0)
        attention = read_parcel_attention(comparing(), signal, torch.zeros(1, len(LABELS), 3))
        kinds = {"attention": attention[0].numpy(), "series": signal[0].numpy()}
        scores = score_networks(kinds, LABELS, n_shuffles=49)
        told += [score.accuracy for score in scores.values()]
        p_values += [score.p for score in scores.values()]
    assert np.mean(told) == pytest.approx(0.25, abs=0.06)  # a standard error of 0.017
    assert 0.25 < np.mean(p_values) < 0.75


def test_attention_between_parcels_is_averaged_over_their_own_patches():
    signal, xyz = planted(2)[:, :7], torch.zeros(1, 7, 3)
    found = read_parcel_attention(comparing(), signal, xyz)[0]
    tokens = signal.reshape(7, N_PATCHES, PATCH)
    assert found.shape == (7, 7)
    given = torch.zeros(7, 7)
    every = torch.cat([comparing().vit.embeddings.cls_token[0].detach(), tokens.flatten(0, 1)])
    half = PATCH // 2
    for head in (slice(0, half), slice(half, PATCH)):
        weights = (every[:, head] @ every[:, head].T * half**-0.5).softmax(dim=-1)
        for i in range(7):
            for j in range(7):
                rows = range(1 + i * N_PATCHES, 1 + (i + 1) * N_PATCHES)
                columns = slice(1 + j * N_PATCHES, 1 + (j + 1) * N_PATCHES)
                given[i, j] += sum(weights[row, columns].sum() for row in rows) / N_PATCHES / 2
    assert torch.allclose(found, given, atol=1e-5)


def test_the_class_token_finds_the_parcel_and_the_time_it_looks_for():
    model, signal = comparing(), 0.1 * planted(3)
    signal[0, 11, PATCH : 2 * PATCH] = 5.0
    with torch.no_grad():
        model.vit.embeddings.cls_token.fill_(1.0)
    found = read_class_attention(model, signal, torch.zeros(1, len(LABELS), 3))
    assert found.parcels.shape == (1, len(LABELS), N_PATCHES)
    assert divmod(int(found.parcels.argmax()), N_PATCHES) == (11, 1)
    assert found.parcels.max() > 0.9
    assert torch.allclose(found.parcels.sum() + found.rest, torch.ones(1))


def test_the_vit_family_tells_attention_in_the_order_of_its_input():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BrainLmVit(VitConfig.of(VIT)).eval()
    draws = torch.Generator().manual_seed(1)
    signal = torch.randn(1, 424, 200, generator=draws)
    xyz = torch.rand(1, 424, 3, generator=draws) * 100
    with torch.no_grad():
        found = read_class_attention(model, signal, xyz)
        shuffle = torch.randperm(424, generator=draws)
        other = read_class_attention(model, signal[:, shuffle], xyz[:, shuffle])
        row = model.attentions(signal, xyz)[0, :, 0].mean(dim=0)[1:].reshape(27, 27)
    assert found.parcels.shape == (1, 424, 200)
    assert torch.allclose(other.parcels, found.parcels[:, shuffle], atol=1e-8)
    assert 0.4 < float(found.rest) < 0.8  # 12.5 of 27 columns, and 8 of 432 rows, are padding
    last = int(xyz[0, :, 1].argmax())  # is in the last row of tokens, from 4 rows of padding on
    assert float(found.parcels[0, last, 100]) * 256 == pytest.approx(float(row[26, 13]), rel=1e-4)
    with pytest.raises(ContractError, match="no tokens that are of one parcel each"):
        read_parcel_attention(model, signal, xyz)


def test_a_parcel_is_told_without_its_own_label_and_fold():
    features = np.random.default_rng(0).standard_normal((6, 30))
    features[1] = features[0] + 0.01 * features[1]
    labels = np.array([0, 1, 2, 2, 2, 2])
    apart = predict_networks(features, labels, folds=np.arange(6), k=1)
    assert apart[:2].tolist() == [1, 0]
    together = predict_networks(features, labels, folds=np.array([0, 0, 1, 2, 3, 4]), k=1)
    assert together[:2].tolist() == [2, 2]


def test_parcels_of_no_network_take_no_part():
    labels = LABELS.copy()
    labels[:5] = -1
    score = score_networks({"series": planted(1)[0].numpy()}, labels, n_shuffles=9)["series"]
    assert (score.predicted[:5] == -1).all()
    assert (score.predicted[5:] >= 0).all()
    assert score.accuracy == (score.predicted[5:] == labels[5:]).mean()
    assert set(score.as_dict()) == {"Accuracy", "BalancedAccuracy", "Chance", "p"}


def test_what_cannot_be_told_is_refused():
    features = planted(1)[0].numpy()
    with pytest.raises(DataError, match="each with 5 parcels or more"):
        score_networks({"series": features[:6]}, np.array([0, 0, 0, 1, 1, 1]))
    with pytest.raises(DataError, match="row of numbers for each of 40 parcels"):
        score_networks({"series": features[:6]}, LABELS)
