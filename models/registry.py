"""Names of models: what there is, what is known of each, and the network itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import UsageError, WrongWeightsError
from neurostorm_app.models.card import Card, read_named
from neurostorm_app.models.families import check_family
from neurostorm_app.models.given_card import find_card, read_given
from neurostorm_app.models.untrained import SUFFIX, draw, untrained

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from neurostorm_app.models.weights import Checkpoint

    Build = Callable[[Mapping[str, Any], Checkpoint], nn.Module]
    Differing = Callable[[Checkpoint, Mapping[str, Any]], str]

__all__ = ["create_model", "list_models", "read_card"]

CARDS = Path(__file__).parent / "cards"


def list_models(*, controls: bool = False) -> list[str]:
    """List the names of all models.

    Parameters
    ----------
    controls : bool
        Also their untrained controls, which are no models.

    Returns
    -------
    list of str
        Sorted.

    Examples
    --------
    >>> "connectome" in list_models()
    True
    >>> "brainlm-demo-untrained" in list_models(controls=True)
    True
    """
    names = [path.stem for path in CARDS.glob("*.yaml")]
    if controls:
        names += [name + SUFFIX for name in names if _shipped(name).file is not None]
    return sorted(names)


def read_card(name: str) -> Card:
    """Read what is known of a model.

    Parameters
    ----------
    name : str
        One of `list_models`; such a name with ``-untrained`` behind it, for the same network with
        random weights; or the path of a card, or of the folder of a ``card.yaml``, with the
        weights beside it.

    Returns
    -------
    Card
        Its source, licence, hash and contract.

    Raises
    ------
    UsageError
        If there is no model of this name, or a card at a path has the name or label of another.
    MissingWeightsError
        If there is no card at a path.
    WrongWeightsError
        If it is not the card of a model.

    Examples
    --------
    >>> read_card("neurostorm").contract.window
    20
    >>> read_card("neurostorm-untrained").control
    True
    """
    known = list_models()
    # A folder that happens to have the name of a model does not stand before it.
    path = None if name.removesuffix(SUFFIX) in known else find_card(name)
    if path is not None:
        return read_given(path, map(_shipped, known))
    if name.endswith(SUFFIX):
        return untrained(read_card(name.removesuffix(SUFFIX)))
    return _shipped(name)


def _shipped(name: str) -> Card:
    return read_named(Card, name, CARDS, what="model")


def create_model(
    name: str | Card,
    *,
    config: Mapping[str, Any] | None = None,
    weights: Path | str | Mapping[str, Tensor] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Build a network with its weights, ready to embed.

    Parameters
    ----------
    name : str or Card
        What `read_card` takes or gives.
    config : mapping, optional
        Hyper-parameters under upstream's own names. By default those stored with the weights;
        if there are none, the card's.
    weights : path or mapping of str to Tensor, optional
        A file, or tensors under upstream's names. Not needed for models whose weights ship
        with the package or lie beside their card, nor for those without weights.
    device : str
        Where the network goes, such as ``cpu`` or ``cuda:0``.

    Returns
    -------
    Module
        In evaluation mode, with ``embed(batch)`` of shape (B, D). It has random weights only
        where its name ends in ``-untrained``.

    Raises
    ------
    UsageError
        If there is no model of this name, or weights are given for random ones.
    MissingWeightsError
        If the weights are needed and not given, or not there.
    WrongWeightsError
        If they are damaged, hold code, or are not of this model.

    Examples
    --------
    >>> import torch
    >>> model = create_model("connectome")
    >>> model.embed(torch.rand(2, 5, 30)).shape
    torch.Size([2, 10])
    """
    card = read_card(name) if isinstance(name, str) else name
    module = _build(card, config, weights)
    return module.to(device).eval()


def _build(
    card: Card, config: Mapping[str, Any] | None, weights: Path | str | Mapping[str, Tensor] | None
) -> nn.Module:
    if card.architecture == "connectome":
        from neurostorm_app.models import connectome

        return connectome.build()
    if card.control:
        if weights is not None:
            raise UsageError(
                f"{card.name} has random weights, which its name says; no others can be given",
                fix=f"give them to {card.name.removesuffix(SUFFIX)}",
            )
        return draw(card, config)
    import torch

    from neurostorm_app.models import (
        autoencoder,
        brainlm,
        fmri_lm,
        fmri_lm_tokens,
        mind_vis,
        neurostorm,
        slim_brain,
        slim_brain_mae,
    )

    architectures: dict[str, tuple[Build, Differing]] = {
        "neurostorm": (neurostorm.build, _differing_storm),
        "neurostorm-mae": (autoencoder.build, _differing_storm),
        "brainlm": (brainlm.build, brainlm.differing),
        "slim-brain": (slim_brain.build, slim_brain.differing),
        "slim-brain-mae": (slim_brain_mae.build, slim_brain.differing),
        "fmri-lm": (fmri_lm.build, fmri_lm.differing),
        "fmri-lm-language": (fmri_lm_tokens.build, fmri_lm_tokens.differing),
        "mind-vis": (mind_vis.build, mind_vis.differing),
    }
    build, differing = architectures[card.architecture]
    checkpoint = _read(card, weights)
    check_family(checkpoint.state, card.architecture, source=checkpoint.source)
    settings = config or checkpoint.config or card.config
    if checkpoint.config is not None and (found := differing(checkpoint, settings)):
        raise WrongWeightsError(
            f"{checkpoint.source}: the given configuration differs from the one stored with the "
            f"weights in {found}",
            fix="leave out the configuration: the file brings its own",
        )
    with torch.random.fork_rng(devices=[]):  # first values are drawn, and all are replaced
        return build(settings, checkpoint)


def _read(card: Card, weights: Path | str | Mapping[str, Tensor] | None) -> Checkpoint:
    from neurostorm_app.models.weights import Checkpoint, find_weights, read_checkpoint

    if weights is None or isinstance(weights, (str, Path)):
        path = find_weights(card, given=Path(weights) if weights else card.beside)
        return read_checkpoint(path, sha256=card.sha256)
    return Checkpoint(source="the given tensors", state=weights)


def _differing_storm(checkpoint: Checkpoint, given: Mapping[str, Any]) -> str:
    from neurostorm_app.models.neurostorm_files import Config

    return Config.of(checkpoint.config or given).differing(Config.of(given))
