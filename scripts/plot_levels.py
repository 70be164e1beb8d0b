"""Which noise levels tell the classes of a run apart, and weights for them, from records alone.

    python eval_prob_adaptive.py --version digits --dataset digits --to_keep 1 --n_samples 500 --extra full
    python scripts/plot_levels.py data/digits_full/vdigits_1trials_1keep_500samples --weights weights.csv \\
        --out levels.png

The run must have measured every class at every point. Weights are fitted on half of its images (--fit) and scored on
the others: how often the label wins by so many points of each class, and what a race costs. They are written for
--weights of the scripts that evaluate, and the indices of the other images for their --subset_path (--held_out).
"""

import argparse
from pathlib import Path

import numpy as np

from diffusion import InputError, calibration, cli, levels, metrics, records, search
from diffusion.errors import LOSSES

POINTS = [4, 8, 16, 32, 64, 128, 256]
Z = 3.0  # the race's default
PLAIN, WEIGHTED = "#8c959f", "#0969da"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of a run of one stage: every class at every point")
    p.add_argument("--loss", choices=LOSSES, help="which loss decides; default the run's")
    p.add_argument("--fit", type=float, default=0.5, help="the share of images to fit on; default %(default)g")
    p.add_argument("--seed", type=int, default=0, help="of the split; default %(default)s")
    p.add_argument("--weights", type=Path, metavar="CSV", help="write the weights")
    p.add_argument("--held_out", type=Path, metavar="NPY", help="write the dataset indices they were not fitted on")
    p.add_argument("--out", type=Path, metavar="PNG", help="draw gap, signal to noise, weights and accuracies")
    return p


