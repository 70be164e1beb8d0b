"""Zero-shot classification with a text-to-image diffusion model: the prompt that predicts the noise best wins.

    python eval_prob_adaptive.py --dataset cifar10 --split test --n_trials 1 --to_keep 5 1 --n_samples 50 500 \\
        --loss l1 --prompt_path prompts/cifar10_prompts.csv

Results go to $LOG_DIR (default data), one file per image; data is read from $DATASET_ROOT (default /datasets).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from diffusion import InputError, cli, records
from diffusion.datasets import TABLE, centre_crop, load_dataset, prompts_for, read_weights
from diffusion.errors import LOSSES, ImageNoise, plain, together, with_map
from diffusion.image import map_between, search_image
from diffusion.models import ALIASES, read_card
from diffusion.search import Search, check_schedule, halving, level_sequence, noise_rows


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ", ".join(ALIASES["text"])
    own = "a folder of class folders, a csv of path,label, or hf:NAME"
    p.add_argument("--dataset", default="pets", help=f"{', '.join(TABLE)}; or {own}")
    p.add_argument("--split", choices=["train", "val", "trainval", "test"], default="test")
    p.add_argument("--version", default="2-0", help=f"{models}; or a hub id or a diffusers folder")
    p.add_argument("--img_size", type=int, help="pixels; default the model's own")
    p.add_argument("--n_trials", type=int, default=1, help="noise draws per level")
    p.add_argument(
        "--prompt_path", type=Path, help="csv of prompt,classname,classidx[,group]; default prompts/DATASET..."
    )
    p.add_argument("--noise_path", type=Path, help="bank of noise [n, c, h, w]: point k of every image uses row k")
    p.add_argument("--interpolation", choices=["bilinear", "bicubic", "lanczos"], default="bicubic")
    p.add_argument("--extra", help="a suffix for the data set's folder")
    p.add_argument("--load_stats", action="store_true", help="count the images that are already done in the bar")
    p.add_argument("--loss", choices=LOSSES, default="l2", help="the loss that decides; all are stored")
    p.add_argument("--to_keep", type=int, nargs="+", help="halving: classes kept by each stage; the last is 1")
    p.add_argument("--n_samples", type=int, nargs="+", help="halving: noise levels measured by each stage")
    cli.add_search_options(p, "halving")
    maps = "keep where in the image the best two classes differ; see scripts/plot_maps.py"
    p.add_argument("--save_maps", action="store_true", default=None, help=maps)
    p.add_argument("--seed", type=int, default=0, help="of the noise, together with the image's index")
    cli.add_candidate_options(p)
    cli.add_text_options(p)
    cli.add_model_options(p)
    cli.add_shard_options(p)
    return p


def search_of(
    args, arm_class: np.ndarray, usable: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, Callable[[np.ndarray], Search]]:
    """The levels of the points, some of the usable ones, in the order of measurement; what starts an image's search."""
    arms = np.bincount(arm_class)
    if args.search == "race":
        cli.refuse(args, parser(), ["to_keep", "n_samples"], "is for --search halving, not for race")
        return cli.race_of(args, arms, usable, cli.most_arms(args, arm_class), groups)
    cli.refuse(args, parser(), cli.RACE_ONLY, "is for --search race")
    if args.to_keep is None or args.n_samples is None:
        raise InputError("--to_keep and --n_samples: wanted, as in --to_keep 5 1 --n_samples 50 500; or --search race")
    check_schedule(args.candidates or len(arms), args.n_samples, args.to_keep, len(usable))
    levels, ends = level_sequence(args.n_samples, len(usable))
    ends = ends * args.n_trials
    return np.repeat(usable[levels], args.n_trials), lambda among: halving(len(among), ends, args.to_keep)


