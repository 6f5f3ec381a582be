"""What is known of a run in numbers: from its table of confounds, its masks and its series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.bids_app.report.panels import Notice, attempt
from neurostorm_app.bids_app.report.reading import Table, finite, numbers, read_table
from neurostorm_app.bids_app.report.verdict import FD_HIGH, Measures
from neurostorm_app.pipelines.figures import (
    SeriesSummary,
    mask_overlap,
    read_volume,
    summarise_series,
)
from neurostorm_app.pipelines.header import read_series_header

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neurostorm_app.bids_app.report.tree import Anatomy, RunFiles

__all__ = ["Material", "gather", "measure", "take_registration"]


@dataclass(kw_only=True)
class Material:
    """What a run's numbers and figures are made from.

    Parameters
    ----------
    run : RunFiles
        Its files.
    anatomy : Anatomy or None
        The anatomical images in the same space.
    table : dict
        Confounds; empty if there is no table.
    tr : float or None
        Repetition time in seconds.
    summary : SeriesSummary or None
        The series; None if it is not there, is damaged, or was not asked for.
    """

    run: RunFiles
    anatomy: Anatomy | None
    table: Table
    tr: float | None
    summary: SeriesSummary | None = None


def gather(
    run: RunFiles, anatomy: Anatomy | None, notices: list[Notice], *, images: bool = True
) -> Material:
    """Read the table of a run and, if asked, its series; what is damaged becomes a notice."""
    table = attempt(notices, lambda: read_table(run.confounds)) or {}
    tr = attempt(notices, lambda: _repetition_time(run))
    have = Material(run=run, anatomy=anatomy, table=table, tr=tr)
    if images and run.bold is not None:
        have.summary = attempt(notices, lambda: _summarise(have))
    return have


def _repetition_time(run: RunFiles) -> float | None:
    """Take the repetition time from the sidecar or, if it is silent, from the header."""
    tr = finite(run.sidecar.get("RepetitionTime"))
    if tr is not None and tr > 0:
        return tr
    return read_series_header(run.bold).tr if run.bold is not None else None


def _summarise(have: Material) -> SeriesSummary | None:
    if have.run.bold is None:
        return None
    dseg = have.anatomy.dseg if have.anatomy else None
    return summarise_series(have.run.bold, mask=have.run.mask, dseg=dseg)


def measure(have: Material, notices: list[Notice], *, images: bool = True) -> Measures:
    """Collect what is known of a run in numbers; masks are read only if asked."""
    measures = Measures(error=dict(have.run.report.get("error") or {}))
    n = have.summary.n_volumes if have.summary else None
    fd = numbers(have.table, "framewise_displacement")
    if fd is not None and np.isfinite(fd).any():
        known = fd[np.isfinite(fd)]
        measures.mean_fd, measures.max_fd = float(known.mean()), float(known.max())
        measures.share_high = float((known > FD_HIGH).sum() / fd.size)
        if have.tr:
            measures.quiet_minutes = float(((fd <= FD_HIGH) | np.isnan(fd)).sum() * have.tr / 60)
        n = n or fd.size
    if have.tr and n:
        measures.minutes = n * have.tr / 60
        if measures.quiet_minutes is not None:
            measures.quiet_minutes = min(measures.quiet_minutes, measures.minutes)
    if have.summary:
        tsnr = have.summary.median_tsnr
        measures.tsnr = tsnr.get("grey matter", tsnr["brain"])
    if images:
        attempt(notices, lambda: _compare_masks(have, measures))
    measures.forget_infinite()
    return measures


def take_registration(measures: Measures, qc: Mapping[str, Any]) -> None:
    """Take the numbers of the two registrations from the records of the preprocessing.

    Parameters
    ----------
    measures : Measures
        Gets them.
    qc : mapping
        Records of the participant's anatomy and of the run.
    """
    measures.edge_cost = _number(qc, "coregistration", "cost")
    measures.likeness = _number(qc, "normalization", "correlation_with_template")


def _number(qc: Mapping[str, Any], step: str, name: str) -> float | None:
    record = qc.get(step)
    return finite(record.get(name)) if isinstance(record, dict) else None


def _compare_masks(have: Material, measures: Measures) -> None:
    """Compare the run's mask with the participant's brain, or with the template's."""
    run = have.run
    if run.mask is None or run.space is None:
        return
    mask = read_volume(run.mask)
    if have.anatomy and have.anatomy.mask:
        measures.dice, measures.coverage = mask_overlap(mask, read_volume(have.anatomy.mask))
        measures.coverage_of = "participant's brain"
        return
    from neurostorm_app.pipelines.templates import load_template

    template = load_template(run.space, run.res or "2")
    _, measures.coverage = mask_overlap(mask, read_volume(template.mask))
    measures.coverage_of = "template's brain"
