"""Print the accuracy of a run, finished or not; for several runs, or a folder of runs, one line each.

    python scripts/print_acc.py data/cifar10/v2-0_1trials_5_1keep_50_500samples_l1

--metrics names further figures, each with its 95% interval:

    classes     precision, recall and F1 of each class; macro F1, of the classes with images
                (the mean per class is the balanced accuracy)
    two-class   AUROC, average precision, sensitivity at 90 and 95% specificity, for --positive
    groups      accuracy of each group, the worst, the gap; groups are a column of the data's csv: path,label,group
    shape-bias  of cue-conflict images, named as cat7-elephant1.png: of answers by shape or texture, the share by shape
    votes       the share of points where the answer has the smallest error, where it is right and where it is wrong
"""

from diffusion.core.constants import LOSSES
from diffusion.evaluate import options

METRICS = ("classes", "two-class", "groups", "shape-bias", "votes")


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs, or a folder that holds runs", nargs="+")
    loss = "decide again by this loss, among the classes measured to the end"
    options.add(p, "--loss", loss, choices=LOSSES)
    vote = "by the smallest mean error, or by the class with the smallest error at most points"
    options.add(p, "--decide", vote, "error", choices=["error", "vote"])
    options.add(p, "--top K", "print also how often the label is among the K best")
    options.add(p, "--metrics", "further figures, see above", nargs="+", choices=METRICS)
    options.add(p, "--positive CLASS", "positive class of --metrics two-class; default the last class")
    options.add(p, "--confusion PNG", "draw the confusion matrix")
    return p


import os
from pathlib import Path

import numpy as np

from diffusion import InputError, one_line
from diffusion.plots import style
from diffusion.runs import records, results, show
from diffusion.runs.results import Run
from diffusion.stats import intervals, metrics


def draw_confusion(table: np.ndarray, names: list[str], path: Path) -> None:
    """table [true, predicted], as shares of each true class."""
    share = table / table.sum(1, keepdims=True).clip(1)
    size = np.clip(0.35 * len(names) + 2, 4, 30)
    figure = style.new(size, size)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 60:
        shown = [style.shorten(name, 40) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90)
        axes.set_yticks(range(len(names)), shown)
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, table[row, column], ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")
    style.save(figure, path, dpi=120)


def two_class(run: Run, rows: list[dict], positive: str | None) -> list[intervals.Measure]:
    """Figures of a run between two classes, of which one, by name, is positive. ValueError: it has others."""
    called = {class_id: name for class_id, name in results.names_of_classes(run).items() if class_id in run.classes}
    positive = list(called.values())[-1] if positive is None else positive
    if len(called) != 2:
        raise ValueError(f"the run has {len(called)} classes, wanted 2")
    if positive not in called.values():
        raise InputError(f"--positive {positive}", f"wanted one of {', '.join(called.values())}")
    print(f"{'positive':<15} {one_line(positive, None)}")
    side = [called[int(c)] for c in run.classes].index(positive)
    scores = np.array([row["scores"] for row in rows])  # [n, 2]
    label = np.array([row["label"] for row in rows])
    if not np.isfinite(scores).all():
        raise ValueError("it did not measure both classes of every image")
    return intervals.two_class(scores[:, side] - scores[:, 1 - side], label == run.classes[side])


def print_classes(pred: np.ndarray, label: np.ndarray, names: dict[int, str]) -> None:
    """A line for each class that is a label or an answer; "-": a share of no images."""
    print(f"\n{'class':<28}{'images':>7}{'precision':>26}{'recall':>26}{'F1':>26}")
    for class_id in np.unique([pred, label]).tolist():
        found = intervals.of_class(pred, label, class_id)
        cells = [show.in_percent(m.value, m.interval) if m.n else "-" for m in found]
        name = style.shorten(names.get(class_id, str(class_id)), 27)
        print(f"{name:<28}{np.sum(label == class_id):>7}" + "".join(f"{cell:>26}" for cell in cells))
    print()


