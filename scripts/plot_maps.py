"""Draw where in each image the winner predicted the noise better than the runner-up, for a run with --save_maps.

    python eval_prob_adaptive.py --version digits --dataset digits --search race --save_maps
    python scripts/plot_maps.py data/digits/vdigits_1trials_race_3z_500samples_maps maps.png

In blue places the winner predicted the noise better, in orange ones the runner-up. The number below a map is the
difference of the errors at its strongest colour.
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.drawer(__doc__, 20)
    options.switch(p, "--wrong", "draw only images whose answer is wrong")
    return p


from diffusion.plots import maps, style
from diffusion.runs import results


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "images")
    style.check_picture(args.out)
    run = results.read(args.folder, "arms", "dataset", "split", loss="l2")
    maps.draw_run(run, args.images, args.out, wrong=args.wrong)
    print(args.out)
    return 0


if __name__ == "__main__":
    options.run(main)
