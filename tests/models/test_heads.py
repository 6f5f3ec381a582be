from __future__ import annotations

import pytest
import torch

from neurostorm_app.errors import WrongWeightsError
from neurostorm_app.models.heads import (
    EmbeddingHead,
    LinearHead,
    TransformerHead,
    TwoLayerHead,
    build_head,
)

HEADS = [
    LinearHead(16, 3),
    TwoLayerHead(16, 20, 3),
    TransformerHead(16, 3, n_positions=25, depth=2),
    EmbeddingHead(16, 3),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)
def test_a_head_is_known_by_its_names(head: torch.nn.Module) -> None:
    built = build_head(head.state_dict(), 16)
    assert type(built) is type(head)
    built.load_state_dict(head.state_dict())
    features = torch.rand(2, 16, 1, 2, 3, 4)
    with torch.no_grad():
        assert torch.equal(built.eval()(features), head.eval()(features))
        assert built(features).shape == (2, 3)


def test_an_unknown_head_is_refused_by_name() -> None:
    with pytest.raises(
        WrongWeightsError, match=r"names are those of no known head: .*mlp_head.0.weight"
    ):
        build_head({"mlp_head.0.weight": torch.zeros(4)}, 16)
