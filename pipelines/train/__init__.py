"""Train the demo weights on phantoms: one seed and one number of threads make one file.

The command is ``neurostorm-tools train NAME``.
:mod:`~neurostorm_app.pipelines.train.volumes` trains ``neurostorm-demo``,
:mod:`~neurostorm_app.pipelines.train.parcels` trains ``brainlm-demo``, and
:mod:`~neurostorm_app.pipelines.train.matching` says how well embeddings tell people apart.
"""

from neurostorm_app.pipelines.train.matching import Matching, compare_matching, find_hits
from neurostorm_app.pipelines.train.parcels import ParcelTraining, train_parcels
from neurostorm_app.pipelines.train.preprocessed import score_preprocessed
from neurostorm_app.pipelines.train.volumes import Training, train_volumes

__all__ = [
    "Matching",
    "ParcelTraining",
    "Training",
    "compare_matching",
    "find_hits",
    "score_preprocessed",
    "train_parcels",
    "train_volumes",
]
