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
    if os.path.isfile(folder / "state.json") or os.path.isfile(folder / "dataset_dict.json"):
        return _saved(name, folder, split)
    words = [word for word, meant in SPLIT_WORDS.items() if meant == split]
    words.sort(key=lambda word: word != "validation")  # as the hub usually calls it
    errors = []
    for word in words:
        try:
            return briefly(partial(datasets.load_dataset, name, config, split=word))  # never remote code
        except Exception as error:  # no such data set, no such split, no network, no access, broken files, ...
            errors.append(error)
            if not str(error).startswith("Unknown split"):
                break
    raise InputError(f"dataset 'hf:{name}'", f"cannot be read: {why_no_data(name, errors[0])}") from errors[0]


def _saved(name: str, folder: Path, split: str):
    """A split that Dataset.save_to_disk or DatasetDict.save_to_disk wrote; one without a name is test."""
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever damaged files lead to
        raise InputError(f"dataset 'hf:{name}'", f"cannot be read: {type(error).__name__}: {error}") from error
    splits = data if isinstance(data, datasets.DatasetDict) else {str(data.split or "test"): data}
    by_split = {}
    for split_there, rows in splits.items():
        word = re.split(r"[\[+]", split_there)[0]  # train[:100], train+test
        by_split[split_of(word) or split_there] = rows
    check_split(f"hf:{name}", split, by_split)
    return by_split[split]


def read_hub(name: str, split: str, image_column: str | None = None, label_column: str | None = None) -> Dataset:
    """A data set of the hub: NAME, or NAME:CONFIG, or OWNER/NAME/CONFIG.

    The columns are `image_column` and `label_column`, or found by their types and names. InputError if the data cannot
    be read, a column is not there or is not the only one, or a row has not one class.
    """
    rows = rows_of_hub(*_source_and_config(name, split))
    import datasets

    pictures = []
    labelled = []
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            pictures.append(column)
        if isinstance(feature, datasets.ClassLabel) or column in (*LABEL_COLUMNS, label_column):
            labelled.append(column)
    image = _column(name, "image", image_column, pictures, IMAGE_COLUMNS)
    label = _column(name, "label", label_column, labelled, LABEL_COLUMNS)

    names = getattr(rows.features[label], "names", [])
    labels, classes = _labels(name, split, label, list(rows[label][:]), names)
    encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    images = ImageFiles(lambda k: hub_cell(encoded[k][image], f"{k} of hf:{name} {split}"), len(labels))
    return Dataset(labels, classes, images, has_splits=_has_splits(name, rows))


def _has_splits(name: str, rows) -> bool:
    """Whether the data has splits: all has but a folder that Dataset.save_to_disk wrote without the name of one."""
    is_saved_alone = os.path.isfile(os.path.join(os.path.expanduser(name), "state.json"))
    return not is_saved_alone or rows.split is not None


def _source_and_config(name: str, split: str) -> tuple[str, str, str | None]:
    """The arguments of rows_of_hub: a path that exists is a name, other colons and third parts begin a config."""
    if not os.path.exists(os.path.expanduser(name)):
        match = re.fullmatch(r"([^:]+):([^:]+)", name) or re.fullmatch(r"(.+/.+)/([^/]+)", name)
        if match is not None:
            return match[1], split, match[2]
    return name, split, None


def _labels(name: str, split: str, column: str, values: list, names: list[str]) -> tuple[list[int], list[str]]:
    """Class ids and classes, from the values of a column. InputError if they are not one class for each image."""
    where = f"dataset 'hf:{name}'"
    for row, value in enumerate(values):
        if not isinstance(value, str | int):
            found = f"row {row} of column {column!r} of {split!r} is {value!r:.60}"
            raise InputError(where, f"{found}, wanted one class for each image")

    types = set(map(type, values))
    if types == {str}:
        texts = list(map(str.strip, values))  # as those of a csv
        ids, classes = class_ids(texts)
        return [ids[text] for text in texts], classes
    if str in types or min(values, default=0) < 0:
        raise InputError(where, f"column {column!r} of {split!r} holds {values[:3]}..., wanted class ids")
    return list(map(int, values)), list(map(str.strip, names))


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
