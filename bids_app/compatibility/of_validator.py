"""What the official validator says of the folder; asked only by name, since it reads everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurostorm_app.bids_app.compatibility.verdicts import Consumer, Missing, Use
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.errors import BidsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from neurostorm_app.bids_app.compatibility.contents import Contents
    from neurostorm_app.bids_app.compatibility.folder import Run

__all__ = ["VALIDATOR"]


def _judge(contents: Contents) -> Callable[[Run], tuple[Use, ...]]:
    folder = contents.folder
    labels = sorted({place.partition("/")[0].removeprefix("sub-") for place in folder.files} - {""})
    everyone = {path.name.removeprefix("sub-") for path in folder.root.glob("sub-*/")}
    found: tuple[Missing, ...] = ()
    try:
        validate(folder.root, labels, everyone=everyone <= set(labels))
    except BidsError as error:
        lines = [line.strip() for line in error.what.splitlines()[1:]]
        found = tuple(
            Missing(kind="value", name=line, rule="bids-validator-deno") for line in lines
        )
    return lambda _: (Use("valid", found),)


VALIDATOR = Consumer(
    name="bids-validator", title="bids-validator", versions="3", judge=_judge, usual=False
)
