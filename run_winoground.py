"""Compositional matching: do images and captions find each other? Winoground, and any other matching benchmark.

    python run_winoground.py --model sd --version 2-0 --t_interval 1 --batch_size 32 --noise_path noise_512.pt \\
        --randomize_noise --interpolation bicubic
    python run_winoground.py --model clip --version ViT-L/14
    python run_winoground.py --dataset sugarcrepe:swap_obj --search race --randomize_noise

commands.md has a command for every benchmark, diffusion/matching/items.py the form of your own.
Results go to $LOG_DIR (default data), one file per image; scripts/print_winoground.py prints them again.
"""

from diffusion.data import catalogue
from diffusion.evaluate import options
from diffusion.io import wording
from diffusion.runs import naming

SD_ONLY = [  # options of a diffusion model
    "search", "z", "max_samples", "budget", "t_interval", "n_trials", "randomize_noise", "noise", "noise_path",
    "seed",
    "normalize", "interpolation", "img_size", "loss", "levels", "weights", "in_flight", "compile", "offload", "config",
    "lora", "embeddings", "t5",
]  # fmt: skip


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    known = (
        "winoground, sugarcrepe, ... (commands.md), NAME:PART, digits-pairs, hf:NAME, or a folder with examples.jsonl"
    )
    options.add_interpolation(options.add_data(p, "winoground", known, classes=False), "bilinear")
    model = p.add_argument_group("model")
    kinds = ["sd", "clip", "openclip", "siglip"]
    options.add(model, "--model", "Stable Diffusion, CLIP, OpenCLIP or SigLIP", "sd", choices=kinds)
    version = "sd: as in eval_prob_adaptive.py, default 2-0; else open_clip's name, or digits"
    options.add(model, "--version MODEL", version)
    tag = "weights of clip, openclip or siglip: open_clip's tag, a file, or TAG=FILE, trained as that tag"
    options.add(model, "--pretrained TAG", tag)
    options.add_text_model(model)
    options.add_network(model)
    search = options.add_search(p, "grid")
    options.add(search, "--t_interval N", "grid: every N-th noise level", 5)
    options.add_noise(search, "all images share the noise", randomize=True)
    options.switch(search, "--normalize", "also subtract the error of the empty caption, for a fair image score")
    options.add(options.add_store(p), "--gallery PNG", "draw the examples, the worst first")
    options.add_shards(p)
    p.set_defaults(reads=lambda args: (args.version or "2-0", "text") if args.model == "sd" else None)
    return p


import warnings
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion import InputError, InputWarning
from diffusion.core.image import Measured
from diffusion.core.search import every, race_each, staged
from diffusion.data.datasets import fingerprint
from diffusion.data.prompts import read_weights
from diffusion.evaluate import config as run_config
from diffusion.evaluate import loop, sharding
from diffusion.evaluate.progress import Progress
from diffusion.matching import scores
from diffusion.matching.benchmarks import load_items
from diffusion.matching.items import Items, Once
from diffusion.models.clip import clip_weights, find_clip, load_clip
from diffusion.models.loading import Model, digest
from diffusion.models.lora import check_used
from diffusion.plots import gallery, style
from diffusion.runs import records, results, show
from diffusion.stats import metrics

Views = list[tuple[int, int]]  # of each image of the benchmark, which item's it is, and which of its images


def key(items: Items, view: tuple[int, int]) -> object:
    """What makes two images one."""
    k, i = view
    return items[k].images[i]


