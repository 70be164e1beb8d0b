"""Where in each image the winner predicted the noise better than the runner-up."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diffusion import InputError
from diffusion.core.search import even
from diffusion.data import catalogue
from diffusion.data.datasets import as_seen
from diffusion.plots import style
from diffusion.runs import results
from diffusion.runs.images import dataset_of_run

COLUMNS = 5  # pairs of image and map
FOR, AGAINST = "#0969da", "#d4610a"  # not green and red, which many people cannot distinguish
LIGHT = 0.72, 1.0  # the greys that black and white become under a map
SIDE, GAP, TITLE = 1.25, 0.06, 0.3  # inches


@dataclass(frozen=True)
class Mapped:
    """An image with the map of its best two classes."""

    image: np.ndarray  # [h, w, 3] in 0..1
    field: np.ndarray  # [h', w'] error of the runner-up minus that of the winner
    winner: str
    runner_up: str
    truth: str | None  # the true class if the answer is wrong


def read_maps(run: results.Run, *, wrong: bool) -> list[dict]:
    """index, label, pred, field and pair (class rows) of each image done, `wrong`: of those whose answer is wrong.

    InputError if a record has no map, or there is no such image.
    """
    rows = []
    for index, path in run.done.items():
        record = results.record_of(run, index)
        try:
            field, pair = record["map"].float().numpy(), list(map(int, record["map_of"]))
            if field.ndim != 2 or not np.isfinite(field).all() or not set(pair) <= set(run.arm_class.tolist()):
                raise ValueError(f"a map {list(field.shape)} of classes {pair}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(path, f"no map there ({error!r:.80}); wanted a run with --save_maps") from None
        if wrong and record["pred"] == record["label"]:
            continue
        about = {"index": record["index"], "label": record["label"], "pred": record["pred"]}
        rows.append({**about, "field": field, "pair": pair})
    if not rows:
        lacking = "no wrong answer yet" if wrong else "no image is done yet"
        raise InputError(run.folder, lacking)
    return rows


def laid_over(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The image [h, w, 3] in light grey, under the colours of a map [h', w'], opaque where it is largest."""
    field = torch.from_numpy(field)[None, None]
    field = F.interpolate(field, image.shape[:2], mode="bicubic")[0, 0].numpy()[..., None]
    strength = (np.abs(field) / (np.abs(field).max() or 1.0)).clip(0, 1)
    colour = np.where(field > 0, style.rgb(FOR), style.rgb(AGAINST))
    dark, light = LIGHT
    grey = dark + (light - dark) * image.mean(2, keepdims=True)
    return grey * (1 - strength) + colour * strength


def draw(cells: list[Mapped], heading: str, path: Path) -> None:
    """Each image with its map beside it, and below all of them the scale of the colours."""
    columns = min(COLUMNS, len(cells))
    lines = -(-len(cells) // columns)
    wide, tall = 2 * SIDE + 4 * GAP, SIDE + TITLE + 0.28
    width, height = max(columns * wide + 0.2, 6.5), lines * tall + 1.15
    figure = style.page(width, height, heading)
    for n, cell in enumerate(cells):
        left, top = 0.1 + wide * (n % columns), 0.4 + TITLE + tall * (n // columns)
        picture = style.axes_at(figure, left, top, SIDE, SIDE)
        mapped = style.axes_at(figure, left + SIDE + GAP, top, SIDE, SIDE)
        colour = style.RIGHT if cell.truth is None else style.WRONG
        text = f"{cell.winner}, not {cell.runner_up}"
        if cell.truth is not None:
            text += f" (is {cell.truth})"
        title = style.fit(text, 2 * SIDE + GAP, size=8, weight="bold")
        picture.set_title(title, fontsize=8, color=colour, weight="bold", loc="left", pad=3)
        picture.imshow(cell.image)
        mapped.imshow(laid_over(cell.image, cell.field))
        mapped.set_xlabel(f"±{np.abs(cell.field).max():.2g}", fontsize=7, color=style.SOFT, labelpad=2)
        for axes in (picture, mapped):
            style.bare(axes, colour)
    _draw_scale(figure)
    style.save(figure, path)


def _draw_scale(figure) -> None:
    """The colours from the winner's disadvantage to its advantage, below all maps."""
    width, height = figure.get_size_inches()
    axes = style.axes_at(figure, 0.1, height - 0.54, 3.0, 0.12)
    shades = np.linspace(-1, 1, 201, dtype=np.float32)[None].repeat(2, 0)
    axes.imshow(laid_over(np.full((2, 201, 3), 0.5), shades), aspect="auto", extent=(-1, 1, 0, 1))
    axes.set(yticks=[])
    axes.set_xticks([-1, 0, 1], ["−", "0", "+"], fontsize=8)
    axes.tick_params(length=2, pad=1)
    meaning = "error of the runner-up minus that of the winner; the number below each map is its end of the scale.\n"
    meaning += "Blue: the winner predicts the noise better there. Orange: the runner-up does."
    figure.text(3.25 / width, 0.48 / height, meaning, va="center", fontsize=8, color=style.SOFT)


def draw_run(run: results.Run, most: int, path: Path, *, wrong: bool) -> None:
    """Draw at most `most` images of a run with --save_maps, spread evenly. InputError as `read_maps`."""
    rows = read_maps(run, wrong=wrong)
    chosen = [rows[k] for k in even(min(most, len(rows)), len(rows))]
    dataset = dataset_of_run(run)
    names, name_of_class = results.names_of_rows(run), results.names_of_classes(run)
    cells = []
    for row in chosen:
        winner, runner_up = row["pair"]
        truth = None
        if row["label"] not in (row["pred"], catalogue.NO_LABEL):
            truth = name_of_class.get(row["label"], "none of them")
        image = as_seen(dataset, row["index"], run.options)
        cells.append(Mapped(image, row["field"], names[winner], names[runner_up], truth))
    draw(cells, run.title, path)
