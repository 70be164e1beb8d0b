"""How much accuracy each likely mistake costs a flow-matching classifier, and which levels decide best.

python studies/flow_mistakes.py

A hand-written diffusion classifier can fail silently: the errors look plausible and the accuracy is poor. Each line
changes one thing in the correct method and gives the accuracy on the same images with the same noise.
"""

from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__)
    options.add(p, "--version MODEL", "a flow-matching model: alias, hub id or diffusers folder", "digits-flow")
    options.add(p, "--dataset NAME", "data set with prompts/DATASET_prompts.csv", "digits")
    options.add(p, "--every N", "take every N-th image", 3)
    options.add(p, "--shift S", "shift of the shifted levels", 3.0)
    return p


from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from diffusion import InputError
from diffusion.core.batching import Block, together
from diffusion.core.conditions import Conditions
from diffusion.core.noise import ImageNoise
from diffusion.core.process import Process
from diffusion.core.search import even
from diffusion.data.datasets import load_dataset
from diffusion.data.images import centre_crop
from diffusion.data.prompts import PROMPTS, prompts_file, read_prompts
from diffusion.io.wording import count
from diffusion.models.loading import Model, load_model, read_card
from diffusion.runs import show
from diffusion.stats import metrics

POINTS = (8, 16, 64)


def shifted(process: Process, shift: float) -> Process:
    """The same number of levels, shifted as a sampler shifts them (arXiv 2403.03206, eq. 23): dense at high noise."""
    sigma = shift * process.sigma / (1 + (shift - 1) * process.sigma)
    return replace(process, alpha=1 - sigma, sigma=sigma, time=len(process) * sigma)


def right(alpha: Tensor, x: Tensor, eps: Tensor, prediction: Tensor) -> Tensor:
    return prediction - (eps - x)


def error_of_eps(alpha: Tensor, x: Tensor, eps: Tensor, prediction: Tensor) -> Tensor:
    return alpha * right(alpha, x, eps, prediction)


def taken_for_eps(alpha: Tensor, x: Tensor, eps: Tensor, prediction: Tensor) -> Tensor:
    return prediction - eps


def wrong_sign(alpha: Tensor, x: Tensor, eps: Tensor, prediction: Tensor) -> Tensor:
    return prediction - (x - eps)


Ways = dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]  # name -> the difference that is squared


def variants(model: Model, shift: float, offset: float, scale: float) -> list[tuple[Model, Ways]]:
    """Models that differ from the right one by one mistake, each with the differences whose squares are its errors.

    The VAE's x is (mean - offset) scale.
    """
    process, moved = model.process, shifted(model.process, shift)

    def with_process(changed: Process) -> Model:
        return replace(model, process=changed)

    def with_latent(change: Callable[[Tensor], Tensor]) -> Model:
        return replace(model, encode=lambda images: change(model.encode(images)))

    ways = {
        "right: levels even in sigma": right,
        "error of eps, (1 - sigma) times that of u": error_of_eps,
        "prediction taken for eps": taken_for_eps,
        "wrong sign: prediction taken for x - eps": wrong_sign,
    }
    small_time = replace(process, time=process.time / len(process))
    return [
        (model, ways),
        (with_process(moved), {"levels even in the shifted table": right}),
        (with_process(small_time), {"time sigma, not 1000 sigma": right}),
        (with_process(replace(process, time=moved.time)), {"z at even levels, the time shifted": right}),
        (with_process(replace(moved, time=process.time)), {"z at shifted levels, the time even": right}),
        (with_latent(lambda x: x + offset * scale), {"the latent's shift forgotten": right}),
        (with_latent(lambda x: x / scale), {"the latent's scale forgotten": right}),
    ]


def decide(
    model: Model, ways: Ways, images: list, conditions: Conditions, bar: tqdm
) -> dict[str, dict[int, np.ndarray]]:
    """The winning prompt of each image [n], by name of the way and number of points.

    The points lie at levels that are even in the model's table.
    """
    levels = {n: even(n, len(model.process)) for n in POINTS}
    measured = np.unique(np.concatenate(list(levels.values())))

    def keep(process: Process, x: Tensor, eps: Tensor, i: Tensor, prediction: Tensor) -> Tensor:
        alpha = process.alpha[i].float()[:, None, None, None]
        prediction = prediction[:, : x.shape[1]].float()
        squares = [way(alpha, x, eps, prediction) ** 2 for way in ways.values()]
        return torch.stack([square.mean((1, 2, 3)) for square in squares], 1)

    def task(k: int, pixels: Tensor):
        x = model.encode(pixels[None])[0]
        arms, rows = np.arange(len(conditions)), torch.arange(len(measured))
        noise = ImageNoise(0, k, tuple(x.shape))
        return k, (yield Block(x, conditions, arms, torch.from_numpy(measured), rows, noise))

    errors = {}
    for k, found in together(model, (task(*image) for image in images), batch_size=32, to_errors=keep):
        errors[k] = found.double().numpy()  # [arms, points, ways]
        bar.update()
    every = np.stack([errors[k] for k, _ in images])  # [images, arms, points, ways]

    winners = {name: {} for name in ways}
    for n, chosen in levels.items():
        means = every[:, :, np.searchsorted(measured, chosen)].mean(2)  # [images, arms, ways]
        for name, won in zip(ways, means.argmin(1).T, strict=True):
            winners[name][n] = won
    return winners


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.at_least_one(args, "every")
    card = read_card(args.version)
    if card.pipeline != "StableDiffusion3Pipeline":
        raise InputError(f"--version {args.version}", f"is a {card.pipeline}, wanted a StableDiffusion3Pipeline")
    dataset, model = load_dataset(args.dataset), load_model(card)
    vae = AutoencoderKL.load_config(card.source, subfolder="vae")
    prompts = read_prompts(PROMPTS / prompts_file(args.dataset))
    conditions = model.conditions(prompts.texts)
    chosen = range(0, len(dataset), args.every)
    images = [(k, centre_crop(dataset.open(k), model.image_size)) for k in chosen]
    label = np.array([dataset.labels[k] for k in chosen])
    rows = variants(model, args.shift, vae["shift_factor"], vae["scaling_factor"])
    found = {}
    with tqdm(total=len(rows) * len(images), unit="image") as bar:
        for changed, ways in rows:
            found |= decide(changed, ways, images, conditions, bar)

    of = f"{args.version} on {count(len(images), 'image')} of {args.dataset}"
    print(f"{of}: accuracy in % (95% interval) by points per prompt")
    print(f"{'':<44}" + "".join(f"{n:>20}" for n in POINTS))
    classes = np.array(prompts.classes)
    for name, winners in found.items():
        cells = [show.short_percent(*metrics.accuracy(classes[winners[n]], label)) for n in POINTS]
        print(f"{name:<44}" + "".join(f"{cell:>20}" for cell in cells))
    return 0


if __name__ == "__main__":
    options.run(main)
