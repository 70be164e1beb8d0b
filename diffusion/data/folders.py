"""A user's images in folders.

    FOLDER/CLASS/a.jpg            classes are the folders, at any depth below; also FOLDER/{train,val,test}/CLASS/a.jpg,
                                  with split folders of other names, such as training_set, and anything beside them
    FOLDER/a.jpg, a.jpg           images without labels
    FOLDER/session-1/...          model-vs-human's, whose classes are in the files' names

Whole numbers as class names are class ids; other names are numbered in sorted order.
"""

import functools
import mimetypes
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.data.catalogue import NO_LABEL
from diffusion.data.dataset import Dataset
from diffusion.data.images import listed
from diffusion.io.reading import is_id
from diffusion.io.wording import few

SPLIT_WORDS = {  # what splits are called, whatever the case
    "train": "train", "training": "train", "trainval": "trainval",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
BESIDE_SPLIT = "data|dataset|folder|images?|imgs?|seg|sets?|splits?"  # words beside these in the names of folders
TEXTS = {  # what lies beside images and is none, whatever mimetypes makes of it
    ".cfg", ".db", ".ini", ".jsonl", ".lock", ".log", ".parquet", ".pdf", ".pkl", ".pt", ".sqlite", ".toml", ".yaml",
    ".yml",
}  # fmt: skip
LEFT_BEHIND = {  # by systems and downloaders
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini",
}  # fmt: skip
SIXTEEN = (  # the classes of model-vs-human (arXiv 1808.08750)
    "airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat", "chair", "clock", "dog", "elephant",
    "keyboard", "knife", "oven", "truck",
)  # fmt: skip
NO_IMAGES = {"EPS", "PDF", "PSD", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FITS"}  # Pillow cannot draw them alone


# ---- what lies in folders ----


@functools.cache
def suffixes() -> set[str]:
    """The suffixes of the formats that Pillow reads, such as .jpg."""
    formats = Image.registered_extensions()
    return {suffix for suffix, kind in formats.items() if kind in Image.OPEN and kind not in NO_IMAGES}


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def is_image_name(name: str) -> bool:
    return suffix_of(name) in suffixes()


def is_left_behind(name: str) -> bool:
    """Whether systems and downloaders leave files and folders of this name behind."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


class Folder:
    """A folder on disk. It is listed when something is asked of it for the first time, and only once.

    Links to folders are followed, as by torchvision's ImageFolder. A link to a folder that contains the link is not:
    its images would come again and again, as those of a wrong class.
    """

    def __init__(self, path: str | Path, above: tuple[str, ...] = ()):
        """`above`: the real paths of this folder and of those that it was reached through."""
        self.path = str(path)
        self.name = os.path.basename(self.path)
        self.above = above or (os.path.realpath(self.path),)

    def __str__(self) -> str:
        return self.path

    @functools.cached_property
    def _listing(self) -> tuple[list[str], list["Folder"]]:
        """Names of files, and folders. OSError if the folder cannot be listed."""
        with os.scandir(self.path) as entries:
            kept = sorted((entry for entry in entries if not is_left_behind(entry.name)), key=lambda entry: entry.name)
        files = []
        folders = []
        for entry in kept:
            if not entry.is_dir():
                files.append(entry.name)
                continue
            real = os.path.join(self.above[-1], entry.name)
            if entry.is_symlink():
                real = os.path.realpath(entry.path)
                if any(Path(other).is_relative_to(real) for other in self.above):
                    continue
            folders.append(Folder(os.path.join(self.path, entry.name), (*self.above, real)))
        return files, folders

    @property
    def folders(self) -> list["Folder"]:
        """The folders in it, sorted by name."""
        return self._listing[1]

    def files(self, deep: bool = True) -> Iterator[str]:
        """Paths of its files, sorted by name; with `deep`, then those of the folders in it."""
        for name in self._listing[0]:
            yield os.path.join(self.path, name)
        if deep:
            for folder in self.folders:
                yield from folder.files()

    def images(self, deep: bool = True) -> list[str]:
        """`files` that are images by their suffix."""
        return [path for path in self.files(deep) if is_image_name(path)]

    @functools.cached_property
    def has_images(self) -> bool:
        return any(is_image_name(name) for name in self._listing[0]) or any(each.has_images for each in self.folders)

    @property
    def full(self) -> list["Folder"]:
        """The folders in it that hold images."""
        return [each for each in self.folders if each.has_images]


def warn_of_others(name: str, folder: Folder) -> None:
    """Warn of the files of a folder that are neither images by their suffix nor texts, tables and the like."""
    others = []
    for path in folder.files():
        if is_image_name(path) or suffix_of(path) in TEXTS:
            continue
        kind = mimetypes.guess_type(os.path.basename(path))[0] or ""
        if not kind.startswith("text/") and kind not in ("application/json", "application/xml"):
            others.append(path)
    if not others:
        return
    counts = Counter(suffix_of(path) or "no suffix" for path in others).most_common()
    kinds = few([f"{suffix} ({n})" for suffix, n in counts], 5)
    first = os.path.relpath(others[0], folder.path)
    wanted = f"such as {first}; wanted images as png, jpg, tif, webp or another that Pillow reads"
    warnings.warn(f"dataset {name!r}: files left out by their suffix: {kinds}, {wanted}", InputWarning, stacklevel=2)


# ---- labels ----


def in_files(paths: Sequence[str], labels: list[int], classes: Sequence[str] = (), below: str = "") -> Dataset:
    """Images in files; their names are as from the folder `below`, or the last part of paths that lie elsewhere."""
    start = os.path.join(below, "") if below else ""
    names = []
    for path in paths:
        inside = path.startswith(start) and not (os.path.isabs(path) and not start)
        names.append(path[len(start) :] if inside else os.path.basename(path))
    return Dataset(labels, list(classes), listed(paths), names)


def tree(folder: Path, ids: dict[str, int], classes: Iterable[str] = ()) -> Dataset:
    """A folder of class folders, in the order of `ids` (folder name -> class id); other folders are passed over."""
    top = Folder(folder)
    inside = {each.name: each.images() for each in top.folders if each.name in ids}
    return of_classes(top, inside, ids, classes)


def of_classes(folder: Folder, inside: dict[str, list[str]], ids: dict[str, int], classes: Iterable[str]) -> Dataset:
    """The images inside each class folder, in the order of `ids` (folder name -> class id)."""
    paths = []
    labels = []
    for name, label in ids.items():
        images = inside.get(name, [])
        paths += images
        labels += [label] * len(images)
    if not paths:
        example = next(iter(ids), "cat")
        raise InputError(f"no image in {folder}", f"wanted class folders such as {example!r} with images")
    return in_files(paths, labels, list(classes), folder.path)


def class_ids(names: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Name -> class id, and the classes: whole numbers are ids already, other names are numbered in sorted order.

    InputError if two names are one number, as 1 and 01.
    """
    names = sorted(set(names))
    if not all(is_id(name) for name in names):
        return {name: i for i, name in enumerate(names)}, names
    ids = {name: int(name) for name in sorted(names, key=int)}
    twice = [number for number, n in Counter(ids.values()).items() if n > 1]
    if twice:
        alike = " and ".join(repr(name) for name in ids if ids[name] == twice[0])
        raise InputError(f"classes {alike}", f"are both the class id {twice[0]}; wanted one name for each class")
    return ids, []


# ---- splits ----


def check_split(name: str, split: str, splits: Iterable[str]) -> None:
    """Raises InputError unless the data has this split."""
    if split not in splits:
        why = f"it has {', '.join(sorted(splits))}"
        if list(splits) == ["test"]:
            why = f"it is not split, all its images are test; --split test, or put them into {split}/ and test/"
        raise InputError(f"dataset {name!r} has no split {split!r}", why)


def split_words(name: str) -> tuple[str | None, str]:
    """The split that a folder is named after, as train, Training_set or val2017; and the other words of its name.

    ("train", "") for images-train, ("test", "birds") for birds_test, (None, ...) for others.
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    bare = [word if word in SPLIT_WORDS else re.sub(f"(?:{BESIDE_SPLIT})$", "", word) for word in words]
    splits = [SPLIT_WORDS[word] for word in bare if word in SPLIT_WORDS]
    rest = " ".join(word for word in bare if word and word not in SPLIT_WORDS)
    return (splits[0] if len(splits) == 1 else None), rest


def split_of(name: str) -> str | None:
    """The split that a folder or a cell is named after, if its name has no other words."""
    split, rest = split_words(name)
    return None if rest else split


def unwrapped(folder: Folder) -> Folder:
    """The folder itself, or the only one in it, as in an archive that was unpacked into one more folder."""
    inside = folder.full
    while len(inside) == 1 and not folder.images(deep=False) and inside[0].full:
        (only,) = inside
        if split_of(only.name) and split_of(folder.name) != split_of(only.name):
            break
        folder, inside = only, only.full
    return folder


def _is_split(folder: Folder) -> bool:
    return len({split_of(each.name) for each in folder.full} - {None}) > 1


def split_folders(name: str, folder: Folder) -> dict[str, Folder]:
    """Split -> the folder in `folder` that holds it; nothing if the folders are classes.

    Folders are splits if at least two are named after different splits, or if all that hold images are. Others beside
    them are then left out, with a warning if they hold images. InputError if it cannot be decided.
    """
    inside = {each.name: each for each in folder.full}
    splits = {}
    for each in inside:
        split = split_of(each)
        if split:
            splits[each] = split
    splits = splits or _splits_of_one_name(name, list(inside))
    others = [each for each in inside if each not in splits]
    if not splits:
        return {}
    if len(set(splits.values())) == 1 and others:
        (first, *_) = splits
        if inside[first].full and not any(inside[each].full for each in others):
            beside = f"{first} holds class folders, and beside it are {few(others)} with images"
            problem = f"{beside}: is {first} a split or a class? Wanted it alone, or renamed"
            raise InputError(f"dataset {name!r}", problem)
        return {}
    theirs = {split: inside[each] for each, split in splits.items()}
    if len(theirs) < len(splits):
        raise InputError(f"dataset {name!r}", f"{', '.join(splits)} are several folders for one split")
    if others:
        beside = f"beside the splits {', '.join(splits)} are left out: {few(others, 5)}"
        warnings.warn(f"dataset {name!r}: folders {beside}", InputWarning, stacklevel=2)
    return theirs


def _splits_of_one_name(name: str, inside: list[str]) -> dict[str, str]:
    """Folder -> split, for folders such as birds_train and birds_test. InputError if there are other such pairs."""
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


# ---- readers ----


def read_folder(name: str, split: str) -> Dataset:
    """Class folders, or split folders of these, or images alone. InputError if there is no image."""
    try:
        return _read_folder(name, split)
    except OSError as error:
        raise InputError(f"dataset {name!r}", f"cannot be read ({error})") from error


def _read_folder(name: str, split: str) -> Dataset:
    folder = unwrapped(Folder(Path(name).expanduser()))
    if folder.folders and all(re.fullmatch(r"session-\d+", each.name) for each in folder.folders):
        check_split(name, split, ["test"])
        return read_sessions(folder)
    splits = split_folders(name, folder)
    if splits:
        check_split(name, split, splits)
        folder = unwrapped(splits[split])
    warn_of_others(name, folder)

    alone = folder.images(deep=False)
    images = {each.name: each.images() for each in folder.folders}
    full = folder.full
    if not splits and len(full) > 1 and all(_is_split(each) for each in full):  # CLASS/train, CLASS/test
        theirs = {each.name: split_folders(name, each) for each in full}
        check_split(name, split, set().union(*theirs.values()))
        images |= {each: folders[split].images() for each, folders in theirs.items() if split in folders}
    elif not splits:
        check_split(name, split, ["test"])

    if alone and len(full) < 2:  # with images beside it, one folder is no choice of classes
        alone = folder.images()
        return in_files(alone, [NO_LABEL] * len(alone), (), folder.path)
    if alone:
        beside = f"images beside class folders are left out, {len(alone)} of them such as {os.path.basename(alone[0])}"
        warnings.warn(f"dataset {name!r}: {beside}", InputWarning, stacklevel=1)
    empty = [each for each, found in images.items() if not found]
    if empty:
        named = few(empty, 5)
        if not full:
            raise InputError(f"no image in {folder}", f"wanted class folders with images; these have none: {named}")
        warnings.warn(f"dataset {name!r}: folders without images are no classes: {named}", InputWarning, stacklevel=1)
    return of_classes(folder, images, *class_ids(each.name for each in full))


def read_sessions(folder: Folder) -> Dataset:
    """A data set of model-vs-human: session-1/_ _ _CONDITION_CLASS_..., the class in the file's name."""
    paths = folder.images()
    names = []
    for path in paths:
        parts = os.path.basename(path).split("_")
        if len(parts) < 6:
            raise InputError(path, "wanted a name such as 0001_cl_dnn_CONDITION_CLASS_10_n02835271_2389.png")
        names.append(parts[4])
    ids, classes = class_ids(SIXTEEN if set(names) <= set(SIXTEEN) else names)
    return in_files(paths, [ids[each] for each in names], classes, folder.path)


def read_image(name: str, split: str, tables: Sequence[str]) -> Dataset:
    """One image without a label. InputError, which names the suffixes of `tables` too, if it is none."""
    check_split(name, split, ["test"])
    path = str(Path(name).expanduser())
    if not is_image_name(path):
        try:
            with Image.open(path):
                pass
        except Exception as error:
            wanted = ", ".join(tables)
            raise InputError(f"dataset {name!r}", f"is neither an image that Pillow reads nor {wanted}") from error
    return in_files([path], [NO_LABEL], (), os.path.dirname(path))
