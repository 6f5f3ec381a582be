"""From files to descriptions: networks of tables and images, cleaning, components, references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import DataError, NoInputError, UsageError
from neurostorm_app.pipelines.clean import clean_parcels
from neurostorm_app.pipelines.describe import describe
from neurostorm_app.pipelines.describe_networks import (
    digest_networks,
    find_table,
    plain,
    read_networks,
)
from neurostorm_app.pipelines.describe_reference import Reference
from neurostorm_app.pipelines.describe_run import describe_run, recipe
from neurostorm_app.pipelines.embed_series import ParcelTable
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.regrid import onto_grid
from neurostorm_app.pipelines.series_table import read_series
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.templates import load_template

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.describe_networks import Networks

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "timeseries" / "stages-schaefer400"
SPACE, TR, N = "MNI152NLin6Asym", 2.0, 150
GRID = Grid.from_rows((16, 19, 16), [[-12, 0, 0, 90], [0, 12, 0, -126], [0, 0, 12, -72]])
OF = ("Default", "Default", "Default", "Vis", "Vis", "Vis", "Cont", "Cont", "Cont", None)
N_PARCELS = len(OF)


def planted(seed: int = 0, *, joined: float = 0.8) -> NDArray[np.float64]:
    """Draw parcels of three networks; Default and Cont share a part of their signal, (V, T)."""
    rng = np.random.default_rng(seed)
    t = np.arange(N) * TR
    waves = np.stack([np.sin(2 * np.pi * (f * t + rng.random())) for f in (0.02, 0.033, 0.051)])
    default, vis, cont = waves
    cont = joined * default + np.sqrt(1 - joined**2) * cont
    signals = {"Default": default, "Vis": vis, "Cont": cont, None: rng.normal(size=N)}
    return np.stack([signals[name] for name in OF]) + 0.5 * rng.normal(size=(N_PARCELS, N))


def write_table(path: Path) -> Path:
    rows = [f"{i}\tparcel {i}\t{name or 'n/a'}" for i, name in enumerate(OF, start=1)]
    path.write_text("\n".join(["index\tname\tnetwork", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write a label image with its table, and a run of planted networks."""
    folder = tmp_path_factory.mktemp("run")
    mask, grid = read_volume(load_template(SPACE, "2").mask)
    brain = onto_grid(mask, grid, GRID) > 0.5
    labels = np.zeros(GRID.shape, np.int16)
    labels[brain] = 1 + np.arange(brain.sum()) * N_PARCELS // brain.sum()
    data = np.zeros((*GRID.shape, N), np.float32)
    data[brain] = (1000 + 10 * planted())[labels[brain] - 1]
    for name, image in (
        ("tpl-x_res-02_atlas-Ten_dseg", labels), ("mask", brain.astype(np.uint8)), ("bold", data)
    ):  # fmt: skip
        nib.save(nib.Nifti1Image(image, GRID.affine), folder / f"{name}.nii.gz")
    write_table(folder / "tpl-x_atlas-Ten_dseg.tsv")
    return folder


@pytest.fixture
def run(folder) -> StandardSeries:
    return StandardSeries(
        name="sub-01_task-rest", bold=folder / "bold.nii.gz", mask=folder / "mask.nii.gz",
        confounds=None, tr=TR, space=SPACE, res="2",
    )  # fmt: skip


@pytest.fixture
def atlas(folder) -> Path:
    return folder / "tpl-x_res-02_atlas-Ten_dseg.nii.gz"


@pytest.fixture
def networks(atlas) -> Networks:
    table = find_table(atlas)
    assert table is not None
    return read_networks(table)


def test_a_run_is_described_by_the_table_beside_its_label_image(run, atlas, networks) -> None:
    found = describe_run(run, label="Ten", networks=networks, atlas=atlas)
    said = found.description
    assert said.networks == ("Cont", "Default", "Vis")
    assert (said.n_parcels, said.n_left_out, said.n_volumes) == (9, 1, N)
    assert said.connectivity["Cont-Default"] > 0.5
    assert abs(said.connectivity["Default-Vis"]) < 0.2
    assert found.basis["Atlas"] == "Ten"
    assert found.basis["ConfoundsMissing"] == list(recipe().cleaning.confounds)
    assert found.facts["n_volumes_in"] == N
    assert any("not cleaned of trans_x" in note for note in found.facts["notes"])
    again = describe_run(run, label="Ten", networks=networks, atlas=atlas)
    assert again.description.as_text() == said.as_text()


