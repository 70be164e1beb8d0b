"""Which classes of an image compete: those that a cheap first stage ranks highest, or those of a column of the data.

The search then runs between these alone.
"""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

from diffusion import InputError, InputWarning
from diffusion.data.datasets import Dataset
from diffusion.data.prompts import Prompts
from diffusion.evaluate.config import RunConfig
from diffusion.io.atomic import sha256
from diffusion.io.reading import is_id, read_npy
from diffusion.io.wording import count, few, have, like
from diffusion.models.clip import clip_weights, find_clip, load_clip
from diffusion.paths import expanded
from diffusion.runs import newer, records, results
from diffusion.runs.differences import data_in_words
from diffusion.runs.naming import clip_tag, tag
from diffusion.stats.metrics import class_errors, class_means, excess, rescore


class FirstStage:
    """A ranking of classes that costs little. Subclasses have `rows`, and `prepare` if they load a model."""

    K: int  # classes that compete for an image, at most
    class_ids: np.ndarray  # [classes] ascending
    options: dict  # its part of run.json
    name: str  # its part of the folder's name

    def prepare(self, dtype: str, device: torch.device) -> None:
        """Load what is needed, before the first image."""

    def rows(self, index: int, image: Image) -> tuple[np.ndarray, dict]:
        """Rows of class_ids that compete for an image, the likeliest first, and more for its record."""
        raise NotImplementedError

    def pick(self, index: int, image: Image) -> dict:
        """The part of an image's record: `candidates`, class ids, the likeliest first, and what `rows` adds."""
        rows, more = self.rows(index, image)
        return {"candidates": self.class_ids[rows].tolist()} | more


def first_stage(
    config: RunConfig, dataset: Dataset, mine: list[int], table: list[tuple], prompts: Prompts | None
) -> FirstStage | None:
    """The stage that a column of the data or --candidates ask for; None: all classes compete.

    table: the arms as in run.json, (prompt or class id, name, class id). `mine` of the data set's images are to be
    classified. `prompts` are those of clip:NAME. InputError: it cannot rank the classes of these images.
    """
    class_ids = np.unique([class_id for *_, class_id in table])
    if dataset.candidates:
        return ByColumn(dataset, class_ids, table)
    if config.candidates is None:
        return None

    K, source = config.candidates, config.candidates_from
    if not 2 <= K <= len(class_ids):
        raise InputError(f"--candidates {K}", f"must be in 2..{len(class_ids)}, the classes")
    if source is None:
        wanted = "wanted --candidates_from too, clip:NAME, a npy file or the folder of a run"
        raise InputError(f"--candidates {K}", wanted)
    if config.pretrained is not None and not is_clip(source):
        raise InputError("--pretrained", "is for --candidates_from clip:NAME")

    if is_clip(source):
        return ByClip(config, prompts, class_ids)
    if os.path.isdir(expanded(source)):
        return ByRun(config, dataset, class_ids, mine)
    return ByScores(config, len(dataset), class_ids)


def is_clip(source: str | None) -> bool:
    """Whether --candidates_from names a CLIP."""
    kind, _, name = (source or "").partition(":")
    return kind == "clip" and bool(name)


class ByColumn(FirstStage):
    """The column `candidates` of a table of own data. Warns of empty cells, which mean all classes.

    class_ids and table as in first_stage. Whole numbers are class ids, unless labels are names. InputError names the
    line, and the class that does not compete.
    """

    def __init__(self, dataset: Dataset, class_ids: np.ndarray, table: list[tuple]):
        self.class_ids = class_ids
        ids = _ids_by_name(dataset, class_ids, table)
        self.candidates = []  # [images] class ids
        empty = []
        for line, names in dataset.candidates:
            listed = [_id_of(name, ids, dataset, line) for name in names]
            if not listed:
                empty.append(line)
            self.candidates.append(listed or class_ids.tolist())
        if empty:
            found = f"{len(empty)} of {have(len(self.candidates), 'image')} no candidates (line {few(empty, 1)})"
            warnings.warn(f"{dataset.path}: {found}: all {len(class_ids)} classes compete", InputWarning, stacklevel=3)

        self.K = max(map(len, self.candidates))
        self.name = "candidates"
        digest = sha256(repr(self.candidates))
        self.options = {"candidates": self.K, "candidates_from": f"column, sha256 {digest}"}

    def rows(self, index: int, image: Image) -> tuple[np.ndarray, dict]:
        return np.searchsorted(self.class_ids, self.candidates[index]), {}


