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
from diffusion.core.image import Measured, Question, search_image
from diffusion.core.noise import ImageNoise
from diffusion.core.schedule import Points, Schedule, halving_schedule, race_schedule
from diffusion.core.search import Search, band, spread_sequence
from diffusion.data.depth import KINDS, Range, check_range, to_bytes
from diffusion.data.images import crop, open_rgb, to_rgb
from diffusion.data.prompts import Prompts, duplicates, near_duplicates, read_level_weights, read_prompts
from diffusion.evaluate.points import check_halving, check_race
from diffusion.models.loading import Model
from diffusion.settings import exact_float32
from diffusion.stats.calibration import probabilities
from diffusion.stats.metrics import class_errors, excess


@dataclass(frozen=True)
class Answer:
    """The class of one image, and what was measured. K classes, in the order of the prompts.

    `levels` and `noise` are numbers here, for each point; the arguments of `classify` with these names are a pair of
    shares of the schedule, and a kind of noise.
    """

    best: int  # which of the classes
    name: str  # of that class
    names: list[str]  # of all K
    scores: np.ndarray  # [K] mean error less the best's, over the points that both were measured on; inf: not measured
    probabilities: np.ndarray | None  # [K], if a temperature was passed
    nfe: int  # network evaluations spent
    decided: bool  # False if the budget ended before the others were clearly worse, or another is exactly as good
    errors: np.ndarray  # [nfe] of the deciding loss: those of the first prompt, in the order of its points, and so on
    counts: np.ndarray  # [prompts] at how many points, from the first on, each prompt was measured
    levels: np.ndarray  # [points] the level of each point, 0 (almost clean) to T - 1 (almost noise); no shares
    noise: np.ndarray  # [points] which sample each point takes, a row of core.noise.ImageNoise; no sample itself
    signs: np.ndarray  # [points] 1 or -1, the factor of that sample

    def errors_of(self, prompt: int) -> np.ndarray:
        """The errors of a prompt, by its number, at the points it was measured on, not weighted. [counts[prompt]]

        A negative number counts from the end, as in a list; IndexError if there is no such prompt.
        """
        number = range(len(self.counts))[prompt]
        end = self.counts[: number + 1].sum()
        return self.errors[end - self.counts[number] : end]


