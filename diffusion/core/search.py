"""Which class is measured next, and when to stop. Pure: numbers in, classes out; no network is needed.

A search is a generator. It yields `(classes, points)`: measure these classes, ascending, up to that many leading
points; all of them have been measured equally far. It is sent their errors at the new points [classes, new points]. It
returns the classes that are left, the leader first; more than one only if its budget ended before a decision. A search
that does otherwise is a ValueError (`check_step`, `check_end`).
"""

from collections.abc import Generator, Sequence

import numpy as np
from scipy.special import ndtr, stdtrit

Search = Generator[tuple[np.ndarray, int], np.ndarray, np.ndarray]
Measuring = Generator[tuple[np.ndarray, int], np.ndarray, None]  # a part of a search that decides nothing


def even(n: int, total: int) -> np.ndarray:
    """n indices spread evenly over range(total): floor((k + 1/2) total / n). [n]

    If n divides total, this is the published `range(total//n//2, total, total//n)`; otherwise that range stops short.
    """
    return (2 * np.arange(n) + 1) * total // (2 * n)


def level_sequence(n_samples: list[int], T: int) -> tuple[np.ndarray, np.ndarray]:
    """The order in which levels are measured, and how many of them each stage has seen when it ends.

    A stage of n samples takes n levels spread evenly over the grid of max(n_samples), except those taken before. Stages
    that nest (50 in 500) end at n. Others (500 in 1000) cost more: 50/100/500/1000 ends at 50, 150, 550, 1000.
    -> levels [P], ends [stages]
    """
    grid = even(max(n_samples), T)
    taken: dict[int, None] = {}  # an ordered set
    ends = []
    for n in n_samples:
        taken.update(dict.fromkeys(grid[even(n, len(grid))].tolist()))
        ends.append(len(taken))
    return np.array(list(taken)), np.array(ends)


def van_der_corput(bits: int) -> list[int]:
    """range(2 ** bits) in van der Corput's order: the k-th is k with its bits mirrored, and 0 comes last.

    As shares of 2 ** bits: 1/2, 1/4, 3/4, 1/8, 5/8, ..., so that every prefix is spread over all of it.
    """
    return [int(f"{k:0{bits}b}"[::-1], 2) for k in [*range(1, 2**bits), 0]]


def spread_sequence(n: int, T: int) -> np.ndarray:
    """n levels spread evenly over range(T), in an order whose every prefix is spread over all of it. [n]

    The order is `van_der_corput`'s, of the places below n.
    """
    order = van_der_corput((n - 1).bit_length())
    return even(n, T)[[k for k in order if k < n]]


