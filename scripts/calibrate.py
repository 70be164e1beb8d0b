"""Fit the temperature that makes a run's errors probabilities, and measure them on images it was not fitted on.

    python scripts/calibrate.py data/digits/vdigits_1trials_race_3z_500samples --fit 0.2 --out calibration.png

Writes FOLDER/calibration.json, which scripts/print_acc.py --probabilities reads. Which images are fitted on is drawn
from (--seed, index of the image) alone. All figures are of the others, before the fit (temperature 1, the plain softmax
of minus the mean errors) and after it: ECE, the mean difference of confidence and accuracy in 15 bins of equally many
images, and what it is by chance where confidences are right; the Brier score, 0 to 2; NLL in nats; and the accuracy
when only the surest are answered.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from diffusion import InputError, calibration, cli, metrics, records
from diffusion.errors import LOSSES

SHARES = [0.95, 0.9, 0.8, 0.5]  # of the images, answered


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of a run")
    p.add_argument("--fit", type=float, default=0.2, help="the share of images to fit on; default %(default)g")
    p.add_argument("--seed", type=int, default=0, help="of the split; default %(default)s")
    p.add_argument("--splits", type=int, default=1, help="also with the next seeds: the figures are mean (min to max)")
    p.add_argument("--loss", choices=LOSSES, help="which loss decides; default the run's")
    p.add_argument("--out", type=Path, metavar="PNG", help="draw reliability, and accuracy against coverage")
    return p


def measures(scores: np.ndarray, label: np.ndarray, hit: np.ndarray, temperature: float) -> dict[str, float]:
    """What is printed of one part of the images at one temperature."""
    p = calibration.probabilities(scores, temperature)
    sure = p.max(1)
    found = {
        "ECE": calibration.ece(sure, hit),
        "by chance": calibration.ece_by_chance(sure),
        "Brier": calibration.brier(p, label),
        "NLL, nats": calibration.nll(p, label),
    }
    answered, right = calibration.coverage(sure, hit)
    for share in SHARES:
        found[f"surest {100 * share:.0f}%, %"] = 100 * right[np.searchsorted(answered, share)]
    return found


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "splits")
    cli.not_negative(args, "seed")
    if not 0 < args.fit < 1:
        raise InputError(f"--fit {args.fit:g}: must be between 0 and 1")
    run = records.read_run(args.folder)
    cli.answers(args.folder, run)
    records.need(args.folder, run, "arms", "dataset")
    loss = records.loss_of(args.folder, run, args.loss)
    rows, problems = cli.read_scores(args.folder, run, loss)
    indices, scores, label, pred = (
        np.array([row[key] for row in rows]) for key in ("index", "scores", "label", "pred")
    )
    hit = pred == label

    tables, first = [], None  # per split, the measures before and after; the first split's fit
    for seed in range(args.seed, args.seed + args.splits):
        fit = calibration.fitted_on(indices, args.fit, seed)
        if fit.all() or not fit.any():
            raise InputError(f"--fit {args.fit:g}: of {len(fit)} images, {fit.sum()} to fit on leave {(~fit).sum()}")
        temperature = calibration.fit_temperature(scores[fit], label[fit])
        first = first or (fit, temperature)
        tables.append([measures(scores[~fit], label[~fit], hit[~fit], t) for t in (1, temperature)])

    fit, temperature = first
    if args.out:
        options = run["options"]
        sure = calibration.probabilities(scores[~fit], temperature).max(1)
        draw(sure, hit[~fit], f"{options['dataset']}: {len(sure)} images held out", args.out)
    saved = {"temperature": temperature, "loss": loss, "images": int(fit.sum()), "fit": args.fit, "seed": args.seed}
    text = json.dumps(saved, indent=1).encode()
    records.write_atomic(args.folder / "calibration.json", lambda file: file.write(text))
    print(f"{'fitted on':<16}{fit.sum()} images: temperature {temperature:.4g}, in units of {loss}")
    print(f"{'held out':<16}{(~fit).sum()} images")
    print(f"{'top-1 accuracy':<16}{cli.percent(*metrics.share(hit[~fit]))}")
    if args.splits > 1:
        print(f"{'below':<16}{args.splits} splits: mean (min to max)")
    print(f"{'':<16}{'temperature 1':<30}fitted")
    for name in tables[0][0]:
        shown = [spread([table[side][name] for table in tables]) for side in (0, 1)]
        print(f"{name:<16}{shown[0]:<30}{shown[1]}")
    return cli.report(problems)


def spread(values: list[float]) -> str:
    """One number, or the mean of several and their range."""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{np.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def draw(sure: np.ndarray, hit: np.ndarray, heading: str, path: Path) -> None:
    """Share of right answers and confidence, bin by bin; share of right answers against coverage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(heading, fontsize=12, weight="bold")
    left, right = figure.subplots(1, 2)
    confidence, share, images = calibration.reliability(sure, hit).T
    low, high = np.array([metrics.wilson(p, n) for p, n in zip(share, images, strict=True)]).T
    place = np.arange(1, len(images) + 1)  # against confidence itself, all bins but one would lie upon each other
    left.vlines(place, 100 * low, 100 * high, color=cli.RIGHT, alpha=0.35, label="95% interval")
    left.plot(place, 100 * share, "o", markersize=5, color=cli.RIGHT, label="right")
    left.plot(place, 100 * confidence, "_", markersize=14, markeredgewidth=2, color="#0969da", label="confidence")
    left.set(
        xlabel=f"bins of {images.min():.0f} images or one more, the least sure first", ylabel="%", ylim=(None, 101)
    )
    left.set_title(f"ECE {calibration.ece(sure, hit):.3f}", fontsize=10)
    left.legend(frameon=False, loc="lower right")
    answered, right_share = calibration.coverage(sure, hit)
    low, high = np.array([metrics.wilson(p, c * len(hit)) for c, p in zip(answered, right_share, strict=True)]).T
    right.fill_between(100 * answered, 100 * low, 100 * high, color=cli.RIGHT, alpha=0.12, linewidth=0)
    right.plot(100 * answered, 100 * right_share, color=cli.RIGHT)
    right.set(xlabel="answered, the surest first, %", ylabel="right of the answered, %", xlim=(0, 101))
    right.set_ylim(max(0, 100 * low[answered > 0.1].min() - 1), 100.4)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
    cli.save_figure(figure, path, dpi=110)


if __name__ == "__main__":
    cli.run(main)