def table_of(folder: Path, series: NDArray[np.float64], names: list[str]) -> ParcelTable:
    path = folder / "sub-01_task-rest_atlas-Ten_timeseries.tsv"
    rows = ["\t".join(repr(float(x)) for x in row) for row in series.T]
    path.write_text("\n".join(["\t".join(names), *rows]) + "\n")
    return ParcelTable(
        name="sub-01_task-rest", bold=path, mask=None, confounds=None, tr=TR, space=SPACE, res="2",
        atlas="Ten",
    )  # fmt: skip


@pytest.mark.parametrize("by", ["index", "name"])
def test_columns_find_their_networks_by_number_or_name(tmp_path, networks, by: str) -> None:
    numbers = [str(i) for i in range(1, N_PARCELS + 1)]
    names = numbers if by == "index" else [f"parcel {i}" for i in numbers]
    table = table_of(tmp_path, planted(), names)
    found = describe_run(table, label="Ten", networks=networks)
    cleaned, _ = clean_parcels(read_series(table.bold)[0], None, tr=TR, cleaning=recipe().cleaning)
    expected = describe(cleaned.series, list(OF), tr=TR)
    assert found.description.connectivity == pytest.approx(expected.connectivity)
    assert found.basis["NetworksSHA256"] == digest_networks(names, OF)


def test_an_image_needs_a_label_image(run, networks) -> None:
    with pytest.raises(DataError, match="no label image was given to make its parcels from"):
        describe_run(run, label="Ten", networks=networks)


def test_components_are_measured_where_they_are_given(run, atlas, networks, tmp_path) -> None:
    t = np.arange(N) * TR
    courses = np.stack([np.sin(2 * np.pi * 0.05 * t), np.sin(2 * np.pi * 0.2 * t)])
    courses += 0.01 * np.random.default_rng(0).normal(size=courses.shape)
    path = tmp_path / "sub-01_task-rest_desc-ICA_mixing.tsv"
    rows = ["\t".join(f"{x:.6f}" for x in row) for row in courses.T]
    path.write_text("\n".join(["slow one\tfast-one", *rows]) + "\n")

    def make(**more: Any) -> Any:
        return describe_run(
            run, label="Ten", networks=networks, atlas=atlas, components=path, **more
        ).description

    found = make()
    values = found.values
    assert values["ica_spectral_ratio_slowone"] > 100 * values["ica_spectral_ratio_fastone"]
    assert "ica_spectral_ratio_slowone" not in found.comparable
    assert "Of 2 components, the power of slow waves" in found.as_text()
    assert "is highest in slowone " in found.as_text()
    path.write_text("\n".join(["a\tb", *rows[:-1]]) + "\n")
    with pytest.raises(DataError, match="has 149 rows; the run sub-01_task-rest has 150"):
        make()
    path.write_text("\n".join(["a b\tab", *rows]) + "\n")
    with pytest.raises(DataError, match="two of its columns have one name in letters and digits"):
        make()


def test_fast_waves_that_the_repetition_time_does_not_hold_are_told(tmp_path, networks) -> None:
    table = table_of(tmp_path, planted(), [str(i) for i in range(1, N_PARCELS + 1)])
    path = tmp_path / "sub-01_task-rest_mixing.npy"
    np.save(path, np.random.default_rng(1).normal(size=(N, 3)))
    slow = replace(table, tr=3.0)
    found = describe_run(slow, label="Ten", networks=networks, components=path).description
    assert "ica_temp_sd_C001" in found.values
    assert any("the fast waves of components end at 0.167 Hz" in note for note in found.notes)


def test_what_a_reference_was_made_of_otherwise_is_not_compared(run, atlas, networks) -> None:
    alone = describe_run(run, label="Ten", networks=networks, atlas=atlas)

    def against(basis: dict[str, Any]) -> Any:
        reference = Reference(
            values={"modularity": (0.3, 0.1)}, participants=("a", "b"), basis=basis,
            pipeline="x", sha256="0",
        )  # fmt: skip
        found = describe_run(run, label="Ten", networks=networks, atlas=atlas, reference=reference)
        return found.description

    alike = against(dict(alone.basis))
    assert list(alike.z) == ["modularity"]
    other = against({**alone.basis, "ConfoundsMissing": [], "Version": 0})
    assert other.z is None
    assert other.notes[-1] == "not compared: the reference differs in ConfoundsMissing, Version"


