"""Print accuracy under distribution shift, and effective robustness: accuracy above the trend of standard classifiers.

    python scripts/print_robustness.py data/imagenet/* data/imagenetA/* data/objectnet/* --out robustness.png

Takes run folders of several models on several data sets, one folder for a model and a data set. Accuracy on another
set rises with accuracy on ImageNet; effective robustness is what a model has above that trend (arXiv 2007.00644). The
trend is a line in logit space through the classifiers of timm among the folders; it takes two of them.

For ImageNet-A and ObjectNet, the accuracy on ImageNet is that on images of their classes, decided among these alone.
"""

from diffusion.data import catalogue
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs", nargs="+")
    options.add(p, "--base NAME", "the data set without shift", "imagenet")
    options.add(p, "--out PNG", "draw accuracy on each data set against that on --base")
    return p


from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from diffusion import InputError
from diffusion.data.datasets import class_arms
from diffusion.plots import robustness, style
from diffusion.runs import results, show
from diffusion.stats import metrics

FEW = ("imagenetA", "objectnet")  # sets of a part of ImageNet's classes


def hits(run: results.Run, only: set[int] | None = None) -> np.ndarray:
    """Whether each answer of a run is right [n] bool; `only`: images of these classes, decided among these alone."""
    among = None if only is None else np.isin(run.class_ids, list(only))

    def decide(record: dict) -> dict:
        if among is None or record["label"] not in only:
            return record
        return record | {"pred": int(run.class_ids[metrics.rescore(record, run.arm_class, run.loss, among)])}

    change = None if only is None else decide
    rows, problems = results.read_rows(run.done.values(), of_run=True, change=change, loss=run.loss)
    if problems:
        raise InputError(run.folder, problems[0])
    counted = [row for row in rows if only is None or row["label"] in only]
    return np.array([row["pred"] == row["label"] for row in counted], dtype=bool)


def trend(base: np.ndarray, shifted: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least-squares line of logit(shifted) over logit(base); accuracies [n], n >= 2."""
    slope, intercept = np.polyfit(logit(base), logit(shifted), 1)
    return float(slope), float(intercept)


def read_runs(folders: list[str]) -> dict[tuple[str, str], results.Run]:
    """(model, data set) -> its run. InputError if there are two of them."""
    runs: dict[tuple[str, str], results.Run] = {}
    for folder in folders:
        run = results.read(Path(folder), "dataset")
        key = str(run.model), run.options["dataset"]
        if key in runs:
            beside = f"a second run of {key[0]} on {key[1]}, beside {runs[key].folder}"
            raise InputError(folder, f"{beside}; wanted one")
        runs[key] = run
    return runs


def accuracy_of(run: results.Run | None, only: set[int] | None = None) -> tuple[float, tuple[float, float]] | None:
    """Accuracy and its interval; None if there is no run, or no image of the classes `only`."""
    if run is None:
        return None
    found = hits(run, only)
    return metrics.share(found) if len(found) else None


def above_trend(base: float, shifted: float, line: tuple[float, float]) -> float:
    """Effective robustness: accuracy on the shifted set minus what the trend gives for the accuracy on the base."""
    slope, intercept = line
    return float(shifted - expit(slope * logit(np.clip(base, 0.001, 0.999)) + intercept))


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    style.check_picture(args.out)
    runs = read_runs(args.folders)
    models, sets = (list(dict.fromkeys(names)) for names in zip(*runs, strict=True))
    shifted = [name for name in sets if name != args.base]
    if args.base not in sets or not shifted:
        raise InputError(f"--base {args.base}", f"wanted runs on it and on other sets, found {', '.join(sets)}")

    panels = {}
    for name in shifted:
        only = set(class_arms(name, 1000, catalogue.DATASET_ROOT)) if name in FEW else None
        both = {}
        for model in models:
            pair = accuracy_of(runs.get((model, args.base)), only), accuracy_of(runs.get((model, name)))
            if None not in pair:
                both[model] = pair

        standard = [(a[0], b[0]) for model, (a, b) in both.items() if model.startswith("timm:")]
        standard = np.array(standard).reshape(-1, 2).clip(0.001, 0.999)  # [models, 2]
        line = trend(*standard.T) if len(standard) >= 2 and np.ptp(standard[:, 0]) > 0 else None

        part = f", {len(only)} of the classes" if only else ""
        print(f"{name}{part}")
        print(f"  {'model':<32}{args.base:>20}{name:>20}{'effective robustness':>24}")
        for model, (a, b) in both.items():
            above = f"{100 * above_trend(a[0], b[0], line):+.1f}" if line else "-"
            cells = f"{show.short_percent(*a):>20}{show.short_percent(*b):>20}{above:>24}"
            print(f"  {style.shorten(model, 31):<32}{cells}")
        points = [(model, *np.clip((a[0], b[0]), 0.005, 0.995)) for model, (a, b) in both.items()]
        if points:
            panels[name] = points, line
    if args.out and panels:
        robustness.draw(args.base, panels, args.out)
    return 0


if __name__ == "__main__":
    options.run(main)