def by_diffusion(args, device, dtype: str, items: Items, mine: Views, views: Views):
    """Options for run.json, the run folder's name, NFE of some captions, how to load an image, what classifies images.

    `mine` of all `views` are to be measured.
    """
    args.version = args.version or "2-0"
    card = run_config.card_of(args)
    captions = list(dict.fromkeys(caption for k, _ in mine for caption in items[k].captions))
    empty = [""] * args.normalize
    usable, weights = run_config.levels_of(args, card.levels), read_weights(args.weights, card.levels)
    raced = args.search == "race"
    if raced:
        options.refuse(args, parser(), ["t_interval", "normalize", "gallery"], "is for --search grid, not for race")
        levels, start = race_of(args, items, mine, usable[weights[usable] > 0])
        ends = np.array([len(levels)])
    else:
        options.refuse(args, parser(), run_config.RACE_ONLY, "is for --search race")
        if args.normalize and not any(len(items[k].images) > 1 for k, _ in mine):
            raise InputError("--normalize", f"is for image scores, {args.dataset} asks for captions only")
        one_stage = [every(args.t_interval, len(usable))], [1]
        levels, ends, start = staged(usable, *one_stage, args.n_trials, pairs=run_config.in_pairs(args))
    points = run_config.points_of(args, card, levels, ends, weights, start, randomize=args.randomize_noise)

    def told(number: int) -> list[str]:
        return [*items[views[number][0]].captions, *empty]

    def once(model: Model) -> tuple[Callable, Callable]:
        """Each image is encoded once, however many items show it, and each caption embedded once more than to check."""
        check_captions(items, mine, cache(lambda caption: digest(embed(model, caption))))
        latents = Once(key(items, view) for view in mine)
        embedded = Once(text for k, _ in mine for text in (*items[k].captions, *empty))

        def encode(number: int, pixels: Tensor) -> Tensor:
            return latents(key(items, views[number]), lambda _: model.encode(pixels[None])[0])

        return encode, lambda number: torch.stack([embedded(text, partial(embed, model)) for text in told(number)])

    def ask(number: int) -> tuple[np.ndarray, Callable]:
        k, i = views[number]
        right = items[k].table[:, i]
        several = raced and right.sum() > 1
        pairs = run_config.in_pairs(args)
        each = (lambda _: race_each(levels, args.z, right, pairs=pairs)) if several else start
        return np.arange(len(right) + len(empty)), each

    finish = partial(record_of, items, views, loss=args.loss)
    flags = ["config", "lora", "embeddings", "t5", "t_interval", "randomize_noise", "normalize", "interpolation"]
    chosen = run_config.options_of(
        args, flags, card, {"dataset": args.dataset, "data": fingerprint(items.data)}, dtype, points
    )
    if captions:
        check_used(card.embeddings, captions)
    load, classify = loop.by_search(
        args, card, device, dtype, points, lambda n: items.seen(*views[n]), args.interpolation, told, np.arange(0),
        finish, once=once, ask=ask, own_noise=False,  # so that the errors of images can be compared
    )  # fmt: skip
    model, search = run_config.model_tag(args), run_config.search_tag(args, args.t_interval)
    name = naming.joined(model, search, run_config.suffixes(args, "bilinear", "normalized" if args.normalize else ""))
    return chosen, name, lambda k: args.budget or (k + len(empty)) * len(levels), load, classify


def embed(model: Model, caption: str) -> Tensor:
    """The conditions of one caption; computed twice over: kernels for one row round otherwise than for several."""
    return model.conditions([caption, caption])[0].clone()


def check_captions(items: Items, mine: Views, digest_of: Callable[[str], str]) -> None:
    """Warn of examples of this worker with different captions whose conditions are the same.

    `digest_of` a caption's conditions. InputError where that is so of every example of the benchmark: the others are
    looked at up to the first that differs, so that neither the worker nor --limit decides.
    """

    def is_one(k: int) -> bool:
        return len({digest_of(caption) for caption in items[k].captions}) == 1

    asked = [k for k in dict.fromkeys(k for k, _ in mine) if len(set(items[k].captions)) > 1]
    lost = []
    for k in asked:
        captions = set(items[k].captions)
        if len({digest_of(caption) for caption in captions}) < len(captions):
            lost.append(k)
    if not lost:
        return
    named = f"the first is {items[lost[0]].id}: {wording.few([repr(caption) for caption in items[lost[0]].captions])}"
    alike = f"{len(lost)} of {len(asked)} examples have captions of which the text encoder makes the same; {named}"
    everywhere = [k for k, item in enumerate(items.items) if len(set(item.captions)) > 1]
    if all(map(is_one, asked)) and all(map(is_one, everywhere)):
        raise InputError(
            f"{len(asked)} examples",
            f"{alike}; their words are unknown to its tokenizer, or behind the tokens that it takes",
        )
    warnings.warn(alike, InputWarning, stacklevel=2)


def race_of(args, items: Items, mine: Views, usable: np.ndarray) -> tuple[np.ndarray, Callable]:
    """As plan.race_of, between the captions of each image. InputError where the items ask for anything else."""
    asked = {k: items[k].table for k, _ in mine}
    if no := [k for k, right in asked.items() if not (right.any(0) & ~right.all(0)).any()]:
        other = f"{len(no)} of {len(asked)} examples of {args.dataset} ask for an image, the first is {items[no[0]].id}"
        raise InputError("--search race", f"is for text scores; {other}: wanted --search grid")
    if args.budget and (several := [k for k, right in asked.items() if (right.sum(0) > 1).any()]):
        raise InputError(f"--budget {args.budget}", f"not with several right captions, as in {items[several[0]].id}")
    most = max(len(right) for right in asked.values())
    return run_config.race_of(args, np.ones(most, dtype=int), usable, most)


def record_of(items: Items, views: Views, number: int, measured: Measured, *, loss: str) -> dict:
    """The record of an image; with the caption that it prefers where exactly one of several is right."""
    k, i = views[number]
    right = items[k].table[:, i]
    record = measured.record(index=number, label=label_of(right))
    errors, points = metrics.class_errors(record, np.arange(len(record["counts"])), loss)
    errors, points = errors[: len(right)], points[: len(right)]  # the empty caption is no answer
    furthest = np.where(points == points.max(), errors, np.inf)
    return record | answer(right, furthest) | {"margin": metrics.margin(furthest[np.isfinite(furthest)])}


