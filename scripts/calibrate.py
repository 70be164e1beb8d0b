"""Fit the temperature that turns a run's errors into probabilities, and measure these on the other images.

    python scripts/calibrate.py data/digits/vdigits_1trials_race_3z_500samples --fit 0.2 --out calibration.png

Writes FOLDER/calibration.json, or NAME.calibration.json beside a packed run NAME.parquet, which scripts/export.py
--probabilities reads. Whether an image is fitted on depends on
(--seed, index of the image) alone. All figures are measured on the other images, before the fit (temperature 1, the
plain softmax of minus the mean errors) and after it: ECE, the mean difference of confidence and accuracy in at most 15
bins of equally many images, and its value by chance if all confidences are right; the Brier score, 0 to 2; NLL in nats;
and the accuracy of the most confident 95, 90, 80 and 50% of the answers.
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(__doc__, "folder of a run")
    options.add_fit(p, 0.2)
    options.add(p, "--splits N", "repeat with N seeds, from --seed on; figures are then mean (min to max)", 1)
    options.add(p, "--out PNG", "draw confidence against accuracy, and accuracy against the share of images answered")
    return p


import json
import warnings

import numpy as np

from diffusion import InputWarning
from diffusion.io.atomic import write_atomic
from diffusion.io.wording import count
from diffusion.plots import confidence, style
from diffusion.runs import results, show
from diffusion.stats import calibration, metrics

FEW_FITTED = 20  # images: with fewer, a temperature is mostly chance
SHARES = [0.95, 0.9, 0.8, 0.5]  # of the images, answered


def measures(read: dict[str, np.ndarray], held: np.ndarray, temperature: float) -> dict[str, float]:
    """Name -> figure, of the images `held` [n] bool at one temperature; `read` as results.read_scores."""
    sure, briers, nlls = calibration.figures(read["scores"], read["label"], temperature, held)
    hit = (read["pred"] == read["label"])[held]
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

    fits, plain, fitted = [], [], []  # of each split: the images fitted on and the temperature; the measures
    for seed in range(args.seed, args.seed + args.splits):
        fit = calibration.fitted_on(read["index"], args.fit, seed)
        options.check_held_out(fit, args.fit)
        temperature = calibration.fit_temperature(scores[fit], label[fit])
        fits.append((fit, temperature))
        plain.append(measures(read, ~fit, 1))
        fitted.append(measures(read, ~fit, temperature))

    fit, temperature = fits[0]
    held = ~fit
    warn_of_few(int(fit.sum()), int(held.sum()))
    if calibration.no_better_than_equal(scores[fit], label[fit], temperature):
        flat = f"temperature {temperature:.4g}: on the images fitted on, equal probabilities of all classes do as well"
        warnings.warn(f"{flat}; the run is at chance, or these are too few", InputWarning, stacklevel=2)

    path = results.calibration_path(run.folder)
    written = [str(path)]
    saved = {"temperature": temperature, "loss": run.loss, "images": int(fit.sum()), "fit": args.fit, "seed": args.seed}
    text = json.dumps(saved | {"run": run.wanted.run}, indent=1).encode() + b"\n"
    write_atomic(path, lambda file: file.write(text))
    if args.out:
        sure, *_ = calibration.figures(scores, label, temperature, held)
        confidence.draw(sure, hit[held], f"{run.title}: {count(len(sure), 'image')} held out", args.out)
        written.append(str(args.out))

    print(f"{'written':<16}{', '.join(written)}")
    print(f"{'fitted on':<16}{count(int(fit.sum()), 'image')}: temperature {temperature:.4g}, in units of {run.loss}")
    print(f"{'held out':<16}{count(int(held.sum()), 'image')}")
    print(f"{'top-1 accuracy':<16}{show.percent(*metrics.share(hit[held]))}")
    if args.splits > 1:
        print(f"{'below':<16}{args.splits} splits: mean (min to max)")
    print(f"{'':<16}{'temperature 1':<30}fitted")
    for name in plain[0]:
        before = spread([table[name] for table in plain])
        after = spread([table[name] for table in fitted])
        print(f"{name:<16}{before:<30}{after}")
    return show.report(problems)


def warn_of_few(fitted: int, held: int) -> None:
    """Warn if so few images are fitted on or held out that the figures are mostly chance."""
    if held < confidence.FEW or fitted < FEW_FITTED:
        few = f"{count(fitted, 'image')} to fit on and {held} held out, wanted {FEW_FITTED} and {confidence.FEW}"
        warnings.warn(f"{few}: compare ECE with the line 'by chance'", InputWarning, stacklevel=2)


def spread(values: list[float]) -> str:
    """One number, or the mean of several and their range."""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{np.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


if __name__ == "__main__":
    options.run(main)
