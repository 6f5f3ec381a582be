"""What the files of NeuroSTORM say: hyper-parameters, names, and the two layouts of both.

``2025`` is the layout of files until 2026-05-09, with one mask token, for windows; ``2026-05``
has three. The encoder is the same in both.

References
----------
CUHK-AIM-Group/NeuroSTORM at 5bb4f7c (2025) and a8dc38f (2026-05).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from neurostorm_app.errors import WrongWeightsError
from neurostorm_app.models.blocks import Size  # noqa: TC001  pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["Config", "migrate"]

_MODELS = ("neurostorm", "swin4d_mae", "swin4d_ver7")
"""What upstream called this architecture over time."""

_DECODER = (
    "mask_token", "window_mask_token", "atlas_mask_token", "atlas_map",
    "first_patch_expanding.", "layers_up.", "norm_up.", "decoder_pred.",
)  # fmt: skip
"""Beginnings of the names that only the autoencoder has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The hyper-parameters that shape the network, under upstream's names.

    ``first_window_size`` and ``last_layer_full_MSA`` leave no trace in the weights, so they
    have no defaults: with another value a file loads well and computes something else.
    """

    img_size: Size
    in_chans: int
    embed_dim: int
    window_size: Size
    first_window_size: Size
    patch_size: Size
    depths: tuple[int, ...]
    c_multiplier: int
    last_layer_full_MSA: bool  # noqa: N815
    prompt_len: int = 0
    spatial_mask: str = "window"
    time_mask: str = "random"
    mask_ratio: float = 0.5

    @classmethod
    def of(cls, hyper_parameters: Mapping[str, Any]) -> Config:
        """Pick ours from all that upstream stores, trainer flags and all.

        Raises
        ------
        WrongWeightsError
            If they are of another architecture, lack one of ours or make no network.
        """
        found = dict(hyper_parameters)
        if (model := found.get("model", _MODELS[0])) not in _MODELS:
            raise WrongWeightsError(
                f"the hyper-parameters are of the model {model!r}, not of NeuroSTORM",
                fix=f"give weights whose hyper-parameter `model` is one of {', '.join(_MODELS)}",
            )
        strategy = found.get("tpt_strategy", "prompt")
        if not found.get("use_prompt_tuning", True) or strategy not in {"prompt", "prompt_ln"}:
            found["prompt_len"] = 0
        required = {"prompt_len", "spatial_mask", "time_mask", "mask_ratio"}
        missing = [f.name for f in fields(cls) if f.name not in found and f.name not in required]
        if missing:
            raise WrongWeightsError(
                f"the hyper-parameters lack {', '.join(missing)}",
                fix="give the hyper-parameters the weights were trained with: config=...",
            )
        ours = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        try:
            config = TypeAdapter(cls).validate_python(ours)
        except ValidationError as why:
            first = why.errors()[0]
            raise WrongWeightsError(
                f"the hyper-parameters say {first['loc'][0]}: {first['input']!r}; {first['msg']}",
                fix="give the hyper-parameters the weights were trained with: config=...",
            ) from why
        config.check()
        return config

    def differing(self, other: Config) -> str:
        """Name the hyper-parameters that shape the network and differ; masks may.

        Returns
        -------
        str
            Such as ``depths (2, 2) and (2, 6)``; empty if they agree.
        """
        names = [f.name for f in fields(self) if not f.name.endswith(("_mask", "_ratio"))]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b)

    @property
    def grid(self) -> Size:
        """Grid of tokens along X, Y, Z and T after the patch embedding."""
        x, y, z, t = (n // p for n, p in zip(self.img_size, self.patch_size, strict=True))
        return x, y, z, t

    def check(self) -> None:
        """See that patches tile the volume and that every stage but the last can halve it.

        Raises
        ------
        WrongWeightsError
            If not.
        """
        sizes = (*self.img_size, *self.patch_size, *self.window_size, *self.first_window_size)
        least = min(self.embed_dim, self.c_multiplier, self.in_chans, *self.depths, *sizes)
        if least < 1 or self.prompt_len < 0 or len(self.depths) > 8 or sum(self.depths) > 256:
            raise WrongWeightsError(
                f"embed_dim {self.embed_dim}, c_multiplier {self.c_multiplier}, depths "
                f"{self.depths}, prompt_len {self.prompt_len}, sizes {sizes}: expected 1 or more "
                "(prompt_len 0 or more), in at most 8 stages of 256 blocks in all",
                fix="give the hyper-parameters the weights were trained with",
            )
        halvings = 2 ** (len(self.depths) - 1)
        pairs = list(zip(self.img_size, self.patch_size, strict=True))
        if self.patch_size[3] != 1 or any(n % (p * halvings) for n, p in pairs[:3]):
            raise WrongWeightsError(
                f"img_size {self.img_size} with patches of {self.patch_size} cannot be halved "
                f"{len(self.depths) - 1} times (a patch is one volume long)",
                fix="give the hyper-parameters the weights were trained with",
            )

    def stage(self, i: int) -> tuple[int, Size]:
        """Width of stage i and its grid of tokens."""
        x, y, z, t = self.grid
        return self.embed_dim * self.c_multiplier**i, (x >> i, y >> i, z >> i, t)


def migrate(state: Mapping[str, Tensor], *, decoder: bool) -> dict[str, Tensor]:
    """Bring the names of a file to ours; a name it does not know, it leaves as it is.

    Lightning's ``model.`` goes, ``output_head.`` becomes ``head.``, the 2025 layout's
    ``mask_token`` (one row a token of a window) becomes ``window_mask_token``. The unused norm
    of 2025's linear classifier goes, and so does the decoder where only the encoder is wanted.

    Parameters
    ----------
    state : mapping of str to Tensor
        As the file has it.
    decoder : bool
        Whether the decoder is wanted.

    Returns
    -------
    dict of str to Tensor
        The same tensors.
    """
    ours: dict[str, Tensor] = {}
    linear = not any(name.startswith("output_head.head.cls_token") for name in state)
    for name, value in state.items():
        new = name.removeprefix("model.")
        if new.startswith("output_head."):
            if linear and new.startswith("output_head.head.norm."):
                continue
            new = "head." + new.removeprefix("output_head.").removeprefix("head.")
        if new == "mask_token" and value.ndim == 2:
            new = "window_mask_token"
        if decoder or not new.startswith(_DECODER):
            ours[new] = value
    return ours
