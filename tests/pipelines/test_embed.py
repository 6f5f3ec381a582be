"""A run becomes vectors: the same whatever the batch, the orientation and the length."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from neurostorm_app.errors import (
    ContractError,
    CorruptImageError,
    DataError,
    MissingWeightsError,
    SeriesTooShortError,
    TemporaryError,
    UsageError,
)
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.card import GridSpec, Output
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.pipelines.embed import Embedder, load_embedder
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.normalize import normalize_volume
from neurostorm_app.pipelines.reconstruction import SEED
from neurostorm_app.pipelines.regrid import onto_grid, resample_time
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.templates import load_template

SPACE = "MNI152NLin6Asym"
SIX_MM = Grid.from_rows((31, 37, 31), [[-6, 0, 0, 90], [0, 6, 0, -126], [0, 0, 6, -72]])
N_VOLUMES, TR = 33, 2.0
WINDOW = 8
ROUNDING = 1e-5  # features have no unit; theirs are of the order of 1
CONFIG = {
    "img_size": [16, 16, 16, WINDOW],
    "in_chans": 1,
    "embed_dim": 4,
    "window_size": [4, 4, 4, 4],
    "first_window_size": [4, 4, 4, 4],
    "patch_size": [2, 2, 2, 1],
    "depths": [1, 2, 1],
    "c_multiplier": 2,
    "last_layer_full_MSA": True,
}
CONTRACT = read_card("neurostorm").contract.model_copy(
    update={
        "grid": GridSpec(
            shape=(16, 16, 16),
            affine=((-12, 0, 0, 90), (0, 12, 0, -108), (0, 0, 12, -72)),
        ),
        "tr": 1.5,
        "window": WINDOW,
        "stride": WINDOW,
    }
)


@pytest.fixture(scope="session")
def brain():
    mask, grid = read_volume(load_template(SPACE, "2").mask)
    return onto_grid(mask, grid, SIX_MM) > 0.5


@pytest.fixture
def data(rng, brain):
    """Anatomy times a little signal of ten networks, masked; (31, 37, 31, 33)."""
    anatomy = 700 + 100 * np.sin(SIX_MM.world() @ [0.05, 0.08, 0.11])
    networks = rng.integers(0, 10, SIX_MM.shape)
    signal = rng.normal(0, 1, (10, N_VOLUMES)).cumsum(axis=1)[networks]
    noise = rng.normal(0, 2, (*SIX_MM.shape, N_VOLUMES))
    return (anatomy[..., np.newaxis] * (1 + signal / 300) + noise) * brain[..., np.newaxis]


@pytest.fixture
def make_run(tmp_path, brain, rng):
    def make(data, grid=SIX_MM, mask=brain, **facts):
        names = [*read_card("connectome").contract.cleaning.confounds, "global_signal"]
        table = pd.DataFrame(rng.normal(size=(data.shape[3], len(names))), columns=names)
        table.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False)
        bold, path = nib.Nifti1Image(data.astype(np.float32), grid.affine), tmp_path / "bold.nii.gz"
        nib.save(bold, path)
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), grid.affine), tmp_path / "mask.nii.gz")
        run = StandardSeries(
            name="sub-01",
            bold=path,
            mask=tmp_path / "mask.nii.gz",
            confounds=tmp_path / "confounds.tsv",
            tr=TR,
            space=SPACE,
            res="2",
        )
        return replace(run, **facts)

    return make


@pytest.fixture(scope="session")
def volumes_embedder():
    """NeuroSTORM with 3 stages and 4 channels; seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = NeuroStorm(Config.of(CONFIG)).state_dict()
    model = create_model("neurostorm", config=CONFIG, weights=state)
    card = read_card("neurostorm").model_copy(update={"contract": CONTRACT})
    return Embedder(card=card, model=model, atlas=None, device="cpu", precision="fp32", hashes={})


