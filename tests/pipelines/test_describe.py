"""Descriptions of a run: the numbers of the public code, and truths that were planted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neurostorm_app.errors import DataError, NoInputError, UsageError
from neurostorm_app.pipelines.describe import Description, describe
from neurostorm_app.pipelines.describe_cohort import Member, build_reference, choose_reference
from neurostorm_app.pipelines.describe_gradients import find_gradients
from neurostorm_app.pipelines.describe_graph import (
    clustering,
    keep_strongest,
    measure_efficiency,
    modularity,
)
from neurostorm_app.pipelines.describe_reference import LEAST, Reference, read_reference, word_z
from neurostorm_app.pipelines.describe_values import (
    average_pairs,
    find_network,
    measure_components,
    measure_gradients,
    measure_graph,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "fmri_lm"
TOLERANCE = 1e-6
SEVEN = ("Cont", "Default", "DorsAttn", "Limbic", "SalVentAttn", "SomMot", "Vis")
EACH = 8
"""Parcels of a planted network."""
NOISE = 0.7
"""Standard deviation of a parcel's own signal; that of its network is 1."""


@pytest.fixture(scope="module")
def golden() -> tuple[Any, dict[str, Any]]:
    if not FOLDER.is_dir():
        pytest.skip("the numbers of the public code are not beside the project")
    about = json.loads((FOLDER / "data_and_descriptors.json").read_text())
    return np.load(FOLDER / "data_and_descriptors.npz"), about


def planted(seed: int = 0, *, n: int = 3000, joined: float = 0.6) -> NDArray[np.float64]:
    """Draw seven networks; Cont and Default share a signal, Limbic and Vis are opposed."""
    rng = np.random.default_rng(seed)
    truth = np.eye(7) * (1 - 0.1) + 0.1
    for a, b, r in (("Cont", "Default", joined), ("Limbic", "Vis", -0.5)):
        i, j = SEVEN.index(a), SEVEN.index(b)
        truth[i, j] = truth[j, i] = r
    signals = np.linalg.cholesky(truth) @ rng.normal(size=(7, n))
    return np.repeat(signals, EACH, axis=0) + NOISE * rng.normal(size=(7 * EACH, n))


NAMES = [name for name in SEVEN for _ in range(EACH)]


def test_pairs_of_networks_are_those_of_the_public_code(golden) -> None:
    arrays, about = golden
    found = average_pairs(arrays["fc"], about["node_networks"])
    assert list(found) == about["fc_pair_names"]
    np.testing.assert_allclose(list(found.values()), arrays["fc_pair_values"], atol=TOLERANCE)


def test_the_graph_is_that_of_the_public_code(golden) -> None:
    arrays, about = golden
    found = measure_graph(arrays["fc"], about["node_networks"])
    assert list(found) == about["graph_names"]
    # Communities too, although upstream finds them by chance: here they are plain.
    np.testing.assert_allclose(list(found.values()), arrays["graph_values"], atol=TOLERANCE)


def test_measures_of_gradients_are_those_of_the_public_code(golden) -> None:
    arrays, about = golden
    stats = about["gradient_group_stats"]
    ranges = [
        (stats[f"gradient_{i}_range_mean"], stats[f"gradient_{i}_range_std"]) for i in (1, 2, 3)
    ]
    found = measure_gradients(arrays["gradients_in"], about["node_networks"], ranges=ranges)
    assert list(found) == about["gradient_names"]
    np.testing.assert_allclose(list(found.values()), arrays["gradient_values"], atol=TOLERANCE)


def test_measures_of_components_are_those_of_the_public_code(golden) -> None:
    arrays, _ = golden
    found = measure_components(arrays["ica_tc_in"], tr=2.0)
    names = {"temp_sd": "ica_temp_var"}  # upstream's name says variance; it is the deviation
    for name, values in found.items():
        expected = arrays[names.get(name, f"ica_{name}")]
        np.testing.assert_allclose(values, expected, atol=TOLERANCE)


def test_words_are_those_of_the_public_code(golden) -> None:
    _, about = golden
    for z, words in about["describe_z"].items():
        assert word_z(float(z)) == words


