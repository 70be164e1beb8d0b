"""Print the scores of a run of run_winoground.py, finished or not, without a model.

python scripts/print_winoground.py data/winoground/v2-0_t1_1trials_randnoise_bicubic
"""

from diffusion import names, options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(__doc__, "folder of a run", "score by this loss; default the run's")
    options.add(p, "--gallery PNG", "draw the examples, the worst first")
    return p


from diffusion import figures, gallery, matching, results
from diffusion.readers import load_items


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    figures.check_picture(args.gallery)
    run = results.read(args.folder, *(["dataset"] if args.gallery else []), loss=args.loss, answers=False)
    if args.gallery:
        gallery.draw(
            run, load_items(run.options["dataset"], names.DATASET_ROOT, run.options.get("value_range")), args.gallery
        )
    return matching.print_scores(run)


if __name__ == "__main__":
    options.run(main)
