"""Who can go on from a derivative: our own output, fMRIPrep's, and damaged copies of ours.

What other packages really do with the same copies is in ``tests/consumers``.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import re
import shutil
import sys
import weakref
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app import tools
from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.compatibility import checking
from neurostorm_app.bids_app.compatibility.asking import name_of_generator
from neurostorm_app.bids_app.compatibility.checking import check_folder
from neurostorm_app.bids_app.compatibility.confounds import MOTION, expand
from neurostorm_app.bids_app.compatibility.contents import Contents
from neurostorm_app.bids_app.compatibility.folder import list_folder
from neurostorm_app.errors import NoInputError
from neurostorm_app.models import list_models

RUN = "sub-01_task-rest_run-1"
TOOLS = ("nilearn", "xcp-d", "giga_connectome", "fitlins", "fmriprep")
N_VOLUMES = 220
FUNC, ANAT = f"sub-01/func/{RUN}", "sub-01/anat/sub-01"
LIN6 = f"{FUNC}_space-MNI152NLin6Asym_res-2"
TABLE = f"{FUNC}_desc-confounds_timeseries"


def _load_damage():
    path = Path(__file__).parents[1] / "consumers" / "damage.py"
    spec = importlib.util.spec_from_file_location("damage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


damage = _load_damage()


def write_confounds(table: Path, n_volumes: int = N_VOLUMES) -> None:
    """Write a table with the columns of fMRIPrep, and the JSON beside it."""
    masks = {"a": "combined", "c": "CSF", "w": "WM"}
    components = {f"{m}_comp_cor_{i:02d}": masks[m] for m in masks for i in range(3)}
    columns = [
        *expand((*MOTION, "global_signal", "csf", "white_matter")),
        *("framewise_displacement", "std_dvars", "dvars", "rmsd", "cosine00", "cosine01"),
        *components,
    ]
    numbers = np.random.default_rng(0).normal(size=(n_volumes, len(columns)))
    rows = [[f"{x:.4f}" for x in row] for row in numbers]
    rows[0] = ["n/a" if "deriv" in name or "d" in name[:5] else x
               for name, x in zip(columns, rows[0], strict=True)]  # fmt: skip
    table.unlink(missing_ok=True)
    table.write_text("\n".join("\t".join(row) for row in [columns, *rows]) + "\n")
    about = {name: {"Method": "aCompCor", "Mask": mask} for name, mask in components.items()}
    table.with_suffix(".json").write_text(json.dumps(about))


def write_image(path: Path, *, n_volumes: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (3, 3, 3) if n_volumes is None else (3, 3, 3, n_volumes)
    image = nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    if n_volumes:
        image.header.set_zooms((1, 1, 1, 2.0))
    nib.save(image, path)


def enrich(root: Path) -> None:
    """Give what engines of tests wrote the columns and the length of a real run."""
    for table in root.rglob("*_desc-confounds_timeseries.tsv"):
        write_confounds(table)
    for path in root.rglob("*_desc-preproc_bold.nii.gz"):
        write_image(path, n_volumes=N_VOLUMES)
        mask = path.with_name(path.name.replace("_desc-preproc_bold", "_desc-brain_mask"))
        write_image(mask)


@pytest.fixture
def out(settings, fake, tmp_path):
    """Make an output of one participant with one run."""
    run_app(settings(participant_label=["01"], run_label=["1"]), engines=fake.engines())
    enrich(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Write a derivative with our names; no engine has to run for it."""
    root = tmp_path_factory.mktemp("derivative") / "original"
    spaces = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
    names = [f"{FUNC}_{name}" for name in ("desc-hmc_boldref", "desc-coreg_boldref",
             "desc-brain_mask")]  # fmt: skip
    names += [f"{ANAT}_{name}" for name in ("desc-preproc_T1w", "desc-brain_mask", "dseg")]
    names += [f"{ANAT}_label-{tissue}_probseg" for tissue in ("GM", "WM", "CSF")]
    for space in spaces:
        names += [f"{FUNC}_space-{space}_res-2_{name}" for name in ("boldref", "desc-brain_mask")]
        names += [f"{ANAT}_space-{space}_res-2_desc-brain_mask"]
        write_image(root / f"{FUNC}_space-{space}_res-2_desc-preproc_bold.nii.gz", n_volumes=220)
        sidecar = root / f"{FUNC}_space-{space}_res-2_desc-preproc_bold.json"
        sidecar.write_text(json.dumps({"RepetitionTime": 2.0, "TaskName": "rest"}))
    for name in names:
        write_image(root / f"{name}.nii.gz")
    for one, other in (pair for s in spaces for pair in (("T1w", s), (s, "T1w"))):
        (root / f"{ANAT}_from-{one}_to-{other}_mode-image_xfm.h5").touch()
    for ends in ("from-orig_to-boldref_mode-image_desc-hmc", "from-boldref_to-T1w_mode-image"):
        (root / f"{FUNC}_{ends}_xfm.txt").touch()
    write_confounds(root / f"{TABLE}.tsv")
    about = {"Name": "made up", "BIDSVersion": "1.10.0", "DatasetType": "derivative",
             "GeneratedBy": [{"Name": "neurostorm-app"}]}  # fmt: skip
    (root / "dataset_description.json").write_text(json.dumps(about))
    return root


