"""Fit noise to a few labelled images of each class, for --noise_path: fewer evaluations reach the same accuracy.

    python scripts/adapt.py fashion-mnist --version fashion --condition class --levels 0.5-0.8 --out noise.pt
    python eval_prob_dit.py --version fashion --dataset fashion-mnist --search race --levels 0.5-0.8 --max_samples 4 \\
        --randomize_noise --noise_path noise.pt

By default every image has its own random noise. Here all images share one noise sample for each of a few levels, and
these samples are fitted to maximise the likelihood of the labels of some images (of --split train). Use OUT with the
same model, --loss and --levels, and with the number of --points as --max_samples of a race, or as --to_keep 1
--n_samples. Nothing is fitted for classes without labelled images; if they cannot occur, leave them out of
--prompt_path.
"""

from diffusion.core import constants
from diffusion.data import catalogue
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "DATASET")
    options.add(p, "dataset NAME", f"one of {', '.join(catalogue.DATASETS)}; {options.USERS_DATA}")
    options.add(p, "--out -o PT", "file of noise to write", "noise.pt")
    options.add(p, "--split", "which part of the data", "train", choices=catalogue.SPLITS)
    options.add_value_range(p)
    options.add(p, "--shots N", "labelled images of each class, chosen by --seed", 16)
    options.add(p, "--seed N", "seed of the choice of images, of the first noise, and of the order", 0)
    options.add_prompts(p)
    model = p.add_argument_group("model")
    options.add(model, "--version MODEL", "model, as in the script that evaluates", "2-0")
    options.add(
        model, "--condition", "how the model gets a class: as a prompt or as its id", "text", choices=["text", "class"]
    )
    options.add_device(model, "float32")
    fit = p.add_argument_group("fit")
    options.add(fit, "--points N", "noise levels, one noise sample each", 4)
    middle = constants.usual_levels("race")
    options.add(fit, "--levels A-B", "spread the levels between these shares of the schedule", middle)
    options.add(fit, "--loss", "loss used to choose the class", "l2", choices=constants.LOSSES)
    options.add(fit, "--steps N", "steps of the optimiser, each on 16 images", 60)
    options.add(fit, "--lr LR", "learning rate at its highest", 0.03)
    options.add(
        fit, "--batch_size -b N", "evaluations in one network call with gradients, as far as images can be split", 96
    )
    p.set_defaults(search="race", reads=lambda args: (args.version, args.condition))
    return p


import os
import warnings

import numpy as np
import torch
from tqdm import tqdm

from diffusion import InputError, InputWarning
from diffusion.core.fitting import FitOptions, Shots, errors_before, fit_noise
from diffusion.core.search import noise_rows, spread_sequence
from diffusion.data.datasets import Dataset, model_arms, to_learn
from diffusion.data.prompts import prompts_for
from diffusion.evaluate.config import RunConfig, same_for_copies
from diffusion.evaluate.points import usable_levels
from diffusion.evaluate.selection import dataset_of
from diffusion.io.atomic import write_atomic
from diffusion.io.wording import count, have
from diffusion.models.loading import Card, Model, check_weights, load_model, read_card


def check(args) -> None:
    options.at_least_one(args, "shots", "points", "steps")
    if not args.lr > 0:
        raise InputError(f"--lr {args.lr:g}", "must be greater than 0")
    if args.condition == "class":
        why = "is for --condition text, not for --condition class"
        options.refuse(args, parser(), ["prompt_path", "template"], why)
    if not os.path.isdir(os.path.dirname(os.path.abspath(args.out))) or os.path.isdir(args.out):
        raise InputError(f"--out {args.out}", "wanted a file in a folder that exists")


def arms_of(args, dataset: Dataset, card: Card) -> tuple[list, list[int]]:
    """The prompts or class ids of the model, and the class of each. InputError: a class that has several."""
    if args.condition == "class":
        arms = model_arms(args.dataset, dataset, card.source, card.classes, catalogue.DATASET_ROOT, card.called)
        conditions = list(arms)
        classes = list(arms.values())
    else:
        prompts = prompts_for(args.dataset, dataset.labels, dataset.classes, args.prompt_path, templates=args.template)
        print(prompts)
        conditions = prompts.texts
        classes = prompts.classes
    if len(set(classes)) < max(len(classes), 2):
        found = f"{len(conditions)} prompts or ids for {count(len(set(classes)), 'class')}"
        raise InputError(f"dataset {dataset.name!r}", f"{found}; wanted one for each of two or more")
    return conditions, classes


def draw_shots(labels: list[int], n: int, seed: int) -> np.ndarray:
    """The indices of n random images of each label, or of all that it has. [shots]"""
    rng = np.random.default_rng(seed)
    found = np.array(labels)
    chosen = []
    for label in np.unique(found):
        of_label = np.flatnonzero(found == label)
        chosen.append(rng.permutation(of_label)[:n])
    return np.concatenate(chosen)