def _ids_by_name(dataset: Dataset, class_ids: np.ndarray, table: list[tuple]) -> dict[str, set[int]]:
    """The class ids that each text in the column may mean."""
    pairs = [(name, class_id) for _, name, class_id in table]
    pairs += [(name, k) for k, name in enumerate(dataset.classes)]
    if not dataset.classes:
        pairs = [pair for pair in pairs if not is_id(pair[0])]
        pairs += [(str(k), k) for k in class_ids.tolist()]
    ids: dict[str, set[int]] = {}
    for name, class_id in pairs:
        ids.setdefault(name, set()).add(class_id)
    return ids


def _id_of(name: str, ids: dict[str, set[int]], dataset: Dataset, line: int) -> int:
    """The class id of a name in the column. InputError: none, or several."""
    key = name
    if not dataset.classes and is_id(name):
        key = str(int(name))
    meant = ids.get(key, set())
    if len(meant) == 1:
        return next(iter(meant))
    if meant:
        why = "the name of several classes"
    else:
        near = like(name, ids) or f": {few(ids, 10)}"
        why = f"none of the classes that compete{near}"
    raise InputError(f"{dataset.path}, line {line}", f"candidates has {name!r}, {why}")


def best(scores: np.ndarray, K: int) -> np.ndarray:
    """The K classes with the highest scores [classes], the best first; of equal ones the smaller. [K]"""
    return np.argsort(-scores, kind="stable")[:K]


class ByScores(FirstStage):
    """A npy file of scores [images, classes] of a data set, higher is better."""

    def __init__(self, config: RunConfig, n_images: int, class_ids: np.ndarray):
        path = expanded(config.candidates_from)
        where = f"--candidates_from {path}"
        scores = read_npy(path, where, "; else wanted clip:NAME or the folder of a run")
        wanted = n_images, len(class_ids)
        if scores.shape != wanted or scores.dtype.kind not in "iuf":
            found = f"holds {scores.dtype} {list(scores.shape)}"
            order = "the classes in ascending order of their ids"
            raise InputError(where, f"{found}, wanted numbers [images, classes] = {list(wanted)}, {order}")
        if np.isnan(scores).any():
            raise InputError(where, f"nan at {np.argwhere(np.isnan(scores))[0].tolist()}")

        self.scores = scores.astype(np.float64)
        self.K, self.class_ids = config.candidates, class_ids
        self.name = f"{self.K}of_{tag(path.stem)}"
        digest = sha256(self.scores.tobytes())
        self.options = {"candidates": self.K, "candidates_from": f"npy, sha256 {digest}"}

    def rows(self, index: int, image: Image) -> tuple[np.ndarray, dict]:
        return best(self.scores[index], self.K), {}


class ByClip(FirstStage):
    """The cosine similarities of an image and the prompts; for a class the mean over its own."""

    def __init__(self, config: RunConfig, prompts: Prompts, class_ids: np.ndarray):
        unknown = np.setxor1d(prompts.classes, class_ids)
        if unknown.size:
            differ = f"the prompts and the model differ in the classes {unknown[:10].tolist()}"
            raise InputError(f"--candidates {config.candidates}", differ)

        name = config.candidates_from.removeprefix("clip:")
        self.clip, self.pretrained = find_clip("clip", name, config.pretrained, "--candidates_from clip:")
        self.texts, self.arm_class = prompts.texts, np.unique(prompts.classes, return_inverse=True)[1]
        self.K, self.class_ids = config.candidates, class_ids
        self.name = f"{self.K}of_clip_{clip_tag(name)}"
        fingerprint = clip_weights(self.clip, self.pretrained).get("weights of CLIP", self.pretrained)
        self.options = {
            "candidates": self.K,
            "candidates_from": config.candidates_from,
            "pretrained": fingerprint,
            "candidate_prompts": sha256(repr((prompts.texts, prompts.classes))),
        }

    def prepare(self, dtype: str, device: torch.device) -> None:
        self._of_image, of_texts = load_clip(self.clip, self.pretrained, dtype=dtype, device=device)
        self._embeddings = of_texts(self.texts)  # [arms, d]

    def rows(self, index: int, image: Image) -> tuple[np.ndarray, dict]:
        similarities = (self._embeddings @ self._of_image(image)).numpy()  # [arms]
        return best(class_means(similarities, self.arm_class), self.K), {}


