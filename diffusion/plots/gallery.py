"""The picture of a run of run_winoground.py: its items with their errors, the smallest margin first."""

from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.matching import scores as matching_scores
from diffusion.matching.items import Items
from diffusion.matching.scores import Done
from diffusion.plots import style
from diffusion.runs.results import Run

COLUMNS, GALLERY = 3, 12  # items in a row of the picture, and in all of it
CAPTIONS = 5  # of an item, at most: the right ones, then the best of the others
WIDTH, LINE, IMAGES = 4.6, 0.17, 1.35  # inches: width of an item, height of a line of text, height of the images


def draw(run: Run, items: Items, path: Path) -> None:
    """Draw the items of a run, the smallest margin first: images, boxes, captions, errors, and which are right.

    InputError if it is a race, whose images were measured at different points, if nothing is done yet, or if an image
    cannot be read.
    """
    if matching_scores.raced(run):
        wanted = f"wanted a grid; {run.folder} is a race, its images were measured at different points"
        raise InputError("--gallery", wanted)
    done, _ = matching_scores.read_done(run)
    if not done:
        raise InputError(run.folder, "no example is done yet")
    normal = matching_scores.normalized(done)
    chosen = sorted(done, key=lambda d: d.margin(normal))[:GALLERY]
    shown = [captions_of(d, normal) for d in chosen]
    rows = -(-len(chosen) // COLUMNS)
    lines = max(_lines(d, captions) for d, captions in zip(chosen, shown, strict=True))
    height = max(_across(d) for d in chosen) + (lines + 2.6) * LINE  # of an item
    figure = style.new(WIDTH * COLUMNS, height * rows + 0.8, layout=None)
    wrong = sum(d.margin(normal) <= 0 for d in done)
    head = f"{run.title}: {wrong} of {len(done)} examples wrong"
    if len(chosen) < len(done):
        head += f"; the {len(chosen)} with the smallest margins"
    number = f"{run.loss} error minus that of the empty caption" if normal else f"{run.loss} error"
    note = "in thousandths above the example's smallest. Green: right. Red: wrong, but at least as good."
    figure.suptitle(style.plain(f"{head}\nNumbers: {number}, {note}"), fontsize=11)
    top, size = 1 - 0.7 / figure.get_figheight(), figure.get_size_inches()
    for n, (d, captions) in enumerate(zip(chosen, shown, strict=True)):
        left = (n % COLUMNS + 0.02) * WIDTH / size[0]
        above = top - (n // COLUMNS) * height / size[1]  # edges of the item, as shares of the figure
        _draw_item(figure, d, captions, items, normal, left, above)
    style.save(figure, path)


def captions_of(d: Done, normal: bool) -> list[int]:
    """The captions of an item that are shown, ascending: the right ones, then those with the best scores."""
    best = d.scores(normal).max(1)
    order = sorted(range(len(best)), key=lambda c: (not d.item.table[c].any(), -best[c]))
    return sorted(order[:CAPTIONS])


def _across(d: Done) -> float:
    """Inches of an image's side."""
    return min(IMAGES, 0.95 * WIDTH / len(d.item.images))


def _lines(d: Done, captions: list[int]) -> int:
    """Lines of text below the images: a caption with its numbers beside it or, for many images, below it."""
    each = 1 if len(d.item.images) < 3 else 2
    more = 1 if len(captions) < len(d.item.captions) else 0
    return each * len(captions) + more


def _draw_item(figure, d: Done, captions: list[int], items: Items, normal: bool, left: float, above: float) -> None:
    """One item, its upper left corner at (left, above): which scores are right, images, captions and errors."""
    wide, high = figure.get_size_inches()
    across, n = _across(d), len(d.item.images)
    step = across * (1.1 if n < 3 else 1)  # inches from an image to the next
    margins = {"text": d.text, "image": d.image(normal)}
    marks, all_right = "", True
    for score, margin in margins.items():
        if np.isnan(margin):
            continue  # not asked
        mark = "✓" if margin > 0 else "✗"
        marks += f"   {score} {mark}"
        all_right = all_right and margin > 0
    colour = style.RIGHT if all_right else style.WRONG
    name = style.shorten(f"{d.item.id}  {', '.join(d.item.tags)}", 44)
    figure.text(left, above, f"{name}{marks}", va="top", fontsize=9, weight="bold", color=colour)
    bottom = above - (1.3 * LINE + across) / high
    for i in range(n):
        axes = figure.add_axes((left + i * step / wide, bottom, across * 0.96 / wide, across * 0.96 / high))
        _draw_image(axes, d, i, items)
    scores, fonts = d.scores(normal), _fonts(d, normal)
    if n < 3:  # numbers stand beside the caption
        ends = [0.95 * WIDTH - 0.42 * (n - 1 - i) for i in range(n)]
        room = 0.95 * WIDTH - 0.42 * n
    else:
        ends = [i * step + 0.75 * across for i in range(n)]
        room = 0.95 * WIDTH
    y = bottom - 0.3 * LINE / high
    for c in captions:
        weight = "bold" if n == 1 and d.item.table[c, 0] else "normal"
        text = style.shorten(f"{c}: {d.item.captions[c]}", int(room / 0.058))
        figure.text(left, y, text, va="top", fontsize=7.5, weight=weight)
        y -= LINE / high * (n > 2)
        for i in range(n):
            number, x = f"{1000 * (scores.max() - scores[c, i]):.1f}", left + ends[i] / wide
            figure.text(x, y, number, va="top", ha="right", fontsize=7.5, **fonts[c][i])
        y -= LINE / high
    left_out = len(scores) - len(captions)
    if left_out:
        figure.text(left, y, f"and {left_out} with larger errors", va="top", fontsize=7.5, color=style.PLAIN)


def _fonts(d: Done, normal: bool) -> list[list[dict]]:
    """Colour and weight of each number [captions][images]: right, wrong and at least as good, or neither."""
    scores, table = d.scores(normal), d.item.table
    of_image = np.where(table, scores, np.inf).min(0)  # the worst of its right captions; inf: none
    asked = (table.sum(1) == 1) & (table.shape[1] > 1)
    of_caption = np.where(asked, np.where(table, scores, -np.inf).max(1), np.inf)  # its own image
    wrong = ~table & ((scores >= of_image) | (scores >= of_caption[:, None]))
    fonts = []
    for right_row, wrong_row in zip(table, wrong, strict=True):
        row = []
        for is_right, is_wrong in zip(right_row, wrong_row, strict=True):
            font = {}
            if is_right:
                font = {"weight": "bold", "color": style.RIGHT}
            elif is_wrong:
                font = {"weight": "bold", "color": style.WRONG}
            row.append(font)
        fonts.append(row)
    return fonts


def _draw_image(axes, d: Done, i: int, items: Items) -> None:
    """An image, whole, with its box; framed in green if it has a right caption and images without one are beside it."""
    try:
        axes.imshow(items.open(d.index, i))
    except OSError as error:
        raise InputError(f"image {i} of example {d.index}", error) from None
    if d.item.table[:, i].any() and not d.item.table.any(0).all():
        style.bare(axes, style.RIGHT, 2.5)
    else:
        style.bare(axes, style.PLAIN, 0.5)
    if len(d.item.images) > 1:
        axes.set_title(f"image {i}", fontsize=7, pad=2)
    box = d.item.images[i].box
    if box is not None:
        axes.autoscale(False)
        x, y = box[0] + np.array([0, 1, 1, 0, 0]) * box[2], box[1] + np.array([0, 0, 1, 1, 0]) * box[3]
        axes.plot(x, y, color=style.WRONG, linewidth=1.5)
