"""Golden grids and costs of the published schedules, and elimination on matrices worked by hand."""

import itertools

import numpy as np
import pytest

from diffusion import InputError
from diffusion.search import check_schedule, even, every, halving, level_sequence, noise_rows

GOLDEN = [  # n_samples, where each stage ends; T = 1000
    ([50, 500], [50, 500]),
    ([25, 250], [25, 250]),
    ([100, 500], [100, 500]),
    ([20, 50, 100, 500], [20, 70, 150, 500]),
    ([50, 100, 500, 1000], [50, 150, 550, 1000]),
    ([1000], [1000]),
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


def test_the_first_levels_of_50_500():
    levels, _ = level_sequence([50, 500], 1000)
    assert levels[:3].tolist() == [11, 31, 51] and levels[49] == 991
    assert levels[50:54].tolist() == [1, 3, 5, 7] and levels[-1] == 999


@pytest.mark.parametrize("n_samples", [[50, 600], [512], [10, 300], [7, 64, 333], [3, 999]], ids=str)
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


# ---- the full grid and its noise ----


@pytest.mark.parametrize("interval", [k for k in range(1, 1001) if 1000 % k == 0])
def test_every_so_manieth_level_is_the_published_grid(interval):
    levels, ends = level_sequence([every(interval, 1000)], 1000)
    assert levels.tolist() == list(range(interval // 2, 1000, interval)) and ends.tolist() == [len(levels)]


def test_the_levels_of_interval_200_and_125():
    assert level_sequence([every(200, 1000)], 1000)[0].tolist() == [100, 300, 500, 700, 900]
    assert level_sequence([every(125, 1000)], 1000)[0].tolist() == [62, 187, 312, 437, 562, 687, 812, 937]


@pytest.mark.parametrize(
    "interval, T", [(0, 1000), (-5, 1000), (3, 1000), (600, 1000), (1001, 1000), (2000, 1000), (5, 4)]
)
def test_intervals_that_do_not_divide(interval, T):
    with pytest.raises(InputError, match=f"^--t_interval {interval}: must divide the model's {T} levels$"):
        every(interval, T)


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


# ---- elimination ----


def play(search, errors: np.ndarray):
    """Answer a search from a matrix [classes, points] -> (left, [(classes, end)], NFE)."""
    asked, seen, nfe = [], 0, 0
    try:
        classes, end = next(search)
        while True:
            asked.append((classes.tolist(), int(end)))
            nfe += len(classes) * (end - seen)
            block, seen = errors[classes, seen:end], end
            classes, end = search.send(block)
    except StopIteration as stop:
        return stop.value.tolist(), asked, int(nfe)


@pytest.mark.parametrize("dataset, classes, to_keep, n_samples, nfe", COSTS, ids=lambda v: v if type(v) is str else "")
def test_schedules_cost_what_the_paper_says(dataset, classes, to_keep, n_samples, nfe):
    check_schedule(classes, n_samples, to_keep, 1000)
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


@pytest.mark.parametrize(
    "to_keep, n_samples, says",
    [
        ([5, 1], [50], "equally many"),
        ([1], [50, 500], "equally many"),
        ([5, 1], [0, 500], "at least 1"),
        ([5, 0], [50, 500], "at least 1"),
        ([5, 1], [-50, 500], "at least 1"),
        ([5, 1], [500, 50], "--n_samples must grow"),
        ([5, 1], [50, 50], "--n_samples must grow"),
        ([1, 5], [50, 500], "--to_keep must shrink"),
        ([5, 5, 1], [50, 100, 500], "--to_keep must shrink"),
        ([1, 1], [50, 500], "--to_keep must shrink"),
        ([5, 2], [50, 500], "must end in 1, the answer, not in 2"),
        ([5], [50], "must end in 1, the answer, not in 5"),
        ([11, 1], [50, 500], "cannot keep 11 of 10 classes"),
        ([5, 1], [50, 1001], "only 1000 noise levels"),
        ([1], [2000], "only 1000 noise levels"),
    ],
)
def test_schedules_that_cannot_be_run(to_keep, n_samples, says):
    with pytest.raises(InputError) as error:
        check_schedule(10, n_samples, to_keep, 1000)
    message = str(error.value)
    assert says in message and "\n" not in message
    assert message.startswith(f"--to_keep {' '.join(map(str, to_keep))} --n_samples {' '.join(map(str, n_samples))}:")


@pytest.mark.parametrize("to_keep, n_samples", [([1], [1]), ([10, 1], [1, 1000]), ([5, 1], [50, 500])])
def test_schedules_at_the_limits(to_keep, n_samples):
    check_schedule(10, n_samples, to_keep, 1000)
