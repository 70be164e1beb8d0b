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
    datasets = (
        "winoground, sugarcrepe, ... (commands.md), NAME:PART, digits-pairs, hf:NAME, or a folder with examples.jsonl"
    )
    options.add_interpolation(options.add_data(p, "winoground", datasets, classes=False), "bilinear")
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


import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from diffusion import InputError, InputWarning
from diffusion.core.conditions import Conditions
from diffusion.core.image import Measured, Question
from diffusion.core.schedule import Schedule, halving_schedule
from diffusion.core.search import Search, race_each
from diffusion.data.dataset import fingerprint
from diffusion.data.prompts import read_level_weights
from diffusion.evaluate import config as run_config
from diffusion.evaluate import loop, sharding
from diffusion.evaluate.classifier import DiffusionClassifier, Method, text_card
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.loop import Classifier
from diffusion.evaluate.machine import share_cores
from diffusion.evaluate.points import grid_size, points_and_noise, race_from_options, usable_levels
from diffusion.evaluate.progress import Progress
from diffusion.evaluate.selection import choose_images
from diffusion.matching import scores
from diffusion.matching.benchmarks import load_items
from diffusion.matching.items import Items, Once
from diffusion.models.clip import clip_weights, find_clip, load_clip
from diffusion.models.loading import Model
from diffusion.models.lora import check_used
from diffusion.plots import gallery, style
from diffusion.runs import records, results, show
from diffusion.stats import metrics

# ---- what is measured ----


@dataclass(frozen=True)
class Views:
    """The images of a benchmark, numbered through its items, and those of this worker."""

    items: Items
    all: list[tuple[int, int]]  # [images] the item of each image, and which of the item's images it is
    mine: list[int]  # numbers of the images that this worker measures

    @classmethod
    def of(cls, items: Items, mine: list[int]) -> "Views":
        """`mine` are the items of this worker."""
        views = [(k, i) for k, item in enumerate(items.items) for i in range(len(item.images))]
        first = scores.numbers(items.items)
        numbers = [n for k in mine for n in range(first[k], first[k + 1])]
        return cls(items, views, numbers)

    def open(self, number: int) -> Image:
        return self.items.seen(*self.all[number])

    def identity(self, number: int) -> object:
        """Equal for two images of the benchmark that are one."""
        k, i = self.all[number]
        return self.items[k].images[i]

    def captions(self, number: int) -> list[str]:
        """The captions that compete for an image."""
        return self.items[self.all[number][0]].captions

    def right(self, number: int) -> np.ndarray:
        """Which captions are right for an image. [captions] bool"""
        k, i = self.all[number]
        return self.items[k].table[:, i]

    @property
    def my_items(self) -> list[int]:
        return list(dict.fromkeys(self.all[number][0] for number in self.mine))

    @property
    def my_captions(self) -> list[str]:
        """The captions of each image of this worker, one after another."""
        return [caption for number in self.mine for caption in self.captions(number)]


@dataclass(frozen=True)
class Matcher:
    """A model, what it adds to run.json and the folder's name, and the NFE of an image with so many captions."""

    options: dict
    name: str
    nfe: Callable[[int], int]
    classifier: Classifier


def label_of(right: np.ndarray) -> int:
    """The first right caption of an image, -1: none is."""
    return int(right.argmax()) if right.any() else -1


def prediction(right: np.ndarray, errors: np.ndarray) -> dict:
    """The caption that is preferred, if exactly one of several is right."""
    if right.sum() != 1 or len(right) == 1:
        return {}
    return {"pred": int(errors.argmin())}


# ---- a diffusion model ----


