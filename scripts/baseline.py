"""Classify a data set with CLIP or with a trained classifier, to compare a diffusion model with on the same images.

    python scripts/baseline.py --dataset cifar10 --model clip:ViT-L/14
    python scripts/baseline.py --dataset imagenetA --model timm:resnet50

CLIP compares the image with the prompts that the diffusion model gets; a class's score is the mean over its prompts.
A classifier of timm chooses among the data set's classes. Results go to $LOG_DIR (default data), one file per image,
in the format of the other scripts: print_acc.py, plot_errors.py, print_robustness.py and others read them.
"""

from diffusion.data import catalogue
from diffusion.evaluate import options
from diffusion.io import wording
from diffusion.runs import naming


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    options.add_prompts(
        options.add_data(p, "imagenet", f"{', '.join(catalogue.DATASETS)}; {options.USERS_DATA}"), "CLIP: "
    )
    model = p.add_argument_group("model")
    kinds = "clip:NAME, timm:NAME or a folder that open_clip or timm saved"
    options.add(model, "--model MODEL", kinds, "clip:ViT-L/14")
    options.add(model, "--pretrained TAG", "weights of the CLIP in --model: open_clip's tag, a file, or TAG=FILE")
    options.add_device(model)
    options.add_store(p)
    options.add_shards(p)
    return p


import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

from diffusion import InputError
from diffusion.data.datasets import Dataset, model_arms
from diffusion.data.prompts import prompts_for
from diffusion.evaluate import config as run_config
from diffusion.evaluate.candidates import ByColumn
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.loop import Classifier, Cost, Folder, classify_dataset
from diffusion.evaluate.machine import share_cores
from diffusion.evaluate.selection import choose_images, dataset_of
from diffusion.io.atomic import sha256
from diffusion.models.clip import clip_weights, find_clip, load_clip
from diffusion.models.timm_classifier import find_timm, load_timm, timm_weights
from diffusion.runs import records, results
from diffusion.stats import metrics


class Clip:
    """A CLIP and its prompts; its weights are loaded at once, so that a run does not begin without them."""

    def __init__(self, args, name: str, dataset: Dataset, device, dtype: str):
        self.device = device
        self.found, self.pretrained = find_clip("clip", name, args.pretrained, "--model clip:")
        self.prompts = prompts_for(
            args.dataset, dataset.labels, dataset.classes, args.prompt_path, templates=args.template
        )
        arms = list(zip(self.prompts.texts, self.prompts.names, self.prompts.classes, strict=True))
        self.about = {"arms": arms, "prompts": str(self.prompts)}
        self.options = {"pretrained": self.pretrained, "loss": "cosine"}
        self.options |= clip_weights(self.found, self.pretrained)
        self.loaded = {dtype: self._load(dtype)}

    def _load(self, dtype: str) -> tuple[Callable, torch.Tensor]:
        """What embeds an image [d], and the embeddings of the prompts [arms, d]."""
        of_image, of_texts = load_clip(self.found, self.pretrained, dtype=dtype, device=self.device)
        return of_image, of_texts(self.prompts.texts)

    def errors_in(self, dtype: str) -> Callable:
        """A function from an image to the error of each arm [arms], computed in this dtype."""
        if dtype not in self.loaded:
            self.loaded[dtype] = self._load(dtype)
        of_image, texts = self.loaded[dtype]
        return lambda image: 1 - texts @ of_image(image)


