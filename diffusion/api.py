"""From Python: classify images, or score them against captions, with a loaded model.

    from diffusion import classify, load_model

    model = load_model("2-0", dtype=torch.float16, device="cuda")
    answer = classify(model, "cat.jpg", ["a photo of a cat.", "a photo of a dog."])
    print(answer.name, answer.scores, answer.nfe)

An image is a path, a PIL image, a numpy array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], or a tensor [1 or 3, h, w]:
bytes, or floats in 0..1, or other numbers with a `value_range`. Several are a list, an array or tensor with one axis
more, or any iterable of images. They share network calls; the results are the same bits as one by one.

Raises diffusion.InputError, a ValueError, for what cannot work, and OSError for a file that is no image.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diffusion import InputError, InputWarning
from diffusion.core.batching import together
from diffusion.core.constants import LOSSES, MIDDLE, NOISES, usual_noise
from diffusion.core.image import search_image
from diffusion.core.noise import ImageNoise
from diffusion.core.search import Search, band, check_schedule, draws, raced, staged
from diffusion.data.depth import KINDS, Range, check_range, to_bytes
from diffusion.data.images import crop, open_rgb, to_rgb
from diffusion.data.prompts import Prompts, duplicates, near_duplicates, read_prompts, read_weights
from diffusion.models.loading import Model
from diffusion.settings import exact_float32
from diffusion.stats.calibration import probabilities
from diffusion.stats.metrics import class_errors, excess


@dataclass(frozen=True)
class Answer:
    """What a model makes of one image. K classes, in the order in which they were given."""

    best: int  # which of the classes
    name: str  # of that class
    names: list[str]  # of all K
    scores: np.ndarray  # [K] mean error less the best's, over the points that both were measured on; inf: not measured
    probabilities: np.ndarray | None  # [K], given a temperature
    nfe: int  # network evaluations spent
    decided: bool  # False where the budget ended before the others were clearly worse


def classify(
    model: Model,
    images,
    prompts: Sequence[str] | Sequence[int] | Mapping[str, object] | str | Path,
    *,
    loss: str = "l2",
    search: str = "race",
    z: float = 3.0,
    max_samples: int = 500,
    budget: float = np.inf,
    to_keep: Sequence[int] | None = None,
    n_samples: Sequence[int] | None = None,
    levels: tuple[float, float] | None = None,
    noise: str | None = None,
    weights: np.ndarray | str | Path | None = None,
    candidates: Iterable[Sequence[int]] | None = None,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    value_range: tuple[float, float] | None = None,
) -> Answer | list[Answer] | Iterator[Answer]:
    """The class of each image: an Answer for one, a list for a list or an array, else an iterator, in their order.

    `prompts`: a list, one for each class; a dict from class to its prompt or prompts; or a csv of
    prompt,classname[,classidx]. For a class-conditional model, class ids in place of texts. Options mean what they mean
    to eval_prob_adaptive.py: `search` is "race" (with `z`, `max_samples`, `budget`) or "halving" (with `to_keep`,
    `n_samples`); `levels` are shares of the schedule, by default MIDDLE for a race, else all; `noise` is "antithetic",
    the default of a race, or "independent"; `weights` [T] or a csv;
    `candidates`: the classes that compete, as numbers in 0..K-1, of one image, or of each of several; `temperature` as
    scripts/calibrate.py fits it; `value_range`: which values of images of more than 8 bits are black and white, by
    default what each file says. Image k of these has the noise of image k of a data set. Warns of equal prompts.
    """
    names, texts, arm_class = _classes(model, prompts)
    K = len(names)
    _warn_of_equals(names, texts, arm_class)
    _one_of("loss", loss, LOSSES)
    _one_of("search", search, ("race", "halving"))
    _numbers(Integral, seed=seed, batch_size=batch_size, max_samples=max_samples)
    _numbers(Real, z=z, budget=budget, temperature=1 if temperature is None else temperature)
    if temperature is not None and not 0 < temperature < np.inf:
        raise InputError(f"temperature {temperature!r}", "must be a number greater than 0")
    if candidates is not None and not isinstance(candidates, Iterable):
        raise InputError(f"candidates {candidates!r:.60}", "wanted a list of numbers, or one for each image")
    T = len(model.process)
    weight = _weights(weights, T)
    usable = _levels((MIDDLE if search == "race" else (0.0, 1.0)) if levels is None else levels, T)
    usable = usable[weight[usable] > 0]
    if len(usable) < 2:
        raise InputError("weights", "fewer than 2 of the noise levels that are measured have one above 0")
    pairs = _antithetic(usual_noise(search, None) if noise is None else noise)
    if search == "race":
        if to_keep is not None or n_samples is not None:
            raise InputError("to_keep and n_samples", 'are for search="halving"')
        points, ends, start = _race(np.bincount(arm_class), usable, z, max_samples, budget, pairs=pairs)
    else:
        points, ends, start = _halving(K, usable, to_keep, n_samples, pairs=pairs)

    conditions = model.conditions(texts)
    rows, signs = draws(points, ends, 1, randomize=True, antithetic=pairs)
    one, images = _images(images, value_range)
    chosen = None if candidates is None else iter([candidates] if one else candidates)

    def answer_to(index: int, image: Image.Image):
        among = None if chosen is None else _among(index, next(chosen, None), K)
        x = _latent(model, image)  # [c, h, w]
        own = ImageNoise(seed, index, tuple(x.shape))
        measured = yield from search_image(
            x, conditions, arm_class, start, points, rows, own, loss=loss, signs=signs, weights=weight, among=among
        )
        scores = excess(measured.record(), arm_class, measured.winner, loss)
        p = None if temperature is None else probabilities(-np.maximum(scores, 0), temperature)
        return index, Answer(measured.winner, names[measured.winner], names, scores, p, measured.nfe, measured.decided)

    tasks = (answer_to(index, image) for index, image in enumerate(images))
    return _as_given(one, _in_order(together(model, tasks, batch_size=batch_size)))


def score(
    model: Model,
    images,
    captions: Sequence[str],
    *,
    n_samples: int = 100,
    levels: tuple[float, float] = (0.0, 1.0),
    noise: str = "independent",
    normalize: bool = False,
    loss: str = "l2",
    seed: int = 0,
    batch_size: int = 32,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Mean error of every image under every caption, at points that all of them share; smaller is better.

    The points are `n_samples` levels, spread evenly over these shares of the schedule, each with its own noise, as in
    run_winoground.py; `noise` may be "antithetic" too. `normalize`: less the image's error under the empty caption,
    which makes the errors of different images comparable; `value_range` as in `classify`. -> [images, captions] float64
    """
    if not isinstance(captions, Iterable) or isinstance(captions, str | Mapping):
        raise InputError("captions", f"a {type(captions).__name__}, wanted a list of texts")
    _, texts, _ = _classes(model, captions, least=1)
    _one_of("loss", loss, LOSSES)
    if normalize and not isinstance(texts[0], str):
        raise InputError("normalize", "is for captions, a class id has no empty one")
    _numbers(Integral, n_samples=n_samples, seed=seed, batch_size=batch_size)
    usable = _levels(levels, len(model.process))
    if not 1 <= n_samples <= len(usable):
        raise InputError(f"n_samples {n_samples}", f"must be in 1..{len(usable)}, the noise levels")
    pairs = _antithetic(noise)
    points, ends, start = staged(usable, [n_samples], [1], pairs=pairs)
    arms = np.arange(len(texts) + normalize)
    conditions = model.conditions(texts + [""] * normalize)
    rows, signs = draws(points, ends, 1, randomize=True, antithetic=pairs)

    def errors_of(index: int, image: Image.Image):
        x = _latent(model, image)  # [c, h, w]
        shared = ImageNoise(seed, 0, tuple(x.shape))  # the same for all images
        measured = yield from search_image(x, conditions, arms, start, points, rows, shared, loss=loss, signs=signs)
        errors = class_errors(measured.record(), arms, loss)[0]
        return index, errors[:-1] - errors[-1] if normalize else errors

    _, images = _images(images, value_range)
    tasks = (errors_of(index, image) for index, image in enumerate(images))
    found = list(_in_order(together(model, tasks, batch_size=batch_size)))
    return np.array(found).reshape(len(found), len(texts))


