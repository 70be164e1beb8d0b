"""Own data: folders of images, csv and jsonl tables, data sets of the Hugging Face hub.

    FOLDER/CLASS/a.jpg            classes are the folders, at any depth below; also FOLDER/{train,val,test}/CLASS/a.jpg,
                                  with split folders of other names, such as training_set, and anything beside them
    FOLDER/a.jpg, a.jpg           images without labels
    FOLDER/session-1/...          model-vs-human's, whose classes are in the files' names
    TABLE.csv, .tsv, .jsonl       columns path,label[,group][,candidates][,split]; paths as they are or from the table's
                                  folder; without label: none; candidates: cat;dog;lynx, in jsonl a list will do;
                                  split: train, val or test, for --split
    hf:NAME, hf:NAME:CONFIG       of the hub, or a local folder that its library reads or has saved

Whole numbers as class names are class ids; other names are numbered in sorted order.
"""

import ast
import functools
import json
import math
import mimetypes
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.data.catalogue import NO_LABEL
from diffusion.data.images import ImageFiles, hub_cell, listed
from diffusion.io import hub
from diffusion.io.reading import is_id, json_lines, read_header, read_rows
from diffusion.io.wording import few

Read = tuple  # labels, classes, open, names of files, groups, candidates: what follows name and split in Dataset

