"""Images that exist only as numbers, fitted to a published curve of accuracy against points per class. Pure.

Class 0 is right. What class k has at a point of level l, in standard deviations of a class's own noise per point, is

    e_k = weight(l) d_k + effect b_k(l) + noise,   d_0 = 0,   d_k = m + spread z_k,   m ~ N(mu, tau^2), one of an image

with z, noise ~ N(0, 1), all independent, and a preference b_k(l) ~ N(0, 1) of each image, class and level whose
correlation is exp(-(l - l')^2 / (2 CORRELATED^2)). Without accuracies by level, weight = 1 and effect = 0: then all
levels are alike. How often the smallest mean is right is a single integral (`accuracy`), so nothing is drawn to fit.

How well it fits Stable Diffusion 2.0 on Pets (arXiv 2303.16203, figures 3 and 4, read off; rmse in points of accuracy):
the curve of even spreads to 0.5 without levels and to 0.4 with them, no point of it by more than 1.2. EFFECT and
CORRELATED were chosen by hand on what figure 4 says of other sets of levels, which are not fitted to: there the rmse is
3 at level 500 alone, 1 at 475, 500 and 525, 4 at 0, 500 and 1000, 7 at level 0 and 10 at 1000 (where the two figures do
not agree with each other).

What such a curve leaves open is how the classes of one image differ. For Pets, spread / mu of 0.1 or of 0.35 fit as
well as any, yet a race costs twice as much in the first as in the last; so `fits` gives a fit for each. A noise whose
scale varies by a quarter from image to image fits as well too, for the same cost; that, and tails other than the
normal's, are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.special import log_ndtr

EFFECT = 0.5  # of preferences, in standard deviations of the noise
CORRELATED = 40  # levels
RATIOS = (0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7, 1.0)  # spread / mu
X = np.linspace(-6, 6, 241)
DENSITY = np.exp(-(X**2) / 2) / np.exp(-(X**2) / 2).sum()
STARTS = (np.arange(20) + 0.5) / 20  # an even spread may begin anywhere: where, in shares of its step


@dataclass(frozen=True)
class Population:
    """What an image is drawn from; mu, tau and spread in standard deviations of a class's own noise per point."""

    mu: float
    tau: float
    spread: float
    weight: np.ndarray  # [T] of the levels, their mean is 1
    effect: float


def accuracy(classes: int, mu: float, tau: float, spread: float, noise: np.ndarray) -> np.ndarray:
    """How often class 0 of so many has the smallest mean, if the mean of each has noise of variance `noise`.

    Given x, a standard normal that holds m and the noise of class 0, the others are independent:
    E_x Phi((mu + sqrt(tau^2 + noise) x) / sqrt(spread^2 + noise))^(classes - 1).   noise [...] -> [...], shares
    """
    noise = np.asarray(noise, dtype=np.float64)[..., None]
    worse = log_ndtr((mu + np.sqrt(tau**2 + noise) * X) / np.sqrt(spread**2 + noise))
    return np.exp((classes - 1) * worse) @ DENSITY


def _shared(levels: np.ndarray) -> float:
    """The variance of the mean preference over levels [P]: the mean correlation of two of them."""
    return float(np.exp(-(np.subtract.outer(levels, levels) ** 2) / (2 * CORRELATED**2)).mean())


def accuracy_on(population: Population, classes: int, levels: np.ndarray, draws: int = 1) -> float:
    """The accuracy at levels [P], each with so many draws of noise: P * draws points per class."""
    noise = 1 / (len(levels) * draws) + population.effect**2 * _shared(levels)
    weight = population.weight[levels].mean()
    return float(accuracy(classes, population.mu, population.tau, population.spread, noise / weight**2))


def _curve(population: Population, classes: int, spreads: list[tuple[int, np.ndarray, float]]) -> np.ndarray:
    """The accuracy at each of some (points, levels [starts, P], variance of the mean preference)."""
    found = []
    for points, levels, shared in spreads:
        noise = (1 / points + population.effect**2 * shared) / population.weight[levels].mean(1) ** 2
        found.append(accuracy(classes, population.mu, population.tau, population.spread, np.unique(noise)).mean())
    return np.array(found)