def test_words_without_numbers_of_the_public_code_lie_on_the_same_side(golden) -> None:
    """They are its second wording, of three kinds; here there is one wording, of five."""
    sides = {"lower than cohort average": -1, "within typical range": 0,
             "higher than cohort average": 1}  # fmt: skip
    for z, words in golden[1]["z_to_text"].items():
        ours = word_z(float(z))
        found = ("elevated" in ours) - ("reduced" in ours or "lower" in ours)
        assert found == sides[words]
        assert ("within typical range" in ours) == (found == 0)


def test_planted_networks_are_found_in_the_numbers() -> None:
    found = describe(planted(), NAMES, tr=2.0)
    share = 1 / (1 + NOISE**2)
    assert len(found.connectivity) == 28
    for name in SEVEN:
        assert found.connectivity[f"{name}-{name}"] == pytest.approx(share, abs=0.05)
    assert found.connectivity["Cont-Default"] == pytest.approx(0.6 * share, abs=0.05)
    assert found.connectivity["Limbic-Vis"] == pytest.approx(-0.5 * share, abs=0.05)
    assert found.connectivity["SomMot-Vis"] == pytest.approx(0.1 * share, abs=0.05)
    # 154 of 1540 pairs stay, all of them within the seven networks of 28 pairs each.
    assert found.graph["modularity"] > 0.8
    text = found.as_text()
    assert "Lowest: Limbic-Vis -0.3" in text
    assert "over 3000 volumes of 2 s" in text


def test_noise_has_no_networks() -> None:
    noise = np.random.default_rng(5).normal(size=(56, 3000))
    found = describe(noise, NAMES, tr=2.0)
    assert max(map(abs, found.connectivity.values())) < 0.02
    assert found.graph["modularity"] < 0.6


def test_a_planted_axis_is_the_first_gradient() -> None:
    place = np.random.default_rng(1).permutation(np.linspace(0, 1, 60))
    fc = np.exp(-np.square(place[:, None] - place[None]) / 0.05)
    first = find_gradients(fc)[:, 0]
    order = first[np.argsort(place)]
    steps = np.diff(order) * np.sign(order[-1] - order[0])
    assert (steps > -1e-9).all()
    assert first[np.abs(first).argmax()] > 0


def test_communities_of_a_graph_are_found_whatever_the_order_of_parcels() -> None:
    ring = np.kron(np.eye(5), np.ones((6, 6)) - np.eye(6))
    for i in range(5):  # one thread from each community to the next
        a, b = 6 * i, (6 * i + 7) % 30
        ring[a, b] = ring[b, a] = 1
    total = ring.sum()
    truth = np.repeat(np.arange(5), 6)
    shares = [ring[truth == k].sum() / total for k in range(5)]
    expected = ring[truth[:, None] == truth].sum() / total - np.square(shares).sum()
    assert modularity(ring) == pytest.approx(expected)
    order = np.random.default_rng(0).permutation(30)
    assert modularity(ring[np.ix_(order, order)]) == pytest.approx(expected)


def test_measures_of_plain_graphs() -> None:
    path = np.diag([1.0, 1.0], 1)
    path += path.T
    assert measure_efficiency(path) == pytest.approx((1 + 1 + 0.5) / 3)
    assert clustering(path) == 0
    assert clustering(np.ones((4, 4)) - np.eye(4)) == pytest.approx(1)
    empty = np.zeros((3, 3))
    assert (measure_efficiency(empty), clustering(empty), modularity(empty)) == (0, 0, 0)
    assert measure_efficiency(np.zeros((1, 1))) == 0
    fc = np.array([[1, -0.9, 0.1], [-0.9, 1, 0.2], [0.1, 0.2, 1]])
    kept = keep_strongest(fc, share=0.34)
    assert kept[0, 1] == kept[1, 0] == 0.9
    assert (kept > 0).sum() == 2


def test_a_slow_component_has_slow_power_and_a_still_one_has_none() -> None:
    t = np.arange(400) * 2.0
    waves = np.stack([np.sin(2 * np.pi * 0.05 * t), np.sin(2 * np.pi * 0.2 * t), 0 * t])
    found = measure_components(waves, tr=2.0)
    assert found["spectral_ratio"][0] > 100
    assert found["spectral_ratio"][1] < 0.01
    assert found["autocorr_lag1"][0] == pytest.approx(np.cos(2 * np.pi * 0.1), abs=0.01)
    assert all(values[2] == 0 for values in found.values())