# ---- what may be given ----


def _one_of(name: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise InputError(f"{name} {given!r}", f"wanted {' or '.join(known)}")


def _antithetic(noise: str) -> bool:
    _one_of("noise", noise, NOISES)
    return noise == "antithetic"


def _numbers(kind: type, **given) -> None:
    for name, value in given.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"{name} {value!r:.60}", f"wanted {'an integer' if kind is Integral else 'a number'}")
    for name, least in {"seed": 0, "batch_size": 1}.items():
        if given.get(name, least) < least:
            raise InputError(f"{name} {given[name]}", f"must be at least {least}")


def _integers(name: str, given) -> list[int]:
    numbers = list(given) if isinstance(given, Iterable) else []
    if not numbers or not all(isinstance(each, Integral) for each in numbers):
        raise InputError(f"{name} {given!r:.60}", "wanted a list of integers")
    return [int(each) for each in numbers]


def _classes(model: Model, given, least: int = 2) -> tuple[list[str], list, np.ndarray]:
    """Names [K], what the network is given for each arm, and the class of each arm [arms]."""
    if not isinstance(model, Model):
        raise InputError("model", f"a {type(model).__name__}, wanted what load_model gives, as of load_model('digits')")
    if not isinstance(given, Path | Iterable):
        raise InputError("prompts", f"a {type(given).__name__}, wanted a list, a dict or a .csv")
    if isinstance(given, str | Path):
        if Path(given).suffix != ".csv":
            raise InputError(f"prompts {str(given)!r}", "one text is no choice; wanted a list, a dict or a .csv")
        prompts = read_prompts(given)
        _, first, arm_class = np.unique(prompts.classes, return_index=True, return_inverse=True)
        names, texts = [prompts.names[k] for k in first], prompts.texts
    elif isinstance(given, Mapping):
        several = [v if isinstance(v, list | tuple) else [v] for v in given.values()]
        names, texts = [str(key) for key in given], [text for each in several for text in each]
        if empty := [name for name, each in zip(names, several, strict=True) if not each]:
            raise InputError("prompts", f"class {empty[0]!r} has none")
        arm_class = np.repeat(np.arange(len(names)), [len(each) for each in several])
    else:
        texts = given.tolist() if isinstance(given, np.ndarray | Tensor) else list(given)
        names, arm_class = [str(text) for text in texts], np.arange(len(texts))
    if len(names) < least:
        raise InputError("prompts", f"{len(names)} of them, wanted at least {least}")
    kind, wanted = (str, "texts") if model.told == "text" else (int, "class ids, as integers")
    if wrong := [text for text in texts if not isinstance(text, kind) or isinstance(text, bool)]:
        raise InputError("prompts", f"{wrong[0]!r:.60} among them; this model takes {wanted}")
    if model.told == "class" and (wrong := [k for k in texts if not 0 <= k < model.classes]):
        raise InputError("prompts", f"class id {wrong[0]}; this model knows 0..{model.classes - 1}")
    for token in model.tokens:
        if not any(token in text for text in texts):
            warnings.warn(f"embeddings: no prompt uses the token {token!r}", InputWarning, stacklevel=3)
    return names, texts, arm_class


