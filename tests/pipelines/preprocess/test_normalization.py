"""The map to the standard brain: both ways, the same every time, and nothing left behind."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace

import nitransforms
import numpy as np
import pandas as pd
import pytest
import SimpleITK
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.errors import (
    CannotCreateError,
    CorruptImageError,
    DataError,
    NoInputError,
    TemporaryError,
)
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.itk import read_itk_composite, write_itk_composite
from neurostorm_app.pipelines.preprocess.anatomy import boldnormalization, normalization
from neurostorm_app.pipelines.preprocess.anatomy.anatomical import with_zooms
from neurostorm_app.pipelines.preprocess.anatomy.likeness import (
    RANGES,
    correlate,
    judge,
    local_volume,
)
from neurostorm_app.pipelines.preprocess.anatomy.normalization import (
    normalize,
    normalize_boldref,
    to_standard,
)
from neurostorm_app.pipelines.preprocess.anatomy.registration import (
    Registered,
    register_rigidly,
    register_syn,
)
from neurostorm_app.pipelines.preprocess.anatomy.spacechains import around
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.stage import OutputSpace
from neurostorm_app.pipelines.templates import between, find_grid, load_template
from neurostorm_app.pipelines.xfm import Affine, Chain

HUB = "MNI152NLin2009cAsym"
SPACE = "MNI152NLin6Asym"
POSE = from_matvec(
    Rotation.from_euler("xyz", [5, -4, 8], degrees=True).as_matrix() * 1.06, [4.0, -7, 9]
)
"""Template points to points of the participant."""


@pytest.fixture(scope="module")
def participant(tmp_path_factory):
    """Place the template's brain elsewhere, on voxels of 3 mm in another order of axes."""
    folder = tmp_path_factory.mktemp("participant")
    template = load_template(HUB)
    linear = np.array([[0.0, -3, 0], [0, 0, 3], [-3, 0, 0]])
    grid = Grid((64, 58, 74), from_matvec(linear, [86, -104, 86]))
    back = Affine(POSE).inverse()
    for name, path in (
        ("t1w", template.t1w),
        ("mask", template.mask),
        ("GM", template.gm),
        ("WM", template.wm),
        ("CSF", template.csf),
    ):
        volume, source = read_volume(path)
        smooth = ndimage.gaussian_filter(volume, 0.6)
        moved = resample_volume(smooth, source=source, target=grid, xfm=back, order=1)
        write_volume(folder / f"{name}.nii.gz", moved > 0.5 if name == "mask" else moved, grid=grid)
    return folder


