"""Classification with a class-conditional diffusion model, such as DiT: the class id that predicts the noise best wins.

    python eval_prob_dit.py --dataset imagenet --split test --to_keep 50 1 --n_samples 25 250
    python eval_prob_dit.py --dataset imagenet --split test --noise_path noise_256.pt --randomize_noise \\
        --batch_size 32 --cls 0-99 --t_interval 4 --extra dit256 --save_vb

The first searches all classes, adaptively; the second measures some classes at every level, for print_dit_acc.py to
merge with the others. Results go to $LOG_DIR (default data), one file per image; data is read from $DATASET_ROOT
(default /datasets).
"""

from diffusion.data import catalogue
from diffusion.evaluate import options
from diffusion.io import wording
from diffusion.models import aliases
from diffusion.runs import naming

KEEP = {  # flag -> what is stored beside the losses, and the suffix of the run's folder
    "save_vb": ("the variational bound, in bits per dimension", ""),
    "spatial": ("the squared error at each place", "spatial"),
    "save_maps": ("where in the image the best two classes differ; see scripts/plot_maps.py", "maps"),
    "save_eps": ("the predictions", "eps"),
    "save_eps_and_var": ("the predictions and the variances", "epsvar"),
}


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    known = "imagenet, imagenetv2, imagenetA, objectnet, digits, fashion-mnist; or own data of the model's classes"
    data = options.add_data(p, "imagenet", known)
    options.add(data, "--imgs_to_eval N", "use only the first N images; default all")
    model = p.add_argument_group("model")
    options.add(model, "--image-size", "which DiT-XL/2, by its pixels; default 256", choices=[256, 512], type=int)
    other = f"another model: {aliases.VERSIONS['class']}; or a hub id or a diffusers folder"
    options.add(model, "--version MODEL", other)
    options.add(model, "--vae VAE", "another VAE, hub id or folder; the paper's is stabilityai/sd-vae-ft-ema")
    options.add(model, "--classes FILE", "names of the model's classes, one per line; default from the model's folder")
    options.add_network(model, "float32")
    search = options.add_search(p, "halving")
    options.add_stages(search, "; default 50 1", "; default 25 250")
    options.add(search, "--cls IDS", "only these classes: ids or ranges such as 0-99; default all", nargs="+")
    grid = "measure every class at every N-th level; default 5 with --cls, else --to_keep and --n_samples"
    options.add(search, "--t_interval N", grid)
    options.add_noise(search, "each image, by its index, has its own", randomize=True)
    options.add_candidates(search)
    stored = options.add_store(p)
    for flag, (what, _) in KEEP.items():
        stored.add_argument(f"--{flag}", dest="keep", action="append_const", const=flag, help=f"store also {what}")
    options.add_picture(stored)
    options.add_shards(p)
    p.set_defaults(reads=lambda args: (args.version or f"dit-{args.image_size or 256}", "class"))
    return p


import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.core import losses
from diffusion.core.constants import LOSSES
from diffusion.core.image import Measured, map_between
from diffusion.core.search import Search, check_schedule, every, staged
from diffusion.data.datasets import Dataset, load_dataset, model_arms
from diffusion.data.prompts import prompts_for, read_weights
from diffusion.evaluate import config as run_config
from diffusion.evaluate import loop
from diffusion.io.atomic import sha256
from diffusion.models.config import with_names
from diffusion.models.loading import Card, read_card
from diffusion.plots import style


def arms_of(args, dataset: Dataset, card: Card) -> tuple[dict[int, int], list[int]]:
    """Class id of the model -> class id of the data set, of all arms; and which of them this run measures."""
    arms = model_arms(args.dataset, dataset, card.source, card.classes, catalogue.DATASET_ROOT, card.called)
    if args.cls is None:
        return arms, sorted(arms)
    given = " ".join(args.cls)
    if not all(re.fullmatch(r"\d{1,9}(-\d{1,9})?", word) for word in args.cls):
        raise InputError(f"--cls {given}", "wanted class ids or ranges of them, such as 7 or 0-99")
    bounds = wording.bounds(args.cls)
    if any(first > last for first, last in bounds):
        raise InputError(f"--cls {given}", "a range goes up, as in 0-99")
    if max(last for _, last in bounds) >= card.classes:
        raise InputError(f"--cls {given}", f"{card.source} knows the classes 0..{card.classes - 1}")
    chosen = wording.numbers(args.cls)
    if strange := sorted(set(chosen) - set(arms)):
        none = f"{wording.ranges(strange)} are none of the {len(arms)} classes of {args.dataset}"
        raise InputError(f"--cls {given}", none)
    return arms, chosen


