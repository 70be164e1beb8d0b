"""Print the accuracy of a run, finished or not; for several runs, or a folder of runs, one line each.

    python scripts/print_acc.py data/cifar10/v2-0_1trials_5_1keep_50_500samples_l1

--metrics names further figures, each with its 95% interval:

    classes     precision, recall and F1 of each class; macro F1, of the classes with images
                (the mean per class is the balanced accuracy)
    two-class   AUROC, average precision, sensitivity at 90 and 95% specificity, for --positive
    groups      accuracy of each group, the worst, the gap; groups are a column of the data's csv: path,label,group
    shape-bias  of cue-conflict images, named as cat7-elephant1.png: of answers by shape or texture, the share by shape
    votes       the share of points at which the answer has the smallest error, for right and for wrong answers
"""

from diffusion.core.constants import LOSSES
from diffusion.evaluate import options

METRICS = ("classes", "two-class", "groups", "shape-bias", "votes")


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs, or a folder that holds runs", nargs="+")
    loss = "re-decide with this loss, among classes that were never dropped"
    options.add(p, "--loss", loss, choices=LOSSES)
    vote = "choose the class with the smallest mean error, or with the smallest error at most points"
    options.add(p, "--decide", vote, "error", choices=["error", "vote"])
    options.add(p, "--top K", "print also how often the label is among the K best")
    options.add(p, "--metrics", "further figures, see above", nargs="+", choices=METRICS)
    options.add(p, "--positive CLASS", "positive class of --metrics two-class; default the last class")
    options.add(p, "--confusion PNG", "draw the confusion matrix and list the most confused pairs")
    return p


import os
from pathlib import Path

import numpy as np

from diffusion import InputError, one_line
from diffusion.io.wording import count
from diffusion.plots import confusion, style
from diffusion.runs import differences, records, results, show
from diffusion.runs.results import Run
from diffusion.stats import intervals, metrics


def two_class(run: Run, rows: list[dict], positive: str | None) -> list[intervals.Measure]:
    """Figures of a run between two classes, one of which, by name, is positive. ValueError if it has not two."""
    names_of_classes = results.names_of_classes(run)
    names = [names_of_classes[int(class_id)] for class_id in run.classes]
    if len(names) != 2:
        raise ValueError(f"the run has {count(len(names), 'class')}, wanted 2")
    if positive is None:
        positive = list(names_of_classes.values())[-1]
    if positive not in names:
        raise InputError(f"--positive {positive}", f"wanted one of {', '.join(names)}")
    print(f"{'positive':<15} {one_line(positive, None)}")
    side = names.index(positive)
    scores = np.array([row["scores"] for row in rows])  # [n, 2]
    label = np.array([row["label"] for row in rows])
    if not np.isfinite(scores).all():
        raise ValueError("it did not measure both classes of every image")
    return intervals.two_class(scores[:, side] - scores[:, 1 - side], label == run.classes[side])


def print_classes(pred: np.ndarray, label: np.ndarray, names: dict[int, str]) -> None:
    """Print a line for each class that is a label or an answer; "-" stands for a share of no images."""
    print(f"\n{'class':<28}{'images':>7}{'precision':>26}{'recall':>26}{'F1':>26}")
    there = {*pred.tolist(), *label.tolist()}
    for class_id in [*(k for k in names if k in there), *sorted(there - names.keys())]:
        found = intervals.of_class(pred, label, class_id)
        cells = [show.in_percent(m.value, m.interval) if m.n else "-" for m in found]
        name = style.shorten(names.get(class_id, str(class_id)), 27)
        print(f"{name:<28}{np.sum(label == class_id):>7}" + "".join(f"{cell:>26}" for cell in cells))
    print()


def print_metrics(args, run: Run, rows: list[dict]) -> None:
    """Print the figures that --metrics names."""
    answers = show.answers(rows)
    if answers is None or not rows:
        raise InputError("--metrics", f"{run.folder} has no image with a label that is done")
    for name in args.metrics:
        try:
            found = measures_of(name, run, rows, *answers, args.positive)
        except ValueError as error:
            raise InputError(f"--metrics {name}", f"{run.folder}: {error}") from None
        for measure in found:
            title, value = show.line(measure)
            print(f"{title:<32} {value}, {count(measure.n, 'image')}")


def measures_of(
    name: str, run: Run, rows: list[dict], pred: np.ndarray, label: np.ndarray, positive: str | None
) -> list[intervals.Measure]:
    """The figures of one of METRICS. ValueError if the run does not have what they need."""
    names = results.names_of_classes(run)
    if name == "classes":
        print_classes(pred, label, names)
        return [intervals.macro_f1(pred, label)]
    if name == "two-class":
        return two_class(run, rows, positive)
    if name == "groups":
        lacking = [row["index"] for row in rows if "group" not in row]
        if lacking:
            raise ValueError(f"image {lacking[0]} has no group, wanted data of a csv of path,label,group")
        return intervals.groups(pred == label, np.array([row["group"] for row in rows]))
    if name == "shape-bias":
        answers = [names.get(class_id, "") for class_id in pred.tolist()]
        shapes = [names.get(class_id, "") for class_id in label.tolist()]
        files = [str(row.get("file", "")) for row in rows]
        return intervals.shape_bias(answers, shapes, files, names.values())
    share = np.array([row["votes"] for row in rows])
    compared = np.isfinite(share)
    return intervals.votes(share[compared], (pred == label)[compared])


