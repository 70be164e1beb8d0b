"""Save noise that all images and all classes share, for --noise_path.

python scripts/save_noise.py --img_size 256
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    options.add(p, "--img_size PIXELS", "side of the images; latents have 4 channels and an eighth of that side", 512)
    p.add_argument("--latent", type=int, nargs=3, metavar=("C", "H", "W"), help="other latents: 4 8 8 for digits")
    options.add(p, "--n_draws N", "noise samples", 1024)
    options.add(p, "--seed N", "seed of the noise", 42)
    options.add(p, "--out PT", "file to write; default noise_IMGSIZE.pt or noise_CxHxW.pt")
    return p


import os
from pathlib import Path

import torch

from diffusion import InputError, one_line
from diffusion.io.atomic import write_atomic


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "n_draws")
    options.not_negative(args, "seed")
    wanted = "wanted a multiple of 8, or --latent C H W of whole numbers"
    if args.latent:
        latent = args.latent
        name = "x".join(map(str, latent))
        if min(latent) < 1:
            raise InputError(f"--latent {' '.join(map(str, latent))}", wanted)
    else:
        latent = [4, args.img_size // 8, args.img_size // 8]
        name = str(args.img_size)
        if args.img_size < 8 or args.img_size % 8:
            raise InputError(f"--img_size {args.img_size}", wanted)
    path = args.out or Path(f"noise_{name}.pt")
    if os.path.exists(path) and not os.path.isfile(path):  # a rename would replace a device
        raise InputError(f"--out {path}", "cannot be written (it is there, and is no regular file)")
    try:
        bank = torch.randn(args.n_draws, *latent, generator=torch.Generator().manual_seed(args.seed))
    except (RuntimeError, ValueError, TypeError) as error:  # no memory; a number of more than 64 bits
        raise InputError(f"--n_draws {args.n_draws} --seed {args.seed}", f"{one_line(error)}") from None
    try:
        write_atomic(path, lambda file: torch.save(bank, file))
    except InputError as error:
        raise InputError(f"--out {error.where}", error.problem) from None
    print(f"{path}: {list(bank.shape)}, seed {args.seed}")
    return 0


if __name__ == "__main__":
    options.run(main)
