"""Confounds: each against its definition, and against nipype where nipype has it."""

from __future__ import annotations

import json
from dataclasses import fields

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nipype.algorithms.confounds import (
    _cosine_drift,
    compute_dvars,
    compute_noise_components,
    regress_poly,
)
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.noise.confound_table import ConfoundInputs, make_confounds
from neurostorm_app.pipelines.preprocess.noise.confounds import (
    compcor,
    cosine_basis,
    dvars,
    find_tcompcor_voxels,
    one_hot,
)
from neurostorm_app.pipelines.preprocess.noise.movement import (
    framewise_displacement,
    movement_parameters,
    rms_motion,
)
from neurostorm_app.pipelines.preprocess.noise.noisemask import (
    find_crown,
    find_noise_voxels,
    sample_gaussian,
)
from neurostorm_app.pipelines.xfm import Affine

GRID = Grid((7, 8, 9), from_matvec(np.diag([-3.0, 3, 4]), [10, -11, -12]))
T = 90


@pytest.fixture
def series(rng):
    """Brain voxels (V, T) with drift, autocorrelation and unequal means."""
    noise = rng.normal(0, 10, (300, T))
    noise[:, 1:] += 0.4 * noise[:, :-1]
    drift = np.outer(rng.normal(0, 20, 300), np.linspace(-1, 1, T) ** 2)
    return (rng.uniform(500, 900, (300, 1)) + noise + drift).astype(np.float32)


def as_image(series, path):
    data = np.zeros((7, 8, 9, series.shape[1]), np.float32)
    mask = np.zeros((7, 8, 9), np.uint8)
    mask.ravel()[: len(series)] = 1
    data[mask > 0] = series
    nib.save(nib.Nifti1Image(data, GRID.affine), path / "bold.nii.gz")
    nib.save(nib.Nifti1Image(mask, GRID.affine), path / "mask.nii.gz")
    return data, nib.load(path / "mask.nii.gz")


def test_framewise_displacement_by_hand():
    parameters = np.zeros((3, 6))
    parameters[1] = [1, -2, 0.5, 0.01, 0, -0.02]
    expected = 1 + 2 + 0.5 + 50 * 0.03  # mm
    np.testing.assert_allclose(
        framewise_displacement(parameters), [np.nan, expected, expected], atol=1e-12
    )


def test_rms_motion_of_a_shift_is_its_length():
    matrices = np.stack([from_matvec(np.eye(3), [0, 3.0 * t, 4.0 * t]) for t in range(3)])
    np.testing.assert_allclose(rms_motion(matrices, GRID), [np.nan, 5, 5], atol=1e-9)  # mm


def test_rms_motion_is_that_of_fsl_coordinates(rng):
    from nitransforms.io.fsl import FSLLinearTransformArray

    matrices = np.stack(
        [from_matvec(euler2mat(*rng.normal(0, 0.02, 3)), rng.normal(0, 1, 3)) for _ in range(5)]
    )
    image = nib.Nifti1Image(np.zeros(GRID.shape, np.float32), GRID.affine)
    array = FSLLinearTransformArray.from_ras(matrices, reference=image, moving=image)
    fsl = np.stack([np.asarray(xfm["parameters"]) for xfm in array.xforms])
    rest = fsl[1:] @ np.linalg.inv(fsl[:-1]) - np.eye(4)
    centre = 0.5 * (np.array(GRID.shape) - 1) * GRID.zooms
    shift = rest[:, :3, 3] + rest[:, :3, :3] @ centre
    turn = np.trace(rest[:, :3, :3].transpose(0, 2, 1) @ rest[:, :3, :3], axis1=1, axis2=2)
    expected = np.sqrt((shift**2).sum(axis=1) + turn * 80**2 / 5)
    np.testing.assert_allclose(rms_motion(matrices, GRID)[1:], expected, rtol=1e-6)


def test_dvars_is_that_of_nipype(series, tmp_path, monkeypatch):
    def yule_walker(values, order):
        assert order == 1
        lagged = [values[k:] @ values[: len(values) - k] for k in range(2)]
        return [lagged[1] / lagged[0]]

    monkeypatch.setattr("nipype.algorithms.confounds._AR_est_YW", yule_walker)  # needs nitime
    series[5] = 7.0  # a voxel without variance is left out
    as_image(series, tmp_path)
    theirs = compute_dvars(
        tmp_path / "bold.nii.gz", tmp_path / "mask.nii.gz", remove_zerovariance=True
    )
    standardised, plain = dvars(series)
    assert np.isnan(standardised[0])
    assert np.isnan(plain[0])
    np.testing.assert_allclose(standardised[1:], theirs[0], rtol=1e-4)
    np.testing.assert_allclose(plain[1:], theirs[1], rtol=1e-4)


