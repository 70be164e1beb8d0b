"""Print text, image and group scores of a run of run_winoground.py, finished or still going on; without a model.

python scripts/print_winoground.py data/winoground/v2-0_t1_1trials_randnoise_bicubic
"""

from pathlib import Path

from diffusion import names, options


def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER")
    p.add_argument("folder", type=Path, metavar="FOLDER", help="of a run")
    options.add_loss_option(p, "score by this loss; default the run's")
    options.add_picture_option(p, "the examples, the worst first", "--gallery")
    return p


options.answer(__name__, parser)

from diffusion import figures, matching, results
from diffusion.pairs import load_pairs


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    figures.check_picture(args.gallery)
    run = results.read(args.folder, *(["dataset"] if args.gallery else []), loss=args.loss, answers=False)
    if args.gallery:
        matching.draw_gallery(run, load_pairs(run.options["dataset"], names.DATASET_ROOT), args.gallery)
    return matching.print_scores(run)


if __name__ == "__main__":
    options.run(main)
