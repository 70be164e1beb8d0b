"""The picture of a run: each image, the class that won, and by how much the others predicted the noise worse."""

from pathlib import Path

import numpy as np

from diffusion.core.search import even
from diffusion.data import catalogue
from diffusion.data.datasets import as_seen, dataset_of
from diffusion.io import wording
from diffusion.plots import style as plots_style
from diffusion.runs import results
from diffusion.stats import metrics

COLUMNS = 10
ALL_CLASSES = 12  # up to so many classes, all of them are listed, always in the same order
BEST_CLASSES = 8  # of more classes, so many are listed, the best first
LONG = 19  # characters: a longer name may be cut
BAR, TEXT = "#b9d3ee", "#333333"


def told_apart(called: list[str]) -> tuple[list[str], str]:
    """Names without the words that all begin and end with, and those words with … between; long ones only."""
    words = [name.rstrip(".").split() for name in called]
    if max(map(len, called)) <= LONG or len(set(called)) == 1:
        return called, ""
    first, last = wording.shared(words)
    if not first + last:
        return called, ""
    left = [" ".join(each[first : len(each) - last]) for each in words]
    return left, " ".join([*words[0][:first], "…", *words[0][len(words[0]) - last :]])


def draw_cells(images: list, rows: list[dict], called: list[str], heading: str, footing: str, path: Path) -> None:
    """One cell an image: the winner's name, the image, a bar for each of the classes that are `called` so.

    images: [h, w, 3] in 0..1; rows: pred and label (class rows; label None where no prompt has it, names.NO_LABEL where
    nobody said it), excess [K] and, where it is known, the image's file.
    """
    called, common = told_apart(called)
    footing = (f"Names stand for “{common}”.\n" if common else "") + footing
    listed = len(called) if len(called) <= ALL_CLASSES else BEST_CLASSES
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
        np.arange(listed) if listed == len(called) else np.argsort(row["excess"], kind="stable")[:listed]
        for row in rows
    ]
    listed_excess = [row["excess"][k] for row, k in zip(rows, shown, strict=True)]
    scale = max(float(excess[np.isfinite(excess)].max()) for excess in listed_excess) or 1.0
    figure = plots_style.page(width, height, heading, f"{footing} The longest bar is {scale:.3g}.", gap)
    for n, (image, row, k) in enumerate(zip(images, rows, shown, strict=True)):
        left, top = gap + (side + gap) * (n % columns), 0.4 + cell * (n // columns)
        pred, label = row["pred"], row["label"]
        unknown = label == catalogue.NO_LABEL
        colour = plots_style.ACCENT if unknown else plots_style.RIGHT if pred == label else plots_style.WRONG
        picture = axes(left, top + title, side)
        picture.imshow(image)  # enlarges small images to crisp pixels
        plots_style.bare(picture, colour, 2)
        below, below_colour = row.get("file", "").rpartition("/")[2], TEXT
        if pred != label and not unknown:
            truth = "is no prompt's" if label is None else f"is {called[label]}"
            below, below_colour = truth, plots_style.RIGHT
        title_text = plots_style.fit(called[pred], side, size=9, weight="bold") + ("\n" if below else "")
        picture.set_title(title_text, fontsize=9, color=colour, weight="bold", pad=4)
        small = {"transform": picture.transAxes, "ha": "center", "fontsize": 7.5, "color": below_colour}
        picture.text(0.5, 1.03, plots_style.fit(below, side, size=7.5), **small)
        panel = axes(left, top + title + side + 0.06, bar * listed)
        excess = row["excess"][k]
        panel.barh(range(listed), np.where(np.isfinite(excess), excess, 0), color=BAR, height=0.86)
        panel.set(xlim=(0, scale * 1.02), ylim=(listed - 0.5, -0.5))
        for spine in ("top", "right", "bottom"):
            panel.spines[spine].set_visible(False)
        panel.spines["left"].set(color=plots_style.PLAIN, linewidth=0.8)
        colour_of = {label: plots_style.RIGHT, pred: colour}
        for y, c in enumerate(k):
            if not np.isfinite(excess[y]):  # no candidate
                continue
            style = {"color": colour_of.get(c, TEXT), "weight": "bold" if c in colour_of else "normal"}
            room = side - (0.2 if c == pred else 0.08)
            text = plots_style.fit(called[c], room, size=7, weight=style["weight"]) + (" ◂" if c == pred else "")
            panel.text(scale * 0.03, y, text, va="center_baseline", fontsize=7, **style)
    plots_style.save(figure, path)


def draw_run(run: results.Run, indices: list[int], most: int, path: Path) -> None:
    """At most so many of these images of a run, all done, spread evenly. InputError where one cannot be read."""
    dataset = dataset_of(run.about, catalogue.DATASET_ROOT)
    images, rows, n = [], [], len(indices)
    for index in np.array(indices)[even(min(most, n), n)].tolist():
        record = results.record_of(run, index)
        pred = metrics.rescore(record, run.arm_class, run.loss)
        labelled = np.flatnonzero(run.class_ids == record["label"]).tolist()
        label = pred if pred in labelled else labelled[0] if labelled else None
        label = catalogue.NO_LABEL if record["label"] == catalogue.NO_LABEL else label
        excess = metrics.excess(record, run.arm_class, pred, run.loss)
        rows.append({"pred": pred, "label": label, "excess": excess, "file": record.get("file", "")})
        images.append(as_seen(dataset, index, run.options))
    told = [row for row in rows if row["label"] != catalogue.NO_LABEL]
    right = sum(row["pred"] == row["label"] for row in told)
    footing = f"Bars: mean {run.loss} error less the winner's (◂), at the points both were measured on."
    heading = run.title + (f": {right} of {len(told)} right" if told else "")
    draw_cells(images, rows, results.names_of_rows(run), heading, footing, path)