def verdicts(root):
    ((_, found),) = check_folder(root).runs.items()
    return found


def test_our_output_is_accepted_by_all(out, capsys):
    asked = ["--require", "all", "models", "bids-validator", "xcp-d:36P", "nilearn:compcor"]
    assert tools.main(["check-compat", str(out), *asked]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:3] == ["run", "nilearn", "XCP-D"]
    n = str(len(list_models()))
    assert told[1].split() == [RUN, *["yes"] * 6, n, "of", n]
    assert len(told) == 2


EVERY = (*TOOLS, "connectome")
LACKS = {
    "none": {},
    "no description": dict.fromkeys(("xcp-d", "giga_connectome", "fitlins"),
                                    "dataset_description.json"),
    "no DatasetType": {"giga_connectome": "key DatasetType in dataset_description.json"},
    "another DatasetType": {
        "xcp-d": "DatasetType: derivative in dataset_description.json (it is 'raw')",
        "giga_connectome": "DatasetType: derivative in dataset_description.json (it is 'raw')",
    },
    "no GeneratedBy": {"fitlins": "key GeneratedBy[0].Name in dataset_description.json"},
    "no BIDSVersion": {"fitlins": "key BIDSVersion in dataset_description.json"},
    "no confounds": {
        "nilearn": f"{TABLE}.tsv", "xcp-d": f"{TABLE}.tsv", "giga_connectome": f"{TABLE}.tsv",
        "fitlins": f"{TABLE}.tsv", "connectome": f"{TABLE}.tsv (nothing is regressed out)",
    },
    "no JSON of confounds": dict.fromkeys(("nilearn", "xcp-d", "giga_connectome"), f"{TABLE}.json"),
    "legacy names": {
        "xcp-d": f"{TABLE}.tsv ({RUN}_desc-confounds_regressors.tsv is of before fMRIPrep 20.2)"
    },
    "two tables": dict.fromkeys(("nilearn", "giga_connectome"),
                                "one table of confounds in sub-01/func (there are 2: "),
    "no trans_x": dict.fromkeys(("nilearn", "xcp-d", "giga_connectome", "connectome"),
                                f"column trans_x in {TABLE}.tsv"),
    "no rmsd": {"xcp-d": f"column rmsd in {TABLE}.tsv"},
    "motion in words": dict.fromkeys(("nilearn", "xcp-d", "giga_connectome", "connectome"),
                                     f"numbers in rot_z in {TABLE}.tsv"),
    "no global_signal": dict.fromkeys(("xcp-d", "giga_connectome"),
                                      f"column global_signal in {TABLE}.tsv"),
    "no framewise_displacement": dict.fromkeys(
        ("nilearn", "giga_connectome"), f"column framewise_displacement in {TABLE}.tsv"),
    "no a_comp_cor_00": dict.fromkeys(("nilearn", "giga_connectome"),
                                      f"column a_comp_cor_00 in {TABLE}.tsv"),
    "no w_comp_cor": {"xcp-d": f"column ^w_comp_cor_0[0-4]$ in {TABLE}.tsv"},
    "cosines with an underscore": {"xcp-d": rf"column ^cosine\d+$ in {TABLE}.tsv"},
    "no Mask": dict.fromkeys(("nilearn", "giga_connectome"),
                             f"key a_comp_cor_00.Mask in {TABLE}.json"),
    "no components": dict.fromkeys(("nilearn", "giga_connectome"),
                                   f"key a_comp_cor_00 with Mask combined in {TABLE}.json"),
    "camel case": {
        "nilearn": f"columns in small letters in {TABLE}.tsv ('GlobalSignal' is in camel case",
        "giga_connectome": f"columns in small letters in {TABLE}.tsv ('GlobalSignal' is in camel",
        "xcp-d": f"column global_signal in {TABLE}.tsv",
    },
    "first row n/a": {},
    "infinite": dict.fromkeys(("nilearn", "giga_connectome", "connectome"),
                              f"finite numbers in trans_x in {TABLE}.tsv (it holds an infinite"),
    "two rows n/a": dict.fromkeys(("nilearn", "giga_connectome"), f"numbers in trans_x in {TABLE}"),
    "no mask": {
        "nilearn": f"{LIN6}_desc-brain_mask.nii.gz", "fitlins": f"{LIN6}_desc-brain_mask.nii.gz",
        "xcp-d": f"{LIN6}_desc-brain_mask.nii.gz (it takes {RUN}_desc-brain_mask.nii.gz",
        "connectome": f"{LIN6}_desc-brain_mask.nii.gz (the brain is taken from the series)",
    },
    "mask of another grid": {
        "nilearn": f"the grid (3, 3, 3) of the series in {LIN6}_desc-brain_mask.nii.gz (its shape"
    },
    "no boldref": {"xcp-d": f"{LIN6}_boldref.nii.gz (it takes {RUN}_desc-"},
    "no series in 2009c": {
        "giga_connectome": f"{FUNC}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    },
    "no RepetitionTime": dict.fromkeys(("nilearn", "giga_connectome", "fitlins"),
                                       "key RepetitionTime in "),
    "no T1w": dict.fromkeys(("xcp-d", "fmriprep"), f"{ANAT}_desc-preproc_T1w.nii.gz"),
    "no anatomical mask": {"xcp-d": f"{ANAT}_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz"},
    "no way back": dict.fromkeys(("xcp-d", "fmriprep"),
                                 f"{ANAT}_from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5"),
    "no tissue": {"fmriprep": f"{ANAT}_label-WM_probseg.nii.gz (it is computed anew)"},
    "no head motion": {
        "fmriprep": f"{FUNC}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt (it is computed anew)"
    },
    "two resolutions": {"fitlins": "one series of the run in MNI152NLin6Asym in sub-01/func"},
    "not compressed": {
        **dict.fromkeys(("nilearn", "fitlins"), f"{LIN6}_desc-preproc_bold.nii.gz (an image .nii"),
        "xcp-d": f"{LIN6}_desc-preproc_bold.nii.gz",
        "giga_connectome": f"{FUNC}_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz",
    },
    "another space": {
        "xcp-d": f"{FUNC}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz (there are series in MNI)",
        "giga_connectome": f"{FUNC}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz",
        "connectome": f"{LIN6}_desc-preproc_bold.nii.gz (there are series in MNI)",
        "fmriprep": f"{ANAT}_from-T1w_to-MNI_mode-image_xfm.h5 (it is computed anew)",
    },
}  # fmt: skip
"""By damage: who then lacks something, and how the first thing is named."""


@pytest.mark.parametrize("name", LACKS)
def test_what_is_damaged_is_named_where_it_counts(name, original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    damage.DAMAGES[name](tree)
    found = verdicts(tree.root)
    told = {who: [str(one) for one in found[who].lacking] for who in EVERY if found[who].lacking}
    assert told.keys() == LACKS[name].keys()
    for who, text in LACKS[name].items():
        assert any(one.startswith(text) for one in told[who]), told[who]


def test_every_damage_that_matters_is_seen(original, tmp_path):
    """Of two rows one is enough, and of two spaces the models and XCP-D need one."""
    unseen = set()
    for i, (name, change) in enumerate(damage.DAMAGES.items()):
        tree = damage.Tree(original, tmp_path / str(i))
        change(tree)
        if not any(found.lacking for found in verdicts(tree.root).values()):
            unseen.add(name)
    assert unseen == {"none", "first row n/a", "no series in NLin6"}


@pytest.mark.parametrize(
    ("column", "lacking"),
    [("framewise_displacement", []), ("std_dvars", []), ("csf", ["simple", "scrubbing"])],
)
def test_an_infinite_number_counts_where_a_column_is_regressed_out(
    column, lacking, original, tmp_path
):
    tree = damage.Tree(original, tmp_path / "tree")
    path = tree.root / f"{TABLE}.tsv"
    header, first, second, *rest = path.read_text().splitlines()
    cells = second.split("\t")
    cells[header.split("\t").index(column)] = "inf"
    path.unlink()  # the original may be linked
    path.write_text("\n".join([header, first, "\t".join(cells), *rest]) + "\n")
    uses = verdicts(tree.root)["nilearn"].uses
    assert [use.name for use in uses if use.lacking and use.name != "ica_aroma"] == lacking


@pytest.mark.parametrize("name", ["no rmsd", "no trans_x", "motion in words"])
def test_xcpd_reads_the_motion_whatever_is_regressed_out(name, original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    damage.DAMAGES[name](tree)
    found = verdicts(tree.root)["xcp-d"]
    assert found.word == "no"
    (missing,) = found.lacking  # once, not once a set
    assert missing.rule.endswith("load_motion")
    assert [use.lacking for use in found.uses] == [(missing,)] * 6


def test_a_series_that_is_not_here_or_no_image_is_refused(original, tmp_path):
    for name, told in (("lost content", "a link to content that is not on this machine"),
                       ("garbage", "an image in sub-01"), ("one volume", "4 axes in")):  # fmt: skip
        tree = damage.Tree(original, tmp_path / name)
        damage.DAMAGES[name](tree)
        found = verdicts(tree.root)
        assert any(told in str(one) for one in found["nilearn"].lacking), name
        assert found["nilearn"].word == "no"
        assert found["connectome"].word == "no"


def test_a_run_that_is_too_short_for_a_model_is_refused_by_it(original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    tree.save(tree.series(), np.ones((3, 3, 3, 70), np.uint8))
    found = verdicts(tree.root)
    assert found["connectome"].word == found["brainlm-demo"].word == "yes"
    assert found["brainlm-650m"].word == "no"
    (missing,) = found["brainlm-650m"].lacking
    assert "the shortest window of the model has 200, 147 s" in str(missing)
    tree.save(tree.series(), np.ones((3, 3, 3, 12), np.uint8))
    (missing,) = verdicts(tree.root)["connectome"].lacking
    assert "it has 12 volumes; the model takes 20 or more" in str(missing)


def test_a_repetition_time_may_stand_above(original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    damage.no_tr(tree)
    (tree.root / "task-rest_bold.json").write_text('{"RepetitionTime": 2.0}')
    found = verdicts(tree.root)
    assert found["fitlins"].word == found["giga_connectome"].word == "yes"
    (tree.root / "task-rest_bold.json").write_text('{"RepetitionTime": "2 s"}')
    told = " ".join(map(str, verdicts(tree.root)["fitlins"].lacking))
    assert "RepetitionTime above 0 s in" in told
    assert "it is '2 s'" in told


def test_xcpd_takes_one_space_for_all_participants(original, tmp_path):
    """The second has a series in 2009c only; the first draws XCP-D to the other space."""
    tree = damage.Tree(original, tmp_path / "tree")
    for path in sorted(tree.root.glob("sub-01/*/*")):
        if "MNI152NLin6Asym" not in path.name:
            new = Path(str(path).replace("sub-01", "sub-02"))
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(path.read_bytes())
    found = check_folder(tree.root).runs
    assert found[RUN]["xcp-d"].word == "yes"
    second = found[RUN.replace("01", "02", 1)]["xcp-d"]
    assert "it leaves out runs without it" in str(second.lacking[0])
    alone = check_folder(tree.root, ["02"]).runs
    assert next(iter(alone.values()))["xcp-d"].word == "yes"


def test_sessions_need_anatomy_in_one_or_in_each_for_xcpd(original, tmp_path):
    root = tmp_path / "tree"
    for path in sorted(original.rglob("*.*")):
        name = path.relative_to(original).as_posix()
        for session in ("a", "b", "c") if "/" in name else ("",):
            if session == "c" and "/anat/" in name:
                continue
            new = name.replace("sub-01/", f"sub-01/ses-{session}/").replace(
                "sub-01_", f"sub-01_ses-{session}_"
            )
            (root / (new if session else name)).parent.mkdir(parents=True, exist_ok=True)
            (root / (new if session else name)).write_bytes(path.read_bytes())
    found = check_folder(root).runs
    assert len(found) == 3
    told = [str(verdict["xcp-d"].lacking[0]) for verdict in found.values()]
    assert set(told) == {
        "anatomical images in one session or in each in sub-01 (sessions without them: c)"
    }
    for path in root.glob("sub-01/ses-b/anat/*"):
        path.unlink()
    assert {verdict["xcp-d"].word for verdict in check_folder(root).runs.values()} == {"yes"}


def test_the_parts_of_a_field_map_are_wanted(original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    (tree.func / f"{RUN}_from-boldref_to-pe_mode-image_desc-fmap_xfm.txt").touch()
    stem = "sub-01/fmap/sub-01_fmapid-pe_desc"
    parts = [f"{stem}-{part}_fieldmap.nii.gz" for part in ("preproc", "coeff", "magnitude")]
    assert [one.name for one in verdicts(tree.root)["fmriprep"].lacking] == parts
    (tree.func / f"{RUN}_fmapid-pe_desc-boldref_fieldmap.nii.gz").touch()
    assert verdicts(tree.root)["fmriprep"].word == "yes"
    (tree.root / "sub-01/fmap").mkdir()
    (tree.root / f"{stem}-epi_fieldmap.nii.gz").touch()
    assert [one.name for one in verdicts(tree.root)["fmriprep"].lacking] == parts[:2]


def test_a_part_of_a_field_map_that_no_run_uses_stops_all_the_same(original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    (tree.root / "sub-01/fmap").mkdir()
    stem = "sub-01/fmap/sub-01_fmapid-pe_desc"
    (tree.root / f"{stem}-coeff1_fieldmap.nii.gz").touch()
    lacking = [one.name for one in verdicts(tree.root)["fmriprep"].lacking]
    assert lacking == [f"{stem}-{part}_fieldmap.nii.gz" for part in ("preproc", "magnitude")]
    for part in ("preproc", "magnitude"):
        (tree.root / f"{stem}-{part}_fieldmap.nii.gz").touch()
    assert verdicts(tree.root)["fmriprep"].word == "yes"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\n  \n" + text,
        lambda text: re.sub(r"(?m)^([^\t\n]+)", r'"\1"', text),
    ],
    ids=["byte order", "windows", "empty lines", "quotes"],
)
def test_a_table_is_read_as_pandas_reads_it(change, original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    tree.write(tree.table, change(tree.table.read_text()))
    found = verdicts(tree.root)
    assert {found[who].word for who in EVERY} == {"yes"}


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "is empty"), (b"\n" * 200, "is empty"), (b"\xff\xfe\x00", "is not UTF-8 text")],
    ids=["nothing", "lines of nothing", "bytes"],
)
def test_what_is_no_table_is_said_to_be_none(content, told, original, tmp_path):
    tree = damage.Tree(original, tmp_path / "tree")
    tree.table.unlink()
    tree.table.write_bytes(content)
    found = verdicts(tree.root)
    assert f"a table in {TABLE}.tsv ({told})" in list(map(str, found["nilearn"].lacking))


def test_json_names_the_function_that_asks(original, tmp_path, capsys):
    tree = damage.Tree(original, tmp_path / "tree")
    tree.drop("csf")
    assert tools.main(["check-compat", str(tree.root), "--json", "--require", "fitlins"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["consumers"]["xcp-d"] == {"title": "XCP-D", "versions": "26.1.1"}
    uses = found["runs"][RUN]["xcp-d"]["uses"]
    (missing,) = uses["36P"]["missing"]
    assert missing["kind"] == "column"
    assert (missing["name"], missing["where"]) == ("csf", f"{TABLE}.tsv")
    assert "GenerateConfounds" in missing["rule"]
    assert uses["24P"]["missing"] == []
    assert found["runs"][RUN]["nilearn"]["uses"]["ica_aroma"]["optional"]


def test_what_is_required_and_not_accepted_ends_in_an_error(original, tmp_path, capsys):
    tree = damage.Tree(original, tmp_path / "tree")
    tree.drop("csf")
    call = ["check-compat", str(tree.root), "--require"]
    assert tools.main([*call, "xcp-d:24P", "nilearn:compcor"]) == 0
    assert tools.main([*call, "xcp-d"]) == 65
    said = capsys.readouterr().err
    assert "does not hold what is required: xcp-d accepts 0 of 1 runs" in said
    assert f"{RUN} lacks column csf in {TABLE}.tsv" in said
    assert tools.main([*call, "nilaern"]) == 64
    assert "--require: 'nilaern' is no tool and no model that is judged" in (
        said := capsys.readouterr().err
    )
    assert "did you mean nilearn?" in said
    assert tools.main([*call, "xcp-d:36"]) == 64
    assert "--require: xcp-d is not judged by its use '36'" in capsys.readouterr().err
    assert tools.main(["check-compat", str(tree.root / "nothing")]) == 66
    assert "nothing is no folder" in capsys.readouterr().err


def test_a_folder_without_runs_is_no_derivative(tmp_path):
    with pytest.raises(NoInputError, match="holds no BOLD run of a derivative"):
        check_folder(tmp_path)
    with pytest.raises(NoInputError, match="holds no BOLD run of a derivative"):
        check_folder(tmp_path, ["01"])


def test_a_participant_without_a_run_is_not_passed_over(original, capsys):
    """Whoever requires something of two participants must not be told that one of them has it."""
    call = ["check-compat", str(original), "--require", "nilearn", "--participant-label", "01"]
    assert tools.main(call) == 0
    assert tools.main([*call, "sub-001"]) == 18
    said = capsys.readouterr().err
    assert "holds no BOLD run of a derivative of participant '001'" in said
    assert "did you mean 01?" in said


def test_names_cannot_command_the_terminal(original, tmp_path, capsys):
    tree = damage.Tree(original, tmp_path / "tree")
    (tree.root / "sub-\x1b[2J").mkdir()
    (tree.func / "sub-01_task-\x1b]0;owned\x07_bold.json").touch()
    tree.rename("csf", "Csf\x1b[31m")
    assert tools.main(["check-compat", str(tree.root)]) == 0
    told = capsys.readouterr().out
    assert r"left out, since their names are not BIDS: 2, the first" in told
    assert r"\x1b" in told
    assert not any(c in told for c in "\x1b\x07")


def write_many(root, original, n):
    """Write so many participants, whose files are those of one."""
    root.mkdir()
    (root / "dataset_description.json").hardlink_to(original / "dataset_description.json")
    for i in range(n):
        for path in original.glob("sub-01/*/*"):
            new = root / path.relative_to(original).as_posix().replace("sub-01", f"sub-{i:03d}")
            new.parent.mkdir(parents=True, exist_ok=True)
            new.hardlink_to(path)
    return root


def test_many_runs_share_rows(original, tmp_path, capsys):
    root = write_many(tmp_path / "many", original, 30)
    (root / "sub-007" / "func" / Path(f"{TABLE}.json").name.replace("01", "007", 1)).unlink()
    assert tools.main(["check-compat", str(root)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split()[:4] == ["sub-007_task-rest_run-1", "partly", "no", "partly"]
    assert told[2].startswith("sub-000_task-rest_run-1 and 28 more")
    assert "nilearn: 1 of 30 runs lack something" in told


def count_calls(root, labels):
    """Count the calls of all functions while a folder is checked."""
    counted, before = itertools.count(), sys.getprofile()
    sys.setprofile(lambda *_: next(counted))
    try:
        assert len(check_folder(root, labels).runs) == len(labels)
    finally:
        sys.setprofile(before)
    return next(counted)


def test_each_further_run_takes_as_many_calls_as_the_one_before(original, tmp_path):
    """What is looked up for all runs is looked up once: the work grows as the runs do."""
    labels = [f"{i:03d}" for i in range(64)]
    root = write_many(tmp_path / "many", original, len(labels))
    count_calls(root, labels)  # what Python itself remembers is remembered now
    few, more, most = (count_calls(root, labels[:n]) for n in (16, 32, 64))
    assert most - more < 1.02 * 2 * (more - few)


@pytest.fixture
def fmriprep_tree(shared, tmp_path):
    """Write the files that a real output of fMRIPrep 21 lists, with confounds of that version."""
    layout = shared / "data/fmriprep/ds000001-layout"
    confounds = shared / "data/fmriprep/confounds"
    root = tmp_path / "fmriprep"
    for line in (layout / "MANIFEST.tsv").read_text().splitlines()[1:]:
        name, _, here = line.split("\t")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if here == "yes" and (layout / name).is_file():
            path.write_bytes((layout / name).read_bytes())
        elif name.endswith(".nii.gz"):
            write_image(path, n_volumes=30 if name.endswith("_bold.nii.gz") else None)
        elif "desc-confounds_timeseries" in name:
            source = confounds / f"test-v21_desc-confounds_timeseries{path.suffix}"
            path.write_bytes(source.read_bytes())
        else:
            path.touch()
    return root


def test_a_layout_of_fmriprep_without_its_images_is_told_file_by_file(shared):
    found = check_folder(shared / "data/fmriprep/ds000001-layout").runs
    assert len(found) == 3
    for run, verdict in found.items():
        func, std = f"sub-01/func/{run}", "space-MNI152NLin2009cAsym_res-2"
        assert {verdict[who].word for who in (*TOOLS, "connectome")} == {"no"}
        assert {one.name for one in verdict["xcp-d"].lacking} == {
            f"{func}_{std}_desc-preproc_bold.nii.gz",
            f"{func}_{std}_boldref.nii.gz",
            f"{func}_{std}_desc-brain_mask.nii.gz",
            f"{func}_desc-confounds_timeseries.tsv",
            f"{func}_desc-confounds_timeseries.json",
            f"{ANAT}_desc-preproc_T1w.nii.gz",
            f"{ANAT}_{std}_desc-brain_mask.nii.gz",
            f"{ANAT}_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
            f"{ANAT}_from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.h5",
        }
        images = {
            f"{func}{space}_desc-{kind}.nii.gz"
            for space in ("", "_space-T1w", f"_{std}")
            for kind in ("preproc_bold", "brain_mask")
        }
        table = f"{func}_desc-confounds_timeseries.tsv"
        assert {one.name for one in verdict["nilearn"].lacking} == images | {table}
        assert {one.name for one in verdict["giga_connectome"].lacking} == {
            f"{func}_{std}_desc-preproc_bold.nii.gz", f"{func}_{std}_desc-brain_mask.nii.gz", table
        }  # fmt: skip


def test_a_whole_output_of_fmriprep_is_accepted(fmriprep_tree):
    """But for what fMRIPrep 21 did not write: references and transforms to start again from."""
    for run, verdict in check_folder(fmriprep_tree).runs.items():
        words = {who: verdict[who].word for who in TOOLS}
        assert [str(one) for who in ("giga_connectome", "fitlins") for one in verdict[who].lacking
                ] == []  # fmt: skip
        assert words["nilearn"] == "yes", [str(one) for one in verdict["nilearn"].lacking]
        assert {use.name: use.lacking for use in verdict["nilearn"].uses}["ica_aroma"] == ()
        lacking = {one.name for one in verdict["fmriprep"].lacking}
        func = f"sub-01/func/{run}"
        assert lacking == {
            f"{func}_desc-hmc_boldref.nii.gz",
            f"{func}_desc-coreg_boldref.nii.gz",
            f"{func}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
            f"{func}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
        }
        assert verdict["xcp-d"].word == "yes", [str(one) for one in verdict["xcp-d"].lacking]


@pytest.fixture
def copied(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


def test_a_generator_that_is_no_object_is_passed_over(copied):
    path = copied / "dataset_description.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"GeneratedBy": ["fMRIPrep", 1, {"Name": "ours"}]}))
    assert name_of_generator(json.loads(path.read_text())) == "ours"
    assert name_of_generator({"GeneratedBy": ["fMRIPrep"]}) is None
    assert verdicts(copied)["nilearn"].word == "yes"


def test_a_link_that_leads_round_in_a_circle_is_no_file_and_ends_nothing(copied):
    (copied / "round").symlink_to("round")
    (copied / "sub-01" / "ses-1").symlink_to("ses-1")
    mask = copied / f"{LIN6}_desc-brain_mask.nii.gz"
    mask.unlink()
    mask.symlink_to(mask.name)
    assert mask.name in "".join(map(str, verdicts(copied)["nilearn"].lacking))
    folder = list_folder(copied)
    assert folder.find(f"{LIN6}_desc-brain_mask.nii.gz") is None
    assert folder.is_lost(f"{LIN6}_desc-brain_mask.nii.gz")


def test_xcpd_compares_the_repetition_time_of_the_sidecar_as_a_number(copied):
    sidecar = next(copied.rglob("*Asym_res-2_desc-preproc_bold.json"))
    for path in copied.rglob("*_desc-preproc_bold.json"):
        path.write_text('{"RepetitionTime": "2.0"}')
    lacking = "".join(map(str, verdicts(copied)["xcp-d"].lacking))
    assert "RepetitionTime above 0 s" in lacking
    for path in copied.rglob("*_desc-preproc_bold.json"):
        path.write_text("{}")
    assert sidecar.read_text() == "{}"
    assert verdicts(copied)["xcp-d"].word == "yes"  # it takes that of the header


def test_nothing_of_a_folder_stays_in_memory_after_its_check(original, monkeypatch):
    made = []

    def remember(folder):
        contents = Contents(folder)
        made.append(weakref.ref(contents))
        return contents

    monkeypatch.setattr(checking, "Contents", remember)
    check_folder(original)
    gc.collect()
    assert [ref() for ref in made] == [None]
