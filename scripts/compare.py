"""Compare runs: accuracy, NFE, and whether the difference of each pair is more than chance.

    python scripts/compare.py data/digits/clip_digits data/digits/vdigits_1trials_race_3z_500samples --out compare.md
    python scripts/compare.py data/*/clip_digits data/*/vdigits_1trials_race_3z_500samples --names CLIP CLIP SD SD \\
        --out table.tex

Runs on several data sets give one table of accuracies and one of NFE, models down and data sets across. The figures of
a data set are measured on the images that all of its runs have done. For each pair of runs on a data set: the
difference of their accuracies with its paired 95% interval (Bonett and Price, 2012); p of McNemar's exact test; how
often both give the same answer; and for how many images only one of them is right. An example of run_winoground.py
counts as correct if all of its scores are; beside a race, if its text score is.
"""

from diffusion.core.constants import LOSSES
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs", nargs="+")
    names = "names in the tables, one for each folder; a model has one name on all data sets; default what differs"
    options.add(p, "--names NAME", names, nargs="+")
    options.add(p, "--loss", "decide by this loss; default each run's", choices=LOSSES)
    options.add(p, "--out FILE", "also write all tables: .md, .tex or .csv")
    options.add(p, "--picture PNG", "draw images for which only the first run, or only the second, is right")
    options.add(p, "--images N", "--picture: at most N of each kind", 10)
    return p


import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion import InputError, tables
from diffusion.io.atomic import write_atomic
from diffusion.plots import style
from diffusion.runs import show
from diffusion.runs.results import Run

TEXTS = ("run", "folder", "first", "second", "data")  # columns of texts, as the first one is; others hold numbers


def alignments(part: pd.DataFrame) -> list[str]:
    """left or right for each column."""
    found = []
    for k, name in enumerate(part.columns):
        found.append("left" if k == 0 or name in TEXTS else "right")
    return found


def to_markdown(part: pd.DataFrame) -> str:
    """A table as it is printed: cells as they are, which tabulate would else read as numbers and round."""
    return part.to_markdown(index=False, disable_numparse=True, colalign=alignments(part))


def to_latex(part: pd.DataFrame) -> str:
    """A table that needs LaTeX's package booktabs, with the numbers of `to_markdown`."""
    sides = alignments(part)
    numbers = [name for name, side in zip(part.columns, sides, strict=True) if side == "right"]
    styled = part.style.format(escape="latex").format(number_in_latex, subset=numbers)
    styled = styled.format_index(escape="latex", axis=1).hide(axis="index")
    text = styled.to_latex(hrules=True, column_format="".join(side[0] for side in sides))
    return "% needs \\usepackage{booktabs}\n" + text.replace("second - first", "second $-$ first")


def number_in_latex(cell: object) -> str:
    """A cell of numbers with minus signs, and a power of ten in place of e: 1.9e-06 is $1.9\\cdot10^{-6}$."""
    text = str(cell)
    number, e, exponent = text.partition("e")
    if e and exponent.lstrip("+-").isdigit():
        return f"${number}\\cdot10^{{{int(exponent)}}}$"
    return re.sub(r"-(?=\d)", "$-$", text)


def write(parts: list[pd.DataFrame], path: Path) -> None:
    """Write the tables in the format of the suffix; .tex names the runs and leaves out their folders."""
    if path.suffix == ".csv":
        texts = ["".join(tables.to_csv(part)) for part in parts]
    elif path.suffix == ".tex":
        named = [part.drop(columns="folder", errors="ignore") for part in parts]
        texts = list(map(to_latex, named))
    else:
        texts = [to_markdown(part) + "\n" for part in parts]
    write_atomic(path, lambda file: file.write("\n".join(texts).encode(errors="replace")))


def sides_of(first: tuple[str, pd.DataFrame], second: tuple[str, pd.DataFrame]) -> list[tuple[str, str, list[tuple]]]:
    """The images for which only one of two runs is right, as differences.draw takes them."""
    sides = []
    for (right, rows), (wrong, others) in ((first, second), (second, first)):
        only = np.flatnonzero(rows.right.to_numpy() & ~others.right.to_numpy())
        columns = rows["index"].iloc[only], rows.label_name.iloc[only], others.pred_name.iloc[only]
        sides.append((right, wrong, list(zip(*columns, strict=True))))
    return sides


def check(args) -> None:
    """InputError if options do not fit together."""
    options.at_least_one(args, "images")
    style.check_picture(args.picture)
    out = args.out
    if out and (out.suffix not in (".md", ".tex", ".csv") or not os.path.isdir(out.parent)):
        raise InputError(f"--out {out}", "wanted a file .md, .tex or .csv in a folder that exists")
    if len(args.folders) < 2:
        raise InputError(f"{args.folders[0]}", "wanted two runs or more")
    tables.check_names(args.names, args.folders)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    check(args)
    groups = tables.read_groups([Path(folder) for folder in args.folders], args.loss, args.names)
    if args.picture:
        check_drawn(groups, args.picture)
    if len(groups) > 1:
        parts, note, problems = tables.over_data(groups)
    else:
        (runs,) = groups.values()
        rows, problems = tables.rows_of_runs(runs)
        parts, note = tables.side_by_side(runs, rows)
        if args.picture:
            from diffusion.plots import differences  # opens images, for which torch is imported

            first, second = list(tables.common(rows).items())[:2]
            differences.draw(next(iter(runs.values())), sides_of(first, second), args.images, args.picture)
    texts = list(map(to_markdown, parts))
    print("\n\n".join([note, *texts] if note else texts))
    if args.out:
        write(parts, args.out)
    return show.report(problems)


def check_drawn(groups: dict[str, dict[str, Run]], path: Path) -> None:
    """InputError if runs are on several data sets, or match captions."""
    if len(groups) > 1:
        raise InputError(f"--picture {path}", f"wanted runs on one data set, found {', '.join(groups)}")
    (runs,) = groups.values()
    if any(map(tables.is_matching, runs.values())):
        raise InputError(f"--picture {path}", "print_winoground.py --gallery draws matching runs")


if __name__ == "__main__":
    options.run(main)