def run_folder(args, candidates: str = "") -> Path:
    """The published name: suffixes appear only for what is not bicubic, l2, 512."""
    name = f"{cli.model_tag(args)}_{args.n_trials}trials_"
    if args.search == "race":
        name += cli.race_tag(args)
    else:
        name += f"{'_'.join(map(str, args.to_keep))}keep_{'_'.join(map(str, args.n_samples))}samples"
    name += f"_{args.interpolation}" if args.interpolation != "bicubic" else ""
    name += f"_{args.loss}" if args.loss != "l2" else ""
    name += f"_{args.img_size}" if args.img_size not in (None, 512) else ""
    name += candidates + cli.levels_tag(args) + ("_maps" if args.save_maps else "")
    return cli.LOG_DIR / (cli.tag(args.dataset) + cli.extra(args.extra)) / name


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "n_trials", "batch_size", "in_flight")
    cli.not_negative(args, "seed")
    device, dtype = cli.pick_device(args)
    dataset = load_dataset(args.dataset, args.split, cli.DATASET_ROOT)
    images, mine = cli.my_images(args, len(dataset))
    prompts = prompts_for(args.dataset, dataset, args.prompt_path)
    more = {"lora": args.lora, "embeddings": args.embeddings, "t5": args.t5, "config": args.config}
    card = read_card(args.version, args.img_size, **more)
    class_ids, first, arm_class = np.unique(prompts.classes, return_index=True, return_inverse=True)
    weights = read_weights(args.weights, card.levels)
    groups = prompts.groups and np.array(prompts.groups)[first]  # [classes]
    usable = cli.levels_of(args, card.levels)
    levels, start = search_of(args, arm_class, usable[weights[usable] > 0], groups)
    rows = noise_rows(levels, args.n_trials, True)
    bank = cli.read_bank(args.noise_path, len(levels), card.latent) if args.noise_path else None

    more, of, load_picker = cli.first_stage(args, parser(), dataset, mine, class_ids, lambda: prompts)
    folder = run_folder(args, of)
    names = [
        "dataset", "split", "version", "config", "lora", "embeddings", "t5",
        "n_trials", "interpolation", "loss", "seed", "save_maps",
    ]  # fmt: skip
    names += [] if args.search == "race" else ["to_keep", "n_samples"]
    table = list(zip(prompts.texts, prompts.names, prompts.classes, strict=True))
    options = cli.options_of(args, names, card, dataset.labels, dtype, bank)
    options |= cli.search_options(args, weights, levels) | more
    options |= {"prompts": records.sha256(repr(table)), "groups": prompts.groups if args.search == "race" else None}
    todo, earlier = cli.join_run(folder, options, {"images": len(images), "arms": table}, mine)
    print(f"{args.dataset}, {args.split} split: {len(mine)} images, {len(mine) - len(todo)} done before -> {folder}")

    def load(index: int) -> tuple[Tensor, Image.Image]:
        image = dataset.open(index)
        return centre_crop(image, card.image_size, args.interpolation), image  # [3, H, W]

    def classify_all(images, turn: str):
        pick = load_picker(dtype, device)
        model = cli.load(args, card, device, turn)
        conditions = model.conditions(prompts.texts)
        tqdm.write(f"{len(conditions)} prompts, kept as {conditions.nbytes / 1e6:,.1f} MB of embeddings")

        def one_image(index: int, image: Tensor, candidates: np.ndarray, chosen: dict):
            x = model.encode(image[None])[0]  # [c, h, w]
            noise = ImageNoise(args.seed, index, card.latent) if bank is None else bank
            measured = yield from search_image(
                x, conditions, arm_class, start, levels, rows, noise,
                loss=args.loss, weights=weights, among=np.sort(candidates),
            )  # fmt: skip
            pred = int(class_ids[measured.winner])
            record = measured.record(index=index, label=dataset.labels[index], pred=pred) | chosen
            return record | (map_between(measured, arm_class, card.latent[1:]) if args.save_maps else {})

        tasks = (one_image(index, x, *pick(index, image)) for index, (x, image) in images)
        keep = with_map if args.save_maps else plain
        return together(model, tasks, batch_size=args.batch_size, in_flight=args.in_flight, keep=keep)

    path_of = partial(records.record_path, folder, len(dataset))
    counted = earlier if args.load_stats else []
    rows, problems = cli.evaluate(todo, load, classify_all, path_of, dtype=dtype, grace=args.grace, earlier=counted)
    return cli.print_accuracy(earlier + rows, len(mine), problems)


if __name__ == "__main__":
    cli.run(main)