def print_run(args, folder: Path) -> int:
    """Print the table of one folder, of a run or of published files."""
    if records.is_run(folder):
        return print_whole_run(args, folder)
    done, failed = records.finished(folder), results.failures(folder, {})
    if not done and not failed:
        raise InputError(folder, "no per-image files (000.pt, ...) there")
    for flag in ("loss", "top", "metrics"):
        value = getattr(args, flag)
        if value:
            raise InputError(f"--{flag} {value}", f"{folder} has no run.json, so only predictions, no errors")
    rows, problems = results.read_rows(done.values(), of_run=False)
    if args.confusion:
        draw_confusion(rows, {}, count(len(rows), "image"), args.confusion)
    return show.print_accuracy(rows, len(done), problems + failed)


def print_whole_run(args, folder: Path) -> int:
    """Print the table of a folder with run.json."""
    vote = args.decide == "vote"
    again = bool(args.loss or vote or args.top is not None or args.metrics)
    run = results.read(folder, loss=args.loss, answers=again or bool(args.confusion))
    failed = results.failures(folder, run.description)
    if not records.finished(folder) and not failed:
        raise InputError(folder, "no per-image files (000.pt, ...) there")
    if args.top is not None and args.top > len(run.classes):
        raise InputError(f"--top {args.top}", f"the run has {count(len(run.classes), 'class')}")

    if again:
        rows, problems = results.decided(run, vote, scores="two-class" in (args.metrics or ()))
    else:
        rows, problems = results.read_rows(run.done.values(), of_run=True)
    if args.confusion:
        draw_confusion(rows, results.names_of_classes(run), run.title, args.confusion)
    about = {"run": run.folder, "model": run.model, "data": run.data}
    if args.loss:
        about["decided by"] = f"{run.loss}; the run by {run.options['loss']}"
    for name, value in about.items():
        print(f"{name:<15} {one_line(str(value), None)}")
    total = max(run.description["images"], len(run.done))
    code = show.print_accuracy(rows, total, problems + failed, args.top)
    if args.metrics:
        print_metrics(args, run, rows)
    return code


def draw_confusion(rows: list[dict], names: dict[int, str], heading: str, path: Path) -> None:
    """The confusion matrix of rows; names: of the classes, by class id. InputError if rows have no labels."""
    answers = show.answers(rows)
    if answers is None:
        raise InputError(f"--confusion {path}", "the images have no labels")
    pred, label = answers
    classes = [*names, *sorted({*pred.tolist(), *label.tolist()} - names.keys())]
    called = [names.get(class_id, str(class_id)) for class_id in classes]
    confusion.draw(metrics.confusion(pred, label, classes), called, heading, path)


def print_runs(folders: list[Path], loss: str | None) -> int:
    """Print a line for each run."""
    problems = []
    runs = [results.read(folder, loss=loss, answers=bool(loss)) for folder in folders]
    prompts = prompts_of(runs)
    head = f"{'accuracy, %':<26}{'images':>15}{'NFE per image':>15}  {'model':<20} {'data':<28} "
    wide = max(map(len, prompts)) + 2
    if any(prompts):
        head += f"{'prompts':<{wide}}"
    print(f"{head}run")
    for run, words in zip(runs, prompts, strict=True):
        if loss:
            rows, wrong = results.decided(run, scores=False)
        else:
            rows, wrong = results.read_rows(run.done.values(), of_run=True)
        problems += [*wrong, *results.failures(run.folder, run.description)]
        answers = show.answers(rows)
        score = show.in_percent(*metrics.accuracy(*answers)) if answers and rows else "-"
        nfe = f"{np.mean([row['nfe'] for row in rows]):,.0f}" if rows else "-"
        of = f"{len(rows)} of {max(run.description['images'], len(rows))}"
        model, data = style.shorten(Path(str(run.model)).name, 20), style.shorten(run.data, 28)
        line = f"{score:<26}{of:>15}{nfe:>15}  {model:<20} {data:<28} "
        if any(prompts):
            line += f"{words:<{wide}}"
        print(line + one_line(str(run.folder), None))
    return show.report(problems)


def prompts_of(runs: list[Run]) -> list[str]:
    """The prompts of each run in a few words, "" if those of all runs on its data set are alike."""
    found = [""] * len(runs)
    for data in {run.data for run in runs}:
        members = [k for k, run in enumerate(runs) if run.data == data]
        words = differences.prompts_that_differ([runs[k].description for k in members])
        for k, of_run in zip(members, words, strict=True):
            found[k] = of_run
    return found


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "top")
    style.check_picture(args.confusion)
    if args.positive is not None and "two-class" not in (args.metrics or ()):
        raise InputError(f"--positive {args.positive}", "is for --metrics two-class")
    folders = [records.find_run(folder) for folder in args.folders]
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
