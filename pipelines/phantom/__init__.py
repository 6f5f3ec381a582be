"""A BIDS dataset with known truth: anatomy, motion, distortion and signals.

The story: :mod:`~neurostorm_app.pipelines.phantom.head` in template space,
:mod:`~neurostorm_app.pipelines.phantom.people` who differ from it, their
:mod:`~neurostorm_app.pipelines.phantom.networks`, the scans of them
(:mod:`~neurostorm_app.pipelines.phantom.anat`, :mod:`~neurostorm_app.pipelines.phantom.bold`,
:mod:`~neurostorm_app.pipelines.phantom.fieldmaps`), the
:mod:`~neurostorm_app.pipelines.phantom.dataset` of all that, its
:mod:`~neurostorm_app.pipelines.phantom.truth`, and the
:mod:`~neurostorm_app.pipelines.phantom.score` of a result against it.
"""

from neurostorm_app.pipelines.phantom.dataset import make_phantom
from neurostorm_app.pipelines.phantom.head import TEMPLATE_SPACE
from neurostorm_app.pipelines.phantom.parcels import ParcelSignals
from neurostorm_app.pipelines.phantom.score import (
    score_coregistration,
    score_field,
    score_motion,
    score_normalization,
)
from neurostorm_app.pipelines.phantom.standard import standard_series
from neurostorm_app.pipelines.phantom.truth import (
    ParticipantTruth,
    PhantomTruthPaths,
    RunTruth,
    read_participant_truth,
    read_run_truth,
)

__all__ = [
    "TEMPLATE_SPACE",
    "ParcelSignals",
    "ParticipantTruth",
    "PhantomTruthPaths",
    "RunTruth",
    "make_phantom",
    "read_participant_truth",
    "read_run_truth",
    "score_coregistration",
    "score_field",
    "score_motion",
    "score_normalization",
    "standard_series",
]
