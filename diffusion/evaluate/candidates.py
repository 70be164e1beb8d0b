"""Which classes of an image compete: those of a first stage that costs little, or those that the data's table says.

A stage is what it adds to run.json, its part of the folder's name, and `load(dtype, device)`. What that loads is
`pick(index, image)`: which rows of the ascending class ids compete, the likeliest first, and what the record says of
them.
"""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion import InputError, InputWarning
from diffusion.data.datasets import Dataset
from diffusion.data.prompts import Prompts
from diffusion.io.atomic import sha256
from diffusion.io.reading import is_id, read_npy
from diffusion.io.wording import few, like
from diffusion.models.clip import clip_weights, find_clip, load_clip
from diffusion.paths import expanded
from diffusion.runs import results
from diffusion.runs.naming import clip_tag, tag
from diffusion.stats.metrics import class_errors, class_means, excess, rescore

Stage = tuple[dict, str, Callable]


def first_stage(
    K: int,
    source: str | None,
    pretrained: str | None,
    dataset: Dataset,
    mine: list[int],
    class_ids: np.ndarray,
    prompts: Callable[[], Prompts],
) -> Stage:
    """The stage that --candidates K, --candidates_from and --pretrained ask for.

    class_ids [classes] ascending of those that compete, which prompts() has too; `mine` of the data set's images are
    asked for. InputError where it cannot rank them.
    """
    if not 2 <= K <= len(class_ids):
        raise InputError(f"--candidates {K}", f"must be in 2..{len(class_ids)}, the classes")
    if source is None:
        wanted = "wanted --candidates_from too, clip:NAME, a npy file or the folder of a run"
        raise InputError(f"--candidates {K}", wanted)
    kind, _, name = source.partition(":")
    by_name = kind == "clip" and name
    if pretrained is not None and not by_name:
        raise InputError("--pretrained", "is for --candidates_from clip:NAME")
    if by_name:
        told = prompts()
        if (unknown := np.setxor1d(told.classes, class_ids)).size:
            differ = f"the prompts and the model differ in the classes {unknown[:10].tolist()}"
            raise InputError(f"--candidates {K}", differ)
        options, of, load = by_clip(name, pretrained, told, K)
    elif os.path.isdir(expanded(source)):
        options, of, load = by_run(expanded(source), dataset, K, class_ids, mine)
    else:
        options, of, load = by_scores(expanded(source), K, len(dataset), len(class_ids))

    return {"candidates": K, "candidates_from": source} | options, f"{K}of_{of}", _named(load, class_ids)


def _named(load: Callable, class_ids: np.ndarray) -> Callable:
    """A stage's `load` whose records name the candidates, of one that gives their rows alone."""

    def load_named(dtype: str, device) -> Callable:
        pick = load(dtype, device)

        def named(index: int, image) -> tuple[np.ndarray, dict]:
            rows, more = pick(index, image)
            return rows, {"candidates": class_ids[rows].tolist()} | more

        return named

    return load_named


def by_column(dataset: Dataset, class_ids: np.ndarray, arms: list[tuple]) -> Stage:
    """From the column `candidates` of a table of own data; of empty cells, which are all classes, it warns.

    class_ids as in first_stage; arms as in run.json: (what is told, name, class id). Whole numbers are class ids,
    unless labels are names. InputError names the line and the class that does not compete.
    """
    named = [(name, class_id) for _, name, class_id in arms] + [(name, k) for k, name in enumerate(dataset.classes)]
    if not dataset.classes:
        named = [(name, k) for name, k in named if not is_id(name)] + [(str(k), k) for k in class_ids.tolist()]
    ids: dict[str, set[int]] = {}
    for name, class_id in named:
        ids.setdefault(name, set()).add(class_id)

    def id_of(line: int, name: str) -> int:
        known = ids.get(name if dataset.classes or not is_id(name) else str(int(name)), ())
        if len(known) == 1:
            return next(iter(known))
        none = f"none of the classes that compete{like(name, ids) or f': {few(ids, 10)}'}"
        why = "the name of several classes" if known else none
        raise InputError(f"{dataset.path}, line {line}", f"candidates has {name!r}, {why}")

    of = [[id_of(line, name) for name in names] or class_ids.tolist() for line, names in dataset.candidates]
    if empty := [line for line, names in dataset.candidates if not names]:
        some = f"{len(empty)} of {len(of)} images have no candidates (line {few(empty, 1)})"
        warnings.warn(f"{dataset.path}: {some}: all {len(class_ids)} classes compete", InputWarning, stacklevel=2)
    told = {"candidates": max(map(len, of)), "candidates_from": f"column, sha256 {sha256(repr(of))}"}

    def pick(index: int, _) -> tuple[np.ndarray, dict]:
        return np.searchsorted(class_ids, of[index]), {}

    return told, "candidates", _named(lambda *_: pick, class_ids)


