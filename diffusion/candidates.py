"""A first stage that costs little: which classes of an image are worth the diffusion model's time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diffusion import InputError, records
from diffusion.clip import clip_weights, find_clip, load_clip
from diffusion.datasets import Prompts
from diffusion.metrics import class_errors, class_means, excess, rescore


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
    """What CLIP's weights are known by, and `load(dtype, device)`, which gives the scores of an image [classes].

    Scores are cosine similarities, of a class the mean over its prompts; classes ascending by id. InputError: no such
    CLIP, as find_clip says.
    """
    found, pretrained = find_clip("clip", name, pretrained, flag)
    arm_class = np.unique(prompts.classes, return_inverse=True)[1]

    def load(dtype: str, device) -> Callable[[Image.Image], np.ndarray]:
        of_image, of_texts = load_clip(found, pretrained, dtype=dtype, device=device)
        texts = of_texts(prompts.texts)  # [arms, d]
        return lambda image: class_means((texts @ of_image(image)).numpy(), arm_class)

    return clip_weights(found, pretrained).get("weights of CLIP", pretrained), load


def last_dropped(record: dict, class_ids: np.ndarray, arm_class: np.ndarray, loss: str) -> np.ndarray:
    """The classes of a record, the likeliest first: columns of the ascending class ids, of those measured at all.

    One that was measured at more points comes before one that was dropped earlier: whatever a search kept had been
    better, or not clearly worse, on the same points. Of those that came equally far the smaller mean error is first, so
    the winner is the very first. calibration.scores, the order of --top, may put a class that went after two noisy
    points before one that stayed for twenty. How many of digits-colour's 497 labels are among the best 5 and 10:

        first run                                    NFE    this order    scores
        --search race --z 1.5 --max_samples 20       132    495, 497      494, 495
        --to_keep 20 5 1 --n_samples 1 3 9           130    493, 497      495, 497
        --search race                                279    496, 497      497, 497

    On 434 images of the training split they are one image apart at most. So it is the argument that decides.

    class_ids [rows] and arm_class [arms] as records.competitors gives them; of several rows of a class the best counts.
    """
    difference = excess(record, arm_class, rescore(record, arm_class, loss), loss)
    points = class_errors(record, arm_class, loss)[1]
    order = np.lexsort((difference, -points))[: np.count_nonzero(points)]
    columns = np.unique(class_ids, return_inverse=True)[1][order]
    return columns[np.sort(np.unique(columns, return_index=True)[1])]


def by_run(folder: Path, run: dict, K: int, class_ids: np.ndarray, images: list[int]) -> Callable:
    """From a run (records.read_run) on the same images: `pick(index)`, the K best of an image, and what they cost.

    These are rows of class_ids [classes], ascending, the best first; then the NFE of this run and of those before it.
    Records are only looked at until they are asked for. InputError, beginning with the folder: a run of other classes;
    one of `images` whose record is not there, or not to be read, or has fewer than K classes: then the label may be
    among those that nobody measured.
    """
    rows, arm_class = records.competitors(run)
    loss = records.loss_of(folder, run, None)
    if (unknown := np.setxor1d(rows, class_ids)).size:
        raise InputError(f"{folder}: its classes are not the same, they differ in the ids {unknown[:10].tolist()}")
    paths = records.finished(folder)

    def lacks(index: int) -> str:
        if index not in paths:
            return "no record"
        try:
            counts = records.load_record(paths[index], own=True, lazily=True).get("counts")
        except InputError as error:
            return str(error)
        if not (isinstance(counts, Tensor) and counts.shape == arm_class.shape):
            return f"{paths[index].name} has no counts of {len(arm_class)} arms"
        measured = len(np.unique(rows[arm_class[counts.numpy() > 0]]))
        return "" if measured >= K else f"{paths[index].name} has {measured} classes, wanted {K} and more"

    lacking = {index: why for index in images if (why := lacks(index))}
    if lacking:
        named = ", ".join(map(str, list(lacking)[:5])) + (", ..." if len(lacking) > 5 else "")
        missing = f"{len(lacking)} of {len(images)} images have no record there that will do"
        raise InputError(f"{folder}: {missing}: {named} ({next(iter(lacking.values()))})")

    def pick(index: int) -> tuple[np.ndarray, int]:
        record = records.load_record(paths[index], own=True, loss=loss, arms=len(arm_class))
        return last_dropped(record, rows, arm_class, loss)[:K], record["nfe"] + record.get("first_nfe", 0)

    return pick
