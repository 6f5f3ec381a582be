"""What the files of BrainLM say: which of two families they hold, and its hyper-parameters.

``native`` (5M, 13M) takes series of parcels, one token a parcel and 20 volumes; ``vit`` (111M,
650M) takes parcels by volumes as an image. The names of the parameters tell which. Loading one
as the other is upstream's quietest trap: it succeeds, with random weights.

References
----------
vandijklab/BrainLM at b591d88; the released ``config.json``.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from neurostorm_app.errors import WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["NativeConfig", "TrainMode", "VitConfig", "find_family"]

Family = Literal["native", "vit"]
TrainMode = Literal["auto_encode", "predict_last", "predict_last_pixel"]
Loss = Literal["mse", "mae"]

_MARKS: dict[Family, str] = {
    "native": "vit.embeddings.signal_embedding_projection.",
    "vit": "vit.embeddings.patch_embeddings.projection.",
}
"""Beginnings of the names that only one family has."""

_Config = TypeVar("_Config", bound="NativeConfig | VitConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What both families share: two stacks of layers, and how training hides."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    decoder_hidden_size: int
    decoder_num_hidden_layers: int
    decoder_num_attention_heads: int
    decoder_intermediate_size: int
    mask_ratio: float
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    norm_pix_loss: bool = False
    train_mode: TrainMode = "auto_encode"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Width, width between the two linear layers, and heads of the encoder."""
        return self.hidden_size, self.intermediate_size, self.num_attention_heads

    @property
    def decoder_sizes(self) -> tuple[int, int, int]:
        """Width, width between the two linear layers, and heads of the decoder."""
        return (
            self.decoder_hidden_size,
            self.decoder_intermediate_size,
            self.decoder_num_attention_heads,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeConfig(_Shape):
    """The hyper-parameters that shape a native network, under upstream's names.

    The numbers of parcels and volumes are not among them: both are free. Attention is upstream's
    "Nystromformer" as released, which is exact: `num_landmarks` equals `segment_means_seq_len`.
    """

    timepoint_patching_size: int
    conv_kernel_size: int | None
    num_landmarks: int
    segment_means_seq_len: int
    loss_fn: Loss = "mse"
    use_tanh_decoder: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> NativeConfig:
        """Pick ours from all that upstream stores.

        Raises
        ------
        WrongWeightsError
            If one is missing or they make no network we know.
        """
        found = _pick(cls, config)
        _check_heads(found)
        if found.num_landmarks != found.segment_means_seq_len:
            raise WrongWeightsError(
                f"num_landmarks {found.num_landmarks} and segment_means_seq_len "
                f"{found.segment_means_seq_len} ask for approximate attention; ours is exact",
                fix="use weights trained with both equal, as all released ones are",
            )
        if found.decoder_hidden_size != found.hidden_size:
            raise WrongWeightsError(
                f"decoder_hidden_size is {found.decoder_hidden_size} and hidden_size "
                f"{found.hidden_size}; places of parcels are added in both, so they must be equal",
                fix="give the config.json the weights were trained with",
            )
        if found.conv_kernel_size is not None and found.conv_kernel_size % 2 == 0:
            raise WrongWeightsError(
                f"conv_kernel_size is {found.conv_kernel_size}; a token must be in the middle "
                "of its neighbours, so it must be odd",
                fix="give the config.json the weights were trained with",
            )
        if found.train_mode != "auto_encode":
            raise WrongWeightsError(
                f"train_mode is {found.train_mode!r}; the native BrainLM has 'auto_encode' only",
                fix="give the config.json the weights were trained with",
            )
        return found

    @property
    def reconstruction_loss(self) -> Loss:
        """How the error over what is hidden is measured."""
        return self.loss_fn


@dataclass(frozen=True, slots=True, kw_only=True)
class VitConfig(_Shape):
    """The hyper-parameters that shape a network of the ViT-MAE family, under upstream's names.

    `train_mode` is missing in the released files: they were trained to ``auto_encode``.
    `use_mean_pooling` is of fine-tuned files only.
    """

    patch_size: int
    num_channels: int
    qkv_bias: bool = True
    use_mean_pooling: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> VitConfig:
        """Pick ours from all that upstream stores.

        Raises
        ------
        WrongWeightsError
            If one is missing or they make no network we know.
        """
        found = _pick(cls, config)
        _check_heads(found)
        if found.patch_size not in PADDED:
            raise WrongWeightsError(
                f"patch_size is {found.patch_size}; the padding is known for "
                f"{' and '.join(map(str, PADDED))}",
                fix="give the config.json the weights were trained with",
            )
        image = config.get("image_size", PADDED[found.patch_size])
        sides = [image, image] if isinstance(image, int) else list(image)
        if sides != [PADDED[found.patch_size]] * 2:
            raise WrongWeightsError(
                f"image_size is {sides}; patches of {found.patch_size} pixels pad 424 parcels x "
                f"200 volumes to {PADDED[found.patch_size]} x {PADDED[found.patch_size]}",
                fix="give the config.json the weights were trained with",
            )
        return found

    @property
    def reconstruction_loss(self) -> Loss:
        """How the error over what is hidden is measured; `loss_fn` is the head's."""
        return "mse"


PADDED = {14: 434, 16: 432}
"""Side of the padded image by the side of a patch, pixels."""


def find_family(names: Iterable[str], *, source: str) -> Family:
    """Tell from the names of its parameters which family a file holds.

    Parameters
    ----------
    names : iterable of str
        All of the file.
    source : str
        Where they come from, for the message.

    Returns
    -------
    str
        ``native`` or ``vit``.

    Raises
    ------
    WrongWeightsError
        If they are of neither family, or of both.

    Examples
    --------
    >>> find_family(["vit.embeddings.patch_embeddings.projection.bias"], source="a file")
    'vit'
    """
    names = list(names)
    found: list[Family] = [
        f for f, mark in _MARKS.items() if any(name.startswith(mark) for name in names)
    ]
    if len(found) == 1:
        return found[0]
    first = ", ".join(sorted(names)[:3]) or "none"
    what = "names of both families" if found else "names of neither family"
    raise WrongWeightsError(
        f"{source}: {what} of BrainLM among its {len(names)} parameters ({first} ...); the native "
        f"one has {_MARKS['native']}*, the ViT-MAE one {_MARKS['vit']}*",
        fix="give the pytorch_model.bin of one released BrainLM, as it is",
    )


def _pick(kind: type[_Config], config: Mapping[str, Any]) -> _Config:
    needed = [f.name for f in fields(kind) if f.default is MISSING]
    if missing := [name for name in needed if name not in config]:
        raise WrongWeightsError(
            f"the configuration lacks {', '.join(missing)} of {kind.__name__}",
            fix="give the config.json that lies beside the weights: config=...",
        )
    found = {f.name: config[f.name] for f in fields(kind) if f.name in config}
    try:
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as why:
        first = why.errors()[0]
        raise WrongWeightsError(
            f"the configuration says {first['loc'][0]}: {first['input']!r}; {first['msg']}",
            fix="give the config.json that lies beside the weights: config=...",
        ) from why


def _check_heads(config: NativeConfig | VitConfig) -> None:
    """See that heads share a width evenly, and that the activation is the released one."""
    for part, (width, _, heads) in (("", config.sizes), ("decoder_", config.decoder_sizes)):
        if width % heads:
            raise WrongWeightsError(
                f"{part}hidden_size {width} cannot be shared evenly by {heads} attention heads",
                fix="give the config.json the weights were trained with",
            )
    if config.hidden_act != "gelu":
        raise WrongWeightsError(
            f"hidden_act is {config.hidden_act!r}; the only one known is 'gelu', with erf",
            fix="give the config.json the weights were trained with",
        )
    if not 0 <= config.mask_ratio < 1:
        raise WrongWeightsError(
            f"mask_ratio is {config.mask_ratio}; expected 0 to 1, without 1",
            fix="give the config.json the weights were trained with",
        )
