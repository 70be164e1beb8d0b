"""Classify a data set with CLIP or with a trained classifier, to compare a diffusion model with on the same images.

    python scripts/baseline.py --dataset cifar10 --model clip:ViT-L/14
    python scripts/baseline.py --dataset imagenetA --model timm:resnet50

CLIP compares the image with the prompts that the diffusion model gets; a class's score is the mean over its prompts.
A classifier of timm chooses among the data set's classes. Results go to $LOG_DIR (default data) as those of the other
scripts, one file per image: scripts/print_acc.py, plot_errors.py and print_robustness.py read them.
"""

from diffusion.data import catalogue
from diffusion.evaluate import options
from diffusion.io import wording
from diffusion.runs import naming


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    options.add_prompts(options.add_data(p, "imagenet", f"{', '.join(catalogue.DATASETS)}; {options.OWN}"), "CLIP: ")
    model = p.add_argument_group("model")
    kinds = "clip:NAME, timm:NAME or a folder that open_clip or timm saved"
    options.add(model, "--model MODEL", kinds, "clip:ViT-L/14")
    options.add(model, "--pretrained TAG", "weights of the CLIP in --model: open_clip's tag, a file, or TAG=FILE")
    options.add_device(model)
    options.add_store(p)
    options.add_shards(p)
    return p


import os
from pathlib import Path

import numpy as np
import torch

from diffusion import InputError
from diffusion.data.datasets import load_dataset, model_arms
from diffusion.data.prompts import prompts_for
from diffusion.evaluate import candidates, loop
from diffusion.evaluate import config as run_config
from diffusion.io.atomic import sha256
from diffusion.models.clip import clip_weights, find_clip, load_clip
from diffusion.models.timm_classifier import find_timm, load_timm, timm_weights
from diffusion.runs import records, results
from diffusion.stats import metrics


def by_clip(args, name: str, dataset, device, dtype: str):
    """What goes into run.json, its arms, and what makes of an image the errors [arms].

    Its weights are loaded at once, so that a run does not begin without them.
    """
    found, pretrained = find_clip("clip", name, args.pretrained, "--model clip:")
    prompts = prompts_for(args.dataset, dataset.labels, dataset.classes, args.prompt_path)
    arms = list(zip(prompts.texts, prompts.names, prompts.classes, strict=True))

    def ready(dtype: str):
        of_image, of_texts = load_clip(found, pretrained, dtype=dtype, device=device)
        return of_image, of_texts(prompts.texts)  # [arms, d]

    loaded = {dtype: ready(dtype)}

    def load(dtype: str):
        of_image, texts = loaded.get(dtype) or ready(dtype)
        return lambda image: 1 - texts @ of_image(image)

    return {"pretrained": pretrained, "loss": "cosine"} | clip_weights(found, pretrained), {"arms": arms}, load


def by_timm(args, name: str, dataset, device, dtype: str):
    """The same for a classifier: each of its classes is an arm, and where several mean one class the best counts."""
    if args.prompt_path or args.pretrained:
        raise InputError(
            f"--{'prompt_path' if args.prompt_path else 'pretrained'}", f"is for CLIP, not for {args.model}"
        )
    found, n_classes = find_timm(name)
    class_of = model_arms(args.dataset, dataset, args.model, n_classes, catalogue.DATASET_ROOT)
    called = dataset.classes or [str(k) for k in range(n_classes)]
    ids = sorted(class_of)
    loaded = {dtype: load_timm(found, n_classes, dtype=getattr(torch, dtype), device=device)}

    def load(dtype: str):
        log_probabilities = loaded.get(dtype) or load_timm(found, n_classes, dtype=getattr(torch, dtype), device=device)
        return lambda image: -log_probabilities(image)[ids].log_softmax(0)  # of the classes that compete

    arms = [(k, called[class_of[k]], class_of[k]) for k in ids]
    return {"loss": "nll"} | timm_weights(found), {"arms": arms, "all_arms": wording.ranges(ids)}, load


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


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    kind, name = kind_of(args.model)
    device, dtype = run_config.pick_device(args)
    columns = args.image_column, args.label_column
    dataset = load_dataset(args.dataset, args.split, catalogue.DATASET_ROOT, *columns, args.value_range)
    images, mine = run_config.my_images(args, dataset.labels)
    more, about, load = (by_clip if kind == "clip" else by_timm)(args, name, dataset, device, dtype)
    chosen = run_config.data_options(args, dataset) | {"model": args.model, "dtype": dtype}
    chosen |= {"prompts": sha256(repr(about["arms"]))} | more
    class_ids, arm_class = results.competitors(about)
    told, of, stage = {}, "", None
    if dataset.candidates:
        told, of, stage = candidates.by_column(dataset, np.unique(class_ids), about["arms"])
    chosen |= told
    weights = more.get("pretrained") and naming.tag(more["pretrained"])
    folder = naming.run_folder(args.dataset, args.extra, naming.joined(kind, naming.clip_tag(name), weights, of))
    folder /= "" if args.split == "test" else args.split

    def classify(images, dtype: str, _spent):
        run_config.share_cores(args, device)
        errors_of, pick = load(dtype), stage and stage(dtype, device)

        def record_of(index: int, image) -> dict:
            said = pick(index, image)[1] if pick else {}
            among = torch.from_numpy(np.isin(class_ids, said.get("candidates", class_ids))[arm_class])  # [arms]
            record = records.one_point(errors_of(image).float(), chosen["loss"], among, **dataset.about(index), **said)
            return record | {"pred": int(class_ids[metrics.rescore(record, arm_class, chosen["loss"])])}

        return (record_of(index, image) for index, image in images)

    about |= {"images": len(images), "indices": wording.ranges(images)}
    return loop.classify_dataset(
        args, dataset, mine, folder, chosen, about, dataset.open, classify, dtype=dtype, nfe=1, exact=True
    )  # fmt: skip


if __name__ == "__main__":
    options.run(main)
