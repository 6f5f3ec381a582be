"""The table of bad inputs: what is spoilt, which exit code it must end in, and what must be said.

A case is made by a rule from a list of values, so that a new value is one word more. Those of
`PREPROCESSED` spoil a series in standard space, and the real pipelines embed the one beside it.
Those of `RAW` spoil a raw dataset; what looks at voxels and timing is real, the preprocessing
behind it writes small files. `CALLS` are wrong calls on a good dataset.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CALLS", "PREPROCESSED", "RAW", "Case", "edit"]

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Case:
    """One bad input.

    Parameters
    ----------
    name : str
        Family and value, such as ``header dim[0] = 8``.
    spoil : callable
        Gets the study and spoils it; may give further words of the command line.
    code : int
        How the call must end.
    says : str
        What the message must hold.
    goes_on : bool
        Whether the good runs beside it must be finished.
    good : str
        Pattern of the results that must be those of an undisturbed call, by their name.
    """

    name: str
    spoil: Callable[[Any], list[str] | None]
    code: int = 65
    says: str = ""
    goes_on: bool = True
    good: str = "sub-01_task-rest_run-1_|sub-02_"


def edit(path: Path, **fields: Any) -> None:
    """Change fields of a NIfTI header on disk; ``dim__4`` is the fourth of ``dim``."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, count=1)
    with np.errstate(all="ignore"):
        for name, value in fields.items():
            field, _, index = name.partition("__")
            if index:
                header[field][0, int(index)] = value
            else:
                header[field][0] = value
    path.write_bytes(gzip.compress(bytes(content), 1))


def write_image(path: Path, data: Any, affine: Any, *, tr: float = 2.0) -> None:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim > 3:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr, *[1] * (data.ndim - 4)))
    path.write_bytes(gzip.compress(image.to_bytes(), 1))


def change(path: Path, how: Callable[[Any], Any]) -> None:
    """Write an image again with other voxels."""
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    affine = image.affine
    new = how(data)
    write_image(path, data if new is None else new, affine)


HEADERS: list[tuple[dict[str, Any], str]] = [
    *[({"dim__0": n}, "dim of its header") for n in (0, 8, -1, 200)],
    *[({"dim__0": n}, "three or four axes") for n in (1, 2, 5)],
    *[({f"dim__{axis}": n}, "dim of its header") for axis in (1, 2, 3, 4) for n in (0, -1)],
    ({"dim": [4, 30000, 30000, 30000, 1000, 1, 1, 1]}, "announces"),
    ({"dim": [4, 800, 800, 800, 32000, 1, 1, 1]}, "a gzip file of"),
    ({"dim": [4, 32767, 1, 1, 32767, 1, 1, 1]}, "a gzip file of"),
    *[({"datatype": n}, "datatype") for n in (0, 1, 32, 128, 2304, 9999)],
    *[({"bitpix": n}, "bitpix is") for n in (0, 8, 64, -16)],
    *[({"vox_offset": v}, "vox_offset") for v in (0, 100, -352, 352.5, 3e7, 1e30, NAN, INF)],
    *[({"scl_slope": v}, "scl_slope") for v in (INF, -INF)],
    *[({"scl_slope": 1, "scl_inter": v}, "scl_inter") for v in (NAN, INF)],
    ({"scl_slope": 3e38, "scl_inter": 1}, "not finite numbers"),
    *[({f"pixdim__{i}": v}, "pixdim says") for i, v in ((1, 0), (2, -8), (3, NAN), (1, INF))],
    *[({"pixdim__2": v}, "pixdim says") for v in (1e6, 1e-6)],
    ({"srow_x": 0}, "cannot be inverted"),
    ({"srow_y": NAN}, "cannot be inverted"),
    ({"srow_z": [0, 0, INF, 0]}, "cannot be inverted"),
    ({"srow_x": [1e30, 0, 0, 0]}, "its affine says"),
    ({"srow_y": [0, 8, 0, 1e9]}, "its affine says"),
    ({"srow_z": [0, 0, 1e-5, 0]}, "its affine says"),
    ({"sform_code": 0, "qform_code": 1, "quatern_b": 1, "quatern_c": 1}, "quaternion"),
    ({"sizeof_hdr": 0}, "cannot be opened as NIfTI"),
    ({"magic": b"ni1"}, "header and voxels in"),
    ({"magic": b"XXX"}, "header and voxels in"),
]


