"""Print the accuracy of a run, finished or still going on.

python scripts/print_acc.py data/cifar10/v2-0_1trials_5_1keep_50_500samples_l1
"""

import argparse
import os
from pathlib import Path

import numpy as np

from diffusion import InputError, calibration, cli, metrics, records
from diffusion.errors import LOSSES

ABOUT = ["index", "label", "pred"]  # the first columns of --probabilities


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of per-image files")
    p.add_argument("--loss", choices=LOSSES, help="decide again by another loss, among the classes measured to the end")
    p.add_argument("--confusion", type=Path, metavar="PNG", help="draw the confusion matrix")
    p.add_argument("--top", type=int, metavar="K", help="also how often the label is among the K best")
    p.add_argument(
        "--probabilities", type=Path, metavar="CSV", help="by the temperature that scripts/calibrate.py found"
    )
    return p


def draw_confusion(table: np.ndarray, names: list[str], path: Path) -> None:
    """table [true, predicted], as shares of each true class."""
    from matplotlib.figure import Figure

    share = table / table.sum(1, keepdims=True).clip(1)
    size = np.clip(0.35 * len(names) + 2, 4, 30)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 60:
        shown = [cli.shorten(name, 40) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90)
        axes.set_yticks(range(len(names)), shown)
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, table[row, column], ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")
    cli.save_figure(figure, path, dpi=120)


def write_probabilities(rows: list[dict], class_ids: np.ndarray, temperature: float, path: Path) -> None:
    """index, label, pred, then the probability of each class under its id; a line an image."""
    import pandas

    about = pandas.DataFrame([[row[key] for key in ABOUT] for row in rows], columns=ABOUT)
    p = calibration.probabilities(np.array([row["scores"] for row in rows]), temperature)
    table = pandas.concat([about, pandas.DataFrame(p, columns=class_ids)], axis=1)
    records.write_atomic(path, lambda file: table.to_csv(file, index=False, float_format="%.6g"))


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "top")
    cli.check_picture(args.confusion)
    if not os.path.isdir(args.folder):
        raise InputError(f"{args.folder}: no such folder")
    done = records.finished(args.folder)
    failed = cli.failures(args.folder, done)
    if not done and not failed:
        raise InputError(f"{args.folder}: no per-image files (000.pt, ...) there")
    run = records.read_run(args.folder) if (args.folder / "run.json").exists() else None
    if run and run["options"].get("cls") is not None and (args.loss or args.confusion):
        raise InputError(f"{args.folder}: a run over a part of the classes, so there are no answers")
    for flag in ("loss", "top", "probabilities"):
        if getattr(args, flag) and run is None:
            given = f"--{flag} {getattr(args, flag)}"
            raise InputError(f"{given}: {args.folder} has no run.json, so only predictions, no errors")
    scored = args.top is not None or args.probabilities is not None
    loss = records.loss_of(args.folder, run, args.loss) if args.loss or scored else None
    class_ids, arm_class = records.competitors(run) if run else ([], [])
    column = {int(c): k for k, c in enumerate(np.unique(class_ids))}
    if scored:
        cli.answers(args.folder, run)
    if args.top is not None and args.top > len(column):
        raise InputError(f"--top {args.top}: the run has {len(column)} classes")
    temperature = cli.read_calibration(args.folder, loss)["temperature"] if args.probabilities else None

    def decide(record: dict) -> dict:
        if args.loss:
            record["pred"] = int(class_ids[metrics.rescore(record, arm_class, args.loss)])
        if scored:
            scores = calibration.scores(record, class_ids, arm_class, loss)
            label, pred = column.get(record["label"]), column[record["pred"]]
            record["rank"] = len(column) if label is None else calibration.rank(scores, label, pred)
            if args.probabilities:
                record["scores"] = scores
        return record

    wanted = {"loss": loss, "arms": len(arm_class), "change": decide} if loss else {}
    rows, problems = cli.read_rows(done.values(), own=run is not None, **wanted)
    problems += failed
    if args.confusion:
        pred, label = (np.array([row[key] for row in rows], dtype=int) for key in ("pred", "label"))
        names = {c: name for _, name, c in run["arms"]} if run else {}
        classes = sorted({*names, *pred.tolist(), *label.tolist()})
        draw_confusion(metrics.confusion(pred, label, classes), [names.get(c, str(c)) for c in classes], args.confusion)
    if args.probabilities:
        write_probabilities(rows, np.unique(class_ids), temperature, args.probabilities)
    return cli.print_accuracy(rows, max(run["images"] if run else 0, len(done)), problems, args.top)


if __name__ == "__main__":
    cli.run(main)