def by_diffusion(args, config: RunConfig, views: Views) -> Matcher:
    """The error of a caption is that of the network's prediction under it."""
    card = text_card(config)
    weights = read_level_weights(args.weights, card.n_levels)
    usable = usable_levels(config.level_range, card.n_levels)
    schedule = schedule_of(args, config, views, usable, usable[weights[usable] > 0])
    points, noise = points_and_noise(config, schedule, weights, card.latent, share_noise=True)

    flags = ["config", "lora", "embeddings", "t5", "t_interval", "randomize_noise", "normalize", "interpolation"]
    data = {"dataset": config.dataset, "data": fingerprint(views.items.data)}
    model = run_config.model_options(config, card, schedule, weights, noise)
    captions = views.my_captions
    if captions:
        check_used(card.embeddings, list(dict.fromkeys(captions)))
    suffixes = run_config.suffixes(config, schedule, "bilinear", "normalized" if args.normalize else "")
    name = naming.joined(run_config.model_tag(config), run_config.search_tag(config, schedule), suffixes)

    def nfe(n_captions: int) -> int:
        return config.budget or (n_captions + args.normalize) * len(schedule)

    method = Method(config, card, schedule, points, noise)
    classifier = CaptionClassifier(method, views, normalize=args.normalize)
    return Matcher(data | {flag: getattr(args, flag) for flag in flags} | model, name, nfe, classifier)


def schedule_of(args, config: RunConfig, views: Views, usable: np.ndarray, weighted: np.ndarray) -> Schedule:
    """A grid of the usable levels, or a race at those of `weighted`, whose --weights are not 0."""
    if config.search == "race":
        options.refuse(args, parser(), ["t_interval", "normalize", "gallery"], "is for --search grid, not for race")
        check_race(config, views)
        most = max((len(views.items[k].captions) for k in views.my_items), default=1)
        return race_from_options(config, weighted, np.ones(most, dtype=int), most)

    options.refuse(args, parser(), options.RACE_ONLY, "is for --search race")
    if args.normalize and not any(len(views.items[k].images) > 1 for k in views.my_items):
        raise InputError("--normalize", f"is for image scores, {config.dataset} asks for captions only")
    n_levels = grid_size(args.t_interval, len(usable))
    grid = halving_schedule(
        usable, [n_levels], [1], np.ones(1, dtype=int), n_trials=config.n_trials, pairs=config.antithetic
    )
    return dataclasses.replace(grid, search="grid", interval=args.t_interval, options={})


def check_race(config: RunConfig, views: Views) -> None:
    """InputError: an item that does not ask for the caption of each image."""
    tables = {k: views.items[k].table for k in views.my_items}
    others = [k for k, right in tables.items() if not (right.any(0) & ~right.all(0)).any()]
    if others:
        first = views.items[others[0]].id
        found = f"{len(others)} of {len(tables)} examples of {config.dataset} ask for an image, the first is {first}"
        raise InputError("--search race", f"is for text scores; {found}: wanted --search grid")
    several = [k for k, right in tables.items() if (right.sum(0) > 1).any()]
    if config.budget and several:
        first = views.items[several[0]].id
        raise InputError(f"--budget {config.budget}", f"not with several right captions, as in {first}")


class CaptionClassifier(DiffusionClassifier):
    """An image's own captions compete, and with normalize=True the empty caption is measured too.

    An image is encoded once, however many items show it. A caption is embedded once, and once more to be checked.
    """

    def __init__(self, method: Method, views: Views, *, normalize: bool):
        super().__init__(method)
        self.views = views
        self.empty = [""] if normalize else []

    def open(self, number: int) -> Image:
        return self.views.open(number)

    def begin(self, model: Model) -> None:
        self.model = model
        check_captions(self.views, cache(lambda caption: embed(model, caption).digest()))
        self.latents = Once(self.views.identity(number) for number in self.views.mine)
        texts = (text for number in self.views.mine for text in self.texts(number))
        self.embeddings = Once(texts)

    def texts(self, number: int) -> list[str]:
        return [*self.views.captions(number), *self.empty]

    def question(self, number: int, pixels: Tensor, image: Image) -> tuple[Question, dict]:
        x = self.latents(self.views.identity(number), lambda _: self.model.encode(pixels[None])[0])
        conditions = [self.embeddings(text, partial(embed, self.model)) for text in self.texts(number)]
        arms = np.arange(len(conditions))
        noise = self.method.noise.of_image(number)
        return Question(x, Conditions.cat(conditions), arms, partial(self.start, number), noise), {}

    def start(self, number: int, among: np.ndarray) -> Search:
        """A race between the captions of an image; if several are right, of each with those that are not."""
        schedule = self.method.schedule
        right = self.views.right(number)
        if schedule.search == "race" and right.sum() > 1:
            return race_each(schedule.levels, self.method.config.z, right, pairs=schedule.pairs)
        return schedule.start(among)

    def record(self, number: int, measured: Measured) -> dict:
        right = self.views.right(number)
        record = measured.record(index=number, label=label_of(right))
        arms = np.arange(len(record["counts"]))
        errors, points = metrics.class_errors(record, arms, self.method.config.loss)
        errors, points = errors[: len(right)], points[: len(right)]  # the empty caption is no answer
        furthest = np.where(points == points.max(), errors, np.inf)
        margin = metrics.margin(furthest[np.isfinite(furthest)])
        return record | prediction(right, furthest) | {"margin": margin}