@pytest.fixture(scope="module")
def done(participant, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(normalization, "SYN", normalization.SYN | {"reg_iterations": (15, 0, 0)})
    folder = tmp_path_factory.mktemp("normalized")
    yield normalize(
        participant / "t1w.nii.gz",
        participant / "mask.nii.gz",
        spaces=(HUB, SPACE),
        out_dir=folder,
    )
    patch.undo()


@pytest.fixture
def points(rng):
    template = load_template(HUB)
    inside = template.grid.world()[read_volume(template.mask)[0] > 0]
    return rng.choice(inside, 3000, replace=False)


def test_the_known_pose_is_found(done, points):
    found = read_itk_composite(done.to_std[HUB])(points)
    astray = np.linalg.norm(found - apply_affine(POSE, points), axis=1)
    assert np.median(astray) < 1.5  # mm: half a voxel, after a few coarse iterations


def test_another_space_is_reached_through_the_first(done, points):
    there = between(HUB, SPACE)(points)
    direct = read_itk_composite(done.to_std[HUB])(points)
    through = read_itk_composite(done.to_std[SPACE])(there)
    away = np.linalg.norm(through - direct, axis=1)
    assert np.median(away) < 0.02  # mm
    assert np.percentile(away, 99) < 0.2  # mm
    back = read_itk_composite(done.from_std[SPACE])(direct)
    ours = between(HUB, SPACE)(read_itk_composite(done.from_std[HUB])(direct))
    assert np.percentile(np.linalg.norm(back - ours, axis=1), 99) < 0.2  # mm


@pytest.mark.parametrize("space", [HUB, SPACE])
def test_the_way_back_is_the_inverse(done, points, space):
    points = between(HUB, space)(points)
    there = read_itk_composite(done.to_std[space])(points)
    back = read_itk_composite(done.from_std[space])(there)
    assert np.percentile(np.linalg.norm(back - points, axis=1), 95) < 0.2  # mm


@pytest.mark.parametrize("space", [HUB, SPACE])
@pytest.mark.parametrize("way", ["to_std", "from_std"])
def test_itk_and_nitransforms_map_points_as_we_do(done, points, space, way):
    path = getattr(done, way)[space]
    ours = read_itk_composite(path)
    assert len(ours.steps) == 2
    few = between(HUB, space)(points[::10])
    few = few if way == "to_std" else read_itk_composite(done.to_std[space])(few)
    lps = np.array([-1, -1, 1])
    itk = SimpleITK.ReadTransform(str(path))
    theirs = np.array([itk.TransformPoint((row * lps).tolist()) for row in few]) * lps
    np.testing.assert_allclose(theirs, ours(few), atol=2e-3)  # mm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Reference space not set"
        chain = nitransforms.manip.TransformChain.from_filename(path, fmt="itk")
        splined = chain.map(few)  # cubic between the vectors, where ITK is linear
    np.testing.assert_allclose(splined, ours(few), atol=0.15)  # mm


def test_ants_reads_the_composite(done, points):
    import ants

    few = read_itk_composite(done.to_std[SPACE])
    where = between(HUB, SPACE)(points[:50]) * [-1, -1, 1]
    frame = pd.DataFrame(where, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, frame, [str(done.to_std[SPACE])])
    theirs = moved[["x", "y", "z"]].to_numpy() * [-1, -1, 1]
    np.testing.assert_allclose(theirs, few(where * [-1, -1, 1]), atol=5e-3)  # mm


def test_the_template_comes_back_onto_the_participant(done, participant):
    mask, grid = read_volume(participant / "mask.nii.gz")
    carried, own = read_volume(done.template_mask)
    assert own == grid
    dice = 2 * np.sum((mask > 0) & (carried > 0)) / (mask.sum() + carried.sum())
    assert dice > 0.96
    for name, path in done.priors.items():
        prior, own = read_volume(path)
        assert own == grid
        truth, _ = read_volume(participant / f"{name}.nii.gz")
        assert np.corrcoef(prior.ravel(), truth.ravel())[0, 1] > 0.9


def test_the_same_bytes_come_again(done, participant, tmp_path):
    found = normalize(
        participant / "t1w.nii.gz", participant / "mask.nii.gz", spaces=(SPACE,), out_dir=tmp_path
    )
    for name in (path.name for path in tmp_path.iterdir()):
        assert (tmp_path / name).read_bytes() == (done.template_mask.parent / name).read_bytes()
    assert found.qc["correlation_with_template"] == done.qc["correlation_with_template"]


def test_without_a_space_the_priors_are_there_all_the_same(done, participant, tmp_path):
    """Tissues are told apart with them when output in the participant's own space is wanted."""
    given = participant / "t1w.nii.gz", participant / "mask.nii.gz"
    found = normalize(*given, spaces=(), out_dir=tmp_path)
    assert (found.to_std, found.from_std) == ({}, {})
    assert found.qc["verdict"] == "pass"
    assert found.qc["spaces"] == {}
    for name, path in found.priors.items():
        assert path.read_bytes() == done.priors[name].read_bytes()
    assert found.template_mask.read_bytes() == done.template_mask.read_bytes()


def test_the_report_says_how_well_it_went(done):
    qc = done.qc
    assert (qc["verdict"], qc["reasons"]) == ("pass", [])
    assert qc["correlation_with_template"] > 0.85
    assert qc["usual"]["correlation_with_template"][0] > 0.5
    assert qc["folded_voxels"] == 0
    assert qc["affine_volume_ratio"] == pytest.approx(1.06**3, rel=0.05)
    assert qc["template_source"] == "embedded"
    assert qc["brain_masks"]["verdict"] == "pass"
    assert {space: about["how"] for space, about in qc["spaces"].items()} == {
        HUB: "registered",
        SPACE: f"through {HUB}",
    }


def test_only_results_are_left(done):
    left = {path.name for path in done.to_std[HUB].parent.iterdir()}
    ways = [f"from-T1w_to-{space}" for space in (HUB, SPACE)]
    ways += [f"from-{space}_to-T1w" for space in (HUB, SPACE)]
    assert left == {f"{way}_mode-image_xfm.h5" for way in ways} | {
        "desc-template_mask.nii.gz",
        "label-GM_desc-prior_probseg.nii.gz",
        "label-WM_desc-prior_probseg.nii.gz",
        "label-CSF_desc-prior_probseg.nii.gz",
    }


def test_a_space_of_templateflow_is_registered_on_its_own(
    participant, points, tmp_path, monkeypatch
):
    """The stand-in template is the hub's brain, moved by 9 mm, on voxels of 1 mm."""
    hub, home = load_template(HUB), tmp_path / "home"
    shift = from_matvec(np.eye(3), [0.0, 9, 0])
    folder = home / "tpl-Other"
    folder.mkdir(parents=True)
    fine = with_zooms(hub.grid, 1.0)
    placed = Grid(fine.shape, shift @ fine.affine)
    for name, path in (("T1w", hub.t1w), ("desc-brain_mask", hub.mask)):
        volume = resample_volume(read_volume(path)[0], source=hub.grid, target=fine, order=1)
        write_volume(folder / f"tpl-Other_res-01_{name}.nii.gz", volume, grid=placed)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(home))
    monkeypatch.setattr(normalization, "SYN", normalization.SYN | {"reg_iterations": (10, 0, 0)})
    given = participant / "t1w.nii.gz", participant / "mask.nii.gz"
    found = normalize(*given, spaces=("Other",), out_dir=tmp_path / "out")
    assert found.qc["spaces"]["Other"]["how"] == "registered on its own"
    assert found.qc["spaces"]["Other"]["verdict"] == "pass"
    moved = read_itk_composite(found.to_std["Other"])(points + np.array([0, 9, 0]))
    assert np.median(np.linalg.norm(moved - apply_affine(POSE, points), axis=1)) < 1.5  # mm


