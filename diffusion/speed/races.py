"""Races between the ten prompts of the embedded model: a small piece of real work to measure on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.core.batching import together
from diffusion.core.conditions import Conditions
from diffusion.core.constants import MIDDLE
from diffusion.core.image import Measured, Question, search_image
from diffusion.core.noise import ImageNoise
from diffusion.core.schedule import Points
from diffusion.core.search import Search, band, noise_rows, race, spread_sequence
from diffusion.data.datasets import load_dataset
from diffusion.data.images import centre_crop
from diffusion.data.prompts import PROMPTS, prompts_file, read_prompts
from diffusion.models.loading import Model, load_model, read_card

T = 1000  # levels of every model that is measured here


@dataclass(frozen=True)
class Embedded:
    """The embedded text-to-image model, and the held-out handwriting that it classifies."""

    model: Model
    texts: list[str]  # ten prompts
    conditions: Conditions  # of these
    labels: list[int]  # of all images
    open_image: Callable[[int], Tensor]  # index -> pixels [3, H, W] in [-1, 1]

    def latents(self, indices) -> list[Tensor]:
        """Encoded images, each [c, h, w]."""
        return [self.model.encode(self.open_image(index)[None])[0] for index in indices]


def embedded(device: torch.device, dtype: torch.dtype = torch.float32) -> Embedded:
    """Load the embedded model."""
    card = read_card("digits")
    dataset = load_dataset("digits")
    model = load_model(card, dtype=dtype, device=device)
    texts = read_prompts(PROMPTS / prompts_file("digits")).texts

    def open_image(index: int) -> Tensor:
        return centre_crop(dataset.open(index), card.image_size, "bicubic")

    return Embedded(model, texts, model.conditions(texts), dataset.labels, open_image)


def search_all(
    model: Model,
    images: list[Tensor],
    conditions: Conditions,
    levels: np.ndarray,
    start: Callable[[np.ndarray], Search],
    batch_size: int,
    in_flight: int | None = None,
) -> list[Measured]:
    """A search on each encoded image [c, h, w]; each condition is a class. Results in the order of the images.

    `levels` as in Points, `start` as in Question; `batch_size` and `in_flight` as in batching.together.
    """
    points = Points(levels, noise_rows(levels, 1, True), None, np.ones(len(levels)))
    arm_class = np.arange(len(conditions))

    def one_image(k: int, x: Tensor):
        question = Question(x, conditions, arm_class, start, ImageNoise(0, k, tuple(x.shape)))
        measured = yield from search_image(question, points, loss="l2")
        return k, measured

    tasks = (one_image(k, x) for k, x in enumerate(images))
    done = dict(together(model, tasks, batch_size=batch_size, in_flight=in_flight))
    return [done[k] for k in range(len(images))]


def race_all(
    model: Model, images: list[Tensor], conditions: Conditions, batch_size: int, in_flight: int | None = None
) -> list[Measured]:
    """A race of z 3 at 500 of the middle levels on each encoded image; its noise is independent."""
    usable = band(*MIDDLE, T)
    levels = usable[spread_sequence(500, len(usable))]
    arms = np.ones(len(conditions), dtype=int)

    def start(among: np.ndarray) -> Search:
        return race(levels, arms, 3.0)

    return search_all(model, images, conditions, levels, start, batch_size, in_flight)