def test_the_same_run_gives_the_same_text_and_numbers() -> None:
    first, again = (describe(planted(3), NAMES, tr=0.8) for _ in range(2))
    assert first.as_text() == again.as_text()
    assert json.dumps(first.as_json()) == json.dumps(again.as_json())
    assert json.loads(json.dumps(first.as_json()))["Values"]["fc_Cont-Cont"] == pytest.approx(
        first.connectivity["Cont-Cont"]
    )


def test_gradients_that_are_not_there_are_told() -> None:
    series = planted(joined=0.1)
    parts = describe(series, NAMES, tr=2.0)  # eight of 56 parcels: each keeps its own network
    assert parts.gradients == {}
    assert "no gradient over all of them" in parts.notes[0]
    assert "Not measured: gradients, because the parcels fall into parts" in parts.as_text()
    rng = np.random.default_rng(2)
    place = np.linspace(0, 1, 56)
    weights = np.exp(-np.square(place[:, None] - np.linspace(0, 1, 30)) / 0.02)
    smooth = weights @ rng.normal(size=(30, 2000)) + 0.1 * rng.normal(size=(56, 2000))
    whole = describe(smooth, NAMES, tr=2.0)
    assert whole.notes == ()
    assert len(whole.gradients) == 3 * 9
    assert "gradients of connectivity reach over" in whole.as_text()


def test_parcels_without_network_or_signal_are_left_out() -> None:
    series, names = planted(), [*NAMES]
    series[3], series[9] = np.nan, 1.0
    names[20] = None
    found = describe(series, names, tr=2.0)
    assert (found.n_parcels, found.n_left_out) == (53, 3)
    keep = [i for i in range(56) if i not in {3, 9, 20}]
    alone = describe(series[keep], [names[i] for i in keep], tr=2.0)
    assert alone.connectivity == found.connectivity


def write_reference(folder: Path, people: list[Description], **more: Any) -> Path:
    """Write the reference of a cohort, as the verb does."""
    members = {
        f"sub-{i:02d}": Member(values=one.comparable, digest=one.digest)
        for i, one in enumerate(people)
    }
    basis = {"Atlas": "Made", **more}
    table, about = build_reference(members, basis=basis, pipeline="ours, 1.0")
    path = folder / "reference.tsv"
    path.write_text(table)
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


@pytest.fixture(scope="module")
def people() -> list[Description]:
    return [describe(planted(seed, n=300), NAMES, tr=2.0) for seed in range(LEAST)]


@pytest.fixture(scope="module")
def reference(people, tmp_path_factory) -> Reference:
    return read_reference(write_reference(tmp_path_factory.mktemp("cohort"), people))


def test_z_is_there_only_beside_a_reference_and_finds_who_differs(people, reference) -> None:
    alike = describe(planted(50, n=300), NAMES, tr=2.0, reference=reference)
    other = describe(planted(51, n=300, joined=0.1), NAMES, tr=2.0, reference=reference)
    assert people[0].z is None
    assert people[0].as_json()["Z"] is None
    assert "z=" not in people[0].as_text()
    assert alike.z is not None
    assert other.z is not None
    assert abs(alike.z["fc_Cont-Default"]) < 3
    assert other.z["fc_Cont-Default"] < -5
    assert "fc_Cont-Default markedly lower than average (z=-" in other.as_text()
    assert "Beside a reference of 20 participants, one run each" in other.as_text()
    assert f"of {len(other.z)}, about {0.317 * len(other.z):.0f} are by chance" in other.as_text()
    said = other.as_json()["Reference"]
    assert (said["N"], said["SHA256"], said["Pipeline"]) == (20, reference.sha256, "ours, 1.0")
    expected = np.mean([one.connectivity["Vis-Vis"] for one in people])
    assert reference.values["fc_Vis-Vis"][0] == pytest.approx(expected, rel=1e-6)


def test_a_high_modularity_is_said_to_be_high(people, reference) -> None:
    """The public code calls it reduced."""
    mean, sd = reference.values["modularity"]
    for away, words in ((1.5, "somewhat elevated"), (-1.5, "somewhat reduced")):
        values = {"modularity": mean + away * sd}
        run = replace(people[0], z=reference.compare(values), reference=reference)
        assert f": modularity {words} (z={away:+.2f})." in run.as_text()