def print_metrics(args, run: Run, rows: list[dict]) -> None:
    """The figures that --metrics names."""
    if (both := show.answers(rows)) is None or not rows:
        raise InputError("--metrics", f"{run.folder} has no image with a label that is done")
    pred, label = both
    names = results.names_of_classes(run)
    for which in args.metrics:
        try:
            if which == "classes":
                print_classes(pred, label, names)
                found = [intervals.macro_f1(pred, label)]
            elif which == "two-class":
                found = two_class(run, rows, args.positive)
            elif which == "groups":
                if lacking := [row["index"] for row in rows if "group" not in row]:
                    raise ValueError(f"image {lacking[0]} has no group, wanted data of a csv of path,label,group")
                found = intervals.groups(pred == label, np.array([row["group"] for row in rows]))
            elif which == "shape-bias":
                said = [[names.get(class_id, "") for class_id in of.tolist()] for of in both]
                found = intervals.shape_bias(*said, [str(row.get("file", "")) for row in rows], names.values())
            else:
                share = np.array([row["votes"] for row in rows])
                found = intervals.votes(share[np.isfinite(share)], (pred == label)[np.isfinite(share)])
        except ValueError as error:
            raise InputError(f"--metrics {which}", f"{run.folder}: {error}") from None
        for measure in found:
            name, value = show.line(measure)
            print(f"{name:<32} {value}, {measure.n} images")


def print_run(args, folder: Path) -> int:
    """The table of one folder, of ours or published."""
    done = records.finished(folder)
    failed = results.failures(folder, {})
    if not done and not failed:
        raise InputError(folder, "no per-image files (000.pt, ...) there")
    vote = args.decide == "vote"
    known, total, again = {}, 0, False
    if records.is_run(folder):
        again = bool(args.loss or vote or args.top is not None or args.metrics)
        run = results.read(folder, loss=args.loss, answers=again or bool(args.confusion))
        done, failed = run.done, results.failures(folder, run.about)
        if args.top is not None and args.top > len(run.classes):
            raise InputError(f"--top {args.top}", f"the run has {len(run.classes)} classes")
        known, total = results.names_of_classes(run), run.about["images"]
    else:
        for flag in ("loss", "top", "metrics"):
            if given := getattr(args, flag):
                raise InputError(f"--{flag} {given}", f"{folder} has no run.json, so only predictions, no errors")
        run = None

    if again:
        rows, problems = results.decided(run, vote, scores="two-class" in (args.metrics or ()))
    else:
        rows, problems = results.read_rows(done.values(), of_run=run is not None)
    if args.confusion:
        both = show.answers(rows)
        if both is None:
            raise InputError(f"--confusion {args.confusion}", f"{folder} has no labels")
        classes = sorted({*known, *both[0].tolist(), *both[1].tolist()})
        draw_confusion(metrics.confusion(*both, classes), [known.get(c, str(c)) for c in classes], args.confusion)
    if run:
        for name, value in {"run": run.folder, "model": run.model, "data": run.data}.items():
            print(f"{name:<15} {one_line(str(value), None)}")
    code = show.print_accuracy(rows, max(total, len(done)), problems + failed, args.top)
    if args.metrics:
        print_metrics(args, run, rows)
    return code


def print_runs(folders: list[Path], loss: str | None) -> int:
    """A line for each run."""
    print(f"{'accuracy, %':<26}{'images':>15}{'NFE per image':>15}  {'model':<20} {'data':<28} run")
    problems = []
    for folder in folders:
        run = results.read(folder, loss=loss, answers=bool(loss))
        rows, wrong = results.decided(run, scores=False) if loss else results.read_rows(run.done.values(), of_run=True)
        problems += [*wrong, *results.failures(run.folder, run.about)]
        both = show.answers(rows)
        score = show.in_percent(*metrics.accuracy(*both)) if both and rows else "-"
        nfe = f"{np.mean([row['nfe'] for row in rows]):,.0f}" if rows else "-"
        of = f"{len(rows)} of {max(run.about['images'], len(rows))}"
        model, data = style.shorten(Path(str(run.model)).name, 20), style.shorten(run.data, 28)
        print(f"{score:<26}{of:>15}{nfe:>15}  {model:<20} {data:<28} {one_line(str(run.folder), None)}")
    return show.report(problems)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "top")
    style.check_picture(args.confusion)
    if args.positive is not None and "two-class" not in (args.metrics or ()):
        raise InputError(f"--positive {args.positive}", "is for --metrics two-class")
    folders = [records.run_folder(folder) for folder in args.folders]
    for folder in folders:
        if not os.path.exists(folder):
            raise InputError(folder, "no such folder")
    if len(folders) == 1 and not records.is_run(folders[0]) and not records.finished(folders[0]):
        below = [path.parent for path in sorted(folders[0].glob("**/run.json"))]
        folders = [folder for folder in below if folder not in folders] or folders
        several = bool(below)
    else:
        several = len(folders) > 1
    if not several:
        return print_run(args, folders[0])
    one_only = ["decide", "top", "metrics", "positive", "confusion"]
    options.refuse(args, parser(), one_only, f"is for one run, not for {len(folders)}")
    return print_runs(folders, args.loss)


if __name__ == "__main__":
    options.run(main)
