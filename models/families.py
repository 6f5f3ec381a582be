"""Which family of networks a file is of, told from the names of its tensors alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from neurostorm_app.errors import WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ARCHITECTURES", "check_family", "name_family"]

SIGNS = (
    (r"signal_embedding_projection\.", "BrainLM"),
    (r"vit\.embeddings\.patch_embeddings\.projection\.", "BrainLM (ViT-MAE)"),
    (r"(^|\.)mlp_pred_head\.", "BrainLM (fine-tuned)"),
    (r"relative_position_bias_table$", "SwiFT"),
    (r"(^|\.)layers\.\d+\.blocks\.\d+\.mamba\.", "NeuroSTORM"),
    (r"^pos_embed_spatial$", "SLIM-Brain"),
    (r"(^|\.)(quantize\.embedding\.embed_avg|fmri_lm_head\.weight)$", "fMRI-LM"),
    (r"^encode_transform_layer\.0\.weight$", "fMRI-LM"),
    (r"^(decoder_pos_embed$|cond_stage_model\.mae\.)", "MinD-Vis"),
)
"""A name that only files of one family have, and the family."""

FAMILIES = {
    "neurostorm": "NeuroSTORM",
    "neurostorm-mae": "NeuroSTORM",
    "brainlm": "BrainLM",
    "slim-brain": "SLIM-Brain",
    "slim-brain-mae": "SLIM-Brain",
    "fmri-lm": "fMRI-LM",
    "fmri-lm-language": "fMRI-LM",
    "mind-vis": "MinD-Vis",
}
"""By the architecture of a card."""

ARCHITECTURES = tuple(FAMILIES)
"""Networks whose weights can be given."""


def name_family(names: Iterable[str]) -> str | None:
    """Name the family of networks whose tensors have such names.

    Parameters
    ----------
    names : iterable of str
        Names of the tensors of a file.

    Returns
    -------
    str or None
        None if they are of no family known here.

    Examples
    --------
    >>> name_family(["model.layers.0.blocks.0.mamba.D"])
    'NeuroSTORM'
    """
    names = list(names)
    for sign, family in SIGNS:
        if any(re.search(sign, name) for name in names):
            return family
    return None


def check_family(names: Iterable[str], architecture: str, *, source: str) -> None:
    """Refuse a file whose names are plainly those of another family.

    Parameters
    ----------
    names : iterable of str
        Names of the tensors of the file.
    architecture : str
        Of the card, such as ``neurostorm-mae``.
    source : str
        Where the weights come from, for messages.

    Raises
    ------
    WrongWeightsError
        If so; names of no known family are left to strict loading.
    """
    found, wanted = name_family(names), FAMILIES.get(architecture)
    if found and wanted and not found.startswith(wanted):
        raise WrongWeightsError(
            f"{source}: the names of its tensors are those of {found}, not of {wanted}",
            fix=f"give the file to a model of {found}, or give weights of {wanted}",
        )