def _named(fields: dict[str, Any]) -> str:
    return ", ".join(f"{k.replace('__', ' ')} = {v}" for k, v in fields.items())


def _headers(family: str, pick: Callable[[Any], Path]) -> list[Case]:
    return [
        Case(f"{family} header: {_named(f)}", lambda s, f=f: edit(pick(s), **f), says=says)
        for f, says in HEADERS
    ]


def cut(part: float) -> Callable[[bytes], bytes]:
    return lambda raw: raw[: int(part * len(raw)) if 0 <= part < 1 else int(part)]


BYTES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    *[(f"cut to {p:.0%}", cut(p), "") for p in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)],
    *[(f"cut to {n} bytes", cut(n), "cannot be opened as NIfTI") for n in (1, 10, 100)],
    ("empty", lambda _: b"", "cannot be opened as NIfTI"),
    *[(f"last {n} bytes missing", lambda raw, n=n: raw[:-n], "") for n in (1, 4, 8)],
    ("wrong checksum", lambda raw: raw[:-8] + bytes(8), ""),
    ("text", lambda _: b"version https://git-lfs.github.com/spec/v1\n", "cannot be opened"),
    ("web page", lambda _: b"<!DOCTYPE html><html>404</html>", "cannot be opened"),
    ("picture", lambda _: b"\x89PNG\r\n\x1a\n" + bytes(400), "cannot be opened"),
    ("gzip of text", lambda _: gzip.compress(b"sub-01 " * 100), "cannot be opened"),
    ("gzip of gzip", lambda raw: gzip.compress(raw, 1), "cannot be opened"),
    ("not compressed", gzip.decompress, "cannot be opened"),
]


def _bytes(family: str, pick: Callable[[Any], Path]) -> list[Case]:
    def spoil(study: Any, how: Callable[[bytes], bytes]) -> None:
        path = pick(study)
        path.write_bytes(how(path.read_bytes()))

    return [
        Case(f"{family} file: {name}", lambda s, h=how: spoil(s, h), says=says)
        for name, how, says in BYTES
    ]


def _replace(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"dangling link": ".git/annex/x", "link to itself": path.name}[kind])


def _nothing_there(family: str, pick: Callable[[Any], Path], codes: dict[str, int]) -> list[Case]:
    return [
        Case(f"{family} is a {kind}", lambda s, k=kind: _replace(pick(s), k), code=code)
        for kind, code in codes.items()
    ]


