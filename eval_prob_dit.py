"""Classification with a class-conditional diffusion model (DiT): the class id that predicts the noise best wins.

    python eval_prob_dit.py --dataset imagenet --split test --to_keep 50 1 --n_samples 25 250
    python eval_prob_dit.py --dataset imagenet --split test --noise_path noise_256.pt --randomize_noise \\
        --batch_size 32 --cls 0-99 --t_interval 4 --extra dit256 --save_vb

The first searches all classes, adaptively; the second measures some classes at every level, for print_dit_acc.py to
merge with the others. Results go to $LOG_DIR (default data), one file per image; data is read from $DATASET_ROOT
(default /datasets).
"""

import argparse
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diffusion import InputError, cli, records
from diffusion.datasets import Dataset, adm_crop, load_dataset, model_arms, prompts_for, read_weights
from diffusion.errors import LOSSES, ImageNoise, plain, together, with_answer, with_bound, with_map, with_prediction
from diffusion.image import map_between, search_image
from diffusion.models import ALIASES, Card, read_card
from diffusion.search import Search, check_schedule, every, halving, level_sequence, noise_rows

KEEP = {  # flag -> what it keeps beside the losses, and the suffix of the run's folder
    None: (plain, ""),
    "save_vb": (with_bound, ""),
    "spatial": (with_map, "_spatial"),
    "save_maps": (with_map, "_maps"),
    "save_eps": (with_prediction, "_eps"),
    "save_eps_and_var": (with_answer, "_epsvar"),
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = "imagenet, imagenetv2, imagenetA, objectnet, digits"
    p.add_argument("--dataset", default="imagenet", help=f"{known}; or own data whose class ids are the model's")
    p.add_argument("--split", choices=["train", "val", "trainval", "test"], default="test")
    p.add_argument("--image-size", type=int, choices=[256, 512], help="which DiT-XL/2; default 256")
    p.add_argument("--version", help=f"another model: {', '.join(ALIASES['class'])}; or a hub id or a diffusers folder")
    p.add_argument("--vae", help="another VAE, hub id or folder; the paper's is stabilityai/sd-vae-ft-ema")
    p.add_argument("--cls", nargs="+", help="only these classes: ids or ranges such as 0-99")
    p.add_argument("--t_interval", type=int, help="every class at every so-manieth level; with --cls, default 5")
    p.add_argument("--to_keep", type=int, nargs="+", help="classes kept by each stage; the last is 1; default 50 1")
    p.add_argument("--n_samples", type=int, nargs="+", help="noise levels measured by each stage; default 25 250")
    cli.add_search_options(p, "halving")
    cli.add_candidate_options(p)
    p.add_argument("--loss", choices=LOSSES, default="l2", help="the loss that decides; all are stored")
    p.add_argument("--n_trials", type=int, default=1, help="noise draws per level")
    p.add_argument("--randomize_noise", action="store_true", help="new noise for every level, not one for all")
    p.add_argument("--noise_path", type=Path, help="bank of noise [n, c, h, w] for all images; see save_noise.py")
    p.add_argument("--seed", type=int, default=0, help="of the noise without a bank, together with the image's index")
    for flag, what in [
        ("save_vb", "the variational bound, in bits per dimension"),
        ("spatial", "the squared error at each place"),
        ("save_maps", "where in the image the best two classes differ; see scripts/plot_maps.py"),
        ("save_eps", "the predictions"),
        ("save_eps_and_var", "the predictions and the variances"),
    ]:
        p.add_argument(f"--{flag}", dest="keep", action="append_const", const=flag, help=f"store also {what}")
    p.add_argument("--imgs_to_eval", type=int, help="only so many images, the first ones")
    p.add_argument("--extra", help="a suffix for the data set's folder")
    cli.add_model_options(p, dtype="float32")
    cli.add_shard_options(p)
    return p


def arms_of(args, dataset: Dataset, card: Card) -> tuple[dict[int, int], list[int]]:
    """Class id of the model -> class id of the data set, of all arms; and which of them this run measures."""
    arms = model_arms(args.dataset, dataset, card.source, card.classes, cli.DATASET_ROOT)
    if args.cls is None:
        return arms, sorted(arms)
    given = " ".join(args.cls)
    if not all(re.fullmatch(r"\d{1,9}(-\d{1,9})?", word) for word in args.cls):
        raise InputError(f"--cls {given}: wanted class ids or ranges of them, such as 7 or 0-99")
    bounds = cli.bounds(args.cls)
    if any(first > last for first, last in bounds):
        raise InputError(f"--cls {given}: a range goes up, as in 0-99")
    if max(last for _, last in bounds) >= card.classes:
        raise InputError(f"--cls {given}: {card.source} knows the classes 0..{card.classes - 1}")
    chosen = cli.numbers(args.cls)
    if strange := sorted(set(chosen) - set(arms)):
        raise InputError(f"--cls {given}: {cli.ranges(strange)} are none of the {len(arms)} classes of {args.dataset}")
    return arms, chosen


def schedule(args, n_arms: int, T: int) -> tuple[list[int], list[int]]:
    """n_samples and to_keep: as given; every level for all with --t_interval or --cls; else two stages."""
    if args.n_samples or args.to_keep:
        if args.t_interval is not None:
            raise InputError(f"--t_interval {args.t_interval}: --n_samples says which levels already")
        n_samples, to_keep = args.n_samples or [], args.to_keep or []
    elif args.t_interval is not None or args.cls is not None:
        n_samples, to_keep = [every(5 if args.t_interval is None else args.t_interval, T)], [1]
    else:
        n_samples, to_keep = ([25, 250], [min(50, n_arms // 2), 1]) if n_arms > 3 else ([250], [1])
    check_schedule(n_arms, n_samples, to_keep, T)
    return n_samples, to_keep


def search_of(
    args, n_arms: int, most: int, usable: np.ndarray, weights: np.ndarray
) -> tuple[list[int], list[int], np.ndarray, Callable[[np.ndarray], Search], int]:
    """n_samples and to_keep of halving, the levels in the order of measurement, what starts an image's search, NFE.

    Of n_arms at most `most` compete. usable levels, ascending, of weights [T]: stages and races leave out those of
    weight 0, a grid does not.
    """
    weighty = usable[weights[usable] > 0]
    if args.search == "race":
        halving_only = ["cls", "t_interval", "to_keep", "n_samples"]
        cli.refuse(args, parser(), halving_only, "is for --search halving, not for race")
        levels, start = cli.race_of(args, np.ones(n_arms, dtype=int), weighty, most)
        return [], [], levels, start, args.budget or most * len(levels)  # at most
    cli.refuse(args, parser(), cli.RACE_ONLY, "is for --search race")
    if args.t_interval is None and args.cls is None:
        usable = weighty
    n_samples, to_keep = schedule(args, most, len(usable))
    levels, ends = level_sequence(n_samples, len(usable))
    levels, ends = np.repeat(usable[levels], args.n_trials), ends * args.n_trials
    nfe = int(np.dot([most, *to_keep[:-1]], np.diff(ends, prepend=0)))
    return n_samples, to_keep, levels, lambda among: halving(len(among), ends, to_keep), nfe


def run_folder(args, card: Card, T: int, n_samples: list[int], to_keep: list[int], candidates: str = "") -> Path:
    """The published name for --t_interval, of T levels; stages are named as in eval_prob_adaptive.py."""
    name = f"DiT{card.image_size}x{card.image_size}" + (f"-{cli.tag(args.version)}" if args.version else "")
    if args.cls is not None:
        name += f"_cls{'_'.join(args.cls)}"
    if args.search == "race":
        name += f"_{args.n_trials}trials_{cli.race_tag(args)}"
    elif len(n_samples) == 1 and T % n_samples[0] == 0:
        name += f"_t{T // n_samples[0]}_{args.n_trials}trials"
    else:
        name += f"_{args.n_trials}trials_{'_'.join(map(str, to_keep))}keep_{'_'.join(map(str, n_samples))}samples"
    name += "_randnoise" if args.randomize_noise else ""
    name += f"_{args.loss}" if args.loss != "l2" else ""
    name += candidates + cli.levels_tag(args) + KEEP[args.keep][1]
    if len(name) > 200:
        if args.candidates:
            given, wanted = f"--candidates_from {args.candidates_from}", "give it a shorter name"
        else:
            given = f"--cls {' '.join(args.cls)}" if args.cls else f"--version {args.version}"
            wanted = "give classes as ranges such as 0-99"
        raise InputError(f"{given[:60]}...: too long for a folder's name; {wanted}")
    return cli.LOG_DIR / (cli.tag(args.dataset) + cli.extra(args.extra)) / name / args.split


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.at_least_one(args, "n_trials", "batch_size", "in_flight", "imgs_to_eval")
    cli.not_negative(args, "seed")
    if args.keep and len(args.keep) > 1:
        raise InputError(f"--{' --'.join(args.keep)}: at most one of them")
    args.keep = args.keep[0] if args.keep else None
    if args.candidates and args.cls is not None:
        raise InputError("--candidates: of a part of the classes, none are the best; leave out --cls")
    if args.keep == "save_maps" and args.cls is not None:
        raise InputError("--save_maps: of a part of the classes, no two are the best; leave out --cls")
    device, dtype = cli.pick_device(args)
    if args.version and args.image_size:
        raise InputError(f"--image-size {args.image_size}: --version {args.version} says it already")
    card = read_card(args.version or f"dit-{args.image_size or 256}", told="class", vae=args.vae)
    if args.keep in ("save_vb", "save_eps_and_var") and not card.has_bound:
        raise InputError(f"--{args.keep}: wanted a model of epsilon and its variance; {card.source} is not one")
    dataset = load_dataset(args.dataset, args.split, cli.DATASET_ROOT)
    environ = os.environ if args.cls is None or args.shard else {}  # with --cls, an array is usually one over classes
    images, mine = cli.my_images(args, len(dataset), args.imgs_to_eval, environ)
    all_arms, arms = arms_of(args, dataset, card)
    weights = read_weights(args.weights, card.levels)
    class_ids, arm_class = np.unique([all_arms[k] for k in arms], return_inverse=True)
    usable = cli.levels_of(args, card.levels)
    most = cli.most_arms(args, arm_class)
    n_samples, to_keep, levels, start, nfe = search_of(args, len(arms), most, usable, weights)
    prompts = partial(prompts_for, args.dataset, dataset)
    more, of, load_picker = cli.first_stage(args, parser(), dataset, mine, class_ids, prompts)
    folder = run_folder(args, card, len(usable), n_samples, to_keep, of)
    cli.warn_of_one_draw(args, levels)
    rows = noise_rows(levels, args.n_trials, args.randomize_noise)
    bank = cli.read_bank(args.noise_path, rows.max() + 1, card.latent) if args.noise_path else None
    keep, _ = KEEP[args.keep]

    names = ["dataset", "split", "version", "vae", "n_trials", "randomize_noise", "loss", "seed", "keep"]
    options = cli.options_of(args, names, card, dataset.labels, dtype, bank)
    options |= cli.search_options(args, weights, levels) | more
    options |= {
        "cls": None if args.cls is None else cli.ranges(arms),
        "to_keep": to_keep,
        "n_samples": n_samples,
        "interpolation": "adm",
    }
    names = dataset.classes or [str(k) for k in range(card.classes)]
    table = [(k, names[all_arms[k]], all_arms[k]) for k in arms]
    all_ids = cli.ranges(sorted(all_arms))
    about = {"images": len(images), "indices": cli.ranges(images), "arms": table, "all_arms": all_ids}
    todo, earlier = cli.join_run(folder, options, about, mine)
    c, h, w = card.latent
    extra = {"save_vb": 1, "spatial": h * w, "save_eps": c * h * w, "save_eps_and_var": 2 * c * h * w}
    limit = "at most " if args.search == "race" or args.candidates else ""
    cost = f"{limit}{nfe:,} NFE and {nfe * (len(LOSSES) + extra.get(args.keep, 0)) * 4 / 1e6:,.1f} MB each"
    done = len(mine) - len(todo)
    print(f"{args.dataset}, {args.split} split: {len(mine)} images, {cost}, {done} done before -> {folder}")

    def load(index: int) -> tuple[Tensor, Image.Image]:
        image = dataset.open(index)
        return adm_crop(image, card.image_size), image  # [3, H, W]

    def classify_all(images, turn: str):
        pick = load_picker(dtype, device)
        model = cli.load(args, card, device, turn)
        conditions = model.conditions(arms)

        def one_image(index: int, image: Tensor, candidates: np.ndarray, chosen: dict):
            x = model.encode(image[None])[0]  # [c, h, w]
            noise = ImageNoise(args.seed, index, card.latent) if bank is None else bank
            among = np.flatnonzero(np.isin(arm_class, candidates))
            measured = yield from search_image(
                x, conditions, np.arange(len(arms)), start, levels, rows, noise,
                loss=args.loss, weights=weights, among=among,
            )  # fmt: skip
            record = measured.record(index=index, label=dataset.labels[index]) | chosen
            if args.cls is None:  # of a part of the classes, none is the answer
                record["pred"] = all_arms[arms[measured.winner]]
            n = len(LOSSES)
            if args.keep == "save_vb":
                record["losses"].append("vb")
            elif args.keep == "save_maps":
                record |= map_between(measured, np.arange(len(arms)), (h, w))
            elif args.keep is not None:
                shape = (h, w) if args.keep == "spatial" else (-1, h, w)  # [n, h, w], [n, c, h, w] or [n, 2c, h, w]
                record[args.keep.removeprefix("save_")] = measured.errors[:, n:].unflatten(1, shape).clone()
                record["errors"] = measured.errors[:, :n].clone()
            return record

        tasks = (one_image(index, x, *pick(index, image)) for index, (x, image) in images)
        return together(model, tasks, batch_size=args.batch_size, in_flight=args.in_flight, keep=keep)

    path_of = partial(records.record_path, folder, len(dataset))
    rows, problems = cli.evaluate(todo, load, classify_all, path_of, dtype=dtype, grace=args.grace)
    return cli.print_accuracy(earlier + rows, len(mine), problems)


if __name__ == "__main__":
    cli.run(main)
