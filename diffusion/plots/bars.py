"""The picture of a run: each image, the class that won, and by how much the others predicted the noise worse."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.core.search import even
from diffusion.data import catalogue
from diffusion.data.dataset import Dataset
from diffusion.data.datasets import as_seen
from diffusion.io import wording
from diffusion.plots import style
from diffusion.runs import results
from diffusion.runs.images import dataset_of_run
from diffusion.stats import metrics

COLUMNS = 8
ALL_CLASSES = 12  # up to so many classes, all of them are listed, in the order of the prompts
BEST_CLASSES = 8  # if there are more, so many are listed, the best first
LONG = 19  # characters: a longer name may be cut
BAR, TEXT = "#9cc3ea", "#333333"
CUT = "▸"  # at the end of a bar that is longer
SIDE, GAP, BAR_HEIGHT = 1.6, 0.16, 0.15  # inches: of an image, between images, of a bar
TITLE, LINE, SCALE = 0.22, 0.14, 0.2  # inches: the winner above an image, each line below it, the scale of the bars
FAR = 0.75  # bars are cut at this quantile of the excess, if the longest is twice as long
NAMES = 0.95  # inches, at most, of the names beside the bars


@dataclass(frozen=True)
class Cell:
    """An image with its answer."""

    image: np.ndarray  # [h, w, 3] in 0..1
    pred: int  # row of the class that won
    label: int | None  # row of the true class; None: no prompt has it; catalogue.NO_LABEL: unlabelled
    excess: np.ndarray  # [K] mean error minus the winner's; inf or nan: not measured
    file: str = ""

    @property
    def labelled(self) -> bool:
        return self.label != catalogue.NO_LABEL


def distinct_names(names: list[str]) -> tuple[list[str], str]:
    """Names without the words that all of them begin and end with, and those words with … in their middle.

    Short names stay as they are: (names, "").
    """
    longest = max(map(len, names))
    if longest <= LONG or len(set(names)) == 1:
        return names, ""
    words = [name.rstrip(".").split() for name in names]
    first, last = wording.shared(words)
    if first + last == 0:
        return names, ""

    left = [" ".join(each[first : len(each) - last]) for each in words]
    end = len(words[0]) - last
    common = [*words[0][:first], "…", *words[0][end:]]
    return left, " ".join(common)


def draw_cells(
    cells: list[Cell], names: list[str], heading: str, note: str, path: Path, order: list[int] | None = None
) -> None:
    """One cell an image: the winner's name, the image, and a bar for each class, on the image's own scale.

    names: of the classes, by row. `order`: the rows in the order of their bars, by default ascending.
    """
    names, common = distinct_names(names)
    if common:
        note = f"Names stand for “{common}”.\n{note}"
    listed = len(names) if len(names) <= ALL_CLASSES else BEST_CLASSES
    columns = min(COLUMNS, len(cells))
    lines = -(-len(cells) // columns)
    title = TITLE + LINE * max(1, *(len(_lines(cell, names)) for cell in cells))
    tall = title + SIDE + 0.06 + BAR_HEIGHT * listed + SCALE + GAP
    wanted = style.width_of(heading, size=12, weight="bold") + 2 * GAP
    width, height = max(columns * (SIDE + GAP) + GAP, 6.5, wanted), lines * tall + 0.75
    figure = style.page(width, height, heading, note, GAP)

    for n, cell in enumerate(cells):
        left, top = GAP + (SIDE + GAP) * (n % columns), 0.4 + title + tall * (n // columns)
        picture = style.axes_at(figure, left, top, SIDE, SIDE)
        _draw_image(picture, cell, names)

        rows = np.arange(len(names)) if order is None else np.array(order)
        if listed < len(names):
            rows = np.argsort(cell.excess, kind="stable")[:listed]
        font = {"size": 7, "weight": "bold"}
        shown = [style.fit(names[row], NAMES, **font) for row in rows]
        beside = max(style.width_of(name, **font) for name in shown) + 0.06
        panel = style.axes_at(figure, left + beside, top + SIDE + 0.06, SIDE - beside, BAR_HEIGHT * listed)
        _draw_bars(panel, cell, rows, shown)
    style.save(figure, path)


def _draw_image(axes, cell: Cell, names: list[str]) -> None:
    """The image in a frame; above it the winner, and the lines of `_lines`."""
    colour = style.outcome_colour(cell.pred, cell.label, labelled=cell.labelled)
    axes.imshow(cell.image)  # enlarges small images to crisp pixels
    style.bare(axes, colour, 2)
    below = _lines(cell, names)
    title = style.fit(names[cell.pred], SIDE, size=9, weight="bold")
    axes.set_title(title, fontsize=9, color=colour, weight="bold", pad=4 + 72 * LINE * len(below))
    for k, (text, text_colour) in enumerate(reversed(below)):
        place = {"xytext": (0, 4 + 72 * LINE * k), "textcoords": "offset points", "xycoords": "axes fraction"}
        font = {"ha": "center", "fontsize": 7.5, "color": text_colour, "annotation_clip": False}
        axes.annotate(style.fit(text, SIDE, size=7.5), (0.5, 1), **place, **font)


def _lines(cell: Cell, names: list[str]) -> list[tuple[str, str]]:
    """What stands below the winner, with its colour: the true class if that is another, and the file."""
    found = []
    if cell.labelled and cell.pred != cell.label:
        found.append(("is no prompt's" if cell.label is None else f"is {names[cell.label]}", style.RIGHT))
    file = cell.file.rpartition("/")[2]
    if file:
        found.append((file, TEXT))
    return found


def end_of_scale(excess: np.ndarray) -> float:
    """Where an axis of bars [n] ends: at the longest; at their quantile FAR if that one is twice as long or more.

    A class that is far behind would else leave no length to the others. nan and infinite ones do not count.
    """
    lengths = excess[np.isfinite(excess) & (excess > 0)]
    if not len(lengths):
        return 1.0
    longest, far = float(lengths.max()), float(np.quantile(lengths, FAR))
    return far if longest >= 2 * far else longest


def _is_cut(excess: np.ndarray) -> np.ndarray:
    """Which bars [n] are longer than their axis."""
    return np.isfinite(excess) & (excess > end_of_scale(excess))


def _draw_bars(axes, cell: Cell, rows: np.ndarray, shown: list[str]) -> None:
    """A bar for each of these class rows, its name on the left; ◂ marks the winner, whose bar has no length.

    ▸ marks a bar that is longer than the axis.
    """
    excess = cell.excess[rows]
    finite = np.isfinite(excess)
    longest = end_of_scale(excess)
    cut = _is_cut(excess)
    axes.barh(range(len(rows)), np.where(finite, excess, 0), color=BAR, height=0.8)
    axes.set(xlim=(0, longest), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    axes.set_xticks([0, longest], ["0", f"{longest:.2g}"], fontsize=6, color=style.SOFT)
    axes.tick_params(axis="x", length=2, pad=1.5, color=style.PLAIN)
    axes.get_xticklabels()[0].set_ha("left")
    axes.get_xticklabels()[1].set_ha("right")
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for spine in ("left", "bottom"):
        axes.spines[spine].set(color=style.PLAIN, linewidth=0.8)

    winner_colour = style.outcome_colour(cell.pred, cell.label, labelled=cell.labelled)
    for y, (row, name) in enumerate(zip(rows, shown, strict=True)):
        font = {"fontsize": 7, "color": TEXT if finite[y] else style.PLAIN, "va": "center_baseline"}
        if row == cell.label:
            font |= {"color": style.RIGHT, "weight": "bold"}
        if row == cell.pred:
            font |= {"color": winner_colour, "weight": "bold"}
            axes.text(longest * 0.02, y, "◂", **font)
        elif not finite[y]:
            axes.text(longest * 0.02, y, "not measured", **font | {"fontsize": 6})
        elif cut[y]:
            axes.text(longest, y, CUT, **font | {"ha": "right"})
        axes.annotate(name, (0, y), (-3, 0), textcoords="offset points", ha="right", annotation_clip=False, **font)


def draw_run(run: results.Run, indices: list[int], most: int, path: Path, dataset: Dataset | None = None) -> int:
    """Draw at most `most` of these images of a run, all done, spread evenly; how many are drawn.

    The heading has the number of right ones among all of `indices`. `dataset`: that of the run; by default it is read
    again. InputError if an image cannot be read.
    """
    if dataset is None:
        dataset = dataset_of_run(run)
    chosen = np.array(indices)[even(min(most, len(indices)), len(indices))].tolist()
    cells = [_cell(run, index, as_seen(dataset, index, run.options)) for index in chosen]
    note = f"Bars: mean {run.loss} error minus that of the winner (◂), at the points measured for both. "
    note += "Each image has its own scale."
    if any(_is_cut(cell.excess).any() for cell in cells):
        note += f" {CUT}: a longer bar, cut."
    heading = heading_of(run, indices, len(cells))
    draw_cells(cells, results.names_of_rows(run), heading, note, path, results.order_of_rows(run))
    return len(cells)


def heading_of(run: results.Run, indices: list[int], shown: int) -> str:
    """The run; how many of these images are shown, unless all are; and how many of all of them are right."""
    parts = []
    if shown < len(indices):
        parts.append(f"{shown} of {wording.count(len(indices), 'image')} shown")
    rows, _ = results.read_rows((run.done[index] for index in indices), of_run=True)
    labelled = [row for row in rows if row["label"] != catalogue.NO_LABEL]
    if labelled:
        right = sum(row["pred"] == row["label"] for row in labelled)
        parts.append(f"right: {right} of {len(labelled)}")
    return f"{run.title}: {'; '.join(parts)}" if parts else run.title


def _cell(run: results.Run, index: int, image: np.ndarray) -> Cell:
    record = results.record_of(run, index)
    pred = metrics.rescore(record, run.arm_class, run.loss)
    excess = metrics.excess(record, run.arm_class, pred, run.loss)

    rows = np.flatnonzero(run.class_ids == record["label"]).tolist()  # several rows may stand for the true class
    label = None
    if record["label"] == catalogue.NO_LABEL:
        label = catalogue.NO_LABEL
    elif pred in rows:
        label = pred
    elif rows:
        label = rows[0]
    return Cell(image, pred, label, excess, record.get("file", ""))
