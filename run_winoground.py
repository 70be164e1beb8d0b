"""Compositional matching: do two images and two captions of the same words find each other (Winoground)?

    python run_winoground.py --model sd --version 2-0 --t_interval 1 --batch_size 32 --noise_path noise_512.pt \\
        --randomize_noise --interpolation bicubic
    python run_winoground.py --model clip --version ViT-L/14

Results go to $LOG_DIR (default data), one file per image; scripts/print_winoground.py prints them again.
"""

from diffusion import names, options

SD_ONLY = [  # options of a diffusion model
    "search", "z", "max_samples", "budget", "t_interval", "n_trials", "randomize_noise", "noise_path", "seed",
    "normalize", "interpolation", "img_size", "loss", "levels", "weights", "in_flight", "compile", "offload", "config",
    "lora", "embeddings", "t5",
]  # fmt: skip


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    known = "winoground, digits-pairs, hf:NAME, or a folder with examples.jsonl"
    options.add_interpolation(options.add_data(p, "winoground", known, classes=False), "bilinear")
    model = p.add_argument_group("model")
    kinds = ["sd", "clip", "openclip"]
    options.add(model, "--model", "Stable Diffusion, CLIP or OpenCLIP", "sd", choices=kinds)
    version = "sd: as in eval_prob_adaptive.py, default 2-0; else open_clip's name, or digits"
    options.add(model, "--version MODEL", version)
    tag = "of clip and openclip: open_clip's tag of the weights, or a file; of OpenAI with --version ...-quickgelu"
    options.add(model, "--pretrained TAG", tag)
    options.add_text_model(model)
    options.add_network(model)
    search = options.add_search(p, "grid")
    options.add(search, "--t_interval N", "grid: every N-th noise level", 5)
    options.add_noise(search, "; all images share it", randomize=True)
    options.switch(search, "--normalize", "measure the empty caption too, for a fair image score")
    options.add(options.add_store(p), "--gallery PNG", "draw the examples, the worst first")
    options.add_shards(p)
    return p


from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from diffusion import InputError, figures, matching, metrics, plan, records, results, run
from diffusion.clip import clip_weights, find_clip, load_clip
from diffusion.datasets import fingerprint
from diffusion.decide import Measured
from diffusion.files import sha256
from diffusion.pairs import Pairs, load_pairs
from diffusion.prompts import read_weights
from diffusion.search import every, halving, level_sequence