def test_a_template_that_nobody_has_is_refused_before_any_work(participant, tmp_path):
    with pytest.raises(NoInputError, match="there is no template Nowhere"):
        normalize(
            participant / "t1w.nii.gz",
            participant / "mask.nii.gz",
            spaces=("Nowhere",),
            out_dir=tmp_path,
        )


def test_a_number_out_of_its_range_is_a_reason():
    said = judge({"folded_voxels": 12, "mask_dice": 0.95}, RANGES)
    assert said["verdict"] == "look"
    assert said["reasons"] == ["voxels where the map folds is 12; 0 to 0 is usual"]


def test_a_number_that_no_brain_has_fails_and_is_named_first():
    said = judge({"correlation_with_template": 0.7, "mask_dice": 0.4}, RANGES)
    assert said["verdict"] == "fail"
    assert [reason.split(" is ")[0] for reason in said["reasons"]] == [
        "Dice overlap with the template's brain mask",
        "correlation with the template's brain",
    ]
    assert judge({}, RANGES)["verdict"] == "pass"


@pytest.mark.parametrize(
    ("who", "verdict", "numbers"),
    [
        ("phantom", "pass", (0.957, 0.983, 1.028, 0.971, 1.043, 1.074, 0.652, 1.511)),
        ("defaced head", "pass", (0.853, 0.975, 0.890, 0.909, 1.030, 1.133, 0.456, 2.066)),
        ("stripped brain", "pass", (0.865, 0.948, 0.787, 0.885, 0.957, 1.081, 0.409, 2.375)),
        ("nose up", "fail", (0.580, 0.975, 0.893, 0.752, 1.272, 1.691, 0.209, 3.078)),
        ("ball", "fail", (0.569, 0.988, 0.616, 0.749, 0.909, 1.214, 0.332, 3.481)),
    ],
)
def test_good_heads_pass_and_bad_ones_fail(who, verdict, numbers):
    """Numbers as they were measured with the settings of the package."""
    names = [name for name in RANGES if name not in {"folded_voxels", "inverse_error_mm_p95"}]
    said = judge(dict(zip(names, numbers, strict=True)), RANGES)
    assert said["verdict"] == verdict, (who, said["reasons"])


