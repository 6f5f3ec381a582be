"""Bad inputs, one by one: each ends in a code with a word, and the run beside it is finished."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from neurostorm_app.bids_app.cli import main_inner
from neurostorm_app.bids_app.engines import real_engines
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.errors import AppError, ExitCode
from neurostorm_app.pipelines.header import read_series_header
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.preprocess.acquired.slicetiming import read_slice_times
from neurostorm_app.pipelines.preprocess.distortionplan import plan_distortion
from neurostorm_app.pipelines.preprocess.field.epi import read_epi
from neurostorm_app.pipelines.preprocess.head.intake import survey_series

from ..bids_app.conftest import Dataset, Fake  # noqa: TID252  its data and engines serve here
from .bad_inputs import CALLS, PREPROCESSED, RAW, write_image

SPACE = "space-MNI152NLin6Asym_res-2"
AFFINE = np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
GOOD, BAD = "sub-01_task-rest_run-1", "sub-01_task-rest_run-2"
QUICK = 18
"""Each so-manieth case is tried in every run of the tests."""
OPTIONS = SimpleNamespace(ignore=frozenset(), use_syn_sdc=False, fallback_total_readout_time=None)
"""What the real preprocessing asks of its options before it looks at a field map."""


def blank_page(root, label):
    path = root / f"sub-{label}.html"
    path.write_text("<html></html>")
    return path


class Door(Fake):
    """Engines whose preprocessing looks at voxels and sidecars as the real one does.

    The rest is faked; what the real one would note of a run is kept.
    """

    def __init__(self):
        super().__init__()
        self.notes = []

    def preprocess(self, wanted, **others):
        for run in wanted.runs:
            try:
                survey_series(run.bold)
                if run.sbref is not None:
                    read_volume(run.sbref.path)
                self.notes += [*self.of_run(run), *self.of_field(run)]
            except AppError as error:
                self.broken[run.name] = error
        return super().preprocess(wanted, **others)

    def of_run(self, run):
        shape = read_series_header(run.bold).shape
        _, reason = read_slice_times(run.metadata, shape=shape, tr=run.tr, path=run.bold)
        plan = plan_distortion(run, OPTIONS, has_t1w=True, fit=None)
        return [str(reason), *plan.notes, *run.notes]

    def of_field(self, run):
        for scan in run.fieldmap.scans if run.fieldmap else ():
            try:
                read_epi(scan)
            except AppError as error:
                yield error.what


class Study:
    """A copy of a good dataset that may be spoilt."""

    def __init__(self, home, base, capsys):
        shutil.copytree(base, home)
        self.home, self.capsys = home, capsys
        self.root, self.out = home / "bids", home / "out"
        func = home / "prep" / "sub-01" / "func"
        self.bad = func / f"{BAD}_{SPACE}_desc-preproc_bold.nii.gz"

    def raw(self, label, run):
        name = f"sub-{label}_task-rest_run-{run}_bold.nii.gz"
        return self.root / f"sub-{label}" / "func" / name

    def call(self, *words, engines):
        words = [str(self.root), str(self.out), "participant", "--skip-bids-validation", *words]
        code = guarded("neurostorm-app", partial(main_inner, engines=engines), words)
        shown = self.capsys.readouterr()
        return code, shown.out + shown.err


def make_preprocessed(root):
    """Two runs of noise on a coarse grid of the standard space, masks and sidecars."""
    func = root / "prep" / "sub-01" / "func"
    func.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for run in (GOOD, BAD):
        data = rng.normal(500, 20, (23, 28, 23, 40)).astype(np.float32)
        stem = f"{run}_{SPACE}_desc-"
        write_image(func / f"{stem}preproc_bold.nii.gz", data, AFFINE)
        write_image(func / f"{stem}brain_mask.nii.gz", np.ones(data.shape[:3], np.uint8), AFFINE)
        (func / f"{stem}preproc_bold.json").write_text('{"RepetitionTime": 2.0}')


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Make a dataset with preprocessed runs, and a raw one."""
    root = tmp_path_factory.mktemp("bases")
    Dataset(root / "prep" / "bids").participant("01")
    make_preprocessed(root / "prep")
    raw = Dataset(root / "raw" / "bids")
    raw.participant("01")
    raw.participant("02", runs=("1",))
    return root


def try_case(case, kind, bases, home, capsys):
    """Spoil a study, call, and compare; return what was said of it."""
    study = Study(home, bases / ("prep" if kind == "prep" else "raw"), capsys)
    words = case.spoil(study) or []
    fake = Door()
    engines = fake.engines()
    if kind == "prep":
        words += ["-d", f"prep={home / 'prep'}"]
        engines = replace(real_engines(), write_subject_page=blank_page)
    code, said = study.call(*words, engines=engines)
    assert code in {int(known) for known in ExitCode}, said
    assert (code, case.name) == (case.code, case.name), said
    assert case.says in said + "\n".join(fake.notes), said
    if code:
        assert "what to do: " in said
        assert "defect" not in said, said
    if case.goes_on:
        check_good_runs(study, fake, kind)
    lines = [line for line in said.splitlines() if "failed: " in line or "neurostorm-app: " in line]
    noted = [note for note in fake.notes if case.says and case.says in note]
    return [*lines, *noted, said.splitlines()[0]][0]


def check_good_runs(study, fake, kind):
    func = study.out / "sub-01" / "func"
    assert list(func.glob(f"{GOOD}_*_desc-connectome_embedding.tsv")), "the good run was lost"
    if kind == "raw":
        assert fake.calls["embed connectome sub-02_task-rest_run-1"] == 1


TABLE = {"prep": PREPROCESSED, "raw": RAW, "calls": CALLS}
ALL = [(kind, case) for kind, cases in TABLE.items() for case in cases]


@pytest.fixture(scope="session")
def table(request):
    """Collect what was said of each case, and print it at the end."""
    rows = []
    yield rows
    codes = Counter(code for _, _, code, _ in rows)
    told = ", ".join(f"{n} x {code}" for code, n in sorted(codes.items()))
    lines = [
        f"{kind:5} {code:3} {name[:60]!a:62} {said[:110]!a}" for kind, name, code, said in rows
    ]
    lines.append(f"bad inputs as expected: {len(rows)}; exit codes: {told}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        # Of a worker of several, the terminal sees only what goes to the stream of errors.
        print("", *lines, sep="\n", file=sys.stderr, flush=True)


@pytest.fixture
def books(table, tally):
    """What is said of each case, and the counts."""
    return table, tally


def test_there_are_enough_cases_and_none_twice():
    assert len(ALL) >= 150
    assert [n for n, many in Counter(case.name for _, case in ALL).items() if many > 1] == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(
            kind, case, id=f"{kind}: {case.name}", marks=[pytest.mark.slow] if n % QUICK else []
        )
        for n, (kind, case) in enumerate(ALL)
    ],
)
def test_a_bad_input_ends_in_its_code_with_a_word(kind, case, bases, tmp_path, capsys, books):
    table, tally = books
    # A case that is not survived stops here, and is the difference of both counts.
    tally("bad input", injected=1, survived=0)
    said = try_case(case, kind, bases, tmp_path / "study", capsys)
    tally("bad input", injected=0, survived=1)
    # Without the run and the folders, which are the same in all cases.
    table.append((kind, case.name, case.code, re.sub(r"^failed: \S+ |/[^\s:]*/", "", said)))
    shutil.rmtree(tmp_path / "study")
