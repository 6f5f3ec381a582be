"""The errors of the house and the exit code of each: the only place that knows the codes.

An error says what was found, with path, value and unit; ``fix`` says what to do about it.
The codes are those of the BIDS execution specification (BIDS Apps 2.0), so that a scheduler
can tell a bad dataset from a full disk without reading a log.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "AnalysisLevelError",
    "AppError",
    "BidsError",
    "CannotCreateError",
    "ContractError",
    "CorruptImageError",
    "DataError",
    "ExitCode",
    "InputOutputError",
    "InvocationError",
    "MissingWeightsError",
    "NoInputError",
    "NothingSelectedError",
    "SeriesTooShortError",
    "TemporaryError",
    "UsageError",
    "WrongWeightsError",
]


class ExitCode(IntEnum):
    """Exit codes of BIDS Apps 2.0.

    References
    ----------
    BIDS execution specification, BEP027, "Exit codes".
    """

    SUCCESS = 0
    FAILURE = 1
    INVALID_BIDS = 16
    UNKNOWN_LEVEL = 17
    NOTHING_SELECTED = 18
    ARGUMENTS_AND_INVOCATION = 19
    USAGE = 64
    DATA = 65
    NO_INPUT = 66
    CANNOT_CREATE = 73
    INPUT_OUTPUT = 74
    TEMPORARY = 75


class AppError(Exception):
    """Something the user can act upon.

    Parameters
    ----------
    what : str
        What was found and what was expected, with path, value and unit.
    fix : str
        What to do about it.
    """

    exit_code = ExitCode.FAILURE

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip between processes, where keyword arguments get lost."""
        return _rebuild, (type(self), self.what, self.fix)


def _rebuild(kind: type[AppError], what: str, fix: str) -> AppError:
    return kind(what, fix=fix)


class BidsError(AppError, ValueError):
    """The input is not a valid BIDS dataset."""

    exit_code = ExitCode.INVALID_BIDS


class AnalysisLevelError(AppError, ValueError):
    """The analysis level is not one of ours."""

    exit_code = ExitCode.UNKNOWN_LEVEL


class NothingSelectedError(AppError, LookupError):
    """The filters leave nothing to work on."""

    exit_code = ExitCode.NOTHING_SELECTED


class InvocationError(AppError, ValueError):
    """Arguments and an invocation file came together."""

    exit_code = ExitCode.ARGUMENTS_AND_INVOCATION


class UsageError(AppError, ValueError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class DataError(AppError, ValueError):
    """The data cannot be used as they are."""

    exit_code = ExitCode.DATA


class CorruptImageError(DataError):
    """An image file is truncated or damaged, or its header makes no sense."""


class SeriesTooShortError(DataError):
    """The series has fewer volumes than one window of the model."""


class ContractError(DataError):
    """The input cannot be brought to what a model eats."""


class WrongWeightsError(DataError):
    """The weights are damaged, or belong to another model."""


class NoInputError(AppError, FileNotFoundError):
    """An input is not there."""

    exit_code = ExitCode.NO_INPUT


class MissingWeightsError(NoInputError):
    """The weights of a model are not on this machine."""


class CannotCreateError(AppError, OSError):
    """An output cannot be created: no permission, no space, or a place that is not ours."""

    exit_code = ExitCode.CANNOT_CREATE


class InputOutputError(AppError, OSError):
    """Reading or writing failed half-way."""

    exit_code = ExitCode.INPUT_OUTPUT


class TemporaryError(AppError, RuntimeError):
    """A failure that trying again may cure, such as too little memory at the moment."""

    exit_code = ExitCode.TEMPORARY
