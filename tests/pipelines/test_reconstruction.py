"""The masked-reconstruction error: where it is measured, that it repeats, and what it says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from neurostorm_app.models import read_card
from neurostorm_app.models.card import ExpectedError
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.reconstruction import choose_windows, measure_error, note_error

RANGE = ExpectedError(low=0.3, high=0.5, origin="a test")
CARD = read_card("neurostorm-mae").model_copy(update={"expected_error": RANGE})


class Guesser(torch.nn.Module):
    """Guesses 0 for a random half of its input."""

    def masked_error(self, x, *, generator):
        hidden = torch.rand(x.shape[1:], generator=generator) < 0.5
        return x[:, hidden].square().mean(dim=1)


@pytest.mark.parametrize("n_windows", [1, 2, 8, 9, 16, 17, 38, 500])
def test_few_windows_are_chosen_and_they_are_spread(n_windows):
    chosen = sorted(choose_windows(n_windows))
    assert len(chosen) == min(3, math.ceil(n_windows / 8))
    assert 0 <= chosen[0] <= chosen[-1] < n_windows
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert all(abs(gap - n_windows / len(chosen)) <= 1 for gap in gaps)


def test_the_same_window_has_the_same_error_and_another_is_hidden_elsewhere():
    x = torch.linspace(-1, 1, 1000)[None]
    errors = [measure_error(Guesser(), x, number=number) for number in (3, 3, 4)]
    assert errors[0] == errors[1] != errors[2]
    assert errors[0] == pytest.approx(1 / 3, abs=0.1)


def note(errors, card=CARD):
    findings = Findings()
    note_error(errors, card, findings)
    return findings.as_dict()


def test_an_error_in_its_range_is_no_reason():
    found = note({1: 0.3, 4: 0.5})
    assert found["reconstruction_error"] == 0.4
    assert found["reconstruction_windows"] == [1, 4]
    assert found["reconstruction_expected"] == {"low": 0.3, "high": 0.5, "origin": "a test"}
    assert (found["met"], found["verdict"], found["distance"]) == (True, "met", 0)


@pytest.mark.parametrize(("error", "verdict"), [(1.0, "near"), (2.0, "far")])
def test_an_error_above_its_range_is_a_reason_with_a_unit(error, verdict):
    found = note({0: error})
    assert found["deviations"]["reconstruction"] == math.log2(error / 0.5)
    assert found["verdict"] == verdict
    [reason] = found["reasons"]
    assert f"an error of {error:.3g} variances of the run's brain" in reason
    assert "0.3 to 0.5 were expected" in reason


def test_without_a_range_nothing_is_judged():
    found = note({0: 7.0}, read_card("neurostorm-mae").model_copy(update={"expected_error": None}))
    assert found["reconstruction_expected"] == "no range is known"
    assert found["met"] is True


def test_without_a_decoder_that_is_said():
    found = note({})
    assert found["reconstruction_error"] is None
    assert "no decoder" in found["reconstruction_note"]


def test_an_error_that_is_no_number_is_a_reason():
    found = note({0: math.nan})
    assert found["reconstruction_error"] is None
    assert "not a finite number" in found["reasons"][0]


@pytest.mark.parametrize("scaling", ["none", "robust", "sd"])
def test_parcels_have_units_of_their_own(scaling):
    card = read_card("connectome")
    contract = card.contract.model_copy(update={"scaling": scaling})
    found = note({0: 1.0}, card.model_copy(update={"contract": contract}))
    assert "parcel" in found["reconstruction_unit"]
