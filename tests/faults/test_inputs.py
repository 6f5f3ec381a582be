"""Bad inputs, one by one: each ends in a code with a word, and the run beside it is finished."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from neurostorm_app.bids_app.cli import main_inner
from neurostorm_app.bids_app.engines import Preprocessed, real_engines
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.errors import AppError, ExitCode
from neurostorm_app.pipelines.header import read_series_header
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.preprocess.acquired.slicetiming import read_slice_times
from neurostorm_app.pipelines.preprocess.anatomy.orientation import check_head, describe_header
from neurostorm_app.pipelines.preprocess.distortionplan import plan_distortion
from neurostorm_app.pipelines.preprocess.field.epi import read_epi
from neurostorm_app.pipelines.preprocess.head.intake import survey_series

from ..bids_app.conftest import Dataset, Fake  # noqa: TID252  its data and engines serve here
from .bad_inputs import CALLS, PREPROCESSED, RAW, Case, write_image
from .sameness import same

SPACE = "space-MNI152NLin6Asym_res-2"
AFFINE = np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
HEAD = np.array([[6.0, 0, 0, -75], [0, 6, 0, -90], [0, 0, 6, -75], [0, 0, 0, 1]])
"""The coarsest voxels that a T1w image may have."""
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
        try:
            self.of_anatomy(wanted)
        except AppError as error:
            # As of the real graph: without its anatomy no run of a participant is preprocessed.
            failed = {run.name: error for run in wanted.runs}
            return Preprocessed(anat=None, bold={}, failed=failed, methods="", timings={})
        for run in wanted.runs:
            try:
                survey_series(run.bold)
                if run.sbref is not None:
                    read_volume(run.sbref.path)
                self.notes += self.of_run(run)
            except AppError as error:
                self.broken[run.name] = error
        return super().preprocess(wanted, **others)

    def of_anatomy(self, wanted):
        for path in wanted.t1w if wanted.anat is None else ():
            check_head(*read_volume(path), path)
            describe_header(path)

    def of_run(self, run):
        shape = read_series_header(run.bold).shape
        _, reason = read_slice_times(run.metadata, shape=shape, tr=run.tr, path=run.bold)
        plan = plan_distortion(run, OPTIONS, has_t1w=True, fit=None)
        for scan in plan.fieldmap.scans if plan.fieldmap else ():
            if scan.path != run.bold:  # a series may complete a pair, and is looked at above
                read_epi(scan)
        return [str(reason), *plan.notes, *run.notes]


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
    rng = np.random.default_rng(2)
    for t1w in raw.root.glob("sub-*/anat/*_T1w.nii.gz"):
        write_image(t1w, rng.normal(500, 20, (25, 30, 25)).astype(np.float32), HEAD)
    for kind in ("prep", "raw"):
        leave_whole(root, kind)
    return root


def leave_whole(root, kind):
    """Keep what an undisturbed call leaves."""
    home, out = root / kind, root / f"{kind}-whole"
    words = [str(home / "bids"), str(out), "participant", "--skip-bids-validation"]
    engines, _ = engines_for(kind)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = guarded(
            "neurostorm-app",
            partial(main_inner, engines=engines),
            [*words, *words_for(kind, home)],
        )
    assert code == 0


@dataclass
class Tried:
    """What became of a call on a spoilt study."""

    case: Case
    code: int
    said: str
    notes: list[str]
    lost: dict[str, int]
    """Results of good runs that are gone or differ, with their bytes."""

    @property
    def told(self):
        """The line that tells of the fault."""
        lines = self.said.splitlines()
        told = [line for line in lines if "failed: " in line or "neurostorm-app: " in line]
        noted = [note for note in self.notes if self.case.says and self.case.says in note]
        return [*told, *noted, lines[0]][0]


def engines_for(kind):
    """Give the engines, and what keeps the notes of those that are faked."""
    fake = Door()
    real = replace(real_engines(), write_subject_page=blank_page)
    return (real if kind == "prep" else fake.engines()), fake


def words_for(kind, home):
    return ["-d", f"prep={home / 'prep'}"] if kind == "prep" else []


def try_case(case, kind, bases, home, capsys):
    """Spoil a study, call, and compare with an undisturbed call."""
    study = Study(home, bases / ("prep" if kind == "prep" else "raw"), capsys)
    words = [*(case.spoil(study) or []), *words_for(kind, home)]
    engines, fake = engines_for(kind)
    code, said = study.call(*words, engines=engines)
    lost = find_lost(study.out, bases / f"{kind}-whole", case.good) if case.goes_on else {}
    return Tried(case=case, code=code, said=said, notes=fake.notes, lost=lost)


def find_lost(out, whole, good):
    """Name the results of good runs that are gone or differ, with the bytes so lost."""
    results = [path for path in whole.glob("sub-*/**/*") if path.is_file()]
    names = [str(path.relative_to(whole)) for path in results if re.match(good, path.name)]
    assert names, f"an undisturbed call leaves nothing of {good}"
    return {
        name: (whole / name).stat().st_size
        for name in names
        if not (out / name).is_file() or not same(name, out / name, whole / name)
    }


def check(tried):
    case, said = tried.case, tried.said
    assert tried.code in {int(known) for known in ExitCode}, said
    assert (tried.code, case.name) == (case.code, case.name), said
    assert case.says in said + "\n".join(tried.notes), said
    if tried.code:
        assert "what to do: " in said
        assert "defect" not in said, said
    assert not tried.lost, said


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


def test_what_a_good_run_lost_is_counted_in_bytes(bases, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(bases / "raw-whole", out)
    assert find_lost(out, bases / "raw-whole", "sub-02_") == {}
    gone, *_, cut = sorted((out / "sub-02" / "func").glob("sub-02_*"))
    sizes = {str(path.relative_to(out)): path.stat().st_size for path in (gone, cut)}
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    shutil.rmtree(out / "sub-01")
    assert find_lost(out, bases / "raw-whole", "sub-02_") == sizes


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
    tried = try_case(case, kind, bases, tmp_path / "study", capsys)
    tally("bad input", injected=0, survived=0, bytes_lost=sum(tried.lost.values()))
    check(tried)
    tally("bad input", injected=0, survived=1)
    # Without the run and the folders, which are the same in all cases.
    table.append((kind, case.name, case.code, re.sub(r"^failed: \S+ |/[^\s:]*/", "", tried.told)))
    shutil.rmtree(tmp_path / "study")
