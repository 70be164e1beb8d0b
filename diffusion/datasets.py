"""One table of datasets, the two crops, and the prompts csv.

Each data set lies under `root` in a folder of its own name, laid out as torchvision lays it out (`root/NAME/FOLDER`);
`root/FOLDER` will do as well. Nothing is downloaded. FOLDER is

    pets            oxford-iiit-pet/{images/, annotations/{trainval,test}.txt}
    flowers         flowers-102/{jpg/, imagelabels.mat, setid.mat}
    stl10           stl10_binary/{train,test,unlabeled}_X.bin, {train,test}_y.bin, class_names.txt
    mnist           MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte
    fashion-mnist   FashionMNIST/raw/, the same files
    cifar10         cifar-10-batches-py/
    cifar100        cifar-100-python/
    food            food-101/{images/, meta/{train,test}.json}
    aircraft        fgvc-aircraft-2013b/data/{images/, variants.txt, images_variant_{trainval,test}.txt}
    caltech101      caltech101/101_ObjectCategories/CLASS/
    eurosat         eurosat/2750/CLASS/
    imagenet        {train,val}/SYNSET/                             'test' is the 50,000 of val, as everywhere
    imagenetv2      imagenetv2-matched-frequency-format-val/ID/     the folder's number is the class id
    imagenetA       imagenet-a/SYNSET/                              200 synsets; class ids are those of the 1000
    objectnet       objectnet-1.0/{images/CLASS/, mappings/}        the 113 classes that ImageNet knows

`digits`, `digits-colour`, `digits-unseen` and `digits-two` need no files. Own data is named by its path: a folder of
class folders (or of `train`, `val`, `test` folders of those), or a csv with columns path,label. `hf:NAME` is a data set
of the Hugging Face hub, or a local folder that its library reads.

Labels are known at once; images are decoded one at a time, when asked for, so one unreadable file costs one image.
"""

import csv
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torchvision.datasets as tv
import torchvision.transforms.functional as TF
from PIL import Image, ImageOps
from torch import Tensor

from diffusion import InputError, InputWarning, digits, one_line

PROMPTS = Path(__file__).parent.parent / "prompts"

Read = tuple[list[int], list[str], Callable[[int], Image.Image]]  # labels, classes, open

SPLITS = ("train", "val", "trainval", "test")
INTERPOLATION = {
    "bilinear": TF.InterpolationMode.BILINEAR,
    "bicubic": TF.InterpolationMode.BICUBIC,
    "lanczos": TF.InterpolationMode.LANCZOS,
}
SAME_PROMPTS = {"imagenetv2": "imagenet", "digits-unseen": "digits-colour"}  # scored with the prompts of another
DIGITS_SEED = 2303  # with an image's index, the seed of its canvas: changing it changes the embedded data sets


@dataclass(frozen=True)
class Dataset:
    """Images by index: `labels[k]` is the class id of image k, `open(k)` decodes it (RGB; OSError if unreadable)."""

    name: str
    split: str
    labels: list[int]
    classes: list[str]  # names by class id; empty where the data does not say
    open: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.labels)


def load_dataset(name: str, split: str = "test", root: str | Path = "/datasets") -> Dataset:
    """The data set called `name` (see above). InputError: unknown name, missing or damaged data, no such split."""
    try:
        if name in TABLE:
            read = _read_known(name, split, Path(root))
        elif name.startswith("hf:") and name != "hf:":
            read = _read_hub(name.removeprefix("hf:"), split)
        elif name.endswith(".csv"):
            read = _read_csv(name, split)
        elif os.path.isdir(os.path.expanduser(name)):  # as Path's, but any text will do
            read = _read_folder(name, split)
        else:
            known = ", ".join(TABLE)
            raise InputError(f"dataset {name!r} is none of {known}, nor hf:NAME, a folder that exists or a .csv")
    except ImportError as error:
        missing = f"the package {error.name!r}: pip install -e '.[all]'"
        raise InputError(f"dataset {name!r} needs {missing}") from error
    return Dataset(name, split, *read)


# ---- images and crops ----