@pytest.mark.parametrize(
    ("who", "verdict", "numbers"),
    [
        ("phantom", "pass", (1.100, 1.007, 1.056, 1.048, 0.766, 0.989, 0.564, 1.629)),
        ("person", "pass", (0.859, 0.879, 1.034, 1.177, 0.610, 0.981, 0.287, 1.884)),
        ("nose up", "fail", (0.797, 0.640, 1.322, 2.066, 0.470, 0.976, 0.318, 2.225)),
    ],
)
def test_a_bold_reference_with_its_nose_up_fails(who, verdict, numbers):
    names = [name for name in boldnormalization.RANGES if name != "folded_voxels"]
    said = judge(dict(zip(names, numbers, strict=True)), boldnormalization.RANGES)
    assert said["verdict"] == verdict, (who, said["reasons"])


def test_local_volume_is_that_of_the_scaling(rng):
    grid = Grid(
        (12, 13, 14), from_matvec(np.array([[0.0, -3, 0], [0, 0, 3], [-3, 0, 0]]), [1, 2, 3])
    )
    field = (grid.world() * [0.1, -0.05, 0.2]).astype(np.float32)
    np.testing.assert_allclose(local_volume(field, grid), 1.1 * 0.95 * 1.2, rtol=1e-4)


@pytest.mark.parametrize("res", ["1", "2"])
def test_the_anatomy_comes_onto_the_standard_grid(participant, tmp_path, res):
    write_itk_composite(tmp_path / "pose.h5", Chain((Affine(POSE),)))
    maps = {name: participant / f"{name}.nii.gz" for name in ("GM", "WM", "CSF")}
    written = to_standard(
        participant / "t1w.nii.gz",
        participant / "mask.nii.gz",
        maps,
        tmp_path / "pose.h5",
        space=OutputSpace(name=HUB, res=res),
        out_dir=tmp_path,
    )
    template = load_template(HUB)
    mask, grid = read_volume(written["mask"])
    assert grid == find_grid(HUB, res)
    assert written["mask"].name == f"space-{HUB}_res-{res}_desc-brain_mask.nii.gz"
    thin = (slice(None, None, 3 - int(res)),) * 3
    mask = mask[thin][:97, :115, :97]
    expected = read_volume(template.mask)[0]
    assert 2 * np.sum(mask * expected) / (mask.sum() + expected.sum()) > 0.96
    t1w = read_volume(written["t1w"])[0][thin]
    assert np.corrcoef(t1w.ravel(), read_volume(template.t1w)[0].ravel())[0, 1] > 0.97
    labels = read_volume(written["dseg"])[0][thin]
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    stack = np.stack([read_volume(written[name])[0][thin] for name in ("GM", "WM", "CSF")])
    sure = stack.max(axis=0) > 0.6
    np.testing.assert_array_equal(labels[sure], stack.argmax(axis=0)[sure] + 1)
    assert not stack[:, mask == 0].any()


def test_a_mask_of_another_image_is_refused(participant, tmp_path):
    write_volume(tmp_path / "mask.nii.gz", np.ones((7, 8, 9)), grid=Grid((7, 8, 9), np.eye(4)))
    with pytest.raises(CorruptImageError, match=r"mask\.nii\.gz: the mask's grid"):
        normalize(
            participant / "t1w.nii.gz",
            tmp_path / "mask.nii.gz",
            spaces=(SPACE,),
            out_dir=tmp_path,
        )


def test_a_brain_that_got_lost_is_an_error():
    flat = np.zeros(50, dtype=np.float32)
    with pytest.raises(DataError, match="the normalised brain is empty"):
        correlate(flat, np.arange(50, dtype=np.float32))