@pytest.fixture(scope="session")
def atlas(tmp_path_factory, brain):
    """Cut the brain into blocks of 36 mm; a label for each that is not tiny."""
    blocks = np.indices(SIX_MM.shape) // 6
    labels = np.where(brain, 1 + blocks[0] * 100 + blocks[1] * 10 + blocks[2], 0)
    values, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    values = np.where(counts < 40, 0, np.arange(len(values)))
    path = tmp_path_factory.mktemp("atlas") / "blocks.nii.gz"
    labels = values[numbers.reshape(labels.shape)].astype(np.int16)
    nib.save(nib.Nifti1Image(labels, SIX_MM.affine), path)
    return path


@pytest.fixture(scope="session")
def parcels_embedder(atlas):
    return load_embedder("connectome", atlas=atlas)


def test_windows_are_those_of_the_series_normalised_in_memory(volumes_embedder, make_run, data):
    found = volumes_embedder.embed(make_run(data))
    target = Grid.from_rows(CONTRACT.grid.shape, CONTRACT.grid.affine)
    series = resample_time(onto_grid(data, SIX_MM, target), TR, CONTRACT.tr)
    mask = onto_grid((data[..., 0] > 0).astype(np.float32), SIX_MM, target) > 0
    scaled, _ = normalize_volume(series, mask, CONTRACT)
    assert found.record["starts"] == [0, 8, 16, 24, 32, 36]
    assert series.shape[3] == 44
    for start, vector in zip(found.record["starts"], found.windows, strict=True):
        window = torch.from_numpy(scaled[np.newaxis, np.newaxis, ..., start : start + WINDOW])
        with torch.inference_mode():
            expected = volumes_embedder.model.embed(window)[0].numpy()
        np.testing.assert_allclose(vector, expected, atol=ROUNDING)
    np.testing.assert_allclose(found.pooled, found.windows.mean(axis=0), atol=ROUNDING)


def test_windows_know_their_times(volumes_embedder, make_run, data):
    found = volumes_embedder.embed(make_run(data))
    np.testing.assert_allclose(found.onsets, [0, 12, 24, 36, 48, 54])  # s
    np.testing.assert_allclose(found.durations, 12)  # s
    assert found.onsets[-1] + found.durations[-1] == N_VOLUMES * TR


def test_the_batch_does_not_change_the_numbers(volumes_embedder, make_run, data):
    run = make_run(data)
    one, three = (volumes_embedder.embed(run, batch=n) for n in (1, 3))
    np.testing.assert_allclose(one.windows, three.windows, atol=ROUNDING)
    assert (one.record["batch"], three.record["batch"]) == (1, 3)


class Network(torch.nn.Module):
    """Average windows over place and time, and do what else a test asks for."""

    def __init__(self, most=99, error=None, head=None):
        super().__init__()
        self.most, self.error, self.head = most, error, head
        self.batches, self.grad, self.threads = [], [], []

    def embed(self, x, *_places):
        self.batches.append(len(x))
        self.grad.append(torch.is_grad_enabled())
        self.threads.append(torch.get_num_threads())
        if len(x) > self.most:
            raise self.error
        return x.flatten(1)[:, :5] + x.flatten(1).mean(dim=1, keepdim=True)


@pytest.fixture
def three_runs(make_run, data, tmp_path):
    """Make a run, a damaged one, and a shorter one."""
    runs = []
    for name, part in (("a", data), ("b", data), ("c", data[..., :20])):
        run = make_run(part)
        bold = run.bold.rename(tmp_path / f"{name}.nii.gz")
        runs.append(replace(run, name=name, bold=bold, confounds=None))
    runs[1].bold.write_bytes(runs[1].bold.read_bytes()[:-4000])
    return runs


@pytest.mark.parametrize("batch", [1, 4])
def test_runs_in_one_stream_are_embedded_as_alone(volumes_embedder, three_runs, batch):
    found = dict(volumes_embedder.embed_many(three_runs, batch=batch))
    assert list(found) == [0, 1, 2]
    assert isinstance(found[1], CorruptImageError)
    for index in (0, 2):
        alone = volumes_embedder.embed(three_runs[index])
        np.testing.assert_allclose(found[index].windows, alone.windows, atol=ROUNDING)
        assert found[index].conformance == alone.conformance
        assert found[index].record["starts"] == alone.record["starts"]


