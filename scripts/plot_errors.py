"""Draw a run: each image, the class that won, and by how much the other prompts predicted the noise worse.

python scripts/plot_errors.py data/digits/vdigits_1trials_5_1keep_50_500samples digits.png
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    return options.drawer(__doc__, 50)


from diffusion import InputError
from diffusion.io.wording import count
from diffusion.plots import bars, style
from diffusion.runs import results


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "images")
    style.check_picture(args.out)
    run = results.read(args.folder, "arms", "dataset", "split")
    if not run.done:
        raise InputError(run.folder, "no image is done yet")
    shown = bars.draw_run(run, list(run.done), args.images, args.out)
    print(args.out)
    left_out = len(run.done) - shown
    if left_out:
        images = count(len(run.done), "image")
        print(f"{shown} of {images} shown, {left_out} left out; --images {len(run.done)} draws all")
    return 0


if __name__ == "__main__":
    options.run(main)