def open_rgb(file: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """The image in `file` as RGB; OSError naming it (or `name`) whatever keeps it from being decoded whole."""
    try:
        with Image.open(file) as image:
            return to_rgb(image)
    except Exception as error:  # decoders raise SyntaxError, ValueError, DecompressionBombError, ... on bad files
        raise OSError(f"cannot read image {name or file}: {_said(error)}") from error


def hub_image(cell: dict | None, name: str) -> Image.Image:
    """The image in an undecoded cell of the hub's library, {"bytes", "path"}: one or the other. OSError as open_rgb."""
    if cell is None:
        raise OSError(f"{name} is missing")
    return open_rgb(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"]), name)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB: upright by its EXIF tag, on white where transparent, deep greys scaled, not clipped.

    16 and 32-bit integers count as 0..65535 and floats as 0..1, 0..255 or 0..65535, the first that holds the image;
    beyond 65535, white is the image's own maximum.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        x = np.nan_to_num(np.asarray(image, dtype=np.float64))
        ranges = (1, 255, 65535) if image.mode == "F" else (65535,)
        white = next((top for top in ranges if x.max() <= top), x.max())
        image = Image.fromarray((x.clip(0, white) * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def centre_crop(image: Image.Image, size: int, interpolation: str = "bicubic") -> Tensor:
    """The middle square of an RGB image, its short side resized to `size` -> [3, size, size] float32 in [-1, 1]."""
    image = TF.resize(image, size, INTERPOLATION[interpolation])
    return TF.to_tensor(TF.center_crop(image, [size, size])) * 2 - 1


def adm_crop(image: Image.Image, size: int) -> Tensor:
    """The crop that ADM and DiT were trained on, of an RGB image -> [3, size, size] float32 in [-1, 1].

    Halved by box filter while the short side is at least 2 size, then bicubic to size, then the middle.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2  # rounds down; torchvision's centre is to even
    return TF.to_tensor(image.crop((left, top, left + size, top + size))) * 2 - 1


def as_seen(dataset: Dataset, index: int, options: dict) -> np.ndarray:
    """Image `index` as the run of these options (of its run.json) cropped it, to look at. [h, w, 3] in 0..1

    Raises InputError when it cannot be read any more.
    """
    size, interpolation = options.get("img_size", 224), options.get("interpolation", "bicubic")
    try:
        image = dataset.open(index)
    except OSError as error:
        raise InputError(f"image {index} of {dataset.name} cannot be read any more: {error}") from None
    x = adm_crop(image, size) if interpolation == "adm" else centre_crop(image, size, interpolation)
    return (x.permute(1, 2, 0).numpy() + 1) / 2


# ---- prompts and weights ----


@dataclass(frozen=True)
class Prompts:
    """One entry per arm: the prompt, the name of its class, the class id and, where classes have one, its group."""

    texts: list[str]
    names: list[str]
    classes: list[int]
    groups: list[str] | None = None


def read_prompts(path: str | Path) -> Prompts:
    """The arms in a csv with columns prompt,classname,classidx and, if classes have groups, group.

    InputError names the file and the line at fault.
    """
    rows = _rows(path, ("prompt", "classname", "classidx"), ("group",))
    group_of: dict[int, str] = {}
    for line, (text, _, class_id, *group) in rows.items():
        if not text.strip():
            raise InputError(f"{path}, line {line}: the prompt is empty")
        if not _is_id(class_id):
            raise InputError(f"{path}, line {line}: classidx is {class_id!r}, wanted an integer from 0 up")
        if group and group != [known := group_of.setdefault(int(class_id), group[0])]:
            raise InputError(f"{path}, line {line}: class {class_id} is in group {group[0]!r}, and above in {known!r}")
    texts, names, ids, *groups = (list(column) for column in zip(*rows.values(), strict=True))
    if len({int(i) for i in ids}) < 2:
        raise InputError(f"{path}: every prompt has classidx {int(ids[0])}, wanted at least two classes")
    return Prompts(texts, names, [int(i) for i in ids], *groups)


def prompts_file(dataset: str) -> str:
    """The name of the csv in prompts/ that a known data set is scored with."""
    return f"{SAME_PROMPTS.get(dataset, dataset).replace('-', '_')}_prompts.csv"


def duplicates(prompts: Prompts) -> list[tuple[str, list[str]]]:
    """Prompts that stand for more than one class, each with the names of the classes it cannot tell apart."""
    meanings: dict[str, dict[int, str]] = {}
    for text, name, class_id in zip(prompts.texts, prompts.names, prompts.classes, strict=True):
        meanings.setdefault(text, {}).setdefault(class_id, name)
    return [(text, list(names.values())) for text, names in meanings.items() if len(names) > 1]


def prompts_for(name: str, dataset: Dataset, path: Path | None = None) -> Prompts:
    """The prompts of a csv, or of the data set `name`'s own, or "a photo of a CLASS." for data without one.

    Raises InputError when they are not prompts for the classes of the data set; warns of classes with the same prompt.
    """
    if path:
        prompts = read_prompts(path)
    elif name in TABLE:
        prompts = read_prompts(PROMPTS / prompts_file(name))
    elif len(dataset.classes) < 2:
        raise InputError(f"--dataset {name}: its classes have no names, so it needs --prompt_path")
    else:
        texts = [f"a photo of a {known.replace('_', ' ')}." for known in dataset.classes]
        prompts = Prompts(texts, dataset.classes, list(range(len(texts))))
    missing = sorted(set(dataset.labels) - set(prompts.classes))
    if missing:
        raise InputError(f"the prompts have no class {missing[:10]}, which images of {name} are labelled with")
    unused = sorted(c for c in set(prompts.classes) if c >= len(dataset.classes) > 0)
    if unused:
        raise InputError(f"the prompts have class ids {unused[:10]}, {name} only 0..{len(dataset.classes) - 1}")
    for prompt, names in duplicates(prompts):
        alike = f"{prompt!r} stands for {' and '.join(names)}: they cannot be told apart"
        warnings.warn(alike, InputWarning, stacklevel=1)
    return prompts


def _rows(path: str | Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[int, list[str]]:
    """Line number -> the fields of `columns` and of those `optional` ones that there are, as text.

    The csv module and not pandas: it keeps "None" and "nan" as they are, counts lines, and leaves rows with an
    unquoted comma too long, where pandas moves every column by one.
    """
    rows = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [column.strip() for column in next(reader, [])]
            missing = [column for column in columns if column not in header]
            columns += tuple(column for column in optional if column in header)
            if missing:
                found = ", ".join(header) or "an empty file"
                raise InputError(f"{path}: no column {', '.join(missing)}; found {found}")
            for row in reader:
                if not row:  # a blank line
                    continue
                if len(row) != len(header):
                    sizes = f"{len(row)} fields, wanted {len(header)}"
                    raise InputError(f"{path}, line {reader.line_num}: {sizes}; quote a text that has commas")
                rows[reader.line_num] = [row[header.index(column)] for column in columns]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as csv: {_said(error)}") from error
    if not rows:
        raise InputError(f"{path}: no row below the header {','.join(header)}")
    return rows


def read_weights(path: Path | None, T: int) -> np.ndarray:
    """What an error counts at each of T levels, from a csv with the columns level,weight. [T] float64, their mean is 1

    Between the levels of the csv weights are interpolated, beyond them they are those of the ends; without a csv they
    are all 1. InputError names the file and the line at fault.
    """
    if path is None:
        return np.ones(T)
    weights: dict[int, float] = {}
    for line, (level, weight) in _rows(path, ("level", "weight")).items():
        if not _is_id(level) or int(level) >= T:
            raise InputError(f"{path}, line {line}: level is {level!r}, wanted an integer in 0..{T - 1}")
        if int(level) in weights:
            raise InputError(f"{path}, line {line}: level {int(level)} stands there twice")
        try:
            weights[int(level)] = float(weight)
        except ValueError:
            weights[int(level)] = math.nan
        if not 0 <= weights[int(level)] < 1e9:
            raise InputError(f"{path}, line {line}: weight is {weight!r}, wanted a number from 0 up")
    known = sorted(weights)
    table = np.interp(np.arange(T), known, [weights[level] for level in known])
    if not table.any():
        raise InputError(f"{path}: every weight is 0")
    return table / table.mean()


def read_curve(path: Path, column: str, least: int, most: int) -> dict[int, float]:
    """Accuracies, as shares, of a csv with the columns `column`,accuracy: integers in least..most, percent. Ascending

    InputError names the file and the line at fault.
    """
    curve: dict[int, float] = {}
    for line, (at, accuracy) in _rows(path, (column, "accuracy")).items():
        if not (_is_id(at) and least <= int(at) <= most):
            raise InputError(f"{path}, line {line}: {column} is {at!r}, wanted an integer in {least}..{most}")
        if int(at) in curve:
            raise InputError(f"{path}, line {line}: {column} {int(at)} stands there twice")
        try:
            curve[int(at)] = float(accuracy) / 100
        except ValueError:
            curve[int(at)] = math.nan
        if not 0 <= curve[int(at)] <= 1:
            raise InputError(f"{path}, line {line}: accuracy is {accuracy!r}, wanted percent, from 0 to 100")
    if max(curve.values()) <= 0.01:
        raise InputError(f"{path}: no accuracy is above 1, wanted percent")
    return dict(sorted(curve.items()))


# ---- readers: each gives labels, classes and a function that opens image k ----


def _files(paths: Iterable[str | Path], labels: Iterable[int], classes: Iterable[str] = ()) -> Read:
    paths = list(paths)
    return [int(label) for label in labels], list(classes), lambda k: open_rgb(paths[k])


def _arrays(images: np.ndarray, labels: Iterable[int], classes: Iterable[str] = ()) -> Read:
    """images [n, h, w] or [n, h, w, 3] uint8."""
    return [int(label) for label in labels], list(classes), lambda k: to_rgb(Image.fromarray(images[k]))


def _listed(data, paths: str = "_image_files") -> Read:
    """A torchvision data set that keeps paths. Its own loader is passed over: it knows neither EXIF nor deep greys."""
    return _files(getattr(data, paths), data._labels, getattr(data, "classes", ()))


def _stored(data) -> Read:
    """A torchvision data set that keeps pixels."""
    return _arrays(np.asarray(data.data), data.targets, data.classes)


def _stl10(folder: Path, split: str) -> Read:
    data = tv.STL10(folder.parent, split)
    return _arrays(data.data.transpose(0, 2, 3, 1), data.labels, getattr(data, "classes", ()))


def _tree(folder: Path, ids: dict[str, int], classes: Iterable[str] = ()) -> Read:
    """A folder of class folders, in the order of `ids` (folder name -> class id); other folders are passed over."""
    paths, labels = [], []
    for name, label in ids.items():
        if (folder / name).is_dir():
            found = [folder / name / file for file in sorted(os.listdir(folder / name)) if _is_image(file)]
            paths += found
            labels += [label] * len(found)
    if not paths:
        raise InputError(f"no image in {folder}: wanted class folders such as {next(iter(ids), 'cat')!r} with images")
    return _files(paths, labels, classes)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _by_name(folder: Path, names: list[str]) -> Read:
    ids = {name: i for i, name in enumerate(names)}
    return _tree(folder, ids, names)


def _caltech101(folder: Path, _split: str) -> Read:
    return _by_name(folder, [name for name in _subfolders(folder) if name != "BACKGROUND_Google"])  # 101, not 102


def _imagenet_names() -> list[str]:
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V2.meta["categories"]


def _synsets(folder: Path, _split: str) -> Read:
    """ImageNet's folders. The ids come from the whole list of 1000, so part of ImageNet keeps the ids of the whole."""
    from timm.data import ImageNetInfo

    ids = {synset: i for i, synset in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    return _tree(folder, ids, _imagenet_names())


def _imagenetv2(folder: Path, _split: str) -> Read:
    return _tree(folder, {str(i): i for i in range(1000)}, _imagenet_names())


def _objectnet(folder: Path, _split: str) -> Read:
    names = _objectnet_classes(folder)
    labels, classes, open_image = _tree(folder / "images", {name: i for i, name in enumerate(names)}, names.values())

    def open_inside(k: int) -> Image.Image:
        image = open_image(k)
        return image.crop((2, 2, image.width - 2, image.height - 2))  # ObjectNet marks its images with a red border

    return labels, classes, open_inside


def _objectnet_classes(folder: Path) -> dict[str, str]:
    """Folder name -> class name, of the classes that ImageNet has too, in sorted order of the folders."""
    names = json.loads((folder / "mappings/folder_to_objectnet_label.json").read_text())
    shared = json.loads((folder / "mappings/objectnet_to_imagenet_1k.json").read_text())
    return {key: names[key] for key in sorted(names) if names[key] in shared}


def objectnet_classes(root: str | Path = "/datasets") -> list[str]:
    """ObjectNet's class names by class id. InputError where its own files are not to be had."""
    folder = _find("objectnet", "objectnet-1.0", Path(root))
    try:
        return list(_objectnet_classes(folder).values())
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{folder / 'mappings'} cannot be read: {_said(error)}") from error


def objectnet_imagenet_ids(root: str | Path = "/datasets") -> list[list[int]]:
    """For each ObjectNet class id, the ImageNet class ids that mean it: by these a model of ImageNet is scored.

    ObjectNet's files chain them: class -> ImageNet labels, label -> line number (an ILSVRC2012 id) -> class id.
    InputError where one of them is missing or does not fit the others.
    """
    folder = _find("objectnet", "objectnet-1.0", Path(root))
    try:
        shared = json.loads((folder / "mappings/objectnet_to_imagenet_1k.json").read_text())
        lines = json.loads((folder / "mappings/pytorch_to_imagenet_2012_id.json").read_text())
        labels = (folder / "mappings/imagenet_to_label_2012_v2").read_text().splitlines()
        ids = {labels[line].strip(): int(i) for i, line in lines.items()}
        return [[ids[label] for label in shared[name].split("; ")] for name in _objectnet_classes(folder).values()]
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{folder / 'mappings'} cannot be read: {_said(error)}") from error


def class_arms(name: str, n_classes: int, root: str | Path = "/datasets") -> dict[int, int]:
    """Class id of a model of `n_classes` -> class id of the data set: the arms when a model is told class ids.

    ImageNet-A asks for its 200 only; an ObjectNet class may be several of ImageNet's; elsewhere the two are the same.
    """
    if name == "imagenetA":
        lines = (resources.files("timm") / "data/_info/imagenet_a_indices.txt").read_text().split()
        return {int(i): int(i) for i in lines}
    if name == "objectnet":
        return {i: k for k, ids in enumerate(objectnet_imagenet_ids(root)) for i in ids}
    return {i: i for i in range(n_classes)}


def model_arms(
    name: str, dataset: Dataset, model: str, n_classes: int, root: str | Path = "/datasets"
) -> dict[int, int]:
    """`class_arms` of a `model` of `n_classes`; InputError where the classes of the data set are not the model's."""
    arms = class_arms(name, n_classes, root)
    known = len(dataset.classes) if name != "objectnet" else 1000
    if known not in (0, n_classes):  # 0: own data, whose folders are named by the class ids
        raise InputError(f"--dataset {name}: is of {known} classes, {model} knows {n_classes}")
    if strange := sorted(set(dataset.labels) - set(arms.values())):
        raise InputError(f"--dataset {name}: labels {strange[:10]} are no classes of {model}")
    return arms


def _digits(split: str, pairs: list[tuple[int, int]], coloured: bool) -> Read:
    """Every handwritten digit that `pairs` (colour, digit) has a colour for, large, in one of those colours.

    Image k is drawn from its own generator, so it does not depend on which others are opened. With `coloured` the class
    id is colour * 10 + digit, else the digit.
    """
    ink, digit = digits.handwriting(split)
    colours = digits.colours_of(pairs)
    kept = [j for j, d in enumerate(digit) if colours[d]]

    def choose(j: int) -> tuple[int, np.random.Generator]:
        rng = np.random.default_rng([j, DIGITS_SEED])
        return int(rng.choice(colours[digit[j]])), rng

    def open_canvas(k: int) -> Image.Image:
        j = kept[k]
        colour, rng = choose(j)
        canvas = digits.one(ink[j : j + 1], torch.tensor([colour]), rng)[0]  # [3, 32, 32] in 0..1
        return digits.picture(canvas)

    if coloured:
        return [choose(j)[0] * 10 + int(digit[j]) for j in kept], digits.names_of_one(), open_canvas
    return [int(digit[j]) for j in kept], list(digits.WORDS), open_canvas


def _digits_two(split: str) -> Read:
    """As many canvases as there are digits: digit j, in a colour training has shown it in, left of another such.

    The class id is 60 times the left one's among the 60 of digits-colour, plus the right one's.
    """
    ink, digit = digits.handwriting(split)
    colours = digits.colours_of(digits.SEEN)

    def choose(j: int) -> tuple[list[int], list[int], np.random.Generator]:
        rng = np.random.default_rng([2, j, DIGITS_SEED])
        both = [j, int(rng.integers(len(ink)))]
        return both, [int(rng.choice(colours[digit[k]])) for k in both], rng

    def open_canvas(j: int) -> Image.Image:
        both, colour, rng = choose(j)
        canvas = digits.two(ink[both][None], torch.tensor([colour]), np.array([False]), rng)[0]  # [3, 32, 32] in 0..1
        return digits.picture(canvas)

    labels = []
    for j in range(len(ink)):
        left, right = (10 * c + int(digit[k]) for k, c in zip(*choose(j)[:2], strict=True))
        labels.append(60 * left + right)
    return labels, digits.names_of_two(), open_canvas


# ---- the table ----


@dataclass(frozen=True)
class Source:
    """A known data set: the folder it needs (`{}` is its own split), our split -> its own, and its reader."""

    folder: str | None
    splits: dict[str, str]
    read: Callable[[Path | None, str], Read]


BOTH = {"train": "train", "test": "test"}
TRAINVAL = {"train": "trainval", "trainval": "trainval", "test": "test"}
UNSPLIT = {"test": "all"}  # no official split: every image is for testing

TABLE = {
    "pets": Source("oxford-iiit-pet", TRAINVAL, lambda f, s: _listed(tv.OxfordIIITPet(f.parent, s), "_images")),
    "flowers": Source("flowers-102", BOTH | {"val": "val"}, lambda f, s: _listed(tv.Flowers102(f.parent, s))),
    "stl10": Source("stl10_binary", BOTH, _stl10),
    "mnist": Source("MNIST", BOTH, lambda f, s: _stored(tv.MNIST(f.parent, s == "train"))),
    "fashion-mnist": Source("FashionMNIST", BOTH, lambda f, s: _stored(tv.FashionMNIST(f.parent, s == "train"))),
    "cifar10": Source("cifar-10-batches-py", BOTH, lambda f, s: _stored(tv.CIFAR10(f.parent, s == "train"))),
    "cifar100": Source("cifar-100-python", BOTH, lambda f, s: _stored(tv.CIFAR100(f.parent, s == "train"))),
    "food": Source("food-101", BOTH, lambda f, s: _listed(tv.Food101(f.parent, s))),
    "aircraft": Source("fgvc-aircraft-2013b", TRAINVAL, lambda f, s: _listed(tv.FGVCAircraft(f.parent, s, "variant"))),
    "caltech101": Source("caltech101/101_ObjectCategories", UNSPLIT, _caltech101),
    "eurosat": Source("eurosat/2750", UNSPLIT, lambda f, s: _by_name(f, _subfolders(f))),
    "imagenet": Source("{}", {"train": "train", "val": "val", "test": "val"}, _synsets),
    "imagenetv2": Source("imagenetv2-matched-frequency-format-val", UNSPLIT, _imagenetv2),
    "imagenetA": Source("imagenet-a", UNSPLIT, _synsets),
    "objectnet": Source("objectnet-1.0", UNSPLIT, _objectnet),
    "digits": Source(None, BOTH, lambda f, s: _digits(s, digits.SEEN, coloured=False)),
    "digits-colour": Source(None, BOTH, lambda f, s: _digits(s, digits.SEEN, coloured=True)),
    "digits-unseen": Source(None, BOTH, lambda f, s: _digits(s, digits.UNSEEN, coloured=True)),
    "digits-two": Source(None, BOTH, lambda f, s: _digits_two(s)),
}


def _read_known(name: str, split: str, root: Path) -> Read:
    source = TABLE[name]
    _check_split(name, split, source.splits)
    theirs = source.splits[split]
    folder = None if source.folder is None else _find(name, source.folder.format(theirs), root)
    try:
        return source.read(folder, theirs)
    except (InputError, ImportError):
        raise
    except Exception as error:  # torchvision raises whatever the damage leads to
        why = _said(error).partition(" You can use download=True")[0]
        raise InputError(f"dataset {name!r}: {folder} is incomplete or damaged: {why}") from error


def _find(name: str, folder: str, root: Path) -> Path:
    looked = [root.expanduser() / name / folder, root.expanduser() / folder]
    for path in looked:
        if path.is_dir():
            return path
    raise InputError(f"dataset {name!r} not found: looked for {looked[0]} and {looked[1]}")


def _check_split(name: str, split: str, splits: Iterable[str]) -> None:
    if split not in splits:
        why = "is not split: all its images are" if list(splits) == ["test"] else "has"
        raise InputError(f"dataset {name!r} has no split {split!r}: it {why} {', '.join(sorted(splits))}")


# ---- own data and the hub ----


def _class_ids(names: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Name -> class id, and the classes: whole numbers are ids already, other names are numbered in sorted order."""
    names = sorted(set(names))
    if all(_is_id(name) for name in names):
        return {name: int(name) for name in sorted(names, key=int)}, []
    return {name: i for i, name in enumerate(names)}, names


def _read_folder(name: str, split: str) -> Read:
    folder = Path(name).expanduser()
    inside = _subfolders(folder)
    if inside and set(inside) <= set(SPLITS):  # else "train" and "test" would be read as two classes
        _check_split(name, split, inside)
        folder, inside = folder / split, _subfolders(folder / split)
    else:
        _check_split(name, split, ["test"])
    return _tree(folder, *_class_ids(inside))


def _read_csv(name: str, split: str) -> Read:
    path = Path(os.path.expanduser(name))  # Path's own refuses ~nobody
    _check_split(name, split, ["test"])
    rows = _rows(path, ("path", "label"))
    for line, fields in rows.items():
        if not all(field.strip() for field in fields):
            raise InputError(f"{path}, line {line}: path is {fields[0]!r} and label {fields[1]!r}, wanted both")
    files, labels = zip(*rows.values(), strict=True)
    ids, classes = _class_ids(labels)
    return _files((path.parent / file for file in files), (ids[label] for label in labels), classes)


def _read_hub(name: str, split: str) -> Read:
    import datasets as hub

    try:
        data = hub.load_dataset(name, split="validation" if split == "val" else split)  # never with trust_remote_code
    except Exception as error:  # no such data set, no such split, no network, no access, broken files, ...
        raise InputError(f"dataset 'hf:{name}' cannot be read: {_said(error)}") from error
    columns = data.features
    image = _column(name, "image", [c for c in columns if isinstance(columns[c], hub.Image)], ("image", "img"))
    labelled = [c for c in columns if isinstance(columns[c], hub.ClassLabel) or c in ("label", "labels", "fine_label")]
    label = _column(name, "label", labelled, ("label", "labels", "fine_label"))

    labels, classes = list(data[label][:]), getattr(columns[label], "names", [])
    if labels and all(isinstance(value, str) for value in labels):
        ids, classes = _class_ids(labels)
        labels = [ids[value] for value in labels]
    if not all(isinstance(value, int) and value >= 0 for value in labels):
        raise InputError(f"dataset 'hf:{name}': column {label!r} of {split!r} holds {labels[:3]}..., wanted class ids")
    encoded = data.select_columns([image]).cast_column(image, hub.Image(decode=False))

    def open_image(k: int) -> Image.Image:
        return hub_image(encoded[k][image], f"{k} of hf:{name} {split}")

    return [int(value) for value in labels], list(classes), open_image


def _column(name: str, kind: str, found: list[str], preferred: tuple[str, ...]) -> str:
    """The column to read: the first preferred name among those found, else the only one."""
    for column in preferred:
        if column in found:
            return column
    if len(found) != 1:
        raise InputError(f"dataset 'hf:{name}': wanted one {kind} column, found {', '.join(found) or 'none'}")
    return found[0]


def _is_id(text: str) -> bool:
    return text.strip().isascii() and text.strip().isdigit() and len(text) < 19  # an int64


def _is_image(file: str) -> bool:
    return file.lower().endswith(tv.folder.IMG_EXTENSIONS) and not file.startswith(".")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, None)}"