@pytest.fixture(scope="module")
def boldref(tmp_path_factory):
    """Draw the template in BOLD contrast, elsewhere, on voxels of 4 mm, with signal lost."""
    folder = tmp_path_factory.mktemp("boldref")
    template = load_template(HUB)
    shares = {"GM": (template.gm, 100), "WM": (template.wm, 82), "CSF": (template.csf, 135)}
    volume = sum(read_volume(path)[0] * level for path, level in shares.values())
    air = np.linalg.norm(template.grid.world() - [0, 42, -24], axis=-1)
    volume *= 1 - 0.5 * np.exp(-((air / 15) ** 2))
    grid = Grid.from_rows((52, 60, 50), [[4, 0, 0, -98], [0, 4, 0, -134], [0, 0, 4, -90]])
    back = Affine(POSE).inverse()
    for name, image in (("boldref", volume), ("mask", read_volume(template.mask)[0])):
        smooth = ndimage.gaussian_filter(image, 1.0)
        moved = resample_volume(smooth, source=template.grid, target=grid, xfm=back, order=1)
        write_volume(folder / f"{name}.nii.gz", moved > 0.5 if name == "mask" else moved, grid=grid)
    return folder


def test_a_bold_reference_finds_the_template_without_a_t1w(boldref, points, tmp_path, monkeypatch):
    few = boldnormalization.SYN | {"reg_iterations": (30, 0, 0)}
    monkeypatch.setattr(boldnormalization, "SYN", few)
    given = boldref / "boldref.nii.gz", boldref / "mask.nii.gz"
    found = normalize_boldref(*given, spaces=(HUB, SPACE), out_dir=tmp_path)
    assert set(found) == {
        *(f"{way}:{space}" for way in ("to", "from") for space in (HUB, SPACE)),
        *("gm", "wm", "csf", "qc"),
    }
    there = read_itk_composite(found[f"to:{HUB}"])(points)
    away = np.linalg.norm(there - apply_affine(POSE, points), axis=1)
    assert np.median(away) < 1.5  # mm; voxels are 4 mm
    home = read_itk_composite(found[f"from:{SPACE}"])(there)
    assert np.median(np.linalg.norm(home - between(HUB, SPACE)(points), axis=1)) < 0.1  # mm
    mask, grid = read_volume(boldref / "mask.nii.gz")
    total = 0
    for name in ("gm", "wm", "csf"):
        share, own = read_volume(found[name])
        assert own == grid
        assert not share[mask == 0].any()
        total = total + share
    assert np.median(total[mask > 0]) == pytest.approx(1, abs=0.05)
    assert found["qc"]["verdict"] == "look"
    assert found["qc"]["reasons"][0].startswith("there is no T1w image")
    assert len(found["qc"]["reasons"]) == 1


def test_without_a_t1w_a_space_without_a_known_map_is_refused(boldref, tmp_path):
    given = boldref / "boldref.nii.gz", boldref / "mask.nii.gz"
    with pytest.raises(DataError, match="without a T1w image there is no way to OASIS30ANTs"):
        normalize_boldref(*given, spaces=("OASIS30ANTs",), out_dir=tmp_path)


def test_a_constant_bold_reference_is_refused(boldref, tmp_path):
    mask, grid = read_volume(boldref / "mask.nii.gz")
    write_volume(tmp_path / "flat.nii.gz", np.full(mask.shape, 7.0), grid=grid)
    with pytest.raises(DataError, match="all voxels of the BOLD reference have a brightness of 7"):
        normalize_boldref(
            tmp_path / "flat.nii.gz", boldref / "mask.nii.gz", spaces=(HUB,), out_dir=tmp_path
        )


def test_an_empty_mask_bounds_nothing():
    with pytest.raises(CorruptImageError, match=r"a mask of .* voxels is empty"):
        around(np.zeros((4, 5, 6), dtype=bool), Grid((4, 5, 6), np.eye(4)), 2.0)


