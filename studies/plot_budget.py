"""Accuracy of each search against its number of evaluations: searches replayed on stored or simulated errors.

No model is needed.

    python eval_prob_adaptive.py --version digits --dataset digits --to_keep 1 --n_samples 500
    python studies/plot_budget.py data/digits/vdigits_1trials_1keep_500samples --out budget.png
    python studies/plot_budget.py --simulate studies/data/pets_accuracy_by_points.csv --classes 37 \\
        --to_keep 5 1 --n_samples 25 250 --z 2.5 3 --max_samples 100 250

Prints, for each search and setting, the mean NFE per image, how often it gives the answer of the full grid (every class
at every point), and the accuracy, with 95% intervals; draws the same with --out. The paired t-test is the rule of
arXiv 2303.15233, Algorithm 1.

The images are those of a run, or are simulated (simulate.py): drawn from a population that was fitted to a
curve of accuracy against points per class. With --by_level too, levels differ, so that --levels can be compared.

Races measure pairs of points if the run has --noise antithetic or the simulation has --correlation.
"""

from diffusion.core import constants
from diffusion.evaluate import options

SIMULATED = ["classes", "by_level", "images", "points", "spread", "correlation"]


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "[FOLDER]")
    options.add(p, "folder FOLDER", "folder of a run of one stage: every class at every point", nargs="?")
    options.add(p, "--loss", "decide by this loss; default the run's", choices=constants.LOSSES)
    options.add(p, "--out PNG", "draw these figures")
    options.add(p, "--to_keep N", "with --n_samples: add a row for this schedule of stages", nargs="+")
    options.add(p, "--n_samples N", "noise levels of its stages, as in eval_prob_adaptive.py", nargs="+")
    options.add(p, "--z Z", "z of the races", [1.5, 2, 2.5, 3, 3.5, 4, 5], nargs="+")
    options.add(p, "--max_samples N", "races measure at most N points per class; default all there are", nargs="+")
    shares = "races within these shares of the schedule, such as 0.2-0.8"
    options.add(p, "--levels A-B", shares, ["0-1"], nargs="+")
    g = p.add_argument_group("simulation, instead of a folder")
    options.add(g, "--simulate CSV", "csv of points,accuracy: points per class, evenly spread; accuracy in percent")
    options.add(g, "--classes N", "number of classes of that curve")
    options.add(g, "--by_level CSV", "csv of level,accuracy: of one point per class at the level; in percent")
    options.add(g, "--images N", "simulated images", 1000)
    options.add(g, "--points N", "points per class of the full grid; default the last of --n_samples, or 250")
    spread = "spread of the wrong classes' errors, relative to their mean; default the best fit's"
    options.add(g, "--spread SHARE", spread)
    pairs = "correlation of the noise of points 2k and 2k + 1, -0.5 for antithetic noise; default none, and no pairs"
    options.add(g, "--correlation R", pairs)
    return p


import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

import simulate
from diffusion import InputError
from diffusion.core.search import Search, even, halving, level_sequence, race, replay, spread_sequence
from diffusion.evaluate.points import check_halving
from diffusion.io.reading import read_numbers
from diffusion.io.wording import count
from diffusion.plots import style as plots_style
from diffusion.runs import results, show
from diffusion.stats import metrics

T = 1000  # noise levels of a simulated model, and of one whose run does not record them
P_VALUES = [0.2, 0.05, 0.01, 0.002, 0.0001]  # 0.002 is the paper's
SHARES = [0.02, 0.05, 0.1, 0.2, 0.5, 1]  # of the points that the last stage of a halving measures
LEAST = 20  # points of every class before the first t-test, as in the paper
AS_WELL = 0.25  # points of accuracy: a fit counts as equally good if its rmse is at most so much above the least


