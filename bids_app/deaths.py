"""What a process that a signal ended most likely died of, for the user."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import AppError, InputOutputError, TemporaryError
from neurostorm_app.pipelines.cgroups import limit_that_killed, read_memory_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.pipelines.cgroups import MemoryGroup

__all__ = ["tell_death"]

GIB: Final = 2**30
MEMORY: Final = (
    "call again with more memory for the job, or a smaller --nprocs; --mem says how much it may"
    " plan with, and --dry-run how much it needs"
)


def tell_death(signum: int, groups: Sequence[MemoryGroup] = ()) -> AppError:
    """Say what a process that a signal ended most likely died of.

    Parameters
    ----------
    signum : int
        Which signal.
    groups : sequence of MemoryGroup
        Control groups of this process, read before that one was started.

    Returns
    -------
    AppError
        To be raised.
    """
    name = signal.Signals(signum).name
    if signum == signal.SIGKILL:
        return _killed(groups)
    if signum == signal.SIGBUS:
        return InputOutputError(
            "a file that was being read vanished or could not be read (SIGBUS)",
            fix="check the disk or the network share, then call again",
        )
    return AppError(
        f"the work ended by {name}",
        fix="this is a defect: please report it with the log file in OUTPUT_DIR/logs",
    )


def _killed(before: Sequence[MemoryGroup]) -> TemporaryError:
    """Say who killed a process, as far as the kernel's counts tell it."""
    after = read_memory_groups()
    limit = limit_that_killed(before, after)
    if limit:
        return TemporaryError(
            "the work was killed (SIGKILL): the kernel ended it because the memory limit of"
            f" {limit / GIB:.1f} GiB of its control group was reached",
            fix=MEMORY,
        )
    if limit is not None:
        return TemporaryError(
            "the work was killed (SIGKILL): the kernel ended it because the memory of the machine"
            " was used up",
            fix=MEMORY,
        )
    if before and after:
        return TemporaryError(
            "the work was killed (SIGKILL), by whom is not known: the kernel did not end it for its"
            " memory; a person, a scheduler or a guard of the machine may have",
            fix="ask who ends jobs here and why; where it is for memory or time, call again with"
            " more of it for the job",
        )
    return TemporaryError(
        "the work was killed (SIGKILL), by whom is not known; most often it is because its memory"
        " was used up",
        fix=MEMORY,
    )
