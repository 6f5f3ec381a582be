"""Configurations that a training stored as an object of its own, read as plain values.

MinD-Vis keeps its hyper-parameters as an object of a class of a module called ``config``. Reading
it the usual way would import that module, whatever it is on this machine. Here such a class is
only a name: its values are put into an object of ours that can do nothing, and any other name of
code in the file is refused as ever.
"""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["StoredConfig", "name_stored"]

_CLASS = re.compile(r"config\.[A-Za-z_]\w*")
"""A class of the module ``config`` itself: neither of a part of it, nor an attribute of a class."""


class StoredConfig:
    """Values that stand for an object whose class is not known here."""

    def __setstate__(self, state: Any) -> None:
        """Take names and values, and nothing else.

        Raises
        ------
        pickle.UnpicklingError
            If they are no names and values.
        """
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise pickle.UnpicklingError("a stored configuration is not names and values")
        self.__dict__.update(state)


def name_stored(path: Path) -> list[tuple[type[StoredConfig], str]]:
    """Find the classes of a file that are read as plain values; nothing in it is run.

    Parameters
    ----------
    path : Path
        What ``torch.save`` wrote.

    Returns
    -------
    list of (type, str)
        As ``torch.serialization.safe_globals`` takes them: what stands for a class, and its name.
    """
    import torch

    asked = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    return [(StoredConfig, name) for name in sorted(asked) if _CLASS.fullmatch(name)]
