"""The csv of prompts, and that of what each noise level counts."""

import os
import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import InputError, InputWarning
from diffusion.files import is_id, read_header, read_numbers, read_rows
from diffusion.names import DATA, DATASETS, NO_LABEL, few

PROMPTS = DATA / "prompts"
ADDED = ("lora", "embedding")  # columns: what a prompt adds to the model for itself
SAME_PROMPTS = {"imagenetv2": "imagenet", "digits-unseen": "digits-colour"}  # scored with the prompts of another


@dataclass(frozen=True)
class Prompts:
    """One entry per arm: the prompt, the name of its class, the class id and, where classes have one, its group."""

    texts: list[str]
    names: list[str]
    classes: list[int]
    groups: list[str] | None = None
    loras: list[tuple[str, ...]] | None = None  # where prompts have LoRAs of their own: as --lora takes them
    embeddings: list[tuple[str, ...]] | None = None  # where they have tokens of their own: as --embeddings takes them


def read_prompts(path: str | Path, *, added: bool = False) -> Prompts:
    """The arms in a csv with columns prompt,classname,classidx and, if classes have groups, group.

    `added`: also lora and embedding, what a prompt adds to the model for itself; who has no use for them refuses them.
    InputError names the file and the line at fault.
    """
    header = read_header(path)
    keys = ("prompt", "classname", "classidx", *(key for key in ("group", *ADDED) if key in header))
    rows = read_rows(path, keys)
    columns = dict(zip(keys, map(list, zip(*rows.values(), strict=True)), strict=True))
    texts, names, ids, groups = (columns.get(key) for key in ("prompt", "classname", "classidx", "group"))
    group_of: dict[int, str] = {}
    for line, text, class_id, group in zip(rows, texts, ids, groups or [None] * len(rows), strict=True):
        if not text.strip():
            raise InputError(f"{path}, line {line}: the prompt is empty")
        if not is_id(class_id):
            raise InputError(f"{path}, line {line}: classidx is {class_id!r}, wanted an integer from 0 up")
        if group != (known := group_of.setdefault(int(class_id), group)):
            raise InputError(f"{path}, line {line}: class {class_id} is in group {group!r}, and above in {known!r}")
    if len({int(i) for i in ids}) < 2:
        raise InputError(f"{path}: every prompt has classidx {int(ids[0])}, wanted at least two classes")
    of_prompts = {column: dict(zip(rows, columns[column], strict=True)) for column in keys if column in ADDED}
    own = {column: _files(Path(path), column, cells) for column, cells in of_prompts.items()}
    if not added and (given := [column for column in own if own[column]]):
        raise InputError(f"{path}: column {given[0]}: is for eval_prob_adaptive.py alone; wanted a csv without it")
    return Prompts(texts, names, [int(i) for i in ids], groups, own.get("lora"), own.get("embedding"))


def _files(path: Path, column: str, cells: dict[int, str]) -> list[tuple[str, ...]] | None:
    """The files that each cell of a column (by its line) names, those beside the csv by their path; None: none does."""
    from diffusion.lora import split

    found = []
    for line, cell in cells.items():
        try:
            given = shlex.split(cell)
        except ValueError as error:
            raise InputError(f"{path}, line {line}: {column} is {cell!r}: {error}") from None
        names = [split(each, f"{path}, line {line}: lora")[0] if column == "lora" else each for each in given]
        there = [any(map(os.path.exists, (path.parent / name, name))) for name in names]
        found.append(tuple(str(path.parent / g) if t else g for g, t in zip(given, there, strict=True)))
    return found if any(found) else None


def prompts_file(dataset: str) -> str:
    """The name of the csv in prompts/ that a known data set is scored with."""
    return f"{SAME_PROMPTS.get(dataset, dataset).replace('-', '_')}_prompts.csv"


def duplicates(prompts: Prompts) -> list[tuple[str, list[str]]]:
    """Prompts that stand for more than one class, each with the names of the classes it cannot tell apart."""
    meanings: dict[tuple, dict[int, str]] = {}
    own = zip(*(column or [()] * len(prompts.texts) for column in (prompts.loras, prompts.embeddings)), strict=True)
    for text, name, class_id, files in zip(prompts.texts, prompts.names, prompts.classes, own, strict=True):
        meanings.setdefault((text, files), {}).setdefault(class_id, name)
    return [(text, list(names.values())) for (text, _), names in meanings.items() if len(names) > 1]


