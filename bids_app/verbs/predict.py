"""The verb ``predict``: a head that was kept, applied to the embeddings of new participants.

A head does not know whom it was fitted on: no label of a participant is kept in it. In the output
folder where it was fitted, everybody with an out-of-fold prediction in phenotype/ is left out,
for that one is honest and another by the head would be too good. Elsewhere nobody can tell, and
the sidecar says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import DataError, NoInputError, NothingSelectedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.bids_app.group.keys import Key
    from neurostorm_app.pipelines.evaluate.heads import Applied, Head

__all__ = ["add_predict", "call_predict", "predict_new"]

TRAINED: Final = (
    "Whom the head was fitted on is not kept in it. If somebody here was among them, the "
    "prediction is too good: use the out-of-fold one of the folder it was fitted in."
)
ALIKE: Final = (
    "Intervals and probabilities hold for people like those of the cohort: of the same sites, ages "
    "and scanners."
)


def add_predict(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    verb.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="with embeddings in it")
    verb.add_argument(
        "--head",
        type=Path,
        required=True,
        metavar="FILE",
        help="prediction/target-*_head.safetensors of a group call with --save-heads",
    )
    verb.add_argument("--participant-label", nargs="+", default=(), metavar="LABEL")
    verb.add_argument(
        "--include-training",
        action="store_true",
        help="also those who have an out-of-fold prediction here; theirs by the head is too good",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def call_predict(asked: argparse.Namespace) -> None:
    """Do what the verb asks for."""
    from neurostorm_app.bids_app.logs import to_terminal

    to_terminal(0)
    labels = [label.removeprefix("sub-") for label in asked.participant_label]
    path, rows, about = predict_new(
        asked.output_dir.resolve(), asked.head, labels, include_training=asked.include_training
    )
    if asked.json:
        print(json.dumps({"table": str(path), "rows": rows, "about": about}, indent=2))
        return
    print(about["Description"])
    print(f"{path}: {len(rows)} rows; left out: {about['LeftOut'] or 'nobody'}")


def predict_new(
    root: Path, head_path: Path, participants: Sequence[str], *, include_training: bool
) -> tuple[Path, list[dict[str, str]], dict[str, Any]]:
    """Apply a head to embeddings in an output folder, and write what it says.

    Parameters
    ----------
    root : Path
        The output folder.
    head_path : Path
        The head's safetensors file.
    participants : sequence of str
        Labels without ``sub-``; all if there is none.
    include_training : bool
        Also predict those who have an out-of-fold prediction here.

    Returns
    -------
    Path
        The table.
    list of dict
        Its rows.
    dict
        Its sidecar.

    Raises
    ------
    NoInputError, WrongWeightsError
        If the head is not there, or damaged.
    ContractError
        If the embeddings were made otherwise than those of the head.
    NothingSelectedError
        If nobody is left to be predicted.
    """
    from neurostorm_app.bids_app.derivatives import write_json, write_text
    from neurostorm_app.bids_app.describe import check_owner
    from neurostorm_app.pipelines.evaluate.head_files import read_head
    from neurostorm_app.pipelines.evaluate.heads import apply_head

    if not root.is_dir():
        raise NoInputError(f"{root} is not a folder of results", fix="check OUTPUT_DIR")
    check_owner(root)
    head = read_head(head_path)
    vectors = _collect(root, head, participants)
    known = _with_out_of_fold(root, head)
    wanted = [key for key in vectors if include_training or key[0] not in known]
    left_out = {"out-of-fold prediction in phenotype/": len(vectors) - len(wanted)}
    if not wanted:
        raise NothingSelectedError(
            f"all {len(vectors)} rows have an out-of-fold prediction in {root / 'phenotype'}, "
            "which is the honest one",
            fix="embed new participants, or give --include-training",
        )
    import numpy as np

    applied = apply_head(head, np.stack([vectors[key] for key in wanted]))
    rows = _rows(head, wanted, applied)
    about = _about(head, head_path, {k: n for k, n in left_out.items() if n})
    if include_training:
        about["Notes"].append("Participants the head was fitted on may be among the rows.")
    path = _place(root, head)
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    write_text(path, "\n".join(lines) + "\n", root=root)
    write_json(path.with_suffix(".json"), about, root=root)
    return path, rows, about


def _place(root: Path, head: Head) -> Path:
    """Name the table after target and model; ``new`` tells it from what is out of fold."""
    from neurostorm_app.bids_app.group.targets import label_target

    target = label_target(head.target.name, {})
    return root / "prediction" / f"target-{target}_desc-{head.source}New_prediction.tsv"


def _collect(
    root: Path, head: Head, participants: Sequence[str]
) -> Mapping[Key, NDArray[np.float32]]:
    """Average the embeddings of each row, as those were that the head was fitted on."""
    from neurostorm_app.bids_app.group.cohort import average_rows
    from neurostorm_app.bids_app.group.collect import collect
    from neurostorm_app.bids_app.group.fingerprint import SAID, describe_differences
    from neurostorm_app.bids_app.group.outputs import known_tables
    from neurostorm_app.bids_app.group.rows import find_embeddings
    from neurostorm_app.bids_app.words.values import check_label
    from neurostorm_app.errors import ContractError
    from neurostorm_app.pipelines.evaluate.heads import check_fingerprint

    check_label(head.source, "the card of the head")
    wanted = [check_label(label, "--participant-label") for label in participants]
    found = find_embeddings(root, wanted).get(head.source)
    if not found:
        raise NoInputError(
            f"{root} holds no embedding of {head.source} that the head could be applied to",
            fix=f"embed the participants with {head.source} first",
        )
    one = collect(head.source, found, known_tables(root, head.source), root=root)
    try:
        check_fingerprint(head, one.label, one.fingerprint, beside=SAID)
    except ContractError as error:
        differing = describe_differences(head.fingerprint, one.fingerprint)
        raise ContractError(
            f"{root}: the embeddings of {head.source} were made otherwise than those the head was "
            f"fitted on: {differing}",
            fix=error.fix,
        ) from error
    return average_rows(one, "session" if head.per_session else "participant")


def _with_out_of_fold(root: Path, head: Head) -> frozenset[str]:
    """Read who has an out-of-fold prediction of this target by this model."""
    from neurostorm_app.bids_app.group.tables import TableFile, read_column
    from neurostorm_app.bids_app.group.targets import label_target

    stem = f"{head.source}_{label_target(head.target.name, {})}"
    path = root / "phenotype" / f"{stem}.tsv"
    if not path.is_file():
        return frozenset()
    table = TableFile(stem=stem, paths=(path,), columns=(), root=root)
    try:
        return frozenset(key[0] for key in read_column(table, "participant_id").cells)
    except DataError as error:
        raise DataError(
            f"whom the head was fitted on cannot be told: {error.what}",
            fix="call the group level again, or give --include-training after a look",
        ) from error


def _rows(head: Head, keys: Sequence[Key], applied: Applied) -> list[dict[str, str]]:
    from neurostorm_app.bids_app.group.phenotype_files import class_columns

    rows = []
    for i, (participant, session, *_) in enumerate(keys):
        row = {"participant_id": f"sub-{participant}"}
        if head.per_session:
            row["session_id"] = f"ses-{session}" if session else "n/a"
        value = float(applied.predicted[i])
        if applied.probabilities is not None:
            row["predicted"] = head.target.classes[round(value)]
            names = class_columns(head.target.classes)
            row |= {n: f"{p:.6g}" for n, p in zip(names, applied.probabilities[i], strict=True)}
        else:
            row["predicted"] = f"{value:.6g}"
            for name, bound in (("lower", applied.lower), ("upper", applied.upper)):
                row[name] = "n/a" if bound is None else f"{bound[i]:.6g}"
        rows.append(row)
    return rows


def _about(head: Head, path: Path, left_out: dict[str, int]) -> dict[str, Any]:
    from neurostorm_app import __version__
    from neurostorm_app.bids_app.participant.outputs import DEMO, PRIVACY
    from neurostorm_app.bids_app.participant.predictions import DIAGNOSIS
    from neurostorm_app.bids_app.provenance import sha256_of

    unit = f" ({head.target.unit})" if head.target.unit else ""
    return {
        "Description": f"{DEMO if head.demo else ''}{head.target.name}{unit} of new participants, "
        f"predicted from {head.source} by a head fitted on {head.n_participants} others. "
        f"{DIAGNOSIS}",
        "NotForDiagnosis": True,
        "Demo": head.demo,
        "Target": head.target.name,
        "Units": head.target.unit,
        "Confidence": head.confidence,
        "Head": {"File": path.name, "SHA256": sha256_of(path)},
        "OutOfFoldPerformance": dict(head.performance),
        "LeftOut": left_out,
        "Notes": [TRAINED, ALIKE],
        "Privacy": PRIVACY,
        "AppVersion": str(__version__),
    }
