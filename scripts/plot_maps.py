"""Draw where in each image the winner beat the class that came next, of a run with --save_maps.

    python eval_prob_adaptive.py --version digits --dataset digits --search race --save_maps
    python scripts/plot_maps.py data/digits/vdigits_1trials_race_3z_500samples_maps maps.png

Blue places speak for the winner: there the other prompt predicted the noise worse. Orange ones speak for the other.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diffusion import InputError, cli, records
from diffusion.datasets import as_seen, load_dataset
from diffusion.search import even

COLUMNS = 5  # pairs of image and map
FOR, AGAINST = "#0969da", "#d4610a"  # not green and red: many cannot tell these apart where nothing else does


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of a run with --save_maps")
    p.add_argument("out", type=Path, metavar="OUT.png")
    p.add_argument("--images", type=int, default=20, help="at most so many, spread evenly over those that are done")
    p.add_argument("--wrong", action="store_true", help="only images whose answer is wrong")
    return p


def read(folder: Path, run: dict, wrong: bool) -> list[dict]:
    """The records, without their errors. InputError: no map in one of them."""
    _, arm_class = records.competitors(run)
    rows = []
    for path in records.finished(folder).values():
        record = records.load_record(path, own=True, loss="l2", arms=len(arm_class))
        try:
            field, pair = record["map"].float().numpy(), [int(k) for k in record["map_of"]]
            if field.ndim != 2 or not np.isfinite(field).all() or not set(pair) <= set(arm_class.tolist()):
                raise ValueError(f"a map {list(field.shape)} of classes {pair}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: no map there ({error!r:.80}); wanted a run with --save_maps") from None
        if not (wrong and record["pred"] == record["label"]):
            rows.append({key: record[key] for key in ("index", "label", "pred")} | {"map": field, "pair": pair})
    if not rows:
        raise InputError(f"{folder}: no {'wrong answer' if wrong else 'image is done'} yet")
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
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    width, height = max(2.6 * columns, 6.5), 1.55 * lines + 0.6
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.1 / width, 1 - 0.1 / height, heading, va="top", fontsize=12, weight="bold")
    note = "Blue: the other prompt is worse there. Orange: the winner is. Each map has its own scale."
    figure.text(0.1 / width, 0.08 / height, note, fontsize=8, color="#57606a")
    grid = figure.add_gridspec(
        lines, columns, top=1 - 0.6 / height, bottom=0.3 / height, left=0.1 / width, right=1 - 0.1 / width,
        hspace=0.2, wspace=0.06,
    )  # fmt: skip
    for k, (image, row) in enumerate(zip(images, rows, strict=True)):
        left, right = grid[k // columns, k % columns].subgridspec(1, 2, wspace=0.04).subplots()
        colour = cli.RIGHT if row["right"] else cli.WRONG
        winner, rival = (cli.shorten(names[each], 16) for each in row["pair"])
        left.set_title(
            f"{winner}, not {rival}{row['truth']}", fontsize=8, color=colour, weight="bold", loc="left", pad=3
        )
        left.imshow(image)
        right.imshow(laid_over(image, row["map"]))
        for axes in (left, right):
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=1.5)
    cli.save_figure(figure, path, dpi=110)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "images")
    cli.check_picture(args.out)
    run = records.read_run(args.folder)
    cli.answers(args.folder, run)
    records.need(args.folder, run, "arms", "dataset", "split")
    options = run["options"]
    rows = read(args.folder, run, args.wrong)
    rows = [rows[k] for k in even(min(args.images, len(rows)), len(rows))]
    dataset = load_dataset(options["dataset"], options["split"], cli.DATASET_ROOT)
    name_of_class = {class_id: name for _, name, class_id in run["arms"]}
    for row in rows:
        row["right"] = row["pred"] == row["label"]
        known = cli.shorten(name_of_class.get(row["label"], "none of them"), 16)
        row["truth"] = "" if row["right"] else f" (is {known})"
    images = [as_seen(dataset, row["index"], options) for row in rows]
    names = records.row_names(run)
    model = options.get("version") or options.get("model")
    draw(images, rows, names, f"{options['dataset']}, {options['split']} split, model {model}", args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    cli.run(main)
