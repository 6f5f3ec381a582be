from __future__ import annotations

import subprocess
import sys

import pytest

from neurostorm_app.errors import UsageError
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.weights import EMBEDDED, hash_file


@pytest.mark.parametrize("name", list_models())
def test_every_card_is_valid_and_named_like_its_file(name: str) -> None:
    card = read_card(name)
    assert card.name == name
    assert card.architecture in {"neurostorm", "neurostorm-mae", "connectome"}
    assert card.limits
    assert (card.file is None) == (card.architecture == "connectome")


def test_no_two_models_share_a_label() -> None:
    labels = [read_card(name).label.lower() for name in list_models()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", list_models())
def test_a_networks_contract_is_what_its_configuration_takes(name: str) -> None:
    card = read_card(name)
    if card.contract.kind == "volume":
        size = [*card.contract.grid.shape, card.contract.window]
        assert card.config["img_size"] == size
        widest = card.config["embed_dim"] * 2 ** (len(card.config["depths"]) - 1)
        assert card.dimension == widest


@pytest.mark.parametrize("name", [n for n in list_models() if read_card(n).embedded])
def test_embedded_weights_are_those_of_their_card(name: str) -> None:
    card = read_card(name)
    path = EMBEDDED / str(card.file)
    assert path.stat().st_size == card.size
    assert path.stat().st_size < 3_000_000  # bytes
    assert hash_file(path) == card.sha256


def test_every_embedded_file_has_a_card() -> None:
    files = {path.name for path in EMBEDDED.iterdir() if not path.name.startswith(".")}
    assert files == {read_card(n).file for n in list_models() if read_card(n).embedded}


@pytest.mark.parametrize(
    ("asked", "suggestion"),
    [("neurostrom", "did you mean neurostorm"), ("conectome", "did you mean connectome")],
)
def test_an_unknown_name_gets_a_suggestion(asked: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match=f"there is no model .*{asked}") as caught:
        read_card(asked)
    assert suggestion in caught.value.fix


def test_a_hopeless_name_gets_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        read_card("../cards/connectome")
    assert "Models: connectome, " in caught.value.fix


def test_reading_cards_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from neurostorm_app.models import list_models, read_card; "
        "[read_card(name) for name in list_models()]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
