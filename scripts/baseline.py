"""Classify a data set with CLIP or with a trained classifier, to compare a diffusion model with on the same images.

    python scripts/baseline.py --dataset cifar10 --model clip:ViT-L/14
    python scripts/baseline.py --dataset imagenetA --model timm:resnet50

CLIP compares the image with the prompts that the diffusion model is told; a class's score is the mean over its prompts.
A classifier of timm chooses among the data set's classes. Results go to $LOG_DIR (default data) as those of the other
scripts, one file per image: scripts/print_acc.py, plot_errors.py and print_robustness.py read them.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np

from diffusion import InputError, cli, metrics, records
from diffusion.classifiers import find_timm, load_timm
from diffusion.clip import clip_weights, find_clip, load_clip
from diffusion.datasets import TABLE, load_dataset, model_arms, prompts_for


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = "a folder of class folders, a csv of path,label, or hf:NAME"
    p.add_argument("--dataset", default="imagenet", help=f"{', '.join(TABLE)}; or {own}")
    p.add_argument("--split", choices=["train", "val", "trainval", "test"], default="test")
    folder = "a folder that open_clip or timm saved"
    p.add_argument("--model", default="clip:ViT-L/14", help=f"clip:NAME, timm:NAME or {folder}; default %(default)s")
    p.add_argument("--pretrained", help="CLIP: open_clip's tag of the weights, or a file")
    p.add_argument(
        "--prompt_path", type=Path, help="CLIP: csv of prompt,classname,classidx; default prompts/DATASET..."
    )
    p.add_argument("--extra", help="a suffix for the data set's folder")
    cli.add_device_options(p)
    cli.add_shard_options(p)
    return p


def by_clip(args, name: str, dataset, device):
    """What goes into run.json, its arms, and what makes the answer to an image: (pred, errors [arms])."""
    found, pretrained = find_clip("clip", name, args.pretrained, "--model clip:")
    prompts = prompts_for(args.dataset, dataset, args.prompt_path)
    class_ids, arm_class = np.unique(prompts.classes, return_inverse=True)
    arms = list(zip(prompts.texts, prompts.names, prompts.classes, strict=True))

    def load(dtype: str):
        of_image, of_texts = load_clip(found, pretrained, dtype=dtype, device=device)
        texts = of_texts(prompts.texts)  # [arms, d]

        def answer(image):
            errors = 1 - texts @ of_image(image)  # [arms]
            return int(class_ids[metrics.class_means(errors.numpy(), arm_class).argmin()]), errors

        return answer

    return {"pretrained": pretrained, "loss": "cosine"} | clip_weights(found, pretrained), {"arms": arms}, load


def by_timm(args, name: str, dataset, device):
    """The same for a classifier: each of its classes is an arm, and where several mean one class the best counts."""
    if args.prompt_path or args.pretrained:
        raise InputError(f"--{'prompt_path' if args.prompt_path else 'pretrained'}: is for CLIP, not for {args.model}")
    found, n_classes = find_timm(name)
    class_of = model_arms(args.dataset, dataset, args.model, n_classes, cli.DATASET_ROOT)
    names = dataset.classes or [str(k) for k in range(n_classes)]
    ids = sorted(class_of)

    def load(dtype: str):
        log_probabilities = load_timm(found, n_classes, dtype=cli.DTYPES[dtype], device=device)

        def answer(image):
            errors = -log_probabilities(image)[ids].log_softmax(0)  # of the classes that compete
            return class_of[ids[int(errors.argmin())]], errors

        return answer

    arms = [(k, names[class_of[k]], class_of[k]) for k in ids]
    return {"loss": "nll"}, {"arms": arms, "all_arms": cli.ranges(ids)}, load


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    kind, _, name = args.model.partition(":")
    if kind not in ("clip", "timm"):
        folder, name = Path(os.path.expanduser(args.model)), args.model
        kind = "clip" if os.path.isfile(folder / "open_clip_config.json") else "timm"
        if not os.path.isfile(folder / "config.json") and kind == "timm":
            wanted = "clip:NAME, timm:NAME, or a folder with open_clip's open_clip_config.json or timm's config.json"
            raise InputError(f"--model {args.model}: wanted {wanted}")
    device, dtype = cli.pick_device(args)
    dataset = load_dataset(args.dataset, args.split, cli.DATASET_ROOT)
    images, mine = cli.my_images(args, len(dataset))
    more, about, load = (by_clip if kind == "clip" else by_timm)(args, name, dataset, device)
    options = {
        "dataset": args.dataset,
        "split": args.split,
        "model": args.model,
        "dtype": dtype,
        "data": cli.fingerprint(dataset.labels),
        "prompts": records.sha256(repr(about["arms"])),
        **more,
    }
    weights = f"_{cli.tag(more['pretrained'])}" if more.get("pretrained") else ""
    folder = cli.LOG_DIR / (cli.tag(args.dataset) + cli.extra(args.extra)) / f"{kind}_{cli.clip_tag(name)}{weights}"
    folder /= "" if args.split == "test" else args.split
    todo, earlier = cli.join_run(folder, options, {"images": len(images), **about}, mine)
    print(f"{args.dataset}, {args.split} split: {len(mine)} images, {len(mine) - len(todo)} done before -> {folder}")

    def classify_all(images, dtype: str):
        answer = load(dtype)

        def record_of(index: int, image) -> dict:
            pred, errors = answer(image)
            label = dataset.labels[index]
            return records.one_point(errors.float(), options["loss"], index=index, label=label, pred=pred)

        return (record_of(index, image) for index, image in images)

    path_of = partial(records.record_path, folder, len(dataset))
    rows, problems = cli.evaluate(todo, dataset.open, classify_all, path_of, dtype=dtype, grace=args.grace)
    return cli.print_accuracy(earlier + rows, len(mine), problems)


if __name__ == "__main__":
    cli.run(main)
