"""Pre-training: guess what is hidden, or tell a participant's other window from those of others.

``mae`` hides a part of a window by one of the five schemes of NeuroSTORM (upstream's loss breaks
for its two tube schemes; here they train), tokens of BrainLM, or mask units of SLIM-Brain, and asks
for it; SLIM-Brain's decoder is ours, and so is what it learns by it. ``contrastive`` is SwiFT's
objective on NeuroSTORM's encoder, in its two kinds, ``jepa`` one of ours on SLIM-Brain's,
``forecast`` asks BrainLM for the last volumes of windows, and ``codes`` is fMRI-LM's tokenizer's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.augment import mix_rows
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.redundancy_dropout import Redundancy
from neurostorm_app.pipelines.train.batches import Draw, Rounds, draw_window, tile_run
from neurostorm_app.pipelines.train.contrastive import Contrastive
from neurostorm_app.pipelines.train.engine import train
from neurostorm_app.pipelines.train.export import Ending, export_model
from neurostorm_app.pipelines.train.masks import Pretraining, with_masks
from neurostorm_app.pipelines.train.split import split_participants
from neurostorm_app.pipelines.train.task import Task

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from neurostorm_app.models.brainlm_face import BrainLm
    from neurostorm_app.models.fmri_lm import LmTokenizer
    from neurostorm_app.models.slim_brain_jepa import SlimBrainJepa
    from neurostorm_app.models.slim_brain_mae import SlimBrainMae
    from neurostorm_app.pipelines.train.material import Material, Start
    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["MaskedGuess", "pretrain"]


class MaskedGuess(Task):
    """Guess what is hidden of windows.

    Parameters
    ----------
    model : NeuroStormMae, BrainLm, SlimBrainMae, SlimBrainJepa, MindVis or LmTokenizer
        What learns.
    material : Material
        The runs.
    settings : Pretraining
        What is hidden, and how.
    seed : int
        Of everything that is drawn.
    """

    def __init__(
        self,
        model: NeuroStormMae | BrainLm | SlimBrainMae | SlimBrainJepa | MindVis | LmTokenizer,
        material: Material,
        settings: Pretraining,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.material, self.settings, self.seed = model, material, settings, seed
        self.split = split_participants(
            len(material.people), seed=seed, validation=settings.validation
        )
        self.rounds = Rounds(n=len(self.split.train), seed=seed)
        self.dropped: list[float] = []
        if settings.mix and not isinstance(model, MindVis):
            raise UsageError(
                f"rows of voxels are mixed; {type(model).__name__} takes none",
                fix="leave --mix out, or choose mind-vis",
            )
        if settings.redundancy != "none":
            if not isinstance(model, NeuroStormMae):
                raise UsageError(
                    f"redundancy dropout acts on NeuroSTORM's blocks; {type(model).__name__} has "
                    "none",
                    fix="leave --redundancy out",
                )
            variant = Redundancy(variant=settings.redundancy, strength=settings.strength)
            model.drop_redundancy(variant, seed=seed)

    @property
    def learnt(self) -> nn.Module:
        """What becomes a model."""
        return self.model

    def load(self, draw: Draw) -> list[Tensor]:
        """Read a window of each participant whose turn it is."""
        length = self.material.recipe.window
        windows, places = [], []
        for item in draw.items:
            runs = self.material.people[self.split.train[self.rounds.participant(item)]]
            window = draw_window(runs, length, draw.rng("window", item))
            windows.append(runs[window.run].window(window.start, length))
            places.append(runs[window.run].xyz)
        return _as_tensors(windows, places)

    def forward(self, draw: Draw, loaded: list[Tensor]) -> Tensor:
        """Hide, and compare the guess with what was there."""
        x, *xyz = (part.to(next(self.parameters()).device) for part in loaded)
        generator = draw.generator("mask")
        if self.settings.mix:
            x = mix_rows(x, share=self.settings.mix, generator=draw.generator("mix"))
        if not isinstance(self.model, NeuroStormMae):
            return self._loss(x, xyz, generator)
        active = self.model.redundancy
        if active is not None:
            active.begin(draw.items.start, rank=draw.rank)
        loss = self._loss(x, xyz, generator)
        if active is not None:
            self.dropped.append(active.measured().share)
        return loss

    def _loss(self, x: Tensor, xyz: list[Tensor], generator: torch.Generator) -> Tensor:
        if isinstance(self.model, NeuroStormMae):
            return self.model.reconstruct(x, self.model.draw_mask(x, generator=generator)).loss
        model: Any = self.model
        if isinstance(model, MindVis):
            x = x.transpose(1, 2)  # kept as values of one block, (B, V, 1); it takes rows
        error: Tensor = model.masked_error(x, *xyz, generator=generator)
        return error.mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Guess the same parts of the same windows of those who are held out, each time."""
        generator = torch.Generator().manual_seed(self.seed)
        device = next(self.parameters()).device
        recipe, losses = self.material.recipe, []
        stride = recipe.contract.stride or recipe.window
        for person in self.split.validation:
            for run in self.material.people[person]:
                most = self.settings.validation_windows
                for start in tile_run(run, recipe.window, stride, most=most):
                    parts = _as_tensors([run.window(int(start), recipe.window)], [run.xyz])
                    x, *xyz = (part.to(device) for part in parts)
                    losses.append(float(self._loss(x, xyz, generator)))
        return {"loss": float(np.mean(losses))}

    @property
    def said(self) -> str:
        """Share that redundancy dropout took since it was last told."""
        shares, self.dropped = self.dropped, []
        return f", {np.mean(shares):.2%} dropped" if shares else ""


