"""Foundation-model embeddings of fMRI scans, from BIDS to BIDS, offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from neurostorm_app.bids_app.results import AppResult

__all__ = ["run"]


def run(
    bids_dir: str | PathLike[str],
    output_dir: str | PathLike[str],
    level: str = "participant",
    **options: Any,
) -> AppResult:
    """Do what ``neurostorm-app BIDS_DIR OUTPUT_DIR LEVEL`` does.

    Parameters
    ----------
    bids_dir, output_dir : path
        The dataset, and the folder of the results; it is made if it is not there.
    level : str
        ``participant`` or ``group``.
    **options
        The options of the command with underscores, such as ``models=["connectome"]``,
        ``participant_label=["01"]`` or ``derivatives={"fmriprep": "/data/fmriprep"}``. One
        process runs unless ``nprocs`` says otherwise; with more, the caller's main part stands
        under ``if __name__ == "__main__":``, because processes are started afresh.

    Returns
    -------
    AppResult
        With ``exit_code``, ``runs`` (one result a run, failed ones included) and ``paths``.

    Raises
    ------
    AppError
        If nothing could be started at all; a run that fails is in the result instead.

    Examples
    --------
    >>> from neurostorm_app import run
    >>> result = run("/data/bids", "/data/out", models=["connectome"])  # doctest: +SKIP
    >>> result.exit_code  # doctest: +SKIP
    0
    """
    from neurostorm_app.bids_app.app import run_app
    from neurostorm_app.bids_app.settings import build_settings

    return run_app(build_settings(bids_dir, output_dir, level, {"nprocs": 1, **options}))


def __getattr__(name: str) -> str:
    """Read the version when it is asked for: the package's metadata are slow to find."""
    if name == "__version__":
        from importlib.metadata import version

        return version("neurostorm-app")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
