"""Compositional matching: does a model match each image with its caption? Winoground, and other benchmarks.

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
    "seed", "normalize", "interpolation", "img_size", "loss", "levels", "weights", "in_flight", "compile", "offload",
    "config", "lora", "embeddings", "t5",
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
import itertools
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
from diffusion.matching.items import ExpiringCache, Item, Items
from diffusion.models.clip import clip_weights, find_clip, load_clip
from diffusion.models.loading import Model
from diffusion.models.lora import check_used
from diffusion.plots import gallery, style
from diffusion.runs import records, results, show
from diffusion.stats import metrics

# ---- what is measured ----


class Views:
    """The images of a benchmark, numbered through its items, and those of the items of this worker.

    all         [images] the item of each image, and which of the item's images it is
    my_items    the items of this worker, whose indices are `chosen`
    mine        the numbers of their images
    """

    def __init__(self, items: Items, chosen: list[int]):
        self.items = items
        self.my_items = [items[k] for k in chosen]
        self.all: list[tuple[int, int]] = []
        for k, item in enumerate(items.items):
            self.all += [(k, i) for i in range(len(item.images))]

        first = scores.first_images(items.items)
        self.mine: list[int] = []
        for k in chosen:
            self.mine += range(first[k], first[k + 1])

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
    def my_captions(self) -> list[str]:
        """The captions of each image of this worker, one after another."""
        captions: list[str] = []
        for number in self.mine:
            captions += self.captions(number)
        return captions


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
        most = max((len(item.captions) for item in views.my_items), default=1)
        return race_from_options(config, weighted, np.ones(most, dtype=int), most)

    options.refuse(args, parser(), options.RACE_ONLY, "is for --search race")
    if args.normalize and not any(len(item.images) > 1 for item in views.my_items):
        raise InputError("--normalize", f"is for image scores, {config.dataset} asks for captions only")
    n_levels = grid_size(args.t_interval, len(usable))
    grid = halving_schedule(
        usable, [n_levels], [1], np.ones(1, dtype=int), n_trials=config.n_trials, pairs=config.antithetic
    )
    return dataclasses.replace(grid, search="grid", interval=args.t_interval, options={})


def check_race(config: RunConfig, views: Views) -> None:
    """InputError: an item that does not ask for the caption of each image."""
    others = [item for item in views.my_items if not item.has_text_score]
    if others:
        number = f"{len(others)} of {wording.count(len(views.my_items), 'example')} of {config.dataset}"
        found = f"{number} also ask for the image of a caption, {others[0].id} first"
        raise InputError("--search race", f"is for text scores; {found}: wanted --search grid")
    if config.budget:
        for item in views.my_items:
            if item.table.sum(0).max() > 1:
                raise InputError(f"--budget {config.budget}", f"not with several right captions, as in {item.id}")


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
        self.latents = ExpiringCache(map(self.views.identity, self.views.mine))
        self.embeddings = ExpiringCache(itertools.chain.from_iterable(map(self.texts, self.views.mine)))

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
    """Warn of examples of this worker with different captions that have the same conditions.

    digest_of(caption) identifies the conditions of a caption. InputError if all captions of each example have the same
    conditions, in the whole benchmark: the other workers' examples are looked at up to the first that differs, so that
    neither the worker nor --limit decides.
    """

    def n_different(item: Item) -> int:
        return len(set(map(digest_of, item.captions)))

    asked = []
    lost = []
    for item in views.my_items:
        n_captions = len(set(item.captions))
        if n_captions > 1:
            asked.append(item)
            if n_different(item) < n_captions:
                lost.append(item)
    if not lost:
        return

    captions = wording.few(list(map(repr, lost[0].captions)))
    number = f"{len(lost)} of {wording.have(len(asked), 'example')}"
    alike = f"{number} captions that the text encoder cannot distinguish; the first is {lost[0].id}: {captions}"
    others = (item for item in views.items.items if len(set(item.captions)) > 1)
    if all(n_different(item) == 1 for item in itertools.chain(asked, others)):
        why = "their words are unknown to its tokenizer, or behind the tokens that it takes"
        raise InputError(wording.count(len(asked), "example"), f"{alike}; {why}")
    warnings.warn(alike, InputWarning, stacklevel=2)


# ---- CLIP and the like ----


def by_clip(args, config: RunConfig, views: Views) -> Matcher:
    """The error of a caption is its cosine distance to the image."""
    options.refuse(args, parser(), SD_ONLY, f"is for --model sd, not for {args.model}")
    found, pretrained = find_clip(args.model, args.version, args.pretrained)
    classifier = ClipClassifier(config, views, found, pretrained)
    version = found
    if found.startswith("local-dir:"):
        version = args.version  # the folder, as it was typed
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
        embedded_images = ExpiringCache(map(self.views.identity, self.views.mine))
        embedded_captions = ExpiringCache(self.views.my_captions)

        def embed_twice(caption: str) -> Tensor:
            return of_texts([caption, caption])[0]  # kernels for one row round otherwise than for several

        for number, image in images:
            texts = [embedded_captions(caption, embed_twice) for caption in self.views.captions(number)]
            embedded = embedded_images(self.views.identity(number), lambda _, image=image: of_image(image))
            distance = 1 - torch.stack(texts) @ embedded  # [captions]
            right = self.views.right(number)
            details = {"index": number, "label": label_of(right)} | prediction(right, distance.numpy())
            yield records.one_point(distance, "cosine", **details)


# ---- the run ----


def cost(views: Views, left: int, nfe: Callable[[int], int], raced: bool) -> str:
    """The number of this worker's items and their NFE, in words; `left` NFE are still to do, at most if `raced`."""
    of_items = []
    for item in views.my_items:
        of_items.append(len(item.images) * nfe(len(item.captions)))

    n = len(views.my_items)
    number = wording.count(n, "example")
    if len(views.mine) != 2 * n:
        number += f" with {wording.count(len(views.mine), 'image')}"
    each = f"{max(of_items, default=0):,} NFE"
    if raced or len(set(of_items)) > 1:
        each = f"at most {each}"
    to_do = f"{left:,} NFE to do"
    if raced:
        to_do = f"at most {to_do}"
    return f"{number} of {each}, {to_do}"


