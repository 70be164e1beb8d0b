"""The schedules of the paper, and those chosen for the other data sets: a row each."""

import os
from dataclasses import dataclass

from diffusion import InputError
from diffusion.evaluate.options import Parser, refuse
from diffusion.io.wording import few, like


@dataclass(frozen=True)
class Preset:
    """Options of eval_prob_adaptive.py."""

    to_keep: tuple[int, ...]
    n_samples: tuple[int, ...]
    loss: str = "l2"


TEN = Preset((5, 1), (50, 500))
HUNDRED = Preset((20, 10, 5, 1), (20, 50, 100, 500))
TWO_HUNDRED = Preset((25, 10, 5, 1), (50, 100, 500, 1000))
THOUSAND = Preset((500, 50, 10, 1), (50, 100, 500, 1000))

# NFE of pets, flowers, stl10, cifar10, food, aircraft, imagenet and objectnet are those of arXiv 2303.16203; the
# schedules of the others are chosen after the number of their classes.
PAPER = {
    "pets": Preset((5, 1), (25, 250), "l1"),
    "flowers": Preset((20, 10, 5, 1), (20, 50, 100, 500), "l1"),
    "stl10": Preset((5, 1), (100, 500), "l1"),
    "mnist": TEN,
    "fashion-mnist": TEN,
    "cifar10": Preset((5, 1), (50, 500), "l1"),
    "cifar100": HUNDRED,
    "food": HUNDRED,
    "aircraft": HUNDRED,
    "caltech101": HUNDRED,
    "eurosat": TEN,
    "imagenet": THOUSAND,
    "imagenetv2": THOUSAND,
    "imagenetA": TWO_HUNDRED,
    "objectnet": TWO_HUNDRED,
    "digits": TEN,
    "digits-colour": TEN,
    "digits-unseen": TEN,
    "digits-two": THOUSAND,
}


def with_preset(args, parser: Parser):
    """The options, with those of the row of the data set if --preset is there; a --loss that was typed stays.

    InputError: options that a preset sets; a data set that has none.
    """
    if args.preset is None:
        return args
    refuse(args, parser, ["to_keep", "n_samples", "search"], f"is set by --preset {args.preset}")
    preset = PAPER.get(args.dataset)
    if preset is None:
        near = "" if os.path.exists(os.path.expanduser(args.dataset)) else like(args.dataset, PAPER)
        published = f"presets are for published data sets alone, {few(PAPER, len(PAPER))}{near}"
        others = "for own images --search race, or --to_keep 5 1 --n_samples 50 500"
        raise InputError(f"--preset {args.preset} --dataset {args.dataset}", f"{published}; {others}")
    changes = {"to_keep": list(preset.to_keep), "n_samples": list(preset.n_samples)}
    if args.loss == parser.get_default("loss"):
        changes["loss"] = preset.loss
    return type(args)(**vars(args) | changes)
