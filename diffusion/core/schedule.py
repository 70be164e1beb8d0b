"""Where every image is measured, in which order, and by which search. Pure: numbers in, numbers out."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from diffusion.core import search
from diffusion.core.search import Search


@dataclass(frozen=True)
class Schedule:
    """A search for the class of an image, and the levels at which it measures."""

    levels: np.ndarray  # [P] the level of each point, in the order of measurement
    ends: np.ndarray  # [stages] how many points there are when each stage ends
    start: Callable[[np.ndarray], Search]  # start(among) is the search between the classes `among`, rows [n]
    most_nfe: int  # network evaluations of one image, at most
    exact: bool = False  # every image takes that many
    pairs: bool = False  # levels come in pairs of neighbours, which share a noise sample and its negative
    search: str = ""  # its name, as run.json has it: "race", "halving", "grid", or the name of a search of your own
    interval: int | None = None  # a grid: every class is measured at every interval-th of the usable levels
    name: str = ""  # its part of the name of a run's folder; empty: `search`
    options: dict = field(default_factory=dict)  # for run.json, beside the name

    def __len__(self) -> int:
        return len(self.levels)


@dataclass(frozen=True)
class Points:
    """The points of a schedule: a level and a noise sample each, the same for all classes of an image."""

    levels: np.ndarray  # [P]
    draws: np.ndarray  # [P] which sample of the noise each point takes
    signs: np.ndarray | None  # [P] 1 or -1, the factor of that sample; None: always 1
    weights: np.ndarray  # [P] the factor of an error at each point

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        level_weights: np.ndarray,
        n_trials: int = 1,
        *,
        randomize: bool = True,
    ) -> "Points":
        """level_weights [T] of all levels; n_trials and randomize as in search.draws."""
        draws, signs = search.draws(
            schedule.levels, schedule.ends, n_trials, randomize=randomize, antithetic=schedule.pairs
        )
        return cls(schedule.levels, draws, signs, level_weights[schedule.levels])


def halving_schedule(
    usable: np.ndarray,
    n_samples: list[int],
    to_keep: list[int],
    arms_per_class: np.ndarray,
    *,
    n_trials: int = 1,
    pairs: bool = False,
    most: int | None = None,
) -> Schedule:
    """Stages of some of the usable levels, each level n_trials times in a row, or with `pairs` as search.repeated.

    n_samples grows and to_keep shrinks from stage to stage, to 1. arms_per_class [classes]; at
    most `most` of the classes compete for an image, by default all.
    """
    levels, ends = search.level_sequence(n_samples, len(usable))
    stages = [search.repeated(usable[stage], n_trials, pairs=pairs) for stage in np.split(levels, ends[:-1])]
    ends = ends * n_trials

    if most is None:
        most = len(arms_per_class)
    competing = np.minimum([most, *to_keep[:-1]], most)  # classes of each stage
    largest = np.sort(arms_per_class)[::-1]
    nfe = sum(largest[:classes].sum() * n for classes, n in zip(competing, np.diff(ends, prepend=0), strict=True))
    return Schedule(
        np.concatenate(stages),
        ends,
        lambda among: search.halving(len(among), ends, to_keep),
        int(nfe),
        exact=len(set(arms_per_class.tolist())) == 1,
        pairs=pairs,
        search="halving",
        name=f"{'_'.join(map(str, to_keep))}keep_{'_'.join(map(str, n_samples))}samples",
        options={"to_keep": to_keep, "n_samples": n_samples},
    )


def race_schedule(
    usable: np.ndarray,
    arms_per_class: np.ndarray,
    z: float,
    n_levels: int,
    *,
    budget: float = np.inf,
    n_trials: int = 1,
    groups: np.ndarray | None = None,
    pairs: bool = False,
) -> Schedule:
    """A race at n_levels of the usable levels, each n_trials times; groups [classes], if any, race first.

    Levels are in the order of search.spread_sequence, or with `pairs` of search.spread_pairs. arms_per_class [classes],
    z and budget as in search.race. The cost is that of all classes at all points.
    """
    spread = search.spread_pairs if pairs else search.spread_sequence
    levels = search.repeated(usable[spread(n_levels, len(usable))], n_trials, pairs=pairs)

    def start(among: np.ndarray) -> Search:
        if groups is not None:
            return search.tree(levels, arms_per_class[among], groups[among], z, pairs=pairs)
        return search.race(levels, arms_per_class[among], z, budget, pairs=pairs)

    limit: float | None = None
    suffix = ""
    if budget != np.inf:
        limit, suffix = budget, f"_{budget}NFE"
    return Schedule(
        levels,
        np.array([len(levels)]),
        start,
        int(min(arms_per_class.sum() * len(levels), budget)),
        pairs=pairs,
        search="race",
        name=f"race_{z:g}z_{n_levels}samples{suffix}",
        options={"z": z, "max_samples": n_levels, "budget": limit},
    )