def difference(hits: np.ndarray) -> str:
    """Mean of paired differences [n] and its 95% interval, in percent."""
    half = metrics.Z95 * hits.std(ddof=1) / np.sqrt(len(hits))
    return f"{100 * hits.mean():+.2f} ({100 * (hits.mean() - half):+.2f} to {100 * (hits.mean() + half):+.2f})"


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.not_negative(args, "seed")
    cli.check_picture(args.out)
    if not 0 < args.fit < 1:
        raise InputError(f"--fit {args.fit:g}: must be between 0 and 1")
    run = records.read_run(args.folder)
    loss = records.loss_of(args.folder, run, args.loss)
    records.need(args.folder, run, "arms", "dataset")
    if run["options"].get("weights"):
        raise InputError(f"{args.folder}: a run with --weights; wanted one without")
    class_ids, arm_class = records.competitors(run)
    errors, label, level, indices = cli.read_full(args.folder, loss, class_ids, arm_class)
    if (label < 0).any():
        raise InputError(f"image {indices[label < 0][0]}: its label is no class of the run")
    fit = calibration.fitted_on(indices, args.fit, args.seed)
    if min(fit.sum(), (~fit).sum()) < 2:
        raise InputError(f"--fit {args.fit:g}: of {len(fit)} images, {fit.sum()} to fit on leave {(~fit).sum()}")

    P = len(level)
    centre = np.array([level[band].mean().round() for band in levels.bands(P)], dtype=int)
    w = levels.fit_weights(errors[fit], label[fit], np.random.default_rng(args.seed))
    w /= w.mean()
    w[w < 0.02 * w.max()] = 0  # then their levels need not be measured
    weights = np.interp(level, centre, w)  # [P], as --weights will read them
    gap, sd = levels.gaps(errors, label)

    print(f"{len(label)} images, {errors.shape[1]} classes, {P} points; weights fitted on {fit.sum()} images")
    print(f"\n{'levels':<12}{'gap':>12}{'its sd':>12}{'gap/sd':>8}{'weight':>8}")
    for k, band in enumerate(levels.bands(P)):
        row = f"{f'{level[band[0]]}-{level[band[-1]]}':<12}{gap[k]:>12.3g}{sd[k]:>12.3g}"
        print(f"{row}{gap[k] / sd[k]:>8.2f}{w[k]:>8.2f}")

    held, of = errors[~fit], label[~fit]
    print(f"\naccuracy in % on the {len(of)} other images (95% interval)")
    print(f"{'points':<12}{'plain':<26}{'weighted':<26}difference")
    table = []
    for points in [*(p for p in POINTS if p < P), P]:
        right = [levels.accuracies(held, of, points, each) for each in (np.ones(P), weights)]
        table.append((points, [(r.mean(), metrics.wilson(r.mean(), len(r))) for r in right]))
        cells = [cli.in_percent(*cell) for cell in table[-1][1]]
        print(f"{points:<12}{cells[0]:<26}{cells[1]:<26}{difference(right[1] - right[0])}")
    raced = [race(held, each, np.bincount(arm_class), level) for each in (np.ones(P), weights)]
    hits = [winners == of for winners, _ in raced]
    cells = [cli.in_percent(*metrics.share(hit)) for hit in hits]
    print(f"{'race':<12}{cells[0]:<26}{cells[1]:<26}{difference(hits[1].astype(float) - hits[0])}")
    nfe = [f"{spent.mean():,.0f} NFE" for _, spent in raced]
    print(f"{'':<12}{nfe[0]:<26}{nfe[1]:<26}ratio {raced[1][1].mean() / raced[0][1].mean():.2f}")

    if args.weights:
        lines = ["level,weight", *(f"{c},{each:.4g}" for c, each in zip(centre, w, strict=True))]
        records.write_atomic(args.weights, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
    if args.held_out:
        records.write_atomic(args.held_out, lambda file: np.save(file, indices[~fit]))
    if args.out:
        draw(
            level,
            gap,
            sd,
            w,
            table,
            f"{run['options']['dataset']}: {len(label)} images, {len(class_ids)} arms",
            args.out,
        )
    return 0


def race(errors: np.ndarray, weights: np.ndarray, arms: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Winners [n] and NFE [n] of races on errors [n, K, P], at the points whose weights [P] are not 0."""
    usable = np.flatnonzero(weights)
    order = usable[search.spread_sequence(len(usable), len(usable))]
    raced = [search.replay(search.race(level[order], arms, Z), (each * weights)[:, order], arms) for each in errors]
    winners, nfe = zip(*raced, strict=True)
    return np.array(winners), np.array(nfe)


def draw(level, gap, sd, w, table, heading: str, path: Path) -> None:
    """Gap, signal-to-noise ratio and weight of each band; accuracy against points, plain and weighted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(heading, fontsize=12, weight="bold")
    (upper, ratio), (weight, accuracy) = figure.subplots(2, 2)
    parts = levels.bands(len(level))
    middle, wide = np.array([(level[band].mean(), np.ptp(level[band]) + level[1] - level[0]) for band in parts]).T
    upper.bar(middle, gap, 0.9 * wide, color=cli.RIGHT, alpha=0.8)
    upper.set(ylabel="error of the nearest other class\nless the label's", xlabel="noise level")
    ratio.bar(middle, gap / sd, 0.9 * wide, color=cli.RIGHT, alpha=0.8)
    ratio.set(ylabel="the same over its standard deviation\n(one point)", xlabel="noise level")
    weight.bar(middle, w, 0.9 * wide, color=WEIGHTED, alpha=0.8)
    weight.axhline(1, color=PLAIN, linestyle="--", linewidth=1)
    weight.set(ylabel="fitted weight, mean 1", xlabel="noise level")
    points = [row[0] for row in table]
    for k, (name, colour) in enumerate([("plain", PLAIN), ("weighted", WEIGHTED)]):
        p, low, high = (100 * np.array(x) for x in zip(*[(row[1][k][0], *row[1][k][1]) for row in table], strict=True))
        accuracy.fill_between(points, low, high, color=colour, alpha=0.15, linewidth=0)
        accuracy.plot(points, p, marker="o", markersize=4, color=colour, label=name)
    accuracy.set(xscale="log", xlabel="points of each class", ylabel="accuracy on held-out images, %")
    accuracy.set_xticks(points, points)
    accuracy.minorticks_off()
    accuracy.legend(frameon=False, loc="lower right")
    for axes in (upper, ratio, weight, accuracy):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
    cli.save_figure(figure, path, dpi=110)


if __name__ == "__main__":
    cli.run(main)