def best(scores: np.ndarray, K: int) -> np.ndarray:
    """The K classes with the highest scores [classes], the best first; of equal ones the smaller. [K]"""
    return np.argsort(-scores, kind="stable")[:K]


def by_scores(path: Path, K: int, images: int, classes: int) -> Stage:
    """From a npy file of scores of each image of a data set, higher is better. [images, classes]"""
    given = f"--candidates_from {path}"
    scores = read_npy(path, given, "; else wanted clip:NAME or the folder of a run")
    if scores.shape != (images, classes) or scores.dtype.kind not in "iuf":
        found = f"holds {scores.dtype} {list(scores.shape)}"
        wanted = f"wanted numbers [images, classes] = {[images, classes]}, the classes in ascending order of their ids"
        raise InputError(given, f"{found}, {wanted}")
    if np.isnan(scores).any():
        raise InputError(given, f"nan at {np.argwhere(np.isnan(scores))[0].tolist()}")
    scores = scores.astype(np.float64)
    told = {"candidates_from": f"npy, sha256 {sha256(scores.tobytes())}"}
    return told, tag(path.stem), lambda *_: lambda index, _: (best(scores[index], K), {})


def by_clip(name: str, pretrained: str | None, prompts: Prompts, K: int) -> Stage:
    """From the cosine similarities of an image and the prompts, of a class the mean over its own."""
    found, pretrained = find_clip("clip", name, pretrained, "--candidates_from clip:")
    arm_class = np.unique(prompts.classes, return_inverse=True)[1]

    def load(dtype: str, device) -> Callable:
        of_image, of_texts = load_clip(found, pretrained, dtype=dtype, device=device)
        texts = of_texts(prompts.texts)  # [arms, d]
        return lambda _, image: (best(class_means((texts @ of_image(image)).numpy(), arm_class), K), {})

    known = clip_weights(found, pretrained).get("weights of CLIP", pretrained)
    told = {"pretrained": known, "candidate_prompts": sha256(repr((prompts.texts, prompts.classes)))}
    return told, f"clip_{clip_tag(name)}", load


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

    class_ids [rows] and arm_class [arms] as results.competitors gives them; of several rows of a class the best counts.
    """
    difference = excess(record, arm_class, rescore(record, arm_class, loss), loss)
    points = class_errors(record, arm_class, loss)[1]
    order = np.lexsort((difference, -points))[: np.count_nonzero(points)]
    columns = np.unique(class_ids, return_inverse=True)[1][order]
    return columns[np.sort(np.unique(columns, return_index=True)[1])]


def by_run(path: Path, dataset: Dataset, K: int, class_ids: np.ndarray, mine: list[int]) -> Stage:
    """From a run on the same images; the record says what that, and those before it, had cost.

    Records are only looked at until they are asked for. InputError: a run on other images, or of other classes; one of
    `mine` whose record is not there, or not to be read, or has fewer than K classes: then the label may be among those
    that nobody measured.
    """
    try:
        inner = path / dataset.split
        run = results.read(inner if (inner / "run.json").exists() else path)
        for key, wanted in {"dataset": dataset.name, "split": dataset.split, "data": dataset.fingerprint}.items():
            if (found := run.options.get(key)) != wanted:
                other = f"a run on other images: {key} is {found!r:.90}, wanted {wanted!r:.90}"
                raise InputError(run.folder, other)
        if (unknown := np.setxor1d(run.class_ids, class_ids)).size:
            differ = f"its classes are not the same, they differ in the ids {unknown[:10].tolist()}"
            raise InputError(run.folder, differ)
        if lacking := {index: why for index in mine if (why := _lacks(run, index, K))}:
            missing = f"{len(lacking)} of {len(mine)} images have no record there that will do"
            raise InputError(run.folder, f"{missing}: {few(lacking, 5)} ({next(iter(lacking.values()))})")
    except InputError as error:
        raise InputError(f"--candidates_from {error.where}", error.problem) from None

    def pick(index: int, _) -> tuple[np.ndarray, dict]:
        record = results.record_of(run, index)
        nfe = record["nfe"] + record.get("first_nfe", 0)
        return last_dropped(record, run.class_ids, run.arm_class, run.loss)[:K], {"first_nfe": nfe}

    own = Path(os.path.abspath(run.folder))
    told = {"candidates_from": f"run, sha256 {sha256(json.dumps(run.options, sort_keys=True))}"}
    return told, f"run_{tag((own.parent if own.name == dataset.split else own).name)}", lambda *_: pick


def _lacks(run: results.Run, index: int, K: int) -> str:
    """Why K candidates of an image cannot be had from a run; else nothing."""
    if index not in run.done:
        return "no record"
    name = run.done[index].name
    try:
        counts = results.record_of(run, index)["counts"]
    except InputError as error:
        return str(error)
    measured = len(np.unique(run.class_ids[run.arm_class[counts.numpy() > 0]]))
    return "" if measured >= K else f"{name} has {measured} classes, wanted {K} and more"
