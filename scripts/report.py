"""Make a report of a run: a single HTML file that needs no network.

    python scripts/report.py data/digits/vdigits_1trials_race_3z_500samples --out report.html

Accuracy, confusion, confidence (after scripts/calibrate.py), cost per image, the most confident mistakes, the least
certain answers and some right ones with their images, prompts and options. For several runs on the same images: first
how they compare, then each run.
"""

from diffusion.core.constants import LOSSES
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs", nargs="+")
    names = "names of several runs, one for each folder; default what differs between them"
    options.add(p, "--names NAME", names, nargs="+")
    options.add(p, "--loss", "decide by this loss; default each run's", choices=LOSSES)
    options.add(p, "--out HTML", "page to write; default report.html in the first folder")
    options.add(p, "--mistakes N", "show at most N mistakes", 12)
    options.add(p, "--others N", "show N of the least certain answers, and N of the right ones", 6)
    return p


import os
from pathlib import Path

from diffusion import InputError, page, tables
from diffusion.io.atomic import write_atomic
from diffusion.runs import results, show


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.not_negative(args, "mistakes", "others")
    folders = [Path(folder) for folder in args.folders]
    tables.check_names(args.names, folders)
    first = results.read(folders[0], "arms", "dataset", "split", loss=args.loss)
    runs = {"": first}
    if len(folders) > 1:
        runs = tables.read_same(folders, args.loss, args.names)
    elif args.names:
        runs = {args.names[0]: first}
    out = args.out or first.folder / "report.html"
    if not os.path.isdir(out.parent) or os.path.isdir(out):
        raise InputError(f"--out {out}", "wanted a file in a folder that exists")

    read = [page.read_answers(run) for run in runs.values()]
    text = page.render(runs, read, mistakes=args.mistakes, others=args.others)
    write_atomic(out, lambda file: file.write(text.encode(errors="replace")))  # a JSON's half surrogate pair is a ?
    print(out)
    return show.report([problem for answers in read for problem in answers.problems])


if __name__ == "__main__":
    options.run(main)
