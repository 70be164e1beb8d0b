"""Compositional matching: do two images and two captions of the same words find each other (Winoground)?

    python run_winoground.py --model sd --version 2-0 --t_interval 1 --batch_size 32 --noise_path noise_512.pt \\
        --randomize_noise --interpolation bicubic
    python run_winoground.py --model clip --version ViT-L/14

Results go to $LOG_DIR (default data), one file per image; scripts/print_winoground.py prints them again.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diffusion import InputError, cli, matching, metrics, records
from diffusion.clip import DEFAULTS, clip_weights, find_clip, load_clip
from diffusion.datasets import centre_crop, read_weights
from diffusion.errors import LOSSES, ImageNoise, together
from diffusion.image import search_image
from diffusion.models import read_card
from diffusion.pairs import load_pairs
from diffusion.search import every, halving, level_sequence, noise_rows


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
    p.add_argument("--t_interval", type=int, default=5, help="grid: every so-manieth noise level")
    cli.add_search_options(p, "grid")
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
    cli.add_text_options(p)
    cli.add_model_options(p)
    cli.add_shard_options(p)
    return p


SD_ONLY = [
    "search", *cli.RACE_ONLY, "t_interval", "n_trials", "randomize_noise", "noise_path", "seed", "normalize",
    "interpolation", "img_size", "loss", "levels", "weights", "in_flight", "compile", "offload", "config", "lora",
    "embeddings", "t5",
]  # fmt: skip


def by_diffusion(args, device, dtype: str, pairs):
    """Options for run.json, the run folder's name, NFE per image, how to load an image, and what classifies images."""
    args.version = args.version or "2-0"
    more = {"lora": args.lora, "embeddings": args.embeddings, "t5": args.t5, "config": args.config}
    card = read_card(args.version, args.img_size, **more)
    arm_class = np.arange(2 + args.normalize)
    weights, usable = read_weights(args.weights, card.levels), cli.levels_of(args, card.levels)
    if args.search == "race":
        cli.refuse(args, parser(), ["t_interval", "normalize", "gallery"], "is for --search grid, not for race")
        levels, start = cli.race_of(args, np.ones(2, dtype=int), usable[weights[usable] > 0], 2)
    else:
        cli.refuse(args, parser(), cli.RACE_ONLY, "is for --search race")
        levels, _ = level_sequence([every(args.t_interval, len(usable))], len(usable))
        levels = np.repeat(usable[levels], args.n_trials)

        def start(among: np.ndarray):
            return halving(len(among), [len(levels)], [1])

    cli.warn_of_one_draw(args, levels)
    rows = noise_rows(levels, args.n_trials, args.randomize_noise)
    if args.noise_path:
        noise = bank = cli.read_bank(args.noise_path, rows.max() + 1, card.latent)
    else:  # one bank for all images here too, so that their errors can be compared
        noise, bank = ImageNoise(args.seed, 0, card.latent), None

    def load(k: int, side: int) -> Tensor:
        return centre_crop(pairs.open(k, side), card.image_size, args.interpolation)  # [3, H, W]

    def classify_all(images, dtype: str):
        model = cli.load(args, card, device, dtype)

        def one_image(number: int, image: Tensor):
            captions = pairs.captions[number // 2]
            x = model.encode(image[None])[0]  # [c, h, w]
            conditions = model.conditions([*captions, ""][: len(arm_class)])
            measured = yield from search_image(
                x, conditions, arm_class, start, levels, rows, noise, loss=args.loss, weights=weights
            )
            record = measured.record(index=number, label=number % 2)
            errors = metrics.class_errors(record, arm_class, args.loss)[0][:2]  # the empty caption is no answer
            return record | {"pred": int(errors.argmin()), "margin": metrics.margin(errors)}

        tasks = (one_image(number, image) for number, image in images)
        return together(model, tasks, batch_size=args.batch_size, in_flight=args.in_flight)

    names = [
        "dataset", "version", "config", "lora", "embeddings", "t5",
        "t_interval", "n_trials", "randomize_noise", "seed", "normalize", "interpolation", "loss",
    ]  # fmt: skip
    options = cli.options_of(args, names, card, pairs.captions, dtype, bank)
    options |= cli.search_options(args, weights, levels)
    trials = f"{args.n_trials}trials"
    how = f"{trials}_{cli.race_tag(args)}" if args.search == "race" else f"t{args.t_interval}_{trials}"
    name = f"{cli.model_tag(args)}_{how}"
    name += "_randnoise" if args.randomize_noise else ""
    name += f"_{args.interpolation}" if args.interpolation != "bilinear" else ""
    name += f"_{args.loss}" if args.loss != "l2" else ""
    name += f"_{args.img_size}" if args.img_size not in (None, 512) else ""
    name += "_normalized" if args.normalize else ""
    name += cli.levels_tag(args)
    return options, name, args.budget or len(arm_class) * len(levels), load, classify_all


def by_clip(args, device, dtype: str, pairs):
    """The same for CLIP: the error of a caption is its cosine distance to the image."""
    cli.refuse(args, parser(), SD_ONLY, f"is for --model sd, not for {args.model}")
    found, pretrained = find_clip(args.model, args.version, args.pretrained)

    def classify_all(images, dtype: str):
        of_image, of_texts = load_clip(found, pretrained, dtype=dtype, device=device)

        def record_of(number: int, image: Image.Image) -> dict:
            distance = 1 - of_texts(list(pairs.captions[number // 2])) @ of_image(image)  # [2]
            about = {"index": number, "label": number % 2, "pred": int(distance.argmin())}
            return records.one_point(distance, "cosine", **about)

        return (record_of(number, image) for number, image in images)

    version = args.version if found.startswith("local-dir:") else found  # a folder, as it was given
    options = {"dataset": args.dataset, "model": version, "pretrained": pretrained, "dtype": dtype, "loss": "cosine"}
    options |= clip_weights(found, pretrained)
    options["data"] = records.sha256(repr(pairs.captions))
    tag = f"_{cli.tag(pretrained)}" if pretrained else ""
    return options, f"{args.model}_{cli.tag(version)}{tag}", 1, pairs.open, classify_all


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "n_trials", "batch_size", "in_flight")
    cli.not_negative(args, "seed")
    if args.pretrained and args.model == "sd":
        raise InputError(f"--pretrained {args.pretrained}: is for --model clip and openclip; sd takes --version")
    cli.check_picture(args.gallery)
    device, dtype = cli.pick_device(args)
    pairs = load_pairs(args.dataset, cli.DATASET_ROOT)
    chosen, mine = cli.my_images(args, len(pairs))
    by = by_diffusion if args.model == "sd" else by_clip
    options, name, nfe, load, classify_all = by(args, device, dtype, pairs)
    folder = cli.LOG_DIR / (cli.tag(args.dataset) + cli.extra(args.extra)) / name
    examples = {k: {"id": pairs.ids[k], "captions": pairs.captions[k], "tag": pairs.tags[k]} for k in range(len(pairs))}
    arms = [("caption 0", "caption 0", 0), ("caption 1", "caption 1", 1)]
    about = {"images": 2 * len(chosen), "arms": arms, "examples": examples}
    todo, _ = cli.join_run(folder, options, about, [2 * k + side for k in mine for side in (0, 1)])
    most = "at most " if args.search == "race" else ""
    cost = f"{most}{2 * nfe:,} NFE, {most}{len(todo) * nfe:,} NFE to do"
    print(f"{args.dataset}: {len(mine)} examples of {cost} -> {folder}")

    path_of = partial(records.record_path, folder, 2 * len(pairs))
    _, problems = cli.evaluate(
        todo, lambda number: load(*divmod(number, 2)), classify_all, path_of, dtype=dtype, grace=args.grace
    )
    code = matching.print_scores(folder, options["loss"])
    if args.gallery:
        matching.draw_gallery(folder, options["loss"], pairs, args.gallery)
    return cli.report(problems) or code


if __name__ == "__main__":
    cli.run(main)
