"""Own data: folders of images, csv and jsonl tables, data sets of the Hugging Face hub.

    FOLDER/CLASS/a.jpg            classes are the folders, at any depth below; also FOLDER/{train,val,test}/CLASS/a.jpg
    FOLDER/a.jpg, a.jpg           images without labels
    FOLDER/session-1/...          model-vs-human's, whose classes are in the files' names
    TABLE.csv, TABLE.jsonl        columns path,label[,group][,candidates]; paths as they are or from the table's
                                  folder; without label: none; candidates: cat;dog;lynx, in jsonl a list will do
    hf:NAME, hf:NAME:CONFIG       of the hub, or a local folder that its library reads

Whole numbers as class names are class ids; other names are numbered in sorted order.
"""

import functools
import json
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from PIL import Image

from diffusion import InputError, InputWarning, hub
from diffusion.files import is_id, json_lines, read_header, read_rows
from diffusion.images import hub_image, open_rgb
from diffusion.names import NO_LABEL, few

Read = tuple  # labels, classes, open, names of files, groups, candidates: what follows name and split in Dataset

SPLIT_FOLDERS = {  # what folders of a split are called, whatever their case
    "train": "train", "training": "train", "trainval": "trainval",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
LEFT_BEHIND = {  # nobody's data
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini",
}  # fmt: skip
SIXTEEN = (  # the classes of model-vs-human (arXiv 1808.08750)
    "airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat", "chair", "clock", "dog", "elephant",
    "keyboard", "knife", "oven", "truck",
)  # fmt: skip
NO_IMAGES = {"EPS", "PDF", "PSD", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FITS"}  # Pillow cannot draw them alone


@functools.cache
def suffixes() -> set[str]:
    """The suffixes of the formats that Pillow reads, such as .jpg."""
    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NO_IMAGES}


def is_left_behind(name: str) -> bool:
    """Whether systems and downloaders leave files and folders of this name behind."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_left_behind(entry.name))


def images_in(folder: Path, deep: bool = True) -> list[Path]:
    """The image files of a folder, sorted; with `deep`, of its folders too."""
    kinds, found = suffixes(), []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if deep and not is_left_behind(name))
        named = (name for name in sorted(files) if not is_left_behind(name))
        found += [Path(path, name) for name in named if os.path.splitext(name)[1].lower() in kinds]
    return found


def files(
    paths: Iterable[str | Path],
    labels: Iterable[int],
    classes: Iterable[str] = (),
    below: Path = Path(),
    groups: Iterable[str] = (),
    candidates: Iterable[tuple[int, list[str]]] = (),
) -> Read:
    """Images in files, whose names are as from the folder `below`."""
    paths = [Path(path) for path in paths]
    names = [path.relative_to(below).as_posix() if path.is_relative_to(below) else path.name for path in paths]
    labels = [int(label) for label in labels]
    return labels, list(classes), lambda k: open_rgb(paths[k]), names, list(groups), list(candidates)


def tree(folder: Path, ids: dict[str, int], classes: Iterable[str] = ()) -> Read:
    """A folder of class folders, in the order of `ids` (folder name -> class id); other folders are passed over."""
    inside = {name: images_in(folder / name) for name in ids if (folder / name).is_dir()}
    return of_classes(folder, inside, ids, classes)


def of_classes(folder: Path, inside: dict[str, list[Path]], ids: dict[str, int], classes: Iterable[str]) -> Read:
    """The images inside each class folder, in the order of `ids` (folder name -> class id)."""
    found = [(path, label) for name, label in ids.items() for path in inside.get(name, [])]
    if not found:
        raise InputError(f"no image in {folder}: wanted class folders such as {next(iter(ids), 'cat')!r} with images")
    return files(*zip(*found, strict=True), classes, folder)


def class_ids(names: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Name -> class id, and the classes: whole numbers are ids already, other names are numbered in sorted order."""
    names = sorted(set(names))
    if all(is_id(name) for name in names):
        return {name: int(name) for name in sorted(names, key=int)}, []
    return {name: i for i, name in enumerate(names)}, names


def check_split(name: str, split: str, splits: Iterable[str]) -> None:
    """Raises InputError unless the data has this split."""
    if split not in splits:
        why = f"it has {', '.join(sorted(splits))}"
        if list(splits) == ["test"]:
            why = f"it is not split, all its images are test; --split test, or put them into {split}/ and test/"
        raise InputError(f"dataset {name!r} has no split {split!r}: {why}")


def read_folder(name: str, split: str) -> Read:
    """Class folders, or split folders of these, or images alone. InputError where there is no image."""
    folder = Path(name).expanduser()
    inside = subfolders(folder)
    while len(inside) == 1 and not images_in(folder, deep=False) and subfolders(folder / inside[0]):
        if inside[0].lower() in SPLIT_FOLDERS:
            break
        folder = folder / inside[0]  # an archive that was unpacked into one more folder
        inside = subfolders(folder)
    if inside and all(re.fullmatch(r"session-\d+", each) for each in inside):
        check_split(name, split, ["test"])
        return read_sessions(folder)
    if inside and all(each.lower() in SPLIT_FOLDERS for each in inside):  # else they would be read as classes
        theirs = {SPLIT_FOLDERS[each.lower()]: each for each in inside}
        if len(theirs) < len(inside):
            raise InputError(f"dataset {name!r}: {', '.join(inside)} are several folders for one split")
        check_split(name, split, theirs)
        folder = folder / theirs[split]
        inside = subfolders(folder)
    else:
        check_split(name, split, ["test"])
    alone = images_in(folder, deep=False)
    images = {each: images_in(folder / each) for each in inside}
    full = [each for each in inside if images[each]]
    if alone and len(full) < 2:  # with images beside it, one folder is no choice of classes
        alone = images_in(folder)
        return files(alone, [NO_LABEL] * len(alone), (), folder)
    if alone:
        beside = f"images beside class folders are left out, {len(alone)} of them such as {alone[0].name}"
        warnings.warn(f"dataset {name!r}: {beside}", InputWarning, stacklevel=1)
    if empty := [each for each in inside if not images[each]]:
        named = few(empty, 5)
        if not full:
            raise InputError(f"no image in {folder}: wanted class folders with images; these have none: {named}")
        warnings.warn(f"dataset {name!r}: folders without images are no classes: {named}", InputWarning, stacklevel=1)
    return of_classes(folder, images, *class_ids(full))


def read_sessions(folder: Path) -> Read:
    """A data set of model-vs-human: session-1/_ _ _CONDITION_CLASS_..., the class in the file's name."""
    paths = images_in(folder)
    named = [path.name.split("_") for path in paths]
    for path, parts in zip(paths, named, strict=True):
        if len(parts) < 6:
            raise InputError(f"{path}: wanted a name such as 0001_cl_dnn_CONDITION_CLASS_10_n02835271_2389.png")
    found = {parts[4] for parts in named}
    ids, classes = class_ids(SIXTEEN if found <= set(SIXTEEN) else found)
    return files(paths, (ids[parts[4]] for parts in named), classes, folder)


def read_table(name: str, split: str) -> Read:
    """A csv or jsonl of path and, unless the images have no labels, label; perhaps of group and candidates."""
    path = Path(os.path.expanduser(name))  # Path's own refuses ~nobody
    check_split(name, split, ["test"])
    if path.suffix == ".jsonl":
        rows = read_json_lines(path)
    else:
        header = read_header(path)
        unlabelled = header and set(header) <= {"path", "candidates"}
        keys = ["path"] if unlabelled else ["path", "label"]
        keys += [key for key in ("group", "candidates") if key in header]
        rows = {line: dict(zip(keys, row, strict=True)) for line, row in read_rows(path, tuple(keys)).items()}
    columns = {key: [row[key] for row in rows.values()] for key in next(iter(rows.values()))}
    told = [(line, row["candidates"]) for line, row in rows.items() if "candidates" in row]
    candidates = [(line, _candidates(path, line, given)) for line, given in told]
    for line, row in rows.items():
        fields = [row[key] for key in columns if key != "candidates"]
        if not all(field.strip() for field in fields):
            wanted = "wanted a path" if len(fields) == 1 else "wanted both" if len(fields) == 2 else "wanted all"
            called = "path and label" + ", and group" * (len(fields) > 2)
            raise InputError(f"{path}, line {line}: {called} are {', '.join(map(repr, fields))}, {wanted}")
    paths = [_place(path.parent, file.strip()) for file in columns["path"]]
    if not any(map(os.path.exists, paths)):  # as Path's, but any name will do
        where = "paths are taken as they are, or from the folder of the table"
        raise InputError(f"{path}: none of its {len(paths)} images is there, such as {paths[0]}; {where}")
    if "label" not in columns:
        return files(paths, [NO_LABEL] * len(paths), (), path.parent, (), candidates)
    labels = [label.strip() for label in columns["label"]]
    ids, classes = class_ids(labels)
    groups = [group.strip() for group in columns.get("group", [])]
    return files(paths, (ids[label] for label in labels), classes, path.parent, groups, candidates)


def _candidates(path: Path, line: int, given: str | list | None) -> list[str]:
    """The classes that a cell names: a list, or a text with semicolons between them; none where it is empty."""
    names = given if isinstance(given, list) else str("" if given is None else given).split(";")
    names = [name for each in names if (name := str(each).strip())]
    if len(names) == 1:
        wanted = "wanted two classes or more, as in cat;dog, or nothing, which is all of them"
        raise InputError(f"{path}, line {line}: candidates is {names[0]!r}, {wanted}")
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise InputError(f"{path}, line {line}: candidates has {twice[0]!r} twice")
    return names


def read_json_lines(path: Path) -> dict[int, dict]:
    """Line number -> path and, where the first line has them, label, group and candidates.

    All are texts, but candidates as they stand there. InputError names the line at fault.
    """
    rows: dict[int, dict] = {}
    keys: list[str] = []
    for number, line in json_lines(path, "utf-8-sig"):
        try:
            row = json.loads(line)
            more = [key for key in ("label", "group", "candidates") if key in row]
            keys = keys or ["path", *(key for key in more if key != "group" or "label" in row)]
            rows[number] = {key: row[key] if key == "candidates" else str(row[key]) for key in keys}
            surplus = [key for key in ("label", "candidates") if key in row and key not in keys]
        except (ValueError, KeyError, TypeError, RecursionError):
            wanted = " and ".join(keys if len(keys) > 1 else ["path", "label"])
            raise InputError(f"{path}, line {number}: is no JSON object with {wanted}") from None
        if surplus:
            raise InputError(f"{path}, line {number}: has {surplus[0]}, the first line has none")
    if not rows:
        raise InputError(f"{path}: holds no line")
    return rows


def _place(folder: Path, given: str) -> Path:
    """A path in a table: as it is, or as Windows would write it."""
    path = folder / os.path.expanduser(given)
    if "\\" in given and not path.exists():
        return folder / PureWindowsPath(given).as_posix()
    return path


def read_image(name: str, split: str) -> Read:
    """One image without a label."""
    check_split(name, split, ["test"])
    path = Path(name).expanduser()
    return files([path], [NO_LABEL], (), path.parent)


# ---- the hub ----


def from_hub(name: str, split: str, config: str | None = None):
    """A split of a data set of the hub, or of a local folder that its library reads. InputError: says why not."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"dataset 'hf:{name}' needs the package 'datasets': pip install datasets") from None
    try:
        return hub.briefly(lambda: datasets.load_dataset(name, config, split=split))  # never with trust_remote_code
    except Exception as error:  # no such data set, no such split, no network, no access, broken files, ...
        raise InputError(f"dataset 'hf:{name}' cannot be read: {hub.why_no_data(name, error)}") from error


def read_hub(name: str, split: str, image_column: str | None = None, label_column: str | None = None) -> Read:
    """A data set of the hub: NAME, or NAME:CONFIG, or OWNER/NAME/CONFIG."""
    source, config = name, None
    if not os.path.exists(os.path.expanduser(name)) and (
        match := re.fullmatch(r"([^:]+):([^:]+)|(.+/.+)/([^/]+)", name)
    ):
        source, config = (match[1], match[2]) if match[1] else (match[3], match[4])
    data = from_hub(source, "validation" if split == "val" else split, config)
    import datasets

    columns = data.features
    pictures = [c for c in columns if isinstance(columns[c], datasets.Image)]
    image = _column(name, "image", image_column, pictures, ("image", "img", "jpg", "webp", "png"))
    usual = ("label", "labels", "fine_label", "cls")
    labelled = [c for c in columns if isinstance(columns[c], datasets.ClassLabel) or c in usual]
    if label_column in columns:
        labelled = [label_column]
    label = _column(name, "label", label_column, labelled, usual)

    labels, classes = list(data[label][:]), getattr(columns[label], "names", [])
    if labels and all(isinstance(value, str) for value in labels):
        ids, classes = class_ids(labels)
        labels = [ids[value] for value in labels]
    if not all(isinstance(value, int) and value >= 0 for value in labels):
        raise InputError(f"dataset 'hf:{name}': column {label!r} of {split!r} holds {labels[:3]}..., wanted class ids")
    encoded = data.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def open_image(k: int) -> Image.Image:
        return hub_image(encoded[k][image], f"{k} of hf:{name} {split}")

    return [int(value) for value in labels], list(classes), open_image, []


def _column(name: str, kind: str, asked: str | None, found: list[str], preferred: tuple[str, ...]) -> str:
    """The column to read: the one that was asked for, the first preferred name among those found, else the only one."""
    if asked is not None:
        if asked not in found:
            raise InputError(f"--{kind}_column {asked}: hf:{name} has the {kind} columns {', '.join(found) or 'none'}")
        return asked
    for column in preferred:
        if column in found:
            return column
    if len(found) != 1:
        flag = f"; --{kind}_column chooses one" if found else ""
        raise InputError(f"dataset 'hf:{name}': wanted one {kind} column, found {', '.join(found) or 'none'}{flag}")
    return found[0]
