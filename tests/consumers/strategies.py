"""Whether nilearn really loads the confounds of a strategy and cleans a series with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.signal import clean
from verdicts import all_work

if TYPE_CHECKING:
    from pathlib import Path

    from verdicts import Copy

STRATEGIES = ("simple", "scrubbing", "compcor", "ica_aroma")


def do_strategies(copy: Copy) -> dict[str, bool]:
    """Clean the series of a copy by each strategy."""
    series = copy.series() + copy.func("*_desc-preproc_bold.nii")
    aroma = copy.func("*_desc-smoothAROMAnonaggr_bold.nii.gz")
    return {
        name: all_work(
            lambda path, name=name: load_and_clean(path, name),
            aroma if name == "ica_aroma" else series,
        )
        for name in STRATEGIES
    }


def load_and_clean(path: Path, strategy: str) -> bool:
    """Load confounds and take them off the series; False if what is left is not finite."""
    found, kept = load_confounds_strategy(str(path), denoise_strategy=strategy)
    voxels = np.asarray(nib.load(path).dataobj)[1, 1].T
    cleaned = clean(voxels, confounds=found, sample_mask=kept, detrend=False, standardize=None)
    return bool(np.isfinite(cleaned).all())
