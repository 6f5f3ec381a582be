"""Runs for a model of voxels: the same voxels in the same order, whatever the grid of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from neurostorm_app.errors import ContractError, DataError, SeriesTooShortError, UsageError
from neurostorm_app.models import read_card
from neurostorm_app.models.augment import mix_rows
from neurostorm_app.models.card import VoxelContract
from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.models.mind_vis_files import MindVisConfig
from neurostorm_app.models.untrained import untrained
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.forward import window_bytes
from neurostorm_app.pipelines.inputs import find_inputs, find_parcellation
from neurostorm_app.pipelines.prepare_voxels import (
    fill_up,
    place_voxels,
    plan_blocks,
    prepare_voxels,
    scale_rows,
)
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

if TYPE_CHECKING:
    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.prepare import Prepared

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "mind_vis"
EXACT = 1e-10  # upstream's numbers are float64
SIDE, STEP, TR, N = 16, 12.0, 2.0, 26
AFFINE = np.array([[STEP, 0, 0, -90], [0, STEP, 0, -120], [0, 0, STEP, -70], [0, 0, 0, 1.0]])
CONTRACT = VoxelContract(space="MNI152NLin6Asym", atlas="some", labels=(7, 3))
"""Four volumes of 2 s are a block; 26 volumes are six blocks, the first two of five."""


def labels() -> np.ndarray:
    image = np.zeros((SIDE,) * 3, dtype=np.int16)
    image[6:9, 2:5, 6:8] = 7  # 18 voxels
    image[6:9, 6:8, 6:9] = 3  # 18 voxels
    image[3:5, 9:11, 5:9] = 9
    return image


def planted() -> np.ndarray:
    """Give each voxel its own value, 1000 and more, which steps once a volume: (X, Y, Z, T)."""
    own = 1000.0 + np.random.default_rng(5).permutation(SIDE**3).reshape((SIDE,) * 3)
    return own[..., None] + 10.0 * np.arange(N)


@pytest.fixture
def atlas(tmp_path) -> Path:
    path = tmp_path / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(labels(), AFFINE), path)
    return path


def write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, **change: Any) -> Any:
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    mask = path.with_name(f"mask_{path.name}")
    inside = np.ones(data.shape[:3], dtype=np.uint8)
    nib.save(nib.Nifti1Image(inside, affine), mask)
    series = StandardSeries(
        name="sub-01_task-rest", bold=path, mask=mask, confounds=None, tr=TR,
        space="MNI152NLin6Asym", res="2",
    )  # fmt: skip
    return replace(series, **change)


@pytest.fixture
def run(tmp_path) -> StandardSeries:
    return write(tmp_path / "bold.nii.gz", planted())


def prepared(run: StandardSeries, atlas: Path, contract: VoxelContract = CONTRACT) -> Prepared:
    return prepare_voxels(run, contract, atlas, InputOptions())


def rows(run: StandardSeries, atlas: Path, contract: VoxelContract = CONTRACT) -> np.ndarray:
    return np.concatenate(list(prepared(run, atlas, contract).windows))


def expected() -> np.ndarray:
    """Work the rows out without any of the code: by label, then by index."""
    image, series = labels(), planted()
    voxels = np.concatenate([series[image == 3], series[image == 7]])
    ends = np.cumsum([0, 5, 5, 4, 4, 4, 4])
    means = np.stack([voxels[:, a:b].mean(axis=1) for a, b in zip(ends[:-1], ends[1:])])  # noqa: RUF007,B905
    wide = np.concatenate([means, means[:, :12]], axis=1)  # 36 voxels: 48
    return (wide - wide.mean()) / wide.std()


def test_voxels_are_those_of_the_labels_in_their_order(run, atlas) -> None:
    found = prepared(run, atlas)
    assert found.starts == [0, 5, 10, 14, 18, 22]
    assert (found.window, found.step) == (4, TR)
    windows = list(found.windows)
    assert {window.shape for window in windows} == {(1, 48)}
    np.testing.assert_allclose(np.concatenate(windows), expected(), atol=1e-5)
    assert found.findings.facts["n_voxels"] == 36
    assert found.findings.facts["voxel_coverage"] == 1.0
    again = CONTRACT.model_copy(update={"labels": (3, 7)})
    np.testing.assert_array_equal(rows(run, atlas, again), np.concatenate(windows))


@pytest.mark.parametrize("codes", ["LAS", "PIR", "SRA"])
def test_the_orientation_of_the_file_has_no_part_in_it(codes, atlas, tmp_path) -> None:
    image = nib.Nifti1Image(planted().astype(np.float32), AFFINE)
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    run = write(tmp_path / "turned.nii.gz", np.asarray(turned.dataobj), turned.affine)
    np.testing.assert_allclose(rows(run, atlas), expected(), atol=1e-5)


def test_a_run_on_a_finer_grid_gives_the_same_voxels(atlas, tmp_path) -> None:
    fine = planted().repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    affine = AFFINE.copy()
    affine[:3, :3] /= 3
    affine[:3, 3] -= STEP / 3  # the middle of three is where the coarse one was
    run = write(tmp_path / "fine.nii.gz", fine, affine)
    np.testing.assert_allclose(rows(run, atlas), expected(), atol=1e-5)


def test_a_run_that_is_moved_gives_other_voxels(atlas, tmp_path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += STEP
    run = write(tmp_path / "moved.nii.gz", planted(), moved)
    assert np.abs(rows(run, atlas)[:, :36] - expected()[:, :36]).max() > 0.1


def test_voxels_outside_of_the_brain_are_0_and_do_not_count(run, atlas) -> None:
    inside = np.ones((SIDE,) * 3, dtype=np.uint8)
    inside[labels() == 7] = np.arange(18) >= 9  # a quarter of all voxels is out
    nib.save(nib.Nifti1Image(inside, AFFINE), run.mask)
    found = prepared(run, atlas)
    values = np.concatenate(list(found.windows))
    out = np.flatnonzero((values == 0).all(axis=0))
    np.testing.assert_array_equal(out, np.arange(18, 27))
    kept = np.delete(values, out, axis=1)
    assert (abs(kept.mean()), kept.std()) == pytest.approx((0, 1), abs=1e-5)
    assert found.findings.deviations["voxels"] == 0.25
    reason = "25% of the voxels that the model takes lie outside of the brain mask, and count as 0"
    assert reason in found.findings.reasons
    inside[labels() == 7] = 0
    inside[8] = 0
    nib.save(nib.Nifti1Image(inside, AFFINE), run.mask)
    with pytest.raises(ContractError, match="voxels that the model takes lie in the brain mask"):
        prepared(run, atlas)


def test_labels_and_their_voxels_are_checked(run, atlas) -> None:
    other = CONTRACT.model_copy(update={"labels": (3, 4, 5)})
    with pytest.raises(ContractError, match=r"has no label 4, 5; the model takes the voxels of 3"):
        prepared(run, atlas, other)
    more = CONTRACT.model_copy(update={"n_voxels": 40})
    with pytest.raises(ContractError, match="36 voxels have the labels of the model, which takes"):
        prepared(run, atlas, more)


def test_short_and_flat_runs_are_refused(run, atlas, tmp_path) -> None:
    with pytest.raises(SeriesTooShortError, match="one block of 8 s takes 16"):
        plan_blocks(15, CONTRACT, tr=0.5)
    assert plan_blocks(3, CONTRACT, tr=9.0) == [1, 1, 1]
    many = CONTRACT.model_copy(update={"min_volumes": 30})
    with pytest.raises(SeriesTooShortError, match="26 volumes; at least 30"):
        prepared(run, atlas, many)
    flat = write(tmp_path / "flat.nii.gz", np.full((SIDE, SIDE, SIDE, N), 500.0))
    with pytest.raises(DataError, match="the voxels that the model takes are all 500"):
        prepared(flat, atlas)


def test_what_has_no_meaning_is_recorded(run, atlas) -> None:
    options = InputOptions(clip_policy="upstream-eval", gain=7.0, max_windows=3)
    found = prepare_voxels(run, CONTRACT, atlas, options).findings.facts
    told = {"clip_policy": "upstream-eval", "gain": 7.0, "max_windows": 3}
    assert found["without_meaning_for_voxels"] == told


def test_padding_blocks_and_scaling_are_upstreams() -> None:
    if not FOLDER.is_dir():
        pytest.skip("upstream's numbers are not beside the project (../shared/golden/mind_vis)")
    found = np.load(FOLDER / "data_prep.npz")
    upstream = CONTRACT.model_copy(update={"extra_patch": True})
    for n, wide in ((30, 32), (32, 48)):
        assert upstream.padded(n) == wide
        given, wanted = found[f"pad_in_{n}"], found[f"pad_out_{n}_p16"]
        np.testing.assert_allclose(fill_up(given, wide), wanted, atol=EXACT)
    assert CONTRACT.padded(32) == 32
    np.testing.assert_allclose(fill_up(found["padlen_in"], 80), found["padlen_out_80"], atol=EXACT)
    series = found["ts_in"]  # 47 frames, counted as 0.75 s
    sizes = plan_blocks(len(series), CONTRACT, tr=0.75)
    ends = np.cumsum([0, *sizes])
    means = np.stack([series[a:b].mean(axis=0) for a, b in zip(ends[:-1], ends[1:])])  # noqa: RUF007,B905
    whole = np.ones(30, dtype=bool)
    got = scale_rows(means, whole, upstream, path=Path("here"))
    np.testing.assert_allclose(got, found["ts_out_p16"], atol=1e-6)  # ours is float32
    wide = fill_up(means, 32)
    np.testing.assert_allclose((wide - wide.mean()) / wide.std(), found["ts_out_p16"], atol=EXACT)


def test_rows_are_scaled_as_upstream_scales_them() -> None:
    """Whatever mean and deviation they were scaled by before."""
    if not FOLDER.is_dir():
        pytest.skip("upstream's numbers are not beside the project (../shared/golden/mind_vis)")
    found = np.load(FOLDER / "data_prep.npz")
    plain = CONTRACT.model_copy(update={"patch": 1})  # nothing is filled up
    whole = np.ones(found["norm_in"].shape[1], dtype=bool)
    for name in ("norm_in", "norm_out_given"):
        got = scale_rows(found[name], whole, plain, path=Path("here"))
        np.testing.assert_allclose(got, found["norm_out"], atol=1e-6)  # ours is float32


def test_rows_are_mixed_as_upstream_mixes_them() -> None:
    if not FOLDER.is_dir():
        pytest.skip("upstream's numbers are not beside the project (../shared/golden/mind_vis)")
    found = np.load(FOLDER / "data_prep.npz")
    rows = torch.from_numpy(np.stack([found["interp_x"], found["interp_y"]]))
    draws = (torch.Generator().manual_seed(seed) for seed in range(20))
    mixed = [mix_rows(rows, share=0.3, generator=one) for one in draws]
    wanted = torch.from_numpy(found["interp_out_r03"])
    near = [torch.allclose(one[0], wanted, atol=EXACT, rtol=0) for one in mixed]
    assert any(near)
    for one, swapped in zip(mixed, near, strict=True):
        torch.testing.assert_close(one, rows.lerp(rows.flip(0), 0.3) if swapped else rows)


@pytest.fixture
def card() -> Card:
    """A card of the package for the tiny label image."""
    full = read_card("mind-vis")
    config = {
        "num_voxels": 48, "embed_dim": 16, "depth": 2, "num_heads": 4, "decoder_embed_dim": 12,
        "decoder_depth": 1, "decoder_num_heads": 3, "mask_ratio": 0.5,
    }  # fmt: skip
    return full.model_copy(update={"contract": CONTRACT, "config": config, "dimension": 16})


def test_a_run_is_embedded_with_weights_made_here(card, run, atlas, tmp_path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = MindVis(MindVisConfig.of(card.config)).eval()
    path = tmp_path / "fmri_encoder.pth"
    torch.save({"model": network.state_dict(), "epoch": 1}, path)
    found = load_embedder(card, weights=path, atlas=atlas).embed(run)
    assert found.windows.shape == (6, 16)
    with torch.no_grad():
        wanted = network.embed(torch.from_numpy(rows(run, atlas))[:, None]).numpy()
    np.testing.assert_allclose(found.windows, wanted, atol=1e-5)
    np.testing.assert_allclose(found.onsets, np.array([0, 5, 10, 14, 18, 22]) * TR)
    assert found.conformance["reconstruction_unit"] == "variances of the run's voxels"
    assert found.conformance["reconstruction_error"] > 0
    assert found.record["atlas"] == "atlas.nii.gz"
    both = load_embedder(card, weights=path, atlas=atlas).embed(run, batch=4)
    np.testing.assert_allclose(both.windows, found.windows, atol=1e-5)


def test_the_control_of_the_card_embeds_too(card, run, atlas) -> None:
    found = load_embedder(untrained(card), atlas=atlas).embed(run)
    assert found.record["random_weights_sha256"]
    assert np.isfinite(found.pooled).all()


def test_weights_for_other_voxels_refuse_the_run(card, run, atlas) -> None:
    config = {**card.config, "num_voxels": 64}
    other = untrained(card.model_copy(update={"config": config}))
    with pytest.raises(ContractError, match=r"MinD-Vis got an array of shape \(1, 1, 48\)"):
        load_embedder(other, atlas=atlas).embed(run)


def test_the_shipped_card_and_parcellation_belong_together() -> None:
    card = read_card("mind-vis")
    contract = card.contract
    assert isinstance(contract, VoxelContract)
    points = place_voxels(find_parcellation(contract, None, None), contract)
    assert len(points) == contract.n_voxels
    assert contract.padded(len(points)) == card.config["num_voxels"]
    assert card.dimension == card.config["embed_dim"]
    assert window_bytes(contract) == 4 * card.config["num_voxels"]
    assert points[:, 1].max() < -55  # mm: the back of the head
    assert {"experimental"} <= set(card.title.lower().strip(")").split("(")[-1].split())
    assert any("Experimental, for this reason" in limit for limit in card.limits)


def test_statistics_of_parcels_have_no_meaning(tmp_path) -> None:
    with pytest.raises(UsageError, match="mind-vis does not scale parcels"):
        find_inputs(read_card("mind-vis"), statistics=tmp_path / "statistics.json")
