"""Every word that a description may hold: none speaks of health, and none is a user's own."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines import (
    describe as describe_module,
)
from neurostorm_app.pipelines import (
    describe_gradients,
    describe_reference,
    describe_run,
    describe_text,
)
from neurostorm_app.pipelines.describe import Description
from neurostorm_app.pipelines.describe_networks import plain
from neurostorm_app.pipelines.describe_reference import Reference
from neurostorm_app.pipelines.describe_text import NOTICE

WORDS = re.findall(
    r"[a-z]+",
    """
    a about all alone and are at average because beside between by chance change clustering
    common compared components connectivity correlates correlations describe deviation
    deviations differs each efficiency elevated end fall fast faster fewer first from global
    gradient gradients graph have highest holds hz in into is its joined length lie lower
    lowest makes markedly mean measured modularity more most motion networks next no none
    not numbers of on one ones or out over parcels participants parts person power
    processing reach reduced reference repetition run s scan sign signal slow somewhat
    standard statement strongest strongly support take tenth than that the their them there
    these they this three time to two volume volumes waves were whatever which with z
    """,
)
"""The vocabulary of the text; names of networks, components and numbers stand beside it."""
NAMES = {"ContA", "Default", "Vis", "MELODIC01", "MELODIC02"}
HEALTH = (
    *("abnormal", "disease", "disorder", "patient", "deficit", "impair", "patholog", "risk"),
    *("symptom", "health", "diagnos", "dementia", "autis", "schizo", "depress", "alzheimer"),
    *("clinic", "dysfunction", "normal", "treat", "suffer", "sick", "illness", "atroph", "lesion"),
    *("psych", "neurotic", "mental", "disab", "prognos", "therap", "medic", "injur", "healthy"),
)
"""Beginnings of words of health; none may begin a word of the text."""


def make(**change: object) -> Description:
    """Make a description in which every sentence has something to say."""
    plain_one = Description(
        connectivity={"ContA-ContA": 0.5, "ContA-Default": 0.1, "Vis-Vis": -0.2},
        graph={
            "global_efficiency": 0.4, "modularity": 0.3, "avg_clustering": 0.2,
            "strength_ContA": 1.0, "strength_Default": 2.0, "strength_Vis": 3.0,
        },
        gradients={"gradient1_range": 2.0, "gradient2_range": 1.0, "gradient1_Vis_mean": 0.3},
        networks=("ContA", "Default", "Vis"),
        n_parcels=56,
        n_left_out=2,
        n_volumes=200,
        tr=2.0,
        components={
            name: {"MELODIC01": 0.5, "MELODIC02": 0.7}
            for name in ("spectral_ratio", "autocorr_lag1", "outlier_freq")
        },
    )  # fmt: skip
    return replace(plain_one, **change)


def notes() -> list[str]:
    """Say every note that `describe` and `describe_run` can add, and the errors inside of them."""
    found = ["not measured: ContA, of which fewer than two parcels have a signal"]
    for fc in (np.eye(4), np.kron(np.eye(2), np.ones((5, 5)))):
        with pytest.raises(DataError) as caught:
            describe_gradients.find_gradients(fc)
        found.append(f"not measured: gradients, because {caught.value.what}")
    found.append("not compared: the reference differs in Atlas, Cleaning")
    found.append(
        "the fast waves of components end at 0.167 Hz: a repetition time of 3 s holds no faster "
        "ones"
    )
    return found


def texts() -> list[str]:
    reference = Reference(
        values={}, participants=tuple("abc"), basis={}, pipeline="of Patients, my clinic",
        sha256="0", members=frozenset({make().digest}),
    )  # fmt: skip
    far = {f"fc_ContA-{i}": z for i, z in enumerate((-9, -1.5, -0.5, 0.5, 1.5, 9))}
    others = Reference(**{**{k: getattr(reference, k) for k in ("values", "participants", "basis")},
                          "pipeline": "x", "sha256": "1"})  # fmt: skip
    many = [
        make(),
        make(gradients={}, components={}, notes=tuple(notes())),
        make(reference=reference, z=far),
        make(reference=others, z={"modularity": 0.1}),
    ]
    return [one.as_text() for one in many]


def words_of(text: str) -> set[str]:
    """Split a text into words, names and numbers left out."""
    text = re.sub(r"\b(fc|ica|strength|gradient\d)_\S+|\b(Atlas|Cleaning)\b", " ", text)
    for name in NAMES:
        text = text.replace(name, " ")
    return set(re.findall(r"[a-z]+", text.lower()))


def constants(module: object) -> set[str]:
    """Collect the words of all strings of a module but its docstrings."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    documented = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    said = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node not in documented
    }
    return {word for text in said for word in re.findall(r"[a-z]+", text.lower())}


def test_a_description_has_no_word_outside_of_its_vocabulary() -> None:
    said = set().union(*(words_of(text) for text in texts()))
    assert sorted(said) == WORDS
    assert "diagnostic" not in said  # the text has no word for what it does not do


def test_no_word_of_the_vocabulary_is_of_health() -> None:
    assert [word for word in WORDS if word.startswith(HEALTH)] == []


@pytest.mark.parametrize(
    "module",
    [describe_module, describe_text, describe_reference, describe_gradients, describe_run],
    ids=["describe", "text", "reference", "gradients", "run"],
)
def test_no_string_that_a_text_is_made_of_holds_a_word_of_health(module: object) -> None:
    assert [word for word in constants(module) if word.startswith(HEALTH)] == []


def test_every_text_ends_with_the_notice_and_holds_no_words_of_the_user() -> None:
    for text in texts():
        assert text.endswith(f"{NOTICE}\n")
        assert "clinic" not in text  # of the reference's own words
    assert plain("Patient's <b>net</b>") == "Patientsbnetb"


def test_each_distance_has_its_words() -> None:
    (compared,) = [text for text in texts() if "markedly elevated" in text]
    for words in ("markedly lower than average (z=-9.00)", "somewhat reduced", "somewhat elevated"):
        assert words in compared
    assert "more than one standard deviation" in compared.lower()
    assert "fc_ContA-2" not in compared  # within one standard deviation nothing is named
