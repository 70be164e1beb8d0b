"""The picture of a run of run_winoground.py: its items, the worst first, with what was measured of them."""

from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.matching import scores as matching_scores
from diffusion.matching.items import Items
from diffusion.matching.scores import Done
from diffusion.plots import style
from diffusion.runs.results import Run

COLUMNS, GALLERY = 3, 12  # items in a row of the picture, and in all of it
CAPTIONS = 5  # of an item, at most: those that are right, then the best of the others
WIDTH, LINE, IMAGES = 4.6, 0.17, 1.35  # inches: of an item, of a line of text, of the images' height


def draw(run: Run, items: Items, path: Path) -> None:
    """The items of a run, worst first: images, boxes, captions, their errors, and what is right.

    InputError: a race, whose images were measured at different points; nothing is done yet; an image cannot be read.
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
    what = f"{run.loss} error" + (", less the empty caption's" if normal else "")
    head = f"{run.options['dataset']}, {run.options['model']}: the {len(chosen)} worst of {len(done)} examples"
    note = "in thousandths above the example's smallest; green: what is right; red: what is wrong and no worse"
    figure.suptitle(f"{head}\nNumbers: {what}, {note}.", fontsize=11)
    top, size = 1 - 0.7 / figure.get_figheight(), figure.get_size_inches()
    for n, (d, captions) in enumerate(zip(chosen, shown, strict=True)):
        left = (n % COLUMNS + 0.02) * WIDTH / size[0]
        above = top - (n // COLUMNS) * height / size[1]  # edges of the item, as shares of the figure
        _draw_item(figure, d, captions, items, normal, left, above)
    style.save(figure, path)


def captions_of(d: Done, normal: bool) -> list[int]:
    """Which captions of an item are shown, ascending: the right ones, then those that come closest to them."""
    closest = d.scores(normal).max(1)
    order = sorted(range(len(closest)), key=lambda c: (not d.item.table[c].any(), -closest[c]))
    return sorted(order[:CAPTIONS])


def _across(d: Done) -> float:
    """Inches of an image's side."""
    return min(IMAGES, 0.95 * WIDTH / len(d.item.images))


def _lines(d: Done, captions: list[int]) -> int:
    """Of text below the images: a caption with its numbers beside it or, of many images, below them."""
    return len(captions) * (1 if len(d.item.images) < 3 else 2) + (len(captions) < len(d.item.captions))


def _draw_item(figure, d: Done, captions: list[int], items: Items, normal: bool, left: float, above: float) -> None:
    """One item, whose upper left corner is there: what is right of it, its images, its captions and their errors."""
    wide, high = figure.get_size_inches()
    across, n = _across(d), len(d.item.images)
    step = across * (1.1 if n < 3 else 1)  # inches from an image to the next
    right = {"text": d.text, "image": d.image(normal)}
    right = {name: margin > 0 for name, margin in right.items() if not np.isnan(margin)}
    marks = "   ".join(f"{name} {'✓' if fine else '✗'}" for name, fine in right.items())
    colour = style.RIGHT if all(right.values()) else style.WRONG
    name = style.shorten(f"{d.item.id}  {', '.join(d.item.tags)}", 44)
    figure.text(left, above, f"{name}   {marks}", va="top", fontsize=9, weight="bold", color=colour)
    bottom = above - (1.3 * LINE + across) / high
    for i in range(n):
        axes = figure.add_axes((left + i * step / wide, bottom, across * 0.96 / wide, across * 0.96 / high))
        _draw_image(axes, d, i, items)
    scores, looks = d.scores(normal), _looks(d, normal)
    ends = [0.95 * WIDTH - 0.42 * (n - 1 - i) if n < 3 else i * step + 0.75 * across for i in range(n)]  # of numbers
    room = 0.95 * WIDTH - (0.42 * n if n < 3 else 0)
    y = bottom - 0.3 * LINE / high
    for c in captions:
        weight = "bold" if n == 1 and d.item.table[c, 0] else "normal"
        text = style.shorten(f"{c}: {d.item.captions[c]}", int(room / 0.058))
        figure.text(left, y, text, va="top", fontsize=7.5, weight=weight)
        y -= LINE / high * (n > 2)
        for i in range(n):
            number, x = f"{1000 * (scores.max() - scores[c, i]):.1f}", left + ends[i] / wide
            figure.text(x, y, number, va="top", ha="right", fontsize=7.5, **looks[c][i])
        y -= LINE / high
    if left_out := len(scores) - len(captions):
        figure.text(left, y, f"and {left_out} that come less close", va="top", fontsize=7.5, color=style.PLAIN)


def _looks(d: Done, normal: bool) -> list[list[dict]]:
    """Of each number [captions][images] its colour: of what is right, of what is wrong and no worse, and of others."""
    scores, table = d.scores(normal), d.item.table
    of_image = np.where(table, scores, np.inf).min(0)  # the worst of its right captions; inf: none
    asked = (table.sum(1) == 1) & (table.shape[1] > 1)
    of_caption = np.where(asked, np.where(table, scores, -np.inf).max(1), np.inf)  # its own image
    wrong = ~table & ((scores >= of_image) | (scores >= of_caption[:, None]))
    look = {"weight": "bold"}
    return [
        [look | {"color": style.RIGHT} if t else look | {"color": style.WRONG} if w else {} for t, w in row]
        for row in np.stack([table, wrong], -1)
    ]


def _draw_image(axes, d: Done, i: int, items: Items) -> None:
    """An image, whole, with its box; framed where a caption is right for it and others' images stand beside it."""
    try:
        axes.imshow(items.open(d.index, i))
    except OSError as error:
        raise InputError(f"image {i} of example {d.index}", error) from None
    mine = d.item.table[:, i].any() and not d.item.table.any(0).all()
    style.bare(axes, style.RIGHT if mine else style.PLAIN, 2.5 if mine else 0.5)
    if len(d.item.images) > 1:
        axes.set_title(f"image {i}", fontsize=7, pad=2)
    if (box := d.item.images[i].box) is not None:
        axes.autoscale(False)
        x, y = box[0] + np.array([0, 1, 1, 0, 0]) * box[2], box[1] + np.array([0, 0, 1, 1, 0]) * box[3]
        axes.plot(x, y, color=style.WRONG, linewidth=1.5)
