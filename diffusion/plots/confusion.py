"""The confusion matrix of a run, and beside it the pairs of classes that are confused most often."""

from pathlib import Path

import numpy as np

from diffusion.plots import style

NAMED = 80  # up to so many classes are named at the axes
LISTED = 20  # pairs
FEWEST, LINE = 3.0, 0.19  # inches: the least width of the list, and the height of a line of it
MISTAKE = "#d4610a"  # cells off the diagonal; those on it are blue


def most_confused(table: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images), the most images first; table [true, predicted] -> at most `most`."""
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    order = order[wrong.flat[order] > 0]
    rows, columns = np.unravel_index(order, wrong.shape)
    return list(zip(rows.tolist(), columns.tolist(), wrong[rows, columns].tolist(), strict=True))


def draw(table: np.ndarray, names: list[str], heading: str, path: Path) -> None:
    """table [true, predicted], coloured by the share of each true class; counts stand in the cells."""
    K = len(names)
    cell = 0.36 if K <= 20 else 0.2  # inches
    side = cell * min(K, NAMED)
    around = 0.75  # inches, on the left of the matrix and below it
    if K <= NAMED:
        widths = [style.width_of(style.shorten(name, 30), size=8) for name in names]
        around = max(widths) + 0.45
    pairs = pair_texts(table, names)
    list_heading = "Most confused: images, true → predicted" if pairs else "No class is confused with another."
    texts = [style.width_of(text, size=8) + 0.35 for _, text in pairs]
    listed = max([*texts, style.width_of(list_heading, size=9, weight="bold"), FEWEST])

    left, bottom, top, right = around, around, 0.55, listed + 0.5
    width, height = left + side + right, max(bottom + side + top, 3.2)
    figure = style.page(width, height, heading)
    axes = style.axes_at(figure, left, top, side, side)
    axes.imshow(coloured(table), aspect="auto", interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    if K <= NAMED:
        _name_cells(axes, table, names)
    else:
        axes.set(xlabel="number of the predicted class", ylabel="number of the true class")
    _list_pairs(figure, list_heading, pairs, left + side + 0.35, top)
    style.save(figure, path, dpi=120)


def pair_texts(table: np.ndarray, names: list[str]) -> list[tuple[int, str]]:
    """Images and the text "true → predicted" of the most confused pairs."""
    found = []
    for row, column, images in most_confused(table, LISTED):
        found.append((images, f"{style.shorten(names[row], 24)} → {style.shorten(names[column], 24)}"))
    return found


def coloured(table: np.ndarray) -> np.ndarray:
    """The matrix as colours [K, K, 3]: from white to blue on the diagonal, to orange elsewhere, by share of the row.

    A cell that holds an image has at least a quarter of its colour, so that single mistakes are seen.
    """
    share = table / table.sum(1, keepdims=True).clip(1)
    strength = np.where(table > 0, 0.25 + 0.75 * share, 0)[..., None]
    diagonal = np.eye(len(table), dtype=bool)[..., None]
    full = np.where(diagonal, style.rgb(style.ACCENT), style.rgb(MISTAKE))
    return 1 - strength * (1 - full)


def _name_cells(axes, table: np.ndarray, names: list[str]) -> None:
    """Class names at the axes, thin lines between cells, and the counts."""
    K = len(names)
    shown = [style.shorten(name, 30) for name in names]
    axes.set_xticks(range(K), shown, rotation=90, fontsize=8)
    axes.set_yticks(range(K), shown, fontsize=8)
    edges = np.arange(K + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=style.LINE, linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    share = table / table.sum(1, keepdims=True).clip(1)
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, table[row, column], ha="center", va="center", color=colour, fontsize=7)


def _list_pairs(figure, heading: str, pairs: list[tuple[int, str]], left: float, top: float) -> None:
    """The most confused pairs as text, as far as there is room, at inches from the upper left corner."""
    width, height = figure.get_size_inches()
    room = int((height - top - 0.3) / LINE) - 1
    figure.text(left / width, 1 - top / height, heading, va="top", fontsize=9, weight="bold")
    for n, (images, text) in enumerate(pairs[:room], 1):
        y = 1 - (top + 0.08 + LINE * n) / height
        figure.text((left + 0.25) / width, y, f"{images}", va="top", ha="right", fontsize=8, color=style.SOFT)
        figure.text((left + 0.35) / width, y, text, va="top", fontsize=8)