def classify(
    model: Model,
    images,
    prompts: Sequence[str] | Sequence[int] | Mapping[str, object] | str | Path,
    *,
    loss: str = "l2",
    search: str | Callable[[int], Search] = "race",
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
    prompt,classname[,classidx]. For a class-conditional model, class ids in place of texts. Options are those of
    eval_prob_adaptive.py. `search` is "race" (with `z`, `max_samples`, `budget`), "halving" (with `to_keep`,
    `n_samples`), or a function from the number of classes to a search (see core/search.py) over at most `max_samples`
    points. `levels` are two shares of the schedule, 0 to 1, by default MIDDLE for a race, else all; the `levels` of an
    Answer are numbers between these shares of T. `noise` is the kind of it, "antithetic", the default of a race, or
    "independent", and `seed` chooses the samples; the `noise` of an Answer is the number of each point's sample.
    `weights` [T] or a csv, which are divided by their mean; `candidates`: the classes that compete, as numbers in
    0..K-1, for one image, or for each of several (the scores of the others are infinite); `temperature` as
    scripts/calibrate.py fits it; `value_range`: the values of images of more than 8 bits that are black and white, by
    default as each file says. Image k of these has the noise of image k of a data set. Warns of equal prompts.
    """
    names, texts, arm_class = _classes(model, prompts)
    K = len(names)
    _warn_of_equals(names, texts, arm_class)
    _one_of("loss", loss, LOSSES)
    if not callable(search):
        _one_of("search", search, ("race", "halving"))
    _integer(seed=seed, batch_size=batch_size, max_samples=max_samples)
    _number(z=z, budget=budget)
    _at_least(seed, 0, "seed")
    _at_least(batch_size, 1, "batch_size")
    if temperature is not None:
        _number(temperature=temperature)
        if not 0 < temperature < np.inf:
            raise InputError(f"temperature {temperature!r}", "must be a number greater than 0")
    if candidates is not None and not isinstance(candidates, Iterable):
        raise InputError(f"candidates {candidates!r:.60}", "wanted a list of numbers, or one for each image")

    level_weights = _weights(weights, len(model.process))
    if levels is None and search == "race":
        levels = MIDDLE
    elif levels is None:
        levels = (0.0, 1.0)
    usable = _usable_levels(levels, len(model.process))
    usable = usable[level_weights[usable] > 0]
    if len(usable) < 2:
        raise InputError("weights", "fewer than 2 of the noise levels that are measured have one above 0")
    if noise is None:
        noise = usual_noise(search, None)
    pairs = _antithetic(noise)
    arms_per_class = np.bincount(arm_class)
    if callable(search):
        if pairs:
            raise InputError('noise "antithetic"', 'wanted "independent" for a search of your own')
        schedule = _schedule_of(search, usable, max_samples, arms_per_class)
    elif search == "race":
        if to_keep is not None or n_samples is not None:
            raise InputError("to_keep and n_samples", 'are for search="halving"')
        schedule = _race(arms_per_class, usable, z, max_samples, budget, pairs=pairs)
    else:
        schedule = _halving(arms_per_class, usable, to_keep, n_samples, pairs=pairs)
    points = Points.of(schedule, level_weights)

    conditions = model.conditions(texts)
    one, images = _images(images, value_range)
    chosen = None
    if candidates is not None:
        chosen = iter([candidates] if one else candidates)

    def answer_to(index: int, image: Image.Image):
        among = None
        if chosen is not None:
            among = _among(index, next(chosen, None), K)
        x = _latent(model, image)  # [c, h, w]
        noise = ImageNoise(seed, index, tuple(x.shape))
        question = Question(x, conditions, arm_class, schedule.start, noise, among)
        measured = yield from search_image(question, points, loss=loss)
        return index, _answer(measured, names, arm_class, loss, temperature)

    tasks = (answer_to(index, image) for index, image in enumerate(images))
    return _in_shape(one, _in_order(together(model, tasks, batch_size=batch_size)))


def _answer(
    measured: Measured, names: list[str], arm_class: np.ndarray, loss: str, temperature: float | None
) -> Answer:
    scores = excess(measured.record(), arm_class, measured.winner, loss)
    p = None
    if temperature is not None:
        p = probabilities(-np.maximum(scores, 0), temperature)
    signs = np.ones(len(measured.levels), dtype=np.int8)
    if measured.signs is not None:
        signs = measured.signs.numpy()
    return Answer(
        measured.winner,
        names[measured.winner],
        names,
        scores,
        p,
        measured.nfe,
        measured.decided,
        measured.errors[:, LOSSES.index(loss)].numpy(),
        measured.counts.numpy(),
        measured.levels.numpy(),
        measured.draws.numpy(),
        signs,
    )


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
    _integer(n_samples=n_samples, seed=seed, batch_size=batch_size)
    _at_least(seed, 0, "seed")
    _at_least(batch_size, 1, "batch_size")
    T = len(model.process)
    usable = _usable_levels(levels, T)
    if not 1 <= n_samples <= len(usable):
        raise InputError(f"n_samples {n_samples}", f"must be in 1..{len(usable)}, the noise levels")

    arm_class = np.arange(len(texts) + normalize)
    one_each = np.ones(len(arm_class), dtype=int)
    schedule = halving_schedule(usable, [n_samples], [1], one_each, pairs=_antithetic(noise))
    points = Points.of(schedule, np.ones(T))
    conditions = model.conditions(texts + [""] * normalize)

    def errors_of(index: int, image: Image.Image):
        x = _latent(model, image)  # [c, h, w]
        shared = ImageNoise(seed, 0, tuple(x.shape))  # the same for all images
        question = Question(x, conditions, arm_class, schedule.start, shared)
        measured = yield from search_image(question, points, loss=loss)
        errors, _ = class_errors(measured.record(), arm_class, loss)
        if normalize:
            errors = errors[:-1] - errors[-1]
        return index, errors

    _, images = _images(images, value_range)
    tasks = (errors_of(index, image) for index, image in enumerate(images))
    found = list(_in_order(together(model, tasks, batch_size=batch_size)))
    return np.array(found).reshape(len(found), len(texts))


# ---- checks of arguments ----


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name} {value!r}", f"wanted {' or '.join(allowed)}")


def _antithetic(noise: str) -> bool:
    _one_of("noise", noise, NOISES)
    return noise == "antithetic"


def _integer(**arguments) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InputError(f"{name} {value!r:.60}", "wanted an integer")


def _number(**arguments) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise InputError(f"{name} {value!r:.60}", "wanted a number")


def _at_least(value: float, least: int, name: str) -> None:
    if value < least:
        raise InputError(f"{name} {value}", f"must be at least {least}")


def _integers(name: str, values) -> list[int]:
    if isinstance(values, Iterable):
        numbers = list(values)
        if numbers and all(isinstance(each, Integral) for each in numbers):
            return [int(each) for each in numbers]
    raise InputError(f"{name} {values!r:.60}", "wanted a list of integers")


def _classes(model: Model, prompts, least: int = 2) -> tuple[list[str], list, np.ndarray]:
    """Names [K], the prompt or class id of each arm [arms], and the class of each arm [arms]."""
    if not isinstance(model, Model):
        found = f"a {type(model).__name__}"
        raise InputError("model", f"{found}, wanted what load_model returns, as of load_model('digits')")
    if not isinstance(prompts, Path | Iterable):
        raise InputError("prompts", f"a {type(prompts).__name__}, wanted a list, a dict or a .csv")
    if isinstance(prompts, str | Path):
        names, texts, arm_class = _of_csv(prompts)
    elif isinstance(prompts, Mapping):
        names, texts, arm_class = _of_dict(prompts)
    else:
        if isinstance(prompts, np.ndarray | Tensor):
            prompts = prompts.tolist()  # numbers of Python
        texts = list(prompts)
        names, arm_class = [str(text) for text in texts], np.arange(len(texts))
    if len(names) < least:
        raise InputError("prompts", f"{len(names)} of them, wanted at least {least}")
    _check_arms(model, texts)
    return names, texts, arm_class


def _of_csv(path: str | Path) -> tuple[list[str], list, np.ndarray]:
    if Path(path).suffix != ".csv":
        raise InputError(f"prompts {str(path)!r}", "one text is no choice; wanted a list, a dict or a .csv")
    prompts = read_prompts(path)
    _, first, arm_class = np.unique(prompts.classes, return_index=True, return_inverse=True)
    return [prompts.names[k] for k in first], prompts.texts, arm_class


def _of_dict(prompts: Mapping) -> tuple[list[str], list, np.ndarray]:
    names = [str(key) for key in prompts]
    texts, counts = [], []
    for name, value in zip(names, prompts.values(), strict=True):
        several = value if isinstance(value, list | tuple) else [value]
        if not several:
            raise InputError("prompts", f"class {name!r} has none")
        texts += several
        counts.append(len(several))
    return names, texts, np.repeat(np.arange(len(names)), counts)


def _check_arms(model: Model, texts: list) -> None:
    """InputError: texts for a model of class ids, ids for one of texts. Warns of added tokens that no text uses."""
    by_text = model.conditioned_on == "text"
    kind, wanted = int, "class ids, as integers"
    if by_text:
        kind, wanted = str, "texts"
    for text in texts:
        if not isinstance(text, kind) or isinstance(text, bool):
            raise InputError("prompts", f"{text!r:.60} among them; this model takes {wanted}")
    for text in texts:
        if not by_text and not 0 <= text < model.classes:
            raise InputError("prompts", f"class id {text}; this model has 0..{model.classes - 1}")
    for token in model.tokens:
        if not any(token in text for text in texts):
            warnings.warn(f"embeddings: no prompt uses the token {token!r}", InputWarning, stacklevel=4)


def _warn_of_equals(names: list[str], texts: list, arm_class: np.ndarray) -> None:
    prompts = Prompts(texts, [names[k] for k in arm_class], arm_class.tolist())
    for text, alike in duplicates(prompts):
        equal = f"prompts: {text!r} stands for {len(alike)} classes, which cannot be told apart"
        warnings.warn(equal, InputWarning, stacklevel=3)
    if isinstance(texts[0], str):
        for alike in near_duplicates(prompts):
            warnings.warn(f"prompts: {alike}", InputWarning, stacklevel=3)


def _weights(weights, T: int) -> np.ndarray:
    """The factor of an error at each level, mean 1. [T]"""
    if weights is None:
        return read_level_weights(None, T)
    if isinstance(weights, str | Path):
        return read_level_weights(Path(weights), T)
    try:
        factors = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"weights {weights!r:.60}", f"wanted [{T}] numbers, or the path of a csv") from None
    if factors.shape != (T,) or not (factors >= 0).all() or not 0 < factors.sum() < np.inf:
        raise InputError(f"weights {list(factors.shape)}", f"wanted [{T}], numbers from 0 up, not all 0")
    return factors / factors.mean()


def _usable_levels(level_range: tuple[float, float], T: int) -> np.ndarray:
    """The levels between two shares of the noise levels, ascending."""
    try:
        low, high = level_range
        return band(low, high, T)
    except (TypeError, ValueError):
        wanted = f"wanted a pair of shares of the {T} noise levels, such as {MIDDLE}"
        raise InputError(f"levels {level_range!r:.60}", wanted) from None


def _race(
    arms_per_class: np.ndarray, usable: np.ndarray, z: float, most: int, budget: float, *, pairs: bool
) -> Schedule:
    n_levels = min(most, len(usable))
    check_race(z, n_levels, usable, budget, int(arms_per_class.sum()), dashes="")
    return race_schedule(usable, arms_per_class, z, n_levels, budget=budget, pairs=pairs)


def _halving(arms_per_class: np.ndarray, usable: np.ndarray, to_keep, n_samples, *, pairs: bool) -> Schedule:
    if to_keep is None or n_samples is None:
        raise InputError('search="halving"', "wanted to_keep and n_samples, as in to_keep=[5, 1], n_samples=[50, 500]")
    to_keep, n_samples = _integers("to_keep", to_keep), _integers("n_samples", n_samples)
    check_halving(len(arms_per_class), n_samples, to_keep, len(usable), dashes="")
    return halving_schedule(usable, n_samples, to_keep, arms_per_class, pairs=pairs)


def _schedule_of(
    search: Callable[[int], Search], usable: np.ndarray, most: int, arms_per_class: np.ndarray
) -> Schedule:
    """A search of the caller's, in the order of search.spread_sequence."""
    _at_least(most, 1, "max_samples")
    levels = usable[spread_sequence(min(most, len(usable)), len(usable))]
    most_nfe = int(arms_per_class.sum()) * len(levels)
    return Schedule(levels, np.array([len(levels)]), lambda among: search(len(among)), most_nfe)


def _among(index: int, candidates: Sequence[int] | None, K: int) -> np.ndarray:
    """The classes that compete for an image, ascending."""
    if candidates is None:
        raise InputError("candidates", f"none for image {index}")
    among = np.unique(np.asarray(candidates))
    if among.dtype.kind not in "iu" or len(among) < 2 or among[0] < 0 or among[-1] >= K:
        found = f"{candidates!r:.60}, wanted two or more numbers in 0..{K - 1}"
        raise InputError(f"candidates of image {index}", found)
    return among


def _images(images, value_range) -> tuple[bool | None, Iterator[Image.Image]]:
    """Whether it is one image (None: a stream of them), and all of them as RGB."""
    span = check_range(value_range)
    if isinstance(images, str | os.PathLike | Image.Image):
        return True, iter([_rgb(images, span)])
    if isinstance(images, np.ndarray | Tensor):
        if images.ndim == 4:
            return False, (_rgb(each, span) for each in images)
        return True, iter([_rgb(images, span)])
    if not isinstance(images, Iterable):
        found = f"a {type(images).__name__}"
        raise InputError("images", f"{found}, wanted a path, a PIL image, an array or several of them")
    one = False if isinstance(images, Sequence) else None
    return one, (_rgb(each, span) for each in images)


def _rgb(image, span: Range | None) -> Image.Image:
    """One image as 8-bit RGB; `span`: black and white, if it has more than 8 bits."""
    ranges = {}
    if span is not None:
        ranges = dict.fromkeys(KINDS, span)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image, ranges)
        except ValueError as error:
            raise InputError("an image", error) from None
    if isinstance(image, str | os.PathLike):
        return open_rgb(Path(image).expanduser(), ranges=ranges)
    if isinstance(image, Tensor):
        array, wanted = _numpy(image), "[1 or 3, h, w]"
    elif isinstance(image, np.ndarray):
        array, wanted = image, "[h, w] or [h, w, 1, 3 or 4]"
    else:
        raise InputError(f"an image, a {type(image).__name__}", "wanted a path, a PIL image, an array or a tensor")
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise InputError(f"an image {list(image.shape)}", f"wanted {wanted}")
    return _rgb_of_array(array, span)