def label_of(right: np.ndarray) -> int:
    """The first right caption of an image, -1: none is."""
    return int(right.argmax()) if right.any() else -1


def answer(right: np.ndarray, errors: np.ndarray) -> dict:
    return {"pred": int(errors.argmin())} if right.sum() == 1 and len(right) > 1 else {}


def by_clip(args, device, dtype: str, items: Items, mine: Views, views: Views):
    """The same for CLIP: the error of a caption is its cosine distance to the image."""
    options.refuse(args, parser(), SD_ONLY, f"is for --model sd, not for {args.model}")
    found, pretrained = find_clip(args.model, args.version, args.pretrained)
    loaded = {dtype: load_clip(found, pretrained, dtype=dtype, device=device)}  # a run does not begin without

    def classify(images, dtype: str, _spent):
        run_config.share_cores(args, device)
        of_image, of_texts = loaded.get(dtype) or load_clip(found, pretrained, dtype=dtype, device=device)
        seen = Once(key(items, view) for view in mine)
        told = Once(text for k, _ in mine for text in items[k].captions)

        def record_of(number: int, image: Image.Image) -> dict:
            k, i = views[number]
            texts = torch.stack([told(text, lambda t: of_texts([t, t])[0]) for text in items[k].captions])
            distance = 1 - texts @ seen(key(items, views[number]), lambda _: of_image(image))  # [k]
            right = items[k].table[:, i]
            about = {"index": number, "label": label_of(right)} | answer(right, distance.numpy())
            return records.one_point(distance, "cosine", **about)

        return (record_of(number, image) for number, image in images)

    version = args.version if found.startswith("local-dir:") else found  # a folder, as it was given
    chosen = {"dataset": args.dataset, "model": version, "pretrained": pretrained, "dtype": dtype, "loss": "cosine"}
    chosen |= {"data": fingerprint(items.data)} | clip_weights(found, pretrained)
    name = naming.joined(args.model, naming.tag(version), pretrained and naming.tag(pretrained))
    return chosen, name, lambda k: 1, lambda number: items.seen(*views[number]), classify


def cost(items: Items, mine: list[int], left: int, nfe: Callable, raced: bool) -> str:
    """What is to be measured, and what it costs, at most if it is a race; `left` NFE are still to do."""
    each = {k: len(items[k].images) * nfe(len(items[k].captions)) for k in mine}
    images = sum(len(items[k].images) for k in mine)
    most = "at most " if raced or len(set(each.values())) > 1 else ""
    left = f"{'at most ' if raced else ''}{left:,} NFE to do"
    shown = "" if images == 2 * len(mine) else f" with {images:,} images"
    return f"{len(mine)} examples{shown} of {most}{max(each.values(), default=0):,} NFE, {left}"


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "n_trials", "batch_size", "in_flight")
    options.not_negative(args, "seed")
    if args.pretrained and args.model == "sd":
        raise InputError(
            f"--pretrained {args.pretrained}", "is for --model clip and openclip, and siglip; sd takes --version"
        )
    style.check_picture(args.gallery)
    device, dtype = run_config.pick_device(args)
    items = load_items(args.dataset, catalogue.DATASET_ROOT, args.value_range)
    chosen, mine = run_config.my_images(args, [item.tags[0] if item.tags else "" for item in items.items])
    mine = [k for k in mine if k not in items.lacking]
    views = [(k, i) for k, item in enumerate(items.items) for i in range(len(item.images))]
    first = scores.numbers(items.items)
    wanted = [n for k in mine for n in range(first[k], first[k + 1])]
    by = by_diffusion if args.model == "sd" else by_clip
    settings, name, nfe, load, classify = by(args, device, dtype, items, [views[n] for n in wanted], views)
    settings |= {"value_range": args.value_range} if args.value_range else {}
    folder = naming.run_folder(args.dataset, args.extra, name)
    about = scores.about(items, chosen)
    about["indices"] = wording.ranges(n for k in chosen for n in range(first[k], first[k + 1]))
    todo, _ = loop.join_run(folder, settings, about, wanted)
    at = {}  # an image that several items show is measured for all of them in a row, and forgotten
    todo.sort(key=lambda n: (at.setdefault(key(items, views[n]), n), n))
    left, raced = sum(nfe(len(items[views[n][0]].captions)) for n in todo), args.search == "race"
    print(f"{args.dataset}: {cost(items, mine, left, nfe, raced)} -> {folder}")

    path_of, bar = partial(records.record_path, folder, len(views)), Progress(len(todo), left, not raced)
    with sharding.working(folder, args.worker_idx, args.n_workers):
        _, problems = loop.evaluate(
            todo, load, classify, path_of, bar, dtype=dtype, grace=args.grace, run=records.fingerprint(settings)
        )  # fmt: skip
    done = results.read(folder, answers=False)
    code = scores.print_scores(done)
    if args.gallery:
        gallery.draw(done, items, args.gallery)
    return show.report(problems) or code


if __name__ == "__main__":
    options.run(main)