def prompts_for(
    name: str,
    labels: list[int],
    classes: list[str],
    path: Path | None = None,
    texts: list[str] | None = None,
    *,
    added: bool = False,
) -> Prompts:
    """The prompts of a csv, or of the data set `name`'s own, or "a photo of a CLASS." for data without one.

    labels are of its images; classes are names by class id, empty where the data does not say; `texts` are the prompts
    themselves, for images without labels; `added` as in read_prompts. Raises InputError when they are not prompts for
    the classes of the data set; warns of classes with the same prompt.
    """
    if texts:
        if path or NO_LABEL not in labels:
            some = f" ({few(classes, 3)})" if classes else ""
            why = f"--prompt_path {path} says it already" if path else f"the images of {name} have labels{some}"
            raise InputError(f"--prompts: {why}; wanted a csv that says which class each prompt is of, or neither")
        if len(texts) < 2 or not all(text.strip() for text in texts):
            raise InputError(f"--prompts {' '.join(map(repr, texts))}: wanted at least two texts")
        prompts = Prompts(texts, texts, list(range(len(texts))))
    elif path:
        prompts = read_prompts(path, added=added)
    elif name in DATASETS:
        prompts = read_prompts(PROMPTS / prompts_file(name))
    elif len(classes) < 2:
        flags = "--prompts or --prompt_path" if NO_LABEL in labels else "--prompt_path"
        why = f"has the class {classes[0]!r} alone" if classes else "does not say what its classes are called"
        raise InputError(f"--dataset {name}: {why}, so it needs {flags}")
    else:
        texts = [f"a photo of a {known.replace('_', ' ')}." for known in classes]
        prompts = Prompts(texts, classes, list(range(len(texts))))
    missing = sorted(set(labels) - set(prompts.classes) - {NO_LABEL})
    if missing:
        called = [f"{k} ({classes[k]})" if k < len(classes) else str(k) for k in missing[:10]]
        raise InputError(f"the prompts have no class {', '.join(called)}, which images of {name} are labelled with")
    unused = sorted(c for c in set(prompts.classes) if c >= len(classes) > 0)
    if unused and name in DATASETS:  # elsewhere they are distractors
        raise InputError(f"the prompts have class ids {unused[:10]}, {name} only 0..{len(classes) - 1}")
    if path:
        _check_names(prompts, classes, path, name)
    for prompt, names in duplicates(prompts):
        alike = f"{prompt!r} stands for {' and '.join(names)}: they cannot be told apart"
        warnings.warn(alike, InputWarning, stacklevel=1)
    return prompts


def _plain(name: str) -> str:
    """A class's name without what people write differently."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _check_names(prompts: Prompts, classes: list[str], path: Path, name: str) -> None:
    """Raises InputError where a prompt's class has the name of another class of the data: a csv in another order.

    Warns where none of the names is a class of the data: a csv of other data.
    """
    known = {_plain(each): k for k, each in enumerate(classes)}
    pairs = [p for p in zip(prompts.names, prompts.classes, strict=True) if p[1] < len(classes) and not is_id(p[0])]
    if pairs and known.keys().isdisjoint(_plain(said) for said, _ in pairs):
        taken = "; ".join(f"{said!r} is taken for {classes[k]!r}" for said, k in pairs[:2])
        warnings.warn(f"{path}: none of its classnames is a class of {name}: {taken}", InputWarning, stacklevel=2)
    for said, class_id in zip(prompts.names, prompts.classes, strict=True):
        other = known.get(_plain(said), class_id)
        if other != class_id:
            own = f"is {classes[class_id]!r}" if class_id < len(classes) else "has no images"
            raise InputError(
                f"{path}: classname {said!r} has classidx {class_id}, which in {name} {own}; {said!r} is {other} there"
            )


def read_weights(path: Path | None, T: int) -> np.ndarray:
    """What an error counts at each of T levels, from a csv with the columns level,weight. [T] float64, their mean is 1

    Between the levels of the csv weights are interpolated, beyond them they are those of the ends; without a csv they
    are all 1. InputError names the file and the line at fault.
    """
    if path is None:
        return np.ones(T)
    weights = read_numbers(path, "level", range(T), "weight", 1e9, "a number from 0 up")
    table = np.interp(np.arange(T), list(weights), list(weights.values()))
    if not table.any():
        raise InputError(f"{path}: every weight is 0")
    return table / table.mean()
