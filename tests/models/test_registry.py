from __future__ import annotations

import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from neurostorm_app.errors import UsageError
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.card import Source
from neurostorm_app.models.weights import EMBEDDED, hash_file


@pytest.mark.parametrize("name", list_models())
def test_every_card_is_valid_and_named_like_its_file(name: str) -> None:
    card = read_card(name)
    assert card.name == name
    assert card.architecture in {"neurostorm", "neurostorm-mae", "connectome", "brainlm"}
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
    elif card.architecture == "brainlm":
        assert card.config["hidden_size"] == card.dimension
        parcels = card.config.get("num_brain_voxels", card.contract.n_parcels)
        assert parcels == card.contract.n_parcels
        # A shortened window is a whole number of patches; the image family cannot shorten one.
        if card.contract.shortest is not None:
            assert card.contract.multiple == card.config["timepoint_patching_size"]


@pytest.mark.parametrize("name", [n for n in list_models() if read_card(n).source])
def test_a_source_is_pinned_or_said_to_be_unknown(name: str) -> None:
    card = read_card(name)
    assert card.source is not None
    assert card.source.file.endswith(f"/{card.file}")
    if card.source.revision is None:
        assert any("No revision is known" in limit for limit in card.limits)
    else:
        assert len(card.source.revision) in {12, 40}
    if card.sha256 is None:
        assert any(re.search("(?i)hash.*not (known|verified)", limit) for limit in card.limits)


@pytest.mark.parametrize("name", [n for n in list_models() if read_card(n).output])
def test_a_head_says_what_its_values_mean_and_how_that_is_known(name: str) -> None:
    output = read_card(name).output
    assert output is not None
    assert output.origin
    assert len(output.classes) == (2 if output.kind == "binary" else 0)
    assert (output.unit is None) == (output.kind != "value")


def test_years_of_age_are_those_of_the_published_scaler() -> None:
    output = read_card("neurostorm-hcpya-age").output
    assert output is not None
    assert (output.mean, output.sd, output.unit) == (28.759259, 3.681461, "years")


@pytest.mark.parametrize("name", [n for n in list_models() if read_card(n).expected_error])
def test_an_expected_error_is_a_range_with_an_origin(name: str) -> None:
    expected = read_card(name).expected_error
    assert expected is not None
    assert 0 < expected.low < expected.high
    assert expected.origin


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", ".hidden", "a//b", ""])
def test_a_path_of_a_card_never_leaves_its_repository(path: str) -> None:
    with pytest.raises(ValidationError):
        Source(repository="lab/model", revision="0" * 40, file=path)


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
    assert f"Known are {', '.join(list_models())}" in caught.value.fix


def test_reading_cards_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from neurostorm_app.models import list_models, read_card; "
        "[read_card(name) for name in list_models()]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
