"""Compositional matching: do two images and two captions of the same words find each other (Winoground)?

    python run_winoground.py --model sd --version 2-0 --t_interval 1 --batch_size 32 --noise_path noise_512.pt \\
        --randomize_noise --interpolation bicubic
    python run_winoground.py --model clip --version ViT-L/14

Results go to $LOG_DIR (default data), one file per image; scripts/print_winoground.py prints them again.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusion import InputError, cli, matching, records
from diffusion.classify import Measured
from diffusion.clip import DEFAULTS, find_clip, load_clip
from diffusion.datasets import centre_crop
from diffusion.errors import LOSSES, measure
from diffusion.models import load_model, read_card
from diffusion.pairs import load_pairs
from diffusion.search import every, level_sequence, noise_rows


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=["sd", *DEFAULTS], default="sd", help="Stable Diffusion, CLIP or OpenCLIP")
    p.add_argument("--version", help="sd: as in eval_prob_adaptive.py, default 2-0; else open_clip's name, or digits")
    p.add_argument(
        "--pretrained",
        help="of clip and openclip: open_clip's tag of the weights, or a file; of OpenAI with --version ...-quickgelu",
    )
    own = "hf:NAME, or a folder with examples.jsonl"
    p.add_argument("--dataset", default="winoground", help=f"winoground, digits-pairs, {own}")
    p.add_argument("--t_interval", type=int, default=5, help="every so-manieth noise level")
    p.add_argument("--n_trials", type=int, default=1, help="noise draws per level")
    p.add_argument("--randomize_noise", action="store_true", help="new noise for every level, not one for all")
    p.add_argument("--noise_path", type=Path, help="bank of noise [n, c, h, w]; see save_noise.py")
    p.add_argument("--seed", type=int, default=0, help="of the noise without a bank; all images share it")
    p.add_argument("--normalize", action="store_true", help="measure the empty caption too, for a fair image score")
    p.add_argument("--interpolation", choices=["bilinear", "bicubic", "lanczos"], default="bilinear")
    p.add_argument("--img_size", type=int, help="pixels; default the model's own")
    p.add_argument("--loss", choices=LOSSES, default="l2", help="the loss that is printed; all are stored")
    p.add_argument("--gallery", type=Path, metavar="PNG", help="draw the examples, the worst first")
    p.add_argument("--extra", help="a suffix for the data set's folder")
    cli.add_model_options(p)
    cli.add_shard_options(p)
    return p


SD_ONLY = [
    "t_interval", "n_trials", "randomize_noise", "noise_path", "seed", "normalize", "interpolation", "img_size", "loss",
]  # fmt: skip


def by_diffusion(args, device, dtype: str, pairs):
    """Options for run.json, the run folder's name, NFE per image, and `load()` -> record of (image, captions)."""
    args.version = args.version or "2-0"
    card = read_card(args.version, args.img_size)
    levels, _ = level_sequence([every(args.t_interval, card.levels)], card.levels)
    levels = np.repeat(levels, args.n_trials)
    rows = noise_rows(levels, args.n_trials, args.randomize_noise)
    if args.noise_path:
        bank = cli.read_bank(args.noise_path, rows.max() + 1, card.latent)
    else:  # one bank for all images here too, so that their errors can be compared
        bank = cli.noise_of_image(args.seed, 0, rows.max() + 1, card.latent)

    def load():
        model = load_model(card, dtype=cli.DTYPES[dtype], device=device)
        points = torch.from_numpy(levels)

        def record_of(image: Image.Image, captions: list[str]) -> dict:
            x = model.encode(centre_crop(image, card.image_size, args.interpolation)[None])[0]  # [c, h, w]
            conditions = model.conditions([*captions, ""] if args.normalize else captions)
            errors = measure(model, x, conditions, points, bank[rows], batch_size=args.batch_size)  # [a, p, losses]
            pred = int(errors[:2, :, LOSSES.index(args.loss)].double().mean(1).argmin())
            counts = torch.full([len(errors)], len(points))
            return Measured(pred, points, counts, errors.flatten(0, 1)).record(rows, pred=pred)

        return record_of

    names = ["dataset", "version", "t_interval", "n_trials", "randomize_noise", "seed", "normalize", "interpolation"]
    options = cli.options_of(args, [*names, "loss"], card, pairs.captions, dtype, bank)
    name = f"v{cli.tag(args.version)}_t{args.t_interval}_{args.n_trials}trials"
    name += "_randnoise" if args.randomize_noise else ""
    name += f"_{args.interpolation}" if args.interpolation != "bilinear" else ""
    name += f"_{args.loss}" if args.loss != "l2" else ""
    name += f"_{args.img_size}" if args.img_size not in (None, 512) else ""
    name += "_normalized" if args.normalize else ""
    return options, name, (2 + args.normalize) * len(levels), load