def test_the_range_of_a_gradient_is_compared_with_how_ranges_differ(people, tmp_path) -> None:
    """The public code divides by how the places on one gradient differ."""
    ranges = np.linspace(1.8, 2.2, len(people))
    spread = {"gradient1_var": 0.25}
    cohort = [
        replace(one, gradients={"gradient1_range": float(reach), **spread})
        for one, reach in zip(people, ranges, strict=True)
    ]
    reference = read_reference(write_reference(tmp_path, cohort))
    z = reference.compare({"gradient1_range": 2.3, **spread})
    assert z == {"gradient1_range": pytest.approx((2.3 - 2.0) / ranges.std(ddof=1), rel=1e-6)}
    assert z["gradient1_range"] > 2 * (2.3 - 2.0) / 0.25**0.5


def test_what_was_measured_of_components_is_in_the_text(rng) -> None:
    """The public code puts it into words and leaves the words out."""
    courses = np.stack([np.sin(2 * np.pi * f * 2.0 * np.arange(300)) for f in (0.05, 0.2)])
    measured = measure_components(courses + 0.1 * rng.normal(size=courses.shape), tr=2.0)
    components = {
        name: dict(zip(("slow", "fast"), map(float, values), strict=True))
        for name, values in measured.items()
    }
    text = describe(planted(n=300), NAMES, tr=2.0, components=components).as_text()
    ratio = components["spectral_ratio"]
    assert ratio["slow"] > 100 * ratio["fast"]
    assert f"is highest in slow {ratio['slow']:.2f}, fast {ratio['fast']:.2f}." in text
    assert "Of 2 components, the power of slow waves" in text


def test_a_run_of_the_reference_is_known_again(people, reference) -> None:
    again = describe(planted(3, n=300), NAMES, tr=2.0, reference=reference)
    other = describe(planted(77, n=300), NAMES, tr=2.0, reference=reference)
    assert again.digest == people[3].digest
    assert (again.among, other.among) == (True, False)
    assert "; this run is one of them" in again.as_text()
    assert again.as_json()["Reference"]["HoldsThisRun"] is True


def test_places_on_gradients_are_not_compared() -> None:
    found = Description(
        connectivity={"A-A": 0.1},
        graph={"strength_A": 1.0},
        gradients={"gradient1_range": 2.0, "gradient1_A_mean": 0.3},
        networks=("A",),
        n_parcels=2,
        n_left_out=0,
        n_volumes=100,
        tr=2.0,
    )
    assert list(found.comparable) == ["fc_A-A", "strength_A", "gradient1_range"]
    assert "gradient1_A_mean" in found.values


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("7Networks_LH_Vis_1", "Vis"),
        ("LH_Vis_1", None),
        ("17Networks_RH_DefaultA_PFCm_2", "DefaultA"),
        ("THA-DP-rh", None),
    ],
)
def test_networks_are_read_from_the_names_of_parcels(name: str, network: str | None) -> None:
    assert find_network(name) == network


@pytest.mark.parametrize(
    ("series", "names", "message"),
    [
        (np.ones((3, 50)), ["A"], "expected one each, and at least 20 volumes"),
        (np.eye(4, 10), ["A", "A", "B", "B"], "expected one each, and at least 20 volumes"),
        (np.eye(4, 50), ["A", "A", "A", None], "3 parcels with a signal are of 1 networks"),
        (np.eye(4, 50), ["A", "A", "A", "B"], "expected two networks or more, of two parcels each"),
    ],
)
def test_series_that_cannot_be_described_are_refused(series, names, message: str) -> None:
    with pytest.raises(DataError, match=message):
        describe(series, names, tr=2.0)


def test_too_few_parcels_have_no_gradients() -> None:
    with pytest.raises(DataError, match="3 gradients take 5 or more"):
        find_gradients(np.eye(4))


