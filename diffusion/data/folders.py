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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.data.catalogue import NO_LABEL
from diffusion.data.classnames import misspelt
from diffusion.data.dataset import Dataset
from diffusion.data.images import listed
from diffusion.io.reading import is_id
from diffusion.io.wording import count, few

SPLIT_WORDS = {  # names of splits in lower case -> split
    "train": "train", "training": "train", "trainval": "trainval",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
BESIDE_SPLIT = "data|dataset|folder|images?|imgs?|seg|sets?|splits?"  # words beside these in the names of folders
TEXTS = {  # files that often lie beside images, besides those that mimetypes calls texts
    ".cfg", ".db", ".ini", ".jsonl", ".lock", ".log", ".parquet", ".pdf", ".pkl", ".pt", ".sqlite", ".toml", ".yaml",
    ".yml",
}  # fmt: skip
LEFT_BEHIND = {  # files and folders of operating systems and downloaders
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
    readable = Image.OPEN.keys() - NO_IMAGES
    return {suffix for suffix, kind in formats.items() if kind in readable}


def suffix_of(path: str) -> str:
    """The suffix of a path in lower case, such as .jpg; "" if it has none."""
    return os.path.splitext(path)[1].lower()


def is_image_name(path: str) -> bool:
    """Whether a path has the suffix of an image that Pillow reads."""
    return suffix_of(path) in suffixes()


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
        with os.scandir(self.path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        files = []
        folders = []
        for entry in entries:
            if is_left_behind(entry.name):
                continue
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
        return list(filter(is_image_name, self.files(deep)))

    @functools.cached_property
    def has_images(self) -> bool:
        """Whether it or a folder below it holds an image."""
        return any(map(is_image_name, self.files()))

    @property
    def with_images(self) -> list["Folder"]:
        """The folders in it that hold images."""
        return [folder for folder in self.folders if folder.has_images]


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
    counts = Counter(map(suffix_of, others)).most_common()
    kinds = few([f"{suffix or 'no suffix'} ({n})" for suffix, n in counts], 5)
    first = os.path.relpath(others[0], folder.path)
    wanted = f"such as {first}; wanted images as png, jpg, tif, webp or another that Pillow reads"
    warnings.warn(f"dataset {name!r}: files left out by their suffix: {kinds}, {wanted}", InputWarning, stacklevel=2)


def warn_of_misspelt(name: str, counts: Mapping[str, int]) -> None:
    """Warn of classes that may be misspelt names of others; counts: name of a class -> its images."""
    found = []
    for rare, usual in misspelt(counts):
        found.append(f"class {rare!r} has {count(counts[rare], 'image')}, {usual!r} {counts[usual]:,}")
    if found:
        warnings.warn(f"dataset {name!r}: {few(found, 3, '; ')}: a misspelling?", InputWarning, stacklevel=2)


# ---- labels ----


def from_files(paths: Sequence[str], labels: list[int], classes: Sequence[str] = (), below: str = "") -> Dataset:
    """Images in files; their names are as from the folder `below`, or the last part of paths that lie elsewhere."""
    start = os.path.join(below, "") if below else ""
    names = []
    for path in paths:
        if path.startswith(start) and (start or not os.path.isabs(path)):
            names.append(path[len(start) :])
        else:
            names.append(os.path.basename(path))
    return Dataset(labels, list(classes), listed(paths), names)


def from_class_folders(folder: Path, ids: dict[str, int], classes: Iterable[str] = ()) -> Dataset:
    """A folder of class folders, in the order of `ids` (folder name -> class id); other folders are passed over."""
    top = Folder(folder)
    images = {}
    for class_folder in top.folders:
        if class_folder.name in ids:
            images[class_folder.name] = class_folder.images()
    return from_images_by_class(top, images, ids, classes)


def from_images_by_class(
    folder: Folder, images: dict[str, list[str]], ids: dict[str, int], classes: Iterable[str]
) -> Dataset:
    """The images of each class folder, in the order of `ids` (folder name -> class id). InputError: there is none."""
    paths: list[str] = []
    labels: list[int] = []
    for name, class_id in ids.items():
        of_class = images.get(name, [])
        paths += of_class
        labels += [class_id] * len(of_class)
    if not paths:
        example = next(iter(ids), "cat")
        raise InputError(f"no image in {folder}", f"wanted class folders such as {example!r} with images")
    return from_files(paths, labels, list(classes), folder.path)


def class_ids(names: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Name -> class id, and the classes: whole numbers are ids already, other names are numbered in sorted order.

    InputError if two names are one number, as 1 and 01.
    """
    names = sorted(set(names))
    if not all(map(is_id, names)):
        return {name: i for i, name in enumerate(names)}, names
    ids: dict[str, int] = {}
    name_of: dict[int, str] = {}
    for name in sorted(names, key=int):
        class_id = int(name)
        if class_id in name_of:
            both = f"classes {name_of[class_id]!r} and {name!r}"
            raise InputError(both, f"are both the class id {class_id}; wanted one name for each class")
        ids[name] = class_id
        name_of[class_id] = name
    return ids, []


# ---- splits ----


def check_split(name: str, split: str, splits: Iterable[str]) -> None:
    """Raises InputError unless the data has this split."""
    if split not in splits:
        why = f"it has {', '.join(sorted(splits))}"
        if list(splits) == ["test"]:
            why = f"it is not split, all its images are test; --split test, or put them into {split}/ and test/"
        raise InputError(f"dataset {name!r}", f"no split {split!r}: {why}")


def split_words(name: str) -> tuple[str | None, str]:
    """The split that a folder is named after, as train, Training_set or val2017; and the other words of its name.

    ("train", "") for images-train, ("test", "birds") for birds_test, (None, ...) for others.
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    splits = []
    others = []
    for word in words:
        bare = re.sub(f"(?:{BESIDE_SPLIT})$", "", word)
        split = SPLIT_WORDS.get(word) or SPLIT_WORDS.get(bare)
        if split:
            splits.append(split)
        elif bare:
            others.append(bare)
    split = splits[0] if len(splits) == 1 else None
    return split, " ".join(others)


def split_of(name: str) -> str | None:
    """The split that a folder or a cell is named after, if its name has no other words."""
    split, rest = split_words(name)
    return None if rest else split


def unwrapped(folder: Folder) -> Folder:
    """The folder itself, or the only one in it, as in an archive that was unpacked into one more folder."""
    while len(folder.with_images) == 1 and not folder.images(deep=False):
        (only,) = folder.with_images
        is_other_split = split_of(only.name) and split_of(folder.name) != split_of(only.name)
        if not only.with_images or is_other_split:
            break
        folder = only
    return folder


def _is_split(folder: Folder) -> bool:
    """Whether folders in it that hold images are named after different splits."""
    splits = {split_of(inside.name) for inside in folder.with_images}
    return len(splits - {None}) > 1


def split_folders(name: str, folder: Folder) -> dict[str, Folder]:
    """Split -> the folder in `folder` that holds it; nothing if the folders are classes.

    Folders are splits if at least two are named after different splits, or if all that hold images are. Others beside
    them are then left out, with a warning if they hold images. InputError if it cannot be decided.
    """
    inside = {each.name: each for each in folder.with_images}
    splits = {}
    for folder_name in inside:
        split = split_of(folder_name)
        if split:
            splits[folder_name] = split
    splits = splits or _splits_of_one_name(name, list(inside))
    if not splits:
        return {}

    others = sorted(inside.keys() - splits.keys())
    if len(set(splits.values())) == 1 and others:
        first = next(iter(splits))
        if inside[first].with_images and not any(inside[other].with_images for other in others):
            beside = f"{first} holds class folders, and beside it are {few(others)} with images"
            problem = f"{beside}: is {first} a split or a class? Wanted it alone, or renamed"
            raise InputError(f"dataset {name!r}", problem)
        return {}
    by_split = {split: inside[folder_name] for folder_name, split in splits.items()}
    if len(by_split) < len(splits):
        raise InputError(f"dataset {name!r}", f"{', '.join(splits)} are several folders for one split")
    if others:
        beside = f"beside the splits {', '.join(splits)} are left out: {few(others, 5)}"
        warnings.warn(f"dataset {name!r}: folders {beside}", InputWarning, stacklevel=2)
    return by_split


def _splits_of_one_name(name: str, inside: list[str]) -> dict[str, str]:
    """Folder -> split, for folders such as birds_train and birds_test. InputError if there are other such pairs."""
    by_rest: dict[str, dict[str, str]] = {}
    for folder_name in inside:
        split, rest = split_words(folder_name)
        if split:
            by_rest.setdefault(rest, {})[folder_name] = split

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
    if folder.folders and all(re.fullmatch(r"session-\d+", session.name) for session in folder.folders):
        check_split(name, split, ["test"])
        return replace(read_sessions(folder), has_splits=False)
    splits = split_folders(name, folder)
    if splits:
        check_split(name, split, splits)
        folder = unwrapped(splits[split])
    warn_of_others(name, folder)

    alone = folder.images(deep=False)
    images = {inside.name: inside.images() for inside in folder.folders}
    with_images = folder.with_images
    in_classes = not splits and len(with_images) > 1 and all(map(_is_split, with_images))  # CLASS/train, CLASS/test
    if in_classes:
        images |= _images_of_split(name, split, with_images)
    elif not splits:
        check_split(name, split, ["test"])
    has_splits = in_classes or bool(splits)

    if alone and len(with_images) < 2:  # with images beside it, one folder is no choice of classes
        alone = folder.images()
        data = from_files(alone, [NO_LABEL] * len(alone), (), folder.path)
        return replace(data, has_splits=has_splits)
    if alone:
        beside = f"images beside class folders are left out, {len(alone)} of them such as {os.path.basename(alone[0])}"
        warnings.warn(f"dataset {name!r}: {beside}", InputWarning, stacklevel=1)
    empty = [folder_name for folder_name, found in images.items() if not found]
    if empty:
        named = few(empty, 5)
        if not with_images:
            raise InputError(f"no image in {folder}", f"wanted class folders with images; these have none: {named}")
        warnings.warn(f"dataset {name!r}: folders without images are no classes: {named}", InputWarning, stacklevel=1)
    warn_of_misspelt(name, {class_folder.name: len(images[class_folder.name]) for class_folder in with_images})
    data = from_images_by_class(folder, images, *class_ids(class_folder.name for class_folder in with_images))
    return replace(data, has_splits=has_splits)


def _images_of_split(name: str, split: str, class_folders: list[Folder]) -> dict[str, list[str]]:
    """Class -> its images in a split, of CLASS/train, CLASS/test. InputError if no class has this split."""
    found = {}
    splits: set[str] = set()
    for class_folder in class_folders:
        by_split = split_folders(name, class_folder)
        splits |= by_split.keys()
        if split in by_split:
            found[class_folder.name] = by_split[split].images()
    check_split(name, split, splits)
    return found


def read_sessions(folder: Folder) -> Dataset:
    """A data set of model-vs-human: session-1/_ _ _CONDITION_CLASS_..., the class in the file's name."""
    paths = folder.images()
    names = []
    for path in paths:
        parts = os.path.basename(path).split("_")
        if len(parts) < 6:
            raise InputError(path, "wanted a name such as 0001_cl_dnn_CONDITION_CLASS_10_n02835271_2389.png")
        names.append(parts[4])
    is_sixteen = set(names) <= set(SIXTEEN)
    ids, classes = class_ids(SIXTEEN if is_sixteen else names)
    return from_files(paths, [ids[class_name] for class_name in names], classes, folder.path)


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
    return replace(from_files([path], [NO_LABEL], (), os.path.dirname(path)), has_splits=False)