def by_diffusion(
    args, device, dtype: str, pairs: Pairs, open_image: Callable
) -> tuple[dict, str, int, Callable, Callable]:
    """Options for run.json, the run folder's name, NFE per image, how to load an image, and what classifies images."""
    args.version = args.version or "2-0"
    card = plan.card_of(args)
    arm_class = np.arange(2 + args.normalize)
    usable, weights = plan.levels_of(args, card.levels), read_weights(args.weights, card.levels)
    if args.search == "race":
        options.refuse(args, parser(), ["t_interval", "normalize", "gallery"], "is for --search grid, not for race")
        levels, start = plan.race_of(args, np.ones(2, dtype=int), usable[weights[usable] > 0], 2)
    else:
        options.refuse(args, parser(), plan.RACE_ONLY, "is for --search race")
        levels, _ = level_sequence([every(args.t_interval, len(usable))], len(usable))
        levels = np.repeat(usable[levels], args.n_trials)

        def start(among: np.ndarray):
            return halving(len(among), [len(levels)], [1])

    points = plan.points_of(args, card, levels, weights, start, randomize=args.randomize_noise)

    def told(number: int) -> list[str]:
        return [*pairs.captions[number // 2], ""][: len(arm_class)]

    def finish(number: int, measured: Measured) -> dict:
        record = measured.record(index=number, label=number % 2)
        errors = metrics.class_errors(record, arm_class, args.loss)[0][:2]  # the empty caption is no answer
        return record | {"pred": int(errors.argmin()), "margin": metrics.margin(errors)}

    flags = ["config", "lora", "embeddings", "t5", "t_interval", "randomize_noise", "normalize", "interpolation"]
    data = {"dataset": args.dataset, "data": fingerprint(pairs.captions)}
    chosen = plan.options_of(args, flags, card, data, dtype, points)
    model, search = plan.model_tag(args), plan.search_tag(args, args.t_interval)
    name = names.joined(model, search, plan.suffixes(args, "bilinear", "normalized" if args.normalize else ""))
    load, classify = run.by_search(
        args, card, device, dtype, points, open_image, args.interpolation, told, arm_class, finish,
        own_noise=False,  # so that the errors of images can be compared
    )  # fmt: skip
    return chosen, name, args.budget or len(arm_class) * len(levels), load, classify


def by_clip(args, device, dtype: str, pairs: Pairs, open_image: Callable) -> tuple[dict, str, int, Callable, Callable]:
    """The same for CLIP: the error of a caption is its cosine distance to the image."""
    options.refuse(args, parser(), SD_ONLY, f"is for --model sd, not for {args.model}")
    found, pretrained = find_clip(args.model, args.version, args.pretrained)

    def classify(images, dtype: str):
        of_image, of_texts = load_clip(found, pretrained, dtype=dtype, device=device)

        def record_of(number: int, image: Image.Image) -> dict:
            distance = 1 - of_texts(list(pairs.captions[number // 2])) @ of_image(image)  # [2]
            about = {"index": number, "label": number % 2, "pred": int(distance.argmin())}
            return records.one_point(distance, "cosine", **about)

        return (record_of(number, image) for number, image in images)

    version = args.version if found.startswith("local-dir:") else found  # a folder, as it was given
    chosen = {"dataset": args.dataset, "model": version, "pretrained": pretrained, "dtype": dtype, "loss": "cosine"}
    chosen |= {"data": sha256(repr(pairs.captions))} | clip_weights(found, pretrained)
    name = names.joined(args.model, names.tag(version), pretrained and names.tag(pretrained))
    return chosen, name, 1, open_image, classify


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "n_trials", "batch_size", "in_flight")
    options.not_negative(args, "seed")
    if args.pretrained and args.model == "sd":
        raise InputError(f"--pretrained {args.pretrained}: is for --model clip and openclip; sd takes --version")
    figures.check_picture(args.gallery)
    device, dtype = plan.pick_device(args)
    pairs = load_pairs(args.dataset, names.DATASET_ROOT)
    images, mine = plan.my_images(args, pairs.tags)
    by = by_diffusion if args.model == "sd" else by_clip
    opened = lambda number: pairs.open(*divmod(number, 2))  # noqa: E731
    chosen, name, nfe, load, classify = by(args, device, dtype, pairs, opened)
    folder = names.run_folder(args.dataset, args.extra, name)
    examples = {k: {"id": pairs.ids[k], "captions": pairs.captions[k], "tag": pairs.tags[k]} for k in range(len(pairs))}
    arms = [("caption 0", "caption 0", 0), ("caption 1", "caption 1", 1)]
    about = {"images": 2 * len(images), "arms": arms, "examples": examples}
    todo, _ = run.join_run(folder, chosen, about, [2 * k + side for k in mine for side in (0, 1)])
    most = "at most " if args.search == "race" else ""
    cost = f"{most}{2 * nfe:,} NFE, {most}{len(todo) * nfe:,} NFE to do"
    print(f"{args.dataset}: {len(mine)} examples of {cost} -> {folder}")

    path_of = partial(records.record_path, folder, 2 * len(pairs))
    _, problems = run.evaluate(todo, load, classify, path_of, dtype=dtype, grace=args.grace)
    done = results.read(folder, answers=False)
    code = matching.print_scores(done)
    if args.gallery:
        matching.draw_gallery(done, pairs, args.gallery)
    return results.report(problems) or code


if __name__ == "__main__":
    options.run(main)
