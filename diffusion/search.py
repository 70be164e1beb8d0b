"""Who is measured next, and when to stop. Pure: numbers in, classes out; it knows no diffusion.

A search is a generator: it yields `(classes, points)`, "measure these classes, ascending, which have all come equally
far, up to that many leading points", is sent the classes' errors at the new points, and returns the classes that are
left, the leader first; more than one where its budget ended before it came to a decision.
"""

import itertools
import warnings
from collections.abc import Callable, Generator

import numpy as np
from scipy.special import ndtr, stdtrit

from diffusion import InputError, InputWarning

Search = Generator[tuple[np.ndarray, int], np.ndarray, np.ndarray]


def even(n: int, total: int) -> np.ndarray:
    """n indices spread evenly over range(total): floor((k + 1/2) total / n). [n]

    Where n divides total this is the published `range(total//n//2, total, total//n)`; elsewhere that one stops short.
    """
    return (2 * np.arange(n) + 1) * total // (2 * n)


def level_sequence(n_samples: list[int], T: int) -> tuple[np.ndarray, np.ndarray]:
    """The order in which levels are measured, and how many of them each stage has seen when it ends.

    A stage of n samples takes n levels spread evenly over the grid of max(n_samples), less those taken before.
    Stages that nest (50 in 500) end at n; others (500 in 1000) cost more: 50/100/500/1000 ends at 50, 150, 550, 1000.
    -> levels [P], ends [stages]
    """
    grid = even(max(n_samples), T)
    taken: dict[int, None] = {}  # an ordered set
    ends = []
    for n in n_samples:
        taken.update(dict.fromkeys(grid[even(n, len(grid))].tolist()))
        ends.append(len(taken))
    return np.array(list(taken)), np.array(ends)


def spread_sequence(n: int, T: int) -> np.ndarray:
    """n levels spread evenly over range(T), in an order whose every prefix is spread over all of it. [n]

    Van der Corput's: the k-th at the bits of k mirrored at the point: 1/2, 1/4, 3/4, 1/8, 5/8, ..., and at last 0.
    """
    bits = (n - 1).bit_length()
    mirrored = [int(f"{k:0{bits}b}"[::-1], 2) for k in [*range(1, 2**bits), 0]]
    return even(n, T)[[k for k in mirrored if k < n]]


def band(low: float, high: float, T: int) -> np.ndarray:
    """The levels of range(T) from the share `low` of the schedule to the share `high`, ascending."""
    return np.arange(round(low * T), round(high * T))


def every(interval: int, T: int) -> int:
    """How many of T levels --t_interval takes. Raises InputError unless it divides T."""
    if interval < 1 or T % interval:
        raise InputError(f"--t_interval {interval}: must divide the {T} levels")
    return T // interval


