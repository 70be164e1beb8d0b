"""What each likely mistake costs a flow-matching classifier, and which levels decide best, on the embedded model.

python studies/flow_mistakes.py

A diffusion classifier by hand goes wrong in ways that nothing reports: the errors look plausible and the accuracy is
poor. Each line changes one thing in the correct method and gives the accuracy on the same images with the same noise.
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
from diffusion.models.loading import Model, load_model, read_card
from diffusion.stats import metrics

POINTS = (8, 16, 64)


def shifted(process: Process, shift: float) -> Process:
    """The levels of a sampler with that shift (arXiv 2403.03206, eq. 23), dense at high noise."""
    sigma = shift * process.sigma / (1 + (shift - 1) * process.sigma)
    return replace(process, alpha=1 - sigma, sigma=sigma, time=len(process) * sigma)


def right(alpha: Tensor, x: Tensor, eps: Tensor, answer: Tensor) -> Tensor:
    return answer - (eps - x)


Ways = dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]  # name -> the difference that is squared


def variants(model: Model, shift: float, offset: float, scale: float) -> list[tuple[Model, Ways]]:
    """The model as it is called, and what is made of its answers; the VAE's x is (mean - offset) scale."""
    even_levels, moved = model.process, shifted(model.process, shift)

    def told(time: Tensor, process: Process = even_levels) -> Model:
        return replace(model, process=replace(process, time=time))

    def encoded(change: Callable[[Tensor], Tensor]) -> Model:
        return replace(model, encode=lambda images: change(model.encode(images)))

    ways = {
        "right: levels even in sigma": right,
        "error of eps, (1 - sigma) times that of u": lambda alpha, x, eps, answer: alpha * right(alpha, x, eps, answer),
        "answer taken for eps": lambda alpha, x, eps, answer: answer - eps,
        "wrong sign: answer taken for x - eps": lambda alpha, x, eps, answer: answer - (x - eps),
    }
    return [
        (model, ways),
        (replace(model, process=moved), {"levels even in the shifted table": right}),
        (told(even_levels.time / len(even_levels)), {"told sigma, not 1000 sigma": right}),
        (told(moved.time), {"z at even levels, told the shifted time": right}),
        (told(even_levels.time, moved), {"z at shifted levels, told the even time": right}),
        (encoded(lambda x: x + offset * scale), {"the latent's shift forgotten": right}),
        (encoded(lambda x: x / scale), {"the latent's scale forgotten": right}),
    ]


def decide(
    model: Model, ways: Ways, images: list, conditions: Conditions, bar: tqdm
) -> dict[str, dict[int, np.ndarray]]:
    """Name -> number of points -> the winning prompt of each image, at so many levels even in the model's table."""
    levels = {n: even(n, len(model.process)) for n in POINTS}
    measured = np.unique(np.concatenate(list(levels.values())))

    def keep(process: Process, x: Tensor, eps: Tensor, i: Tensor, answer: Tensor) -> Tensor:
        alpha = process.alpha[i].float()[:, None, None, None]
        answer = answer[:, : x.shape[1]].float()
        return torch.stack([(way(alpha, x, eps, answer) ** 2).mean((1, 2, 3)) for way in ways.values()], 1)

    def task(k: int, pixels: Tensor):
        x = model.encode(pixels[None])[0]
        arms, rows = np.arange(len(conditions)), torch.arange(len(measured))
        noise = ImageNoise(0, k, tuple(x.shape))
        return k, (yield Block(x, conditions, arms, torch.from_numpy(measured), rows, noise))

    errors = {}
    for k, answer in together(model, (task(*image) for image in images), batch_size=32, keep=keep):
        errors[k] = answer.double().numpy()  # [arms, points, ways]
        bar.update()
    every = np.stack([errors[k] for k, _ in images])
    at = {n: np.searchsorted(measured, chosen) for n, chosen in levels.items()}
    return {way: {n: every[:, :, at[n], w].mean(2).argmin(1) for n in POINTS} for w, way in enumerate(ways)}


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
    with tqdm(total=len(rows) * len(images), unit="image") as bar:
        found = {name: at for model, ways in rows for name, at in decide(model, ways, images, conditions, bar).items()}
    print(
        f"{args.version} on {len(images)} images of {args.dataset}: accuracy in % (95% interval) by points per prompt"
    )
    print(f"{'':<44}" + "".join(f"{n:>20}" for n in POINTS))
    for name, at in found.items():
        cells = [metrics.accuracy(np.array(prompts.classes)[at[n]], label) for n in POINTS]
        print(
            f"{name:<44}"
            + "".join(f"{f'{100 * p:.1f} ({100 * low:.1f}-{100 * high:.1f})':>20}" for p, (low, high) in cells)
        )
    return 0


if __name__ == "__main__":
    options.run(main)
