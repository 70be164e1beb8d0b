"""Zero-shot classification with a text-to-image diffusion model: the prompt that predicts the noise best wins.

    python eval_prob_adaptive.py --dataset cifar10 --split test --n_trials 1 --to_keep 5 1 --n_samples 50 500 \\
        --loss l1 --prompt_path prompts/cifar10_prompts.csv

Results go to $LOG_DIR (default data), one file per image; data is read from $DATASET_ROOT (default /datasets).
"""

from diffusion.data import catalogue
from diffusion.evaluate import options
from diffusion.io import wording
from diffusion.models import aliases
from diffusion.runs import naming


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    data = options.add_data(p, "pets", f"{', '.join(catalogue.DATASETS)}; {options.OWN}")
    options.add_prompts(data, more="[,lora][,embedding]")
    options.add(data, "--prompts TEXT", "the prompts to choose from, two or more, for images without labels", nargs="+")
    options.add_interpolation(data, "bicubic")
    model = p.add_argument_group("model")
    known = f"{aliases.VERSIONS['text']}; or a hub id, a diffusers folder or a .safetensors file"
    options.add(model, "--version MODEL", known, "2-0")
    options.add_text_model(model)
    options.add_network(model)
    search = options.add_search(p, "halving", "; default halving with --to_keep and --n_samples, else race")
    options.add_stages(search)
    options.add_noise(search, "each image, by its index, has its own", randomize=False)
    options.add_candidates(search)
    stored = options.add_store(p)
    maps = "store also where in the image the best two classes differ; see scripts/plot_maps.py"
    options.switch(stored, "--save_maps", maps, None)
    options.add_picture(stored)
    options.switch(stored, "--load_stats", "accuracy and NFE in the progress bar include the images of earlier calls")
    options.add_shards(p)
    p.set_defaults(reads=lambda args: (args.version, "text"))
    return p


import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.core.image import Measured, map_between
from diffusion.core.losses import plain, with_map
from diffusion.core.search import Search, check_schedule, staged
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import prompts_for, read_weights
from diffusion.evaluate import config as run_config
from diffusion.evaluate import loop
from diffusion.io.atomic import sha256
from diffusion.models.lora import check_used, own_tokens
from diffusion.plots import style


def search_of(
    args, arm_class: np.ndarray, usable: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], Search], int, bool]:
    """The levels of the points, some of the usable ones, in the order of measurement; where their stages end.

    And what starts an image's search, what an image costs, in NFE, and whether exactly that or at most.
    """
    arms = np.bincount(arm_class)
    if args.search == "race":
        options.refuse(args, parser(), ["to_keep", "n_samples"], "is for --search halving, not for race")
        most = run_config.most_arms(args, arm_class)
        levels, start = run_config.race_of(args, arms, usable, most, groups)
        return levels, np.array([len(levels)]), start, min(most * len(levels), args.budget or sys.maxsize), False
    options.refuse(args, parser(), run_config.RACE_ONLY, "is for --search race")
    if args.to_keep is None or args.n_samples is None:
        raise InputError(
            "--to_keep and --n_samples", "wanted, as in --to_keep 5 1 --n_samples 50 500; or --search race"
        )
    check_schedule(args.candidates or len(arms), args.n_samples, args.to_keep, len(usable))
    levels, ends, start = staged(usable, args.n_samples, args.to_keep, args.n_trials, pairs=run_config.in_pairs(args))
    largest = np.sort(arms)[::-1]
    kept = np.minimum([len(arms), *args.to_keep[:-1]], args.candidates or len(arms))
    nfe = sum(largest[:k].sum() * n for k, n in zip(kept, np.diff(ends, prepend=0), strict=True))
    return levels, ends, start, int(nfe), len(set(arms)) == 1


def run_folder(args, candidates: str = "") -> Path:
    """The published name: suffixes appear only for what is not bicubic, l2, 512."""
    model = run_config.model_tag(args)
    search = run_config.search_tag(args, None, args.to_keep or (), args.n_samples or ())
    typed = args.prompts and f"prompts-{sha256(repr(args.prompts))[:8]}"  # other words are another run
    name = naming.joined(
        model, typed, search, run_config.suffixes(args, "bicubic", candidates), args.save_maps and "maps"
    )
    return naming.run_folder(args.dataset, args.extra, name)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "n_trials", "batch_size", "in_flight")
    options.not_negative(args, "seed")
    style.check_picture(args.picture)
    if no_schedule := args.search == "halving" and args.to_keep is args.n_samples is None:
        args.search = "race"
    device, dtype = run_config.pick_device(args)
    columns = args.image_column, args.label_column
    dataset = load_dataset(args.dataset, args.split, catalogue.DATASET_ROOT, *columns, args.value_range)
    images, mine = run_config.my_images(args, dataset.labels)
    prompts = prompts_for(args.dataset, dataset.labels, dataset.classes, args.prompt_path, args.prompts, added=True)
    texts, tokens = own_tokens(prompts.texts, prompts.embeddings)
    card = run_config.card_of(args, prompts.loras or (), tokens)
    class_ids, first, arm_class = np.unique(prompts.classes, return_index=True, return_inverse=True)
    groups = prompts.groups and np.array(prompts.groups)[first]  # [classes]
    table = list(zip(prompts.texts, prompts.names, prompts.classes, strict=True))
    told, of, first_stage = run_config.first_stage(args, parser(), dataset, mine, table, lambda: prompts)
    usable, weights = run_config.levels_of(args, card.levels), read_weights(args.weights, card.levels)
    levels, ends, start, nfe, exact = search_of(args, arm_class, usable[weights[usable] > 0], groups)
    points = run_config.points_of(args, card, levels, ends, weights, start, randomize=True)

    exact = exact and not dataset.candidates  # of which some images have more
    flags = ["config", "lora", "embeddings", "t5", "interpolation", "save_maps"]
    flags += ["to_keep", "n_samples"] if args.search == "halving" else []
    chosen = run_config.options_of(args, flags, card, run_config.data_options(args, dataset), dtype, points) | told
    check_used(card.embeddings, texts)
    chosen |= {"prompts": sha256(repr(table)), "groups": prompts.groups if args.search == "race" else None}
    chosen |= {"lora of prompts": prompts.loras, "embedding of prompts": prompts.embeddings}

    def finish(index: int, measured: Measured) -> dict:
        pred = int(class_ids[measured.winner])
        record = measured.record(**dataset.about(index), pred=pred)
        return record | (map_between(measured, arm_class, card.latent[1:]) if args.save_maps else {})

    load, classify = loop.by_search(
        args, card, device, dtype, points, dataset.open, args.interpolation, texts, arm_class, finish,
        first=first_stage, rows=np.arange(len(class_ids)), keep=with_map if args.save_maps else plain,
        loras=prompts.loras,
    )  # fmt: skip
    if no_schedule:
        print("no schedule was given, so it is --search race")
    about = {"images": len(images), "schedule": card.levels, "indices": wording.ranges(images), "arms": table}
    return loop.classify_dataset(
        args, dataset, mine, run_folder(args, of), chosen, about, load, classify,
        dtype=dtype, nfe=nfe, exact=exact, count_earlier=args.load_stats, picture=args.picture,
    )  # fmt: skip


if __name__ == "__main__":
    options.run(main)
