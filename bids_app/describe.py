"""What makes the output folder a BIDS derivative of its own: description, ignore list, README."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.derivatives import write_json, write_text
from neurostorm_app.bids_app.inputs.links import quoted
from neurostorm_app.bids_app.participant.outputs import PRIVACY
from neurostorm_app.bids_app.privacy import Rules
from neurostorm_app.bids_app.scratch import open_part
from neurostorm_app.errors import CannotCreateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["bids_uri", "check_output_dir", "check_owner", "describe_output"]

APP: Final = "neurostorm-app"
BIDS_VERSION: Final = "1.10.0"
IGNORED: Final = """*.html
figures
retrieval
prediction
prov
.work*
.part*
*_xfm.*
*_boldref.*
*_timeseries.*
*_relmat.*
*_fmapid-*
*_T2starmap.*
*_embedding.*
*_prediction.*
*_outliers.*
*_stat-*
*_descriptors.*
"""
README: Final = f"""# Embeddings of fMRI runs

Made by {APP}. What is here:

- `sub-*/anat`, `sub-*/fmap`, `sub-*/func`: preprocessed images under the names of fMRIPrep.
- `*_desc-<model>Windows_embedding.tsv`: one row a window, `*_desc-<model>_embedding.tsv`: one row,
  the run. The sidecar says which weights made it, from what, and whether the series was what the
  model expects.
- `*_desc-denoised_bold.nii.gz`, `*_stat-*`, `*_outliers.tsv`: series without noise, of parcels
  too, if asked for.
- `*_desc-connectivity_descriptors.*`: connectivity by networks in numbers and words, if asked for.
- `retrieval/`: all runs of a model in one table and one index (group level).
- `phenotype/<source>_<target>.tsv`: predictions of a column of participants.tsv, each by models
  that had not seen the person (group level with `--target`). No measurement, not for diagnosis.
- `prediction/target-<target>_evaluation.tsv`: how good they are, all models side by side with plain
  functional connectivity, controls and confounds; `.json`: all of it, with a verdict.
  `*_head.safetensors`: heads for new people, `*New_prediction.tsv`: what a head says of them.
- `sub-*.html`, `group.html`: reports. `logs/`: one JSON a run and the logs. `prov/`: what was made
  from what.

