"""Save a bank of noise that all images and all classes share, for --noise_path.

python scripts/save_noise.py --img_size 256
"""

import argparse
from pathlib import Path

import torch

from diffusion import InputError, cli, records


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--img_size", type=int, default=512, help="pixels; latents have 4 channels and an eighth of that")
    p.add_argument("--latent", type=int, nargs=3, metavar=("C", "H", "W"), help="other latents: 4 8 8 for digits")
    p.add_argument("--n_draws", type=int, default=1024)
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--out", type=Path, help="default noise_IMGSIZE.pt or noise_CxHxW.pt")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "n_draws")
    cli.not_negative(args, "seed")
    latent = args.latent or [4, args.img_size // 8, args.img_size // 8]
    if min(latent) < 1 or (args.latent is None and args.img_size % 8):
        given = f"--latent {' '.join(map(str, latent))}" if args.latent else f"--img_size {args.img_size}"
        raise InputError(f"{given}: wanted a multiple of 8, or --latent C H W of whole numbers")
    bank = torch.randn(args.n_draws, *latent, generator=torch.Generator().manual_seed(args.seed))
    path = args.out or Path(f"noise_{'x'.join(map(str, args.latent)) if args.latent else args.img_size}.pt")
    try:
        records.write_atomic(path, lambda file: torch.save(bank, file))
    except (OSError, ValueError) as error:
        raise InputError(f"--out {path}: cannot be written ({error})") from None
    print(f"{path}: {list(bank.shape)}, seed {args.seed}")
    return 0


if __name__ == "__main__":
    cli.run(main)