def test_the_order_of_runs_does_not_change_the_numbers(volumes_embedder, three_runs):
    there = dict(volumes_embedder.embed_many(three_runs, batch=4))
    back = dict(volumes_embedder.embed_many(three_runs[::-1], batch=4))
    for index in (0, 2):
        np.testing.assert_allclose(there[index].windows, back[2 - index].windows, atol=ROUNDING)


def test_threads_do_not_change_the_numbers(volumes_embedder, make_run, data):
    run = make_run(data)
    one, two = (volumes_embedder.embed(run, n_threads=n) for n in (1, 2))
    np.testing.assert_allclose(one.windows, two.windows, atol=ROUNDING)
    assert (one.record["n_threads"], two.record["n_threads"]) == (1, 2)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_once_and_that_is_remembered(
    volumes_embedder, make_run, data, error
):
    run = make_run(data)
    network = Network(most=2, error=error)
    embedder = replace(volumes_embedder, model=network, learnt={})
    found = embedder.embed(run, batch=4)
    assert network.batches == [4, 2, 2, 2]
    assert embedder.embed(run, batch=4).record["batch"] == 2
    assert network.batches[4:] == [2, 2, 2]
    whole = replace(volumes_embedder, model=Network()).embed(run, batch=6)
    np.testing.assert_allclose(found.windows, whole.windows, atol=ROUNDING)
    assert not any(network.grad)


@pytest.mark.parametrize(("batch", "most", "words"), [(4, 1, "2 windows"), (1, 0, "1 window")])
def test_memory_that_is_too_little_for_half_a_batch_asks_to_try_again(
    volumes_embedder, make_run, data, batch, most, words
):
    network = Network(most=most, error=MemoryError())
    embedder = replace(volumes_embedder, model=network, learnt={})
    with pytest.raises(TemporaryError, match=f"not enough memory on cpu for {words} at once") as e:
        embedder.embed(make_run(data), batch=batch)
    assert "more memory" in e.value.fix
    assert e.value.exit_code == 75


