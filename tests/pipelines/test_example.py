"""Pictures of a window that was guessed: the left is on the left, and what is hidden is hidden."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from neurostorm_app.pipelines.example import draw_example

RAS = np.diag([4.0, 4, 4, 1])
LAS = np.diag([-4.0, 4, 4, 1])


def window(rng, affine):
    """A window (1, 8, 10, 12, 6) that is bright where the world's left and front are."""
    x, y = np.arange(8), np.arange(10)
    left = x < 4 if affine[0, 0] > 0 else x >= 4
    bright = left[:, None, None, None] & (y >= 5)[None, :, None, None]
    series = np.broadcast_to(bright, (8, 10, 12, 6)) * 10.0 + rng.normal(0, 0.1, (8, 10, 12, 6))
    return series[None].astype(np.float32)


@pytest.mark.parametrize("affine", [RAS, LAS], ids=["RAS", "LAS"])
def test_left_is_left_and_the_front_is_up(rng, affine):
    truth = window(rng, affine)
    hidden = rng.random((4, 5, 6, 6)) < 0.5
    made = draw_example(truth, truth * 0.5, hidden, error=1.0, affine=affine)
    axial, coronal, sagittal = made.views
    assert axial.truth.shape == (10, 8)
    assert axial.truth[:5, :4].mean() > 200
    assert axial.truth[:5, 4:].mean() < 60
    assert axial.truth[5:].mean() < 60
    assert coronal.truth.shape == (12, 8)
    assert sagittal.truth.shape == (12, 10)


def test_hidden_tokens_become_hidden_voxels(rng):
    truth = window(rng, RAS)
    hidden = np.zeros((4, 5, 6, 6), dtype=bool)
    hidden[0, 0, 3, 3] = True  # the middle volume, the middle slice
    made = draw_example(truth, truth, hidden, error=0.0, affine=RAS)
    assert made.hidden_share == pytest.approx(hidden.mean())
    assert made.views[0].hidden.sum() == 4
    assert made.views[0].hidden[-2:, :2].all()


def test_the_error_of_the_mean_is_that_of_a_constant_guess(rng):
    truth = rng.normal(3, 1, (6, 4, 5)).astype(np.float32)  # parcels, tokens, volumes of a token
    hidden = rng.random((6, 4)) < 0.5
    made = draw_example(truth, truth, hidden, error=0.0, affine=None)
    flat, where = truth.reshape(6, 20), hidden.repeat(5, 1)
    expected = np.square(flat[where] - flat[~where].mean()).mean()
    assert made.error_of_mean == pytest.approx(expected, rel=1e-5)
    assert made.views[0].truth.shape == (6, 20)
    np.testing.assert_array_equal(made.views[0].hidden, where)


def test_what_is_kept_can_be_read_again(rng):
    truth = rng.normal(size=(6, 20)).astype(np.float32)
    made = draw_example(truth, truth, rng.random((6, 20)) < 0.3, error=0.25, affine=None)
    said = made.as_json(unit="x", onset=12.0)
    view = said["Views"][0]
    pixels = np.frombuffer(zlib.decompress(base64.b64decode(view["Input"])), dtype=np.uint8)
    np.testing.assert_array_equal(pixels.reshape(view["Shape"]), made.views[0].truth)
    assert (said["Error"], said["Onset"], said["Unit"]) == (0.25, 12.0, "x")


def test_the_mean_is_judged_by_the_values_that_count(rng):
    """Air around the brain is 0: counted, it would make a guess of the mean look better."""
    truth = window(rng, RAS)
    truth[:, :, :5] = 0
    hidden = rng.random((4, 5, 6, 6)) < 0.5
    counted = truth != 0
    made = draw_example(truth, truth, hidden, error=0.0, affine=RAS, counted=counted)
    where = hidden.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    brain = counted[0]
    mean = truth[0][~where & brain].mean()
    expected = np.square(truth[0][where & brain] - mean).mean()
    assert made.error_of_mean == pytest.approx(expected, rel=1e-5)
    everywhere = draw_example(truth, truth, hidden, error=0.0, affine=RAS)
    assert abs(everywhere.error_of_mean - expected) > 0.1 * expected
