"""The picture of a run of run_winoground.py: its items with their errors, the smallest margin first."""

from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.io.wording import count, few
from diffusion.matching import scores as matching_scores
from diffusion.matching.items import Items
from diffusion.matching.scores import Done
from diffusion.plots import style
from diffusion.runs.results import Run

COLUMNS, SHOWN = 3, 12  # items in a row of the picture, and in all of it
CAPTIONS = 5  # of an item, at most: the right ones, then the best of the others
WIDTH, LINE, IMAGES = 4.6, 0.17, 1.35  # inches: width of an item, height of a line of text, height of the images
NUMBER = 0.48  # inches: of a number beside its caption
HEADING, AROUND = 1.9, 3.4  # lines of text above the images, and in all that are no captions


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
    chosen = sorted(done, key=lambda d: d.margin(normal))[:SHOWN]

    wrong = sum(d.margin(normal) <= 0 for d in done)
    heading = f"{run.title}: {wrong} of {count(len(done), 'example')} wrong"
    _check_same(chosen, items, run)
    if len(chosen) < len(done):
        heading += f"; the {len(chosen)} with the smallest margins"
    number = f"{run.loss} error minus that of the empty caption" if normal else f"{run.loss} error"
    note = f"Numbers: {number}, in thousandths above the example's smallest. "
    note += "Green: right. Red: wrong, but at least as good."

    lines = max(_lines(d, normal) for d in chosen)
    tall = max(map(_side, chosen)) + (lines + AROUND) * LINE  # of an item
    rows = -(-len(chosen) // COLUMNS)
    figure = style.page(WIDTH * min(COLUMNS, max(len(chosen), 2)), tall * rows + 0.75, heading, note)
    for n, d in enumerate(chosen):
        left, top = 0.1 + WIDTH * (n % COLUMNS), 0.5 + tall * (n // COLUMNS)
        _draw_item(figure, d, items, normal, left, top)
    style.save(figure, path)


def _check_same(chosen: list[Done], items: Items, run: Run) -> None:
    """InputError unless the benchmark still has these items' images at their places."""
    for d in chosen:
        before = [image.file for image in d.item.images]
        now = []
        if d.index < len(items):
            now = [image.file for image in items[d.index].images]
        if now != before:
            found = f"the images of example {d.index} were {few(before)}, and are now {few(now) or 'none'}"
            raise InputError(run.folder, found)


def captions_of(d: Done, normal: bool) -> list[int]:
    """The captions of an item that are shown, ascending: the right ones, then those with the best scores."""
    best = d.scores(normal).max(1)
    order = sorted(range(len(best)), key=lambda c: (not d.item.table[c].any(), -best[c]))
    return sorted(order[:CAPTIONS])


def _side(d: Done) -> float:
    """Inches of an image's side."""
    return min(IMAGES, 0.95 * WIDTH / len(d.item.images))


def _beside(d: Done) -> bool:
    """Whether the numbers of a caption stand beside it; those of many images stand below it."""
    return len(d.item.images) < 3


def _lines(d: Done, normal: bool) -> int:
    """Lines of text below the images."""
    captions = len(captions_of(d, normal))
    lines = captions if _beside(d) else 2 * captions
    if captions < len(d.item.captions):
        lines += 1
    return lines


def _draw_item(figure, d: Done, items: Items, normal: bool, left: float, top: float) -> None:
    """One item, at inches from the upper left corner: which scores are right, images, captions and errors."""
    _draw_heading(figure, d, normal, left, top)
    side, n = _side(d), len(d.item.images)
    step = 1.1 * side if _beside(d) else side  # from an image to the next
    top += HEADING * LINE
    for i in range(n):
        axes = style.axes_at(figure, left + i * step, top, 0.96 * side, 0.96 * side)
        _draw_image(axes, d, i, items)

    if _beside(d):
        ends = 0.95 * WIDTH - NUMBER * np.arange(n)[::-1]  # of the numbers, from the left of the item
        room = 0.95 * WIDTH - NUMBER * n
    else:
        ends = step * np.arange(n) + 0.75 * side
        room = 0.95 * WIDTH
    scores, fonts = d.scores(normal), _fonts(d, normal)
    captions = captions_of(d, normal)
    y = top + side + 0.3 * LINE
    if _beside(d) and n > 1:
        for i in range(n):
            _write(figure, left + ends[i], y - LINE, f"image {i}", ha="right", fontsize=7, color=style.SOFT)
    for c in captions:
        bold = n == 1 and d.item.table[c, 0]
        text = style.fit(f"{c}: {d.item.captions[c]}", room, size=7.5)
        _write(figure, left, y, text, weight="bold" if bold else "normal")
        if not _beside(d):
            y += LINE
        for i in range(n):
            above = 1000 * (scores.max() - scores[c, i])
            _write(figure, left + ends[i], y, f"{above:.1f}", ha="right", **fonts[c][i])
        y += LINE
    left_out = len(scores) - len(captions)
    if left_out:
        _write(figure, left, y, f"and {left_out} with larger errors", color=style.PLAIN)


def _write(figure, x: float, y: float, text: str, **font) -> None:
    """Text at inches from the upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, text, **{"va": "top", "fontsize": 7.5} | font)


def _draw_heading(figure, d: Done, normal: bool, left: float, top: float) -> None:
    """The item's id and tags, and for each of its scores whether it is right."""
    margins = {"text": d.text, "image": d.image(normal)}
    asked = {score: margin for score, margin in margins.items() if not np.isnan(margin)}
    marks = ""
    for score, margin in asked.items():
        mark = "✓" if margin > 0 else "✗"
        marks += f"   {score} {mark}"
    right = all(margin > 0 for margin in asked.values())
    font = {"size": 9, "weight": "bold"}
    room = 0.95 * WIDTH - style.width_of(marks, **font)
    name = style.fit(f"{d.item.id}  {', '.join(d.item.tags)}", room, **font)
    colour = style.RIGHT if right else style.WRONG
    _write(figure, left, top, f"{name}{marks}", fontsize=9, weight="bold", color=colour)


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