def by_clip(args, device, dtype: str, pairs):
    """The same for CLIP: the error of a caption is its cosine distance to the image."""
    defaults = parser()
    for name in SD_ONLY:
        if getattr(args, name) != defaults.get_default(name):
            raise InputError(f"--{name}: is for --model sd, not for {args.model}")
    found, pretrained = find_clip(args.model, args.version, args.pretrained)

    def load():
        similarity = load_clip(found, pretrained, dtype=dtype, device=device)

        def record_of(image: Image.Image, captions: list[str]) -> dict:
            distance = 1 - similarity(image, captions)  # [2]
            return {
                "pred": int(distance.argmin()),
                "nfe": 1,
                "losses": ["cosine"],
                "levels": torch.zeros(1, dtype=torch.int64),
                "noise": torch.zeros(1, dtype=torch.int64),
                "counts": torch.ones(2, dtype=torch.int64),
                "errors": distance[:, None],
            }

        return record_of

    version = args.version if found.startswith("local-dir:") else found  # a folder, as it was given
    options = {"dataset": args.dataset, "model": version, "pretrained": pretrained, "dtype": dtype, "loss": "cosine"}
    options["data"] = records.sha256(repr(pairs.captions))
    tag = f"_{cli.tag(pretrained)}" if pretrained else ""
    return options, f"{args.model}_{cli.tag(version)}{tag}", 1, load


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "n_trials", "batch_size")
    cli.not_negative(args, "seed")
    if args.pretrained and args.model == "sd":
        raise InputError(f"--pretrained {args.pretrained}: is for --model clip and openclip; sd takes --version")
    device, dtype = cli.pick_device(args)
    pairs = load_pairs(args.dataset, cli.DATASET_ROOT)
    chosen, mine = cli.my_images(args, len(pairs))
    options, name, nfe, load = (by_diffusion if args.model == "sd" else by_clip)(args, device, dtype, pairs)
    folder = cli.LOG_DIR / (cli.tag(args.dataset) + cli.extra(args.extra)) / name
    examples = {k: {"id": pairs.ids[k], "captions": pairs.captions[k], "tag": pairs.tags[k]} for k in range(len(pairs))}
    arms = [("caption 0", "caption 0", 0), ("caption 1", "caption 1", 1)]
    about = {"images": 2 * len(chosen), "arms": arms, "examples": examples}
    todo, _ = cli.join_run(folder, options, about, [2 * k + side for k in mine for side in (0, 1)])
    print(f"{args.dataset}: {len(mine)} examples of {2 * nfe:,} NFE, {len(todo) * nfe:,} NFE to do -> {folder}")

    def one_image(number: int) -> dict:
        k, side = divmod(number, 2)
        return {"index": number, "label": side} | record_of(pairs.open(k, side), list(pairs.captions[k]))

    if todo:
        record_of = load()
    problems = cli.evaluate(todo, one_image, lambda number: folder / records.record_name(number, 2 * len(pairs)))
    code = matching.print_scores(folder, options["loss"])
    if args.gallery:
        matching.draw_gallery(folder, options["loss"], pairs, args.gallery)
    return cli.report(problems) or code


if __name__ == "__main__":
    cli.run(main)
