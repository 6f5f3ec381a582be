"""What pre-training is asked, and the network with the masks that are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.brainlm_face import BrainLm
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.masking import name_regions
from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_mae import SlimBrainMae
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from neurostorm_app.models.card import VolumeContract
    from neurostorm_app.models.neurostorm_files import Config
    from neurostorm_app.pipelines.train.material import Start

__all__ = ["Pretraining", "make_atlas_map", "with_masks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """What pre-training does.

    Parameters
    ----------
    objective : {'mae', 'contrastive', 'jepa', 'forecast', 'codes'}
        See the module.
    spatial_mask, time_mask, mask_ratio : str, str, float
        Instead of those of the weights' configuration.
    redundancy : {'none', 'paper', 'upstream'}
        Redundancy dropout, by the paper or as upstream's code does it.
    strength : float
        Factor on its probabilities.
    kind : {1, 2}
        Of contrastive training: two windows of a participant, or a window under two augmentations.
    augment : bool
        Whether windows of the first kind are augmented too, as upstream does.
    mix : float
        Share of another row that is mixed into each row of voxels (MinD-Vis); 0 mixes none.
    horizon : int
        Volumes at the end of a window that are to be forecast.
    validation : float
        Share of participants that are held out.
    validation_windows : int
        Windows of each of their runs that are looked at, spread evenly.

    Raises
    ------
    UsageError
        If nothing, or all, would be hidden, or nobody looked at.
    """

    objective: Literal["mae", "contrastive", "jepa", "forecast", "codes"] = "mae"
    spatial_mask: Literal["window", "random", "atlas"] | None = None
    time_mask: Literal["random", "tube"] | None = None
    mask_ratio: float | None = None
    redundancy: Literal["none", "paper", "upstream"] = "none"
    strength: float = 1.0
    kind: Literal[1, 2] = 1
    augment: bool = True
    mix: float = 0.0
    horizon: int = 20
    validation: float = 0.1
    validation_windows: int = 4

    def __post_init__(self) -> None:
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise UsageError(
                f"the mask ratio is {self.mask_ratio:g}; a part of a window is hidden, not all",
                fix="give a share between 0 and 1, such as 0.5",
            )
        if not 0 <= self.mix < 1:
            raise UsageError(
                f"rows of voxels cannot be mixed by a share of {self.mix:g}",
                fix="give --mix from 0 to below 1, such as 0.3",
            )
        if self.horizon < 1:
            raise UsageError(
                f"a forecast of {self.horizon} volumes is none",
                fix="give --horizon 1 or more; BrainLM's paper has 20",
            )
        if self.validation_windows < 1:
            raise UsageError(
                f"nobody can be validated by {self.validation_windows} windows of a run",
                fix="give --validation-windows 1 or more",
            )


def with_masks(
    start: Start, settings: Pretraining, atlas: Path | None = None, *, seed: int = 0
) -> NeuroStormMae | BrainLm | SlimBrainMae | MindVis:
    """Give the network of a start the masks that are asked for.

    Parameters
    ----------
    start : Start
        Its network keeps its weights.
    settings : Pretraining
        Scheme and ratio; None leaves those of the weights.
    atlas : Path, optional
        Label image, for atlas masks.
    seed : int
        Of a decoder that is drawn, where weights are of an encoder alone (SLIM-Brain).

    Returns
    -------
    NeuroStormMae, BrainLm, SlimBrainMae or MindVis
        Ready to guess.

    Raises
    ------
    UsageError
        If it has no decoder, or does not know such masks.
    """
    model, names = start.model, ("spatial_mask", "time_mask", "mask_ratio")
    asked: dict[str, Any] = {
        name: getattr(settings, name) for name in names if getattr(settings, name) is not None
    }
    if isinstance(model, LmTokenizer):
        raise UsageError(
            f"{start.card.name} tells whole windows by codes; nothing is hidden from it to guess",
            fix="choose --objective codes",
        )
    if isinstance(model, SlimBrain):
        return _with_units(model, asked, atlas, seed=seed)
    if isinstance(model, BrainLm | MindVis) and model.can_reconstruct:
        if asked.keys() - {"mask_ratio"}:
            family = "BrainLM" if isinstance(model, BrainLm) else "MinD-Vis"
            raise UsageError(
                f"{family} hides single tokens; it knows no spatial_mask and no time_mask",
                fix="leave --spatial-mask and --time-mask out",
            )
        return _with_tokens(model, asked)
    if not isinstance(model, NeuroStormMae):
        raise UsageError(
            f"{start.card.name} has no decoder, so it cannot guess what is hidden",
            fix="start from the weights of an autoencoder, such as neurostorm-mae, or from scratch",
        )
    config = replace(model.config, **asked)
    regions = model.atlas_map
    if atlas is not None:
        contract: Any = start.card.contract
        regions = make_atlas_map(atlas, contract, config)
    if config.spatial_mask == "atlas" and regions is None:
        raise UsageError(
            "atlas masks hide whole regions; neither the weights nor an atlas say where they are",
            fix="give a label image with --atlas",
        )
    layout: Literal["2025", "2026-05"] = "2025" if model.mask_token is None else "2026-05"
    network = NeuroStormMae(config, layout=layout, atlas=regions is not None)
    state = model.state_dict()
    if regions is not None:
        state["atlas_map"] = regions
    network.load_state_dict(state)
    return network


def _with_tokens(model: BrainLm | MindVis, asked: dict[str, Any]) -> BrainLm | MindVis:
    """Let a BrainLM or a MinD-Vis hide another share of its tokens."""
    if isinstance(model, BrainLm):
        model.config = replace(model.config, **asked)
        return model
    model.config = replace(model.config, **asked)
    model.config.check()  # of few tokens a large share leaves none that is seen
    return model


def _with_units(
    model: SlimBrain, asked: dict[str, Any], atlas: Path | None, *, seed: int
) -> SlimBrainMae:
    """Let a SLIM-Brain hide mask units; an encoder gets a decoder that is drawn."""
    if asked.keys() - {"mask_ratio"} or atlas is not None:
        raise UsageError(
            "SLIM-Brain hides whole mask units; it knows no spatial_mask, time_mask or atlas",
            fix="leave --spatial-mask, --time-mask and --atlas out",
        )
    network = model if isinstance(model, SlimBrainMae) else SlimBrainMae.around(model, seed=seed)
    network.config = replace(network.config, **asked)
    return network


def make_atlas_map(path: Path, contract: VolumeContract, config: Config) -> Tensor:
    """Find the region that most voxels of each patch lie in.

    Parameters
    ----------
    path : Path
        Label image in the contract's space; 0 is no region.
    contract : VolumeContract
        Grid of the windows.
    config : Config
        Size of the patches.

    Returns
    -------
    Tensor, shape (X, Y, Z), float32
        On the grid of tokens.

    Raises
    ------
    DataError
        If hardly any region lies in the windows of the network.
    """
    labels, source = read_volume(path)
    target = Grid.from_rows(contract.grid.shape, contract.grid.affine)
    found = resample_volume(labels, source=source, target=target, order=0)
    regions = name_regions(torch.from_numpy(np.rint(found).astype(np.int64)), config.patch_size)
    if (n_regions := len(torch.unique(regions[regions > 0]))) < 2:
        raise DataError(
            f"{path}: {n_regions} regions lie in the windows of the network",
            fix="give a label image in the space of the model",
        )
    return regions
