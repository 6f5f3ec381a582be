"""Echoes counted, fitted and combined by us, beside tedana."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tedana.combine import make_optcom
from tedana.decay import fit_decay, modify_t2s_s0_maps
from tedana.utils import make_adaptive_mask


@pytest.fixture(scope="module")
def given():
    return np.load(Path(os.environ["NEUROSTORM_CASES"]) / "echoes.npz")


def test_good_echoes_are_those_of_tedana(given):
    _, theirs = make_adaptive_mask(given["echoes"])
    np.testing.assert_array_equal(given["n_good"], theirs)
    assert set(theirs) == {0, 1, 2, 3}


@pytest.mark.parametrize(("method", "close"), [("loglin", 1e-9), ("curvefit", 1e-4)])
def test_decay_and_sum_are_those_of_tedana(method, close, given):
    echoes, n_good, times = given["echoes"], given["n_good"], given["times"] * 1000  # ms
    t2star, s0, *_ = fit_decay(echoes, times, n_good, method, report=False)
    t2star, s0, *_ = modify_t2s_s0_maps(t2star, s0, n_good, times)
    known = n_good > 0  # of the others we say 0, tedana 1 ms
    np.testing.assert_allclose((given[f"{method}_t2star"] * 1000)[known], t2star[known], rtol=close)
    np.testing.assert_allclose(given[f"{method}_s0"][known], s0[known], rtol=close)
    theirs = make_optcom(echoes, times, n_good, t2s=t2star, combmode="t2s")
    np.testing.assert_allclose(given[f"{method}_sum"], theirs, rtol=max(close, 1e-5))
