"""Show which noise levels distinguish the classes of a run, and fit weights for them, from records alone.

    python eval_prob_adaptive.py --version digits --dataset digits --to_keep 1 --n_samples 500 --extra full
    python scripts/plot_levels.py data/digits_full/vdigits_1trials_1keep_500samples --weights weights.csv \\
        --out levels.png

The run must have measured every class at every point. Weights are fitted on half of its images (--fit) and scored on
the others: accuracy for several numbers of points per class, and what a race costs. They are written for
--weights of the scripts that evaluate, and the indices of the other images for their --subset_path (--held_out).
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(__doc__, "folder of a run of one stage: every class at every point")
    options.add_fit(p, 0.5)
    options.add(p, "--weights CSV", "write the weights")
    options.add(p, "--held_out NPY", "write the indices of the images they were not fitted on")
    options.add(p, "--out PNG", "draw gap, gap over its deviation, weights and accuracies")
    return p


import numpy as np

from diffusion import InputError
from diffusion.core import search
from diffusion.io.atomic import write_atomic
from diffusion.io.wording import count
from diffusion.plots import levels, style
from diffusion.runs import results, show
from diffusion.stats import calibration, level_weights, metrics

POINTS = [4, 8, 16, 32, 64, 128, 256]
Z = 3.0  # the race's default


def difference(hits: np.ndarray) -> str:
    """Mean of paired differences [n] and its 95% interval, in percent."""
    half = metrics.Z95 * hits.std(ddof=1) / np.sqrt(len(hits))
    return f"{100 * hits.mean():+.2f} ({100 * (hits.mean() - half):+.2f} to {100 * (hits.mean() + half):+.2f})"


def print_line(name: str | int, plain: np.ndarray, weighted: np.ndarray) -> None:
    """Print a line of the table, from how often each image is right [n] with plain and with weighted points."""
    cells = show.in_percent(*metrics.share(plain)), show.in_percent(*metrics.share(weighted))
    print(f"{name:<12}{cells[0]:<26}{cells[1]:<26}{difference(weighted - plain)}")


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.check_fit(args)
    style.check_picture(args.out)
    run = results.read(args.folder, "arms", "dataset", loss=args.loss, answers=False)
    if run.options.get("weights"):
        raise InputError(run.folder, "a run with --weights; wanted one without")
    errors, label, level = results.read_full(run)
    indices = np.array(list(run.done))
    if (label < 0).any():
        raise InputError(f"image {indices[label < 0][0]}", "its label is no class of the run")
    fit = calibration.fitted_on(indices, args.fit, args.seed)
    options.check_held_out(fit, args.fit, least=2)

    P = len(level)
    centre = np.array([level[band].mean().round() for band in level_weights.bands(P)], dtype=int)
    w = level_weights.fit_weights(errors[fit], label[fit], np.random.default_rng(args.seed))
    w /= w.mean()
    w[w < 0.02 * w.max()] = 0  # then their levels need not be measured
    weights = np.interp(level, centre, w)  # [P], as --weights will read them
    gap, sd = level_weights.gaps(errors, label)

    size = f"{count(len(label), 'image')}, {count(errors.shape[1], 'class')}, {count(P, 'point')}"
    print(f"{size}; weights fitted on {count(int(fit.sum()), 'image')}")
    print(f"\n{'levels':<12}{'gap':>12}{'its sd':>12}{'gap/sd':>8}{'weight':>8}")
    for k, band in enumerate(level_weights.bands(P)):
        row = f"{f'{level[band[0]]}-{level[band[-1]]}':<12}{gap[k]:>12.3g}{sd[k]:>12.3g}"
        print(f"{row}{gap[k] / sd[k]:>8.2f}{w[k]:>8.2f}")

    held, of = errors[~fit], label[~fit]
    print(f"\naccuracy in % on the {len(of)} other images (95% interval)")
    print(f"{'points':<12}{'plain':<26}{'weighted':<26}difference")
    table = []
    for points in [*(p for p in POINTS if p < P), P]:
        plain = level_weights.accuracies(held, of, points, np.ones(P))
        weighted = level_weights.accuracies(held, of, points, weights)
        print_line(points, plain, weighted)
        table.append((points, [metrics.share(plain), metrics.share(weighted)]))

    arms = np.bincount(run.arm_class)
    plain, nfe = race(held, np.ones(P), arms, level)
    weighted, weighted_nfe = race(held, weights, arms, level)
    print_line("race", (plain == of).astype(float), (weighted == of).astype(float))
    costs = f"{nfe.mean():,.0f} NFE", f"{weighted_nfe.mean():,.0f} NFE"
    print(f"{'':<12}{costs[0]:<26}{costs[1]:<26}ratio {weighted_nfe.mean() / nfe.mean():.2f}")

    if args.weights:
        lines = ["level,weight", *(f"{c},{each:.4g}" for c, each in zip(centre, w, strict=True))]
        write_atomic(args.weights, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
    if args.held_out:
        write_atomic(args.held_out, lambda file: np.save(file, indices[~fit]))
    if args.out:
        size = f"{count(len(label), 'image')}, {count(len(run.class_ids), 'class')}"
        heading = f"{run.title}: {size}"
        levels.draw(level, (gap, sd, w), table, heading, args.out)
    return 0


def race(errors: np.ndarray, weights: np.ndarray, arms: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Winners [n] and NFE [n] of races on errors [n, K, P], at the points whose weights [P] are not 0."""
    usable = np.flatnonzero(weights)
    order = usable[search.spread_sequence(len(usable), len(usable))]
    raced = [search.replay(search.race(level[order], arms, Z), (each * weights)[:, order], arms) for each in errors]
    winners, nfe = zip(*raced, strict=True)
    return np.array(winners), np.array(nfe)


if __name__ == "__main__":
    options.run(main)