def _warn_of_equals(names: list[str], texts: list, arm_class: np.ndarray) -> None:
    arms = Prompts(texts, [names[k] for k in arm_class], arm_class.tolist())
    for text, alike in duplicates(arms):
        told = f"prompts: {text!r} stands for {len(alike)} classes, which cannot be told apart"
        warnings.warn(told, InputWarning, stacklevel=3)
    if isinstance(texts[0], str):
        for alike in near_duplicates(arms):
            warnings.warn(f"prompts: {alike}", InputWarning, stacklevel=3)


def _weights(given, T: int) -> np.ndarray:
    """What an error counts at each level, mean 1. [T]"""
    if given is None or isinstance(given, str | Path):
        return read_weights(given if given is None else Path(given), T)
    try:
        weight = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"weights {given!r:.60}", f"wanted [{T}] numbers, or the path of a csv") from None
    if weight.shape != (T,) or not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
        raise InputError(f"weights {list(weight.shape)}", f"wanted [{T}], numbers from 0 up, not all 0")
    return weight / weight.mean()


def _levels(given: tuple[float, float], T: int) -> np.ndarray:
    pair = list(given) if isinstance(given, Iterable) else []
    low, high = pair if len(pair) == 2 and all(isinstance(each, Real) for each in pair) else (1, 0)
    if not 0 <= low < high <= 1 or len(usable := band(low, high, T)) < 2:
        raise InputError(f"levels {given!r:.60}", f"wanted a pair of shares of the {T} noise levels, such as {MIDDLE}")
    return usable


Searched = tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], Search]]


