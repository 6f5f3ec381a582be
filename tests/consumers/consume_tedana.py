"""Echoes combined by us beside tedana's combination of the same T2*."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tedana.combine import make_optcom


def test_echoes_are_combined_as_tedana_does():
    given = np.load(Path(os.environ["NEUROSTORM_CASES"]) / "echoes.npz")
    theirs = make_optcom(
        given["echoes"], given["times"], given["n_good"], t2s=given["t2star"], combmode="t2s"
    )
    ours = given["ours"].T
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