def schedule(args, n_arms: int, T: int) -> tuple[list[int], list[int]]:
    """n_samples and to_keep: as given; every level for all with --t_interval or --cls; else two stages."""
    if args.n_samples or args.to_keep:
        if args.t_interval is not None:
            raise InputError(f"--t_interval {args.t_interval}", "--n_samples says which levels already")
        n_samples, to_keep = args.n_samples or [], args.to_keep or []
    elif args.t_interval is not None or args.cls is not None:
        n_samples, to_keep = [every(5 if args.t_interval is None else args.t_interval, T)], [1]
    else:
        n_samples, to_keep = ([25, 250], [min(50, n_arms // 2), 1]) if n_arms > 3 else ([250], [1])
    check_schedule(n_arms, n_samples, to_keep, T)
    return n_samples, to_keep


def search_of(
    args, n_arms: int, most: int, usable: np.ndarray, weights: np.ndarray
) -> tuple[list[int], list[int], np.ndarray, np.ndarray, Callable[[np.ndarray], Search], int]:
    """n_samples and to_keep of halving, the levels in the order of measurement, where their stages end, what starts an
    image's search, NFE.

    Of n_arms at most `most` compete. usable levels, ascending, of weights [T]: stages and races leave out those of
    weight 0, a grid does not.
    """
    weighty = usable[weights[usable] > 0]
    if args.search == "race":
        halving_only = ["cls", "t_interval", "to_keep", "n_samples"]
        options.refuse(args, parser(), halving_only, "is for --search halving, not for race")
        levels, start = run_config.race_of(args, np.ones(n_arms, dtype=int), weighty, most)
        return [], [], levels, np.array([len(levels)]), start, args.budget or most * len(levels)  # at most
    options.refuse(args, parser(), run_config.RACE_ONLY, "is for --search race")
    if args.t_interval is None and args.cls is None:
        usable = weighty
    n_samples, to_keep = schedule(args, most, len(usable))
    levels, ends, start = staged(usable, n_samples, to_keep, args.n_trials, pairs=run_config.in_pairs(args))
    nfe = int(np.dot(np.minimum([most, *to_keep[:-1]], most), np.diff(ends, prepend=0)))
    return n_samples, to_keep, levels, ends, start, nfe


def run_folder(args, card: Card, T: int, n_samples: list[int], to_keep: list[int], candidates: str = "") -> Path:
    """The published name for --t_interval, of T levels; stages are named as in eval_prob_adaptive.py."""
    kind = "DiT" if card.pipeline == "DiTPipeline" else "UNet"
    model = f"{kind}{card.image_size}x{card.image_size}" + (f"-{naming.tag(args.version)}" if args.version else "")
    some = "" if args.cls is None else f"cls{'_'.join(args.cls)}"
    interval = T // n_samples[0] if len(n_samples) == 1 and T % n_samples[0] == 0 else None
    search = run_config.search_tag(args, interval, to_keep, n_samples)
    name = naming.joined(
        model, some, search, run_config.suffixes(args, None, candidates), args.keep and KEEP[args.keep][1]
    )
    if len(name) > 200:
        if args.candidates_from:
            given, wanted = f"--candidates_from {args.candidates_from}", "give it a shorter name"
        else:
            given = f"--cls {' '.join(args.cls)}" if args.cls else f"--version {args.version}"
            wanted = "give classes as ranges such as 0-99"
        raise InputError(f"{given[:60]}...", f"too long for a folder's name; {wanted}")
    return naming.run_folder(args.dataset, args.extra, name) / args.split


def check(args) -> None:
    """InputError where options do not fit together; --save_... becomes args.keep, the one that was given."""
    options.at_least_one(args, "n_trials", "batch_size", "in_flight", "imgs_to_eval")
    options.not_negative(args, "seed")
    if args.keep and len(args.keep) > 1:
        raise InputError(f"--{' --'.join(args.keep)}", "at most one of them")
    args.keep = args.keep[0] if args.keep else None
    if args.candidates and args.cls is not None:
        raise InputError("--candidates", "of a part of the classes, none are the best; leave out --cls")
    if args.keep == "save_maps" and args.cls is not None:
        raise InputError("--save_maps", "of a part of the classes, no two are the best; leave out --cls")
    if args.picture and args.cls is not None:
        raise InputError("--picture", "of a part of the classes, none is the answer; leave out --cls")
    style.check_picture(args.picture)
    if args.version and args.image_size:
        raise InputError(f"--image-size {args.image_size}", f"--version {args.version} says it already")


def stored(kept: str | None, latent: tuple[int, int, int]) -> tuple[Callable, tuple[int, ...]]:
    """What the kernel keeps for a flag, and the shape of that for one evaluation, beside its losses."""
    c, h, w = latent
    return {
        None: (losses.plain, (0,)),
        "save_vb": (losses.with_bound, (1,)),
        "spatial": (losses.with_map, (h, w)),
        "save_maps": (losses.with_map, (h, w)),
        "save_eps": (losses.with_prediction, (c, h, w)),
        "save_eps_and_var": (losses.with_answer, (2 * c, h, w)),
    }[kept]


def with_stored(record: dict, measured: Measured, kept: str | None, shape: tuple[int, ...]) -> dict:
    """A record with what is stored beside the losses."""
    n = len(LOSSES)
    if kept == "save_vb":
        record["losses"].append("vb")
    elif kept == "save_maps":
        record |= map_between(measured, np.arange(len(measured.counts)), shape)
    elif kept is not None:
        record[kept.removeprefix("save_")] = measured.errors[:, n:].unflatten(1, shape).clone()
        record["errors"] = measured.errors[:, :n].clone()
    return record


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    check(args)
    device, dtype = run_config.pick_device(args)
    name, takes = args.reads(args)
    card = read_card(name, told=takes, vae=args.vae)
    card = with_names(card, args.classes) if args.classes else card
    if args.keep in ("save_vb", "save_eps_and_var") and not card.has_bound:
        raise InputError(f"--{args.keep}", f"wanted a model of epsilon and its variance; {card.source} is not one")
    columns = args.image_column, args.label_column
    dataset = load_dataset(args.dataset, args.split, catalogue.DATASET_ROOT, *columns, args.value_range)
    environ = os.environ if args.cls is None or args.shard else {}  # with --cls, an array is usually one over classes
    images, mine = run_config.my_images(args, dataset.labels, args.imgs_to_eval, environ)
    class_of, arms = arms_of(args, dataset, card)
    arm_class = np.unique([class_of[k] for k in arms], return_inverse=True)[1]
    usable, weights = run_config.levels_of(args, card.levels), read_weights(args.weights, card.levels)
    called = dataset.classes or card.called or [str(k) for k in range(card.classes)]
    table = [(k, called[class_of[k]], class_of[k]) for k in arms]
    if dataset.candidates and args.cls is not None:
        raise InputError("--cls", f"the column candidates of {dataset.name} says which classes compete")
    prompts = partial(prompts_for, args.dataset, dataset.labels, dataset.classes)
    told, of, first_stage = run_config.first_stage(args, parser(), dataset, mine, table, prompts)
    most = run_config.most_arms(args, arm_class)
    n_samples, to_keep, levels, ends, start, nfe = search_of(args, len(arms), most, usable, weights)
    folder = run_folder(args, card, len(usable), n_samples, to_keep, of)
    points = run_config.points_of(args, card, levels, ends, weights, start, randomize=args.randomize_noise)
    keep, shape = stored(args.keep, card.latent)

    flags = ["vae", "randomize_noise", "keep"]
    chosen = run_config.options_of(args, flags, card, run_config.data_options(args, dataset), dtype, points) | told
    chosen |= {"to_keep": to_keep, "n_samples": n_samples, "interpolation": "adm"}
    chosen |= {"cls": None if args.cls is None else wording.ranges(arms)}
    chosen |= {"classes": args.classes and sha256(repr(card.called))}
    about = {"images": len(images), "schedule": card.levels, "indices": wording.ranges(images), "arms": table}
    about["all_arms"] = wording.ranges(sorted(class_of))
    exact = args.search != "race" and not args.candidates
    numbers = len(LOSSES) + (0 if args.keep == "save_maps" else int(np.prod(shape)))
    size = f" in {nfe * numbers * 4 / 1e6:,.1f} MB"

    def finish(index: int, measured: Measured) -> dict:
        record = measured.record(**dataset.about(index))
        if args.cls is None:  # of a part of the classes, none is the answer
            record["pred"] = class_of[arms[measured.winner]]
        return with_stored(record, measured, args.keep, shape)

    load, classify = loop.by_search(
        args, card, device, dtype, points, dataset.open, "adm", arms, np.arange(len(arms)), finish,
        first=first_stage, rows=arm_class, keep=keep,
    )  # fmt: skip
    return loop.classify_dataset(
        args, dataset, mine, folder, chosen, about, load, classify, dtype=dtype, nfe=nfe, exact=exact, told=size,
        picture=args.picture,
    )  # fmt: skip


if __name__ == "__main__":
    options.run(main)
