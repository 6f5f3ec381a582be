"""The whole way on a real person's scans: `make test-slow`, where ``../shared`` is."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
MODELS = ["--models", "connectome", "neurostorm-demo"]


def app(*arguments: object) -> tuple[float, float, str]:
    """Run the command; give wall seconds, peak GiB of its largest process, and what it said."""
    began = time.perf_counter()
    command = [BIN / "neurostorm-app", *map(str, arguments)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    return time.perf_counter() - began, peak, said.stdout + said.stderr


def validate(folder: Path) -> None:
    command = [BIN / "bids-validator-deno", folder, "--ignoreWarnings"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def glm(bold: Path, mask: Path, events: Path, order: np.ndarray | None = None) -> np.ndarray:
    """t values of all pictures against rest: AR(1), cosine drift 0.01 Hz, no smoothing."""
    from nilearn.glm.first_level import FirstLevelModel

    image = nib.load(bold)
    if order is not None:
        image = nib.Nifti1Image(np.asarray(image.dataobj)[..., order], image.affine, image.header)
    table = pd.read_csv(events, sep="\t")
    table["trial_type"] = "picture"
    sidecar = bold.with_name(bold.name.replace(".nii.gz", ".json"))
    start = json.loads(sidecar.read_text()).get("StartTime", 0.0) if sidecar.exists() else 0.0
    model = FirstLevelModel(
        t_r=2.0,
        slice_time_ref=start / 2.0,
        noise_model="ar1",
        drift_model="cosine",
        high_pass=0.01,
        mask_img=str(mask),
        smoothing_fwhm=None,
        n_jobs=2,
        minimize_memory=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "given mask will be used": as asked
        model.fit(image, events=table[["onset", "duration", "trial_type"]])
    return model.compute_contrast("picture", output_type="stat")


@pytest.fixture(scope="module")
def full(shared, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("full")
    seconds, peak, _ = app(shared / "data/studyforrest-sub02", out, "participant", *MODELS)
    print(f"\nstudyforrest-sub02: {seconds / 60:.1f} min, largest process {peak:.2f} GiB")
    assert peak < 8
    assert seconds < 20 * 60
    return out


def test_the_visual_response_survives_the_way_to_mni(full, shared):
    func = full / "sub-02/func"
    bold = next(func.glob("*_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"))
    mask = next(func.glob("*_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz"))
    events = next((shared / "data/studyforrest-sub02/sub-02/func").glob("*_events.tsv"))

    image = glm(bold, mask, events)
    values = image.get_fdata()
    peak = np.unravel_index(np.argmax(values), values.shape)
    x, y, z = nib.affines.apply_affine(image.affine, peak)
    shuffled = glm(bold, mask, events, np.random.default_rng(0).permutation(156)).get_fdata()
    print(
        f"\nvisual response: peak t {values.max():.1f} at ({x:.0f}, {y:.0f}, {z:.0f}) mm, "
        f"{(values > 6).sum()} voxels above 6; shuffled volumes: peak t {shuffled.max():.1f}"
    )
    assert values.max() > 17.0, "what the series as acquired has on its own grid"
    assert y < -40, "occipital or ventral cortex"
    assert (shuffled > 6).sum() == 0


def test_the_output_of_the_full_scan_is_valid_and_a_rerun_does_nothing(full, shared):
    validate(full)
    seconds, _, said = app(shared / "data/studyforrest-sub02", full, "participant", *MODELS)
    print(f"\nrerun: {seconds:.0f} s")
    assert "nothing to do" in said


def test_the_report_of_the_full_scan_is_small_and_opens_at_once_without_trouble(
    full, visit, time_opening
):
    """What a browser complains of ends the test, too."""
    path = full / "sub-02.html"
    page = visit(path)
    assert page.title() == "sub-02 · neurostorm-app"
    assert "run" in page.locator(".answer").inner_text()
    pictures = page.locator("figure.mosaic img")
    assert pictures.count() >= 4
    widths = pictures.evaluate_all("(all) => all.map((one) => one.naturalWidth)")
    assert min(widths) > 0, "a picture cannot be drawn"
    assert path.stat().st_size < 15e6
    assert time_opening(path) < 2000  # ms


def test_nilearn_takes_the_confounds(full):
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    bold = next((full / "sub-02/func").glob("*_res-2_desc-preproc_bold.nii.gz"))
    for strategy in ("simple", "scrubbing", "compcor"):
        confounds, _ = load_confounds_strategy(str(bold), denoise_strategy=strategy)
        assert len(confounds) == 156
        assert not confounds.isna().any().any()


def test_the_small_scan_goes_all_the_way(shared, tmp_path):
    seconds, peak, _ = app(
        shared / "data/studyforrest-sub02-small", tmp_path, "participant", *MODELS
    )
    print(f"\nstudyforrest-sub02-small: {seconds / 60:.1f} min, largest process {peak:.2f} GiB")
    validate(tmp_path)


def test_somebody_elses_derivatives_are_embedded_without_preprocessing(shared, tmp_path):
    raw, derivatives = shared / "data/studyforrest-sub02", shared / "data/studyforrest-sub02-mni"
    seconds, peak, _ = app(raw, tmp_path, "participant", "-d", f"mine={derivatives}", *MODELS)
    print(f"\nstudyforrest-sub02-mni: {seconds:.0f} s, largest process {peak:.2f} GiB")
    assert len(list((tmp_path / "sub-02/func").glob("*_embedding.tsv"))) == 4
    assert not list(tmp_path.rglob("*_T1w.nii.gz"))
    validate(tmp_path)
