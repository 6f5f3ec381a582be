"""What a network eats that takes single voxels, such as those of visual cortex."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["VoxelContract"]


class VoxelContract(BaseModel):
    """Voxels of named labels of a label image, by label and then by index, averaged over blocks.

    The order is that of the label image and so the same for all runs, whatever their grids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["voxels"] = "voxels"
    space: str
    """Standard space by its TemplateFlow name."""
    atlas: str
    """Name of the parcellation."""
    labels: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
    """Values of the label image; their voxels are taken by ascending label."""
    n_voxels: Annotated[int, Field(gt=0)] | None = None
    """Voxels of these labels, without padding; None: whatever the label image has."""
    seconds: Annotated[float, Field(gt=0)] = 8.0
    """Length of a block; its volumes are averaged."""
    patch: Annotated[int, Field(gt=0)] = 16
    """The row of voxels is filled up, from its beginning, to a whole number of so many."""
    extra_patch: bool = False
    """Fill up by one whole patch more where nothing is missing, as upstream does."""
    scaling: Literal["run-zscore"] = "run-zscore"
    """One mean and one standard deviation over all voxels and blocks of a run."""
    min_volumes: Annotated[int, Field(gt=0)] = 20
    """Fewer volumes than this cannot be used."""

    @property
    def tr(self) -> None:
        """Repetition time: the run's own."""
        return

    @property
    def tr_range(self) -> None:
        """Repetition times that are kept: all."""
        return

    @property
    def window(self) -> None:
        """Volumes of a window: those of a block, see `block`."""
        return

    @property
    def stride(self) -> None:
        """Volumes between windows: blocks follow each other."""
        return

    def block(self, tr: float) -> int:
        """Count the volumes of a block at a repetition time in seconds; at least one.

        Examples
        --------
        >>> VoxelContract(space="MNI152NLin6Asym", atlas="A", labels=(1,)).block(0.75)
        10
        """
        return max(1, int(self.seconds / tr + 1e-6))

    def padded(self, n_voxels: int) -> int:
        """Count the values of a row.

        Examples
        --------
        >>> contract = VoxelContract(space="MNI152NLin6Asym", atlas="A", labels=(1,))
        >>> contract.padded(30), contract.padded(32)
        (32, 32)
        >>> contract.model_copy(update={"extra_patch": True}).padded(32)
        48
        """
        missing = -n_voxels % self.patch
        if self.extra_patch and missing == 0:
            missing = self.patch
        return n_voxels + missing
