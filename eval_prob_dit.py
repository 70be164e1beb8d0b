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

FITTING = ("imagenet", "imagenetv2", "imagenetA", "objectnet", "digits", "fashion-mnist")  # of a model's classes
SAVE = {  # flag -> what is stored beside the losses, and the suffix of the run's folder
    "save_vb": ("the variational bound, in bits per dimension", ""),
    "spatial": ("the squared error at each place", "spatial"),
    "save_maps": ("where in the image the best two classes differ; see scripts/plot_maps.py", "maps"),
    "save_eps": ("the predictions", "eps"),
    "save_eps_and_var": ("the predictions and the variances", "epsvar"),
}


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    datasets = f"{', '.join(FITTING)}; or own data of the model's classes"
    data = options.add_data(p, "imagenet", datasets)
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
    for flag, (what, _) in SAVE.items():
        stored.add_argument(f"--{flag}", dest="save", action="append_const", const=flag, help=f"store also {what}")
    options.add_picture(stored)
    options.add_shards(p)
    options.add_dry_run(p)
    options.add_list(p, "class", FITTING)
    p.set_defaults(reads=lambda args: (args.version or f"dit-{args.image_size or 256}", "class"))
    return p


import os
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diffusion import InputError
from diffusion.core import losses
from diffusion.core.constants import LOSSES
from diffusion.core.image import Measured, map_between
from diffusion.core.schedule import Schedule, halving_schedule
from diffusion.data.datasets import Dataset, model_arms
from diffusion.data.prompts import prompts_for, read_level_weights
from diffusion.evaluate import config as run_config
from diffusion.evaluate.candidates import first_stage, is_clip
from diffusion.evaluate.classifier import Arms, DatasetClassifier, Method
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.dry_run import describe
from diffusion.evaluate.loop import Cost, Folder, classify_dataset
from diffusion.evaluate.points import (
    check_halving,
    grid_size,
    most_competing,
    points_and_noise,
    race_from_options,
    usable_levels,
)
from diffusion.evaluate.selection import choose_images, dataset_of
from diffusion.io.atomic import sha256
from diffusion.models.config import with_names
from diffusion.models.loading import Card, read_card
from diffusion.plots import style
from diffusion.runs import records


def check(args) -> str | None:
    """The one of the --save_... options that was asked for. InputError: options that do not fit together."""
    options.at_least_one(args, "imgs_to_eval")
    style.check_picture(args.picture)
    if args.save and len(args.save) > 1:
        raise InputError(f"--{' --'.join(args.save)}", "at most one of them")
    save = args.save[0] if args.save else None
    if args.version and args.image_size:
        raise InputError(f"--image-size {args.image_size}", f"--version {args.version} says it already")
    if args.cls is None:
        return save

    if args.candidates:
        raise InputError("--candidates", "of a part of the classes, none are the best; leave out --cls")
    if save == "save_maps":
        raise InputError("--save_maps", "of a part of the classes, no two are the best; leave out --cls")
    if args.picture:
        raise InputError("--picture", "of a part of the classes, none is the answer; leave out --cls")
    return save


def class_ids_of(args, dataset: Dataset, card: Card) -> tuple[dict[int, int], list[int]]:
    """Class id of the model -> class id of the data set; and the ids of the model that this run measures, its arms."""
    class_of = model_arms(args.dataset, dataset, card.source, card.classes, catalogue.DATASET_ROOT, card.called)
    if args.cls is None:
        return class_of, sorted(class_of)

    where = f"--cls {' '.join(args.cls)}"
    if not all(re.fullmatch(r"\d{1,9}(-\d{1,9})?", word) for word in args.cls):
        raise InputError(where, "wanted class ids or ranges of them, such as 7 or 0-99")
    bounds = wording.bounds(args.cls)
    if any(first > last for first, last in bounds):
        raise InputError(where, "a range goes up, as in 0-99")
    if max(last for _, last in bounds) >= card.classes:
        raise InputError(where, f"{card.source} knows the classes 0..{card.classes - 1}")
    chosen = wording.numbers(args.cls)
    strange = sorted(set(chosen) - set(class_of))
    if strange:
        none = f"{wording.ranges(strange)} are none of the {len(class_of)} classes of {args.dataset}"
        raise InputError(where, none)
    return class_of, chosen