def read_curve(path: Path, column: str, least: int, most: int) -> dict[int, float]:
    """Accuracies as shares, ascending, from a csv with the columns `column` and accuracy.

    The column holds integers in least..most, accuracies are in percent. InputError names the line at fault.
    """
    curve = read_numbers(path, column, range(least, most + 1), "accuracy", 100, "percent, from 0 to 100")
    if max(curve.values()) <= 1:
        raise InputError(path, "no accuracy is above 1, wanted percent")
    return {at: accuracy / 100 for at, accuracy in curve.items()}


@dataclass(frozen=True)
class Source:
    """Images with the error of every class at every point."""

    name: str  # for a heading
    errors: Iterable[np.ndarray]  # of each image, [K, P], points in ascending levels
    label: np.ndarray  # [images], class rows
    levels: np.ndarray  # [P]
    arms: np.ndarray  # [K], number of arms of each class
    n_levels: int = T  # noise levels of the model, of which --levels takes shares
    pairs: bool = False  # whether points 2k and 2k + 1 have a draw of noise and its negative


def measured(args) -> Source:
    """The images of a run."""
    run = results.read(args.folder, "arms", "dataset", loss=args.loss, answers=False)
    arms, n_levels = np.bincount(run.arm_class), run.n_levels or T
    pairs = bool(run.options.get("antithetic")) and run.options.get("n_trials") == 1  # else they are no neighbours here
    return Source(run.title, *results.read_full(run), arms, n_levels, pairs)


def simulated(args) -> tuple[Source, str]:
    """Images of the population that fits best, or best with --spread; and the text that is printed about the fit."""
    points = max(args.n_samples or [250]) if args.points is None else args.points
    within = {"classes": (args.classes or 0, 2, 10_000), "images": (args.images, 1, 10**6), "points": (points, 2, T)}
    for name, (value, least, most) in within.items():
        if not least <= value <= most:
            raise InputError(f"--simulate {args.simulate}", f"--{name} is {value}, wanted {least} to {most}")
    if args.spread is not None and not 0 < args.spread <= 1:
        raise InputError(f"--spread {args.spread:g}", "must be above 0, and at most 1")
    if args.correlation is not None and not -1 < args.correlation < 1:
        raise InputError(f"--correlation {args.correlation:g}", "must be between -1 and 1")
    if args.levels != ["0-1"] and not args.by_level:
        raise InputError(f"--levels {args.levels[0]}", "without --by_level all levels are alike in a simulation")
    curve = read_curve(args.simulate, "points", 1, 10**6)
    if len(curve) < 3:
        raise InputError(args.simulate, f"{count(len(curve), 'row')}, wanted at least 3 to fit to")
    by_level = read_curve(args.by_level, "level", 0, T - 1) if args.by_level else None
    single = by_level and np.interp(np.arange(T), list(by_level), list(by_level.values()))
    ratios = simulate.RATIOS if args.spread is None else (args.spread,)
    fits = simulate.fits(list(curve), np.array(list(curve.values())), args.classes, single, ratios, T)
    best, rmse = min(fits, key=lambda fit: fit[1])
    as_well = [f"{ratio:g}" for ratio, (_, miss) in zip(ratios, fits, strict=True) if miss <= rmse + AS_WELL]
    about = f"SIMULATED, no model was run: {count(args.images, 'image')} drawn from a fit to {args.simulate}"
    about += f" and {args.by_level}" if args.by_level else ""
    about += f"; mu {best.mu:.3f}, tau {best.tau:.3f}, spread {best.spread:.3f}, rmse {rmse:.2f} points of accuracy"
    about += f"\nthe least rmse of those with --spread {' '.join(as_well)}, which fit as well" * (args.spread is None)
    pairs = args.correlation is not None
    if pairs:
        about += f"\nnoise of pairs of points, correlated {args.correlation:g}"
    levels = even(points, T)
    errors = simulate.images(best, args.classes, levels, args.images, correlation=args.correlation)
    label, arms = np.zeros(args.images, dtype=int), np.ones(args.classes, dtype=int)
    name = f"Simulated from {args.simulate.stem.replace('_', ' ')}"
    return Source(name, errors, label, levels, arms, pairs=pairs), about