def test_another_error_of_the_network_is_no_lack_of_memory(volumes_embedder, make_run, data):
    network = Network(most=0, error=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        replace(volumes_embedder, model=network).embed(make_run(data), batch=2)


class Autoencoder(Network):
    def masked_error(self, x, *, generator):
        hidden = torch.rand(x.shape[1:], generator=generator) < 0.5
        return x[:, hidden].square().mean(dim=1)


def test_the_error_of_a_masked_autoencoder_is_part_of_the_conformance(
    volumes_embedder, make_run, data
):
    run = make_run(data)
    embedder = replace(volumes_embedder, model=Autoencoder())
    one, four = embedder.embed(run, batch=1), embedder.embed(run, batch=4)
    assert one.conformance == four.conformance
    assert one.conformance["reconstruction_error"] > 0
    assert one.conformance["reconstruction_windows"] == [3]
    assert one.record["seeds"] == {"masked reconstruction": SEED}
    without = volumes_embedder.embed(run)
    assert without.conformance["reconstruction_error"] is None
    assert without.record["seeds"] == {}


class Tuned(Network):
    def __init__(self):
        super().__init__(head=torch.nn.Identity())

    def embed_with_head(self, x):
        vectors = self.embed(x)
        return vectors, vectors[:, :1] * 0 + 2.0


def test_a_head_says_what_its_card_says(volumes_embedder, make_run, data):
    output = Output(target="sex", kind="binary", classes=("F", "M"), origin="a test")
    card = volumes_embedder.card.model_copy(update={"output": output})
    found = replace(volumes_embedder, model=Tuned(), card=card).embed(make_run(data))
    assert found.prediction["predicted"] == "M"
    assert found.prediction["n_windows"] == 6
    assert volumes_embedder.embed(make_run(data)).prediction is None


def test_a_head_that_does_not_fit_its_card_fails_its_run_alone(volumes_embedder, three_runs):
    output = Output(target="x", kind="classes", classes=("a", "b", "c"), origin="a test")
    card = volumes_embedder.card.model_copy(update={"output": output})
    embedder = replace(volumes_embedder, model=Tuned(), card=card)
    outcomes = [outcome for _, outcome in embedder.embed_many(three_runs)]
    assert [type(outcome) for outcome in outcomes] == [
        ContractError,
        CorruptImageError,
        ContractError,
    ]


def test_a_network_that_is_told_places_gets_them(parcels_embedder, make_run, data):
    told = []

    class Placed(Network):
        def embed(self, x, places):
            told.append((x.shape, places.shape))
            return super().embed(x)

    contract = parcels_embedder.card.contract.model_copy(update={"coordinates": True})
    card = parcels_embedder.card.model_copy(update={"contract": contract})
    found = replace(parcels_embedder, card=card, model=Placed()).embed(make_run(data))
    n_parcels = found.conformance["n_parcels"]
    assert told == [((1, n_parcels, N_VOLUMES), (1, n_parcels, 3))]


def test_nan_around_the_brain_changes_nothing(volumes_embedder, make_run, data, brain):
    expected = volumes_embedder.embed(make_run(data))
    found = volumes_embedder.embed(make_run(np.where(brain[..., np.newaxis], data, np.nan)))
    np.testing.assert_array_equal(found.windows, expected.windows)


def test_nan_in_the_brain_is_refused_by_count(volumes_embedder, make_run, data, brain):
    data[tuple(np.argwhere(brain)[:7].T)] = np.nan
    with pytest.raises(CorruptImageError, match="has 7 voxels in the brain mask that are not"):
        volumes_embedder.embed(make_run(data))


def test_twice_the_same_run_gives_the_same_bits(volumes_embedder, make_run, data):
    run = make_run(data)
    first, second = volumes_embedder.embed(run), volumes_embedder.embed(run)
    np.testing.assert_array_equal(first.windows, second.windows)


def test_windows_differ_from_each_other(volumes_embedder, make_run, data):
    windows = volumes_embedder.embed(make_run(data)).windows
    assert np.abs(np.diff(windows, axis=0)).max() > 100 * ROUNDING


@pytest.mark.parametrize("kind", ["volumes", "parcels"])
@pytest.mark.parametrize("signs", [(-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_orientation_on_disk_does_not_matter(request, make_run, data, brain, kind, signs):
    embedder = request.getfixturevalue(f"{kind}_embedder")
    flip = tuple(slice(None, None, sign) for sign in signs)
    far_end = [n - 1 if sign < 0 else 0 for n, sign in zip(SIX_MM.shape, signs, strict=True)]
    step = np.diag([*signs, 1.0])
    step[:3, 3] = far_end
    run = make_run(data[flip], Grid(SIX_MM.shape, SIX_MM.affine @ step), brain[flip])
    found = embedder.embed(replace(run, confounds=None)).pooled
    expected = embedder.embed(replace(make_run(data), confounds=None)).pooled
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_memory_does_not_grow_with_the_run(volumes_embedder, make_run, data):
    def peak(n_repeats):
        run = make_run(np.tile(data, n_repeats), confounds=None)
        tracemalloc.start()
        volumes_embedder.embed(run)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    volumes_embedder.embed(make_run(data))  # what is imported and cached once
    short, long = peak(1), peak(4)
    assert data[..., 0].size * 4 * N_VOLUMES * 3 > 13e6  # bytes of the volumes more
    assert long < short + 1e6  # bytes


def test_conformance_says_what_was_done(volumes_embedder, make_run, data):
    conformance = volumes_embedder.embed(make_run(data)).conformance
    assert conformance["met"] is False
    assert conformance["reasons"] == ["the repetition time is 2 s; the model was trained at 1.5 s"]
    assert conformance["tr_in"] == TR
    assert conformance["tr"] == CONTRACT.tr
    assert conformance["space_interpolation"] == "block-mean"
    assert conformance["time_interpolation"] == "linear"
    assert (conformance["n_volumes_in"], conformance["n_volumes_used"]) == (N_VOLUMES, 44)
    assert conformance["brain_coverage"] > 0.9
    assert conformance["mask"] == "given"
    expected = np.log2(2 / 1.5) + 1 - conformance["brain_coverage"]
    np.testing.assert_allclose(conformance["distance"], expected, atol=1e-3)
    json.dumps(conformance, allow_nan=False)


def test_the_record_says_how_it_was_computed(parcels_embedder, make_run, data):
    record = parcels_embedder.embed(make_run(data), n_threads=1).record
    assert record["engine"].startswith("torch ")
    assert (record["device"], record["precision"], record["n_threads"]) == ("cpu", "fp32", 1)
    assert record["weights_sha256"] is None
    assert len(record["atlas_sha256"]) == 64
    json.dumps(record, allow_nan=False)


def test_a_connectome_is_the_correlation_of_clean_parcels(parcels_embedder, make_run, data):
    found = parcels_embedder.embed(make_run(data))
    pairs = np.triu_indices(len(found.parcels.series), 1)
    expected = np.arctanh(np.corrcoef(found.parcels.series)[pairs])
    np.testing.assert_allclose(found.pooled, expected, atol=1e-4)  # Fisher z
    np.testing.assert_array_equal(found.windows, found.pooled[np.newaxis])
    assert found.onsets.tolist() == [0.0]
    assert found.durations.tolist() == [N_VOLUMES * TR]
    assert found.conformance["missing_confounds"] == []
    assert found.conformance["missing_parcels"] == []


def test_a_parcel_out_of_view_correlates_with_nothing_and_is_named(
    parcels_embedder, make_run, data, brain, atlas
):
    labels, _ = read_volume(atlas)
    gone = int(np.unique(labels)[1])
    mask = brain & (labels != gone)
    found = parcels_embedder.embed(make_run(data, mask=mask))
    assert found.conformance["missing_parcels"] == [gone]
    n_parcels = found.conformance["n_parcels"]
    np.testing.assert_array_equal(found.pooled[: n_parcels - 1], 0)
    assert np.isfinite(found.pooled).all()
    assert any("1 of " in reason for reason in found.conformance["reasons"])


def test_a_run_without_confounds_is_embedded_and_that_is_said(parcels_embedder, make_run, data):
    conformance = parcels_embedder.embed(make_run(data, confounds=None)).conformance
    assert conformance["missing_confounds"][0] == "trans_x"
    assert any("not cleaned of trans_x" in reason for reason in conformance["reasons"])
    assert conformance["deviations"]["confounds"] == 1


def test_confounds_of_another_run_are_refused(parcels_embedder, make_run, data):
    run = make_run(data)
    table = pd.read_csv(run.confounds, sep="\t")
    table[:-2].to_csv(run.confounds, sep="\t", index=False)
    with pytest.raises(DataError, match="table has 31 rows; the series has 33 volumes"):
        parcels_embedder.embed(run)


def test_a_run_without_a_mask_is_embedded_and_that_is_said(volumes_embedder, make_run, data):
    expected = volumes_embedder.embed(make_run(data))
    alone = volumes_embedder.embed(replace(make_run(data), mask=None))
    np.testing.assert_allclose(alone.pooled, expected.pooled, atol=ROUNDING)
    assert alone.conformance["mask"] == "nonzero"
    assert any("no brain mask was given" in reason for reason in alone.conformance["reasons"])


@pytest.mark.parametrize("kind", ["volumes", "parcels"])
def test_a_truncated_series_is_refused_by_name(request, make_run, data, kind):
    run = make_run(data)
    run.bold.write_bytes(run.bold.read_bytes()[:-4000])
    with pytest.raises(CorruptImageError, match=r"bold\.nii\.gz"):
        request.getfixturevalue(f"{kind}_embedder").embed(run)


def test_a_run_shorter_than_a_window_is_refused_by_name(volumes_embedder, make_run, data):
    run = make_run(data[..., :5])
    with pytest.raises(
        SeriesTooShortError, match=r"the series has 7 volumes; one window takes 8"
    ) as caught:
        volumes_embedder.embed(run)
    assert str(run.bold) in str(caught.value)


def test_a_run_too_short_for_a_connectome_is_refused(parcels_embedder, make_run, data):
    with pytest.raises(SeriesTooShortError, match=r"has 19.* volumes; at least .*20 are needed"):
        parcels_embedder.embed(make_run(data[..., :19]))


def test_a_demeaned_series_is_refused_by_name(volumes_embedder, make_run, data):
    run = make_run(data - data.mean(axis=3, keepdims=True))
    with pytest.raises(ContractError, match="values are negative") as caught:
        volumes_embedder.embed(run)
    assert str(run.bold) in str(caught.value)


def test_another_number_of_parcels_than_the_models_is_refused(parcels_embedder, make_run, data):
    contract = parcels_embedder.card.contract.model_copy(update={"n_parcels": 424})
    card = parcels_embedder.card.model_copy(update={"contract": contract})
    with pytest.raises(ContractError, match=r"has \d+ parcels; the model takes 424"):
        replace(parcels_embedder, card=card).embed(make_run(data))


def test_windows_of_parcels_follow_the_contract(parcels_embedder, make_run, data):
    contract = parcels_embedder.card.contract.model_copy(
        update={"window": 20, "stride": 10, "tr": 1.0}
    )
    card = parcels_embedder.card.model_copy(update={"contract": contract})
    found = replace(parcels_embedder, card=card).embed(make_run(data), batch=2)
    assert found.onsets.tolist() == [0, 10, 20, 30, 40, 46]
    assert found.durations.tolist() == [20] * 6
    assert len(found.windows) == 6


def test_half_precision_is_close_and_recorded(volumes_embedder, make_run, data):
    run = make_run(data)
    full = volumes_embedder.embed(run)
    half = replace(volumes_embedder, precision="bf16").embed(run)
    assert half.record["precision"] == "bf16"
    assert half.windows.dtype == np.float32
    np.testing.assert_allclose(half.pooled, full.pooled, atol=0.05)


def test_threads_are_given_back(parcels_embedder, make_run, data):
    before = torch.get_num_threads()
    parcels_embedder.embed(make_run(data), n_threads=before + 1)
    assert torch.get_num_threads() == before


def test_the_parcellation_of_the_card_is_the_default():
    embedder = load_embedder("connectome")
    assert "GreyParcels100" in embedder.atlas.name


def test_weights_are_hashed_and_loaded(tmp_path, make_run, data):
    config = read_card("neurostorm").config
    state = NeuroStorm(Config.of(config)).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    embedder = load_embedder("neurostorm", weights=tmp_path / "weights.pt")
    assert len(embedder.hashes["weights_sha256"]) == 64
    assert not embedder.model.training


def test_missing_weights_are_an_error(tmp_path):
    with pytest.raises(MissingWeightsError, match="are not on this machine"):
        load_embedder("neurostorm", weights_dir=tmp_path)


def test_weights_for_a_model_without_weights_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="has no weights; the file"):
        load_embedder("connectome", weights=tmp_path / "weights.pt")


def test_shortened_products_need_a_gpu():
    with pytest.raises(UsageError, match="tf32 exists only on CUDA devices"):
        load_embedder("connectome", precision="tf32")


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="the precision 'int8' is not known"):
        load_embedder("connectome", precision="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "abacus"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UsageError, match=r"the device .* is not there"):
        load_embedder("connectome", device=device)


def test_a_parcellation_for_volumes_is_refused(atlas):
    with pytest.raises(UsageError, match="has no meaning for it"):
        load_embedder("neurostorm", atlas=atlas)


def test_parcels_without_a_parcellation_are_refused(parcels_embedder, make_run, data):
    with pytest.raises(ContractError, match="no parcellation was given"):
        replace(parcels_embedder, atlas=None).embed(make_run(data))


def test_a_real_derivative_whose_table_is_longer_than_its_series_is_embedded(shared):
    """40 of 156 volumes were kept; the table still has all rows, and no tissue signals."""
    func = shared / "data" / "studyforrest-sub02-mni" / "sub-02" / "func"
    stem = "sub-02_task-oneback_run-1"
    run = StandardSeries(
        name=stem,
        bold=func / f"{stem}_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz",
        mask=func / f"{stem}_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz",
        confounds=func / f"{stem}_desc-confounds_timeseries.tsv",
        tr=2.0,
        space=SPACE,
        res="2",
    )
    found = load_embedder("connectome").embed(run)
    assert found.conformance["first_confounds_row"] == 0
    assert found.conformance["missing_confounds"] == ["white_matter", "csf"]
    assert found.conformance["met"] is False
    assert np.isfinite(found.pooled).all()
    assert 0.85 < found.conformance["brain_coverage"] < 1