class FitBar:
    """A bar over the steps of a fit, with the mean cost of the last 20."""

    def __init__(self, steps: int):
        self.costs: list[float] = []
        self.bar = tqdm(total=steps, desc="fit", unit="step")

    def __enter__(self) -> "FitBar":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def report(self, cost: float) -> None:
        self.costs.append(cost)
        self.bar.set_postfix_str(f"cost {np.mean(self.costs[-20:]):.3f}", refresh=False)
        self.bar.update()


def levels_to_fit(args, config: RunConfig, card: Card) -> np.ndarray:
    """The levels of the points, in the order of a search. [points]"""
    usable = usable_levels(config.level_range, card.n_levels)
    if args.points > len(usable):
        raise InputError(f"--points {args.points}", f"--levels {args.levels} holds {count(len(usable), 'level')}")
    return usable[spread_sequence(args.points, len(usable))]


def labelled_dataset(config: RunConfig) -> Dataset:
    """The images to fit to. Warns of those that one should measure on. InputError: they have no labels."""
    dataset = dataset_of(config)
    if not dataset.labelled:
        raise InputError(f"dataset {dataset.name!r}", "its images have no labels")
    if config.split == "test":
        images = "images of the test split" if dataset.has_splits else "some of all images, as the data has no splits"
        warnings.warn(f"fitted to {images}: measure on others", InputWarning, stacklevel=2)
    return dataset


def warn_of_classes_without_images(classes: list[int], dataset: Dataset, split: str) -> None:
    lacking = set(classes) - set(dataset.labels)
    if lacking:
        some = f"{len(lacking)} of {have(len(classes), 'class')} no images in --split {split}"
        warnings.warn(f"{some}: nothing is fitted for these", InputWarning, stacklevel=2)


def encoded_shots(model: Model, pixels: list[torch.Tensor], label: np.ndarray, arms: list) -> Shots:
    x = torch.cat([model.encode(each[None]) for each in pixels])
    return Shots(x.clone(), label, model.conditions(arms).map(torch.clone))  # clones may be part of a gradient


def fit(model: Model, shots: Shots, levels: np.ndarray, noise: torch.Tensor, how: FitOptions):
    """The fitted noise, as `noise`, and the cost of each step. Shows two bars."""
    nfe = len(shots.label) * len(shots.conditions) * len(levels)
    with tqdm(total=nfe, desc="before", unit=" NFE") as bar:
        before = errors_before(model, shots, levels, noise, how, bar.update)
    with FitBar(how.steps) as bar:
        fitted = fit_noise(model, shots, levels, noise, before, how, bar.report)
    return fitted, bar.costs


def command_to_use(args, shape: list[int]) -> str:
    flags = f"--levels {args.levels}"
    if args.points > 1:
        flags += f" --search race --max_samples {args.points}"
    else:
        flags += " --to_keep 1 --n_samples 1"
    if args.condition == "class":
        flags += " --randomize_noise"
    return f"{args.out}: {shape}, for --noise_path with {flags}"


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    check(args)
    config = RunConfig.from_args(args, {}, search="race")
    card = read_card(config.version, conditioned_on=args.condition)
    levels = levels_to_fit(args, config, card)
    dataset = labelled_dataset(config)
    arms, classes = arms_of(args, dataset, card)
    warn_of_classes_without_images(classes, dataset, config.split)

    indices = draw_shots(dataset.labels, args.shots, config.seed)
    label = np.array([classes.index(dataset.labels[k]) for k in indices])
    interpolation = "adm" if args.condition == "class" else "bicubic"  # as the scripts that evaluate crop by default
    pixels = [to_learn(dataset, k, card.image_size, interpolation) for k in indices.tolist()]

    model_id = same_for_copies(check_weights(card))
    model = load_model(card, dtype=getattr(torch, config.dtype), device=config.device)
    shots = encoded_shots(model, pixels, label, arms)

    generator = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(args.points, *card.latent, generator=generator).to(config.device)
    how = FitOptions(config.loss, config.batch_size, args.steps, args.lr, config.seed)
    fitted, costs = fit(model, shots, levels, noise, how)

    bank = torch.empty_like(fitted, device="cpu")
    bank[noise_rows(levels, 1, randomize=True)] = fitted.cpu()  # rows are in the order of levels
    file = {"noise": bank, "levels": torch.from_numpy(np.sort(levels)), "loss": config.loss, "model": model_id}
    write_atomic(args.out, lambda stream: torch.save(file, stream))

    images = f"{count(len(label), 'image')} of {count(len(set(label.tolist())), 'class')}"
    print(f"{images}; cost {np.mean(costs[:20]):.3f} in the first 20 steps, {np.mean(costs[-20:]):.3f} in the last 20")
    print(command_to_use(args, list(bank.shape)))
    return 0


if __name__ == "__main__":
    options.run(main)
