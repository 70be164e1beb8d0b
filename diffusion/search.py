"""Who is measured next, and when to stop. Pure: numbers in, classes out; it knows no diffusion.

A search is a generator: it yields `(classes, points)`, "measure these classes up to that many leading points", is sent
the classes' errors at the new points, and returns the classes that are left.
"""

import itertools
from collections.abc import Generator

import numpy as np

from diffusion import InputError

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


def every(interval: int, T: int) -> int:
    """How many levels --t_interval takes. Raises InputError unless it divides T."""
    if interval < 1 or T % interval:
        raise InputError(f"--t_interval {interval}: must divide the model's {T} levels")
    return T // interval


def noise_rows(levels: np.ndarray, n_trials: int, randomize: bool) -> np.ndarray:
    """Which noise draw each point takes, for levels [P] in any order, each n_trials times in a row. [P]

    One draw for every trial; with `randomize`, one for every trial and level. A level's draw does not depend on when it
    is measured, so a search sees exactly the points of the full grid.
    """
    trial = np.tile(np.arange(n_trials), len(levels) // n_trials)
    return np.searchsorted(np.sort(levels), levels) + trial if randomize else trial


def check_schedule(n_classes: int, n_samples: list[int], to_keep: list[int], T: int) -> None:
    """Raises InputError unless the schedule can be run on `n_classes` classes and T levels."""
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
    elif to_keep[0] > n_classes:
        problem = f"the first stage cannot keep {to_keep[0]} of {n_classes} classes"
    elif n_samples[-1] > T:
        problem = f"the model has only {T} noise levels"
    if problem:
        raise InputError(f"{given}: {problem}")


def halving(n_classes: int, ends: list[int], to_keep: list[int]) -> Search:
    """The paper's successive elimination (arXiv 2303.16203, Algorithm 2).

    Stage s measures the classes that are left up to `ends[s]` points and keeps the `to_keep[s]` with the smallest mean
    error over all their points; a tie goes to the smaller class. Is sent errors [classes, new points].
    """
    left = np.arange(n_classes)
    total = np.zeros(n_classes)
    for end, keep in zip(ends, to_keep, strict=True):
        errors = yield left, end
        total[left] += errors.sum(1, dtype=np.float64)
        left = np.sort(left[np.argsort(total[left], kind="stable")[:keep]])
    return left