def in_order(todo: list[int], views: Views) -> list[int]:
    """The same images, in an order that measures one that several items show for all of them in a row."""
    first: dict[object, int] = {}  # identity -> the first number
    for number in todo:
        first.setdefault(views.identity(number), number)
    return sorted(todo, key=lambda number: (first[views.identity(number)], number))


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.pretrained and args.model == "sd":
        wanted = "is for --model clip and openclip, and siglip; sd takes --version"
        raise InputError(f"--pretrained {args.pretrained}", wanted)
    style.check_picture(args.gallery)
    is_diffusion = args.model == "sd"
    version = args.version
    if is_diffusion and not version:
        version = "2-0"
    config = RunConfig.from_args(args, version=version)

    items = load_items(config.dataset, catalogue.DATASET_ROOT, config.value_range)
    chosen, mine = choose_images(config, [item.tag for item in items.items])
    views = Views(items, [k for k in mine if k not in items.lacking])
    matcher = by_diffusion(args, config, views) if is_diffusion else by_clip(args, config, views)
    settings = matcher.options
    if config.value_range:
        settings = settings | {"value_range": config.value_range}

    folder = naming.run_folder(config.dataset, config.extra, matcher.name)
    details = scores.details(items, chosen)
    details["indices"] = wording.ranges(Views(items, chosen).mine)
    details["command"] = options.command_line(__file__, argv)
    todo, _ = loop.join_run(folder, settings, details, views.mine, files=items.located)
    todo = in_order(todo, views)
    left = sum(matcher.nfe(len(views.captions(number))) for number in todo)
    raced = config.search == "race"
    print(f"{config.dataset}: {cost(views, left, matcher.nfe, raced)} -> {folder}")

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
