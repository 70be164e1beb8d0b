"""Golden grids and costs of the published schedules; elimination and the race on matrices worked by hand."""

import itertools
import re

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import play

from diffusion import InputError, InputWarning
from diffusion.core import schedule
from diffusion.core.conditions import Conditions
from diffusion.core.constants import LOSSES
from diffusion.core.image import Question, search_image
from diffusion.core.schedule import Points
from diffusion.core.search import (
    ASSUMED,
    NEAREST,
    PRIOR,
    SCOUT,
    TRUST,
    check_end,
    check_step,
    draws,
    even,
    halving,
    level_sequence,
    noise_rows,
    race,
    repeated,
    replay,
    spread_pairs,
    spread_sequence,
    tree,
)
from diffusion.evaluate.points import check_halving, grid_size

GOLDEN = [  # n_samples, where each stage ends; T = 1000
    ([50, 500], [50, 500]),
    ([20, 50, 100, 500], [20, 70, 150, 500]),
    ([50, 100, 500, 1000], [50, 150, 550, 1000]),
    ([1], [1]),
]
COSTS = [  # data set, classes, to_keep, n_samples, NFE per image in the paper
    ("food", 101, [20, 10, 5, 1], [20, 50, 100, 500], 5570),
    ("cifar10", 10, [5, 1], [50, 500], 2750),
    ("aircraft", 100, [20, 10, 5, 1], [20, 50, 100, 500], 5550),
    ("pets", 37, [5, 1], [25, 250], 2050),
    ("flowers", 102, [20, 10, 5, 1], [20, 50, 100, 500], 5590),
    ("stl10", 10, [5, 1], [100, 500], 3000),
    ("imagenet", 1000, [500, 50, 10, 1], [50, 100, 500, 1000], 124_500),
    ("objectnet", 113, [25, 10, 5, 1], [50, 100, 500, 1000], 14_400),
]