def spread_pairs(n: int, T: int) -> np.ndarray:
    """n levels spread evenly over range(T), in pairs of neighbours, whose every even prefix is spread over all. [n]

    Points 2k and 2k + 1 of this order are the levels 2j and 2j + 1 of the n, ascending, for the j of spread_sequence.
    If n is odd, the highest level has no neighbour and comes last.
    """
    first = 2 * spread_sequence(n // 2, n // 2)
    last = [n - 1] * (n % 2)
    return even(n, T)[[*np.column_stack([first, first + 1]).ravel(), *last]]


def band(low: float, high: float, T: int) -> np.ndarray:
    """The levels of range(T) from the share `low` of the noise levels to the share `high`, ascending.

    Raises ValueError unless these are ascending shares between which there are two levels.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"{low}, {high}: wanted two ascending shares")
    levels = np.arange(round(low * T), round(high * T))
    if len(levels) < 2:
        raise ValueError(f"{low}, {high}: {len(levels)} of the {T} levels, wanted two or more")
    return levels


def noise_rows(levels: np.ndarray, n_trials: int, randomize: bool) -> np.ndarray:
    """Which noise draw each point takes, for levels [P] in any order, each n_trials times in a row. [P]

    One draw for every trial; with `randomize`, one for every trial and level. A level's draw does not depend on when it
    is measured, so a search sees exactly the points of the full grid.
    """
    trial = np.tile(np.arange(n_trials), len(levels) // n_trials)
    if not randomize:
        return trial
    return np.searchsorted(np.sort(levels), levels) + trial


def antithetic_rows(
    levels: np.ndarray, ends: np.ndarray, n_trials: int, randomize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Which noise draw each point takes, and its sign, if points share a draw eps in pairs: eps and -eps.

    In each stage, points 2k and 2k + 1 are a pair; if their number is odd, the last point is alone. levels [P] as from
    `repeated`; ends [stages] is the number of points when each stage ends. With `randomize`, each pair has its own
    draw, numbered in the order of the pairs' first levels, so that it does not depend on when the pair is measured;
    otherwise each trial has one draw for all pairs, and the signs alternate. -> rows [P], signs [P] of 1 and -1
    """
    place = np.concatenate([np.arange(n) % 2 for n in np.diff(ends, prepend=0)])
    pair = np.cumsum(place == 0) - 1
    rank = np.empty(pair[-1] + 1, dtype=int)
    rank[np.argsort(levels[place == 0], kind="stable")] = np.arange(len(rank))
    rows = rank[pair]
    if not randomize:
        rows %= n_trials
    return rows, 1 - 2 * place


def draws(
    levels: np.ndarray, ends: np.ndarray, n_trials: int, *, randomize: bool, antithetic: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Which noise draw each point takes, and its sign: `antithetic_rows`, or else `noise_rows` and None."""
    if antithetic:
        return antithetic_rows(levels, ends, n_trials, randomize)
    return noise_rows(levels, n_trials, randomize), None


def repeated(levels: np.ndarray, n_trials: int, *, pairs: bool) -> np.ndarray:
    """Levels [P] of a stage, each n_trials times in a row; with `pairs`, each two of them in turn, as a, b, a, b. [P]

    If the number of levels is odd, the last is repeated alone.
    """
    if not pairs:
        return np.repeat(levels, n_trials)
    whole = len(levels) // 2 * 2
    pairs_of = np.repeat(levels[:whole].reshape(-1, 2), n_trials, 0)
    return np.concatenate([pairs_of.ravel(), np.repeat(levels[whole:], n_trials)])


def halving(n_classes: int, ends: Sequence[int] | np.ndarray, to_keep: list[int]) -> Search:
    """The paper's successive elimination (arXiv 2303.16203, Algorithm 2).

    Stage s measures the classes that are left up to `ends[s]` points and keeps the `to_keep[s]` with the smallest mean
    error over all their points; a tie goes to the smaller class.
    """
    left = np.arange(n_classes)
    total = np.zeros(n_classes)
    seen = 0
    for end, n_kept in zip(ends, to_keep, strict=True):
        if end > seen:  # otherwise all its levels were measured before
            errors = yield left, end
            total[left] += errors.sum(1, dtype=np.float64)
            seen = end
        left = np.sort(left[np.argsort(total[left], kind="stable")[:n_kept]])
    return left


PRIOR = 8  # most degrees of freedom that the pooled variance of the nearest classes counts as, beside a class's own
NEAREST = 9  # number of nearest classes; a tenth of the classes left if that is more
ASSUMED = -0.4  # correlation within a pair that a race begins with
TRUST = 4  # degrees of freedom that ASSUMED counts as, beside the measured pairs
SCOUT = 3.5  # standard errors that drop a class after a single point


def race(
    levels: np.ndarray, arms_per_class: np.ndarray, z: float, budget: float = np.inf, *, pairs: bool = False
) -> Search:
    """Drop a class as soon as it is clearly worse than the leader: looks at two points, then after each eighth more.

    levels [P] of the points in the order of measurement, best that of spread_sequence, or of spread_pairs with `pairs`;
    arms_per_class [classes]. A class is dropped when its mean difference to the leader, over the n points measured for
    both, exceeds t standard errors. The squared standard error is s^2 / m (1 - n / P), of m observations: the sample is
    part of a finite set, and when that is used up the smaller mean wins, as in the full grid. An observation is a
    point, or the mean of a pair.

    s^2 and its degrees of freedom f come from `_of_points` or `_of_pairs`: the class's own variance, drawn towards the
    mean over all pairs among the leader and the NEAREST classes. Far classes are left out because their variance is
    larger and does not predict that of near ones; pairs with the leader alone would be too small whenever the leader's
    own noise is small. m such classes contribute (m - 1) f degrees of freedom, which count as PRIOR at most, since
    classes differ. Between two classes nothing is pooled, and the first look decides nothing. t is Student's quantile
    at the normal z. With `pairs` and more than NEAREST + 1 classes, some are dropped after one point (`_scouted`).

    PRIOR, NEAREST and the looks were chosen on training images of the embedded models. That few classes need more care
    showed on published differences of Stable Diffusion 2.0 (tests/test_race.py). Each look is a single test at z; since
    there are many looks, there is no overall error guarantee: how many decisions of the full grid it keeps is measured,
    not proved. `budget` ends the race before the evaluation that would exceed it; the first look, at most two points of
    every class, is always measured.
    """
    P = len(levels)
    size = 2 if pairs else 1
    nearest = max(NEAREST, (len(arms_per_class) - 1) // 10) + 1
    if pairs and nearest < len(arms_per_class) and P > 1:
        left, errors, spent = yield from _scouted(arms_per_class, nearest, z, P)
    else:
        left, spent = np.arange(len(arms_per_class)), arms_per_class.sum() * min(2, P)
        errors = np.asarray((yield left, min(2, P)), dtype=np.float64)
    while True:
        n = errors.shape[1]
        leader, *others = np.argsort(errors.mean(1), kind="stable")
        difference = errors - errors[leader]
        near = [leader, *others[: max(NEAREST, len(others) // 10)]]
        variance_of = _of_pairs if pairs else _of_points
        each, pooled, free = variance_of(difference, near, levels)
        prior = min(PRIOR, max(0, len(others) - 1) * free)
        variance = (prior * pooled + free * each) / (prior + free)
        t = stdtrit(free + prior, ndtr(z))
        stays = ~(difference.mean(1) > t * np.sqrt(variance / (n // size) * (1 - n / P)))  # nan stays
        left, errors = left[stays], errors[stays]
        if len(left) == 1 or n == P or not np.isfinite(errors).all():
            return left[[errors.mean(1).argmin()]]
        more = min(size * max(1, n // size // 8), P - n)  # later looks pay off later: fewer rounds, fuller batches
        spent += arms_per_class[left].sum() * more
        if spent > budget:
            return left[np.argsort(errors.mean(1), kind="stable")]
        errors = np.concatenate([errors, (yield left, n + more)], 1, dtype=np.float64)


def _of_points(difference: np.ndarray, near: list[int], levels: np.ndarray) -> tuple[np.ndarray, float, int]:
    """The variance of the difference to the leader at one point; difference [classes, n], levels [P].

    It comes from the successive differences in the order of levels (von Neumann, 1941), so that a trend over levels
    does not count as noise. -> variance of each class [classes]; its mean over the differences between any two of the
    classes `near`; degrees of freedom of a class's own variance, n - 1
    """
    steps = np.diff(difference[:, np.argsort(levels[: difference.shape[1]], kind="stable")])  # [classes, n - 1]
    return (steps**2).mean(1) / 2, _between(steps, near), steps.shape[1]


def _of_pairs(difference: np.ndarray, near: list[int], levels: np.ndarray) -> tuple[np.ndarray, float, int]:
    """As `_of_points`, for the mean difference of a pair; if the number of points is odd, the last is left out.

    m pairs estimate this variance twice. First, by the m - 1 steps from pair to pair, in the order of levels. Second,
    by the differences within pairs: half of their mean square over 2 is the variance if the points of a pair are
    independent, and must be multiplied by (1 + rho) / (1 - rho) if they correlate by rho. This ratio is estimated from
    all near classes: their variance by steps over that within, drawn towards the ratio of ASSUMED, which counts as
    TRUST degrees of freedom. So there are 2 m - 1 degrees of freedom, and a first look at one pair is possible.

    On 80 to 120 training images each, the differences to the nearest three classes correlate within pairs by -0.55 and
    -0.60 (Stable Diffusion, ten and 60 classes), -0.50 (DiT), -0.52 (Fashion-MNIST) and -0.40 (flow matching), with
    trends over levels removed; ASSUMED is the weakest of them. A race that assumes 0 drops little at its first look and
    costs 0.9 to 1.1 of one with independent noise, this one 0.67 to 0.80; none of their decisions differed from the
    full grid's. TRUST of 2 or 8 costs the same within 2%. If nothing cancels, simulated races between 10 and 40 classes
    keep 97.5 to 99% of their decisions (tests/test_race.py), and on Pets one of z 3 loses 0.8 points of accuracy
    (docs/speed.md).
    """
    m = difference.shape[1] // 2
    pair = difference[:, : 2 * m].reshape(len(difference), m, 2)
    inner = (pair[..., 0] - pair[..., 1]) / np.sqrt(2)
    steps = np.diff(pair.mean(2)[:, np.argsort(levels[: 2 * m : 2], kind="stable")])
    within, between = _between(inner, near), _between(steps, near)
    ratio = (1 + ASSUMED) / (1 - ASSUMED)
    if within > 0:
        seen = (m - 1) * min(max(1, len(near) - 2), PRIOR)
        ratio = (seen * between + TRUST * ratio * within) / ((seen + TRUST) * within)
    free = 2 * m - 1
    each = ((steps**2).sum(1) + ratio * (inner**2).sum(1)) / (2 * free)
    return each, ((m - 1) * between + m * ratio * within) / free, free


def _between(steps: np.ndarray, near: list[int]) -> float:
    """Half the mean square of the difference of the steps of two classes `near`, averaged over all such pairs.

    This equals the variance of the steps over classes. steps [classes, n], of differences to one class; 0 if there is
    no pair of classes or no step.
    """
    if len(near) < 2 or steps.shape[1] == 0:
        return 0.0
    return float(steps[near].var(0, ddof=1).mean())


def _scouted(
    arms_per_class: np.ndarray, nearest: int, z: float, P: int
) -> Generator[tuple[np.ndarray, int], np.ndarray, tuple[np.ndarray, np.ndarray, int]]:
    """The first pair of many classes: all at its first point, the `nearest` at its second, then those within reach.

    A class is out of reach if it is behind the leader of the nearest by more than t standard deviations of a difference
    at one point. The squared standard deviation is half the mean square within the pairs of the nearest, which is at
    least the variance unless these correlate positively. t is Student's quantile at the normal z, or at SCOUT if that
    is more: the leader was chosen for its luck at this very point. Simulated races between 40 classes lose two
    decisions in 500 at 3, none at 3.5; on training images of `digits-colour` it saves 7% of the evaluations.
    arms_per_class [classes] -> classes left, their errors [left, 2], evaluations spent
    """
    everyone = np.arange(len(arms_per_class))
    first = np.asarray((yield everyone, 1), dtype=np.float64)[:, 0]
    order = np.argsort(first, kind="stable")
    near = np.sort(order[:nearest])
    errors = np.full((len(arms_per_class), 2), np.nan)
    errors[:, 0] = first
    errors[near, 1] = (yield near, 2)[:, 0]
    leader = near[errors[near].mean(1).argmin()]
    variance = np.diff(errors[near])[:, 0].var(ddof=1)
    limit = stdtrit(PRIOR, ndtr(max(z, SCOUT))) * np.sqrt(variance * (1 - 1 / P))
    far = np.sort(order[nearest:])
    reached = far[~(first[far] - first[leader] > limit)]
    if len(reached):
        errors[reached, 1] = (yield reached, 2)[:, 0]
    left = np.sort(np.concatenate([near, reached]))
    return left, errors[left], arms_per_class.sum() + arms_per_class[left].sum()


def tree(
    levels: np.ndarray, arms_per_class: np.ndarray, groups: np.ndarray, z: float, *, pairs: bool = False
) -> Search:
    """A race of groups of classes, then a race of the classes of the group that won.

    groups [classes] is the group of each class. The first class of a group represents it, so this is right if all
    classes of a group resemble it. The other arguments are those of `race`. Nothing is measured twice. At the end the
    winner is measured as far as any class was, and is the smallest mean of those, so that a reader of the errors finds
    the same answer.
    """
    measured: dict[int, np.ndarray] = {}  # class -> its errors [points]
    first = np.sort(np.unique(groups, return_index=True)[1])
    (leader,) = yield from _raced(race(levels, arms_per_class[first], z, pairs=pairs), first, measured)
    same = np.flatnonzero(groups == groups[leader])
    (winner,) = yield from _raced(race(levels, arms_per_class[same], z, pairs=pairs), same, measured)
    P = max(map(len, measured.values()))
    yield from _measure(np.array([winner]), P, measured)
    furthest = [k for k in sorted(measured) if len(measured[k]) == P]
    return np.array([min(furthest, key=lambda k: measured[k].mean())])


def race_each(levels: np.ndarray, z: float, right: np.ndarray, *, pairs: bool = False) -> Search:
    """Race each class that is right against all that are not, until one is lost: right [classes] bool.

    Classes that are right do not race each other. levels, z and pairs as in `race`. Nothing is measured twice. Returns
    the winner of the last race.
    """
    measured: dict[int, np.ndarray] = {}  # class -> its errors [points]
    for k in np.flatnonzero(right):
        among = np.flatnonzero(~right | (np.arange(len(right)) == k))
        search = race(levels, np.ones(len(among), dtype=int), z, pairs=pairs)
        (winner,) = yield from _raced(search, among, measured)
        if winner != k:
            break
    return np.array([winner])


def _raced(search: Search, classes: np.ndarray, measured: dict[int, np.ndarray]) -> Search:
    """Run a race between `classes` and return those left; points that are `measured` already are not measured again.

    measured: class -> its errors [points]; it grows.
    """
    sent = np.zeros(len(classes), dtype=int)  # points of each class that the race has seen
    try:
        places, end = next(search)
        while True:
            yield from _measure(classes[places], end, measured)
            seen, sent[places] = sent[places[0]], end
            errors = np.stack([measured[k][seen:end] for k in classes[places].tolist()])
            places, end = search.send(errors)
    except StopIteration as stop:
        return classes[stop.value]


def _measure(classes: np.ndarray, end: int, measured: dict[int, np.ndarray]) -> Measuring:
    """Measure classes up to `end` points, each from the number of points that it has; `measured` as in `_raced`."""
    points = np.array([len(measured.get(k, ())) for k in classes.tolist()])
    for n in np.unique(points[points < end]):
        behind = classes[points == n]
        errors_of = yield behind, end  # [classes, end - n]
        for k, errors in zip(behind.tolist(), errors_of, strict=True):
            measured[k] = np.concatenate([measured.get(k, np.empty(0)), errors])


def replay(search: Search, errors: np.ndarray, arms_per_class: np.ndarray) -> tuple[int, int]:
    """The winner of a search on errors [classes, points], and its NFE; arms_per_class [classes]."""
    seen = np.zeros(len(arms_per_class), dtype=int)
    try:
        classes, end = next(search)
        while True:
            start, seen[classes] = seen[classes[0]], end
            classes, end = search.send(errors[classes, start:end])
    except StopIteration as stop:
        return int(stop.value[0]), int(seen @ arms_per_class)


# ---- what a search may ask for ----


def check_step(step: tuple[np.ndarray, int], seen: np.ndarray, n_points: int) -> tuple[np.ndarray, int]:
    """The classes and the number of points that a search yields. ValueError: they break a rule of this module.

    seen: [classes] int, at how many leading points each class has been measured; n_points: how many there are.
    """
    if not isinstance(step, tuple) or len(step) != 2:
        raise ValueError(f"a search yields {step!r:.60}; wanted a tuple (classes, points)")
    classes, points = _classes(step[0], len(seen)), step[1]
    if (np.diff(classes) <= 0).any():
        raise ValueError(f"a search yields the classes {_few(classes)}; wanted them ascending, as of np.sort")
    before = np.unique(seen[classes])
    if len(before) > 1:
        raise ValueError(
            f"a search yields classes measured at {before[0]} and at {before[-1]} points; wanted them equally far"
        )
    if not before[0] < points <= n_points:
        wanted = f"wanted more than the {before[0]} measured before, and at most {n_points}"
        raise ValueError(f"a search yields {points!r} as the number of points; {wanted}")
    return classes, int(points)


def check_end(left: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The classes that a search returns, the leader first. ValueError: they break a rule; seen as for `check_step`."""
    classes = _classes(left, len(seen))
    if len(np.unique(classes)) < len(classes):
        raise ValueError(f"a search returns the classes {_few(classes)}; wanted each once")
    if not seen[classes].all():
        raise ValueError(f"a search returns the classes {_few(classes)}, some of which were not measured")
    return classes


def _classes(found, n_classes: int) -> np.ndarray:
    classes = np.asarray(found)
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or not len(classes):
        raise ValueError(f"a search has the classes {found!r:.60}; wanted an array [n] of integers")
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(f"a search has the classes {_few(classes)}; wanted numbers in 0..{n_classes - 1}")
    return classes


def _few(classes: np.ndarray) -> str:
    return np.array2string(classes, threshold=8, edgeitems=3, separator=", ")
