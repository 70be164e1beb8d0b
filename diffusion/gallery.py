"""The picture of a run of run_winoground.py: its items, the worst first, with what was measured of them."""

from pathlib import Path

import numpy as np

from diffusion import InputError, figures, matching
from diffusion.items import Items
from diffusion.matching import Done
from diffusion.results import Run

COLUMNS, GALLERY = 3, 12  # items in a row of the picture, and in all of it
CAPTIONS = 5  # of an item, at most: those that are right, then the best of the others
WIDTH, LINE, IMAGES = 4.6, 0.17, 1.35  # inches: of an item, of a line of text, of the images' height


def draw(run: Run, items: Items, path: Path) -> None:
    """The items of a run, worst first: images, boxes, captions, their errors, and what is right.

    InputError: a race, whose images were measured at different points; nothing is done yet; an image cannot be read.
    """
    if matching.raced(run):
        wanted = f"wanted a grid; {run.folder} is a race, its images were measured at different points"
        raise InputError(f"--gallery: {wanted}")
    done, _ = matching.read(run)
    if not done:
        raise InputError(f"{run.folder}: no example is done yet")
    normal = matching.normalized(done)
    chosen = sorted(done, key=lambda d: d.margin(normal))[:GALLERY]
    shown = [captions_of(d, normal) for d in chosen]
    rows = -(-len(chosen) // COLUMNS)
    most = max(map(len, shown))
    height = IMAGES + (most + 2.6) * LINE  # of an item
    figure = figures.new(WIDTH * COLUMNS, height * rows + 0.8, layout=None)
    what = f"{run.loss} error" + (", less the empty caption's" if normal else "")
    head = f"{run.options['dataset']}, {run.options['model']}: the {len(chosen)} worst of {len(done)} examples"
    note = "in thousandths above the example's smallest; green: what is right; red: what is wrong and no worse"
    figure.suptitle(f"{head}\nNumbers: {what}, {note}.", fontsize=11)
    top, size = 1 - 0.7 / figure.get_figheight(), figure.get_size_inches()
    for n, (d, captions) in enumerate(zip(chosen, shown, strict=True)):
        left = (n % COLUMNS + 0.02) * WIDTH / size[0]
        above = top - (n // COLUMNS) * height / size[1]  # edges of the item, as shares of the figure
        _draw_item(figure, d, captions, items, normal, left, above)
    figures.save(figure, path)


def captions_of(d: Done, normal: bool) -> list[int]:
    """Which captions of an item are shown, ascending: the right ones, then those that come closest to them."""
    closest = d.scores(normal).max(1)
    order = sorted(range(len(closest)), key=lambda c: (not d.item.table[c].any(), -closest[c]))
    return sorted(order[:CAPTIONS])


def _draw_item(figure, d: Done, captions: list[int], items: Items, normal: bool, left: float, above: float) -> None:
    """One item, whose upper left corner is there: a line of what is right, its images, its captions and their errors."""
    wide, high = figure.get_size_inches()
    scores, table = d.scores(normal), d.item.table
    n = table.shape[1]
    right = {"text": d.text, "image": d.image(normal)}
    right = {name: margin > 0 for name, margin in right.items() if not np.isnan(margin)}
    marks = "   ".join(f"{name} {'✓' if fine else '✗'}" for name, fine in right.items())
    colour = figures.RIGHT if all(right.values()) else figures.WRONG
    name = figures.shorten(f"{d.item.id}  {', '.join(d.item.tags)}", 44)
    figure.text(left, above, f"{name}   {marks}", va="top", fontsize=9, weight="bold", color=colour)
    cells = 0.95 * WIDTH / n  # inches for an image
    of_image = IMAGES if n < 3 else min(IMAGES, cells)
    for i in range(n):
        at = left + (i * (cells if n > 2 else IMAGES * 1.1)) / wide
        bottom = above - (1.3 * LINE + of_image) / high
        axes = figure.add_axes((at, bottom, min(of_image, cells) * 0.96 / wide, of_image * 0.96 / high))
        _draw_image(axes, d, i, items)
    above_smallest = 1000 * (scores.max() - scores)  # [captions, images]
    worst_right = [scores[table[:, i], i].min() if table[:, i].any() else -np.inf for i in range(n)]
    own = [scores[c, table[c]].max() if table[c].sum() == 1 and n > 1 else -np.inf for c in range(len(scores))]
    first = 0.95 * WIDTH - 0.42 * n  # inches: where the numbers begin
    for line, c in enumerate(captions):
        y = above - (1.7 * LINE + of_image + line * LINE) / high
        text = figures.shorten(f"{c}: {d.item.captions[c]}", int(first / 0.058))
        weight = "bold" if n == 1 and table[c, 0] else "normal"
        figure.text(left, y, text, va="top", fontsize=7.5, weight=weight)
        for i in range(n):
            beats = (worst_right[i] <= scores[c, i] or own[c] <= scores[c, i]) and not table[c, i]
            look = {"color": figures.RIGHT, "weight": "bold"} if table[c, i] else {}
            look = {"color": figures.WRONG, "weight": "bold"} if beats and np.isfinite(scores[c, i]) else look
            x = left + (first + 0.42 * (i + 1)) / wide
            figure.text(x, y, f"{above_smallest[c, i]:.1f}", va="top", ha="right", fontsize=7.5, **look)
    if left_out := len(scores) - len(captions):
        y = above - (1.7 * LINE + of_image + len(captions) * LINE) / high
        figure.text(left, y, f"and {left_out} that come less close", va="top", fontsize=7.5, color=figures.PLAIN)


def _draw_image(axes, d: Done, i: int, items: Items) -> None:
    """An image, whole, with its box; framed where a caption is right for it and others' images stand beside it."""
    try:
        axes.imshow(items.open(d.index, i))
    except OSError as error:
        raise InputError(str(error)) from None
    mine = d.item.table[:, i].any() and not d.item.table.any(0).all()
    figures.bare(axes, figures.RIGHT if mine else figures.PLAIN, 2.5 if mine else 0.5)
    if len(d.item.images) > 1:
        axes.set_title(f"image {i}", fontsize=7, pad=2)
    if (box := d.item.images[i].box) is not None:
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle(box[:2], *box[2:], fill=False, edgecolor=figures.WRONG, linewidth=1.5))