def pretrain(
    material: Material,
    *,
    start: Start,
    settings: Pretraining,
    plan: Plan,
    out: Path,
    atlas: Path | None = None,
) -> Ending:
    """Pre-train a network, and write it as a model.

    Parameters
    ----------
    material : Material
        Runs in the cache.
    start : Start
        Weights to go on from, or drawn ones.
    settings : Pretraining
        The objective.
    plan : Plan
        How the optimiser runs.
    out : Path
        Folder of checkpoints, the log and the model.
    atlas : Path, optional
        Label image in the contract's space, for atlas masks; by default the weights' own regions.

    Returns
    -------
    Ending
        Where the model is, and how good.

    Raises
    ------
    UsageError
        If the network has no decoder to guess with, or the settings do not fit it.
    DataError
        If there are too few participants, or training fails.
    CannotCreateError
        If the folder cannot be used.
    """
    task: MaskedGuess | Contrastive
    if settings.objective == "mae":
        model = with_masks(start, settings, atlas, seed=plan.seed)
        task = MaskedGuess(model, material, settings, seed=plan.seed)
        error = "masked reconstruction, mean squared error"
    elif settings.objective == "jepa":
        from neurostorm_app.pipelines.train.latent import LatentGuess

        task = LatentGuess(start, material, settings, plan)
        error = "prediction in latent space, smooth L1"
    elif settings.objective == "forecast":
        from neurostorm_app.pipelines.train.forecasting import FutureGuess

        task = FutureGuess(start, material, settings, seed=plan.seed)
        error = f"forecast of {settings.horizon} volumes, mean squared error"
    elif settings.objective == "codes":
        from neurostorm_app.pipelines.train.codes import CodeLearning

        task = CodeLearning(start, material, settings, plan)
        error = "mean squared error of what codes tell, plus the distance from the codebook"
    else:
        if not isinstance(start.model, NeuroStorm):
            raise UsageError(
                f"the contrastive objective is for NeuroSTORM; {start.card.name} is none",
                fix="choose --objective mae, or a NeuroSTORM",
            )
        task = Contrastive(_encoder(start.model), material, settings, plan)
        error = "contrastive loss, nats"
    identity = {
        "what": "pretrain",
        "start": start.sha256,
        "data": material.digest,
        "settings": asdict(settings),
        "atlas": hash_file(atlas) if atlas is not None else None,
    }
    outcome = train(task, plan, folder=out, identity=identity)
    return export_model(
        out,
        task.learnt if isinstance(task, MaskedGuess) else task.model,
        start=start,
        outcome=outcome,
        facts={
            "what": "pretrain",
            "measured": error,
            "settings": asdict(settings),
            "plan": plan.identity(),
            "split": {"train": len(task.split.train), "validation": len(task.split.validation)},
            "runs": material.n_runs,
            "left_out": material.n_left_out,
        },
    )


def _encoder(model: NeuroStorm) -> NeuroStorm:
    """Take the encoder of a network, without decoder and head."""
    network = NeuroStorm(model.config)
    state = model.state_dict()
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network


def _as_tensors(windows: list[Any], places: list[Any]) -> list[Tensor]:
    """Stack windows, and places of parcels where there are."""
    tensors = [torch.from_numpy(np.stack(windows))]
    if places[0] is not None:
        tensors.append(torch.from_numpy(np.stack(places)))
    return tensors
