"""The verb ``weights``: what there is and where it lies, fetching it, checking it.

Fetching is the one thing here that needs a network, and the only one that ever asks for it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from neurostorm_app.models.card import AtlasCard, Card

    AnyCard: TypeAlias = Card | AtlasCard

__all__ = ["add_weights", "call_weights"]

ABOUT: Final = """list: every model and atlas, its licence, and where its file lies on this machine
fetch: bring files of NAME... into --weights-dir, by pinned revision; needs a network
verify: compare the files of NAME... with card and lock file, and load them strictly

Files are looked for in --weights-dir, then in the folder that the environment variable
NEUROSTORM_WEIGHTS names, then in the package. HF_ENDPOINT names a mirror of Hugging Face."""
USE: Final = {True: "commercial use allowed", False: "no commercial use", None: "use not stated"}


def add_weights(verb: Any) -> None:
    """Add the arguments of the verb to its parser.

    Parameters
    ----------
    verb : ArgumentParser
        Of the verb.
    """
    import argparse

    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.description = ABOUT
    verb.add_argument("what", choices=("list", "fetch", "verify"), metavar="WHAT", help="see above")
    verb.add_argument("names", nargs="*", metavar="NAME", help="models or atlases")
    verb.add_argument("--weights", type=Path, metavar="FILE", help="the one file to verify")
    verb.add_argument("--weights-dir", type=Path, metavar="DIR", help="folder of weights")
    verb.add_argument(
        "--accept-licence", action="store_true", help="you have read the licences and accept them"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def call_weights(asked: argparse.Namespace) -> None:
    """List, fetch or verify.

    Parameters
    ----------
    asked : Namespace
        What `add_weights` defines.

    Raises
    ------
    AppError
        If a name is unknown, a licence is not accepted, or a file is missing or wrong.
    """
    {"list": _list, "fetch": _fetch, "verify": _verify}[asked.what](asked)


def _read(name: str) -> AnyCard:
    from neurostorm_app.models import list_models, read_card
    from neurostorm_app.models.atlases import list_atlases, read_atlas_card

    if name in list_atlases():
        return read_atlas_card(name)
    if name not in list_models() and name.lower() in {a.lower() for a in list_atlases()}:
        raise UsageError(
            f"there is no model or atlas {name!r}", fix=f"atlases: {', '.join(list_atlases())}"
        )
    return read_card(name)


def _list(asked: argparse.Namespace) -> None:
    from neurostorm_app.models import list_models
    from neurostorm_app.models.atlases import list_atlases

    names = asked.names or [*list_models(), *list_atlases()]
    cards = [(card, *_place(card, asked.weights_dir)) for card in map(_read, names)]
    if asked.json:
        facts = [
            card.model_dump(mode="json") | {"found": found, "path": str(path) if path else None}
            for card, found, path in cards
        ]
        print(json.dumps(facts, indent=2))
        return
    for card, found, path in cards:
        demo = " [DEMO, not for science]" if getattr(card, "demo", False) else ""
        print(f"{card.name}: {card.title}{demo}")
        print(f"    {found}{f': {path}' if path else ''}{_size(card, path)}")
        print(f"    licence: {card.licence}, {USE[card.commercial_use]}")


def _place(card: AnyCard, weights_dir: Path | None) -> tuple[str, Path | None]:
    """Say where the file of a card lies."""
    from neurostorm_app.models.atlases import list_atlas_places
    from neurostorm_app.models.card import AtlasCard
    from neurostorm_app.models.weights import EMBEDDED, list_places

    if isinstance(card, AtlasCard):
        places = list_atlas_places(card, weights_dir=weights_dir)
    elif card.file is None:
        return "no weights needed", None
    else:
        places = list_places(card, weights_dir=weights_dir)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = card.source is not None and card.source.revision is not None
        return "missing" if known else "missing, and cannot be fetched", None
    if path.parent == EMBEDDED:
        return "in the package", path
    given = weights_dir is not None and path.is_relative_to(weights_dir)
    return "in --weights-dir" if given else "in NEUROSTORM_WEIGHTS", path


def _size(card: AnyCard, path: Path | None) -> str:
    size = path.stat().st_size if path else getattr(card, "size", None)
    return f", {_bytes(size)}" if size else ""


def _bytes(n: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def _fetch(asked: argparse.Namespace) -> None:
    from neurostorm_app.models.weights_dir import fetch_files

    if not asked.names or asked.weights_dir is None:
        raise UsageError(
            "weights fetch: which models or atlases, and where to?",
            fix="write neurostorm-tools weights fetch NAME... --weights-dir DIR",
        )
    cards = [_read(name) for name in dict.fromkeys(asked.names)]
    _show_licences(cards, accepted=asked.accept_licence)
    files = []
    for card in cards:
        progress = _Progress()
        for file in fetch_files(card, asked.weights_dir, progress=progress):
            verdict = "was there" if file.was_there else "fetched"
            files.append({"name": card.name, "path": str(file.path), "sha256": file.sha256})
            if not asked.json:
                print(f"{file.path}: {verdict}, {_bytes(file.size)}, SHA-256 {file.sha256}")
    if asked.json:
        print(json.dumps(files, indent=2))
        return
    _hint(cards, asked.weights_dir)


def _show_licences(cards: list[AnyCard], *, accepted: bool) -> None:
    """Show the licence of all, and go on only if those that ask for it are accepted."""
    from neurostorm_app.models.weights_dir import PERMISSIVE

    for card in cards:
        print(f"{card.name}: licence {card.licence}, {USE[card.commercial_use]}", file=sys.stderr)
        for limit in card.limits:
            if "licence" in limit:
                print(f"    {limit}", file=sys.stderr)
    open_ones = [card for card in cards if card.licence not in PERMISSIVE]
    if open_ones and not accepted:
        listed = ", ".join(f"{card.name} ({card.licence})" for card in open_ones)
        raise UsageError(
            f"the licence has to be accepted before fetching {listed}",
            fix="read it, and add --accept-licence if you agree; nothing was fetched",
        )


def _hint(cards: list[AnyCard], weights_dir: Path) -> None:
    """Name the atlases that the fetched models need and that are not here."""
    from neurostorm_app.models.atlases import list_atlases
    from neurostorm_app.models.card import AtlasCard

    needed = {c.contract.atlas for c in cards if not isinstance(c, AtlasCard)
              and c.contract.kind != "volume"}  # fmt: skip
    for name in sorted(needed & set(list_atlases())):
        if _place(_read(name), weights_dir)[1] is None:
            print(
                f"the atlas {name} is needed too: neurostorm-tools weights fetch {name} "
                f"--weights-dir {weights_dir}"
            )


class _Progress:
    """Show how far a file has come: in place on a terminal, else each tenth on a line."""

    def __init__(self) -> None:
        self.tenth: dict[str, int] = {}

    def __call__(self, url: str, here: int, size: int) -> None:
        tenth = 10 * here // max(size, 1)
        terminal = sys.stderr.isatty()
        if not terminal and self.tenth.get(url, -1) == tenth:
            return
        self.tenth[url] = tenth
        name = url.rpartition("/")[2]
        text = f"{name}: {_bytes(here)} of {_bytes(size)}"
        ending = "\n" if here >= size or not terminal else ""
        print(f"\r{text}" if terminal else text, end=ending, file=sys.stderr, flush=True)


def _verify(asked: argparse.Namespace) -> None:
    if not asked.names:
        raise UsageError("weights verify: which model?", fix="see neurostorm-tools weights list")
    if asked.weights is not None and len(asked.names) > 1:
        raise UsageError(
            f"weights verify: --weights is one file; {len(asked.names)} names were given",
            fix="verify one by one, or give --weights-dir",
        )
    found = [_verify_one(_read(name), asked) for name in asked.names]
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for one in found:
        print(f"{one['path']}: {one['verdict']}; SHA-256 {one['sha256']}, {one['known_by']}")


def _verify_one(card: AnyCard, asked: argparse.Namespace) -> dict[str, str]:
    """Compare with card and lock file, load strictly; an error tells what is wrong."""
    from neurostorm_app.models import create_model
    from neurostorm_app.models.atlases import find_atlas, find_coordinates
    from neurostorm_app.models.card import AtlasCard
    from neurostorm_app.models.lockfile import recorded_hash
    from neurostorm_app.models.weights import check_hash, find_weights, hash_file

    if isinstance(card, AtlasCard):
        path = find_atlas(card, given=asked.weights, weights_dir=asked.weights_dir)
        check_hash(path, card.labels.sha256)
        beside = find_coordinates(path, card)
        verdict = f"is the atlas {card.name}" + ("" if beside else ", without its coordinates")
        sha256: str | None = card.labels.sha256
    else:
        path = find_weights(card, given=asked.weights, weights_dir=asked.weights_dir)
        check_hash(path, card.sha256)
        create_model(card.name, weights=path)
        verdict, sha256 = f"loads as {card.name}", card.sha256
    known = "as its card says" if sha256 else "nothing is known to compare it with"
    if not sha256 and recorded_hash(path):
        known = "as it was when it was fetched"
    return {"path": str(path), "verdict": verdict, "sha256": hash_file(path), "known_by": known}
