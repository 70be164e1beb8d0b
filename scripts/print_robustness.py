"""Print accuracy under distribution shift, and effective robustness: how much better than standard classifiers' trend.

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
from diffusion.plots import style
from diffusion.runs import results
from diffusion.stats import metrics

FEW = ("imagenetA", "objectnet")  # sets of a part of ImageNet's classes


def hits(run: results.Run, only: set[int] | None = None) -> np.ndarray:
    """Whether the answers of a run are right [n] bool; `only`: for images of these classes, decided among them."""
    among = None if only is None else np.isin(run.class_ids, list(only))

    def decide(record: dict) -> dict:
        if among is None or record["label"] not in only:
            return record
        return record | {"pred": int(run.class_ids[metrics.rescore(record, run.arm_class, run.loss, among)])}

    change = None if only is None else decide
    rows, problems = results.read_rows(run.done.values(), of_run=True, change=change, loss=run.loss)
    if problems:
        raise InputError(run.folder, problems[0])
    return np.array([row["pred"] == row["label"] for row in rows if only is None or row["label"] in only], dtype=bool)


def trend(base: np.ndarray, shifted: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least-squares line logit(shifted) over logit(base); accuracies [n], n >= 2."""
    slope, intercept = np.polyfit(logit(base), logit(shifted), 1)
    return float(slope), float(intercept)


def draw(base: str, panels: dict, path: Path) -> None:
    """panels: data set -> ((model, its accuracy on the base, here) of each model, line or None)."""
    figure = style.new(4.2 * len(panels), 4)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axes, (name, (points, line)) in zip(all_axes, panels.items(), strict=True):
        values = np.array([[x, y] for _, x, y in points])
        low, high = logit(values.clip(0.005, 0.995).min() * 0.9), logit(min(values.max() + 0.02, 0.995))
        grid = np.linspace(low, high, 50)
        axes.plot(grid, grid, color="#d0d7de", linewidth=1)  # as on the base
        if line:
            axes.plot(grid, line[0] * grid + line[1], color=style.PLAIN, linestyle="--", linewidth=1)
        for model, x, y in points:
            standard = model.startswith("timm:")
            axes.plot(logit(x), logit(y), "o", color=style.PLAIN if standard else style.ACCENT)
            axes.annotate(
                style.shorten(model, 24), (logit(x), logit(y)), (5, -9), textcoords="offset points", fontsize=7
            )
        ticks = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])
        ticks = ticks[(logit(ticks) >= low) & (logit(ticks) <= high)]
        axes.set_xticks(logit(ticks), [f"{t:.0%}" for t in ticks])
        axes.set_yticks(logit(ticks), [f"{t:.0%}" for t in ticks])
        axes.set(xlim=(low, high), ylim=(low, high), xlabel=f"accuracy on {base}", title=name, aspect="equal")
    style.save(figure, path)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    runs: dict[tuple[str, str], results.Run] = {}
    for folder in args.folders:
        run = results.read(folder, "dataset")
        key = run.model, run.options["dataset"]
        if key in runs:
            beside = f"a second run of {key[0]} on {key[1]}, beside {runs[key].folder}"
            raise InputError(folder, f"{beside}; wanted one")
        runs[key] = run
    models, sets = (list(dict.fromkeys(names)) for names in zip(*runs, strict=True))
    shifted = [name for name in sets if name != args.base]
    if args.base not in sets or not shifted:
        raise InputError(f"--base {args.base}", f"wanted runs on it and on other sets, found {', '.join(sets)}")

    def accuracy(model: str, name: str, only: set[int] | None = None):
        if (model, name) not in runs:
            return None
        found = hits(runs[model, name], only)
        return metrics.share(found) if len(found) else None

    def cell(p, interval) -> str:
        return f"{100 * p:.1f} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"

    panels = {}
    for name in shifted:
        only = set(class_arms(name, 1000, catalogue.DATASET_ROOT)) if name in FEW else None
        both = {m: (accuracy(m, args.base, only), accuracy(m, name)) for m in models}
        both = {m: pair for m, pair in both.items() if None not in pair}
        standard = np.array([[a[0], b[0]] for m, (a, b) in both.items() if m.startswith("timm:")]).clip(0.001, 0.999)
        line = trend(*standard.T) if len(standard) >= 2 and np.ptp(standard[:, 0]) > 0 else None
        print(f"{name}{f', {len(only)} of the classes' if only else ''}")
        print(f"  {'model':<32}{args.base:>20}{name:>20}{'effective robustness':>24}")
        for model, (a, b) in both.items():
            above = (
                f"{100 * (b[0] - expit(line[0] * logit(np.clip(a[0], 0.001, 0.999)) + line[1])):+.1f}" if line else "-"
            )
            print(f"  {style.shorten(model, 31):<32}{cell(*a):>20}{cell(*b):>20}{above:>24}")
        points = [(m, *np.clip((a[0], b[0]), 0.005, 0.995)) for m, (a, b) in both.items()]
        if points:
            panels[name] = points, line
    if args.out and panels:
        draw(args.base, panels, args.out)
    return 0


if __name__ == "__main__":
    options.run(main)
