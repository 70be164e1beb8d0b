"""Compare runs on the same images: accuracy, NFE, and whether their difference is more than chance.

    python scripts/compare.py data/digits/clip_digits data/digits/vdigits_1trials_race_3z_500samples --out compare.md

All figures are of the images that every run has done. For each pair: how much more often the second is right, with the
paired 95% interval (Bonett and Price, 2012); p by McNemar's exact test; how often both give the same answer; and for
how many images only the one, or only the other, is right. An example of run_winoground.py is right if all it asks is;
beside a race, if its text score is.
"""

from diffusion.core.constants import LOSSES
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs", nargs="+")
    options.add(p, "--loss", "decide by this loss; default each run's", choices=LOSSES)
    options.add(p, "--out FILE", "also write both tables: .md, .tex or .csv")
    options.add(p, "--picture PNG", "draw images of which only the first run, or only the second, is right")
    options.add(p, "--images N", "--picture: at most N of each kind", 10)
    return p


import os
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion import InputError, tables
from diffusion.core.search import even
from diffusion.data import catalogue
from diffusion.data.datasets import as_seen, dataset_of
from diffusion.io.atomic import write_atomic
from diffusion.plots import style
from diffusion.runs import show
from diffusion.runs.results import Run


def draw(runs: dict[str, Run], rows: dict[str, pd.DataFrame], most: int, path: Path) -> None:
    """Images that only the first run has right, and below them those that only the second has."""
    (a, run), (b, _) = list(runs.items())[:2]
    dataset = dataset_of(run.about, catalogue.DATASET_ROOT)
    sides = [(a, b), (b, a)]
    chosen = []
    for right, wrong in sides:
        only = np.flatnonzero(rows[right].right.to_numpy() & ~rows[wrong].right.to_numpy())
        chosen.append((len(only), only[even(min(most, len(only)), len(only))]))
    columns = max(*(min(len(each), 10) for _, each in chosen), 4)
    lines = [max(-(-len(each) // columns), 1) for _, each in chosen]
    size, tall = 1.35, 1.9  # inches
    width, height = columns * size + 0.3, sum(lines) * tall + 1.4
    figure = style.page(
        width,
        height,
        f"{run.data}: where {a} and {b} differ",
        "Below each: what it is, and what the other took it for.",
    )
    top = 0.5
    for (right, wrong), (total, each), line in zip(sides, chosen, lines, strict=True):
        title = f"Only {right} is right: {total}" + (f", {len(each)} shown" if len(each) < total else "")
        figure.text(0.1 / width, 1 - top / height, title, va="top", fontsize=10, color=style.RIGHT)
        for n, k in enumerate(each):
            left, above = 0.15 + size * (n % columns), top + 0.3 + tall * (n // columns)
            place = left / width, 1 - (above + size) / height, 0.92 * size / width, 0.92 * size / height
            axes = figure.add_axes(place)
            row = rows[right].iloc[k]
            axes.imshow(as_seen(dataset, int(row["index"]), run.options))
            style.bare(axes, style.PLAIN)
            answered = rows[wrong].pred_name.iloc[k]
            text = f"{style.shorten(row.label_name, 22)}\nnot {style.shorten(answered, 20)}"
            axes.set_xlabel(text, fontsize=7.5)
        top += line * tall + 0.3
    style.save(figure, path)


def write(parts: list[pd.DataFrame], path: Path) -> None:
    """Both tables as the suffix says."""
    if path.suffix == ".csv":
        texts = [tables.to_csv(part) for part in parts]
    elif path.suffix == ".tex":
        texts = [part.to_latex(index=False, escape=True) for part in parts]
    else:
        texts = [part.to_markdown(index=False) + "\n" for part in parts]
    write_atomic(path, lambda file: file.write("\n".join(texts).encode(errors="replace")))


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "images")
    style.check_picture(args.picture)
    out = args.out
    if out and (out.suffix not in (".md", ".tex", ".csv") or not os.path.isdir(out.parent)):
        raise InputError(f"--out {out}", "wanted a file .md, .tex or .csv in a folder that exists")
    if len(args.folders) < 2:
        raise InputError(f"{args.folders[0]}", "wanted two runs or more")
    runs = tables.read_same([Path(folder) for folder in args.folders], args.loss)
    if args.picture and any(map(tables.is_matching, runs.values())):
        raise InputError(f"--picture {args.picture}", "print_winoground.py --gallery draws matching runs")
    read = {name: tables.rows_of(run) for name, run in runs.items()}
    problems = [problem for _, wrong in read.values() for problem in wrong]
    rows = {name: table for name, (table, _) in read.items()}
    parts, on = tables.side_by_side(runs, rows)
    print("\n\n".join([*([on] if on else []), *(part.to_markdown(index=False) for part in parts)]))
    if out:
        write(parts, out)
    if args.picture:
        draw(runs, tables.common(rows), args.images, args.picture)
    return show.report(problems)


if __name__ == "__main__":
    options.run(main)