def embed(model: Model, caption: str) -> Conditions:
    """The conditions of one caption; computed twice over: kernels for one row round otherwise than for several."""
    return model.conditions([caption, caption])[0]


def check_captions(views: Views, digest_of: Callable[[str], str]) -> None:
    """Warn of examples of this worker with different captions whose conditions are the same.

    `digest_of` a caption's conditions. InputError if that is so of every example of the benchmark: the others are
    looked at up to the first that differs, so that neither the worker nor --limit decides.
    """
    items = views.items

    def all_alike(k: int) -> bool:
        return len({digest_of(caption) for caption in items[k].captions}) == 1

    asked = [k for k in views.my_items if len(set(items[k].captions)) > 1]
    lost = []
    for k in asked:
        captions = set(items[k].captions)
        if len({digest_of(caption) for caption in captions}) < len(captions):
            lost.append(k)
    if not lost:
        return

    captions = wording.few([repr(caption) for caption in items[lost[0]].captions])
    named = f"the first is {items[lost[0]].id}: {captions}"
    alike = f"{len(lost)} of {len(asked)} examples have captions of which the text encoder makes the same; {named}"
    everywhere = [k for k, item in enumerate(items.items) if len(set(item.captions)) > 1]
    if all(map(all_alike, asked)) and all(map(all_alike, everywhere)):
        why = "their words are unknown to its tokenizer, or behind the tokens that it takes"
        raise InputError(f"{len(asked)} examples", f"{alike}; {why}")
    warnings.warn(alike, InputWarning, stacklevel=2)


# ---- CLIP and the like ----


def by_clip(args, config: RunConfig, views: Views) -> Matcher:
    """The error of a caption is its cosine distance to the image."""
    options.refuse(args, parser(), SD_ONLY, f"is for --model sd, not for {args.model}")
    found, pretrained = find_clip(args.model, args.version, args.pretrained)
    classifier = ClipClassifier(config, views, found, pretrained)
    version = args.version if found.startswith("local-dir:") else found  # a folder, as it was typed
    chosen = {
        "dataset": config.dataset,
        "model": version,
        "pretrained": pretrained,
        "dtype": config.dtype,
        "loss": "cosine",
        "data": fingerprint(views.items.data),
        **clip_weights(found, pretrained),
    }
    name = naming.joined(args.model, naming.tag(version), pretrained and naming.tag(pretrained))
    return Matcher(chosen, name, lambda n_captions: 1, classifier)