TEXTS: list[tuple[str, bytes, str]] = [
    ("array", b"[1, 2]", "expected a JSON object"),
    ("number", b"2.0", "expected a JSON object"),
    ("null", b"null", "expected a JSON object"),
    ("empty", b"", "is not JSON"),
    ("cut", b'{"RepetitionTime": 2.0,', "is not JSON"),
    ("trailing comma", b'{"RepetitionTime": 2.0,}', "is not JSON"),
    ("latin-1", '{"RepetitionTime": 2.0, "x": "Köln"}'.encode("latin-1"), "is not JSON"),
    ("utf-16", '{"RepetitionTime": 2.0}'.encode("utf-16"), "is not JSON"),
    ("binary", bytes(range(256)), "is not JSON"),
    ("nested 100,000 deep", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deep"),
    ("17 MiB", b'{"a": "' + b"x" * 17 * 2**20 + b'"}', "larger than 16 MiB"),
    ("number of 5,000 digits", b'{"RepetitionTime": ' + b"2" * 5000 + b"}", "is not JSON"),
]
TIMES: list[tuple[str, str]] = [
    *[(text, "RepetitionTime is") for text in ("0", "-2", "2000", "800", '"2"', "true", "NaN")],
    *[(text, "RepetitionTime is") for text in ("1e999", "[2]", "{}", "null", "-Infinity")],
]


def _sidecars(family: str, pick: Callable[[Any], Path]) -> list[Case]:
    texts = [(name, text, says) for name, text, says in TEXTS]
    texts += [(f"TR {t}", f'{{"RepetitionTime": {t}}}'.encode(), says) for t, says in TIMES]
    return [
        Case(f"{family}: {name}", lambda s, t=text: _write(pick(s), t), says=says)
        for name, text, says in texts
    ]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _with(value: float) -> Callable[[Any], None]:
    def spoil(data: Any) -> None:
        data[10:13, 12, 11, 3] = value

    return spoil


def _series(study: Any) -> Path:
    return study.bad


def _mask(study: Any) -> Path:
    return study.bad.with_name(study.bad.name.replace("preproc_bold", "brain_mask"))


def _json(study: Any) -> Path:
    return study.bad.with_name(study.bad.name.replace(".nii.gz", ".json"))


def _table(study: Any) -> Path:
    run = study.bad.name.partition("_space")[0]
    return study.bad.with_name(f"{run}_desc-confounds_timeseries.tsv")


VOXELS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("NaN", _with(NAN), "not finite"),
    ("Inf", _with(INF), "not finite"),
    ("all NaN", lambda d: np.full_like(d, NAN), "not finite"),
    ("all 0", np.zeros_like, "no parcel varies"),
    ("one volume", lambda d: d[..., :1], "expected a series"),
    ("3D", lambda d: d[..., 0], "expected a series"),
    ("5D", lambda d: d[..., None, :5], "three or four axes"),
    ("2 volumes", lambda d: d[..., :2], "2 volumes"),
    ("5 volumes", lambda d: d[..., :5], "5 volumes"),
    ("one value", lambda d: np.full_like(d, 500), "no parcel varies"),
    ("beyond any brain", lambda d: d * np.float32(1e37), "not finite"),
]
MASKS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("empty", np.zeros_like, "brain mask is empty"),
    ("4D", lambda d: np.stack([d, d], axis=-1), "one volume was expected"),
    ("all NaN", lambda d: np.full(d.shape, NAN, np.float32), "not finite"),
    ("flat", lambda d: d[..., 0], "three or four axes"),
    ("one voxel", lambda d: d * (np.arange(d.size).reshape(d.shape) == d.size // 2), ""),
]
TABLES: list[tuple[str, bytes]] = [
    ("rows of another run", b"csf\twhite_matter\n" + b"0.1\t0.2\n" * 7),
    ("words", b"csf\twhite_matter\n" + b"Jane\tDoe\n" * 40),
    ("infinite", b"csf\twhite_matter\n" + b"0.1\tinf\n" * 40),
    ("binary", bytes(range(256)) * 20),
    ("empty", b""),
    ("header only", b"csf\twhite_matter\n"),
    ("too many cells", b"csf\n" + b"0\t1\n" * 2 + b"0\t1\t2\t3\n" * 40),
]


def _as_int16(study: Any, slope: float) -> None:
    """Store the series as whole numbers with a slope."""
    image = nib.load(study.bad)
    data = np.asarray(image.dataobj).astype(np.int16)
    write_image(study.bad, data, image.affine)
    edit(study.bad, scl_slope=slope, scl_inter=-7)


def _overflow(study: Any) -> None:
    _as_int16(study, 3e38)


def _turn(path: Path) -> None:
    """Turn the grid by a sixth of a right angle around the third axis."""
    cos, sin = 8 * np.cos(np.pi / 12), 8 * np.sin(np.pi / 12)
    edit(path, srow_x=[cos, -sin, 0, -60], srow_y=[sin, cos, 0, -140])


def _misname(study: Any) -> None:
    study.bad.rename(study.bad.with_name(study.bad.name.replace("task-rest_run-2", "task-re st")))


PREPROCESSED: list[Case] = [
    *_headers("series", _series),
    *_bytes("series", _series),
    *_nothing_there("series", _series, {"dangling link": 66, "link to itself": 66, "pipe": 66}),
    # Where the sidecar says nothing, the header is asked.
    *[case for case in _sidecars("series JSON", _json) if "TR null" not in case.name],
    *[Case(f"series: {n}", lambda s, h=h: change(s.bad, h), says=w) for n, h, w in VOXELS],
    Case("series: int16 beyond any float", _overflow, says="not finite"),
    Case("series: int16 with slopes", lambda s: _as_int16(s, 0.5), 0),
    Case("series: oblique", lambda s: _turn(s.bad), 0),
    Case("series: sheared", lambda s: edit(s.bad, srow_x=[8, 4, 0, -90]), 0),
    *[Case(f"confounds: {n}", lambda s, t=t: _write(_table(s), t)) for n, t in TABLES],
    Case("confounds: a folder", lambda s: _table(s).mkdir(), says="is no ordinary file"),
    Case("name of a derivative", _misname, says="is not a BIDS name"),
    *_headers("mask", _mask)[::3],
    *_bytes("mask", _mask)[::3],
    *[Case(f"mask: {n}", lambda s, h=h: change(_mask(s), h), says=w) for n, h, w in MASKS],
    # Masks are brought to the grid of the series by where their voxels are.
    Case("mask: another shape", lambda s: change(_mask(s), lambda d: d[:-3, :, 2:]), 0),
    *_nothing_there("mask", _mask, {"dangling link": 66, "link to itself": 66, "pipe": 65}),
    Case(
        "mask: another place",
        lambda s: edit(_mask(s), srow_x=[8, 0, 0, 5000]),
        says="brain mask is empty",
    ),
]


def _raw(study: Any) -> Path:
    return study.raw("01", "2")


def _t1w(study: Any) -> Path:
    return study.root / "sub-01/anat/sub-01_T1w.nii.gz"


def _raw_json(study: Any) -> Path:
    return study.raw("01", "2").with_name("sub-01_task-rest_run-2_bold.json")


def _sbref(study: Any) -> Path:
    path = study.raw("01", "2").with_name("sub-01_task-rest_run-2_sbref.nii.gz")
    if not path.exists():
        path.write_bytes(_t1w(study).read_bytes())
    return path


def rename(name: str) -> Callable[[Any], None]:
    """Give the bad run another name; a name may hold folders."""

    def spoil(study: Any) -> None:
        target = study.raw("01", "2").parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        study.raw("01", "2").rename(target)

    return spoil


def copy(name: str) -> Callable[[Any], None]:
    """Put the bad run a second time beside itself."""

    def spoil(study: Any) -> None:
        _write(study.raw("01", "2").with_name(name), study.raw("01", "2").read_bytes())

    return spoil


def about(**metadata: Any) -> Callable[[Any], None]:
    """Say something in the sidecar of the bad run."""
    return lambda s: _write(_raw_json(s), json.dumps({"RepetitionTime": 2.0, **metadata}).encode())


def field(**metadata: Any) -> Callable[[Any], None]:
    """Add a pair of EPIs for the bad run; what is said of the first is changed."""

    def spoil(study: Any) -> None:
        for direction, sign in (("AP", "j-"), ("PA", "j")):
            said = {
                "PhaseEncodingDirection": sign,
                "TotalReadoutTime": 0.03,
                "IntendedFor": "func/sub-01_task-rest_run-2_bold.nii.gz",
            }
            said |= metadata if direction == "AP" else {}
            stem = study.root / f"sub-01/fmap/sub-01_dir-{direction}_epi"
            _write(stem.with_suffix(".json"), json.dumps(said).encode())
            _write(stem.with_suffix(".nii.gz"), _t1w(study).read_bytes())
        about(PhaseEncodingDirection="j", TotalReadoutTime=0.03)(study)

    return spoil


def of_run(**metadata: Any) -> Callable[[Any], None]:
    """Add a good pair of EPIs for the bad run, and change what is said of the run."""

    def spoil(study: Any) -> None:
        field()(study)
        about(**{"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.03, **metadata})(study)

    return spoil


def _short(value: object) -> str:
    return f"{value!r:.20}"


def _epi(study: Any) -> Path:
    """Add a good pair of EPIs for the bad run, and give the first."""
    field()(study)
    return study.root / "sub-01/fmap/sub-01_dir-AP_epi.nii.gz"


def _judged(cases: list[Case], good: str) -> list[Case]:
    """Say what is good in spite of some cases.

    A bad anatomy spoils all runs of its participant; and of a field map that is for another run
    the sidecars of a run tell.
    """
    return [replace(case, good=good) for case in cases]


def _marked(study: Any) -> None:
    _write(_raw_json(study), b'\xef\xbb\xbf{"RepetitionTime": 2.0}')


def loop(study: Any) -> None:
    (study.root / "sub-01/func/loop").symlink_to("..", target_is_directory=True)


NAMES: list[tuple[str, str]] = [
    (name, "is not a BIDS name")
    for name in (
        "sub-01_task-re st_bold.nii.gz",
        "sub-01_task-Ruhe\u00fcbung_bold.nii.gz",
        "sub-01_task-re\nst_bold.nii.gz",
        "sub-01_task-rest;reboot_bold.nii.gz",
        "sub-01_task-$(reboot)_bold.nii.gz",
        "sub-01_task-`reboot`_bold.nii.gz",
        "sub-01_task-<script>_bold.nii.gz",
        "sub-01_task-\u0661_bold.nii.gz",
        "sub-01_task-_bold.nii.gz",
        "sub-01_task-a-b_bold.nii.gz",
        "sub-01_Task-rest_bold.nii.gz",
        "sub-01_task-'x'_bold.nii.gz",
        "sub-01_task-Ruhe\udcfcbung_bold.nii.gz",  # a byte that is not UTF-8
        "rest_bold.nii.gz",
    )
]
NAMES += [
    ("task-rest_bold.nii.gz", "does not begin with a participant"),
    ("../ses-\udcfc/func/sub-01_task-rest_run-7_bold.nii.gz", "names no session"),
]
# A file may have 255 letters, and what is named after it has more.
LONG: list[tuple[str, str]] = [
    ("sub-01_task-{}_bold.nii.gz", "letters before its suffix"),
    ("sub-01_task-rest_desc-{}_bold.nii.gz", "letters before its suffix"),
    ("{}_bold.nii", "is not a BIDS name"),
]
TIMINGS: list[tuple[str, Any, str]] = [
    ("too long", [0.1 * i for i in range(20)], "has 20 times for 9 slices"),
    ("too short", [0.0, 1.0], "has 2 times for 9 slices"),
    ("beyond TR", [0.0, 0.5, 1.0, 1.5, 2.5, 3.0, 3.5, 3.6, 3.7], "goes to 3.7 s"),
    ("in ms", [200.0 * i for i in range(9)], "it seems to be in ms"),
    ("negative", [-0.2 * i for i in range(9)], "a time of -1.6 s"),
    ("words", ["first"] * 9, "a list of 9, not a number for each"),
    ("text", "ascending", "a text of 9 letters"),
    ("NaN", [NAN] * 9, "a time of nan s"),
    ("nested", [[0.1 * i] for i in range(9)], "a list of 9, not a number for each"),
    ("beyond any float", [10**400] * 9, "a list of 9, not a number for each"),
]
INTENDED: list[tuple[Any, str]] = [
    *[
        (value, "of its session are for other runs")
        for value in (
            "../../../etc/passwd",
            "/etc/passwd",
            "bids::../../etc/passwd",
            "func/nothing.nii.gz",
            ["bids:other:sub-02/func/x.nii.gz", "~/x"],
        )
    ],
    # The other image of the pair names the run.
    *[(value, "") for value in (7, {"a": 1}, "")],
]
PHASES: list[Any] = ["x", "AP", "", 2, None, ["j"], "j--"]
READOUTS: list[tuple[Any, str]] = [
    *[(value, "a total readout time of") for value in (0, -1, 30, NAN)],
    *[(value, "a number was expected") for value in ("0.03", True, 10**400)],
    (None, "neither TotalReadoutTime"),
]

HEADS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("all 0", np.zeros_like, "all voxels are 0"),
    ("one value", lambda d: np.full_like(d, 500), "all voxels are 500"),
    ("all NaN", lambda d: np.full_like(d, NAN), "not finite"),
    ("two volumes", lambda d: np.stack([d, d], axis=-1), "one volume was expected"),
    ("flat", lambda d: d[..., 0], "three or four axes"),
    ("a small piece", lambda d: d[:9, :9, :9], "field of view of"),
]
NO_IMAGE = {"dangling link": 66, "link to itself": 66, "folder": 66, "pipe": 66}
ANATOMY: list[Case] = [
    *_headers("T1w", _t1w)[::6],
    *_bytes("T1w", _t1w)[1::2],
    *_nothing_there("T1w", _t1w, NO_IMAGE),
    *[Case(f"T1w: {n}", lambda s, h=h: change(_t1w(s), h), says=w) for n, h, w in HEADS],
]
FIELDS: list[Case] = [
    *[Case(f"IntendedFor {v!r}", field(IntendedFor=v), 0, says) for v, says in INTENDED],
    *[
        Case(
            f"phase direction {v!r}",
            field(PhaseEncodingDirection=v),
            65 if v else 0,
            "PhaseEncodingDirection is" if v else "no run has the opposite one",
        )
        for v in PHASES
    ],
    *[
        Case(f"phase direction of the run {v!r}", of_run(PhaseEncodingDirection=v), 0, "without it")
        for v in PHASES
    ],
    *[Case(f"readout {_short(v)}", field(TotalReadoutTime=v), says=w) for v, w in READOUTS],
    *[
        Case(f"readout of the run {_short(v)}", of_run(TotalReadoutTime=v), 0, says)
        for v, says in READOUTS
    ],
    Case("field map: one phase", lambda s: _without(s, "PA"), 0),
    *_headers("field map", _epi)[3::6],
    *_bytes("field map", _epi)[::2],
    *_nothing_there("field map", _epi, NO_IMAGE),
]

RAW: list[Case] = [
    *_headers("raw series", _raw),
    *_bytes("raw series", _raw)[::2],
    *_nothing_there("raw series", _raw, {"dangling link": 66, "link to itself": 66, "pipe": 66}),
    *_sidecars("raw JSON", _raw_json),
    *_nothing_there(
        "raw JSON",
        lambda s: about()(s) or _raw_json(s),
        {"dangling link": 66, "link to itself": 66, "folder": 65, "pipe": 65},
    ),
    *_headers("sbref", _sbref)[::6],
    *_judged(ANATOMY, "sub-02_"),
    *_judged(FIELDS, r"sub-02_|sub-01_task-rest_run-1_.*(tsv|nii\.gz)$"),
    *[Case(f"name {n!r}", rename(n), says=w) for n, w in NAMES],
    *[
        Case(f"name of 255 letters {n!r}", rename(n.format("a" * (257 - len(n)))), says=w)
        for n, w in LONG
    ],
    Case(
        "name of another participant",
        rename("sub-02_task-rest_run-7_bold.nii.gz"),
        says="lies in the",
    ),
    Case("name with an entity twice", rename("sub-01_run-1_run-2_bold.nii.gz"), says="twice"),
    Case("name of 200 letters", rename(f"sub-01_task-{'a' * 190}_bold.nii.gz"), says="letters"),
    Case("duplicate run", copy("sub-01_task-rest_run-02_bold.nii.gz"), says="one name"),
    Case("duplicate extension", copy("sub-01_task-rest_run-2_bold.nii"), says="one name"),
    Case("case clash", copy("sub-01_task-REST_run-2_bold.nii.gz"), says="one name"),
    Case("TR contradicts the header", about(RepetitionTime=0.8), says="in the header"),
    Case("TR of the header in ms", lambda s: edit(_raw(s), pixdim__4=2000), says="in the header"),
    Case("TR of the header infinite", lambda s: edit(_raw(s), pixdim__4=INF), says="in the header"),
    *[Case(f"SliceTiming {n}", about(SliceTiming=v), 0, says) for n, v, says in TIMINGS],
    Case("no sidecar at all", rename("sub-01_task-none_bold.nii.gz"), says="Time is None"),
    Case("sidecar with a mark", _marked, 0),
    Case("symlink loop of folders", loop, 0),
    Case("raw series: NaN", lambda s: change(_raw(s), _with_raw(NAN)), says="not finite"),
    Case("raw series: all 0", lambda s: change(_raw(s), np.zeros_like), says="are empty"),
    Case("raw series: one volume", lambda s: change(_raw(s), lambda d: d[..., :1]), says="series"),
    Case("raw series: 3D", lambda s: change(_raw(s), lambda d: d[..., 0]), says="series"),
    Case("raw series: 5D", lambda s: change(_raw(s), lambda d: d[..., None, :3]), says="four axes"),
]


def _with_raw(value: float) -> Callable[[Any], None]:
    def spoil(data: Any) -> None:
        data[2:5, 3:5, 4:6, 1] = value

    return spoil


def _without(study: Any, direction: str) -> None:
    field()(study)
    (study.root / f"sub-01/fmap/sub-01_dir-{direction}_epi.nii.gz").unlink()


LABELS = ("../x", "a b", "$(reboot)", "x;y", "a\nb", "\u0661", "01/..", "<b>", "a*", "", "'", "ä")
FILTERS: list[tuple[str, str, str]] = [
    ("array", "[]", "expected an object"),
    ("not JSON", "{", "is not JSON"),
    ("nested", '{"bold": ' + "[" * 100_000 + "]" * 100_000 + "}", "is not JSON"),
    ("query is a list", '{"bold": ["rest"]}', "expected an object"),
    ("entity", '{"bold": {"sesion": "1"}}', "is not an entity"),
    ("path", '{"bold": {"task": "../../x"}}', "is not a BIDS label"),
    ("space", '{"bold": {"task": "a b"}}', "is not a BIDS label"),
    ("truth", '{"bold": {"task": true}}', "is not a BIDS label"),
    ("object", '{"bold": {"task": {"a": 1}}}', "is not a BIDS label"),
    ("list of lists", '{"bold": {"task": [["rest"]]}}', "is not a BIDS label"),
    ("2 MiB", '{"bold": {"task": "' + "x" * 2**21 + '"}}', "larger than 1 MiB"),
]
WORDS: list[tuple[list[str], int, str]] = [
    (["--no-such-option"], 64, "no such option"),
    (["--models", "no-such-model"], 64, "no-such-model"),
    (["--models", "../../x"], 64, "../../x"),
    (["--output-spaces", "fsaverage"], 64, "surface"),
    (["--output-spaces", "MNI152NLin6Asym:res-../x"], 64, "--output-spaces"),
    (["--mem", "much"], 64, "is not a size"),
    (["--mem", "0"], 64, "is not a size"),
    (["--nprocs", "0"], 64, "nprocs"),
    (["--nprocs", "many"], 64, "nprocs"),
    (["--random-seed", "x"], 64, "random"),
    (["-d", "x=/nowhere"], 66, "does not exist"),
    (["-d", "../x=/tmp"], 64, "is not a name"),
    (["-d", "raw=/tmp"], 64, "stands for BIDS_DIR"),
    (["--weights", "neurostorm"], 64, "expected NAME=PATH"),
    (["--weights", "neurostorm=/nowhere"], 66, "does not exist"),
    (["--device", "gpu"], 64, "device"),
    (["--participant-label", "99"], 18, "is not in"),
    (["--task-label", "nothing"], 18, "leaves no BOLD run"),
    (["--echo-idx", "2"], 18, "leaves no BOLD run"),
    (["--bids-filter-file", "/nowhere.json"], 66, "does not exist"),
    (["one", "more"], 64, "one argument too many"),
]


def _labels(study: Any, option: str) -> list[str]:
    path = study.root.parent / "labels.txt"
    path.write_text("01\n../../etc\n")
    return [option, str(path)]


def _filter(study: Any, text: str) -> list[str]:
    path = study.root.parent / "filter.json"
    path.write_text(text)
    return ["--bids-filter-file", str(path)]


OPTIONS = ("--participant-label", "--session-label", "--task-label", "--run-label", "--echo-label")


def _put_out(study: Any, place: Path) -> None:
    study.out = place


def _under_a_file(study: Any) -> Path:
    (study.home / "file").touch()
    return study.home / "file" / "out"


OUTPUTS: list[tuple[str, Callable[[Any], Path], str]] = [
    ("the input itself", lambda s: s.root, "is inside the input"),
    ("inside the input", lambda s: s.root / "sub-01" / "out", "is inside the input"),
    ("inside by a link", lambda s: _link(s) / "out", "is inside the input"),
    ("below a file", _under_a_file, "cannot be written"),
    ("where nothing can be made", lambda _: Path("/proc/out"), "cannot be written"),
]


def _link(study: Any) -> Path:
    (study.home / "link").symlink_to(study.root)
    return study.home / "link"


CALLS: list[Case] = [
    *[
        Case(f"{option} {label!r}", lambda s, o=option, w=label: [f"{o}={w}"], 64, goes_on=False)
        for option in OPTIONS
        for label in LABELS
    ],
    *[
        Case(f"{o} file with a path", lambda s, o=o: _labels(s, o), 64, "BIDS label", goes_on=False)
        for o in OPTIONS
    ],
    *[
        Case(f"filter file: {n}", lambda s, t=t: _filter(s, t), 64, says, goes_on=False)
        for n, t, says in FILTERS
    ],
    *[Case(" ".join(w), lambda s, w=w: w, code, says, goes_on=False) for w, code, says in WORDS],
    *[
        Case(f"output: {n}", lambda s, p=place: _put_out(s, p(s)), 73, says, goes_on=False)
        for n, place, says in OUTPUTS
    ],
]
