"""Print text, image and group scores of a run of run_winoground.py, finished or still going on; without a model.

python scripts/print_winoground.py data/winoground/v2-0_t1_1trials_randnoise_bicubic
"""

import argparse
from pathlib import Path

from diffusion import cli, matching, records
from diffusion.errors import LOSSES
from diffusion.pairs import load_pairs


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of per-image files")
    p.add_argument("--loss", choices=LOSSES, help="score by another loss than the run's")
    p.add_argument("--gallery", type=Path, metavar="PNG", help="draw the examples, the worst first")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.check_picture(args.gallery)
    run = records.read_run(args.folder)
    loss = records.loss_of(args.folder, run, args.loss)
    if args.gallery:
        records.need(args.folder, run, "dataset")
        pairs = load_pairs(run["options"]["dataset"], cli.DATASET_ROOT)
        matching.draw_gallery(args.folder, loss, pairs, args.gallery)
    return matching.print_scores(args.folder, loss)


if __name__ == "__main__":
    cli.run(main)
