"""The help of options: the docstrings that stand below the fields of their models.

pydantic can read them too, but tokenizes the whole file once for each model to do so, which takes
as long as everything else of ``--help``.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read_helps"]


def read_helps(model: type) -> Mapping[str, str]:
    """Read the docstring of each field of a model that is written below it, as one line.

    Parameters
    ----------
    model : type
        A class whose fields are annotated.

    Returns
    -------
    mapping of str to str
        By the name of the field.
    """
    return _read_module(inspect.getfile(model))[model.__name__]


@cache
def _read_module(path: str) -> dict[str, dict[str, str]]:
    """Read the docstrings of the fields of all classes of a module."""
    body = ast.parse(Path(path).read_text(encoding="utf-8")).body
    return {each.name: _read_class(each) for each in body if isinstance(each, ast.ClassDef)}


def _read_class(found: ast.ClassDef) -> dict[str, str]:
    helps = {}
    for field, below in zip(found.body, found.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                helps[name] = " ".join(text.split())
    return helps