def _race(arms: np.ndarray, usable: np.ndarray, z: float, most: int, budget: float, *, pairs: bool) -> Searched:
    """The levels of the points, in the order of measurement, where their stages end, and what starts a race."""
    if not z > 0:
        raise InputError(f"z {z!r}", "must be greater than 0")
    if most < 2:
        raise InputError(f"max_samples {most}", "must be at least 2")
    if budget < 2 * arms.sum():
        raise InputError(f"budget {budget}", f"the first look alone takes {2 * arms.sum()} NFE, two of each prompt")
    points, start = raced(usable, arms, z, min(most, len(usable)), budget, pairs=pairs)
    return points, np.array([len(points)]), start


def _halving(K: int, usable: np.ndarray, to_keep, n_samples, *, pairs: bool) -> Searched:
    """As _race, of the stages of a halving."""
    if to_keep is None or n_samples is None:
        raise InputError('search="halving"', "wanted to_keep and n_samples, as in to_keep=[5, 1], n_samples=[50, 500]")
    to_keep, n_samples = _integers("to_keep", to_keep), _integers("n_samples", n_samples)
    check_schedule(K, n_samples, to_keep, len(usable))
    return staged(usable, n_samples, to_keep, pairs=pairs)


def _among(index: int, given: Sequence[int] | None, K: int) -> np.ndarray:
    """The classes that compete for an image, ascending."""
    if given is None:
        raise InputError("candidates", f"none for image {index}")
    among = np.unique(np.asarray(given))
    if among.dtype.kind not in "iu" or len(among) < 2 or among[0] < 0 or among[-1] >= K:
        raise InputError(f"candidates of image {index}", f"{given!r:.60}, wanted two or more numbers in 0..{K - 1}")
    return among


def _images(given, value_range) -> tuple[bool | None, Iterator[Image.Image]]:
    """Whether it is one image (None: a stream of them), and all of them as RGB."""
    span = check_range(value_range)
    if isinstance(given, str | os.PathLike | Image.Image):
        return True, iter([_rgb(given, span)])
    if isinstance(given, np.ndarray | Tensor):
        if given.ndim == 4:
            return False, (_rgb(each, span) for each in given)
        return True, iter([_rgb(given, span)])
    if not isinstance(given, Iterable):
        raise InputError("images", f"a {type(given).__name__}, wanted a path, a PIL image, an array or several of them")
    return (False if isinstance(given, Sequence) else None), (_rgb(each, span) for each in given)


def _rgb(given, span: Range | None = None) -> Image.Image:
    """One image as 8-bit RGB; `span`: black and white, if it has more than 8 bits."""
    ranges = {} if span is None else dict.fromkeys(KINDS, span)
    if isinstance(given, Image.Image):
        try:
            return to_rgb(given, ranges)
        except ValueError as error:
            raise InputError("an image", error) from None
    if isinstance(given, str | os.PathLike):
        return open_rgb(Path(given).expanduser(), ranges=ranges)
    if not isinstance(given, np.ndarray | Tensor):
        raise InputError(f"an image, a {type(given).__name__}", "wanted a path, a PIL image, an array or a tensor")
    array = given.detach().cpu().float().numpy() if isinstance(given, Tensor) and given.is_floating_point() else given
    array = np.asarray(array.cpu() if isinstance(array, Tensor) else array)
    shape = list(array.shape)
    if isinstance(given, Tensor) and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        wanted = "[1 or 3, h, w]" if isinstance(given, Tensor) else "[h, w] or [h, w, 1, 3 or 4]"
        raise InputError(f"an image {shape}", f"wanted {wanted}")
    if span is not None and array.dtype != np.uint8:
        array = to_bytes(array, span)
    if array.dtype.kind == "f":
        if not ((array >= 0) & (array <= 1)).all():
            raise InputError(
                f"an image of floats from {array.min():g} to {array.max():g}", "wanted 0..1, or bytes, or value_range"
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"an image of {array.dtype}", "wanted uint8, floats in 0..1, or value_range")
    return to_rgb(Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array))


def _latent(model: Model, image: Image.Image) -> Tensor:
    """[c, h, w]"""
    with exact_float32():  # torchvision makes pixels of torch's default dtype, which is the caller's
        return model.encode(crop(image, model.image_size, "bicubic")[None])[0]


def _in_order(results: Iterable[tuple[int, object]]) -> Iterator:
    """What came out for images 0, 1, ..., as soon as all before it did."""
    early, wanted = {}, 0
    for index, result in results:
        early[index] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def _as_given(one: bool | None, answers: Iterator[Answer]) -> Answer | list[Answer] | Iterator[Answer]:
    return next(answers) if one else answers if one is None else list(answers)
