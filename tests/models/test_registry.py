from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from neurostorm_app.errors import MissingWeightsError, UsageError, WrongWeightsError
from neurostorm_app.models import create_model, list_models, read_card
from neurostorm_app.models.card import Source
from neurostorm_app.models.families import ARCHITECTURES
from neurostorm_app.models.untrained import SEED, draw, hash_values, untrained
from neurostorm_app.models.weights import EMBEDDED, hash_file
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.inputs import find_inputs


@pytest.mark.parametrize("name", list_models())
def test_every_card_is_valid_and_named_like_its_file(name: str) -> None:
    card = read_card(name)
    assert card.name == name
    assert card.architecture in {*ARCHITECTURES, "connectome"}
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
        stages = card.config.get("depths", card.config.get("stages"))
        widest = card.config["embed_dim"] * 2 ** (len(stages) - 1)
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
    assert card.source.file.rpartition("/")[2] == card.file
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
    subprocess.run([sys.executable, "-c", script], check=True)


NETWORKS = [name for name in list_models() if read_card(name).file is not None]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_control_that_says_what_it_is(name: str) -> None:
    card, control = read_card(name), read_card(f"{name}-untrained")
    assert (control.name, control.label) == (f"{name}-untrained", f"{card.label}Untrained")
    assert control.control
    assert not card.control
    assert "random weights" in control.title
    assert "random weights" in control.summary
    assert str(SEED) in control.version
    assert "CONTROL, RANDOM WEIGHTS" in control.limits[0]
    assert (control.file, control.sha256, control.source, control.size) == (None,) * 4
    assert not control.embedded
    assert (control.output, control.expected_error) == (None, None)
    assert control.contract == card.contract
    assert control.config == card.config


def test_controls_are_listed_only_where_they_are_asked_for() -> None:
    assert not [name for name in list_models() if "untrained" in name]
    both = list_models(controls=True)
    assert set(both) == {*list_models(), *(f"{name}-untrained" for name in NETWORKS)}
    labels = [read_card(name).label.lower() for name in both]
    assert len(set(labels)) == len(labels)


def test_a_control_has_the_network_of_its_model_and_never_its_weights() -> None:
    for name in ("neurostorm-demo", "brainlm-demo"):
        model, control = create_model(name), create_model(f"{name}-untrained")
        assert type(control) is type(model)
        ours, theirs = control.state_dict(), model.state_dict()
        same = [n for n in theirs if n in ours and torch.equal(ours[n], theirs[n])]
        # Tables of positions are computed, and what training left at its first value.
        assert len(same) < 0.2 * len(theirs)
        assert not control.training


def test_a_control_is_drawn_alike_each_time_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = create_model("neurostorm-demo-untrained")
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert hash_values(create_model("neurostorm-demo-untrained")) == hash_values(one)
    assert hash_values(create_model("neurostorm-demo")) != hash_values(one)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("neurostorm-demo", [(1, 1, 48, 48, 48, 2)]),
        ("brainlm-demo", [(2, 100, 60), (2, 100, 3)]),
    ],
)
def test_a_control_embeds_what_its_model_embeds(name: str, inputs: list[tuple[int, ...]]) -> None:
    arrays = [torch.rand(shape, generator=torch.Generator().manual_seed(1)) for shape in inputs]
    with torch.no_grad():
        vectors = create_model(f"{name}-untrained").embed(*arrays)
    assert vectors.shape == (len(arrays[0]), read_card(name).dimension)
    assert torch.isfinite(vectors).all()
    assert vectors.std() > 1e-3


def test_both_families_of_brainlm_can_be_drawn_from_a_configuration() -> None:
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "mask_ratio": 0.5,
    }
    vit = {**small, "patch_size": 16, "num_channels": 3}
    card = read_card("brainlm-111m-untrained")
    assert type(create_model(card.name, config=vit)).__name__ == "BrainLmVit"
    assert type(draw(card)) is type(create_model(card.name, config=vit))
    assert hash_values(draw(card, vit)) == hash_values(draw(card, vit))
    with pytest.raises(WrongWeightsError, match="the configuration is of no network of the arch"):
        draw(card, small)


def test_random_weights_are_under_no_other_name() -> None:
    with pytest.raises(MissingWeightsError):
        create_model("neurostorm")
    with pytest.raises(UsageError, match="has random weights, which its name says"):
        create_model("neurostorm-demo-untrained", weights=EMBEDDED / "neurostorm-demo.safetensors")
    with pytest.raises(UsageError, match="there is no untrained control of connectome"):
        read_card("connectome-untrained")
    with pytest.raises(UsageError, match="it is a control itself"):
        untrained(read_card("neurostorm-untrained"))
    with pytest.raises(UsageError, match="there is no model 'neurostrom'"):
        read_card("neurostrom-untrained")


def test_a_control_without_a_configuration_is_an_error() -> None:
    card = read_card("neurostorm-untrained").model_copy(update={"config": {}})
    with pytest.raises(UsageError, match="the configuration of neurostorm-untrained is not known"):
        create_model(card)


def test_an_embedder_takes_a_control_that_has_no_weights() -> None:
    assert find_inputs(read_card("brainlm-demo-untrained")).weights is None
    embedder = load_embedder("brainlm-demo-untrained")
    assert embedder.hashes["weights_sha256"] is None
    assert embedder.hashes["random_weights_sha256"] == hash_values(embedder.model)
    assert "random_weights_sha256" not in load_embedder("brainlm-demo").hashes


