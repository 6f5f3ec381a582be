from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom import TEMPLATE_SPACE, standard_series
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.templates import between
from neurostorm_app.pipelines.train import score_preprocessed

if TYPE_CHECKING:
    from pathlib import Path

PEOPLE = ("01", "02", "03")
GRID = Grid((36, 44, 36), from_matvec(np.diag([5.0] * 3), [-87.0, -125.0, -77.0]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[StandardSeries]:
    """Two runs of each participant, as preprocessing without error would leave them."""
    folder = tmp_path_factory.mktemp("runs")
    points = between("MNI152NLin6Asym", TEMPLATE_SPACE)(GRID.world())
    return [write_run(folder, points, int(label), run) for label in PEOPLE for run in (1, 2)]


def write_run(folder: Path, points: np.ndarray, person: int, run: int) -> StandardSeries:
    series, mask = standard_series(person, run, seed=5, grid=points, n_volumes=60, tr=2.0)
    files = [folder / f"sub-{person:02d}_run-{run}_{name}.nii.gz" for name in ("bold", "mask")]
    for file, volume in zip(files, (series, mask.astype(np.uint8)), strict=True):
        image = nib.Nifti1Image(volume, GRID.affine)
        if volume.ndim == 4:
            image.header.set_zooms((5.0, 5.0, 5.0, 2.0))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, file)
    return StandardSeries(
        name=f"sub-{person:02d}_run-{run}",
        bold=files[0],
        mask=files[1],
        confounds=None,
        tr=2.0,
        space="MNI152NLin6Asym",
        res="2",
    )


def test_preprocessed_runs_are_scored_as_the_index_would(runs: list[StandardSeries]) -> None:
    people = [label for label in PEOPLE for _ in (1, 2)]
    done = score_preprocessed("brainlm-demo", runs, people, n_untrained=2)
    assert (done.n_participants, done.n_runs, done.n_untrained) == (3, 6, 2)
    assert done.chance == pytest.approx(1 / 5)
    assert done.matched > done.matched_untrained
