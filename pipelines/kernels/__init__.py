"""Loops of the resampler and the motion estimator, compiled by numba: arrays in, arrays out.

What was compiled is kept where the loops of the models are. To fill that folder ahead, for
instance while an image is built: ``python -m neurostorm_app.pipelines.kernels``.
"""

from neurostorm_app.models.kernels import kept_in, scan_cache

__all__ = ["alignment", "sampling", "spline", "taps"]

with kept_in(scan_cache()):  # numba looks for the folder when it sees a loop
    from neurostorm_app.pipelines.kernels import alignment, sampling, spline, taps
