"""A cohort of runs as parcel series, with effects whose truth is known: what an evaluation finds.

Networks are correlated; one of these correlations follows age, another differs between two
groups. Scanners add a pattern of their own, noise and gain; motion adds what all parcels share
and what near ones share; everybody has a pattern, which families share in part. Two traits lead
astray on purpose: ``score`` has to do with nothing, ``restlessness`` with motion alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.phantom.cohort_series import (
    AGE_PAIR,
    GROUP_PAIR,
    MIDDLE_AGE,
    USUAL_MOTION,
    Planted,
    Scene,
    Who,
    few_parcels,
    grey_parcels,
    network_correlations,
)
from neurostorm_app.pipelines.phantom.settings import TR, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "AGE_PAIR",
    "GROUP_PAIR",
    "CohortTable",
    "Layout",
    "ParcelCohort",
    "Planted",
    "make_cohort",
]

Layout = Literal["grey", "few"]

_FD_SPREAD, _FD_LEAST, _FD_RUN = 0.06, 0.04, 0.015  # framewise displacement, mm
_YOUNGEST, _OLDEST = 20, 80  # years
_AGE_SPREAD = (_OLDEST - _YOUNGEST + 1) / 12**0.5  # standard deviation of uniform ages
_LEAST = 0.01  # eigenvalue of the correlations of networks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CohortTable:
    """Who the participants are: what a ``participants.tsv`` would hold.

    Parameters
    ----------
    participants : tuple of str
        ``sub-001`` and so on.
    age : ndarray, shape (N,)
        Years.
    sex, group, site, family : tuple of str
        ``F`` or ``M``; ``control`` or ``patient``; a scanner; a name that siblings share.
    score, restlessness : ndarray, shape (N,)
        Traits, no unit: of nothing, and of motion only.
    """

    participants: tuple[str, ...]
    age: NDArray[np.float64]
    sex: tuple[str, ...]
    group: tuple[str, ...]
    site: tuple[str, ...]
    family: tuple[str, ...]
    score: NDArray[np.float64]
    restlessness: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParcelCohort:
    """The cohort.

    Parameters
    ----------
    series : ndarray, shape (N, R, V, T), float32
        Every participant's runs, relative to the mean of each parcel, which is 1 times the gain
        of the scanner.
    tr : float
        Repetition time, s.
    networks : tuple of str
        Network of each parcel.
    places : ndarray, shape (V, 3)
        Centres of the parcels, mm RAS, MNI152NLin6Asym; of the small layout on a ring.
    table : CohortTable
        Who the participants are.
    motion : ndarray, shape (N, R)
        Mean framewise displacement, mm.
    connectivity : ndarray, shape (N, V, V)
        True correlations of each participant, runs' own states left out, at mean motion.
    planted : Planted
        The effects.
    """

    series: NDArray[np.float32]
    tr: float
    networks: tuple[str, ...]
    places: NDArray[np.float64]
    table: CohortTable
    motion: NDArray[np.float64]
    connectivity: NDArray[np.float64]
    planted: Planted

    def edges(self, pair: tuple[str, str]) -> NDArray[np.bool_]:
        """Find the edges between two networks: (V (V - 1) / 2,), ordered as a connectome."""
        here = np.array([[name == end for name in self.networks] for end in pair])
        rows, columns = np.triu_indices(len(self.networks), 1)
        crossing = here[0, rows] & here[1, columns] | here[1, rows] & here[0, columns]
        return np.asarray(crossing, dtype=np.bool_)


def make_cohort(
    n_participants: int = 80,
    n_runs: int = 2,
    *,
    n_volumes: int = 240,
    planted: Planted | None = None,
    layout: Layout = "grey",
    seed: int = 0,
) -> ParcelCohort:
    """Make a cohort; a participant does not depend on how many there are.

    Parameters
    ----------
    n_participants, n_runs : int
        How many people, and runs of each.
    n_volumes : int
        Volumes of a run, one every 2 s.
    planted : Planted, optional
        The effects; by default all of them.
    layout : {"grey", "few"}
        The app's 100 grey parcels, or 12 parcels of four networks: small and fast.
    seed : int
        The same seed makes the same cohort.

    Raises
    ------
    UsageError
        If there would be nobody, or an effect is larger than correlations can be.
    """
    planted = planted or Planted()
    _check(n_participants, n_runs, n_volumes, planted)
    networks, places = grey_parcels() if layout == "grey" else few_parcels()
    scene = Scene(planted=planted, networks=networks, places=places, seed=seed)
    table, motion = _draw_people(planted, n_participants, n_runs, seed=seed)
    people = _people(table, planted)
    series = [
        [scene.render(who, run, motion=fd, n_volumes=n_volumes) for run, fd in enumerate(moved)]
        for who, moved in zip(people, motion, strict=True)
    ]
    true = [scene.truth(w, motion=m.mean()) for w, m in zip(people, motion, strict=True)]
    return ParcelCohort(
        series=np.array(series, dtype=np.float32),
        tr=TR,
        networks=networks,
        places=places,
        table=table,
        motion=motion,
        connectivity=np.array(true),
        planted=planted,
    )


def _draw_people(
    planted: Planted, n_participants: int, n_runs: int, *, seed: int
) -> tuple[CohortTable, NDArray[np.float64]]:
    """Draw who the participants are, and how much they moved in each run, (N, R) mm."""
    numbers = range(1, n_participants + 1)
    rngs = [generator(seed, "cohort table", participant=number) for number in numbers]
    age = np.array([rng.integers(_YOUNGEST, _OLDEST + 1) for rng in rngs], dtype=np.float64)
    sex = tuple(str(rng.choice(["F", "M"])) for rng in rngs)
    still, score, restless = np.array([rng.standard_normal(3) for rng in rngs]).T
    r, s = planted.motion_age, planted.restlessness
    drawn = r * (age - MIDDLE_AGE) / _AGE_SPREAD + (1 - r * r) ** 0.5 * still
    spread = np.array([rng.standard_normal(n_runs) for rng in rngs])
    motion = USUAL_MOTION + _FD_SPREAD * drawn[:, None] + _FD_RUN * spread
    motion = np.maximum(motion, _FD_LEAST)
    moved = (motion.mean(axis=1) - USUAL_MOTION) / _FD_SPREAD
    return CohortTable(
        participants=tuple(f"sub-{number:03d}" for number in numbers),
        age=age,
        sex=sex,
        group=tuple("patient" if number % 2 == 0 else "control" for number in numbers),
        site=tuple(f"scanner{_site(number, planted) + 1}" for number in numbers),
        family=tuple(_family(number) for number in numbers),
        score=score,
        restlessness=s * moved + (1 - s * s) ** 0.5 * restless,
    ), motion


def _people(table: CohortTable, planted: Planted) -> list[Who]:
    """List what the series of the participants depend on."""
    columns = zip(table.age.tolist(), table.group, table.family, strict=True)
    return [
        Who(number=n, age=age, group=group, family=family, site=_site(n, planted))
        for n, (age, group, family) in enumerate(columns, start=1)
    ]


def _site(number: int, planted: Planted) -> int:
    """Say which scanner somebody went to: one has siblings as the other has."""
    return (number - 1) // 4 % planted.n_sites


def _family(number: int) -> str:
    """Name a family: of four people after each other the first two are siblings."""
    block, place = divmod(number - 1, 4)
    return f"family{3 * block + max(place - 1, 0) + 1:03d}"


def _check(n_participants: int, n_runs: int, n_volumes: int, planted: Planted) -> None:
    """See that the cohort can be made."""
    if min(n_participants, n_runs, planted.n_sites) < 1 or n_volumes < 20:
        raise UsageError(
            f"a cohort of {n_participants} participants of {planted.n_sites} sites with {n_runs} "
            f"runs of {n_volumes} volumes; expected at least 1, 1, 1 and 20",
            fix="ask for more",
        )
    if max(abs(planted.motion_age), abs(planted.restlessness)) > 1:
        raise UsageError(
            f"motion would correlate {planted.motion_age} with age and {planted.restlessness} "
            "with restlessness; a correlation lies between -1 and 1",
            fix="plant smaller correlations",
        )
    if min(planted.site, planted.person, planted.motion) < 0:
        raise UsageError(
            f"shares of variance of site, person and motion of {planted.site}, {planted.person} "
            f"and {planted.motion}; none may be negative",
            fix="plant 0 to turn an effect off",
        )
    names = [*AGE_PAIR, *GROUP_PAIR]
    least = min(
        float(np.linalg.eigvalsh(network_correlations(names, age, group, planted))[0])
        for age in (_YOUNGEST, _OLDEST)
        for group in ("control", "patient")
    )
    if least < _LEAST:
        raise UsageError(
            f"the planted effects of age and group, {planted.age} a year and {planted.group}, "
            "make correlations of networks that no signals have",
            fix="plant a smaller effect of age or group",
        )
