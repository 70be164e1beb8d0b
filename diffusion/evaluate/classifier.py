"""A diffusion model as what measures images: a question for each, and a search over errors that answers it."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from diffusion import InputError
from diffusion.core.batching import Block, together
from diffusion.core.image import Measured, Question, search_image
from diffusion.core.losses import losses_only
from diffusion.core.schedule import Points, Schedule
from diffusion.data.datasets import Dataset
from diffusion.data.images import crop
from diffusion.evaluate.candidates import FirstStage
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.embeddings import embed
from diffusion.evaluate.loop import Classifier
from diffusion.evaluate.machine import load_for_run
from diffusion.evaluate.noise import Noise
from diffusion.evaluate.points import warn_of_one_draw
from diffusion.io.wording import count, in_bytes
from diffusion.models.loading import Card, Model, read_card


@dataclass(frozen=True)
class Method:
    """How every image of a run is measured."""

    config: RunConfig
    card: Card
    schedule: Schedule
    points: Points
    noise: Noise
    to_errors: Callable = losses_only  # what becomes of each prediction, a function of core/losses.py


@dataclass(frozen=True)
class Arms:
    """What competes for every image of a data set: prompts or class ids."""

    prompts: list  # [arms] texts, or class ids of the model
    arm_class: np.ndarray  # [arms] the row of each arm; the search is between rows
    class_ids: np.ndarray  # [rows] the class id of each row
    loras: list[tuple[str, ...]] | None = None  # [arms] LoRAs that a prompt has for itself
    cache: Path | None = None  # a file for the embeddings of many prompts, see embeddings.embed


class DiffusionClassifier(Classifier):
    """Subclasses open an image, ask a question about it, and make a record of what was measured."""

    interpolation: str  # as in images.crop

    def __init__(self, method: Method):
        self.method = method
        self.interpolation = method.config.interpolation

    def open(self, index: int) -> Image:
        raise NotImplementedError

    def prepare(self, dtype: str) -> None:
        """Called before the model is loaded."""

    def begin(self, model: Model) -> None:
        """Called with the loaded model, before the first question."""
        raise NotImplementedError

    def question(self, index: int, pixels: Tensor, image: Image) -> tuple[Question, dict]:
        """The question about an image, from its crop [3, H, W] and the whole; and what else its record holds."""
        raise NotImplementedError

    def record(self, index: int, measured: Measured) -> dict:
        raise NotImplementedError

    def load(self, index: int) -> tuple[Tensor, Image]:
        """The crop [3, H, W] of an image, and the image."""
        image = self.open(index)
        return crop(image, self.method.card.image_size, self.interpolation), image

    def classify(self, images: Iterable, dtype: str, spent: Callable[[int], None]) -> Iterator[dict]:
        config = self.method.config
        if dtype == config.dtype:  # else it was warned of before
            warn_of_one_draw(self.method.points)
        self.prepare(dtype)
        model = load_for_run(config, self.method.card, dtype)
        self.begin(model)
        tasks = (self._task(index, *loaded) for index, loaded in images)
        return together(
            model,
            tasks,
            batch_size=config.batch_size,
            in_flight=config.in_flight,
            to_errors=self.method.to_errors,
            spent=spent,
        )

    def _task(self, index: int, pixels: Tensor, image: Image) -> Generator[Block, Tensor, dict]:
        question, more = self.question(index, pixels, image)
        measured = yield from search_image(question, self.method.points, loss=self.method.config.loss)
        return self.record(index, measured) | more


class DatasetClassifier(DiffusionClassifier):
    """The same arms for every image of a data set, or those that a first stage picks of them."""

    def __init__(self, method: Method, dataset: Dataset, arms: Arms, first: FirstStage | None):
        super().__init__(method)
        self.dataset, self.arms, self.first = dataset, arms, first

    def open(self, index: int) -> Image:
        return self.dataset.open(index)

    def prepare(self, dtype: str) -> None:
        if self.first:
            self.first.prepare(dtype, self.method.config.device)

    def begin(self, model: Model) -> None:
        self.model = model
        if self.arms.cache is None:
            self.conditions = model.conditions(self.arms.prompts, self.arms.loras)
        else:
            self.conditions = embed(model, self.arms.prompts, self.arms.loras, self.arms.cache)
        if isinstance(self.arms.prompts[0], str):
            size = in_bytes(self.conditions.nbytes)
            tqdm.write(f"{count(len(self.conditions), 'prompt')} kept as {size} of embeddings")

    def question(self, index: int, pixels: Tensor, image: Image) -> tuple[Question, dict]:
        among, more = None, {}
        if self.first:
            more = self.first.pick(index, image)
            among = np.flatnonzero(np.isin(self.arms.class_ids, more["candidates"]))
        question = Question(
            self.model.encode(pixels[None])[0],
            self.conditions,
            self.arms.arm_class,
            self.method.schedule.start,
            self.method.noise.of_image(index),
            among,
        )
        return question, more


def text_card(config: RunConfig, loras: Iterable[tuple[str, ...]] = (), tokens: dict[str, str] | None = None) -> Card:
    """The card of a text-to-image model; `loras` and `tokens` are those that prompts have for themselves.

    loras as in Prompts, tokens as lora.rename_tokens returns them.
    """
    card = read_card(
        config.version,
        config.img_size,
        lora=config.lora,
        embeddings=config.embeddings,
        t5=config.t5,
        config=config.config,
    )
    of_prompts = tuple(dict.fromkeys(name for names in loras for name in names))
    if of_prompts and config.compile:
        raise InputError("--compile", "not with prompts that have LoRAs of their own, for each of which it starts anew")
    return replace(card, prompt_loras=of_prompts, prompt_tokens=tuple((tokens or {}).items()))