def test_a_network_of_one_parcel_is_left_out_and_told() -> None:
    with pytest.raises(DataError, match="the networks B have one parcel each"):
        average_pairs(np.eye(3), ["A", "A", "B"])
    series = planted()
    series[1:EACH] = np.nan  # of Cont, one parcel has a signal
    found = describe(series, NAMES, tr=2.0)
    assert found.networks == SEVEN[1:]
    assert found.n_left_out == EACH
    assert found.notes[0] == "not measured: Cont, of which fewer than two parcels have a signal"
    assert "Not measured: Cont, of which" in found.as_text()


HEAD = "descriptor\tmean\tsd\tn\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("descriptor\tmean\na\t1\n", "the reference lacks sd, n"),
        (HEAD, "the reference lacks rows"),
        ("", "no table of a reference can be read"),
        (HEAD + "a\t1\t1\t20\na\t1\t1\t20\n", "a is there twice; expected each number once"),
        (HEAD + "a\t1\t0\t20\n", "a has the mean 1, the sd 0 and n 20"),
        (HEAD + "a\tone\t1\t20\n", "a has the mean nan"),
        (HEAD + "a\t1\t1\t19\n", "expected finite numbers, an sd above 0 and 20 participants"),
    ],
)
def test_references_that_make_no_sense_are_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "reference.tsv").write_text(text)
    (tmp_path / "reference.json").write_text("{}")
    with pytest.raises(DataError, match=message):
        read_reference(tmp_path / "reference.tsv")


def test_a_reference_says_of_whom_and_of_how_many_it_is(people, tmp_path) -> None:
    path = write_reference(tmp_path, people)
    beside = path.with_suffix(".json")
    about = json.loads(beside.read_text())
    assert (about["N"], len(about["Participants"]), len(about["Members"])) == (20, 20, 20)
    beside.write_text(json.dumps({**about, "Participants": ["sub-01"] * 20}))
    with pytest.raises(DataError, match="names 1 participants; a reference takes 20 or more"):
        read_reference(path)
    beside.write_text(json.dumps({"Pipeline": "x"}))
    with pytest.raises(DataError, match="does not say of whom and of what the reference was made"):
        read_reference(path)
    beside.unlink()
    with pytest.raises(NoInputError, match="there is no such file that says of whom it was made"):
        read_reference(path)


def test_a_reference_that_is_missing_or_of_other_numbers_is_refused(reference, tmp_path) -> None:
    with pytest.raises(NoInputError, match="there is no such reference table"):
        read_reference(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="the reference has none of the numbers"):
        describe(planted(n=300), ["A"] * 28 + ["B"] * 28, tr=2.0, reference=reference_of({"x": 1}))
    few = {str(i): Member(values={"a": float(i)}, digest=str(i)) for i in range(LEAST - 1)}
    with pytest.raises(UsageError, match="a reference was asked for of 19 participants"):
        build_reference(few, basis={}, pipeline="x")


def reference_of(values: dict[str, float]) -> Reference:
    return Reference(
        values={name: (value, 1.0) for name, value in values.items()},
        participants=("a",),
        basis={},
        pipeline="x",
        sha256="0",
    )


def test_a_reference_leaves_out_what_few_have_or_what_never_varies() -> None:
    members = {
        str(i): Member(values={"a": float(i), "b": 2.0} | ({"c": 1.0 * i} if i else {}), digest="")
        for i in range(LEAST)
    }
    table, _ = build_reference(members, basis={}, pipeline="x")
    assert table.splitlines()[1:] == ["a\t9.5\t5.91607978\t20"]
    members["more"] = Member(values={"c": 5.0}, digest="")
    table, _ = build_reference(members, basis={}, pipeline="x")
    assert [line.split("\t")[::3] for line in table.splitlines()[1:]] == [["a", "20"], ["c", "20"]]


def test_the_reference_of_an_atlas_is_found_in_a_folder(people, tmp_path) -> None:
    path = write_reference(tmp_path, people)
    (tmp_path / "other.tsv").write_text("something\nelse\n")
    found = choose_reference(tmp_path, "Made")
    assert found is not None
    assert found[0] == path
    assert choose_reference(tmp_path, "Tian") is None
    assert choose_reference(path, "Tian") is None
    for ending in (".tsv", ".json"):
        path.with_name(f"again{ending}").write_bytes(path.with_suffix(ending).read_bytes())
    with pytest.raises(UsageError, match=r"holds two references of Made: again.tsv, reference.tsv"):
        choose_reference(tmp_path, "Made")
