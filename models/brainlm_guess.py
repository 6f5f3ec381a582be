"""What BrainLM guesses of parcels, in the order and the unit of its input, whichever its family.

Three questions to a decoder: what follows a window, what a run looks like when every token of it
was hidden once, and what the class token attends to. Visible tokens always enter in their own
order, so the same question has the same answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from neurostorm_app.errors import ContractError
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.models.brainlm_vit import BrainLmVit

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.brainlm_face import BrainLm

__all__ = ["Guess", "LastMode", "count_tokens", "guess_future", "guess_hidden", "guess_whole"]

LastMode = Literal["predict_last", "predict_last_pixel"]
LENGTH = 200
"""Volumes of a window of the ViT-MAE family, those seen and those forecast."""


class Guess(NamedTuple):
    """What was guessed of windows.

    Attributes
    ----------
    values : Tensor, shape (B, V, T)
        In the order and unit of the input; what was visible is guessed too.
    hidden : Tensor of bool, shape (B, V, T)
        What the network did not see.
    """

    values: Tensor
    hidden: Tensor


def count_tokens(model: BrainLm, signal: Tensor) -> int:
    """Count the tokens of each window of (B, V, T), without the class token.

    Raises
    ------
    ContractError
        If the network is of neither family.
    """
    if isinstance(model, BrainLmVit):
        return model.geometry.along**2
    if isinstance(model, BrainLmNative):
        return signal.shape[1] * signal.shape[2] // model.patch
    raise ContractError(
        f"{type(model).__name__} has no tokens of parcels that can be hidden one by one",
        fix="give a network of BrainLM",
    )


def guess_hidden(model: BrainLm, signal: Tensor, xyz: Tensor, *, hidden: Tensor) -> Guess:
    """Hide chosen tokens of windows and guess them from the others.

    Parameters
    ----------
    model : BrainLm
        With a decoder, in evaluation mode.
    signal, xyz : Tensor
        As for `BrainLm.embed`.
    hidden : Tensor of bool, shape (L,)
        Tokens to hide, the same in all windows. In the native family token p n + k is patch k of
        parcel p; in the ViT-MAE family they are the rows of the padded square.

    Returns
    -------
    Guess
        Of all values.

    Raises
    ------
    ContractError
        If a shape does not fit, nothing is left visible, or there is no decoder.
    """
    n = count_tokens(model, signal)
    if hidden.shape != (n,) or bool(hidden.all()):
        raise ContractError(
            f"{int(hidden.sum())} of {tuple(hidden.shape)} tokens are to be hidden; the windows "
            f"have {n}, and one at least must stay visible",
            fix="give one truth value for each token of a window",
        )
    # visible tokens keep their order; half a token more keeps the share off the edge of rounding
    noise = torch.arange(n, device=signal.device) + n * hidden.to(signal.device)
    ratio = max(0.0, 1 - (n - int(hidden.sum()) + 0.5) / n)
    made = model.reconstruct(
        signal,
        xyz,
        noise=noise.float().expand(len(signal), -1),
        mask_ratio=ratio,
        train_mode="auto_encode",
    )
    mask = made.mask
    if made.logits.ndim > mask.ndim:
        mask = mask[..., None].expand_as(made.logits)
    return _put_back(model, made.logits.flatten(2), mask.flatten(2), made.order)


def guess_future(
    model: BrainLm, past: Tensor, xyz: Tensor, *, horizon: int, mode: LastMode = "predict_last"
) -> Tensor:
    """Forecast the volumes that follow windows, by hiding them; they are not given.

    Parameters
    ----------
    model : BrainLm
        With a decoder, in evaluation mode.
    past : Tensor, shape (B, V, S)
        What is seen. For the native family S is a whole number of patches (of 20 volumes in the
        released weights): exactly the patches behind it are hidden, as many as the horizon needs,
        so that horizons of 20, 40, ... volumes use all that is guessed. For the ViT-MAE family S
        and the horizon are 200 together.
    xyz : Tensor, shape (B, V, 3)
        Places of the parcels, MNI mm.
    horizon : int
        Volumes to forecast.
    mode : str
        Of the ViT-MAE family. ``predict_last`` hides whole tokens, whose edges do not fall on
        volume 180: for 20 volumes it hides the last 28 with patches of 16 pixels and 23 with
        patches of 14, so that up to a patch less is seen than other methods see.
        ``predict_last_pixel`` hides exactly the horizon and writes 0 where a token also holds
        earlier volumes.

    Returns
    -------
    Tensor, shape (B, V, horizon)
        In the unit of the input. Weights that were trained to fill in tokens anywhere were not
        trained for this.

    Raises
    ------
    ContractError
        If the lengths do not fit, or there is no decoder.
    """
    seen = past.shape[-1]
    if isinstance(model, BrainLmVit):
        _check_length(seen, horizon)
        whole = torch.nn.functional.pad(past, (0, horizon))
        made = model.reconstruct(whole, xyz, mask_ratio=(horizon + 0.5) / LENGTH, train_mode=mode)
        return _put_back(model, made.logits, made.mask, made.order).values[..., seen:]
    patch = model.patch if isinstance(model, BrainLmNative) else 1
    if horizon < 1 or not seen or seen % patch:
        raise ContractError(
            f"{seen} volumes are to be seen and {horizon} forecast; the network hides whole "
            f"patches of {patch} volumes, so what is seen must be a multiple of {patch}",
            fix=f"see {max(patch, seen // patch * patch)} volumes, and forecast one at least",
        )
    n_patches, n_hidden = seen // patch, -(-horizon // patch)
    whole = torch.nn.functional.pad(past, (0, n_hidden * patch))
    last = torch.arange(n_patches + n_hidden, device=past.device) >= n_patches
    guess = guess_hidden(model, whole, xyz, hidden=last.repeat(past.shape[1]))
    return guess.values[..., seen : seen + horizon]


def guess_whole(
    model: BrainLm, signal: Tensor, xyz: Tensor, *, parts: Tensor, n_parts: int
) -> Tensor:
    """Guess every token of windows from passes in which it was hidden.

    Parameters
    ----------
    model : BrainLm
        With a decoder, in evaluation mode.
    signal, xyz : Tensor
        As for `BrainLm.embed`.
    parts : Tensor of int64, shape (L,)
        Number of the pass, from 0, in which each token is hidden: exactly one.
    n_parts : int
        Passes; two at least.

    Returns
    -------
    Tensor, shape (B, V, T)
        Of each value the guess of the pass that hid it, in the order and unit of the input.

    Raises
    ------
    ContractError
        If a shape does not fit, or a value was hidden in no pass or in two.
    """
    whole = torch.zeros_like(signal)
    times = torch.zeros_like(signal)
    for part in range(n_parts):
        guess = guess_hidden(model, signal, xyz, hidden=parts == part)
        whole = torch.where(guess.hidden, guess.values, whole)
        times += guess.hidden
    if not bool((times == 1).all()):
        raise ContractError(
            f"of {times.numel()} values {int((times != 1).sum())} were not hidden exactly once",
            fix=f"give each token a part from 0 to {n_parts - 1}",
        )
    return whole


def _put_back(model: BrainLm, rows: Tensor, mask: Tensor, order: Tensor) -> Guess:
    """Bring rows of the network to the order of the input, and values to its unit."""
    back = order.argsort(dim=1)[..., None].expand_as(rows)
    return Guess(rows.gather(1, back) * model.unit, mask.gather(1, back).bool())


def _check_length(seen: int, horizon: int) -> None:
    if seen < 1 or horizon < 1 or seen + horizon != LENGTH:
        raise ContractError(
            f"{seen} volumes are to be seen and {horizon} forecast; this family has windows of "
            f"{LENGTH} volumes, those seen and those forecast together",
            fix=f"see {LENGTH - 20} volumes and forecast 20, or use the native BrainLM",
        )
