"""A first stage that is nearly free: which classes of an image are worth the diffusion model's time."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from diffusion import InputError
from diffusion.clip import find_clip, load_clip
from diffusion.datasets import Prompts
from diffusion.metrics import class_means


def best(scores: np.ndarray, K: int) -> np.ndarray:
    """The K classes with the highest scores [classes], the best first; of equal ones the smaller. [K]"""
    return np.argsort(-scores, kind="stable")[:K]


def check_scores(scores: np.ndarray, given: str, images: int, classes: int) -> np.ndarray:
    """Scores of each image of a data set, higher is better, as float64. [images, classes]

    Raises InputError, beginning with what was `given`, when they are not of this shape, or not all of them numbers.
    """
    if scores.shape != (images, classes) or scores.dtype.kind not in "iuf":
        found = f"holds {scores.dtype} {list(scores.shape)}"
        raise InputError(
            f"{given}: {found}, wanted numbers [images, classes] = {[images, classes]}, the classes in"
            " ascending order of their ids"
        )
    if np.isnan(scores).any():
        raise InputError(f"{given}: nan at {np.argwhere(np.isnan(scores))[0].tolist()}")
    return scores.astype(np.float64)


def by_clip(name: str, pretrained: str | None, prompts: Prompts, flag: str) -> tuple[str | None, Callable]:
    """The tag of CLIP's weights, and `load(dtype, device)`, which gives the scores of an image [classes].

    Scores are cosine similarities, of a class the mean over its prompts; classes ascending by id. InputError: no such
    CLIP, as find_clip says.
    """
    found, pretrained = find_clip("clip", name, pretrained, flag)
    arm_class = np.unique(prompts.classes, return_inverse=True)[1]

    def load(dtype: str, device) -> Callable[[Image.Image], np.ndarray]:
        of_image, of_texts = load_clip(found, pretrained, dtype=dtype, device=device)
        texts = of_texts(prompts.texts)  # [arms, d]
        return lambda image: class_means((texts @ of_image(image)).numpy(), arm_class)

    return pretrained, load
