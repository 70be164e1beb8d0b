"""Draw a run: each image, the class that won, and by how much the other prompts predicted the noise worse.

python scripts/plot_errors.py data/digits/vdigits_1trials_5_1keep_50_500samples digits.png
"""

from diffusion import names, options


@options.answered_early
def parser() -> options.Parser:
    return options.drawer(__doc__, 50)


from pathlib import Path

import numpy as np

from diffusion import InputError, figures, metrics, results
from diffusion.datasets import as_seen, load_dataset
from diffusion.search import even

COLUMNS = 10
ALL_CLASSES = 12  # up to so many classes, all of them are listed, always in the same order
BEST_CLASSES = 8  # of more classes, so many are listed, the best first
BAR, TEXT = "#b9d3ee", "#333333"


def draw(images: list, rows: list[dict], names: list[str], heading: str, footing: str, path: Path) -> None:
    """One cell an image: the winner's name, the image, a bar for each class.

    images: [h, w, 3] in 0..1; rows: pred and label (class rows; label None where no prompt has it) and excess [K].
    """
    listed = len(names) if len(names) <= ALL_CLASSES else BEST_CLASSES
    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    side, title, gap, bar = 1.35, 0.36, 0.16, 0.14  # inches
    cell = title + side + 0.06 + bar * listed + gap
    width, height = max(columns * (side + gap) + gap, 6.5), lines * cell + 0.75

    def axes(left: float, top: float, tall: float):
        made = figure.add_axes((left / width, 1 - (top + tall) / height, side / width, tall / height))
        made.set(xticks=[], yticks=[])
        return made

    shown = [
        np.arange(listed) if listed == len(names) else np.argsort(row["excess"], kind="stable")[:listed] for row in rows
    ]
    listed_excess = [row["excess"][k] for row, k in zip(rows, shown, strict=True)]
    scale = max(float(excess[np.isfinite(excess)].max()) for excess in listed_excess) or 1.0
    figure = figures.page(width, height, heading, f"{footing} The longest bar is {scale:.3g}.", gap)
    for n, (image, row, k) in enumerate(zip(images, rows, shown, strict=True)):
        left, top = gap + (side + gap) * (n % columns), 0.4 + cell * (n // columns)
        pred, label = row["pred"], row["label"]
        colour = figures.RIGHT if pred == label else figures.WRONG
        picture = axes(left, top + title, side)
        picture.imshow(image)  # enlarges small images to crisp pixels
        figures.bare(picture, colour, 2)
        truth = (
            "" if pred == label else "is no prompt's" if label is None else f"is {figures.shorten(names[label], 22)}"
        )
        title_text = figures.shorten(names[pred], 20) + ("\n" if truth else "")
        picture.set_title(title_text, fontsize=9, color=colour, weight="bold", pad=4)
        picture.text(0.5, 1.03, truth, transform=picture.transAxes, ha="center", fontsize=7.5, color=figures.RIGHT)
        panel = axes(left, top + title + side + 0.06, bar * listed)
        excess = row["excess"][k]
        panel.barh(range(listed), np.where(np.isfinite(excess), excess, 0), color=BAR, height=0.86)
        panel.set(xlim=(0, scale * 1.02), ylim=(listed - 0.5, -0.5))
        for spine in ("top", "right", "bottom"):
            panel.spines[spine].set_visible(False)
        panel.spines["left"].set(color=figures.PLAIN, linewidth=0.8)
        colour_of = {label: figures.RIGHT, pred: colour}
        for y, c in enumerate(k):
            if not np.isfinite(excess[y]):  # no candidate
                continue
            style = {"color": colour_of.get(c, TEXT), "weight": "bold" if c in colour_of else "normal"}
            text = f"{figures.shorten(names[c], 19)}{' ◂' if c == pred else ''}"
            panel.text(scale * 0.03, y, text, va="center_baseline", fontsize=7, **style)
    figures.save(figure, path)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "images")
    figures.check_picture(args.out)
    run = results.read(args.folder, "arms", "dataset", "split")
    if not run.done:
        raise InputError(f"{run.folder}: no image is done yet")
    dataset = load_dataset(run.options["dataset"], run.options["split"], names.DATASET_ROOT)

    images, rows, n = [], [], len(run.done)
    for index in np.array(list(run.done))[even(min(args.images, n), n)].tolist():
        record = results.record_of(run, index)
        pred = metrics.rescore(record, run.arm_class, run.loss)
        labelled = np.flatnonzero(run.class_ids == record["label"]).tolist()
        label = pred if pred in labelled else labelled[0] if labelled else None
        excess = metrics.excess(record, run.arm_class, pred, run.loss)
        rows.append({"pred": pred, "label": label, "excess": excess})
        images.append(as_seen(dataset, index, run.options))
    right = sum(row["pred"] == row["label"] for row in rows)
    footing = f"Bars: mean {run.loss} error less the winner's (◂), at the points both were measured on."
    heading = f"{run.title}: {right} of {len(rows)} right"
    draw(images, rows, results.names_of_rows(run), heading, footing, args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    options.run(main)