class ByRun(FirstStage):
    """A run on the same images; records note the cost of that run and of those before it.

    InputError: a run on other images, or of other classes; one of the images `mine` whose record is missing, cannot be
    read, or has fewer than K classes: its label may be among those that nobody measured.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, class_ids: np.ndarray, mine: list[int]):
        path = expanded(config.candidates_from)
        self.K, self.class_ids = config.candidates, class_ids
        inner = path / dataset.split
        try:
            self.run = results.read(inner if (inner / "run.json").exists() else path)
            self._check(dataset, mine)
            newer.warn(dataset.located, self.run.done)
        except InputError as error:
            raise InputError(f"--candidates_from {error.where}", error.problem) from None

        folder = Path(os.path.abspath(self.run.folder))
        if folder.name == dataset.split:
            folder = folder.parent
        self.name = f"{self.K}of_run_{tag(folder.name)}"
        digest = sha256(json.dumps(self.run.options, sort_keys=True))
        self.options = {"candidates": self.K, "candidates_from": f"run, sha256 {digest}"}

    def _check(self, dataset: Dataset, mine: list[int]) -> None:
        for key, wanted in {"dataset": dataset.name, "split": dataset.split, "data": dataset.fingerprint}.items():
            found = self.run.options.get(key)
            if found == wanted:
                continue
            if key == "data":
                there = records.images_of(self.run.done.values())
                other = data_in_words(found, wanted, there, dataset.named_images)
            else:
                other = f"{key} is {found!r:.90}, wanted {wanted!r:.90}"
            raise InputError(self.run.folder, f"a run on other images: {other}")
        unknown = np.setxor1d(self.run.class_ids, self.class_ids)
        if unknown.size:
            differ = f"its classes are not the same, they differ in the ids {unknown[:10].tolist()}"
            raise InputError(self.run.folder, differ)
        lacking = {index: self._lack(index) for index in mine}
        lacking = {index: why for index, why in lacking.items() if why}
        if lacking:
            missing = f"{len(lacking)} of {have(len(mine), 'image')} no record there that will do"
            raise InputError(self.run.folder, f"{missing}: {few(lacking, 5)} ({next(iter(lacking.values()))})")

    def _lack(self, index: int) -> str:
        """Why the run has no K candidates of an image; else nothing."""
        if index not in self.run.done:
            return "no record"
        try:
            counts = results.record_of(self.run, index)["counts"]
        except InputError as error:
            return str(error)
        n_classes = len(np.unique(self.run.class_ids[self.run.arm_class[counts.numpy() > 0]]))
        if n_classes >= self.K:
            return ""
        return f"{self.run.done[index].name} has {count(n_classes, 'class')}, wanted {self.K} and more"

    def rows(self, index: int, image: Image) -> tuple[np.ndarray, dict]:
        record = results.record_of(self.run, index)
        nfe = record["nfe"] + record.get("first_nfe", 0)
        return last_dropped(record, self.run.class_ids, self.run.arm_class, self.run.loss)[: self.K], {"first_nfe": nfe}


def last_dropped(record: dict, class_ids: np.ndarray, arm_class: np.ndarray, loss: str) -> np.ndarray:
    """The classes of a record, the likeliest first: columns of the ascending class ids, of those measured at all.

    A class measured at more points comes before one that was dropped earlier: whatever a search kept had been
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