SPLIT_WORDS = {  # what splits are called, whatever the case
    "train": "train", "training": "train", "trainval": "trainval",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
BESIDE_SPLIT = "data|dataset|folder|images?|imgs?|seg|sets?|splits?"  # words beside these in the names of folders
NO_CLASS = {  # what spreadsheets and pandas write where there is no value
    "#N/A", "#N/A N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
TEXTS = {  # what lies beside images and is none, whatever mimetypes knows of it
    ".cfg", ".db", ".ini", ".jsonl", ".lock", ".log", ".parquet", ".pdf", ".pkl", ".pt", ".sqlite", ".toml", ".yaml",
    ".yml",
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


def files_in(folder: Path, deep: bool = True) -> Iterator[Path]:
    """The files of a folder, sorted; with `deep`, of its folders too, of which some may be symbolic links.

    As torchvision's ImageFolder; but a link to a folder that it lies in is not followed: its images would come again
    and again, as those of a wrong class.
    """
    waiting = [(folder, (os.path.realpath(folder),))]
    while waiting:
        path, above = waiting.pop()
        entries = sorted((each for each in os.scandir(path) if not is_left_behind(each.name)), key=lambda e: e.name)
        yield from (Path(each.path) for each in entries if not each.is_dir())
        inner = []
        for each in entries:
            if deep and each.is_dir():
                real = os.path.realpath(each.path)
                if not any(Path(other).is_relative_to(real) for other in above):
                    inner.append((Path(each.path), (*above, real)))
        waiting += reversed(inner)


def is_image_name(path: Path) -> bool:
    return path.suffix.lower() in suffixes()


def images_in(folder: Path, deep: bool = True) -> list[Path]:
    """The image files of a folder, sorted; with `deep`, of its folders too."""
    return [path for path in files_in(folder, deep) if is_image_name(path)]


def has_images(folder: Path) -> bool:
    return any(is_image_name(path) for path in files_in(folder))


def warn_of_others(name: str, folder: Path) -> None:
    """Warn of the files of a folder that are neither images by their suffix nor texts, tables and the like."""
    others = []
    for path in files_in(folder):
        if is_image_name(path) or path.suffix.lower() in TEXTS:
            continue
        kind = mimetypes.guess_type(path.name)[0] or ""
        if not kind.startswith("text/") and kind not in ("application/json", "application/xml"):
            others.append(path)
    if not others:
        return
    counts = Counter(path.suffix.lower() or "no suffix" for path in others).most_common()
    kinds = few([f"{suffix} ({n})" for suffix, n in counts], 5)
    such = f"such as {others[0].relative_to(folder)}; wanted images as png, jpg, tif, webp or another that Pillow reads"
    warnings.warn(f"dataset {name!r}: files left out by their suffix: {kinds}, {such}", InputWarning, stacklevel=2)


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
    return labels, list(classes), listed(paths), names, list(groups), list(candidates)


def tree(folder: Path, ids: dict[str, int], classes: Iterable[str] = ()) -> Read:
    """A folder of class folders, in the order of `ids` (folder name -> class id); other folders are passed over."""
    inside = {name: images_in(folder / name) for name in ids if (folder / name).is_dir()}
    return of_classes(folder, inside, ids, classes)


def of_classes(folder: Path, inside: dict[str, list[Path]], ids: dict[str, int], classes: Iterable[str]) -> Read:
    """The images inside each class folder, in the order of `ids` (folder name -> class id)."""
    found = [(path, label) for name, label in ids.items() for path in inside.get(name, [])]
    if not found:
        raise InputError(
            f"no image in {folder}", f"wanted class folders such as {next(iter(ids), 'cat')!r} with images"
        )
    return files(*zip(*found, strict=True), classes, folder)


def class_ids(names: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Name -> class id, and the classes: whole numbers are ids already, other names are numbered in sorted order.

    InputError where two names are one number, as 1 and 01.
    """
    names = sorted(set(names))
    if all(is_id(name) for name in names):
        ids = {name: int(name) for name in sorted(names, key=int)}
        if twice := [number for number, n in Counter(ids.values()).items() if n > 1]:
            alike = " and ".join(repr(name) for name in ids if ids[name] == twice[0])
            raise InputError(f"classes {alike}", f"are both the class id {twice[0]}; wanted one name for each class")
        return ids, []
    return {name: i for i, name in enumerate(names)}, names


def check_split(name: str, split: str, splits: Iterable[str]) -> None:
    """Raises InputError unless the data has this split."""
    if split not in splits:
        why = f"it has {', '.join(sorted(splits))}"
        if list(splits) == ["test"]:
            why = f"it is not split, all its images are test; --split test, or put them into {split}/ and test/"
        raise InputError(f"dataset {name!r} has no split {split!r}", why)


def split_words(name: str) -> tuple[str | None, str]:
    """The split that a folder is named after, as train, Training_set or val2017; and what else the name says.

    ("train", "") of images-train, ("test", "birds") of birds_test, (None, ...) of others.
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    bare = [word if word in SPLIT_WORDS else re.sub(f"(?:{BESIDE_SPLIT})$", "", word) for word in words]
    splits = [SPLIT_WORDS[word] for word in bare if word in SPLIT_WORDS]
    rest = " ".join(word for word in bare if word and word not in SPLIT_WORDS)
    return (splits[0] if len(splits) == 1 else None), rest


def split_of(name: str) -> str | None:
    """The split that a folder or a cell is named after, if its name says nothing else."""
    split, rest = split_words(name)
    return None if rest else split


def unwrapped(folder: Path) -> Path:
    """The folder itself, or the only one in it, as of an archive that was unpacked into one more folder."""
    inside = _with_images(folder)
    while len(inside) == 1 and not images_in(folder, deep=False) and _with_images(folder / inside[0]):
        if split_of(inside[0]) and split_of(folder.name) != split_of(inside[0]):
            break
        folder = folder / inside[0]
        inside = _with_images(folder)
    return folder


def _is_split(folder: Path) -> bool:
    return len({split_of(each) for each in _with_images(folder)} - {None}) > 1


def _with_images(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if has_images(folder / name)]


def split_folders(name: str, folder: Path) -> dict[str, str]:
    """Split -> the folder in `folder` that holds it; nothing where the folders are classes.

    Folders are splits if two of them or more are named after different splits, or all that hold images are. Then others
    beside them are none, and are named in a warning if they hold images. InputError where it cannot be known.
    """
    inside = _with_images(folder)
    splits = {each: split_of(each) for each in inside if split_of(each)} or _splits_of_one_name(name, inside)
    others = [each for each in inside if each not in splits]
    if not splits:
        return {}
    if len(set(splits.values())) == 1 and others:
        (first, *_) = splits
        if _with_images(folder / first) and not any(_with_images(folder / each) for each in others):
            beside = f"{first} holds class folders, and beside it are {few(others)} with images"
            raise InputError(
                f"dataset {name!r}", f"{beside}: is {first} a split or a class? Wanted it alone, or renamed"
            )
        return {}
    theirs = {split: each for each, split in splits.items()}
    if len(theirs) < len(splits):
        raise InputError(f"dataset {name!r}", f"{', '.join(splits)} are several folders for one split")
    if others:
        beside = f"beside the splits {', '.join(splits)} are left out: {few(others, 5)}"
        warnings.warn(f"dataset {name!r}: folders {beside}", InputWarning, stacklevel=2)
    return theirs


def _splits_of_one_name(name: str, inside: list[str]) -> dict[str, str]:
    """Folder -> split, of folders such as birds_train and birds_test. InputError where there are other such pairs."""
    by_rest: dict[str, dict[str, str]] = {}
    for each in inside:
        split, rest = split_words(each)
        if split:
            by_rest.setdefault(rest, {})[each] = split
    pairs = [folders for folders in by_rest.values() if len(set(folders.values())) > 1]
    if len(pairs) > 1:
        both = f"folders {few([*pairs[0], *pairs[1]], 4)} are splits of several classes"
        raise InputError(f"dataset {name!r}", f"{both}; wanted the folders train and test, each with class folders")
    return pairs[0] if pairs else {}


def read_folder(name: str, split: str) -> Read:
    """Class folders, or split folders of these, or images alone. InputError where there is no image."""
    try:
        return _read_folder(name, split)
    except OSError as error:
        raise InputError(f"dataset {name!r}", f"cannot be read ({error})") from error


def _read_folder(name: str, split: str) -> Read:
    top = Path(name).expanduser()
    folder = unwrapped(top)
    inside = subfolders(folder)
    if inside and all(re.fullmatch(r"session-\d+", each) for each in inside):
        check_split(name, split, ["test"])
        return read_sessions(folder)
    splits = split_folders(name, folder)
    if splits:
        check_split(name, split, splits)
        folder = unwrapped(folder / splits[split])
        inside = subfolders(folder)
    warn_of_others(name, folder)
    alone = images_in(folder, deep=False)
    images = {each: images_in(folder / each) for each in inside}
    full = [each for each in inside if images[each]]
    if not splits and len(full) > 1 and all(_is_split(folder / each) for each in full):  # CLASS/train, CLASS/test
        theirs = {each: split_folders(name, folder / each) for each in full}
        check_split(name, split, set.union(*map(set, theirs.values())))
        images |= {each: images_in(folder / each / theirs[each][split]) for each in full if split in theirs[each]}
    elif not splits:
        check_split(name, split, ["test"])
    if alone and len(full) < 2:  # with images beside it, one folder is no choice of classes
        alone = images_in(folder)
        return files(alone, [NO_LABEL] * len(alone), (), folder)
    if alone:
        beside = f"images beside class folders are left out, {len(alone)} of them such as {alone[0].name}"
        warnings.warn(f"dataset {name!r}: {beside}", InputWarning, stacklevel=1)
    if empty := [each for each in inside if not images[each]]:
        named = few(empty, 5)
        if not full:
            raise InputError(f"no image in {folder}", f"wanted class folders with images; these have none: {named}")
        warnings.warn(f"dataset {name!r}: folders without images are no classes: {named}", InputWarning, stacklevel=1)
    return of_classes(folder, images, *class_ids(full))


def read_sessions(folder: Path) -> Read:
    """A data set of model-vs-human: session-1/_ _ _CONDITION_CLASS_..., the class in the file's name."""
    paths = images_in(folder)
    named = [path.name.split("_") for path in paths]
    for path, parts in zip(paths, named, strict=True):
        if len(parts) < 6:
            raise InputError(path, "wanted a name such as 0001_cl_dnn_CONDITION_CLASS_10_n02835271_2389.png")
    found = {parts[4] for parts in named}
    ids, classes = class_ids(SIXTEEN if found <= set(SIXTEEN) else found)
    return files(paths, (ids[parts[4]] for parts in named), classes, folder)


TABLES = (".csv", ".tsv", ".jsonl")


def read_table(name: str, split: str) -> Read:
    """A table of path and, unless the images have no labels, label; perhaps of group, candidates and split.

    Class ids are those of the whole table, whichever its split.
    """
    path = Path(os.path.expanduser(name))  # Path's own refuses ~nobody
    if path.suffix.lower() == ".jsonl":
        rows = read_json_lines(path)
    else:
        header = read_header(path)
        unlabelled = header and set(header) <= {"path", "candidates", "split"}
        keys = ["path"] if unlabelled else ["path", "label"]
        keys += [key for key in ("group", "candidates", "split") if key in header]
        rows = {line: dict(zip(keys, row, strict=True)) for line, row in read_rows(path, tuple(keys)).items()}
        for line, row in rows.items():
            if "label" in row:
                _check_label(path, line, row["label"])
    keys = list(next(iter(rows.values())))
    for line, row in rows.items():
        fields = [row[key] for key in keys if key not in ("candidates", "split")]
        if not all(field.strip() for field in fields):
            wanted = "wanted a path" if len(fields) == 1 else "wanted both" if len(fields) == 2 else "wanted all"
            called = "path and label" + ", and group" * (len(fields) > 2)
            raise InputError(f"{path}, line {line}", f"{called} are {', '.join(map(repr, fields))}, {wanted}")
    ids, classes = class_ids(row["label"].strip() for row in rows.values()) if "label" in keys else ({}, [])
    rows = _of_split(name, path, rows, split)
    candidates = [
        (line, _candidates(path, line, row["candidates"])) for line, row in rows.items() if "candidates" in row
    ]
    paths = [_place(path.parent, row["path"].strip()) for row in rows.values()]
    if not any(map(os.path.exists, paths)):  # as Path's, but any name will do
        where = "paths are taken as they are, or from the folder of the table"
        raise InputError(path, f"none of its {len(paths)} images is there, such as {paths[0]}; {where}")
    if "label" not in keys:
        return files(paths, [NO_LABEL] * len(paths), (), path.parent, (), candidates)
    labels = [ids[row["label"].strip()] for row in rows.values()]
    groups = [row["group"].strip() for row in rows.values() if "group" in row]
    return files(paths, labels, classes, path.parent, groups, candidates)


def _check_label(path: Path, line: int, label: str) -> None:
    """InputError where a cell holds what others write for no label, or a list of labels."""
    text = label.strip()
    why = ""
    if text in NO_CLASS:
        why = "which spreadsheets and pandas write for none; a class of this name can stand in a jsonl"
    elif text.startswith(("[", "(", "{")) and _is_list(text):
        why = "wanted one class for each image"
    if why:
        raise InputError(f"{path}, line {line}", f"label is {text!r}, {why}")


def _is_list(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), list | tuple | set | dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _of_split(name: str, path: Path, rows: dict[int, dict], split: str) -> dict[int, dict]:
    """The rows whose column `split` names this split; all, if the table has no such column. InputError: none."""
    if "split" not in next(iter(rows.values())):
        check_split(name, split, ["test"])
        return rows
    theirs = {line: split_of(row["split"].strip()) for line, row in rows.items()}
    if unknown := [line for line, each in theirs.items() if each is None]:
        found = f"split is {rows[unknown[0]]['split']!r}, wanted train, val or test"
        raise InputError(f"{path}, line {unknown[0]}", found)
    if split not in theirs.values():
        raise InputError(
            f"dataset {name!r} has no split {split!r}",
            f"its column split has {', '.join(sorted(set(theirs.values())))}",
        )
    return {line: row for line, row in rows.items() if theirs[line] == split}


def _candidates(path: Path, line: int, given: str | list | None) -> list[str]:
    """The classes that a cell names: a list, or a text with semicolons between them; none where it is empty."""
    names = given if isinstance(given, list) else str("" if given is None else given).split(";")
    names = [name for each in names if (name := str(each).strip())]
    if len(names) == 1:
        wanted = "wanted two classes or more, as in cat;dog, or nothing, which is all of them"
        raise InputError(f"{path}, line {line}", f"candidates is {names[0]!r}, {wanted}")
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise InputError(f"{path}, line {line}", f"candidates has {twice[0]!r} twice")
    return names


def read_json_lines(path: Path) -> dict[int, dict]:
    """Line number -> path and, where the first line has them, label, group and candidates.

    All are texts, but candidates as they stand there. InputError names the line at fault.
    """
    rows: dict[int, dict] = {}
    keys: list[str] = []
    for number, line in json_lines(path):
        try:
            row = json.loads(line)
            more = [key for key in ("label", "group", "candidates", "split") if key in row]
            keys = keys or ["path", *(key for key in more if key != "group" or "label" in row)]
            rows[number] = {key: row[key] for key in keys}
            surplus = [key for key in ("label", "candidates", "split") if key in row and key not in keys]
        except (ValueError, KeyError, TypeError, RecursionError):
            wanted = " and ".join(keys if len(keys) > 1 else ["path", "label"])
            raise InputError(f"{path}, line {number}", f"is no JSON object with {wanted}") from None
        if surplus:
            raise InputError(f"{path}, line {number}", f"has {surplus[0]}, the first line has none")
        for key in keys:
            if key != "candidates":
                rows[number][key] = _cell(path, number, key, row[key])
    if not rows:
        raise InputError(path, "holds no line")
    return rows


def _cell(path: Path, line: int, key: str, value: object) -> str:
    """A text or a number of a jsonl as text. InputError for null, nan, lists and objects, which are no value."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not isinstance(value, str) and not is_number:
        raise InputError(f"{path}, line {line}", f"{key} is {value!r:.60}, wanted a text or a number")
    return str(value)


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
    if not is_image_name(path):
        try:
            with Image.open(path):
                pass
        except Exception as error:
            tables = ", ".join(TABLES)
            raise InputError(f"dataset {name!r}", f"is neither an image that Pillow reads nor {tables}") from error
    return files([path], [NO_LABEL], (), path.parent)


# ---- the hub ----


def from_hub(name: str, split: str, config: str | None = None):
    """A split of a data set of the hub, or of a local folder that its library reads or has saved.

    A split by any of its usual names: val is also valid, validation or dev. InputError: says why not.
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
            return hub.briefly(lambda each=each: datasets.load_dataset(name, config, split=each))  # never remote code
        except Exception as error:  # no such data set, no such split, no network, no access, broken files, ...
            errors.append(error)
            if not str(error).startswith("Unknown split"):
                break
    raise InputError(f"dataset 'hf:{name}' cannot be read", f"{hub.why_no_data(name, errors[0])}") from errors[0]


def _saved(name: str, folder: Path, split: str):
    """A split of what Dataset.save_to_disk or DatasetDict.save_to_disk wrote; one without a name is test."""
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever damaged files lead to
        raise InputError(f"dataset 'hf:{name}' cannot be read", f"{type(error).__name__}: {error}") from error
    splits = dict(data) if isinstance(data, datasets.DatasetDict) else {str(data.split or "test"): data}
    theirs = {split_of(re.split(r"[\[+]", each)[0]) or each: each for each in splits}
    check_split(f"hf:{name}", split, theirs)
    return splits[theirs[split]]


def read_hub(name: str, split: str, image_column: str | None = None, label_column: str | None = None) -> Read:
    """A data set of the hub: NAME, or NAME:CONFIG, or OWNER/NAME/CONFIG."""
    source, config = name, None
    if not os.path.exists(os.path.expanduser(name)) and (
        match := re.fullmatch(r"([^:]+):([^:]+)|(.+/.+)/([^/]+)", name)
    ):
        source, config = (match[1], match[2]) if match[1] else (match[3], match[4])
    data = from_hub(source, split, config)
    import datasets

    columns = data.features
    pictures = [c for c in columns if isinstance(columns[c], datasets.Image)]
    image = _column(name, "image", image_column, pictures, ("image", "img", "jpg", "webp", "png"))
    usual = ("label", "labels", "fine_label", "cls")
    labelled = [c for c in columns if isinstance(columns[c], datasets.ClassLabel) or c in usual]
    if label_column in columns:
        labelled = [label_column]
    label = _column(name, "label", label_column, labelled, usual)

    labels, classes = list(data[label][:]), [each.strip() for each in getattr(columns[label], "names", [])]
    for row, value in enumerate(labels):
        if not isinstance(value, str | int):
            found = f"row {row} of column {label!r} of {split!r} is {value!r:.60}"
            raise InputError(f"dataset 'hf:{name}'", f"{found}, wanted one class for each image")
    if labels and all(isinstance(value, str) for value in labels):
        labels = [value.strip() for value in labels]  # as those of a csv
        ids, classes = class_ids(labels)
        labels = [ids[value] for value in labels]
    if not all(isinstance(value, int) and value >= 0 for value in labels):
        raise InputError(
            f"dataset 'hf:{name}'", f"column {label!r} of {split!r} holds {labels[:3]}..., wanted class ids"
        )
    encoded = data.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    images = ImageFiles(lambda k: hub_cell(encoded[k][image], f"{k} of hf:{name} {split}"), len(labels))
    return [int(value) for value in labels], list(classes), images, []


def _column(name: str, kind: str, asked: str | None, found: list[str], preferred: tuple[str, ...]) -> str:
    """The column to read: the one that was asked for, the first preferred name among those found, else the only one."""
    if asked is not None:
        if asked not in found:
            raise InputError(
                f"--{kind}_column {asked}", f"hf:{name} has the {kind} columns {', '.join(found) or 'none'}"
            )
        return asked
    for column in preferred:
        if column in found:
            return column
    if len(found) != 1:
        flag = f"; --{kind}_column chooses one" if found else ""
        raise InputError(f"dataset 'hf:{name}'", f"wanted one {kind} column, found {', '.join(found) or 'none'}{flag}")
    return found[0]