class Timm:
    """A trained classifier: each of its classes is an arm; if several stand for one class, the best counts."""

    def __init__(self, args, name: str, dataset: Dataset, device, dtype: str):
        options.refuse(args, parser(), ["prompt_path", "template", "pretrained"], f"is for CLIP, not for {args.model}")
        self.device = device
        self.found, self.n_classes = find_timm(name)
        class_of = model_arms(args.dataset, dataset, args.model, self.n_classes, catalogue.DATASET_ROOT)
        names = dataset.classes or [str(k) for k in range(self.n_classes)]
        self.ids = sorted(class_of)
        arms = [(k, names[class_of[k]], class_of[k]) for k in self.ids]
        self.about = {"arms": arms, "all_arms": wording.ranges(self.ids)}
        self.options = {"loss": "nll"} | timm_weights(self.found)
        self.loaded = {dtype: self._load(dtype)}

    def _load(self, dtype: str) -> Callable:
        return load_timm(self.found, self.n_classes, dtype=getattr(torch, dtype), device=self.device)

    def errors_in(self, dtype: str) -> Callable:
        """A function from an image to the error of each arm [arms], computed in this dtype."""
        if dtype not in self.loaded:
            self.loaded[dtype] = self._load(dtype)
        log_probabilities = self.loaded[dtype]
        return lambda image: -log_probabilities(image)[self.ids].log_softmax(0)  # of the classes that compete


def kind_of(model: str) -> tuple[str, str]:
    """clip or timm, and the name or folder of the model."""
    kind, _, name = model.partition(":")
    if kind in ("clip", "timm"):
        return kind, name
    folder = Path(os.path.expanduser(model))
    if os.path.isfile(folder / "open_clip_config.json"):
        return "clip", model
    if not os.path.isfile(folder / "config.json"):
        wanted = "clip:NAME, timm:NAME, or a folder with open_clip's open_clip_config.json or timm's config.json"
        raise InputError(f"--model {model}", f"wanted {wanted}")
    return "timm", model


class BaselineClassifier(Classifier):
    """Errors of all arms at once, by a Clip or a Timm."""

    def __init__(self, config: RunConfig, dataset: Dataset, model: Clip | Timm):
        self.config, self.dataset, self.model = config, dataset, model
        self.loss = model.options["loss"]
        self.class_ids, self.arm_class = results.competitors(model.about)
        self.first = None
        if dataset.candidates:
            self.first = ByColumn(dataset, np.unique(self.class_ids), model.about["arms"])

    def load(self, index: int) -> Image:
        return self.dataset.open(index)

    def classify(self, images: Iterable, dtype: str, spent: Callable[[int], None]) -> Iterator[dict]:
        share_cores(self.config.n_workers, self.config.device)
        errors_of = self.model.errors_in(dtype)
        return (self.record(index, image, errors_of(image).float()) for index, image in images)

    def record(self, index: int, image: Image, errors: torch.Tensor) -> dict:
        more = self.first.pick(index, image) if self.first else {}
        among = np.isin(self.class_ids, more.get("candidates", self.class_ids))[self.arm_class]  # [arms]
        about = self.dataset.record_fields(index) | more
        record = records.one_point(errors, self.loss, torch.from_numpy(among), **about)
        winner = metrics.rescore(record, self.arm_class, self.loss)
        return record | {"pred": int(self.class_ids[winner])}


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    kind, name = kind_of(args.model)
    config = RunConfig.from_args(args)
    dataset = dataset_of(config)
    images, mine = choose_images(config, dataset.labels)
    make = Clip if kind == "clip" else Timm
    model = make(args, name, dataset, config.device, config.dtype)
    classifier, about = BaselineClassifier(config, dataset, model), model.about

    chosen = run_config.data_options(config, dataset) | {"model": args.model, "dtype": config.dtype}
    chosen |= {"prompts": sha256(repr(about["arms"]))} | model.options
    chosen |= classifier.first.options if classifier.first else {}
    candidates = classifier.first.name if classifier.first else ""
    pretrained = model.options.get("pretrained")
    weights = pretrained and naming.tag(pretrained)
    run_name = naming.joined(kind, naming.clip_tag(name), weights, candidates)
    folder = naming.run_folder(config.dataset, config.extra, run_name)
    if config.split != "test":
        folder /= config.split
    about |= {"images": len(images), "indices": wording.ranges(images), "command": options.command_line(__file__, argv)}
    return classify_dataset(config, dataset, mine, Folder(folder, chosen, about), classifier, Cost(1, True))


if __name__ == "__main__":
    options.run(main)
