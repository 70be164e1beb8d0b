"""Print the accuracy of a run, finished or still going on.

python scripts/print_acc.py data/cifar10/v2-0_1trials_5_1keep_50_500samples_l1
"""

from diffusion import options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(
        __doc__, "of per-image files", "decide again by this loss, among the classes measured to the end"
    )
    options.add(p, "--confusion PNG", "draw the confusion matrix")
    options.add(p, "--top K", "also how often the label is among the K best")
    options.add(p, "--probabilities CSV", "write them, by the temperature that scripts/calibrate.py found")
    return p


import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion import InputError, calibration, figures, metrics, records, results
from diffusion.files import write_atomic

ABOUT = ["index", "label", "pred"]  # the first columns of --probabilities


def draw_confusion(table: np.ndarray, names: list[str], path: Path) -> None:
    """table [true, predicted], as shares of each true class."""
    share = table / table.sum(1, keepdims=True).clip(1)
    size = np.clip(0.35 * len(names) + 2, 4, 30)
    figure = figures.new(size, size)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 60:
        shown = [figures.shorten(name, 40) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90)
        axes.set_yticks(range(len(names)), shown)
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, table[row, column], ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")
    figures.save(figure, path, dpi=120)


def write_probabilities(rows: list[dict], class_ids: np.ndarray, temperature: float, path: Path) -> None:
    """index, label, pred, then the probability of each class under its id; a line an image."""
    import pandas

    about = pandas.DataFrame([[row[key] for key in ABOUT] for row in rows], columns=ABOUT)
    p = calibration.probabilities(np.array([row["scores"] for row in rows]), temperature)
    table = pandas.concat([about, pandas.DataFrame(p, columns=class_ids)], axis=1)
    write_atomic(path, lambda file: table.to_csv(file, index=False, float_format="%.6g"))


def decider(args, run: results.Run) -> Callable[[dict], dict]:
    """What decides again by --loss, and adds to a record what --top and --probabilities ask for."""
    column = {int(c): k for k, c in enumerate(run.classes)}
    if args.top is not None and args.top > len(column):
        raise InputError(f"--top {args.top}: the run has {len(column)} classes")

    def decide(record: dict) -> dict:
        if args.loss:
            record["pred"] = int(run.class_ids[metrics.rescore(record, run.arm_class, args.loss)])
        if args.top is not None or args.probabilities is not None:
            scores = calibration.scores(record, run.class_ids, run.arm_class, run.loss)
            label, pred = column.get(record["label"]), column[record["pred"]]
            record["rank"] = len(column) if label is None else calibration.rank(scores, label, pred)
            record |= {"scores": scores} if args.probabilities else {}
        return record

    return decide


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "top")
    figures.check_picture(args.confusion)
    folder = records.run_folder(args.folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder")
    done = records.finished(folder)
    failed = results.failures(folder, done)
    if not done and not failed:
        raise InputError(f"{folder}: no per-image files (000.pt, ...) there")
    scored = args.top is not None or args.probabilities is not None
    change = {}
    if (folder / "run.json").exists():
        run = results.read(folder, loss=args.loss, answers=scored or bool(args.loss or args.confusion))
        if args.loss or scored:
            change = {"loss": run.loss, "arms": len(run.arm_class), "change": decider(args, run)}
        temperature = results.read_calibration(run)["temperature"] if args.probabilities else None
        known, total = results.names_of_classes(run), run.about["images"]
    else:
        for flag in ("loss", "top", "probabilities"):
            if given := getattr(args, flag):
                raise InputError(f"--{flag} {given}: {folder} has no run.json, so only predictions, no errors")
        run, known, total = None, {}, 0

    rows, problems = results.read_rows(done.values(), own=run is not None, **change)
    if args.confusion:
        pred, label = (np.array([row[key] for row in rows], dtype=int) for key in ("pred", "label"))
        classes = sorted({*known, *pred.tolist(), *label.tolist()})
        draw_confusion(metrics.confusion(pred, label, classes), [known.get(c, str(c)) for c in classes], args.confusion)
    if args.probabilities:
        write_probabilities(rows, run.classes, temperature, args.probabilities)
    return results.print_accuracy(rows, max(total, len(done)), problems + failed, args.top)


if __name__ == "__main__":
    options.run(main)
