"""A user's images on the Hugging Face hub: hf:NAME, hf:NAME:CONFIG.

NAME may also be a local folder that the hub's library reads or has saved.
"""

import os
import re
from functools import partial
from pathlib import Path

from diffusion import InputError
from diffusion.data.dataset import Dataset
from diffusion.data.folders import SPLIT_WORDS, check_split, class_ids, split_of
from diffusion.data.images import ImageFiles, hub_cell
from diffusion.io.hub import briefly, why_no_data

IMAGE_COLUMNS = ("image", "img", "jpg", "webp", "png")  # the preferred first
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


def rows_of_hub(name: str, split: str, config: str | None = None):
    """A split of a data set of the hub, as a datasets.Dataset.

    A split by any of its usual names: val is also valid, validation or dev. InputError if it cannot be read.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(f"dataset 'hf:{name}' needs the package 'datasets'", "pip install datasets") from None
    folder = Path(os.path.expanduser(name))
    if any(os.path.isfile(folder / file) for file in ("state.json", "dataset_dict.json")):
        return _saved(name, folder, split)
    names = [each for each in SPLIT_WORDS if SPLIT_WORDS[each] == split]
    names.sort(key=lambda each: each != "validation")  # as the hub usually calls it
    errors = []
    for each in names:
        try:
            return briefly(partial(datasets.load_dataset, name, config, split=each))  # never remote code
        except Exception as error:  # no such data set, no such split, no network, no access, broken files, ...
            errors.append(error)
            if not str(error).startswith("Unknown split"):
                break
    raise InputError(f"dataset 'hf:{name}' cannot be read", why_no_data(name, errors[0])) from errors[0]


def _saved(name: str, folder: Path, split: str):
    """A split that Dataset.save_to_disk or DatasetDict.save_to_disk wrote; one without a name is test."""
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever damaged files lead to
        raise InputError(f"dataset 'hf:{name}' cannot be read", f"{type(error).__name__}: {error}") from error
    splits = dict(data) if isinstance(data, datasets.DatasetDict) else {str(data.split or "test"): data}
    theirs = {split_of(re.split(r"[\[+]", each)[0]) or each: each for each in splits}
    check_split(f"hf:{name}", split, theirs)
    return splits[theirs[split]]


def read_hub(name: str, split: str, image_column: str | None = None, label_column: str | None = None) -> Dataset:
    """A data set of the hub: NAME, or NAME:CONFIG, or OWNER/NAME/CONFIG."""
    rows = rows_of_hub(*_source_and_config(name, split))
    import datasets

    columns = rows.features
    pictures = [column for column in columns if isinstance(columns[column], datasets.Image)]
    image = _column(name, "image", image_column, pictures, IMAGE_COLUMNS)
    labelled = [c for c in columns if isinstance(columns[c], datasets.ClassLabel) or c in LABEL_COLUMNS]
    if label_column in columns:
        labelled = [label_column]
    label = _column(name, "label", label_column, labelled, LABEL_COLUMNS)

    labels, classes = _labels(name, split, label, list(rows[label][:]), getattr(columns[label], "names", []))
    encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    images = ImageFiles(lambda k: hub_cell(encoded[k][image], f"{k} of hf:{name} {split}"), len(labels))
    return Dataset(labels, classes, images)


def _source_and_config(name: str, split: str) -> tuple[str, str, str | None]:
    """The arguments of rows_of_hub."""
    if not os.path.exists(os.path.expanduser(name)):
        match = re.fullmatch(r"([^:]+):([^:]+)", name) or re.fullmatch(r"(.+/.+)/([^/]+)", name)
        if match is not None:
            return match[1], split, match[2]
    return name, split, None


def _labels(name: str, split: str, column: str, values: list, names: list[str]) -> tuple[list[int], list[str]]:
    """Class ids and classes, from the values of a column. InputError if they are not one class for each image."""
    where = f"dataset 'hf:{name}'"
    classes = [each.strip() for each in names]
    for row, value in enumerate(values):
        if not isinstance(value, str | int):
            found = f"row {row} of column {column!r} of {split!r} is {value!r:.60}"
            raise InputError(where, f"{found}, wanted one class for each image")
    if values and all(isinstance(value, str) for value in values):
        texts = [value.strip() for value in values]  # as those of a csv
        ids, classes = class_ids(texts)
        values = [ids[text] for text in texts]
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise InputError(where, f"column {column!r} of {split!r} holds {values[:3]}..., wanted class ids")
    return [int(value) for value in values], classes


def _column(name: str, kind: str, asked: str | None, found: list[str], preferred: tuple[str, ...]) -> str:
    """The column to read: the one that was asked for, else the first preferred one, else the only one."""
    if asked is not None:
        if asked not in found:
            has = f"hf:{name} has the {kind} columns {', '.join(found) or 'none'}"
            raise InputError(f"--{kind}_column {asked}", has)
        return asked
    for column in preferred:
        if column in found:
            return column
    if len(found) != 1:
        flag = f"; --{kind}_column chooses one" if found else ""
        raise InputError(f"dataset 'hf:{name}'", f"wanted one {kind} column, found {', '.join(found) or 'none'}{flag}")
    return found[0]
