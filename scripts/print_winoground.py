"""Print the scores of a run of run_winoground.py, finished or not, without a model.

python scripts/print_winoground.py data/winoground/v2-0_t1_1trials_randnoise_bicubic
"""

from diffusion.data import catalogue
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.reader(__doc__, "folder of a run", "score by this loss; default the run's")
    options.add(p, "--gallery PNG", "draw examples, the smallest margin first")
    return p


from diffusion.matching import scores
from diffusion.matching.benchmarks import load_items
from diffusion.plots import gallery, style
from diffusion.runs import newer, results


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    style.check_picture(args.gallery)
    needed = ["dataset"] if args.gallery else []
    run = results.read(args.folder, *needed, loss=args.loss, answers=False)
    if args.gallery:
        items = load_items(run.options["dataset"], catalogue.DATASET_ROOT, run.options.get("value_range"))
        newer.warn(items.located, run.done)
        gallery.draw(run, items, args.gallery)
    return scores.print_scores(run)


if __name__ == "__main__":
    options.run(main)
