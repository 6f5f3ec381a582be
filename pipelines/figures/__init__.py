"""Figures of the reports: arrays and paths in, SVG text and compressed images out.

Pictures of volumes are cut along the axes of the world, so that left is on the left whatever
the orientation of the file; charts are vector graphics whose colours follow the page.
"""

from neurostorm_app.pipelines.figures.carpet import Trace, carpet_figure, motion_figure
from neurostorm_app.pipelines.figures.correlations import confound_figure, correlate
from neurostorm_app.pipelines.figures.mosaic import Contour, Mosaic, Picture, draw_mosaic
from neurostorm_app.pipelines.figures.neighbourhood import neighbourhood
from neurostorm_app.pipelines.figures.position import position_figure
from neurostorm_app.pipelines.figures.slices import Volume, mask_overlap, near, read_volume
from neurostorm_app.pipelines.figures.summary import SeriesSummary, summarise_series
from neurostorm_app.pipelines.figures.vectors import (
    cohort_figure,
    connectome_figure,
    project,
    similarity,
    similarity_figure,
    trajectory_figure,
)

__all__ = [
    "Contour",
    "Mosaic",
    "Picture",
    "SeriesSummary",
    "Trace",
    "Volume",
    "carpet_figure",
    "cohort_figure",
    "confound_figure",
    "connectome_figure",
    "correlate",
    "draw_mosaic",
    "mask_overlap",
    "motion_figure",
    "near",
    "neighbourhood",
    "position_figure",
    "project",
    "read_volume",
    "similarity",
    "similarity_figure",
    "summarise_series",
    "trajectory_figure",
]
