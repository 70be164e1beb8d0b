"""Print the accuracy of a run, finished or still going on.

python scripts/print_acc.py data/cifar10/v2-0_1trials_5_1keep_50_500samples_l1
"""

import argparse
import sys
from collections.abc import Iterator
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


def readable(paths: list[Path], unreadable: list[str]) -> Iterator[dict]:
    for path in paths:
        try:
            yield records.load_record(path)
        except InputError as error:
            unreadable.append(str(error))


def draw_confusion(table: np.ndarray, names: list[str], path: Path) -> None:
    """table [true, predicted], as shares of each true class."""
    import matplotlib.pyplot as plt

    share = table / table.sum(1, keepdims=True).clip(1)
    size = np.clip(0.35 * len(names) + 2, 4, 30)
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 60:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, table[row, column], ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if not args.folder.is_dir():
        raise InputError(f"{args.folder}: no such folder")
    paths = list(records.finished(args.folder).values())
    if not paths:
        raise InputError(f"{args.folder}: no per-image files (000.pt, ...) there")
    run = records.read_run(args.folder) if (args.folder / "run.json").exists() else None
    unreadable: list[str] = []
    rows = list(readable(paths, unreadable))
    if args.loss:
        if run is None or any("errors" not in row or "counts" not in row for row in rows):
            raise InputError(f"--loss {args.loss}: {args.folder} does not hold the errors, only the predictions")
        class_ids, arm_class = np.unique([c for _, _, c in run["prompts"]], return_inverse=True)
        for row in rows:
            row["pred"] = int(class_ids[metrics.rescore(row, arm_class, args.loss)])
    print(cli.accuracy_table(rows, run["images"] if run else len(paths)))
    if args.confusion:
        pred, label = (np.array([row[key] for row in rows], dtype=int) for key in ("pred", "label"))
        names = {c: name for _, name, c in run["prompts"]} if run else {}
        classes = sorted({*names, *pred.tolist(), *label.tolist()})
        draw_confusion(metrics.confusion(pred, label, classes), [names.get(c, str(c)) for c in classes], args.confusion)
    for problem in unreadable:
        print(f"not counted: {problem}", file=sys.stderr)
    return 1 if unreadable else 0


if __name__ == "__main__":
    cli.run(main)