def test_white_noise_has_standardised_dvars_of_one(rng):
    standardised, _ = dvars(1000 + rng.normal(0, 10, (2000, 400)))
    assert standardised[1:].mean() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("n_volumes", "tr"), [(156, 2.0), (40, 2.0), (20, 0.8), (700, 0.72)])
def test_cosines_are_those_of_nipype_and_orthonormal(n_volumes, tr):
    ours = cosine_basis(n_volumes, tr)
    theirs = _cosine_drift(128, tr * np.arange(n_volumes))[:, :-1]
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(ours.T @ ours, np.eye(ours.shape[1]), atol=1e-10)


def test_compcor_is_that_of_nipype_up_to_sign(series, tmp_path):
    data, mask = as_image(series, tmp_path)
    theirs, _, metadata = compute_noise_components(
        data, [mask], 0.5, "cosine", 0, 128, 2.0, mask_names=["CSF"]
    )
    found = compcor(series, basis=cosine_basis(T, 2.0))
    assert found.series.shape == theirs.shape
    overlap = np.abs((found.series * theirs).sum(axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    n = theirs.shape[1]
    assert metadata["retained"] == [number < n for number in range(len(found.singular_values))]
    largest = metadata["singular_value"][0]
    np.testing.assert_allclose(
        found.singular_values, metadata["singular_value"], atol=1e-4 * largest
    )
    np.testing.assert_allclose(
        found.cumulative, metadata["cumulative_variance_explained"], rtol=1e-4
    )


@pytest.mark.parametrize(("keep", "n_kept"), [(24, 24), (np.inf, 60), (0.99, None)])
def test_compcor_keeps_as_many_components_as_asked(keep, n_kept, series):
    found = compcor(series[:60], basis=cosine_basis(T, 2.0), keep=keep)
    assert len(found.singular_values) == 60
    if n_kept is None:
        n_kept = np.searchsorted(found.cumulative, keep) + 1
    assert found.series.shape == (T, n_kept)


def test_compcor_leaves_unsteady_volumes_at_zero(series):
    series[:, :3] += 500
    found = compcor(series, basis=cosine_basis(T - 3, 2.0), n_skipped=3)
    np.testing.assert_array_equal(found.series[:3], 0)
    np.testing.assert_allclose((found.series**2).sum(axis=0), 1, atol=1e-9)


@pytest.mark.parametrize(("keep", "n_kept"), [(0.5, 1), (24, 20)])
def test_a_mask_without_variance_has_components_that_are_not_numbers(keep, n_kept):
    silent = np.outer(np.linspace(3, 7, 30), np.ones(20)).astype(np.float32)
    found = compcor(silent, basis=cosine_basis(20, 2.0), keep=keep)
    assert found.series.shape == (20, n_kept)
    assert np.isnan(found.series).all()


def test_a_mask_without_voxels_has_no_components():
    assert compcor(np.ones((0, 20)), basis=cosine_basis(20, 2.0)).series.shape == (20, 0)


def test_a_voxel_that_is_not_a_number_counts_as_silent(series):
    basis = cosine_basis(T, 2.0)
    expected = compcor(series[1:], basis=basis)
    series[0, 3] = np.nan
    found = compcor(series, basis=basis)
    np.testing.assert_allclose(found.series, expected.series, atol=1e-9)


def test_blocks_do_not_change_the_numbers(series, monkeypatch):
    basis = cosine_basis(T, 2.0)
    before = dvars(series), compcor(series, basis=basis), find_tcompcor_voxels(series)
    monkeypatch.setattr("neurostorm_app.pipelines.preprocess.noise.confounds.BLOCK", 37)
    after = dvars(series), compcor(series, basis=basis), find_tcompcor_voxels(series)
    np.testing.assert_allclose(before[0], after[0], rtol=1e-12)
    np.testing.assert_allclose(before[1].series, after[1].series, atol=1e-9)
    np.testing.assert_array_equal(before[2], after[2])


def test_tcompcor_takes_the_two_percent_that_nipype_takes(series):
    spread = np.std(regress_poly(2, series)[0], axis=-1)
    theirs = spread >= np.percentile(spread, 98)
    np.testing.assert_array_equal(find_tcompcor_voxels(series), theirs)


def test_one_hot_marks_one_volume_a_column():
    np.testing.assert_array_equal(one_hot([1, 3], 4), [[0, 0], [1, 0], [0, 0], [0, 1]])
    assert one_hot([], 4).shape == (4, 0)


def inputs(series, rng, **changes):
    noise = {letter: rng.random(len(series)) < 0.3 for letter in "cwa"}
    matrices = np.stack(
        [from_matvec(euler2mat(*rng.normal(0, 1e-3, 3)), rng.normal(0, 0.03, 3)) for _ in range(T)]
    )
    matrices[50, :3, 3] += 2.0  # mm
    given = {
        "series": series,
        "noise": noise,
        "matrices": matrices,
        "reference": rng.uniform(1, 2, GRID.shape).astype(np.float32),
        "grid": GRID,
        "tr": 2.0,
        "n_skipped": 2,
        "edge": rng.normal(500, 10, (70, T)).astype(np.float32),
    }
    return ConfoundInputs(**(given | changes))


def test_the_table_has_the_columns_of_fmriprep_in_its_order(series, rng, shared):
    table, metadata = make_confounds(inputs(series, rng))
    table = table.filter(regex="^(?!edge_comp_)")  # theirs is of a version without a crown
    theirs = pd.read_csv(
        shared / "data/fmriprep/confounds/test-v21_desc-confounds_timeseries.tsv", sep="\t"
    )

    def families(names):
        stems = [n.rstrip("0123456789") if "comp_cor" in n else n for n in names]
        stems = [
            n.rstrip("0123456789") if n.startswith(("cos", "non", "mot")) else n for n in stems
        ]
        return list(dict.fromkeys(stems))

    assert set(families(theirs.columns)) == set(families(table.columns))

    def parents(names):
        return [n for n in families(names) if "derivative" not in n and "power" not in n]

    assert parents(table.columns) == parents(theirs.columns)
    assert set(metadata) >= {"csf", "white_matter", "csf_wm", "global_signal", "a_comp_cor_00"}


def test_values_of_the_table_follow_their_definitions(series, rng):
    given = inputs(series, rng)
    table, _ = make_confounds(given)
    np.testing.assert_allclose(table["global_signal"], series.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(table["csf"], series[given.noise["c"]].mean(axis=0), rtol=1e-5)
    step = np.diff(table["trans_x"])
    assert np.isnan(table["trans_x_derivative1"][0])
    np.testing.assert_allclose(table["trans_x_derivative1"][1:], step)
    np.testing.assert_allclose(table["trans_x_derivative1_power2"][1:], step**2)
    np.testing.assert_allclose(table["trans_x_power2"], table["trans_x"] ** 2)
    unsteady = table[["non_steady_state_outlier00", "non_steady_state_outlier01"]]
    np.testing.assert_array_equal(unsteady.to_numpy()[:3], [[1, 0], [0, 1], [0, 0]])
    marked = [int(table[n].argmax()) for n in table if n.startswith("motion_outlier")]
    above = (table["framewise_displacement"] > 0.5) | (table["std_dvars"] > 1.5)
    assert marked == list(np.flatnonzero(above))
    assert {50, 51} <= set(marked)


def test_nothing_above_the_thresholds_makes_no_outlier_columns(series, rng):
    table, _ = make_confounds(inputs(series, rng), fd_threshold=1e3, dvars_threshold=1e3)
    assert not [name for name in table if name.startswith("motion_outlier")]


def test_an_empty_noise_mask_leaves_its_columns_out(series, rng):
    noise = {letter: np.zeros(len(series), bool) for letter in "cwa"}
    table, metadata = make_confounds(inputs(series, rng, noise=noise))
    assert "csf" not in table
    assert "c_comp_cor_00" not in metadata


def test_without_a_t1w_image_there_is_no_acompcor(series, rng):
    table, _ = make_confounds(inputs(series, rng, noise={}))
    assert "white_matter" not in table
    assert "t_comp_cor_00" in table


def test_the_crown_gives_24_components_after_acompcor(series, rng):
    table, metadata = make_confounds(inputs(series, rng))
    names = list(table.columns)
    edges = [name for name in names if name.startswith("edge")]
    assert edges == [f"edge_comp_{number:02d}" for number in range(24)]
    assert names[names.index("edge_comp_00") - 1].startswith("a_comp_cor")
    assert names[names.index("edge_comp_23") + 1] == "cosine00"
    assert metadata["edge_comp_00"]["Method"] == "EdgeRegressor"
    assert metadata["edge_comp_00"]["Mask"] == "Edge"
    assert metadata["dropped_0"]["Retained"] is False  # fMRIPrep does not filter these
    assert "dropped_45" in metadata  # 70 voxels have 70 components


def test_all_components_are_returned_when_asked_for(series, rng):
    given = inputs(series, rng)
    some, _ = make_confounds(given)
    table, metadata = make_confounds(given, return_all_components=True)
    n_voxels = int(given.noise["w"].sum())
    found = [name for name in table if name.startswith("w_comp_cor")]
    assert len(found) == min(n_voxels, T - 2)
    assert metadata[found[-1]]["Retained"] is True
    np.testing.assert_array_equal(table["w_comp_cor_00"], some["w_comp_cor_00"])


def test_the_crown_must_be_given(series, rng):
    given = inputs(series, rng)
    rest = {field.name: getattr(given, field.name) for field in fields(given)}
    del rest["edge"]
    with pytest.raises(TypeError, match="edge"):
        ConfoundInputs(**rest)


def test_what_cannot_be_decomposed_is_null_in_the_sidecar(series, rng):
    edge = np.ones((50, T), np.float32)
    table, metadata = make_confounds(inputs(series, rng, edge=edge))
    assert table["edge_comp_23"].isna().all()
    assert metadata["edge_comp_00"]["SingularValue"] is None
    json.dumps(metadata, allow_nan=False)


@pytest.mark.parametrize("flip", [-1.0, 1.0], ids=["LAS", "RAS"])
def test_movement_follows_fsl_in_both_orientations(flip, rng):
    grid = Grid((7, 8, 9), from_matvec(np.diag([flip * 3.0, 3, 4]), [10, -11, -12]))
    reference = rng.uniform(100, 900, grid.shape).astype(np.float32)
    angles = rng.normal(0, 0.08, (5, 3))
    weight = reference.astype(float) - reference.min()
    weight = weight[::-1] if flip > 0 else weight
    centre = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    centre = (centre * weight[..., None]).sum((0, 1, 2)) / weight.sum() * grid.zooms
    shifts = rng.normal(0, 1, (5, 3))
    to_fsl = np.diag([*grid.zooms, 1.0])
    if flip > 0:
        to_fsl = to_fsl @ from_matvec(np.diag([-1.0, 1, 1]), [grid.shape[0] - 1, 0, 0])
    frame = to_fsl @ np.linalg.inv(grid.affine)
    matrices = []
    for (a, b, c), shift in zip(angles, shifts, strict=True):
        turn = euler2mat(x=-a) @ euler2mat(y=-b) @ euler2mat(z=-c)
        fsl = from_matvec(turn, shift + centre - turn @ centre)
        matrices.append(np.linalg.inv(np.linalg.inv(frame) @ fsl @ frame))
    found = movement_parameters(np.stack(matrices), grid, reference)
    np.testing.assert_allclose(found[:, :3], shifts, atol=1e-9)  # mm
    np.testing.assert_allclose(found[:, 3:], angles, atol=1e-9)  # rad


def test_an_even_reference_turns_about_its_middle():
    found = movement_parameters(np.eye(4)[None], GRID, np.ones(GRID.shape))
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor"])
def test_nilearn_accepts_the_table(strategy, series, rng, tmp_path):
    table, metadata = make_confounds(inputs(series, rng))
    stem = "sub-01_task-rest"
    table.to_csv(
        tmp_path / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a"
    )
    (tmp_path / f"{stem}_desc-confounds_timeseries.json").write_text(json.dumps(metadata))
    image = tmp_path / f"{stem}_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, T), np.float32), np.eye(4)), image)
    found, kept = load_confounds_strategy(str(image), denoise_strategy=strategy)
    assert len(found) == T
    assert kept is not None
    assert "trans_x" in found


def test_noise_masks_are_pure_and_away_from_cortex():
    source = Grid((50, 48, 46), from_matvec(np.diag([1.0, 1, 1]), [-25, -24, -23]))
    target = Grid((16, 16, 15), from_matvec(np.diag([3.0, 3, 3]), [-24, -24, -21]))
    x = source.world()[..., 0]
    tissues = {
        "csf": (x < -8).astype(np.float32),
        "wm": (x > -2).astype(np.float32) * (x < 14),
        "gm": (x >= 14).astype(np.float32),
    }
    mask = np.ones(target.shape, bool)
    voxels, purity = find_noise_voxels(
        tissues, source=source, target=target, mask=mask, xfm=Affine.identity()
    )
    place = target.world()[mask][:, 0]
    assert purity == {"c": 0.99, "w": 0.99, "a": 0.99}
    assert place[voxels["c"]].max() < -8
    assert place[voxels["w"]].min() > -2
    assert place[voxels["w"]].max() < 14 - 3  # mm from cortex
    np.testing.assert_array_equal(voxels["a"], voxels["c"] | voxels["w"])


def test_the_rim_of_coarse_voxels_is_no_wider_than_four_millimetres():
    source = Grid((30, 10, 10), np.diag([2.0, 2, 2, 1]))
    x = source.world()[..., 0]
    tissues = {"gm": x > 40, "wm": (x <= 40).astype(np.float32), "csf": np.zeros_like(x)}
    voxels, _ = find_noise_voxels(
        tissues, source=source, target=source, mask=x > -1, xfm=Affine.identity()
    )
    assert x.ravel()[voxels["w"]].max() == 34  # one voxel for the kernel

    fine = Grid((60, 20, 20), np.eye(4))
    x = fine.world()[..., 0]
    tissues = {"gm": x > 40, "wm": (x <= 40).astype(np.float32), "csf": np.zeros_like(x)}
    voxels, _ = find_noise_voxels(
        tissues, source=fine, target=fine, mask=x > -1, xfm=Affine.identity()
    )
    assert x.ravel()[voxels["w"]].max() == 36  # three voxels and one


def test_too_little_fluid_is_said_and_not_made_up():
    source = Grid((30, 30, 30), np.eye(4))
    target = Grid((10, 10, 10), np.diag([3.0, 3, 3, 1]))
    empty = np.zeros(source.shape, np.float32)
    tissues = {"csf": empty, "wm": empty + 0.85, "gm": empty}
    voxels, purity = find_noise_voxels(
        tissues, source=source, target=target, mask=np.ones((10, 10, 10), bool), xfm=lambda p: p
    )
    assert purity == {"c": 0.0, "w": 0.8, "a": 0.8}
    assert not voxels["c"].any()


def test_a_gaussian_is_read_as_ants_reads_it(rng):
    import ants

    source, zooms = rng.random((20, 18, 16)).astype(np.float32), (1.0, 1.2, 0.9)
    spacing = (3.0, 2.5, 3.5)
    still = ants.from_numpy(np.zeros((6, 8, 4), np.float32), spacing=spacing)
    theirs = ants.apply_transforms(
        still, ants.from_numpy(source, spacing=zooms), [], interpolator="gaussian"
    ).numpy()
    where = np.argwhere(np.ones((6, 8, 4), bool)) * spacing / np.asarray(zooms)
    inside = (where <= np.asarray(source.shape) - 1).all(axis=1)
    found = sample_gaussian(source[None], where)[0]
    np.testing.assert_allclose(found[inside], theirs.ravel()[inside], atol=1e-6)


def test_the_crown_is_a_ball_of_two_voxels_outside_both_brains():
    import ants
    from skimage.morphology import ball

    source = Grid((40, 40, 40), np.eye(4))
    target = Grid((14, 14, 14), np.diag([3.0, 3, 3, 1]))
    anat = np.linalg.norm(source.world() - 20, axis=-1) < 9
    mask = np.linalg.norm(target.world() - [17, 20, 20], axis=-1) < 8
    crown = find_crown(mask, anat_mask=anat, source=source, target=target, xfm=Affine.identity())
    carried = ants.apply_transforms(
        ants.from_numpy(np.zeros(target.shape, np.float32), spacing=(3.0, 3.0, 3.0)),
        ants.from_numpy(anat.astype(np.float32)),
        [],
        interpolator="multiLabel",
    ).numpy()
    brain = mask | (carried > 0.5)
    expected = ndimage.binary_dilation(brain, ball(2)) & ~brain
    np.testing.assert_array_equal(crown, expected)