def _numpy(image: Tensor) -> np.ndarray:
    """An image [c, h, w] as an array [h, w, c]; other shapes stay."""
    tensor = image.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    if tensor.ndim == 3:
        tensor = tensor.movedim(0, -1)
    return tensor.numpy()


def _rgb_of_array(array: np.ndarray, span: Range | None) -> Image.Image:
    """array [h, w] or [h, w, 1, 3 or 4]"""
    if span is not None and array.dtype != np.uint8:
        array = to_bytes(array, span)
    if array.dtype.kind == "f":
        if not ((array >= 0) & (array <= 1)).all():
            found = f"an image of floats from {array.min():g} to {array.max():g}"
            raise InputError(found, "wanted 0..1, or bytes, or value_range")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"an image of {array.dtype}", "wanted uint8, floats in 0..1, or value_range")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return to_rgb(Image.fromarray(array))


def _latent(model: Model, image: Image.Image) -> Tensor:
    """[c, h, w]"""
    with exact_float32():  # torchvision makes pixels of torch's default dtype, which is the caller's
        return model.encode(crop(image, model.image_size, "bicubic")[None])[0]


def _in_order(results: Iterable[tuple[int, object]]) -> Iterator:
    """The results of images 0, 1, ..., each as soon as all before it are there."""
    early, wanted = {}, 0
    for index, result in results:
        early[index] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def _in_shape(one: bool | None, answers: Iterator[Answer]) -> Answer | list[Answer] | Iterator[Answer]:
    if one is None:
        return answers
    if one:
        return next(answers)
    return list(answers)
