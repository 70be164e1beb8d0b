"""Fit the temperature that turns a run's errors into probabilities, and measure these on the other images.

    python scripts/calibrate.py data/digits/vdigits_1trials_race_3z_500samples --fit 0.2 --out calibration.png

Writes FOLDER/calibration.json, which scripts/export.py --probabilities reads. Which images are fitted on is drawn
from (--seed, index of the image) alone. All figures are of the others, before the fit (temperature 1, the plain softmax
of minus the mean errors) and after it: ECE, the mean difference of confidence and accuracy in bins of equally many
images, at most 15 of them, and what it is by chance where confidences are right; the Brier score, 0 to 2; NLL in nats;
and the accuracy when only the surest are answered.
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(__doc__, "folder of a run")
    options.add_fit(p, 0.2)
    options.add(p, "--splits N", "repeat with N seeds, from --seed on; figures are then mean (min to max)", 1)
    options.add(p, "--out PNG", "draw reliability, and accuracy against the share of images answered")
    return p


import json
import warnings
from pathlib import Path

import numpy as np

from diffusion import InputError, InputWarning
from diffusion.io.atomic import write_atomic
from diffusion.plots import style
from diffusion.runs import results, show
from diffusion.stats import calibration, metrics

FEW, FEW_FITTED = 100, 20  # images, held out and fitted on: with fewer, an ECE is mostly chance
SHARES = [0.95, 0.9, 0.8, 0.5]  # of the images, answered


def measures(scores: np.ndarray, label: np.ndarray, hit: np.ndarray, temperature: float) -> dict[str, float]:
    """What is printed of one part of the images at one temperature."""
    sure, briers, nlls = calibration.figures(scores, label, temperature)
    found = {
        "ECE": calibration.ece(sure, hit),
        "by chance": calibration.ece_by_chance(sure),
        "Brier": float(briers.mean()),
        "NLL, nats": float(nlls.mean()),
    }
    answered, right = calibration.coverage(sure, hit)
    for share in SHARES:
        found[f"surest {100 * share:.0f}%, %"] = 100 * right[np.searchsorted(answered, share)]
    return found


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "splits")
    options.check_fit(args)
    style.check_picture(args.out)
    run = results.read(args.folder, "arms", "dataset", loss=args.loss)
    read, problems = results.read_scores(run)
    scores, label, hit = read["scores"], read["label"], read["pred"] == read["label"]

    tables, first = [], None  # per split, the measures before and after; the first split's fit
    for seed in range(args.seed, args.seed + args.splits):
        fit = calibration.fitted_on(read["index"], args.fit, seed)
        if fit.all() or not fit.any():
            raise InputError(f"--fit {args.fit:g}", f"of {len(fit)} images, {fit.sum()} to fit on leave {(~fit).sum()}")
        temperature = calibration.fit_temperature(scores[fit], label[fit])
        first = first or (fit, temperature)
        tables.append([measures(scores[~fit], label[~fit], hit[~fit], t) for t in (1, temperature)])

    fit, temperature = first
    if args.out:
        sure, *_ = calibration.figures(scores[~fit], label[~fit], temperature)
        draw(sure, hit[~fit], f"{run.options['dataset']}: {len(sure)} images held out", args.out)
    n = int((~fit).sum())
    if n < FEW or fit.sum() < FEW_FITTED:
        few = f"{fit.sum()} images to fit on and {n} held out, wanted {FEW_FITTED} and {FEW}"
        warnings.warn(f"{few}: compare ECE with the line 'by chance'", InputWarning, stacklevel=2)
    if calibration.no_better_than_equal(scores[fit], label[fit], temperature):
        flat = f"temperature {temperature:.4g}: on the images fitted on, equal probabilities of all classes do as well"
        warnings.warn(f"{flat}; the run is at chance, or these are too few", InputWarning, stacklevel=2)
    saved = {"temperature": temperature, "loss": run.loss, "images": int(fit.sum()), "fit": args.fit, "seed": args.seed}
    text = json.dumps(saved, indent=1).encode()
    write_atomic(run.folder / "calibration.json", lambda file: file.write(text))
    print(f"{'written':<16}{run.folder / 'calibration.json'}" + (f", {args.out}" if args.out else ""))
    print(f"{'fitted on':<16}{fit.sum()} images: temperature {temperature:.4g}, in units of {run.loss}")
    print(f"{'held out':<16}{(~fit).sum()} images")
    print(f"{'top-1 accuracy':<16}{show.percent(*metrics.share(hit[~fit]))}")
    if args.splits > 1:
        print(f"{'below':<16}{args.splits} splits: mean (min to max)")
    print(f"{'':<16}{'temperature 1':<30}fitted")
    for name in tables[0][0]:
        shown = [spread([table[side][name] for table in tables]) for side in (0, 1)]
        print(f"{name:<16}{shown[0]:<30}{shown[1]}")
    return show.report(problems)


def spread(values: list[float]) -> str:
    """One number, or the mean of several and their range."""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{np.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def draw(sure: np.ndarray, hit: np.ndarray, heading: str, path: Path) -> None:
    """Share of right answers and confidence, bin by bin; share of right answers against coverage."""
    figure = style.new(10, 4.4, heading)
    left, right = figure.subplots(1, 2)
    style.draw_reliability(left, sure, hit)
    left.set_title(f"ECE {calibration.ece(sure, hit):.3f}", fontsize=10)
    answered, shares = calibration.coverage(sure, hit)
    shown = [(p, metrics.wilson(p, c * len(hit))) for c, p in zip(answered, shares, strict=True)]
    style.draw_shares(right, 100 * answered, shown, "-", colour=style.RIGHT)
    right.set(xlabel="answered, the surest first, %", ylabel="right of the answered, %", xlim=(0, 101))
    least = min(low for c, (_, (low, _)) in zip(answered, shown, strict=True) if c > 0.1)
    right.set_ylim(max(0, 100 * least - 1), 100.4)
    for axes in (left, right):
        style.open_up(axes)
    style.save(figure, path)


if __name__ == "__main__":
    options.run(main)
