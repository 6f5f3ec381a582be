"""A part of the graph: nodes that find the files they need by role, wherever those come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from neurostorm_app.pipelines.preprocess.nodes import SAID, Step, trait_name, write_qc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Part"]


class Part:
    """A workflow in the graph.

    Parameters
    ----------
    whole : LiterateWorkflow
        The graph.
    name : str
        Its folder in the scratch folder.
    desc : str
        What it does, for the methods paragraph.
    inputs : mapping
        Files as acquired, by role.
    given : mapping
        Results that are there already, by role; what would only make those is left out.
    """

    def __init__(
        self,
        whole: LiterateWorkflow,
        name: str,
        *,
        desc: str = "",
        inputs: Mapping[str, Path] | None = None,
        given: Mapping[str, Path] | None = None,
    ) -> None:
        self.flow: Any = LiterateWorkflow(name=name)
        self._whole, self._desc = whole, desc
        self.given = dict(given or {})
        self.nodes: list[str] = []
        self._makers: dict[str, tuple[Part, str, str]] = {}
        self._files: dict[str, Path] = {**(inputs or {}), **self.given}
        self._judged: list[str] = []
        whole.add_nodes([self.flow])

    def __contains__(self, role: str) -> bool:
        return role in self._files or role in self._makers

    def roles(self, start: str) -> list[str]:
        """List what is known here whose role starts so, those of files that are there first."""
        known = dict.fromkeys((*self._files, *self._makers))
        return [role for role in known if role.startswith(start)]

    def take(self, other: Part, roles: Mapping[str, str]) -> None:
        """Let nodes of this part use results of another one: our names of them to theirs."""
        for ours, theirs in roles.items():
            self.call(ours, theirs, of=other)

    def call(self, name: str, role: str, *, of: Part | None = None) -> None:
        """Give what has a role here, or in another part, one more name."""
        source = of or self
        if role in source._files:  # noqa: SLF001  parts of one graph
            self._files[name] = source._files[role]  # noqa: SLF001
        else:
            self._makers[name] = source._makers[role]  # noqa: SLF001

    def add(  # noqa: PLR0913
        self,
        name: str,
        function: Callable[..., Mapping[str, Any]],
        *,
        needs: tuple[str, ...] = (),
        links: tuple[str, ...] = (),
        gives: tuple[str, ...],
        values: Mapping[str, Any] | None = None,
        loose: Mapping[str, Any] | None = None,
        n_threads: int = 1,
        says: str = "",
    ) -> None:
        """Add a node, unless all files that it gives are there.

        Parameters
        ----------
        name : str
            Of the node.
        function : callable
            See `Step`, which says more of `needs`, `links`, `gives`, `values` and `loose` too.
        needs, links, gives : tuple of str
            Roles.
        values, loose : mapping, optional
            Choices.
        n_threads : int
            Threads that it uses.
        says : str
            Under which name its ``qc`` goes into the quality file.
        """
        made = [role for role in gives if role not in {"qc", "facts"}]
        if made and all(role in self._files for role in made):
            return
        step = Step(function, needs=needs, links=links, gives=gives, values=values, loose=loose)
        node = pe.Node(step, name=name, n_procs=n_threads, mem_gb=0.5)
        self.flow.add_nodes([node])
        self.nodes.append(name)
        if self._desc:
            self.flow.__desc__ = self._desc
        for role in (*needs, *links):
            self._connect(node, role)
        for role in gives:
            if role != "qc":
                self._files.pop(role, None)
                self._makers[role] = (self, name, role)
        if says:
            self._makers[f"{SAID}{says}"] = (self, name, "qc")
            self._judged.append(f"{SAID}{says}")

    def hear(self, other: Part) -> None:
        """Let what the nodes of another part said count here."""
        for said in other._judged:
            self._makers[said] = other._makers[said]
            self._judged.append(said)

    def add_judgement(self, name: str, function: Callable[..., Mapping[str, Any]]) -> None:
        """Add a node that judges the ``measures`` and what all others said so far."""
        said = tuple(self._judged)
        self.add(name, function, links=("measures", *said), gives=("qc",), says=name)

    def add_qc(self) -> None:
        """Add the node that writes what all others said about their work."""
        needs: tuple[str, ...] = ()
        if "qc" in self._files:
            self._files["qc_before"] = self._files["qc"]
            needs = ("qc_before",)
        self.add("qc", write_qc, needs=needs, links=tuple(self._judged), gives=("qc",))

    def _connect(self, node: Any, role: str) -> None:
        """Give a node's input its file, or tell where it will come from."""
        if role in self._files:
            setattr(node.inputs, trait_name(role), str(self._files[role]))
            return
        part, maker, output = self._makers[role]
        ends = (trait_name(output), trait_name(role))
        if part is self:
            self.flow.connect(self.flow.get_node(maker), ends[0], node, ends[1])
        else:
            there, here = f"{maker}.{ends[0]}", f"{node.name}.{ends[1]}"
            self._whole.connect(part.flow, there, self.flow, here)
