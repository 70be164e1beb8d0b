"""From options to the points at which images are measured."""

import dataclasses
import warnings

import numpy as np

from diffusion import InputError, InputWarning
from diffusion.core import schedule as schedules
from diffusion.core.constants import usual_levels
from diffusion.core.schedule import Points, Schedule
from diffusion.core.search import band
from diffusion.evaluate.config import RunConfig, levels_text
from diffusion.evaluate.noise import Noise, read_noise

ALIKE = 25  # levels that share a draw of noise; more are so alike that they add little (arXiv 2303.16203, figure 2)


def usable_levels(levels: tuple[float, float], T: int) -> np.ndarray:
    """The levels of range(T) that --levels leaves, ascending. InputError: fewer than two."""
    chosen = band(*levels, T)
    if len(chosen) < 2:
        wanted = f"wanted two shares of the {T} noise levels, such as {usual_levels('race')}"
        raise InputError(f"--levels {levels_text(levels)}", wanted)
    return chosen


def race_of(
    config: RunConfig, usable: np.ndarray, arms: np.ndarray, most_arms: int, groups: np.ndarray | None = None
) -> Schedule:
    """A race at some of the usable levels, as options ask for it.

    arms [classes] is how many arms each class has, and most_arms how many compete for an image at most; groups
    [classes], if any, race first. InputError: options that no such race can have.
    """
    if not config.z > 0:
        raise InputError(f"--z {config.z:g}", "must be greater than 0")
    n_levels = min(500, len(usable)) if config.max_samples is None else config.max_samples
    if not 2 <= n_levels <= len(usable):
        weighted = " whose --weights are not 0" if config.weights else ""
        levels = f"the levels of --levels {levels_text(config.levels)}{weighted}"
        raise InputError(f"--max_samples {n_levels}", f"must be in 2..{len(usable)}, {levels}")
    if config.budget is not None and config.budget < 2 * most_arms:
        first_look = f"the first look alone takes {2 * most_arms} NFE, two of each prompt"
        raise InputError(f"--budget {config.budget}", first_look)
    if config.budget is not None and groups is not None:
        raise InputError(f"--budget {config.budget}", "not with prompts that have groups")

    schedule = schedules.race(
        usable,
        arms,
        config.z,
        n_levels,
        budget=np.inf if config.budget is None else config.budget,
        n_trials=config.n_trials,
        groups=groups,
        pairs=config.antithetic,
    )
    return dataclasses.replace(schedule, most_nfe=min(schedule.most_nfe, most_arms * len(schedule)))


def most_arms(arms: np.ndarray, n_classes: int | None = None) -> int:
    """How many arms compete for an image at most, if n_classes of the classes do; arms [classes]; None: all."""
    largest = np.sort(arms)[::-1]
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
