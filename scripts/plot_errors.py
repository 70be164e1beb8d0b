"""Draw a run: each image, the class that won, and by how much the other prompts predicted the noise worse.

python scripts/plot_errors.py data/digits/vdigits_1trials_5_1keep_50_500samples digits.png
"""

import argparse
from pathlib import Path

import numpy as np

from diffusion import InputError, cli, metrics, records
from diffusion.datasets import as_seen, load_dataset
from diffusion.search import even

COLUMNS = 10
ALL_CLASSES = 12  # up to so many classes, all of them are listed, always in the same order
BEST_CLASSES = 8  # of more classes, so many are listed, the best first
BAR, TEXT = "#b9d3ee", "#333333"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of a run")
    p.add_argument("out", type=Path, metavar="OUT.png")
    p.add_argument("--images", type=int, default=50, help="at most so many, spread evenly over those that are done")
    return p


def draw(images: list, rows: list[dict], names: list[str], heading: str, footing: str, path: Path) -> None:
    """One cell an image: the winner's name, the image, a bar for each class.

    images: [h, w, 3] in 0..1; rows: pred and label (class rows; label None where no prompt has it) and excess [K].
    """
    from matplotlib.figure import Figure

    listed = len(names) if len(names) <= ALL_CLASSES else BEST_CLASSES
    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    side, title, gap, bar = 1.35, 0.36, 0.16, 0.14  # inches
    cell = title + side + 0.06 + bar * listed + gap
    width, height = max(columns * (side + gap) + gap, 6.5), lines * cell + 0.75
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(gap / width, 1 - 0.12 / height, heading, va="top", fontsize=12, weight="bold")

    def axes(left: float, top: float, tall: float):
        made = figure.add_axes((left / width, 1 - (top + tall) / height, side / width, tall / height))
        made.set(xticks=[], yticks=[])
        return made

    shown = [
        np.arange(listed) if listed == len(names) else np.argsort(row["excess"], kind="stable")[:listed] for row in rows
    ]
    listed_excess = [row["excess"][k] for row, k in zip(rows, shown, strict=True)]
    scale = max(float(excess[np.isfinite(excess)].max()) for excess in listed_excess) or 1.0
    note = f"{footing} The longest bar is {scale:.3g}."
    figure.text(gap / width, 0.1 / height, note, va="bottom", fontsize=8, color=TEXT)
    for n, (image, row, k) in enumerate(zip(images, rows, shown, strict=True)):
        left, top = gap + (side + gap) * (n % columns), 0.4 + cell * (n // columns)
        pred, label = row["pred"], row["label"]
        colour = cli.RIGHT if pred == label else cli.WRONG
        picture = axes(left, top + title, side)
        picture.imshow(image)  # enlarges small images to crisp pixels
        for spine in picture.spines.values():
            spine.set(color=colour, linewidth=2)
        truth = "" if pred == label else "is no prompt's" if label is None else f"is {cli.shorten(names[label], 22)}"
        title_text = cli.shorten(names[pred], 20) + ("\n" if truth else "")
        picture.set_title(title_text, fontsize=9, color=colour, weight="bold", pad=4)
        picture.text(0.5, 1.03, truth, transform=picture.transAxes, ha="center", fontsize=7.5, color=cli.RIGHT)
        panel = axes(left, top + title + side + 0.06, bar * listed)
        excess = row["excess"][k]
        panel.barh(range(listed), np.where(np.isfinite(excess), excess, 0), color=BAR, height=0.86)
        panel.set(xlim=(0, scale * 1.02), ylim=(listed - 0.5, -0.5))
        for spine in ("top", "right", "bottom"):
            panel.spines[spine].set_visible(False)
        panel.spines["left"].set(color="#8c959f", linewidth=0.8)
        colour_of = {label: cli.RIGHT, pred: colour}
        for y, c in enumerate(k):
            if not np.isfinite(excess[y]):  # no candidate
                continue
            style = {"color": colour_of.get(c, TEXT), "weight": "bold" if c in colour_of else "normal"}
            text = f"{cli.shorten(names[c], 19)}{' ◂' if c == pred else ''}"
            panel.text(scale * 0.03, y, text, va="center_baseline", fontsize=7, **style)
    cli.save_figure(figure, path, dpi=110)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "images")
    cli.check_picture(args.out)
    run = records.read_run(args.folder)
    options = run["options"]
    if "examples" in run:
        raise InputError(f"{args.folder}: a run of run_winoground.py, which print_winoground.py --gallery draws")
    records.need(args.folder, run, "arms", "dataset", "split", "loss")
    done = records.finished(args.folder)
    if not done:
        raise InputError(f"{args.folder}: no image is done yet")
    dataset = load_dataset(options["dataset"], options["split"], cli.DATASET_ROOT)

    class_ids, arm_class = records.competitors(run)
    images, rows = [], []
    for index in np.array(list(done))[even(min(args.images, len(done)), len(done))].tolist():
        record = records.load_record(done[index], own=True, loss=options["loss"], arms=len(arm_class))
        if "pred" not in record:
            raise InputError(f"{args.folder}: a run over a part of the classes, so there are no answers to draw")
        pred = metrics.rescore(record, arm_class, options["loss"])
        labelled = np.flatnonzero(class_ids == record["label"]).tolist()
        rows.append({
            "pred": pred,
            "label": pred if pred in labelled else labelled[0] if labelled else None,
            "excess": metrics.excess(record, arm_class, pred, options["loss"]),
        })  # fmt: skip
        images.append(as_seen(dataset, index, options))
    right = sum(row["pred"] == row["label"] for row in rows)
    model = options.get("version") or options.get("model")
    draw(
        images,
        rows,
        records.row_names(run),
        f"{options['dataset']}, {options['split']} split, model {model}: {right} of {len(rows)} right",
        f"Bars: mean {options['loss']} error less the winner's (◂), at the points both were measured on.",
        args.out,
    )
    print(args.out)
    return 0


if __name__ == "__main__":
    cli.run(main)