class ClipClassifier(Classifier):
    """Images and captions are embedded once each, however many items show them."""

    def __init__(self, config: RunConfig, views: Views, found: str, pretrained: str | None):
        self.views, self.config = views, config
        self._load = partial(load_clip, found, pretrained, device=config.device)
        self._loaded = self._load(dtype=config.dtype)  # a run does not begin without

    def load(self, number: int) -> Image:
        return self.views.open(number)

    def classify(self, images: Iterable, dtype: str, spent: Callable[[int], None]) -> Iterator[dict]:
        share_cores(self.config.n_workers, self.config.device)
        loaded = self._loaded if dtype == self.config.dtype else self._load(dtype=dtype)
        return self._records(images, *loaded)

    def _records(self, images: Iterable, of_image: Callable, of_texts: Callable) -> Iterator[dict]:
        of_images = Once(self.views.identity(number) for number in self.views.mine)
        of_captions = Once(self.views.my_captions)

        def embed_twice(caption: str) -> Tensor:
            return of_texts([caption, caption])[0]  # kernels for one row round otherwise than for several

        for number, image in images:
            texts = torch.stack([of_captions(caption, embed_twice) for caption in self.views.captions(number)])
            embedded = of_images(self.views.identity(number), lambda _, image=image: of_image(image))
            distance = 1 - texts @ embedded  # [captions]
            right = self.views.right(number)
            details = {"index": number, "label": label_of(right)} | prediction(right, distance.numpy())
            yield records.one_point(distance, "cosine", **details)


# ---- the run ----


def cost(views: Views, mine: list[int], left: int, nfe: Callable[[int], int], raced: bool) -> str:
    """What is to be measured of the items `mine`, and what it costs; `left` NFE are still to do, at most if `raced`."""
    items = views.items
    each = {k: len(items[k].images) * nfe(len(items[k].captions)) for k in mine}
    images = sum(len(items[k].images) for k in mine)
    at_most = "at most " if raced or len(set(each.values())) > 1 else ""
    to_do = f"at most {left:,} NFE to do" if raced else f"{left:,} NFE to do"
    shown = "" if images == 2 * len(mine) else f" with {images:,} images"
    return f"{len(mine)} examples{shown} of {at_most}{max(each.values(), default=0):,} NFE, {to_do}"


def in_order(todo: list[int], views: Views) -> list[int]:
    """The same images; one that several items show is measured for all of them in a row, and then forgotten."""
    first: dict = {}  # identity -> the first number
    for number in todo:
        first.setdefault(views.identity(number), number)
    return sorted(todo, key=lambda number: (first[views.identity(number)], number))


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.pretrained and args.model == "sd":
        wanted = "is for --model clip and openclip, and siglip; sd takes --version"
        raise InputError(f"--pretrained {args.pretrained}", wanted)
    style.check_picture(args.gallery)
    diffusion = args.model == "sd"
    version = (args.version or "2-0") if diffusion else args.version
    config = RunConfig.from_args(args, version=version)

    items = load_items(config.dataset, catalogue.DATASET_ROOT, config.value_range)
    chosen, mine = choose_images(config, [item.tags[0] if item.tags else "" for item in items.items])
    mine = [k for k in mine if k not in items.lacking]
    views = Views.of(items, mine)
    matcher = by_diffusion(args, config, views) if diffusion else by_clip(args, config, views)
    settings = matcher.options | ({"value_range": config.value_range} if config.value_range else {})

    folder = naming.run_folder(config.dataset, config.extra, matcher.name)
    first = scores.numbers(items.items)
    details = scores.details(items, chosen)
    details["indices"] = wording.ranges(n for k in chosen for n in range(first[k], first[k + 1]))
    details["command"] = options.command_line(__file__, argv)
    todo, _ = loop.join_run(folder, settings, details, views.mine)
    todo = in_order(todo, views)
    left, raced = sum(matcher.nfe(len(views.captions(n))) for n in todo), config.search == "race"
    print(f"{config.dataset}: {cost(views, mine, left, matcher.nfe, raced)} -> {folder}")

    with sharding.working(folder, config.worker_idx, config.n_workers):
        _, problems = loop.evaluate(
            todo,
            matcher.classifier.load,
            matcher.classifier.classify,
            partial(records.record_path, folder, len(views.all)),
            Progress(len(todo), left, not raced),
            dtype=config.dtype,
            grace=config.grace,
            run=records.expected({"options": settings, **details}),
        )
    done = results.read(folder, answers=False)
    code = scores.print_scores(done)
    scores.write_results(done)
    if args.gallery:
        gallery.draw(done, items, args.gallery)
    return show.report(problems) or code


if __name__ == "__main__":
    options.run(main)
