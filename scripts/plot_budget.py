"""What fewer evaluations cost: replay searches on a run that measured every class at every point, without a model.

    python eval_prob_adaptive.py --version digits --dataset digits --to_keep 1 --n_samples 500
    python scripts/plot_budget.py data/digits/vdigits_1trials_1keep_500samples --out budget.png

Prints, for each search and setting, the mean NFE per image, how often it decides as the full budget does, and the
accuracy, with 95% intervals; draws the same with --out. The paired t-test is the rule of arXiv 2303.15233, Algorithm 1.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

from diffusion import cli, metrics, records
from diffusion.errors import LOSSES
from diffusion.search import Search, halving, level_sequence, race, replay, spread_sequence

Z = [1.5, 2, 2.5, 3, 3.5, 4, 5]
P_VALUES = [0.2, 0.05, 0.01, 0.002, 0.0001]  # 0.002 is theirs
SHARES = [0.02, 0.05, 0.1, 0.2, 0.5, 1]  # of the points that the last stage of a halving measures
LEAST = 20  # points of every class before the first t-test, theirs


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of a run of one stage: every class at every point")
    p.add_argument("--loss", choices=LOSSES, help="which loss decides; default the run's")
    p.add_argument("--out", type=Path, metavar="PNG", help="draw it")
    return p


def t_test(P: int, arms: np.ndarray, p_value: float) -> Search:
    """Drop a class when a paired t-test against the best, two-sided, is below `p_value`; looks at every point."""
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


def searches(levels: np.ndarray, arms: np.ndarray) -> dict[str, dict[str, Callable]]:
    """Search -> setting -> `of(random generator)`, the order of the points [P] (in ascending levels) and a search."""
    P, n = len(levels), len(arms)
    spread = spread_sequence(P, P)  # ranks among the levels that there are

    def one_stage(share: float):
        picked, ends = level_sequence([max(1, round(share * P))], P)
        return lambda rng: (picked, halving(n, ends, [1]))

    def two_stages(share: float):
        last = max(2, round(share * P))
        picked, ends = level_sequence([max(1, last // 10), last], P)
        return lambda rng: (picked, halving(n, ends, [max(1, n // 2), 1] if n < 11 else [5, 1]))

    return {
        "every class": {f"{round(share * P)} points": one_stage(share) for share in SHARES[:-1]},
        "halving": {f"{round(share * P) // 10}/{round(share * P)}": two_stages(share) for share in SHARES},
        "paired t-test": {f"p {p}": lambda rng, p=p: (rng.permutation(P), t_test(P, arms, p)) for p in P_VALUES},
        "race": {f"z {z}": lambda rng, z=z: (spread, race(levels[spread], arms, z)) for z in Z},
    }  # fmt: skip


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.check_picture(args.out)
    run = records.read_run(args.folder)
    loss = records.loss_of(args.folder, run, args.loss)
    records.need(args.folder, run, "arms", "dataset")
    class_ids, arm_class = records.competitors(run)
    errors, label, levels, _ = cli.read_full(args.folder, loss, class_ids, arm_class)
    arms = np.bincount(arm_class)
    full = errors.mean(2).argmin(1)

    def row(name: str, setting: str, nfe: float, wins: np.ndarray) -> tuple:
        return name, setting, nfe, metrics.accuracy(wins, full), metrics.accuracy(wins, label)

    table = [row("every class", f"{len(levels)} points", len(arm_class) * len(levels), full)]
    for name, settings in searches(levels, arms).items():
        for setting, of in tqdm(settings.items(), desc=name, leave=False):
            wins, costs = [], []
            for k, one in enumerate(errors):
                order, search = of(np.random.default_rng(k))
                winner, nfe = replay(search, one[:, order], arms)
                wins.append(winner)
                costs.append(nfe)
            table.append(row(name, setting, float(np.mean(costs)), np.array(wins)))
    print(f"{len(full)} images, {len(arms)} classes; agreement is with the decision at all {len(levels)} points")
    print(f"{'search':<15}{'':<12}{'NFE':>9}   {'agreement':<26}accuracy")
    for name, setting, nfe, *hits in table:
        shown = [cli.in_percent(*each) for each in hits]
        print(f"{name:<15}{setting:<12}{nfe:>9,.0f}   {shown[0]:<26}{shown[1]}")
    if args.out:
        draw(table, f"{run['options']['dataset']}: {len(full)} images, {len(arms)} classes", args.out)
    return 0


COLOURS = {"every class": "#8c959f", "halving": "#0969da", "paired t-test": "#bc4c00", "race": cli.RIGHT}


def draw(table: list[tuple], heading: str, path: Path) -> None:
    """Agreement and accuracy against NFE, a line for each search, with 95% intervals."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, LogLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(heading, fontsize=12, weight="bold")
    for axes, column, what in zip(
        figure.subplots(1, 2), (3, 4), ("same decision as full budget", "accuracy"), strict=True
    ):
        for name, colour in COLOURS.items():
            rows = sorted((row for row in table if row[0] == name), key=lambda row: row[2])
            nfe = [row[2] for row in rows]
            p, low, high = (100 * np.array(x) for x in zip(*[(r[column][0], *r[column][1]) for r in rows], strict=True))
            axes.fill_between(nfe, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(nfe, p, marker="o", markersize=4, color=colour, label=name)
        axes.set(xscale="log", xlabel="NFE per image", ylabel=f"{what}, %")
        axes.set_ylim(top=100.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(9, 9)))
        axes.grid(alpha=0.25)
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    cli.save_figure(figure, path, dpi=110)


if __name__ == "__main__":
    cli.run(main)
