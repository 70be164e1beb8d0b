"""Print the accuracy of a run, finished or still going on.

python scripts/print_acc.py data/cifar10/v2-0_1trials_5_1keep_50_500samples_l1
"""

import argparse
import os
from pathlib import Path

import numpy as np

from diffusion import InputError, cli, metrics, records
from diffusion.errors import LOSSES


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of per-image files")
    p.add_argument("--loss", choices=LOSSES, help="decide again by another loss, among the classes measured to the end")
    p.add_argument("--confusion", type=Path, metavar="PNG", help="draw the confusion matrix")
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


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.check_picture(args.confusion)
    if not os.path.isdir(args.folder):
        raise InputError(f"{args.folder}: no such folder")
    done = records.finished(args.folder)  # one of them may have a note beside it, of a worker that came too late
    failed = {index: note.read_text() for index, note in records.failed(args.folder).items() if index not in done}
    if not done and not failed:
        raise InputError(f"{args.folder}: no per-image files (000.pt, ...) there")
    run = records.read_run(args.folder) if (args.folder / "run.json").exists() else None
    if run and run["options"].get("cls") is not None and (args.loss or args.confusion):
        raise InputError(f"{args.folder}: a run over a part of the classes, so there are no answers")
    if args.loss and run is None:
        raise InputError(f"--loss {args.loss}: {args.folder} has no run.json, so only predictions, no errors")
    if args.loss:
        records.loss_of(args.folder, run, args.loss)
    class_ids, arm_class = records.competitors(run) if run else ([], [])

    def decide_again(record: dict) -> dict:
        return record | {"pred": int(class_ids[metrics.rescore(record, arm_class, args.loss)])}

    wanted = {"loss": args.loss, "arms": len(arm_class), "change": decide_again} if args.loss else {}
    rows, problems = cli.read_rows(done.values(), own=run is not None, **wanted)
    problems += [f"image {index}: {note.strip()}" for index, note in failed.items()]
    if args.confusion:
        pred, label = (np.array([row[key] for row in rows], dtype=int) for key in ("pred", "label"))
        names = {c: name for _, name, c in run["arms"]} if run else {}
        classes = sorted({*names, *pred.tolist(), *label.tolist()})
        draw_confusion(metrics.confusion(pred, label, classes), [names.get(c, str(c)) for c in classes], args.confusion)
    return cli.print_accuracy(rows, max(run["images"] if run else 0, len(done)), problems)


if __name__ == "__main__":
    cli.run(main)