def noise_rows(levels: np.ndarray, n_trials: int, randomize: bool) -> np.ndarray:
    """Which noise draw each point takes, for levels [P] in any order, each n_trials times in a row. [P]

    One draw for every trial; with `randomize`, one for every trial and level. A level's draw does not depend on when it
    is measured, so a search sees exactly the points of the full grid.
    """
    trial = np.tile(np.arange(n_trials), len(levels) // n_trials)
    return np.searchsorted(np.sort(levels), levels) + trial if randomize else trial


def check_schedule(n_classes: int, n_samples: list[int], to_keep: list[int], T: int) -> None:
    """Raises InputError unless the schedule can be run on T levels; warns where its first stage keeps all classes."""
    given = f"--to_keep {' '.join(map(str, to_keep))} --n_samples {' '.join(map(str, n_samples))}"
    problem = None
    if len(to_keep) != len(n_samples):
        problem = "the two need one number per stage each, so equally many"
    elif min(to_keep + n_samples) < 1:
        problem = "every number must be at least 1"
    elif any(a >= b for a, b in itertools.pairwise(n_samples)):
        problem = "--n_samples must grow from stage to stage"
    elif any(a <= b for a, b in itertools.pairwise(to_keep)):
        problem = "--to_keep must shrink from stage to stage"
    elif to_keep[-1] != 1:
        problem = f"--to_keep must end in 1, the answer, not in {to_keep[-1]}"
    elif n_samples[-1] > T:
        problem = f"the model has only {T} noise levels"
    if problem:
        raise InputError(f"{given}: {problem}")
    if to_keep[0] > n_classes:
        warnings.warn(f"{given}: the first stage keeps all classes, there are {n_classes}", InputWarning, stacklevel=2)


def halving(n_classes: int, ends: list[int], to_keep: list[int]) -> Search:
    """The paper's successive elimination (arXiv 2303.16203, Algorithm 2).

    Stage s measures the classes that are left up to `ends[s]` points and keeps the `to_keep[s]` with the smallest mean
    error over all their points; a tie goes to the smaller class. Is sent errors [classes, new points].
    """
    left = np.arange(n_classes)
    total = np.zeros(n_classes)
    seen = 0
    for end, keep in zip(ends, to_keep, strict=True):
        if end > seen:  # else all its levels were measured before
            errors = yield left, end
            total[left] += errors.sum(1, dtype=np.float64)
            seen = end
        left = np.sort(left[np.argsort(total[left], kind="stable")[:keep]])
    return left


PRIOR = 8  # degrees of freedom, at most, that the spread of the nearest classes counts as beside a class's own
NEAREST = 9  # these are so many, and at least a tenth of the classes left


def race(levels: np.ndarray, arms: np.ndarray, z: float, budget: float = np.inf) -> Search:
    """Drop a class as soon as it is clearly worse than the leader: looks at two points, then at each eighth more.

    levels [P] of the points in the order of measurement, best spread_sequence's; arms [classes] is how many arms each
    class has. A class goes when its mean difference to the leader, at the n points that both were measured on, is more
    than t standard errors. Their square is s^2 / n (1 - n / P): the sample is part of a finite set, and when that is
    used up the smaller mean wins, as in the full grid. s^2 comes from the successive differences in the order of
    levels (von Neumann, 1941), which do not take a trend over levels for noise: n - 1 of the class's own, drawn towards
    their mean over all pairs among the leader and the NEAREST classes. That of far classes is larger and says nothing
    about near ones; that of pairs with the leader would be small whenever the leader's own noise is. Beside the class
    itself, m such classes tell it (m - 1)(n - 1) degrees of freedom, which count as PRIOR at most: classes differ. So
    between two classes nothing is pooled, and the first look decides nothing. t is Student's quantile at the normal z.

    What the numbers rest on: PRIOR, NEAREST and the looks were chosen on training images of the embedded models; that
    few classes need more care showed on published differences of Stable Diffusion 2.0 (tests/test_race.py). What the
    race promises: nothing at a single look beyond a test of that z; and it looks often. How many decisions of the full
    grid it keeps is measured, not proved. `budget` ends it before the evaluation that would exceed it; always measured
    is the first look, two points of every class.
    """
    P = len(levels)
    left, errors = np.arange(len(arms)), np.empty((len(arms), 0))
    n = spent = 0
    while n < P:
        more = min(max(1, n // 8) if n else 2, P - n)  # later looks pay off later: fewer rounds, fuller batches
        spent += arms[left].sum() * more
        if spent > budget and n:
            return left[np.argsort(errors.mean(1), kind="stable")]
        n += more
        errors = np.concatenate([errors, (yield left, n)], 1, dtype=np.float64)
        leader, *others = np.argsort(errors.mean(1), kind="stable")
        difference = errors - errors[leader]
        steps = np.diff(difference[:, np.argsort(levels[:n], kind="stable")])  # [classes, n - 1]
        own = (steps**2).mean(1) / 2
        near = steps[[leader, *others[: max(NEAREST, len(others) // 10)]]]
        pooled = near.var(0, ddof=1).mean() if others else 0.0  # of the differences between two: half their square
        prior = min(PRIOR, max(0, len(others) - 1) * (n - 1))
        variance = (prior * pooled + (n - 1) * own) / (prior + n - 1)
        t = stdtrit(n - 1 + prior, ndtr(z))
        stays = ~(difference.mean(1) > t * np.sqrt(variance / n * (1 - n / P)))  # nan stays
        left, errors = left[stays], errors[stays]
        if len(left) == 1 or not np.isfinite(errors).all():
            break
    return left[[errors.mean(1).argmin()]]


def tree(levels: np.ndarray, arms: np.ndarray, groups: np.ndarray, z: float) -> Search:
    """A race of groups of classes, then one of the classes of the group that won.

    groups [classes] is the group of each class; the first class of a group speaks for it, so this is right where what
    one class of a group tells about an image holds for all of it. levels, arms and z as in `race`. What the first race
    measured is not measured again. At last the winner is measured as far as any class was, and is the smallest mean of
    those, so that a reader of the errors finds the same answer.
    """
    known = {}  # class -> its errors [points]
    first = np.sort(np.unique(groups, return_index=True)[1])
    (leader,) = yield from _raced(levels, arms, z, first, known)
    (winner,) = yield from _raced(levels, arms, z, np.flatnonzero(groups == groups[leader]), known)
    P = max(map(len, known.values()))
    yield from _measured(np.array([winner]), P, known)
    means = {k: errors.mean() for k, errors in sorted(known.items()) if len(errors) == P}
    return np.array([min(means, key=means.get)])


def race_each(levels: np.ndarray, z: float, right: np.ndarray) -> Search:
    """A race of each class that is right with all that are not, until one is lost: right [classes] bool.

    Those that are right do not race each other. levels and z as in `race`. What an earlier race measured is not
    measured again. Returns the winner of the last race.
    """
    known, one = {}, np.ones(len(right), dtype=int)
    for own in np.flatnonzero(right):
        (winner,) = yield from _raced(levels, one, z, np.flatnonzero(~right | (np.arange(len(right)) == own)), known)
        if winner != own:
            break
    return np.array([winner])


def staged(
    usable: np.ndarray, n_samples: list[int], to_keep: list[int], n_trials: int = 1
) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], Search]]:
    """A halving at some of the usable levels, each n_trials times in a row.

    -> the levels of its points [P], ends [stages] (see level_sequence), and `start(among)`, the search among classes
    """
    levels, ends = level_sequence(n_samples, len(usable))
    ends = ends * n_trials
    return np.repeat(usable[levels], n_trials), ends, lambda among: halving(len(among), ends, to_keep)


def raced(
    usable: np.ndarray,
    arms: np.ndarray,
    z: float,
    most: int,
    budget: float = np.inf,
    n_trials: int = 1,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, Callable[[np.ndarray], Search]]:
    """A race at `most` of the usable levels, each n_trials times in a row; groups [classes], if any, race first.

    -> the levels of its points [P], and `start(among)`, the search among classes; arms [classes] as in `race`
    """
    levels = np.repeat(usable[spread_sequence(most, len(usable))], n_trials)
    if groups is not None:
        return levels, lambda among: tree(levels, arms[among], groups[among], z)
    return levels, lambda among: race(levels, arms[among], z, budget)


def _raced(levels: np.ndarray, arms: np.ndarray, z: float, classes: np.ndarray, known: dict[int, np.ndarray]) -> Search:
    """A race between some classes, of which some points are `known`; these grow."""
    search = race(levels, arms[classes], z)
    seen = 0
    try:
        places, end = next(search)
        while True:
            yield from _measured(classes[places], end, known)
            errors = np.stack([known[k][seen:end] for k in classes[places].tolist()])
            seen = end
            places, end = search.send(errors)
    except StopIteration as stop:
        return classes[stop.value]


def _measured(classes: np.ndarray, end: int, known: dict[int, np.ndarray]) -> Search:
    """Measure classes up to `end` points, from wherever they are."""
    far = np.array([len(known.get(k, ())) for k in classes.tolist()])
    for n in np.unique(far[far < end]):
        for k, errors in zip(classes[far == n].tolist(), (yield classes[far == n], end), strict=True):
            known[k] = np.concatenate([known.get(k, np.empty(0)), errors])


def replay(search: Search, errors: np.ndarray, arms: np.ndarray) -> tuple[int, int]:
    """The winner of a search on errors [classes, points] and its NFE; arms [classes] is what a class costs a point."""
    seen = np.zeros(len(arms), dtype=int)
    try:
        classes, end = next(search)
        while True:
            start, seen[classes] = seen[classes[0]], end
            classes, end = search.send(errors[classes, start:end])
    except StopIteration as stop:
        return int(stop.value[0]), int(seen @ arms)
