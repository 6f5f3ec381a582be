"""The door to the evaluation of a cohort: which learners there are, and what is told of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from neurostorm_app.pipelines.progress import advance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neurostorm_app.bids_app.group.cohort import Gathered
    from neurostorm_app.pipelines.evaluate.cohort import Design
    from neurostorm_app.pipelines.evaluate.compare import Comparison

__all__ = ["compare_sources"]

log = logging.getLogger(__name__)


def compare_sources(
    gathered: Gathered,
    design: Design,
    baselines: Sequence[Literal["bnt", "gcn"]],
    demos: Sequence[str],
) -> Comparison:
    """Evaluate all sources of a cohort, and say in the log how far that is.

    Parameters
    ----------
    gathered : Gathered
        The cohort.
    design : Design
        How.
    baselines : sequence of str
        Networks that are trained on the connectomes inside the folds.
    demos : sequence of str
        Sources whose weights are not for science.
    """
    from neurostorm_app.pipelines.evaluate.compare import CONNECTOME, Contender, compare

    learners: dict[str, Contender] = {}
    for name in baselines:
        from neurostorm_app.pipelines.evaluate.networks import NetworkLearner

        learners[name] = Contender(source=CONNECTOME, learner=NetworkLearner(name))
    return compare(
        gathered.cohort, design, learners=learners, demos=demos, progress=_tell(gathered)
    )


def _tell(gathered: Gathered) -> Callable[[str, int, int], None]:
    """Make what logs how far the evaluation of a target is."""
    name = gathered.cohort.target.name

    def tell(title: str, done: int, total: int) -> None:
        log.info("target %s: %d of %d: %s", name, done + 1, total, title)
        advance(done, total, "sources")

    return tell