def t_test(P: int, arms: np.ndarray, p_value: float) -> Search:
    """Drop a class when a two-sided paired t-test against the best is below `p_value`; tests after every point."""
    left, errors = np.arange(len(arms)), np.empty((len(arms), 0))
    for n in range(min(LEAST, P), P + 1):
        errors = np.concatenate([errors, (yield left, n)], 1)
        difference = errors - errors[errors.mean(1).argmin()]
        limit = stdtrit(n - 1, 1 - p_value / 2) * difference.std(1, ddof=1) / np.sqrt(n)
        stays = ~(difference.mean(1) > limit)
        left, errors = left[stays], errors[stays]
        if len(left) == 1:
            break
    return left[[errors.mean(1).argmin()]]


def race_order(usable: np.ndarray, most: int, pairs: bool) -> np.ndarray:
    """The order in which a race measures at most `most` of the usable points. [most]

    usable: ascending. With `pairs`, the points 2k and 2k + 1 are measured one after the other, and only if both are
    usable.
    """
    if not pairs:
        return usable[spread_sequence(most, len(usable))]
    first = usable[(usable % 2 == 0) & np.isin(usable + 1, usable)]
    chosen = first[spread_sequence(min(most // 2, len(first)), len(first))]
    return np.column_stack([chosen, chosen + 1]).ravel()


def searches(args, source: Source) -> dict[tuple[str, str], Callable]:
    """By (search, setting): a function of a random generator that returns the order of the points [P] and a search."""
    levels, arms, n_levels, pairs = source.levels, source.arms, source.n_levels, source.pairs
    P, n = len(levels), len(arms)

    def staged(to_keep: list[int], n_samples: list[int]) -> Callable:
        picked, ends = level_sequence(n_samples, P)
        return lambda rng: (picked, halving(n, ends, to_keep))

    few = [max(1, n // 2), 1] if n < 11 else [5, 1]
    found = {("every class", f"{round(x * P)} points"): staged([1], [max(1, round(x * P))]) for x in SHARES[:-1]}
    for last in (round(share * P) for share in SHARES):
        found["halving", f"{last // 10}/{last}"] = staged(few, [max(1, last // 10), max(2, last)])
    for p in P_VALUES:
        found["paired t-test", f"p {p}"] = lambda rng, p=p: (rng.permutation(P), t_test(P, arms, p))
    if args.to_keep and args.n_samples:
        check_halving(n, args.n_samples, args.to_keep, P)
        found["published", "as given"] = staged(args.to_keep, args.n_samples)
    for band in args.levels:
        low, high = (float(end) * n_levels for end in band.split("-"))
        usable = np.arange(P) if band == "0-1" else np.flatnonzero((low <= levels) & (levels < high))
        for most in args.max_samples or [len(usable)]:
            if not min(2, P) <= most <= len(usable):
                there = f"{len(usable)} points are there, --max_samples is {most}"
                raise InputError(f"--levels {band}", f"{there}; wanted at least 2, and at most those there are")
            order = race_order(usable, most, pairs)
            name = "race" + f" {band}" * (band != "0-1") + f" of {most}" * (most < P)
            for z in args.z:
                search = partial(race, levels[order], arms, z, pairs=pairs)
                found[name, f"z {z:g}"] = lambda rng, order=order, search=search: (order, search())
    return found


def check(args) -> None:
    """InputError if options do not fit together."""
    if (args.folder is None) == (args.simulate is None):
        raise InputError("FOLDER, --simulate", "wanted the folder of a run or --simulate CSV, one of the two")
    if args.simulate:
        options.refuse(args, parser(), ["loss"], "is for a run")
    else:
        options.refuse(args, parser(), SIMULATED, "is for --simulate")
    if (args.to_keep is None) != (args.n_samples is None):
        raise InputError("--to_keep and --n_samples", "wanted both, as in --to_keep 5 1 --n_samples 25 250")
    if not all(z > 0 for z in args.z):
        raise InputError(f"--z {' '.join(f'{z:g}' for z in args.z)}", "must be greater than 0")
    for band in args.levels:
        if not re.fullmatch(r"(\d*\.)?\d+-(\d*\.)?\d+", band):
            raise InputError(f"--levels {band}", "wanted two shares of the schedule, such as 0.2-0.8")


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    plots_style.check_picture(args.out)
    check(args)
    source, about = simulated(args) if args.simulate else (measured(args), None)
    settings = searches(args, source)
    table = replayed(source, settings)
    heading = f"{count(len(source.label), 'image')}, {count(len(source.arms), 'class')}"
    if about:
        print(about)
    print(f"{heading}; agreement is with the decision at all {len(source.levels)} points")
    print(f"{'search':<24}{'':<12}{'NFE':>9}   {'agreement':<26}accuracy")
    for name, setting, nfe, agreement, accuracy in table:
        shown = show.in_percent(*agreement), show.in_percent(*accuracy)
        print(f"{name:<24}{setting:<12}{nfe:>9,.0f}   {shown[0]:<26}{shown[1]}")
    if args.out:
        draw(table, f"{source.name}: {heading}", args.out)
    return 0


def replayed(source: Source, settings: dict[tuple[str, str], Callable]) -> list[tuple]:
    """A line of the table for each search: name, setting, mean NFE, agreement and accuracy, each with its interval.

    The first line is the full grid, with whose decisions the others are compared.
    """
    full, wins, costs = [], [], []
    for k, errors in enumerate(tqdm(source.errors, total=len(source.label), leave=False)):
        winners, spent = [], []
        for make in settings.values():
            order, search = make(np.random.default_rng(k))
            winner, nfe = replay(search, errors[:, order], source.arms)
            winners.append(winner)
            spent.append(nfe)
        full.append(errors.mean(1).argmin())
        wins.append(winners)
        costs.append(spent)
    full, wins = np.array(full), np.array(wins)

    P = len(source.levels)
    lines = [("every class", f"{P} points", source.arms.sum() * P, full)]
    for (name, setting), nfe, won in zip(settings, np.mean(costs, 0), wins.T, strict=True):
        lines.append((name, setting, nfe, won))
    return [
        (name, setting, nfe, metrics.accuracy(won, full), metrics.accuracy(won, source.label))
        for name, setting, nfe, won in lines
    ]


IN_A_ROW = 6  # names of searches below a picture: matplotlib fills columns, so more are in no order that one reads
COLOURS = {
    "every": plots_style.PLAIN,
    "halving": plots_style.ACCENT,
    "paired": "#bc4c00",
    "published": "#24292f",
    "race": plots_style.RIGHT,
}


def draw(table: list[tuple], heading: str, path: Path) -> None:
    """Agreement and accuracy against NFE, a line for each search, with 95% intervals."""
    from matplotlib.ticker import LogFormatter, LogLocator

    figure = plots_style.new(10, 4.2, heading)
    quantities = ("same answer as the full grid", "accuracy")
    names = list(dict.fromkeys(row[0] for row in table))
    for axes, column, quantity in zip(figure.subplots(1, 2), (3, 4), quantities, strict=True):
        for k, name in enumerate(names):
            first = next(at for at, other in enumerate(names) if other.split()[0] == name.split()[0])
            colour, style = COLOURS[name.split()[0]], ["o-", "o--", "o:", "o-."][(k - first) % 4]
            rows = sorted((row for row in table if row[0] == name), key=lambda row: row[2])
            shares = [row[column] for row in rows]
            plots_style.draw_shares(axes, [row[2] for row in rows], shares, style, colour=colour, label=name)
        axes.set(xscale="log", xlabel="NFE per image", ylabel=f"{quantity}, %")
        axes.set_ylim(top=100.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(9, 9)))
        plots_style.open_up(axes)
    if len(names) <= len(COLOURS):
        axes.legend(frameon=False, loc="lower right")
    else:  # many races
        columns = min(len(names), IN_A_ROW)
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=columns)
    plots_style.save(figure, path)


if __name__ == "__main__":
    options.run(main)