{PRIVACY}
"""
DESCRIPTIONS: Final = """desc_id	description
desc-boldref	field in Hz on the grid of the BOLD reference
desc-brain	brain mask
desc-coeff	coefficients of the B-splines of a field
desc-confounds	series that explain noise, one row a volume
desc-connectivity	numbers that describe the correlations of parcels by networks, and a text
desc-coreg	reference for the registration with the T1w image, or that registration
desc-denoised	noise taken off; a strategy's name behind it where there are several
desc-denoisedSmoothed	noise taken off, then smoothed
desc-epi	EPI that belongs to a field map, its distortion taken off
desc-fmap	place of a field map
desc-hmc	reference of head motion, or that motion
desc-magnitude	magnitude image that belongs to a field map
desc-preproc	preprocessed
"""


def bids_uri(path: Path, roots: Mapping[str, Path]) -> str:
    """Write a path as a BIDS URI.

    Parameters
    ----------
    path : Path
        A file.
    roots : mapping
        Folders of datasets by name; the empty name is the output itself.

    Returns
    -------
    str
        ``bids:<name>:<path>``; the bare file name if it lies in none of them.
    """
    for name, root in roots.items():
        if path.is_relative_to(root):
            return f"bids:{name}:{quoted(path.relative_to(root).as_posix())}"
    return path.name


def check_output_dir(
    output_dir: Path, bids_dir: Path, work_dir: Path | None, *, create: bool = True
) -> None:
    """Make the output folder, or say why results may not go there.

    Parameters
    ----------
    output_dir, bids_dir : Path
        Resolved.
    work_dir : Path or None
        Scratch folder, if one was given.
    create : bool
        Make the folder; if not, only the place is judged.

    Raises
    ------
    CannotCreateError
        If it is the dataset itself or inside it (``derivatives/NAME`` is allowed), belongs
        to something else, or cannot be written.
    """
    for place in [output_dir] if work_dir is None else [output_dir, work_dir.resolve()]:
        inside = place.is_relative_to(bids_dir)
        parts = place.relative_to(bids_dir).parts if inside else ()
        if inside and (len(parts) < 2 or parts[0] != "derivatives"):
            raise CannotCreateError(
                f"{place} is inside the input {bids_dir}, which is only read",
                fix=f"choose a folder elsewhere, or {bids_dir / 'derivatives' / 'neurostorm-app'}",
            )
    if not create:
        return
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with open_part(output_dir) as (part, _):
            part.unlink()
    except OSError as error:
        raise CannotCreateError(
            f"{output_dir} cannot be written: {error.strerror}",
            fix="check permissions and mounts, or choose another OUTPUT_DIR",
        ) from error


def check_owner(root: Path) -> dict[str, Any]:
    """Read the description of the output folder, and refuse one that is not ours.

    Raises
    ------
    CannotCreateError
        If the folder holds another dataset, or one whose description is not here to be read.
    """
    path = root / "dataset_description.json"
    if path.is_symlink() and not path.exists():
        raise CannotCreateError(
            f"{path} is a link to a file that is not here, so nobody can tell whose results these "
            "are",
            fix=f"of a DataLad dataset: datalad get {path}; the other results too, for those that "
            "are not here are made again",
        )
    if not path.exists():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
        makers = [maker["Name"] for maker in description.get("GeneratedBy", ())]
    except (ValueError, TypeError, KeyError, AttributeError):
        description, makers = {}, [APP] if _is_cut_off(path) else []
    if APP not in makers:
        who = ", ".join(map(str, makers)) or "someone else"
        raise CannotCreateError(
            f"{root} holds another dataset, made by {who}",
            fix="choose an empty folder, or one that this app has made",
        )
    return dict(description)


def _is_cut_off(path: Path) -> bool:
    """Tell whether a crash of the file system cut our own description off: README is ours too."""
    try:
        json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        readme = path.with_name("README.md")
        ours = README.partition("\n")[0].encode()
        return readme.is_file() and readme.read_bytes().startswith(ours)
    return False


def describe_output(
    root: Path, datasets: Mapping[str, Path], *, rules: Rules | None = None
) -> None:
    """Write description, ignore list and README; a file that is right is left alone.

    Parameters
    ----------
    root : Path
        The output folder.
    datasets : mapping
        Folders of the raw dataset and of derivatives by name.
    rules : Rules, optional
        What is hidden; by default nothing is.
    """
    rules = rules or Rules()
    old = check_owner(root)
    links = dict(old.get("DatasetLinks", {}))
    links |= {
        name: rules.link(name, quoted(os.path.relpath(path, root)))
        for name, path in datasets.items()
    }
    description = {
        "Name": "neurostorm-app: embeddings of fMRI runs",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [_generated_by()],
        "SourceDatasets": [{"URL": link} for link in links.values()],
        "DatasetLinks": links,
        "HowToAcknowledge": "Cite the app, the preprocessing and the models named in the sidecars.",
    }
    if description != old:
        write_json(root / "dataset_description.json", description)
    texts = {".bidsignore": IGNORED, "README.md": README, "descriptions.tsv": DESCRIPTIONS}
    for name, text in texts.items():
        path = root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)


def _generated_by() -> dict[str, Any]:
    from neurostorm_app import __version__

    maker: dict[str, Any] = {"Name": APP, "Version": __version__}
    kind = os.environ.get("NEUROSTORM_APP_CONTAINER")
    if kind:
        container = {"Type": kind}
        for key, variable in (("Tag", "NEUROSTORM_APP_TAG"), ("URI", "NEUROSTORM_APP_URI")):
            if value := os.environ.get(variable):
                container[key] = value
        maker["Container"] = container
    return maker