def published(n_samples: list[int], T: int) -> list[list[int]]:
    """The new levels of each stage, by the published formula."""
    M = max(n_samples)
    grid = list(range(T // M // 2, T, T // M))[:M]
    stages, taken = [], set()
    for n in n_samples:
        stage = grid[len(grid) // n // 2 :: len(grid) // n][:n]
        stages.append([t for t in stage if t not in taken])
        taken.update(stage)
    return stages


@pytest.mark.parametrize("n_samples, wanted", GOLDEN, ids=str)
def test_published_levels_in_published_order(n_samples, wanted):
    levels, ends = level_sequence(n_samples, 1000)
    stages = published(n_samples, 1000)
    assert levels.tolist() == [t for stage in stages for t in stage]
    assert ends.tolist() == np.cumsum([len(stage) for stage in stages]).tolist() == wanted


@pytest.mark.parametrize("n_samples", [[50, 600], [512], [7, 64, 333]], ids=str)
@pytest.mark.parametrize("T", [1000, 1024])
def test_levels_reach_the_noisy_end_when_m_does_not_divide_t(n_samples, T):
    levels, ends = level_sequence(n_samples, T)
    assert len(set(levels.tolist())) == len(levels) == ends[-1] and (np.diff(ends) > 0).all()
    first = np.sort(levels[: ends[0]])
    gap = T / n_samples[0]
    assert len(first) == n_samples[0] and first[0] <= gap and first[-1] >= T - 1 - gap
    assert levels.min() >= 0 and T > levels.max() >= T - 1 - T / n_samples[-1]
    whole = np.sort(level_sequence([n_samples[-1]], T)[0])
    assert set(np.diff(whole).tolist()) <= {T // n_samples[-1], -(-T // n_samples[-1])}
    assert set(levels.tolist()) == set(whole.tolist())


@pytest.mark.parametrize("n, total", [(1, 1), (1, 7), (3, 7), (7, 7), (5, 1000), (600, 1000), (1000, 1000)])
def test_even_is_the_middle_of_equal_parts(n, total):
    wanted = [int((k + 0.5) * total / n) for k in range(n)]
    assert even(n, total).tolist() == wanted and wanted[-1] < total
    assert all(a + b in (total - 1, total) for a, b in zip(wanted, wanted[::-1], strict=True))  # symmetric


# ---- an order whose every prefix is spread ----


@pytest.mark.parametrize("n, T, wanted", [
    (1, 1000, [500]), (4, 1000, [625, 375, 875, 125]), (8, 8, [4, 2, 6, 1, 5, 3, 7, 0]), (7, 7, [4, 2, 6, 1, 5, 3, 0]),
])  # fmt: skip
def test_the_spread_sequence_by_hand(n, T, wanted):
    """1/2, 1/4, 3/4, 1/8, 5/8, 3/8, 7/8 of the next power of two, without those beyond n, and at last 0."""
    assert spread_sequence(n, T).tolist() == wanted


@pytest.mark.parametrize("n, T", [(1, 1), (2, 2), (5, 5), (24, 1000), (500, 1000), (512, 1000), (1000, 1000)])
def test_the_spread_sequence_is_the_grid_in_another_order(n, T):
    assert sorted(spread_sequence(n, T).tolist()) == even(n, T).tolist()


@pytest.mark.parametrize("n", [3, 64, 257, 500])
def test_no_prefix_of_the_spread_sequence_leaves_a_hole(n):
    """No stretch without a point is twice as long as it would be if the points were spread evenly."""
    order = spread_sequence(n, n)
    for m in range(1, n + 1):
        ends = np.sort(np.concatenate([[-1, n], order[:m]]))
        assert np.diff(ends).max() <= 2 * n / m


@pytest.mark.parametrize(
    "n, T, wanted",
    [(2, 2, [0, 1]), (4, 4, [2, 3, 0, 1]), (5, 5, [2, 3, 0, 1, 4]), (8, 16, [9, 11, 5, 7, 13, 15, 1, 3])],
)
def test_pairs_of_neighbours_by_hand(n, T, wanted):
    assert spread_pairs(n, T).tolist() == wanted


@pytest.mark.parametrize("n, T", [(2, 1000), (3, 7), (25, 1000), (50, 600), (500, 600), (501, 1000)])
def test_pairs_are_the_grid_and_their_prefixes_are_spread(n, T):
    grid, order = even(n, T), spread_pairs(n, T)
    assert sorted(order.tolist()) == grid.tolist()
    place = np.searchsorted(grid, order)
    whole = n // 2 * 2
    assert (place[:whole:2] % 2 == 0).all() and (place[1:whole:2] == place[:whole:2] + 1).all()
    assert (place[:whole:2] // 2).tolist() == spread_sequence(n // 2, n // 2).tolist()


# ---- the full grid and its noise ----


def test_every_so_manieth_level_is_the_published_grid():
    for interval in (k for k in range(1, 1001) if 1000 % k == 0):
        levels, ends = level_sequence([grid_size(interval, 1000)], 1000)
        assert levels.tolist() == list(range(interval // 2, 1000, interval)) and ends.tolist() == [len(levels)]


@pytest.mark.parametrize(
    "levels, trials, shared, own",
    [
        ([100, 300, 500], 1, [0, 0, 0], [0, 1, 2]),
        ([100, 100, 300, 300, 500, 500], 2, [0, 1, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5]),
        ([500, 100, 300], 1, [0, 0, 0], [2, 0, 1]),  # a level has its draw whenever it is measured
        ([500, 500, 500, 100, 100, 100], 3, [0, 1, 2, 0, 1, 2], [3, 4, 5, 0, 1, 2]),
        ([7], 1, [0], [0]),
        ([7, 7, 7], 3, [0, 1, 2], [0, 1, 2]),
    ],
)
def test_noise_rows_by_hand(levels, trials, shared, own):
    assert noise_rows(np.array(levels), trials, False).tolist() == shared
    assert noise_rows(np.array(levels), trials, True).tolist() == own


@pytest.mark.parametrize(
    "levels, trials, wanted",
    [([1, 3, 5], 1, [1, 3, 5]), ([1, 3], 2, [1, 3, 1, 3]), ([5, 7, 1, 3, 9], 2, [5, 7, 5, 7, 1, 3, 1, 3, 9, 9])],
)
def test_pairs_are_repeated_in_turn(levels, trials, wanted):
    assert repeated(np.array(levels), trials, pairs=True).tolist() == wanted
    assert repeated(np.array(levels), trials, pairs=False).tolist() == [k for k in levels for _ in range(trials)]


@pytest.mark.parametrize(
    "levels, ends, trials, rows, signs",
    [
        ([1, 3, 5, 7], [4], 1, [0, 0, 1, 1], [1, -1, 1, -1]),
        ([5, 7, 1, 3], [4], 1, [1, 1, 0, 0], [1, -1, 1, -1]),  # a pair has its draw whenever it is measured
        ([5, 7, 1, 3, 9], [5], 1, [1, 1, 0, 0, 2], [1, -1, 1, -1, 1]),
        ([2, 5, 8, 1, 3, 4], [3, 6], 1, [1, 1, 3, 0, 0, 2], [1, -1, 1, 1, -1, 1]),  # pairs are of one stage
        ([5, 7, 5, 7, 1, 3, 1, 3], [8], 2, [2, 2, 3, 3, 0, 0, 1, 1], [1, -1] * 4),
        ([1, 3, 1, 3, 5, 5], [6], 2, [0, 0, 1, 1, 2, 2], [1, -1] * 3),
    ],
)
def test_antithetic_rows_by_hand(levels, ends, trials, rows, signs):
    found = draws(np.array(levels), np.array(ends), trials, randomize=True, antithetic=True)
    assert [each.tolist() for each in found] == [rows, signs]
    shared = draws(np.array(levels), np.array(ends), trials, randomize=False, antithetic=True)
    assert shared[0].tolist() == [row % trials for row in rows] and shared[1].tolist() == signs


def test_a_race_and_its_grid_have_the_same_noise():
    """In whatever order: of --n_samples in one stage, and of the race's pairs; for several trials too."""
    for n, trials in ((30, 1), (30, 2), (31, 1)):
        usable = np.arange(200, 800)
        arms = np.ones(3, dtype=int)
        grid = schedule.halving_schedule(usable, [n], [1], arms, n_trials=trials, pairs=True)
        race_of_all = schedule.race_schedule(usable, arms, 3.0, n, n_trials=trials, pairs=True)
        found = []
        for each in (grid, race_of_all):
            points = schedule.Points.of(each, np.ones(1000), trials)
            levels, rows, signs = points.levels.tolist(), points.draws.tolist(), points.signs.tolist()
            found.append(sorted(zip(levels, rows, signs, strict=True)))
        assert found[0] == found[1] and len(grid) == n * trials


def test_published_stages_are_what_they_were():
    found = schedule.halving_schedule(np.arange(1000), [50, 500], [5, 1], np.ones(10, dtype=int), n_trials=2)
    levels, ends = level_sequence([50, 500], 1000)
    assert found.levels.tolist() == np.repeat(levels, 2).tolist() and found.ends.tolist() == (2 * ends).tolist()
    assert found.most_nfe == 2 * (50 * 10 + 450 * 5) and found.exact


@pytest.mark.parametrize("most", [None, 3])
def test_cost_of_stages_by_hand(most):
    """Classes of 1, 2, 3 and 4 arms: all, or any three, at 2 points; then two at 6 more: the most arms each time."""
    found = schedule.halving_schedule(np.arange(8), [2, 8], [2, 1], np.array([1, 2, 3, 4]), most=most)
    first = 10 if most is None else 9
    assert found.most_nfe == 2 * first + 6 * (4 + 3) and not found.exact


def test_cost_of_a_race_is_that_of_all_points_or_its_budget():
    arms = np.array([1, 2])
    free = schedule.race_schedule(np.arange(100), arms, 3.0, 20)
    assert free.most_nfe == 60 and free.name == "race_3z_20samples" and free.options["budget"] is None
    short = schedule.race_schedule(np.arange(100), arms, 3.0, 20, budget=10)
    assert short.most_nfe == 10 and short.name == "race_3z_20samples_10NFE" and short.options["budget"] == 10


# ---- elimination ----


@pytest.mark.parametrize("dataset, classes, to_keep, n_samples, nfe", COSTS, ids=lambda v: v if type(v) is str else "")
def test_schedules_cost_what_the_paper_says(dataset, classes, to_keep, n_samples, nfe):
    check_halving(classes, n_samples, to_keep, 1000)
    levels, ends = level_sequence(n_samples, 1000)
    errors = np.random.default_rng(0).random((classes, len(levels)))
    assert play(halving(classes, ends, to_keep), errors)[2] == nfe


HAND = np.array([
    [5, 5, 0, 0, 0],  # the best of all, but out after two points
    [2, 4, 9, 9, 9],
    [3, 1, 1, 1, 2],
    [1, 3, 1, 1, 1],
], dtype=float)  # fmt: skip


def test_elimination_by_hand():
    """After 2 points the sums are 10 6 4 4, of the three left after 3: 15 5 5, after 5: 8 and 7."""
    left, asked, nfe = play(halving(4, [2, 3, 5], [3, 2, 1]), HAND)
    assert asked == [([0, 1, 2, 3], 2), ([1, 2, 3], 3), ([2, 3], 5)]
    assert left == [3] and nfe == 4 * 2 + 3 * 1 + 2 * 2


def test_earlier_points_count_in_later_stages():
    """By its last point alone class 1 would win; over all of them class 0 does."""
    errors = np.array([[0.0, 5.0], [9.0, 1.0], [10.0, 0.0]])
    assert play(halving(3, [1, 2], [2, 1]), errors)[0] == [0]


@pytest.mark.parametrize(
    "errors, winner", [([1, 1, 1], 0), ([2, 1, 1], 1), ([1, 1, 0], 2), ([0.5, 0.25, 0.25], 1), ([3, 1, 2], 1)]
)
@pytest.mark.parametrize("ends, to_keep", [([2], [1]), ([2, 4], [2, 1])])
def test_ties_go_to_the_smaller_class(errors, winner, ends, to_keep):
    matrix = np.repeat(np.array(errors, dtype=float)[:, None], 4, 1)
    assert play(halving(3, ends, to_keep), matrix)[0] == [winner]


def test_classes_are_only_ever_dropped_and_points_only_grow():
    rng = np.random.default_rng(1)
    for _ in range(20):
        _, asked, _ = play(halving(30, [2, 5, 9, 20], [12, 6, 2, 1]), rng.random((30, 20)))
        assert [len(classes) for classes, _ in asked] == [30, 12, 6, 2] and [e for _, e in asked] == [2, 5, 9, 20]
        for (before, _), (after, _) in itertools.pairwise(asked):
            assert set(after) < set(before) and after == sorted(after)


def test_float32_errors_are_summed_in_float64():
    """1 + 1e-8 is 1 in float32: the second point decides."""
    errors = np.array([[1, 2e-8], [1, 1e-8]], dtype=np.float32)
    assert play(halving(2, [2], [1]), errors)[0] == [1]


@pytest.mark.parametrize("to_keep, n_samples", [
    ([1], [50, 500]), ([5, 1], [0, 500]), ([5, 0], [50, 500]), ([5, 1], [50, 50]), ([5, 5, 1], [50, 100, 500]),
    ([5, 2], [50, 500]), ([5, 1], [50, 1001]),
])  # fmt: skip
def test_schedules_that_cannot_be_run(to_keep, n_samples):
    with pytest.raises(InputError) as error:
        check_halving(10, n_samples, to_keep, 1000)
    given = f"--to_keep {' '.join(map(str, to_keep))} --n_samples {' '.join(map(str, n_samples))}"
    assert error.value.where == given
    with pytest.raises(InputError) as error:
        check_halving(10, n_samples, to_keep, 1000, dashes="")
    assert error.value.where == given.replace("--", "")


def test_a_stage_that_keeps_more_than_there_are_keeps_all():
    with pytest.warns(InputWarning, match="the first stage keeps all classes, there are 4"):
        check_halving(4, [50, 500], [5, 1], 1000)
    errors = np.random.default_rng(0).random((4, 12))
    winner, _, nfe = play(halving(4, [3, 12], [5, 1]), errors)
    assert winner == [errors.sum(1).argmin()] and nfe == 4 * 12


# ---- the race ----

LOOKS = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 27, 30, 33, 37, 41, 46, 51, 57, 64, 72]


def run(errors, *, levels=None, arms=None, z=3.0, budget=np.inf, pairs=False):
    """`play` of a race; levels as they come unless given."""
    errors = np.array(errors, dtype=float)
    arms = np.ones(len(errors), dtype=int) if arms is None else np.array(arms)
    levels = np.arange(errors.shape[1]) if levels is None else np.array(levels)
    return play(race(levels, arms, z, budget, pairs=pairs), errors, arms)


def spread(errors, by_level, a, b) -> float:
    """The variance of the differences between two classes, from its successive differences at these points."""
    d = [float(errors[a][p]) - float(errors[b][p]) for p in by_level]
    return sum((y - x) ** 2 for x, y in itertools.pairwise(d)) / (len(d) - 1) / 2


def reference(errors, levels, arms, z, budget=float("inf")):
    """The rule in loops, one class, one point, one difference at a time -> as `run`."""
    K, P = len(errors), len(levels)
    left, asked, n, spent = list(range(K)), [], 0, 0
    while True:
        mean = {c: sum(float(errors[c][p]) for p in range(n)) / n for c in left} if n else {}
        if n == P:
            break
        new = 2 if n == 0 else max(1, n // 8)
        new = min(new, P - n)
        cost = new * sum(int(arms[c]) for c in left)
        if n and spent + cost > budget:
            return sorted(left, key=lambda c: mean[c]), asked, spent
        n, spent = n + new, spent + cost
        asked.append((left, n))
        mean = {c: sum(float(errors[c][p]) for p in range(n)) / n for c in left}
        leader = min(left, key=lambda c: (mean[c], c))
        by_level = sorted(range(n), key=lambda p: levels[p])

        others = sorted((c for c in left if c != leader), key=lambda c: (mean[c], c))
        pairs = list(itertools.combinations([leader, *others[: max(NEAREST, len(others) // 10)]], 2))
        pooled = sum(spread(errors, by_level, a, b) for a, b in pairs) / len(pairs)
        prior = min(PRIOR, (len(others) - 1) * (n - 1))
        t = scipy.stats.t.ppf(scipy.stats.norm.cdf(z), n - 1 + prior)
        for c in others:
            s2 = (prior * pooled + (n - 1) * spread(errors, by_level, c, leader)) / (prior + n - 1)
            if mean[c] - mean[leader] > t * (s2 / n * (1 - n / P)) ** 0.5:
                left = [k for k in left if k != c]
        if len(left) == 1:
            break
    return [min(left, key=lambda c: (mean[c], c))], asked, spent


def test_constant_differences_are_dropped_at_the_first_look():
    """However small: they do not vary, so nothing is uncertain."""
    shared = np.random.default_rng(0).random(50).round(3)
    left, asked, nfe = run(shared + 2.0 ** -np.array([[1], [4], [8], [4]]) * 4)
    assert left == [2] and asked == [([0, 1, 2, 3], 2)] and nfe == 8


@pytest.mark.parametrize("P", [2, 3, 17, 72, 80])
def test_identical_classes_run_to_the_end_and_the_smaller_wins(P):
    left, asked, nfe = run(np.tile(np.random.default_rng(1).random(P), (3, 1)))
    assert left == [0] and nfe == 3 * P
    assert asked == [([0, 1, 2], n) for n in [k for k in LOOKS if k < P] + [P]]


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity times the 0 at the end
def test_what_cannot_be_told_apart_is_decided_by_the_full_grid():
    """Where z is out of reach: every class at every point, then the smallest mean; of two such, the smaller class."""
    rng = np.random.default_rng(2)
    for z in (8.0, 50.0):  # ndtr(50) is 1, its quantile infinite
        for _ in range(20):
            errors = rng.integers(0, 4, (5, 30)).astype(float)
            left, asked, nfe = run(errors, z=z, levels=rng.permutation(30))
            assert left == [errors.mean(1).argmin()] and nfe == 150 and asked[-1] == ([0, 1, 2, 3, 4], 30)


def test_two_classes_by_hand():
    """Differences m - h and m + h at two of 8 points: s^2 = (2 h)^2 / 2, their mean's error h sqrt(1 - 2 / 8).

    Nobody else tells how much they vary, so there is one degree of freedom.
    """
    limit = scipy.stats.t.ppf(scipy.stats.norm.cdf(2), 1) * np.sqrt(3 / 4)
    assert limit == pytest.approx(12.0965, abs=1e-4)  # t: 13.968
    for m, dropped in ((0.999 * limit, False), (1.001 * limit, True)):
        errors = np.zeros((2, 8))
        errors[1] = m + np.array([-1, 1] * 4)
        left, asked, _ = run(errors, z=2)
        assert (len(asked) == 1) == dropped and left == [0]


@pytest.mark.parametrize("far, pooled", [(2, 0.4), (121, 54 / 13)])
def test_the_spread_of_far_classes_is_not_leant_on(far, pooled):
    """Nine near classes have steps of 2, those after them of 6; the nearest nine count, of 130 the nearest 13.

    With the leader's step, 0, the variance of nine steps of 2 is 0.4, and of four steps of 6 besides 54 / 13.
    """
    assert NEAREST == 9 and PRIOR == 8
    h = np.array([0.0, *[1.0] * 9, *[3.0] * far])
    limit = scipy.stats.t.ppf(scipy.stats.norm.cdf(2), 9) * np.sqrt((8 * pooled + 2) / 9 / 2 * (1 - 2 / 8))
    for share, after in ((0.999, list(range(10))), (1.001, [0])):
        mean = np.array([0, *[share * limit] * 9, *[100] * far])
        left, asked, _ = run(mean[:, None] + h[:, None] * np.array([-1, 1] * 4), z=2)
        assert (asked[1][0] if len(asked) > 1 else left) == after


def test_what_is_dropped_stays_out_though_it_would_win():
    """Class 1 is clearly worse at first, and would be the best of all."""
    errors = np.zeros((3, 16))
    errors[0], errors[1], errors[2] = 5, [99, 99] + [-99] * 14, np.resize([4, 6], 16)
    left, asked, _ = run(errors)
    assert asked[0] == ([0, 1, 2], 2) and all(classes == [0, 2] for classes, _ in asked[1:]) and left == [0]


# ---- its budget ----


@pytest.mark.parametrize(
    "budget, points",
    [(12, 2), (17, 2), (18, 3), (23, 3), (24, 4), (107, 16), (108, 18), (119, 18), (120, 20)],
)
def test_a_budget_counts_every_arm(budget, points):
    """A point of these three classes costs 1 + 3 + 2. From 16 points on, 96 NFE, a look is at two more, for 12."""
    errors = np.random.default_rng(4).random((3, 40))
    left, asked, nfe = run(errors, arms=[1, 3, 2], z=50, budget=budget)
    assert asked[-1] == ([0, 1, 2], points) and nfe == 6 * points <= budget
    assert left == np.argsort(errors[:, :points].mean(1)).tolist()


def test_a_budget_is_kept_whatever_happens():
    """What is left is in the order of the means, the leader first; with enough, nothing is different."""
    rng = np.random.default_rng(5)
    outcomes = set()
    for _ in range(200):
        errors, levels, arms = some(rng)
        free = run(errors, levels=levels, arms=arms, z=2.0)
        first = 2 * arms.sum()
        budget = int(rng.integers(first, 2 * free[2] + 1))
        left, asked, nfe = run(errors, levels=levels, arms=arms, z=2.0, budget=budget)
        assert nfe <= budget and asked == free[1][: len(asked)]
        if nfe == free[2]:
            assert left == free[0]
        else:
            mean = {c: errors[c, : asked[-1][1]].mean() for c in free[1][len(asked)][0]}
            assert left == sorted(mean, key=mean.get)
        outcomes.add((nfe == free[2], len(left) > 1))
    assert outcomes == {(True, False), (False, True)}


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_errors_that_are_not_finite_end_it(wrong):
    """There is nothing to decide; the image is measured again in float32, or left out."""
    errors = np.random.default_rng(7).random((3, 40))
    errors[1, 6] = wrong
    left, asked, _ = run(errors, z=50)
    assert len(left) == 1 and asked[-1] == ([0, 1, 2], 7)


# ---- against the rule in loops ----


def some(rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors as they are: what all classes share at a point, a trend over levels, noise; levels and arms."""
    K, P, trials = rng.integers([2, 2, 1], [25, 50, 3]).tolist()
    levels = np.repeat(rng.choice([spread_sequence(P, 1000), rng.permutation(1000)[:P]]), trials)
    points = len(levels)
    own = rng.random(K)[:, None] * rng.choice([0.02, 0.2, 2])
    trend = rng.standard_normal((K, 1)) * levels / 1000 * rng.choice([0, 0.5])
    return 3 * rng.random(points) + own + trend + 0.3 * rng.standard_normal((K, points)), levels, rng.integers(1, 4, K)


def test_random_races_agree_with_the_rule_in_loops():
    rng = np.random.default_rng(8)
    shares = []
    for _ in range(300):
        errors, levels, arms = some(rng)
        z, budget = rng.choice([1.0, 2.0, 3.0, 4.5]), rng.choice([np.inf, 3 * arms.sum(), 10 * arms.sum()])
        wanted = reference(errors.tolist(), levels.tolist(), arms.tolist(), float(z), float(budget))
        assert run(errors, levels=levels, arms=arms, z=z, budget=budget) == wanted
        shares.append(wanted[1][-1][1] / len(levels))
    shares = np.array(shares)
    assert (shares < 0.5).mean() > 0.3 and (shares == 1).mean() > 0.05  # of the points that there are


# ---- a race of pairs ----


def seen_of(errors: np.ndarray, **how) -> tuple:
    """`run` of a race of pairs, whose asked points are counted by class."""
    left, asked, _ = run(errors, pairs=True, **how)
    counts = [max([end for classes, end in asked if k in classes], default=0) for k in range(len(errors))]
    return left, counts


def ratio_of(within: float, between: float, m: int, near: int) -> float:
    told, trust = (m - 1) * min(max(1, near - 2), PRIOR), TRUST
    assumed = (1 + ASSUMED) / (1 - ASSUMED)
    return (told * between + trust * assumed * within) / ((told + trust) * within) if within > 0 else assumed


def reference_of_pairs(errors, levels, z):
    """The rule in loops, one class, one pair, one difference at a time -> classes left, how far each class went."""
    K, P = len(errors), len(levels)
    counts = [0] * K
    nearest = max(NEAREST, (K - 1) // 10) + 1
    left = list(range(K))
    if nearest < K:
        order = sorted(left, key=lambda c: (errors[c][0], c))
        near, far = order[:nearest], order[nearest:]
        leader = min(near, key=lambda c: ((errors[c][0] + errors[c][1]) / 2, c))
        steps = [errors[c][1] - errors[c][0] for c in near]
        variance = sum((s - sum(steps) / len(steps)) ** 2 for s in steps) / (len(steps) - 1)
        t = scipy.stats.t.ppf(scipy.stats.norm.cdf(max(z, SCOUT)), PRIOR)
        gone = [c for c in far if errors[c][0] - errors[leader][0] > t * (variance * (1 - 1 / P)) ** 0.5]
        for c in gone:
            counts[c] = 1
        left = [c for c in left if c not in gone]
    n = 2
    while True:
        for c in left:
            counts[c] = n
        m = n // 2
        mean = {c: sum(errors[c][:n]) / n for c in left}
        leader = min(left, key=lambda c: (mean[c], c))
        others = sorted((c for c in left if c != leader), key=lambda c: (mean[c], c))
        near = [leader, *others[: max(NEAREST, len(others) // 10)]]
        pairs = sorted(range(m), key=lambda k: levels[2 * k])

        def squares(a, b, pairs=pairs):
            d = [float(x - y) for x, y in zip(errors[a], errors[b], strict=True)]
            means = [(d[2 * k] + d[2 * k + 1]) / 2 for k in pairs]
            return (
                sum((y - x) ** 2 for x, y in itertools.pairwise(means)) / 2,
                sum((d[2 * k] - d[2 * k + 1]) ** 2 for k in pairs) / 4,
            )

        both = [squares(a, b) for a, b in itertools.combinations(near, 2)]
        between = sum(s for s, _ in both) / len(both) / max(m - 1, 1)
        within = sum(w for _, w in both) / len(both) / m
        ratio = ratio_of(within, between, m, len(near))
        free = 2 * m - 1
        pooled = ((m - 1) * between + ratio * m * within) / free
        prior = min(PRIOR, (len(others) - 1) * free)
        t = scipy.stats.t.ppf(scipy.stats.norm.cdf(z), free + prior)
        for c in others:
            s, w = squares(c, leader)
            s2 = (prior * pooled + s + ratio * w) / (prior + free)
            if mean[c] - mean[leader] > t * (s2 / m * (1 - n / P)) ** 0.5:
                left = [k for k in left if k != c]
        if len(left) == 1 or n == P:
            return [min(left, key=lambda c: (mean[c], c))], counts
        n = min(n + 2 * max(1, m // 8), P)


def test_random_races_of_pairs_agree_with_the_rule_in_loops():
    rng = np.random.default_rng(11)
    seen = set()
    for _ in range(150):
        errors, levels, arms = some(rng)
        z = float(rng.choice([1.0, 2.0, 3.0, 4.5]))
        if len(levels) < 3:
            continue
        found = seen_of(errors, levels=levels, arms=arms, z=z)
        assert found == reference_of_pairs(errors.tolist(), levels.tolist(), z)
        seen.add((len(errors) > NEAREST + 1, 1 in found[1]))
    assert seen == {(False, False), (True, False), (True, True)}


def test_one_pair_by_hand():
    """Three classes, one pair of eight points: half the square within it, over 2, times the ratio that is assumed.

    Class 1 has a difference m and no step, class 2 is far: the pool is of the steps of 0, 1 and 2.
    """
    h = np.array([0.0, 0.5, 2.0])  # half the difference within
    pooled = (0.5**2 + 2**2 + 1.5**2) / 3
    ratio = (1 + ASSUMED) / (1 - ASSUMED)
    t = scipy.stats.t.ppf(scipy.stats.norm.cdf(2), 2)
    limit = t * np.sqrt(ratio * (pooled + h[1] ** 2) / 2 * (1 - 2 / 8))
    for share, stays in ((0.999, True), (1.001, False)):
        errors = np.array([0, share * limit, 100.0])[:, None] + h[:, None] * np.array([-1, 1] * 4)
        counts = seen_of(errors, z=2)[1]
        assert counts[2] == 2 and (counts[1] > 2) == stays


def test_of_many_classes_some_go_after_one_point():
    """The ten nearest get their second point first; who is out of reach of these never does."""
    rng = np.random.default_rng(12)
    means = np.array([0.0, *[0.5] * 9, 1.0, *[50.0] * 19])
    errors = means[:, None] + 0.2 * rng.standard_normal((30, 40))
    left, asked, nfe = run(errors, pairs=True)
    assert asked[0] == (list(range(30)), 1) and asked[1] == (list(range(10)), 2) and asked[2] == ([10], 2)
    assert left == [0] and all(max(classes) <= 10 for classes, _ in asked[1:])
    assert nfe < 30 + 11 + 11 * 10


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity times the 0 at the end
def test_an_odd_number_of_points_ends_in_one_without_a_partner():
    for P in (3, 5, 17):
        errors = np.random.default_rng(P).integers(0, 4, (4, P)).astype(float)
        left, asked, nfe = run(errors, pairs=True, z=50)
        assert left == [errors.mean(1).argmin()] and nfe == 4 * P
        assert [n for _, n in asked] == [n for n in (2, 4, 6, 8, 10, 12, 14, 16) if n < P] + [P]


def test_a_budget_of_a_race_of_pairs():
    """Its first look may cost less than two points of every class, never more."""
    rng = np.random.default_rng(14)
    for _ in range(100):
        errors, levels, arms = some(rng)
        free = run(errors, levels=levels, arms=arms, z=2.0, pairs=True)
        budget = int(rng.integers(2 * arms.sum(), 2 * free[2] + 2 * arms.sum()))
        left, asked, nfe = run(errors, levels=levels, arms=arms, z=2.0, budget=budget, pairs=True)
        assert nfe <= budget and asked == free[1][: len(asked)]
        assert (left == free[0]) if nfe == free[2] else len(left) > 1


# ---- what does not matter to it ----


def test_the_order_of_the_classes_does_not_matter():
    rng = np.random.default_rng(9)
    for _ in range(100):
        errors, levels, arms = some(rng)
        order = rng.permutation(len(errors))
        left, asked, nfe = run(errors, levels=levels, arms=arms, z=2.0)
        other = run(errors[order], levels=levels, arms=arms[order], z=2.0)
        assert order[other[0]].tolist() == left and other[2] == nfe
        assert [(sorted(order[classes].tolist()), n) for classes, n in other[1]] == asked


@pytest.mark.parametrize("scale", [2.0**-20, 1 / 3, 1000])
def test_neither_does_what_all_classes_share_nor_the_unit(scale):
    rng = np.random.default_rng(10)
    for _ in range(100):
        errors, levels, arms = some(rng)
        shared = 10 * rng.standard_normal(len(levels))
        wanted = run(errors, levels=levels, arms=arms, z=2.0)
        assert run(scale * (errors + shared), levels=levels, arms=arms, z=2.0) == wanted


def test_float32_errors_are_added_in_float64():
    """1 + 1e-8 is 1 in float32: the last point decides."""
    errors = np.array([[1, 1, 2e-8], [1, 1, 1e-8]], dtype=np.float32)
    assert play(race(np.arange(3), np.ones(2, dtype=int), 3.0), errors)[0] == [1]


# ---- groups ----


def told(P: int, means: list[float], seed: int) -> np.ndarray:
    """Errors [classes, P] of these means, with noise that all classes share for a good part."""
    rng = np.random.default_rng(seed)
    return np.array(means)[:, None] + rng.standard_normal(P) + 0.3 * rng.standard_normal((len(means), P))


def test_groups_race_by_their_first_class_then_the_winners_classes():
    """The first of group a and b, 0 and 1, go at the first look but for 1; then 3 and 4 race it, and 3 wins."""
    groups = np.array(["a", "b", "a", "b", "b"])
    errors = np.repeat([[9.0], [5.0], [0.0], [4.0], [7.0]], 40, 1)
    asked, search = [], tree(np.arange(40), np.ones(5, dtype=int), groups, 3.0)
    classes, end = next(search)
    with pytest.raises(StopIteration) as stop:
        start = {}
        while True:
            asked.append((classes.tolist(), end))
            block = errors[classes, start.get(classes[0], 0) : end]
            start |= dict.fromkeys(classes.tolist(), end)
            classes, end = search.send(block)
    assert stop.value.value.tolist() == [3]
    assert asked == [([0, 1], 2), ([3, 4], 2)]  # 1 is known as far as that


def test_one_group_and_groups_of_one_are_the_plain_race():
    levels, arms = spread_sequence(60, 1000), np.array([1, 2, 1, 3, 1, 1])
    for seed in range(20):
        errors = told(60, [0.1, 0, 0.05, 0.3, 0.02, 0.5], seed)
        plain = replay(race(levels, arms, 3.0), errors, arms)
        assert replay(tree(levels, arms, np.zeros(6, dtype=int), 3.0), errors, arms) == plain
        assert replay(tree(levels, arms, np.arange(6), 3.0), errors, arms) == plain


def test_a_tree_costs_less_and_its_winner_went_furthest():
    """Six groups that differ much, of five that differ a little; nothing is measured twice."""
    levels, arms, groups = spread_sequence(100, 1000), np.ones(30, dtype=int), np.repeat(np.arange(6), 5)
    right = cost = plain = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        means = np.repeat(rng.permutation(6) * 1.5, 5) + np.concatenate([rng.permutation(5) * 0.3 for _ in range(6)])
        errors = told(100, means.tolist(), seed)
        counts = np.zeros(30, dtype=int)
        search = tree(levels, arms, groups, 3.0)
        try:
            classes, end = next(search)
            while True:
                assert len(set(counts[classes])) == 1 and counts[classes[0]] < end
                assert classes.tolist() == sorted(classes.tolist())
                start, counts[classes] = counts[classes[0]], end
                classes, end = search.send(errors[classes, start:end])
        except StopIteration as stop:
            (winner,) = stop.value.tolist()
        assert counts[winner] == counts.max()
        furthest = np.flatnonzero(counts == counts.max())
        assert winner == furthest[errors[furthest, : counts.max()].mean(1).argmin()]
        right += winner == int(np.argmin(means))
        cost, plain = cost + counts.sum(), plain + replay(race(levels, arms, 3.0), errors, arms)[1]
        assert (winner, counts.sum()) == replay(tree(levels, arms, groups, 3.0), errors, arms)
    assert right >= 29 and cost < 0.8 * plain


# ---- the rules of a search ----


@pytest.mark.parametrize(
    "step, found",
    [
        (([1], 8), ([1], 8)),  # a list will do
        ((np.array([2, 0]), 3), "ascending"),
        ((np.array([0, 0]), 3), "ascending"),
        ((np.array([0, 1]), 5), "0 and at 2 points"),
        ((np.array([1]), 2), "more than the 2"),
        ((np.array([0]), 9), "at most 8"),
        ((np.array([-1, 0]), 3), "0..2"),
        ((np.array([], int), 3), "integers"),
        ((np.array([True, False, True]), 3), "integers"),
        (np.array([0, 2]), "tuple"),
    ],
)
def test_a_step_of_a_search(step, found):
    seen = np.array([0, 2, 0])
    if isinstance(found, str):
        with pytest.raises(ValueError, match=re.escape(found)):
            check_step(step, seen, 8)
    else:
        classes, points = check_step(step, seen, 8)
        assert (classes.tolist(), points) == found


@pytest.mark.parametrize(
    "left, found",
    [(np.array([2, 1]), [2, 1]), (None, "integers"), ([], "integers"), ([0, 1], "not measured"), ([1, 1], "each once")],
)
def test_the_end_of_a_search(left, found):
    seen = np.array([0, 2, 4])
    if isinstance(found, str):
        with pytest.raises(ValueError, match=re.escape(found)):
            check_end(left, seen)
    else:
        assert check_end(left, seen).tolist() == found


def in_any_order(n_classes):
    errors = yield np.arange(n_classes), 2
    best = np.argsort(errors.mean(1))[:2]  # not ascending where the second class is the first
    yield best, 4
    return best


@pytest.mark.parametrize(
    "search, found", [(in_any_order, "ascending"), (lambda n: iter([]), "generator"), (lambda n: 5, "generator")]
)
def test_a_search_of_ones_own_that_breaks_the_rules(search, found):
    """Not a wrong class: errors are sent in ascending order of the classes, whatever the order they were asked in."""
    question = Question(
        torch.zeros(1, 1, 1),
        Conditions({"c": torch.zeros(3)}),
        np.arange(3),
        lambda among: search(len(among)),
        torch.zeros(9, 1, 1, 1),
    )
    points = Points(np.arange(9), np.arange(9), None, np.ones(9))
    task = search_image(question, points, loss="l2")
    with pytest.raises(ValueError, match=found):
        block = next(task)
        task.send(torch.tensor([3.0, 2.0, 1.0])[:, None, None].expand(3, len(block.levels), len(LOSSES)))
