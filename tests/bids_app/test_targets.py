"""Targets: columns found by name, read as values or classes, and refused with a reason."""

from __future__ import annotations

import json
import math

import pytest

from neurostorm_app.bids_app.group import tables
from neurostorm_app.bids_app.group.confounds import find_columns, group_rows, look_up
from neurostorm_app.bids_app.group.motion import read_motion
from neurostorm_app.bids_app.group.tables import find_tables, read_column
from neurostorm_app.bids_app.group.targets import (
    check_target,
    find_column,
    label_target,
    read_labels,
)
from neurostorm_app.bids_app.inputs.links import follow_uri, linked_datasets
from neurostorm_app.bids_app.words.options import Prediction
from neurostorm_app.errors import DataError, NoInputError, UsageError

PEOPLE = [f"{i:02d}" for i in range(1, 21)]


@pytest.fixture
def bids(tmp_path):
    root = tmp_path / "bids"
    root.mkdir()
    return root


def write(path, columns, *, about=None, first="participant_id", ids=None):
    """Write a table of columns, and a data dictionary if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = ids or [f"sub-{label}" for label in PEOPLE]
    rows = zip(ids, *columns.values(), strict=True)
    lines = ["\t".join([first, *columns]), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    if about is not None:
        path.with_suffix(".json").write_text(json.dumps(about))
    return path


def column_of(bids, name, *, participants=PEOPLE, given=None):
    return find_column(name, find_tables([bids], participants, given=given))


def labels_of(bids, values, **kw):
    write(bids / "participants.tsv", {"x": values}, **kw)
    return read_labels(column_of(bids, "x"))


@pytest.mark.parametrize(
    ("values", "about", "kind"),
    [
        ([20 + i for i in range(20)], None, "value"),
        ([20.5 + i % 4 for i in range(20)], None, "value"),
        ([i % 2 for i in range(20)], None, "classes"),
        (["F", "M"] * 10, None, "classes"),
        ([i % 2 for i in range(20)], {"x": {"Units": "years"}}, "value"),
        ([20 + i for i in range(20)], {"x": {"Levels": {"20": "x"}}}, "classes"),
        ([1, 2, 3] + ["n/a"] * 17, None, "value"),  # three of three people share none
    ],
)
def test_the_kind_is_read_from_the_numbers_or_the_dictionary(bids, values, about, kind):
    assert labels_of(bids, values, about=about).kind == kind


@pytest.mark.parametrize(
    ("name", "ages", "about", "kind"),
    [
        ("age", [18 + i % 5 for i in range(20)], None, "value"),
        ("Age", [18 + i % 5 for i in range(20)], {"Age": {"Description": "x"}}, "value"),
        ("age", [18 + i % 5 for i in range(20)], {"age": {"Levels": {"18": "x"}}}, "classes"),
        ("age", ["18-30", "31-40"] * 10, None, "classes"),
        ("stage", [18 + i % 5 for i in range(20)], None, "classes"),
    ],
)
def test_age_is_a_value_unless_its_levels_are_said(bids, name, ages, about, kind):
    write(bids / "participants.tsv", {name: ages}, about=about)
    column = column_of(bids, name)
    assert read_labels(column).kind == kind
    found = look_up(column, [(label, None) for label in PEOPLE])
    assert isinstance(found, tuple) == (kind == "classes")


def test_a_few_ages_with_a_word_among_them_are_no_classes(bids):
    write(bids / "participants.tsv", {"age": [*[18, 19] * 9, "89+", "89+"]})
    with pytest.raises(DataError, match="numbers and text are mixed: 2 of 20 cells are text"):
        read_labels(column_of(bids, "age"))


def test_a_value_keeps_its_unit_and_classes_their_names(bids):
    about = {"x": {"Units": "year"}}
    labels = labels_of(bids, [20 + i for i in range(20)], about=about)
    assert (labels.unit, labels.values["03", None]) == ("year", 22.0)
    labels = labels_of(bids, ["patient", "control"] * 10, about={})
    assert labels.classes == ("control", "patient")
    assert labels.values["01", None] == 1


def test_numbers_that_are_classes_are_sorted_as_numbers(bids):
    labels = labels_of(bids, ["10", "9.0", "9", "10.0"] * 5)
    assert labels.classes == ("9", "10")
    assert [labels.values[p, None] for p in PEOPLE[:4]] == [1, 0, 0, 1]


@pytest.mark.parametrize("word", ["n/a", "", "NaN", "nan", "N/A", "NA"])
def test_words_for_missing_are_missing(bids, word):
    labels = labels_of(bids, [word, *range(19)])
    assert ("01", None) not in labels.values
    assert len(labels.values) == 19


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffparticipant_id\tx\r\nsub-01\té\r\n02\tz\r\n".encode(),
        "participant_id\tx\rsub-01\té\r02\tz".encode("latin-1"),
        "participant_id\tx\nsub-01\té\nsub-02\tz\n\n".encode("utf-16"),
        'participant_id\tx\nsub-01\t"é"\nsub-02\tz\n'.encode(),
    ],
    ids=["utf-8 with a mark, CRLF", "latin-1, CR", "utf-16", "quoted"],
)
def test_tables_of_all_programs_are_read(bids, content):
    (bids / "participants.tsv").write_bytes(content)
    assert column_of(bids, "x").cells == {("01", None): "é", ("02", None): "z"}


def test_phenotype_and_sessions_are_looked_through(bids):
    write(bids / "participants.tsv", {"a": PEOPLE})
    write(bids / "phenotype" / "panas.tsv", {"b": PEOPLE}, about={"b": {"Units": "points"}})
    for label in PEOPLE[:3]:
        path = bids / f"sub-{label}" / f"sub-{label}_sessions.tsv"
        write(path, {"c": [1, 2]}, first="session_id", ids=["ses-a", "ses-b"])
    (bids / "sessions.json").write_text('{"c": {"Units": "mg"}}')
    assert column_of(bids, "b").about == {"Units": "points"}
    column = column_of(bids, "c")
    assert column.row_is == "session"
    assert column.cells["02", "b"] == "2"
    assert column.about == {"Units": "mg"}
    assert len(column.cells) == 6


def test_only_the_sessions_of_those_embedded_are_opened(bids):
    for label in ("01", "02"):
        path = bids / f"sub-{label}" / f"sub-{label}_sessions.tsv"
        write(path, {"c": [1]}, first="session_id", ids=["ses-a"])
    assert {p for p, _ in column_of(bids, "c", participants=["01"]).cells} == {"01"}


def test_a_long_phenotype_table_is_of_sessions(bids):
    ids = ["sub-01", "sub-01", "sub-02"]
    write(
        bids / "phenotype" / "scl.tsv",
        {"session_id": ["ses-1", "2", "ses-1"], "b": [1, 2, 3]},
        ids=ids,
    )
    assert column_of(bids, "b").cells == {("01", "1"): "1", ("01", "2"): "2", ("02", "1"): "3"}


def test_a_column_of_two_tables_has_to_be_told_apart(bids):
    write(bids / "participants.tsv", {"age": range(20)})
    write(bids / "phenotype" / "demo.tsv", {"age": range(20, 40)})
    with pytest.raises(UsageError, match=r"is a column of .*participants.tsv and of .*demo") as e:
        column_of(bids, "age")
    assert "participants:age or demo:age" in e.value.fix
    assert column_of(bids, "demo:age").cells["01", None] == "20"


def test_a_name_that_is_no_column_suggests_near_ones(bids):
    write(bids / "participants.tsv", {"age": range(20), "Sex": range(20)})
    with pytest.raises(UsageError, match="'agee' is no column of ") as caught:
        column_of(bids, "agee")
    assert caught.value.fix == "did you mean age?"
    assert caught.value.exit_code == 64
    with pytest.raises(UsageError) as caught:
        column_of(bids, "diagnosis")
    assert caught.value.fix == "choose one of age, Sex"


def test_no_table_at_all_is_no_input(bids):
    with pytest.raises(NoInputError, match=r"neither participants\.tsv nor phenotype") as caught:
        column_of(bids, "age")
    assert caught.value.exit_code == 66


def test_a_table_that_is_given_stands_for_participants(bids, tmp_path):
    write(bids / "participants.tsv", {"age": range(20)})
    given = write(tmp_path / "mine.tsv", {"age": range(50, 70)})
    assert column_of(bids, "age", given=given).cells["01", None] == "50"


def test_a_dataset_without_tables_falls_back_to_a_linked_one(bids, tmp_path):
    write(tmp_path / "raw" / "participants.tsv", {"age": range(20)})
    write(bids / "phenotype" / "b.tsv", {"b": range(20)})
    tables = find_tables([bids, tmp_path / "raw"], PEOPLE)
    assert [table.stem for table in tables] == ["participants", "b"]
    out = tmp_path / "out"
    out.mkdir()
    description = {"DatasetLinks": {"raw": "../raw", "web": "https://x/y", "gone": "../gone"}}
    (out / "dataset_description.json").write_text(json.dumps(description))
    assert linked_datasets(out) == {"": out, "raw": tmp_path / "raw"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id\tx\nsub-01\t1\n01\t2\n", "more than one row of sub-01"),
        ("participant_id\tx\nsub-01\t1\t2\n", "line 2: 3 cells, the header has 2"),
        ("participant_id\tx\nsub-../../etc\t1\n", "is not a BIDS label of a participant"),
        (f"participant_id\tx\nsub-01\t{'9' * 200_000}\n", "is not a table of cells between tabs"),
        ("id\tx\nsub-01\t1\n", "has no column participant_id"),
        ("participant_id\tx\tx\nsub-01\t1\t2\n", "'x' twice; its columns"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(bids, text, message):
    (bids / "participants.tsv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        column_of(bids, "x")
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("values", "about", "message"),
    [
        (["n/a"] * 20, None, "all 20 labels are missing"),
        ([*range(19), "89+"], None, "numbers and text are mixed: 1 of 20 cells"),
        ([*range(19), "inf"], None, "numbers and text are mixed: 1 of 20 cells"),
        (["a"] * 20, {"x": {"Units": "years"}}, "numbers and text are mixed: 20 of 20 cells"),
    ],
)
def test_a_column_that_says_nothing_is_refused(bids, values, about, message):
    with pytest.raises(DataError, match=message):
        labels_of(bids, values, about=about)


@pytest.mark.parametrize(
    ("values", "rows", "message"),
    [
        (range(20), PEOPLE[:3], "3 participants have a label and embeddings; an eval"),
        ([7.5] * 20, PEOPLE, "is constant: the same in all 20 rows that have"),
        (["a"] * 10 + ["b"] * 10, PEOPLE[:10], "is constant: the same in all 10 rows that have"),
        (["a"] * 17 + ["b"] * 3, PEOPLE, "too few participants in a class: 'b' has 3; an eval"),
    ],
)
def test_too_little_to_learn_from_is_refused(bids, values, rows, message):
    labels = labels_of(bids, list(values))
    with pytest.raises(DataError, match=message):
        check_target(labels, [(label, None) for label in rows])


def test_what_one_participant_alone_has_is_not_quoted(bids):
    born = [f"1970-03-{day:02d}" for day in range(1, 17)] + ["unknown"] * 4
    labels = labels_of(bids, born)
    with pytest.raises(DataError, match="'unknown' has 4, 16 not named here have as few") as caught:
        check_target(labels, [(label, None) for label in PEOPLE])
    assert "1970" not in f"{caught.value.what} {caught.value.fix}"


def test_sessions_of_one_person_are_one_member_of_a_class(bids):
    ids = [f"sub-{p}" for p in PEOPLE for _ in range(2)]
    sessions = ["ses-1", "ses-2"] * 20
    states = ["on" if p in PEOPLE[:4] else "off" for p in PEOPLE for _ in range(2)]
    write(bids / "participants.tsv", {"session_id": sessions, "x": states}, ids=ids)
    labels = read_labels(column_of(bids, "x"))
    with pytest.raises(DataError, match="'on' has 4"):
        check_target(labels, list(labels.values))


def test_targets_are_written_in_letters_and_digits():
    assert label_target("age", {}) == "age"
    assert label_target("sessions:dose_mg", {"age": "age"}) == "doseMg"
    with pytest.raises(UsageError, match="no file can be named after it"):
        label_target("年齢", {})
    with pytest.raises(UsageError, match="would both be written as 'ageYears'"):
        label_target("age-years", {"age_years": "ageYears"})
    assert label_target("../../etc/passwd", {}) == "etcPasswd"


@pytest.fixture
def rich(bids):
    """People with a site, an age and a sex; the ages of two are missing."""
    ages = ["n/a", "", *range(30, 48)]
    columns = {"Age": ages, "sex": ["F", "M"] * 10, "site": ["A", "B"] * 10, "iq": range(90, 110)}
    write(bids / "participants.tsv", columns)
    return find_tables([bids], PEOPLE)


def test_usual_confounds_are_found_whatever_their_capitals(rich):
    target = find_column("iq", rich)
    assert list(find_columns(Prediction(), rich, target=target)) == ["site", "age", "sex"]
    found = find_columns(Prediction(), rich, target=find_column("Age", rich))
    assert list(found) == ["site", "sex"]
    asked = Prediction(site_column="sex", covariates=("iq", "motion"))
    found = find_columns(asked, rich, target=find_column("Age", rich))
    assert {name: column.name for name, column in found.items()} == {
        "site": "sex",
        "sex": "sex",
        "iq": "iq",
    }


def test_the_target_is_no_covariate_of_itself(rich):
    with pytest.raises(UsageError, match="--covariates iq: it is the target itself"):
        find_columns(Prediction(covariates=("iq",)), rich, target=find_column("iq", rich))


def test_confounds_keep_what_is_missing(rich):
    rows = [(label, None) for label in PEOPLE]
    ages = look_up(find_column("Age", rich), rows)
    assert [math.isnan(age) for age in ages[:3]] == [True, True, False]
    assert look_up(find_column("sex", rich), rows)[:2] == ("F", "M")
    assert look_up(find_column("iq", rich), rows, names=True)[:2] == ("90", "91")
    assert look_up(find_column("sex", rich), rows[::2]) is None  # all F
    assert look_up(find_column("sex", rich), [("01", "1"), ("02", "1")]) == ("F", "M")


def test_families_stay_together_and_others_are_alone(rich, bids):
    rows = [("01", "1"), ("01", "2"), ("02", "1"), ("99", None)]
    assert group_rows(None, rows) == ("sub-01", "sub-01", "sub-02", "sub-99")
    column = find_column("site", rich)
    assert group_rows(column, rows) == ("group A", "group A", "group B", "sub-99")
    ids = ["sub-01", "sub-01"]
    sessions = {"session_id": ["ses-1", "ses-2"], "scanner": ["X", "Y"]}
    write(bids / "phenotype" / "long.tsv", sessions, ids=ids)
    torn = column_of(bids, "scanner")
    with pytest.raises(DataError, match=r"sub-01 is in more than one group of\s*'scanner'"):
        group_rows(torn, rows)


def test_motion_is_read_where_the_sidecar_says(tmp_path):
    out, prep = tmp_path / "out", tmp_path / "prep dir"
    stem = "sub-01_task-rest_run-1"
    embedding = out / "sub-01" / "func" / f"{stem}_space-X_res-2_desc-toy_embedding.tsv"
    table = prep / "sub-01" / "func" / f"{stem}_desc-confounds_timeseries.tsv"
    for path, text in (
        (embedding, ""),
        (table, "csf\tframewise_displacement\n1\tn/a\n1\t0.25\n1\t0.75\n"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    links = {"": out, "prep": prep}

    def motion(links):
        found, damaged = read_motion([embedding], links)
        assert not damaged
        return found[embedding]

    assert math.isnan(motion(links))
    uri = f"bids:prep:sub-01/func/{table.name}"
    embedding.with_suffix(".json").write_text(json.dumps({"Sources": ["bids::x", uri]}))
    assert motion(links) == 0.5
    assert math.isnan(motion({"": out}))
    beside = embedding.with_name(table.name)
    beside.write_text("framewise_displacement\nn/a\n3\n")
    assert motion({"": out}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"framewise_displacement\nmuch\n", "framewise_displacement is not a column of numbers"),
        (b"csf\tframewise_displacement\n1\n", "framewise_displacement is not a column of numb"),
        (b"framewise_displacement\n\xff\xfe\n", "not a column of numbers: 'utf-8' codec can't"),
        (b"framewise_displacement\n0.1\ninf\n", "framewise_displacement holds an infinite number"),
    ],
)
def test_damaged_motion_is_missing_and_told(tmp_path, content, message):
    good, bad = (tmp_path / f"sub-0{i}_task-rest_desc-toy_embedding.tsv" for i in (1, 2))
    ending = "_task-rest_desc-confounds_timeseries.tsv"
    (tmp_path / f"sub-01{ending}").write_text("framewise_displacement\n0.5\n")
    table = tmp_path / f"sub-02{ending}"
    table.write_bytes(content)
    motion, damaged = read_motion([good, bad], {})
    assert (motion[good], math.isnan(motion[bad])) == (0.5, True)
    assert list(damaged) == [table]
    assert message in damaged[table].what
    assert "leave motion out of --covariates" in damaged[table].fix


def test_motion_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied")

    table = tmp_path / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    table.write_text("framewise_displacement\n0.5\n")
    monkeypatch.setattr(type(table), "read_text", refuse)
    _, damaged = read_motion([tmp_path / "sub-01_task-rest_desc-toy_embedding.tsv"], {})
    assert damaged[table].what.endswith("timeseries.tsv cannot be read: Permission denied")


def test_an_address_never_leaves_its_dataset(tmp_path):
    links = {"raw": tmp_path}
    assert follow_uri("bids:raw:sub-01/a.tsv", links) == tmp_path / "sub-01" / "a.tsv"
    for uri in ("bids:raw:../a.tsv", "bids:raw:/etc/passwd", "bids:raw:%2e%2e/a", "a.tsv"):
        assert follow_uri(uri, links) is None


def test_what_was_predicted_is_no_target_and_hides_no_table_of_another_dataset(bids, tmp_path):
    raw = tmp_path / "raw"
    write(raw / "phenotype" / "panas.tsv", {"mood": range(20)})
    predicted = write(bids / "phenotype" / "toy_age.tsv", {"predicted": range(20)})
    predicted.with_suffix(".json").write_text('{"NotForDiagnosis": true}')
    tables = find_tables([bids, raw], PEOPLE)
    assert [table.shown for table in tables] == [str(raw / "phenotype" / "panas.tsv")]
    predicted.with_suffix(".json").write_text("{")
    (table,) = find_tables([bids, raw], PEOPLE)
    with pytest.raises(DataError, match=r"toy_age\.json is not JSON"):
        read_column(table, "predicted")


def test_a_damaged_neighbour_does_not_matter(bids):
    write(bids / "participants.tsv", {"x": range(20)})
    (bids / "phenotype").mkdir()
    (bids / "phenotype" / "empty.tsv").write_text("")
    (bids / "phenotype" / "torn.tsv").write_bytes(b"participant_id\ty\n\xff\xfe\x00\t\t\t\n")
    assert len(read_column(find_tables([bids], PEOPLE)[0], "x").cells) == 20


def test_a_table_that_is_too_wide_is_refused_before_it_is_split(bids, monkeypatch):
    names = [f"c{i:06d}" for i in range(10**6)]
    (bids / "participants.tsv").write_text("participant_id\t" + "\t".join(names) + "\nsub-01\n")
    with pytest.raises(DataError, match="has a line of more than 1048576 letters"):
        find_tables([bids], PEOPLE)
    (bids / "participants.tsv").write_text("participant_id\tx\nsub-01\t" + "\t" * 2**21)
    (table,) = find_tables([bids], PEOPLE)
    with pytest.raises(DataError, match="has a line of more than 1048576 letters"):
        read_column(table, "x")
    write(bids / "participants.tsv", {"x": range(20)})
    monkeypatch.setattr(tables, "ROWS_MAX", 19)
    with pytest.raises(DataError, match="has more than 19 rows of people"):
        read_column(table, "x")
    monkeypatch.setattr(tables, "BYTES_MAX", 100)
    with pytest.raises(DataError, match="bytes; a table of people has 100 at most"):
        read_column(table, "x")


def test_a_table_is_decoded_by_all_of_its_bytes(bids):
    content = b"participant_id\tx\n" + "sub-01\tK\u00f6ln\n".encode("latin-1")
    (bids / "participants.tsv").write_bytes(content)
    (table,) = find_tables([bids], PEOPLE)
    assert read_column(table, "x").cells == {("01", None): "K\u00f6ln"}
