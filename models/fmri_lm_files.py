"""What the files of fMRI-LM's tokenizer say: hyper-parameters, and which tensors are its own.

No weights of fMRI-LM are released. The names of the tensors are those its public code would write,
in two layouts: the tokenizer alone, or the whole of stage 1, in which the tokenizer is ``VQ.`` and
stands beside layers that only training needs.

References
----------
fMRI-LM, arXiv 2511.21760; yuxiangwei0808/fMRI-LM at 037dcf9.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import WrongWeightsError
from neurostorm_app.models.hyper_parameters import pick

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["SIZES", "LmConfig", "pick_tokenizer"]

SIZES: Final = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, layers and heads of the encoder, and of the decoder as well, by the name of the size."""

_STAGE = "VQ."
"""What the names of the tokenizer begin with in a file of stage 1."""
_BESIDE = ("x_proj.", "domain_classifier.", "wte.")
"""Beginnings of the other names of stage 1: towards the language model, and a copy of its words."""
_LATER = ("llm.", "encode_transform_layer.", "tokenizer.")
"""Beginnings of names that only files of the language model have."""
_FILLED = "quantize.embedding.initted"
_FIX = "give the hyper-parameters the weights were trained with: config=..."
_MOST = 256
"""Layers beyond which nothing is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LmConfig:
    """The hyper-parameters that shape the tokenizer; the names are ours.

    Parameters
    ----------
    width, depth, heads : int
        Of the encoder and of the decoder; `of` also takes a ``size`` for the three.
    n_parcels, n_volumes : int
        Of a window.
    patch : int
        Volumes of a patch.
    n_codes, code_width : int
        Rows of the codebook, and their length.
    class_token : bool
        Whether one stands before the patches.
    mlp_ratio : float
        Width inside a layer over its width.
    drop_path : float
        Share of the samples for which the last layer is left out in training.
    decay : float
        Of the codebook's moving average.
    """

    width: int
    depth: int
    heads: int
    n_parcels: int
    n_volumes: int
    patch: int
    n_codes: int = 8192
    code_width: int = 128
    class_token: bool = False
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    decay: float = 0.99

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> LmConfig:
        """Pick ours from a configuration.

        Raises
        ------
        WrongWeightsError
            If one is missing, or they make no network.
        """
        found = dict(config)
        if "size" in found:
            found = _named(found["size"]) | found
        made = pick(cls, found, what="fMRI-LM's tokenizer", fix=_FIX)
        made.check()
        return made

    @property
    def n_patches(self) -> int:
        """Patches of a parcel in a whole window."""
        return self.n_volumes // self.patch

    def check(self) -> None:
        """See that patches tile a window, and heads share the width.

        Raises
        ------
        WrongWeightsError
            If not.
        """
        counts = (self.width, self.depth, self.heads, self.n_parcels, self.n_volumes, self.patch)
        least = min(*counts, self.n_codes, self.code_width)
        if least < 1 or self.depth > _MOST or self.mlp_ratio <= 0:
            raise WrongWeightsError(
                f"fMRI-LM's tokenizer of {self}: expected sizes of 1 or more, and at most {_MOST} "
                "layers",
                fix=_FIX,
            )
        if self.n_volumes % self.patch or self.width % self.heads:
            raise WrongWeightsError(
                f"{self.n_volumes} volumes are no whole number of patches of {self.patch}, or a "
                f"width of {self.width} cannot be shared evenly by {self.heads} heads",
                fix=_FIX,
            )
        if not (0 <= self.drop_path < 1 and 0 < self.decay < 1):
            raise WrongWeightsError(
                f"drop_path is {self.drop_path} and decay {self.decay}; both are shares, expected "
                "below 1, and the decay above 0",
                fix=_FIX,
            )

    def differing(self, other: LmConfig) -> str:
        """Name the hyper-parameters that shape the network and differ; those of training may."""
        names = [f.name for f in fields(self) if f.name not in {"drop_path", "decay"}]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b)


def _named(size: object) -> dict[str, Any]:
    if not isinstance(size, str) or size not in SIZES:
        raise WrongWeightsError(
            f"there is no fMRI-LM tokenizer of the size {size!r}; expected {', '.join(SIZES)}",
            fix="name one of these, or give width, depth and heads",
        )
    return dict(zip(("width", "depth", "heads"), SIZES[size], strict=True))


def pick_tokenizer(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Pick the tokenizer from either layout; every name that is not known stays, and is refused.

    Parameters
    ----------
    state : mapping of str to Tensor
        As the file has it.
    source : str
        Where the weights come from, for messages.

    Returns
    -------
    dict of str to Tensor
        Under the tokenizer's own names.

    Raises
    ------
    WrongWeightsError
        If it is a file of the language model, or its codebook was never filled.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1)
    >>> list(pick_tokenizer({"VQ.quantize.embedding.initted": one, "wte.weight": one}, source="x"))
    ['quantize.embedding.initted']
    """
    if later := sorted(name for name in state if name.startswith(_LATER)):
        raise WrongWeightsError(
            f"{source}: it is of fMRI-LM's later stages, with a language model ({later[0]}); these "
            "have the encoder of the tokenizer only",
            fix="give the file of the tokenizer, or of stage 1",
        )
    if any(name.startswith(_STAGE) for name in state):
        state = {
            name.removeprefix(_STAGE): value
            for name, value in state.items()
            if not name.startswith(_BESIDE)
        }
    filled = state.get(_FILLED)
    if filled is not None and not bool(filled.all()):
        raise WrongWeightsError(
            f"{source}: {_FILLED} is 0, so the codebook was never filled: the tokenizer was not "
            "trained",
            fix="give a file that was written after training began",
        )
    return dict(state)