def stages_of(args, n_arms: int, T: int) -> tuple[list[int], list[int]]:
    """n_samples and to_keep: as asked for; every level for all with --t_interval or --cls; else two stages."""
    if args.n_samples or args.to_keep:
        if args.t_interval is not None:
            raise InputError(f"--t_interval {args.t_interval}", "--n_samples says which levels already")
        n_samples, to_keep = args.n_samples or [], args.to_keep or []
    elif is_grid(args):
        interval = 5 if args.t_interval is None else args.t_interval
        n_samples, to_keep = [grid_size(interval, T)], [1]
    elif n_arms > 3:
        n_samples, to_keep = [25, 250], [min(50, n_arms // 2), 1]
    else:
        n_samples, to_keep = [250], [1]
    check_halving(n_arms, n_samples, to_keep, T)
    return n_samples, to_keep


def is_grid(args) -> bool:
    """Whether every class is measured at every level, or at every N-th."""
    return args.t_interval is not None or args.cls is not None


def schedule_of(
    args, config: RunConfig, arms_per_class: np.ndarray, usable: np.ndarray, weights: np.ndarray, K: int | None
) -> Schedule:
    """The search and its levels, some of the usable ones: a grid has those of weight 0 too, weights [T].

    arms_per_class [classes] is how many class ids of the model each class has; K classes compete for an image at most,
    by default all. The search is between the ids.
    """
    weighted = usable[weights[usable] > 0]
    one_each = np.ones(arms_per_class.sum(), dtype=int)
    most = most_competing(arms_per_class, K)
    if config.search == "race":
        halving_only = ["cls", "t_interval", "to_keep", "n_samples"]
        options.refuse(args, parser(), halving_only, "is for --search halving, not for race")
        return race_from_options(config, weighted, one_each, most)

    options.refuse(args, parser(), options.RACE_ONLY, "is for --search race")
    levels = usable if is_grid(args) else weighted
    n_samples, to_keep = stages_of(args, most, len(levels))
    schedule = halving_schedule(
        levels, n_samples, to_keep, one_each, n_trials=config.n_trials, pairs=config.antithetic, most=most
    )
    if len(n_samples) == 1 and len(usable) % n_samples[0] == 0:
        return replace(schedule, interval=len(usable) // n_samples[0])
    return schedule


def run_name(args, config: RunConfig, card: Card, schedule: Schedule, first_name: str, save: str | None) -> str:
    """The published name of the run's folder for --t_interval; stages are named as in eval_prob_adaptive.py.

    `first_name` is that of the first stage, "" if there is none.
    """
    kind = "DiT" if card.pipeline == "DiTPipeline" else "UNet"
    network = f"{kind}{card.image_size}x{card.image_size}"
    if args.version:
        network += f"-{naming.tag(args.version)}"
    name = naming.joined(
        network,
        args.cls is not None and f"cls{'_'.join(args.cls)}",
        run_config.search_tag(config, schedule),
        run_config.suffixes(config, schedule, None, first_name),
        save and SAVE[save][1],
    )
    if len(name) > 200:
        raise too_long(args)
    return name


def too_long(args) -> InputError:
    """The error for options whose values make the folder's name too long."""
    if args.candidates_from:
        where, wanted = f"--candidates_from {args.candidates_from}", "give it a shorter name"
    elif args.cls:
        where, wanted = f"--cls {' '.join(args.cls)}", "give classes as ranges such as 0-99"
    else:
        where, wanted = f"--version {args.version}", "give it a shorter name"
    return InputError(f"{where[:60]}...", f"too long for a folder's name; {wanted}")


def reduction_of(save: str | None, latent: tuple[int, int, int]) -> tuple[Callable, tuple[int, ...]]:
    """The function of core/losses.py for a flag, and the shape of its result beside the losses, for one evaluation."""
    c, h, w = latent
    return {
        None: (losses.losses_only, (0,)),
        "save_vb": (losses.with_bound, (1,)),
        "spatial": (losses.with_map, (h, w)),
        "save_maps": (losses.with_map, (h, w)),
        "save_eps": (losses.with_prediction, (c, h, w)),
        "save_eps_and_var": (losses.with_output, (2 * c, h, w)),
    }[save]


class ClassIdClassifier(DatasetClassifier):
    """Class ids of the model compete; a record has what --save_... asks for, and unless some=True the winner's class.

    With some=True only a part of the classes is measured, and no class of a part is the answer.
    """

    def __init__(self, *args, save: str | None, some: bool):
        super().__init__(*args)
        self.interpolation = "adm"
        self.save, self.some = save, some

    def record(self, index: int, measured: Measured) -> dict:
        record = measured.record(**self.dataset.record_fields(index))
        if not self.some:
            record["pred"] = int(self.arms.class_ids[measured.winner])
        shape = reduction_of(self.save, self.method.card.latent)[1]
        n = len(LOSSES)
        if self.save == "save_vb":
            record["losses"].append("vb")
        elif self.save == "save_maps":
            record |= map_between(measured, self.arms.arm_class, shape)
        elif self.save is not None:
            record[self.save.removeprefix("save_")] = measured.errors[:, n:].unflatten(1, shape).clone()
            record["errors"] = measured.errors[:, :n].clone()
        return record


def run_options(args, card: Card, schedule: Schedule, ids: list[int], save: str | None) -> dict:
    """The part of run.json that other scripts do not have."""
    return {
        "vae": args.vae,
        "randomize_noise": args.randomize_noise,
        "keep": save,
        "to_keep": schedule.options.get("to_keep", []),
        "n_samples": schedule.options.get("n_samples", []),
        "interpolation": "adm",
        "cls": None if args.cls is None else wording.ranges(ids),
        "classes": args.classes and sha256(repr(card.called)),
    }


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    save = check(args)
    some = args.cls is not None
    environ = {} if some and not args.shard else os.environ  # with --cls, an array is usually one over classes
    config = RunConfig.from_args(args, environ)

    version, condition = args.reads(args)
    card = read_card(version, conditioned_on=condition, vae=args.vae)
    if args.classes:
        card = with_names(card, args.classes)
    if save in ("save_vb", "save_eps_and_var") and not card.has_bound:
        raise InputError(f"--{save}", f"wanted a model of epsilon and its variance; {card.source} is not one")
    dataset = dataset_of(config)
    images, mine = choose_images(config, dataset.labels, args.imgs_to_eval)
    class_of, ids = class_ids_of(args, dataset, card)
    classes = np.array([class_of[k] for k in ids])  # [arms]
    called = dataset.classes or card.called or [str(k) for k in range(card.classes)]
    table = [(k, called[class_of[k]], class_of[k]) for k in ids]

    if dataset.candidates and some:
        raise InputError("--cls", f"the column candidates of {dataset.name} says which classes compete")
    options.check_candidates(args, parser(), dataset)
    prompts = None
    if is_clip(config.candidates_from):
        prompts = prompts_for(config.dataset, dataset.labels, dataset.classes)
    first = first_stage(config, dataset, mine, table, prompts)
    K, first_name, first_options = None, "", {}  # if all classes compete
    if first:
        K, first_name, first_options = first.K, first.name, first.options

    weights = read_level_weights(args.weights, card.n_levels)
    usable = usable_levels(config.level_range, card.n_levels)
    arms_per_class = np.unique(classes, return_counts=True)[1]
    schedule = schedule_of(args, config, arms_per_class, usable, weights, K)
    name = run_name(args, config, card, schedule, first_name, save)
    folder = naming.run_folder(config.dataset, config.extra, name) / config.split
    to_errors, shape = reduction_of(save, card.latent)
    numbers = len(LOSSES)  # of an evaluation
    if save != "save_maps":
        numbers += int(np.prod(shape))
    size = f" in {schedule.most_nfe * numbers * 4 / 1e6:,.1f} MB"
    cost = Cost(schedule.most_nfe, schedule.exact and first is None, size)
    points, noise = points_and_noise(config, schedule, weights, card.latent)

    chosen = run_config.data_options(config, dataset)
    chosen |= run_config.model_options(config, card, schedule, weights, noise, read_weights=not args.dry_run)
    chosen |= run_options(args, card, schedule, ids, save)
    chosen |= first_options
    details = {
        "images": len(images),
        records.N_LEVELS: card.n_levels,
        "indices": wording.ranges(images),
        "arms": table,
        "all_arms": wording.ranges(sorted(class_of)),
        "command": options.command_line(__file__, argv),
    }

    if args.dry_run:
        planned = Folder(folder, chosen, details)
        print("\n".join(describe(config, card, planned, len(ids), cost, mine, args.rate, dataset)))
        return 0

    method = Method(config, card, schedule, points, noise, to_errors)
    arms = Arms(ids, np.arange(len(ids)), classes)
    classifier = ClassIdClassifier(method, dataset, arms, first, save=save, some=some)
    return classify_dataset(
        config, dataset, mine, Folder(folder, chosen, details), classifier, cost, picture=args.picture
    )


if __name__ == "__main__":
    options.run(main)