def _spreads(points: list[int], T: int) -> list[tuple[int, np.ndarray, float]]:
    """For each number of points, their levels spread evenly over T from each start; more than T points share levels."""
    found = []
    for n in points:
        levels = ((np.arange(min(n, T)) + STARTS[:, None]) * T / min(n, T)).astype(int)
        found.append((n, levels, _shared(levels[0])))
    return found


def curve(population: Population, classes: int, points: list[int]) -> np.ndarray:
    """The accuracy at points per class, spread evenly over all levels from a random start. [len(points)], shares"""
    return _curve(population, classes, _spreads(points, len(population.weight)))


def _population(classes: int, mu: float, tau: float, spread: float, by_level: np.ndarray | None, T: int) -> Population:
    """One whose accuracies at single points are `by_level` [T], so that mu is what they make it; else that of mu."""
    if by_level is None:
        return Population(mu, mu * tau, mu * spread, np.ones(T), 0.0)
    weight = np.array([0, *np.geomspace(0.01, 100, 120)])
    single = accuracy(classes, 1, tau, spread, (1 + EFFECT**2) / np.maximum(weight, 1e-9) ** 2)
    weight = np.interp(by_level, np.maximum.accumulate(single), weight)
    mu = max(weight.mean(), 1e-9)
    return Population(mu, mu * tau, mu * spread, weight / mu, EFFECT)


def fits(
    points: list[int],
    right: np.ndarray,
    classes: int,
    by_level: np.ndarray | None = None,
    ratios: tuple[float, ...] = RATIOS,
    T: int = 1000,
) -> list[tuple[Population, float]]:
    """For each ratio spread / mu, the population nearest to a curve of accuracy, and its rmse in points of accuracy.

    right [len(points)] are shares, at points per class spread evenly over T levels; by_level [T] shares at one point
    of each level, which are met exactly. Least squares in what is left: log tau / mu and, without by_level, log mu.
    """
    spreads = _spreads(points, T)
    found = []
    for ratio in ratios:

        def of(v: np.ndarray, ratio=ratio) -> Population:
            return _population(classes, float(np.exp(v[-1])), float(np.exp(v[0])), ratio, by_level, T)

        def miss(v: np.ndarray, of=of) -> np.ndarray:
            return 100 * (_curve(of(v), classes, spreads) - right)

        start = np.log([0.5] if by_level is not None else [0.5, 1.5])
        best = least_squares(miss, start, bounds=(np.log(1e-3), np.log(1e3)), diff_step=1e-4)
        found.append((of(best.x), float(np.sqrt((best.fun**2).mean()))))
    return found


def draw(
    population: Population,
    classes: int,
    levels: np.ndarray,
    n: int,
    rng: np.random.Generator,
    correlation: float | None = None,
) -> np.ndarray:
    """The errors of n images at levels [P], up to what all classes share; class 0 is right. [n, classes, P] float64

    With a correlation, the noise of points 2k and 2k + 1 has it, as that of a draw and its negative may. Preferences
    are white noise at nodes half a CORRELATED apart, smoothed by a Gaussian of CORRELATED / sqrt(2).
    """
    d = rng.normal(population.mu, population.tau, (n, 1)) + population.spread * rng.standard_normal((n, classes))
    d[:, 0] = 0
    noise = rng.standard_normal((n, classes, len(levels)))
    if correlation is not None:
        second = noise[..., 1::2]
        second *= np.sqrt(1 - correlation**2)
        second += correlation * noise[..., 0 : 2 * second.shape[-1] : 2]
    errors = d[..., None] * population.weight[levels] + noise
    if population.effect:
        nodes = np.arange(-4 * CORRELATED, len(population.weight) + 4 * CORRELATED, CORRELATED / 2)
        smooth = np.exp(-(np.subtract.outer(nodes, levels) ** 2) / CORRELATED**2)  # [nodes, P]
        smooth *= population.effect / np.linalg.norm(smooth, axis=0)
        errors += rng.standard_normal((n, classes, len(nodes))) @ smooth
    return errors


def images(
    population: Population,
    classes: int,
    levels: np.ndarray,
    n: int,
    seed: int = 0,
    correlation: float | None = None,
) -> Iterator[np.ndarray]:
    """The errors of n images, one by one, drawn as many at a time as make 40 MB. Each [classes, P]"""
    rng, step = np.random.default_rng(seed), max(1, 5_000_000 // (classes * len(levels)))
    for done in range(0, n, step):
        yield from draw(population, classes, levels, min(step, n - done), rng, correlation)
