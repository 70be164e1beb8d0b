"""From options to the points at which images are measured."""

import dataclasses
import itertools
import warnings

import numpy as np

from diffusion import InputError, InputWarning
from diffusion.core.constants import usual_levels
from diffusion.core.schedule import Points, Schedule, race_schedule
from diffusion.core.search import band
from diffusion.evaluate.config import RunConfig, level_range_text
from diffusion.evaluate.noise import Noise, read_noise

ALIKE = 25  # levels that share a draw of noise; more are so alike that they add little (arXiv 2303.16203, figure 2)


def usable_levels(level_range: tuple[float, float], T: int) -> np.ndarray:
    """The levels of range(T) that --levels leaves, ascending. InputError: fewer than two."""
    try:
        return band(*level_range, T)
    except ValueError:
        wanted = f"wanted two shares of the {T} noise levels, such as {usual_levels('race')}"
        raise InputError(f"--levels {level_range_text(level_range)}", wanted) from None


# ---- checks of a search's options, which are those of the command lines, or without `dashes` those of Python ----


def check_halving(
    n_classes: int, n_samples: list[int], to_keep: list[int], n_usable: int, *, dashes: str = "--"
) -> None:
    """InputError unless these stages can be run on n_usable levels; warns if the first stage keeps all classes."""
    kept, samples = " ".join(map(str, to_keep)), " ".join(map(str, n_samples))
    where = f"{dashes}to_keep {kept} {dashes}n_samples {samples}"
    problem = None
    if len(to_keep) != len(n_samples):
        problem = "the two need one number per stage each, so equally many"
    elif min(to_keep + n_samples) < 1:
        problem = "every number must be at least 1"
    elif any(a >= b for a, b in itertools.pairwise(n_samples)):
        problem = f"{dashes}n_samples must grow from stage to stage"
    elif any(a <= b for a, b in itertools.pairwise(to_keep)):
        problem = f"{dashes}to_keep must shrink from stage to stage"
    elif to_keep[-1] != 1:
        problem = f"{dashes}to_keep must end in 1, the answer, not in {to_keep[-1]}"
    elif n_samples[-1] > n_usable:
        problem = f"the model has only {n_usable} noise levels"
    if problem:
        raise InputError(where, problem)
    if to_keep[0] > n_classes:
        warnings.warn(f"{where}: the first stage keeps all classes, there are {n_classes}", InputWarning, stacklevel=2)


def check_race(
    z: float, n_levels: int, usable: np.ndarray, budget: float, most_arms: int, *, dashes: str = "--", words: str = ""
) -> None:
    """InputError unless a race at n_levels of the usable levels between at most `most_arms` arms can be run.

    `words` name the usable levels in the error of max_samples.
    """
    if not z > 0:
        raise InputError(f"{dashes}z {z:g}", "must be greater than 0")
    if not 2 <= n_levels <= len(usable):
        words = words or "the noise levels"
        raise InputError(f"{dashes}max_samples {n_levels}", f"must be in 2..{len(usable)}, {words}")
    first_look = 2 * most_arms
    if budget < first_look:
        problem = f"the first look alone takes {first_look} NFE, two of each prompt"
        raise InputError(f"{dashes}budget {budget}", problem)


def grid_size(interval: int, n_usable: int) -> int:
    """The number of levels that --t_interval takes of the usable ones. InputError unless it divides them."""
    if interval < 1 or n_usable % interval:
        raise InputError(f"--t_interval {interval}", f"must divide the {n_usable} levels")
    return n_usable // interval


# ---- a race, and its points ----


def race_from_options(
    config: RunConfig,
    usable: np.ndarray,
    arms_per_class: np.ndarray,
    most_arms: int,
    groups: np.ndarray | None = None,
) -> Schedule:
    """A race at some of the usable levels, as options ask for it.

    arms_per_class [classes]; at most most_arms compete for an image; groups [classes], if any, race first. InputError:
    options that no such race can have.
    """
    n_levels = config.max_samples
    if n_levels is None:
        n_levels = min(500, len(usable))
    budget = np.inf if config.budget is None else config.budget
    words = f"the levels of --levels {level_range_text(config.level_range)}"
    if config.weights:
        words += " whose --weights are not 0"
    check_race(config.z, n_levels, usable, budget, most_arms, words=words)
    if config.budget is not None and groups is not None:
        raise InputError(f"--budget {config.budget}", "not with prompts that have groups")

    schedule = race_schedule(
        usable,
        arms_per_class,
        config.z,
        n_levels,
        budget=budget,
        n_trials=config.n_trials,
        groups=groups,
        pairs=config.antithetic,
    )
    return dataclasses.replace(schedule, most_nfe=min(schedule.most_nfe, most_arms * len(schedule)))


def most_competing(arms_per_class: np.ndarray, n_classes: int | None = None) -> int:
    """How many arms compete for an image at most, if n_classes of the classes do, by default all.

    arms_per_class [classes]
    """
    largest = np.sort(arms_per_class)[::-1]
    return int(largest[:n_classes].sum())


def points_and_noise(
    config: RunConfig,
    schedule: Schedule,
    weights: np.ndarray,
    latent: tuple[int, int, int],
    *,
    share_noise: bool = False,
) -> tuple[Points, Noise]:
    """The points of a schedule, and the noise of --noise_path or of --seed, as read_noise.

    weights [T] of all levels; share_noise: without a file, all images have the same noise.
    """
    randomize = config.randomize_noise is not False
    points = Points.of(schedule, weights, config.n_trials, randomize=randomize)
    if config.noise_path is None:
        return points, Noise(latent, config.seed, shared=share_noise)
    return points, read_noise(config.noise_path, points, latent, loss=config.loss)


def warn_of_one_draw(points: Points) -> None:
    """Warn of many levels that share one draw of noise: their errors are alike."""
    n = len(np.unique(points.levels[points.draws == points.draws[0]]))
    if n <= ALIKE:
        return
    alike = f"{n} noise levels share a draw of noise, and so many are so alike that more than {ALIKE} add little"
    better = "--randomize_noise draws for each level, --n_trials more often"
    if points.signs is None:
        better += ", --noise antithetic takes the draw and its negative in turn, for the same cost"
    warnings.warn(f"{alike}; {better}", InputWarning, stacklevel=2)