def test_an_empty_or_incomplete_template_is_named(tmp_path):
    template = load_template(HUB)
    write_volume(tmp_path / "T1w.nii.gz", np.zeros(template.grid.shape), grid=template.grid)
    with pytest.raises(DataError, match="the template is empty inside its mask"):
        normalization._fixed_brain(replace(template, t1w=tmp_path / "T1w.nii.gz"))
    brain = read_volume(template.mask)[0] > 0
    still = Registered(Chain((Affine.identity(),)), Chain((Affine.identity(),)))
    with pytest.raises(DataError, match="has no map of GM"):
        normalization._carry_back(
            replace(template, gm=None), still, brain, template.grid, out_dir=tmp_path
        )


@pytest.fixture
def blobs(rng):
    grid = Grid.from_rows((32, 36, 34), [[4, 0, 0, -62], [0, 4, 0, -70], [0, 0, 4, -66]])
    volume = ndimage.gaussian_filter(rng.normal(size=grid.shape), 2)
    ball = np.linalg.norm(grid.world(), axis=-1) < 50
    return ((volume / volume.std() + 4) * ball * 100).astype(np.float32), grid


def test_a_rigid_motion_is_found_and_nothing_is_left(blobs, tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    volume, grid = blobs
    motion = from_matvec(
        Rotation.from_euler("xyz", [3, 2, -4], degrees=True).as_matrix(), [5.0, -3, 2]
    )
    moved = resample_volume(volume, source=grid, target=grid, xfm=Affine(motion).inverse())
    found = register_rigidly((volume, grid), (moved, grid), work_dir=tmp_path / "work")
    points = grid.world()[volume > 0]
    astray = np.linalg.norm(found(points) - apply_affine(motion, points), axis=1)
    assert np.percentile(astray, 95) < 0.5  # mm; voxels are 4 mm
    assert not list((tmp_path / "work").iterdir())
    assert not list(temporary.iterdir())
    assert tempfile.tempdir == str(temporary)


def test_where_ants_was_used_before_registrations_run_aside(blobs, tmp_path, monkeypatch):
    from neurostorm_app.pipelines.preprocess.anatomy import registration

    volume, grid = blobs
    moving = (np.roll(volume, 1, axis=1), grid)
    monkeypatch.setattr(registration, "_is_first", lambda: False)
    calls = []
    monkeypatch.setattr(registration, "run_ants", lambda *_: calls.append(1))
    one, two = (register_rigidly((volume, grid), moving, work_dir=tmp_path) for _ in range(2))
    assert not calls
    np.testing.assert_array_equal(one.matrix, two.matrix)
    shift = one.matrix[:3, 3]
    assert np.linalg.norm(shift) == pytest.approx(grid.zooms[1], abs=0.5)  # mm, one voxel
    with pytest.raises(DataError, match="the registration of two images failed"):
        register_syn((volume, grid), moving, work_dir=tmp_path, kind="NoSuchTransform")


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        ("kill -9 $$", TemporaryError, "the process of a registration was killed"),
        ("echo RuntimeError: std::bad_alloc >&2; exit 1", TemporaryError, "not enough memory"),
        ("echo '[Errno 28] No space left on device' >&2; exit 1", CannotCreateError, "No space"),
        ("kill -11 $$", DataError, "the registration of two images failed"),
    ],
    ids=["killed", "no memory", "no room", "crashed"],
)
def test_a_registration_that_the_machine_ended_says_nothing_of_the_images(
    blobs, tmp_path, monkeypatch, does, kind, words
):
    from neurostorm_app.pipelines.preprocess.anatomy import registration

    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setattr(registration, "_is_first", lambda: False)
    monkeypatch.setattr(registration.sys, "executable", str(program))
    with pytest.raises(kind, match=words) as caught:
        register_rigidly(blobs, blobs, work_dir=tmp_path / "work")
    assert type(caught.value) is kind


def test_a_registration_gives_the_same_numbers_twice(blobs, tmp_path):
    volume, grid = blobs
    moving = (np.roll(volume, 1, axis=1), grid)
    twice = [
        register_syn((volume, grid), moving, work_dir=tmp_path, reg_iterations=(10, 5, 0))
        for _ in range(2)
    ]
    points = grid.world()[volume > 0]
    np.testing.assert_array_equal(twice[0].forward(points), twice[1].forward(points))
    np.testing.assert_array_equal(twice[0].backward(points), twice[1].backward(points))
