"""Training: the demo weights on phantoms, and networks on the runs of a user.

The demos (``neurostorm-tools train demo NAME``): one seed and one number of threads make one file.
:mod:`~neurostorm_app.pipelines.train.volumes` trains ``neurostorm-demo``,
:mod:`~neurostorm_app.pipelines.train.parcels` trains ``brainlm-demo``, and
:mod:`~neurostorm_app.pipelines.train.matching` says how well embeddings tell people apart.

On a user's runs (``train pretrain``, ``train tune``):
:mod:`~neurostorm_app.pipelines.train.cache` makes runs ready,
:mod:`~neurostorm_app.pipelines.train.engine` is the loop,
:mod:`~neurostorm_app.pipelines.train.pretraining` and
:mod:`~neurostorm_app.pipelines.train.tuning` are what is learnt, and
:mod:`~neurostorm_app.pipelines.train.export` makes a model of it.
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
