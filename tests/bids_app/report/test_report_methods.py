"""The methods text: citations stand where they belong, and the entries are there."""

from __future__ import annotations

import re
from pathlib import Path

from neurostorm_app.bids_app.report import citing
from neurostorm_app.bids_app.report.citing import cite, read_references, write_methods
from neurostorm_app.bids_app.report.tree import read_participant
from neurostorm_app.pipelines.preprocess import methods

TEXT = methods.anatomy(["MNI152NLin6Asym"], known=False)


def test_every_reference_that_is_cited_is_there_and_every_one_is_cited():
    cited = {key for _, keys in citing._RULES for key in keys}
    assert cited == read_references().keys()


def test_the_words_that_are_cited_are_those_of_the_preprocessing():
    """Were they changed there, the citation would be lost without a word."""
    said = TEXT + methods.anatomy(["MNI152NLin2009cAsym"], known=True)
    said += "".join(methods.fieldmap(kind) for kind in methods.KINDS)
    source = " ".join(re.findall(r'"([^"]*)"', Path(methods.__file__).read_text()))
    source = re.sub(r"\s+", " ", source)
    for phrase, _ in citing._RULES:
        assert phrase in said or phrase in source, phrase


def test_citations_stand_behind_what_they_are_for(tree):
    made = write_methods(TEXT, [])
    assert made is not None
    assert "(N4, SimpleITK; Tustison et al., 2010; Lowekamp et al., 2013)" in made.text
    assert "MNI152NLin6Asym (Evans et al., 2012)" in made.text
    assert "(deepbet) [@deepbet]" in made.markdown
    assert made.references[0].startswith("Tustison, Nicholas J.; ")
    assert "doi:10.1109/TMI.2010.2046908" in made.references[0]


def test_bibtex_has_an_entry_for_each_key_of_the_markdown():
    made = write_methods(TEXT, [])
    assert made is not None
    keys = set(re.findall(r"@(\w+)", made.markdown))
    assert set(re.findall(r"@article\{(\w+),", made.bibtex)) == keys
    assert made.bibtex.count("{") == made.bibtex.count("}")


def test_models_are_named_with_what_their_cards_ask_to_cite(tree):
    tree.embedding("sub-01_task-rest", "connectome")
    for path in tree.root.rglob("*_embedding.json"):
        path.write_text(
            path.read_text().replace('"Limits"', '"References": ["Finn et al. (2015)"], "Limits"')
        )
    made = write_methods("", read_participant(tree.root, "01").runs)
    assert made is not None
    assert "embedded by connectome (version 1, no weights) with neurostorm-app" in made.text
    assert made.references == ["Finn et al. (2015)"]
    assert made.bibtex == ""


def test_controls_with_random_weights_are_no_part_of_the_methods(tree):
    tree.embedding("sub-01_task-rest", "connectome")
    tree.embedding("sub-01_task-rest", "neurostormUntrained")
    made = write_methods("", read_participant(tree.root, "01").runs)
    assert made is not None
    assert "neurostormUntrained" not in made.text
    assert "embedded by connectome (" in made.text


def test_nothing_that_ran_is_nothing_to_say():
    assert write_methods("", []) is None


def test_a_phrase_is_cited_once_and_names_with_accents_are_read():
    assert cite("aCompCor and aCompCor", {"compcor": "X"}) == "aCompCor (X) and aCompCor"
    assert read_references()["crown"].long.startswith("Patriat, Rémi")
