"""What is made of series beside embeddings, where it is asked for: without noise, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.bids_app.results import Progress

__all__ = ["derive"]


def derive(
    makers: Mapping[str, Callable[[str], Ready]], progress: Mapping[str, Progress], call: Call
) -> None:
    """Denoise and describe runs, as far as that is asked for and not done yet.

    Parameters
    ----------
    makers : mapping of str to callable
        By the name of a run: makes it ready in the space that is nearest to one that is wanted.
    progress : mapping of str to Progress
        Is told what came of each run.
    call : Call
        What all participants share; after a failure it may be over.
    """
    science = call.settings.science
    if science.denoise and not _is_over(progress, call):
        from neurostorm_app.bids_app.participant.denoising import denoise_runs

        smoothing = science.denoise_smoothing
        denoise_runs(makers, progress, call, science.strategies, smoothing=smoothing)
    if science.describe and not _is_over(progress, call):
        from neurostorm_app.bids_app.participant.describing import describe_runs
        from neurostorm_app.bids_app.participant.parcellations import find_parcellations

        describe_runs(makers, progress, call, find_parcellations(call))


def _is_over(progress: Mapping[str, Progress], call: Call) -> bool:
    return call.stops and any(run.errors for run in progress.values())
