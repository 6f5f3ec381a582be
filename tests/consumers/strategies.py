"""Whether nilearn really loads the confounds of a strategy and cleans a series with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.signal import clean

if TYPE_CHECKING:
    from pathlib import Path

STRATEGIES = ("simple", "scrubbing", "compcor", "ica_aroma")


def load_and_clean(path: Path, strategy: str) -> bool:
    """Load confounds and take them off the series; False if what is left is not finite."""
    found, kept = load_confounds_strategy(str(path), denoise_strategy=strategy)
    voxels = np.asarray(nib.load(path).dataobj)[1, 1].T
    cleaned = clean(voxels, confounds=found, sample_mask=kept, detrend=False, standardize=None)
    return bool(np.isfinite(cleaned).all())
