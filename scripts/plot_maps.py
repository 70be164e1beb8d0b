"""Draw where in each image the winner was better than the class that came next, for a run with --save_maps.

    python eval_prob_adaptive.py --version digits --dataset digits --search race --save_maps
    python scripts/plot_maps.py data/digits/vdigits_1trials_race_3z_500samples_maps maps.png

Blue places favour the winner: there the other prompt predicted the noise worse. Orange ones favour the other.
"""

from diffusion.data import catalogue
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.drawer(__doc__, 20)
    options.switch(p, "--wrong", "draw only images whose answer is wrong")
    return p


from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diffusion import InputError
from diffusion.core.search import even
from diffusion.data.datasets import as_seen, dataset_of
from diffusion.plots import style
from diffusion.runs import results

COLUMNS = 5  # pairs of image and map
FOR, AGAINST = "#0969da", "#d4610a"  # not green and red: many cannot tell these apart where nothing else does


def read(run: results.Run, wrong: bool) -> list[dict]:
    """The records, without their errors. InputError: no map in one of them."""
    rows = []
    for index, path in run.done.items():
        record = results.record_of(run, index)
        try:
            field, pair = record["map"].float().numpy(), [int(k) for k in record["map_of"]]
            if field.ndim != 2 or not np.isfinite(field).all() or not set(pair) <= set(run.arm_class.tolist()):
                raise ValueError(f"a map {list(field.shape)} of classes {pair}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(path, f"no map there ({error!r:.80}); wanted a run with --save_maps") from None
        if not (wrong and record["pred"] == record["label"]):
            rows.append({key: record[key] for key in ("index", "label", "pred")} | {"map": field, "pair": pair})
    if not rows:
        raise InputError(run.folder, f"no {'wrong answer' if wrong else 'image is done'} yet")
    return rows


def laid_over(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The image [h, w, 3] in light greys, under the colours of a map [h', w'], opaque where it is largest."""
    from matplotlib.colors import to_rgb

    field = torch.from_numpy(field)[None, None]
    field = F.interpolate(field, image.shape[:2], mode="bicubic")[0, 0].numpy()[..., None]
    strength = np.abs(field) / (np.abs(field).max() or 1.0)
    colour = np.where(field > 0, to_rgb(FOR), to_rgb(AGAINST))
    grey = 0.45 + 0.5 * image.mean(2, keepdims=True)
    return grey * (1 - strength) + colour * strength


def draw(images: list[np.ndarray], rows: list[dict], names: list[str], heading: str, path: Path) -> None:
    """Image and map, side by side.

    images: [h, w, 3] in 0..1; rows: map [h', w'], pair (rows of `names`), right, truth.
    """
    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    width, height = max(2.6 * columns, 6.5), 1.55 * lines + 0.6
    note = "Blue: the other prompt is worse there. Orange: the winner is. Each map has its own scale."
    figure = style.page(width, height, heading, note)
    grid = figure.add_gridspec(
        lines, columns, top=1 - 0.6 / height, bottom=0.3 / height, left=0.1 / width, right=1 - 0.1 / width,
        hspace=0.2, wspace=0.06,
    )  # fmt: skip
    for k, (image, row) in enumerate(zip(images, rows, strict=True)):
        left, right = grid[k // columns, k % columns].subgridspec(1, 2, wspace=0.04).subplots()
        colour = style.RIGHT if row["right"] else style.WRONG
        winner, rival = (style.shorten(names[each], 16) for each in row["pair"])
        left.set_title(
            f"{winner}, not {rival}{row['truth']}", fontsize=8, color=colour, weight="bold", loc="left", pad=3
        )
        left.imshow(image)
        right.imshow(laid_over(image, row["map"]))
        for axes in (left, right):
            style.bare(axes, colour)
    style.save(figure, path)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "images")
    style.check_picture(args.out)
    run = results.read(args.folder, "arms", "dataset", "split", loss="l2")
    rows = read(run, args.wrong)
    rows = [rows[k] for k in even(min(args.images, len(rows)), len(rows))]
    dataset = dataset_of(run.about, catalogue.DATASET_ROOT)
    name_of_class = results.names_of_classes(run)
    for row in rows:
        row["right"] = row["pred"] == row["label"]
        known = style.shorten(name_of_class.get(row["label"], "none of them"), 16)
        row["truth"] = "" if row["right"] else f" (is {known})"
    images = [as_seen(dataset, row["index"], run.options) for row in rows]
    draw(images, rows, results.names_of_rows(run), run.title, args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    options.run(main)
