from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.errors import DataError, ExitCode, NoInputError, UsageError
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.atlases import (
    find_atlas,
    find_coordinates,
    list_atlases,
    read_atlas_card,
)
from neurostorm_app.models.lockfile import hash_file


@pytest.fixture
def a424(shared: Path) -> Path:
    """Folder of the real files of A424."""
    folder = shared / "golden" / "brainlm" / "atlas"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the real files of the atlas cannot be tried")
    return folder


@pytest.mark.parametrize("name", list_atlases())
def test_every_card_is_valid_and_named_like_its_file(name: str) -> None:
    card = read_atlas_card(name)
    assert card.name == name
    assert card.limits
    assert card.references
    assert Path(card.source.file).name == card.labels.file
    also = [Path(file).name for file in card.source.also]
    assert also == ([card.coordinates.file] if card.coordinates else [])
    assert len(str(card.source.revision)) == 40


def test_an_atlas_fits_the_models_that_name_it() -> None:
    cards = [card for card in map(read_card, list_models()) if card.contract.kind == "parcels"]
    assert "A424" in {card.contract.atlas for card in cards}
    for card in cards:
        if card.contract.atlas in list_atlases():
            atlas = read_atlas_card(card.contract.atlas)
            assert (atlas.n_parcels, atlas.space) == (card.contract.n_parcels, card.contract.space)
            assert atlas.coordinates is not None


def test_an_unknown_atlas_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="there is no atlas 'A242'") as caught:
        read_atlas_card("A242")
    assert "did you mean A424" in caught.value.fix


def test_a_missing_atlas_tells_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="the atlas A424 is not on this machine") as caught:
        find_atlas(read_atlas_card("A424"), weights_dir=tmp_path)
    assert str(tmp_path / "A424/A424+2mm.nii.gz") in caught.value.what
    assert "neurostorm-tools weights fetch A424 --weights-dir DIR" in caught.value.fix
    assert "GPL-3.0" in caught.value.fix
    assert caught.value.exit_code == ExitCode.NO_INPUT
    with pytest.raises(NoInputError, match="neither a file nor a folder was given"):
        find_atlas(read_atlas_card("A424"))


def test_another_file_of_the_same_name_is_refused_unless_the_user_names_it(
    tmp_path: Path,
) -> None:
    card = read_atlas_card("A424")
    sham = tmp_path / card.labels.file
    sham.write_bytes(b"other labels")
    with pytest.raises(DataError, match=r"is not the file of the atlas: its SHA-256 is \w+"):
        find_atlas(card, weights_dir=tmp_path)
    assert find_atlas(card, given=sham) == sham
    with pytest.raises(NoInputError, match="there is no such atlas"):
        find_atlas(card, given=tmp_path / "none.nii.gz")


def test_coordinates_lie_beside_the_label_image_or_are_not_there(tmp_path: Path) -> None:
    card = read_atlas_card("A424")
    image = tmp_path / card.labels.file
    assert find_coordinates(image, card) is None
    assert card.coordinates is not None
    (tmp_path / card.coordinates.file).write_text("1\t2\t3\t4")
    with pytest.raises(DataError, match="is not the file of the atlas"):
        find_coordinates(image, card)
    assert find_coordinates(image, card.model_copy(update={"coordinates": None})) is None


@pytest.mark.parametrize("place", ["A424", "."])
def test_the_real_files_are_found_by_name_and_by_environment(
    a424: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = read_atlas_card("A424")
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    for file in a424.glob("A424*"):
        shutil.copy(file, folder)
    image = find_atlas(card, weights_dir=tmp_path)
    assert hash_file(image) == card.labels.sha256
    assert image.stat().st_size == card.labels.size
    table = find_coordinates(image, card)
    assert table is not None
    assert np.loadtxt(table).shape == (424, 4)
    monkeypatch.setenv("NEUROSTORM_WEIGHTS", str(tmp_path))
    assert find_atlas(card, weights_dir=tmp_path / "none") == image
