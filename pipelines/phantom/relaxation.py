"""How fast the signal of each tissue decays after excitation: what several echoes show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.phantom.head import signal_left
from neurostorm_app.pipelines.phantom.settings import ECHO_TIME

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.head import Head

__all__ = ["T2STAR", "relaxation_rates"]

T2STAR = (0.030, 0.050, 0.045, 0.100)
"""T2* far from air at 3 T, s: not brain, grey matter, white matter, fluid."""


def relaxation_rates(head: Head) -> NDArray[np.float32]:
    """Compute R2* in template space: that of the tissue, and what air beside it adds.

    Parameters
    ----------
    head : Head
        Its ``epi`` is the signal at 30 ms, in which air has left the share of
        :func:`~neurostorm_app.pipelines.phantom.head.signal_left`.

    Returns
    -------
    ndarray, shape (X, Y, Z), float32
        1/s.

    References
    ----------
    Wansapura J. P. et al. 1999, J. Magn. Reson. Imaging 9:531, T2* of grey and white matter.
    """
    tissue = (1 / np.asarray(T2STAR, dtype=np.float32))[head.tissue]
    air = -np.log(signal_left(head.grid)) / np.float32(ECHO_TIME)
    return np.asarray(tissue + air, dtype=np.float32)