def test_the_table_of_a_label_image_is_found_by_its_entities(tmp_path) -> None:
    image = tmp_path / "tpl-S_res-02_atlas-A_desc-400_dseg.nii.gz"
    assert find_table(image) is None
    for name in ("tpl-S_atlas-B_dseg.tsv", "tpl-S_res-01_atlas-A_desc-400_dseg.tsv", "dseg.tsv"):
        (tmp_path / name).write_text("of others")
    assert find_table(image) is None
    near = tmp_path / "tpl-S_atlas-A_desc-400_dseg.tsv"
    near.write_text("")
    (tmp_path / "atlas-A_dseg.tsv").write_text("")
    assert find_table(image) == near
    (tmp_path / "tpl-S_res-02_atlas-A_dseg.tsv").write_text("")
    with pytest.raises(UsageError, match="two tables may belong to it: tpl-S_atlas-A_desc-400"):
        find_table(image)
    own = tmp_path / "tpl-S_res-02_atlas-A_desc-400_dseg.tsv"
    own.write_text("")
    assert find_table(image) == own


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        ("index\tname\tcolor", ["1\t7Networks_LH_Vis_1\tx", "2\t7Networks_RH_Cont_1\tx"], "VC"),
        ("index\tlabel\tnetwork_label", ["1\tLH_Vis_1\tVis", "2\tLH-Pu\tn/a", "3\tz\tCont"], "V-C"),
        ("index\tnetwork", ["1.0\tDefault Mode", "2.0\tVis"], "DV"),
    ],
    ids=["templateflow", "xcpd", "plain"],
)
def test_tables_of_others_are_read(tmp_path, header: str, rows: list[str], expected: str) -> None:
    path = tmp_path / "atlas.tsv"
    path.write_text("\n".join([header, *rows]) + "\n")
    found = read_networks(path).of_labels(range(1, len(rows) + 1))
    assert "".join((name or "-")[0] for name in found) == expected
    assert plain("Default Mode") == "DefaultMode"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n1\t2\n", "its columns are a, b; expected index and one of network"),
        ("", "its columns are none; expected index"),
        ("index\tnetwork\n1\tA\n1\tB\n", "the index '1' is there twice or no whole number"),
        ("index\tnetwork\nx\tA\n", "the index 'x' is there twice or no whole number"),
        ("index\tnetwork\n1\tA\n2\tn/a\n", "it names 1 networks; expected two or more"),
        ("index\tnetwork\n1\tA b\n2\tAb\n", "the networks A b and Ab are one in letters"),
    ],
)
def test_tables_without_networks_are_refused(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "atlas.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_networks(path)
    path.write_bytes(b"index\tnetwork\n\xff\xfe\n")
    with pytest.raises(DataError, match="no table of parcels can be read"):
        read_networks(path)
    with pytest.raises(NoInputError, match="there is no such table of parcels"):
        read_networks(tmp_path / "none.tsv")


def test_real_series_have_the_networks_of_their_atlas(tmp_path) -> None:
    """Within networks parcels go along better than between, in each of seven real networks."""
    path = SHARED / "sub-001_ses-1_task-rest_atlas-Schaefer400plus19_timeseries.npz"
    if not path.is_file():
        pytest.skip("the real series are not beside the project")
    # Schaefer's order of 400 parcels, 7 networks: so many of each, in either hemisphere.
    sizes = {"Vis": (31, 30), "SomMot": (37, 40), "DorsAttn": (23, 23), "SalVentAttn": (22, 25)}
    sizes |= {"Limbic": (13, 13), "Cont": (22, 30), "Default": (52, 39)}
    names = [name for side in (0, 1) for name, n in sizes.items() for _ in range(n[side])]
    table = tmp_path / "schaefer.tsv"
    rows = [f"{i}\t{name}" for i, name in enumerate(names, start=1)]
    table.write_text("\n".join(["index\tnetwork", *rows]) + "\n")
    run = ParcelTable(
        name="sub-001_ses-1_task-rest", bold=path, mask=None, confounds=None, tr=2.0,
        space="unknown", res="native", atlas="Schaefer400plus19",
    )  # fmt: skip
    found = describe_run(run, label="Schaefer400", networks=read_networks(table)).description
    assert (found.n_parcels, found.n_left_out, found.n_volumes) == (400, 19, 234)
    for name in sizes:
        between = [v for pair, v in found.connectivity.items() if name in pair.split("-")]
        assert found.connectivity[f"{name}-{name}"] == max(between)