@pytest.fixture
def brought(tmp_path):
    """Write a card of a user, with the demo's weights beside it; give its folder."""

    def write(text: str | None = None, **changes: object):
        shutil.copy(EMBEDDED / "brainlm-demo.safetensors", tmp_path / "mine.safetensors")
        card = read_card("brainlm-demo").model_dump(mode="json", exclude_none=True)
        card |= {"name": "mine", "label": "mineTuned", "file": "mine.safetensors"}
        card |= {"embedded": False, "title": "Tuned by us"} | changes
        card = {name: value for name, value in card.items() if value is not None}
        (tmp_path / "card.yaml").write_text(text or yaml.safe_dump(card))
        return tmp_path

    return write


def test_a_card_with_its_weights_is_a_model_like_any_other(brought) -> None:
    folder = brought()
    for path in (folder, folder / "card.yaml"):
        card = read_card(str(path))
        assert (card.name, card.label) == ("mine", "mineTuned")
        assert find_inputs(card).weights == folder / "mine.safetensors"
        model = create_model(str(path))
        assert hash_values(model) == hash_values(create_model("brainlm-demo"))
    assert load_embedder(card).hashes["weights_sha256"] == card.sha256
    assert str(folder) not in json.dumps(card.model_dump(mode="json"))


def test_a_card_of_a_user_has_a_control_too(brought) -> None:
    card = read_card(str(brought()) + "-untrained")
    assert (card.name, card.label) == ("mine-untrained", "mineTunedUntrained")
    values = create_model(card).state_dict()
    expected = create_model("brainlm-demo-untrained").state_dict()
    assert all(np.array_equal(values[name], expected[name]) for name in expected)


def test_weights_that_are_not_those_of_the_card_are_refused(brought) -> None:
    folder = brought(sha256="0" * 64)
    with pytest.raises(WrongWeightsError, match=r"its SHA-256 is .*; the card says 000"):
        create_model(str(folder))
    (folder / "mine.safetensors").unlink()
    with pytest.raises(MissingWeightsError):
        create_model(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": None}, "lacks the SHA-256 of its weights"),
        ({"file": "../mine.safetensors"}, "names the file '../mine.safetensors'"),
        ({"file": "/etc/passwd"}, "names the file '/etc/passwd'; expected the name of one beside"),
        ({"file": None}, "names the file None"),
        ({"architecture": "os.system"}, "names the architecture 'os.system'; known are neuro"),
        ({"architecture": "connectome"}, "names the architecture 'connectome'"),
        ({"control": True}, "is of weights in its folder: no control"),
        ({"embedded": True}, "is of weights in its folder: no control, not embedded"),
        ({"config": {}}, "lacks the configuration of its network"),
        ({"surprise": 1}, "is not the card of a model: surprise: Extra inputs"),
        ({"label": "a_b/c"}, "is not the card of a model: label"),
        ({"licence": None}, "is not the card of a model: licence: Field required"),
        ({"label": "a" * 101}, "has a label of 101 letters; expected at most 100"),
    ],
)
def test_a_card_that_cannot_be_trusted_is_refused(brought, changes, message) -> None:
    with pytest.raises(WrongWeightsError, match=re.escape(message)):
        read_card(str(brought(**changes)))


@pytest.mark.parametrize("size", [[48, 48, 48, 40], [10**9] * 4, None])
def test_a_contract_of_a_user_is_what_the_network_takes(brought, size) -> None:
    demo = read_card("neurostorm-demo").model_dump(mode="json")
    changes = {name: demo[name] for name in ("architecture", "contract", "layout", "config")}
    assert read_card(str(brought(**changes))).name == "mine"
    changes["config"] = {**demo["config"], "img_size": size}
    with pytest.raises(
        WrongWeightsError, match=re.escape("makes windows of [48, 48, 48, 20], and")
    ):
        read_card(str(brought(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "neurostorm"}, "the name 'neurostorm' is that of neurostorm, a model of the"),
        ({"name": "Connectome"}, "the name 'Connectome' is that of connectome"),
        ({"label": "brainlmdemo"}, "the label 'brainlmdemo' is that of brainlm-demo"),
        ({"name": "mine-untrained"}, "the name 'mine-untrained' cannot be that of a model"),
        ({"name": "../mine"}, "the name '../mine' cannot be that of a model"),
        ({"label": "mineUntrained"}, "ends like that of a control or of windows"),
        ({"label": "mineWindows"}, "ends like that of a control or of windows"),
    ],
)
def test_a_card_passes_for_no_other_model(brought, changes, message) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        read_card(str(brought(**changes)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['true']", "cannot be read as a card"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\n", "refers to 'a', another part of itself"),
        ("[" * 30 + "]" * 30, "is nested deeper than 20 levels"),
        ("a: [1, 2", "cannot be read as a card"),
        ("size: .nan", "cannot be read as a card: Out of range float values"),
        ("size: 2020-01-01", "cannot be read as a card: Object of type date"),
        ("- just\n- a list", "is not the card of a model"),
        ("x" * 300_000, "has 300000 bytes; a card has at most 262144"),
    ],
)
def test_a_hostile_card_is_refused_before_it_is_read(brought, text, message) -> None:
    with pytest.raises(WrongWeightsError, match=re.escape(message)):
        read_card(str(brought(text)))


def test_a_path_without_a_card_is_said(tmp_path) -> None:
    with pytest.raises(MissingWeightsError, match="there is no such card of a model"):
        read_card(str(tmp_path))
    with pytest.raises(MissingWeightsError, match="there is no such card of a model"):
        read_card(str(tmp_path / "card.yaml"))


def test_a_folder_with_the_name_of_a_model_does_not_stand_before_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "neurostorm").mkdir()
    (tmp_path / "neurostorm-untrained").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_card("neurostorm").label == "neurostorm"
    assert read_card("neurostorm-untrained").control
