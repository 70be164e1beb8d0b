"""One table of data sets; and reading any data set by its name.

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

`digits`, `digits-colour`, `digits-unseen` and `digits-two` need no files. A user's data is named by its path
(folders.py, tables.py) or hf:NAME (hub.py).
"""

import difflib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusion import InputError
from diffusion.data import digits, folders, hub, tables
from diffusion.data.catalogue import NO_LABEL
from diffusion.data.classnames import meanings
from diffusion.data.dataset import Dataset
from diffusion.data.depth import check_range
from diffusion.data.images import ImageFiles, crop, to_rgb, with_ranges
from diffusion.io.reading import named_error
from diffusion.io.wording import count, few, like


def load_dataset(
    name: str | Path,
    split: str = "test",
    root: str | Path = "/datasets",
    image_column: str | None = None,
    label_column: str | None = None,
    value_range: Sequence[float] | None = None,
) -> Dataset:
    """The data set called `name` (see above).

    root                        the folder with the data sets of the table
    image_column, label_column  the columns to read of a data set of the hub
    value_range                 black and white in a user's images of more than 8 bits, by default as images.with_ranges
                                finds them

    InputError: unknown name, missing or damaged data, no such split, or an option that is not for this data.
    """
    name = os.fspath(name)
    for flag, column in (("--image_column", image_column), ("--label_column", label_column)):
        if column and not name.startswith("hf:"):
            raise InputError(f"{flag} {column}", f"is for --dataset hf:NAME, not for {name}")
    if value_range is not None and name in TABLE:
        raise InputError("--value_range", f"is for own images of more than 8 bits, not for {name}")
    try:
        if name in TABLE:
            return replace(_read_of_table(name, split, Path(root)), name=name, split=split)
        data = _read_users(name, split, image_column, label_column)
    except ImportError as error:
        missing = f"the package {error.name!r}: pip install {error.name}"
        raise InputError(f"dataset {name!r}", f"needs {missing}") from error

    value_range = check_range(value_range)
    assert isinstance(data.open, ImageFiles)
    images = with_ranges(data.open, f"dataset {name!r}", value_range)
    data = replace(data, open=images, name=name, split=split, value_range=value_range, ranges=dict(images.ranges))
    if name.startswith("hf:"):
        return data
    path = os.path.abspath(os.path.expanduser(name))
    return replace(data, name=Path(path).name, path=path)


def _read_users(name: str, split: str, image_column: str | None, label_column: str | None) -> Dataset:
    """Data of the hub, in a table, in a folder, or one image."""
    if name.startswith("hf:") and name != "hf:":
        return hub.read_hub(name.removeprefix("hf:"), split, image_column, label_column)
    if name.lower().endswith(tables.SUFFIXES):
        return tables.read_table(name, split)
    path = os.path.expanduser(name)  # Path.expanduser refuses ~nobody
    if os.path.isdir(path):
        return folders.read_folder(name, split)
    if os.path.isfile(path):
        return folders.read_image(name, split, tables.SUFFIXES)
    kinds = "a folder of class folders, an image, a .csv, .tsv or .jsonl"
    near = _like_folder(path) or like(name, TABLE)
    if os.sep in name:
        raise InputError(f"dataset {name!r}", f"no such file or folder; wanted {kinds}, or hf:NAME{near}")
    names = f"none of {', '.join(TABLE)}, nor hf:NAME, nor {kinds} that is here"
    raise InputError(f"dataset {name!r}", f"is {names}{near}")


def _like_folder(path: str) -> str:
    """Suffix of an unknown-name error: the folder beside this path with the nearest name, if one is near."""
    parent, name = os.path.split(os.path.normpath(path))
    try:
        beside = [folder.name for folder in folders.Folder(parent or ".").folders]
    except (OSError, ValueError):  # no such parent, or a name that no path can have
        return ""
    near = difflib.get_close_matches(name, beside, 1)
    return f"; did you mean the folder {os.path.join(parent, near[0])}?" if near else ""


def dataset_of(about: dict, root: str | Path = "/datasets") -> Dataset:
    """The data set of a run, from its run.json. InputError as load_dataset."""
    options = about["options"]
    return load_dataset(
        about.get("path") or options["dataset"],
        options["split"],
        root,
        options.get("image_column"),
        options.get("label_column"),
        options.get("value_range"),
    )


def to_learn(dataset: Dataset, index: int, size: int, interpolation: str) -> torch.Tensor:
    """Image `index` cropped as in images.crop, [3, size, size]. InputError, and not OSError, if it cannot be read."""
    try:
        return crop(dataset.open(index), size, interpolation)
    except OSError as error:
        raise InputError(f"dataset {dataset.name!r}", f"image {index}: {error}") from None


def as_seen(dataset: Dataset, index: int, options: dict) -> np.ndarray:
    """Image `index` as a run with these options (from its run.json) cropped it, to look at. [h, w, 3] in 0..1

    InputError if it cannot be read any more.
    """
    size, interpolation = options.get("img_size", 224), options.get("interpolation", "bicubic")
    try:
        image = dataset.open(index)
    except OSError as error:
        raise InputError(f"dataset {dataset.name!r}", f"image {index} cannot be read any more: {error}") from None
    return (crop(image, size, interpolation).permute(1, 2, 0).numpy() + 1) / 2


# ---- readers of the data sets in the table ----


def arrays(images: np.ndarray, labels: Iterable[int], classes: Iterable[str] = ()) -> Dataset:
    """Images [n, h, w] or [n, h, w, 3] uint8 with their labels [n]."""
    return Dataset(list(map(int, labels)), list(classes), lambda k: to_rgb(Image.fromarray(images[k])))


def torchvision_files(data, paths: str = "_image_files") -> Dataset:
    """A torchvision data set that keeps paths. Its own loader is not used: it handles neither EXIF nor deep greys."""
    files = list(map(str, getattr(data, paths)))
    return folders.from_files(files, list(map(int, data._labels)), getattr(data, "classes", ()))


def torchvision_arrays(data) -> Dataset:
    """A torchvision data set that keeps pixels."""
    return arrays(np.asarray(data.data), data.targets, data.classes)


def _torchvision(kind: str, folder: Path, split: str) -> Dataset:
    """The torchvision data set whose class is called `kind`."""
    import torchvision.datasets as tv  # takes a second, which the other readers save

    match kind:
        case "OxfordIIITPet":
            return torchvision_files(tv.OxfordIIITPet(folder.parent, split), "_images")
        case "FGVCAircraft":
            return torchvision_files(tv.FGVCAircraft(folder.parent, split, "variant"))
        case "Flowers102" | "Food101":
            return torchvision_files(getattr(tv, kind)(folder.parent, split))
        case "STL10":
            data = tv.STL10(folder.parent, split)
            return arrays(data.data.transpose(0, 2, 3, 1), data.labels, getattr(data, "classes", ()))
        case _:  # MNIST, FashionMNIST, CIFAR10, CIFAR100
            return torchvision_arrays(getattr(tv, kind)(folder.parent, split == "train"))


def _class_folders(folder: Path, _split: str) -> Dataset:
    """Caltech-101 and EuroSAT: every folder is a class."""
    names = [inside.name for inside in folders.Folder(folder).folders]
    if "BACKGROUND_Google" in names:
        names.remove("BACKGROUND_Google")
    return folders.from_class_folders(folder, {name: i for i, name in enumerate(names)}, names)


def _imagenet_names() -> list[str]:
    """The names of ImageNet's 1000 classes, by class id."""
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V2.meta["categories"]


def _synsets(folder: Path, _split: str) -> Dataset:
    """ImageNet's folders. Class ids are those of the whole list of 1000, also for a part of ImageNet."""
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet-1k").label_names()
    ids = {synset: i for i, synset in enumerate(synsets)}
    if ids.keys().isdisjoint(os.listdir(folder)) and folders.Folder(folder).images(deep=False):
        tars = "ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar"
        sort = f"python -c \"import torchvision; torchvision.datasets.ImageNet('{folder.parent}', 'val')\""
        how = f"remove it, put {tars} into {folder.parent}, and run {sort}"
        raise InputError(folder, f"its images are not in folders of their classes, as downloaded; to sort them {how}")
    return folders.from_class_folders(folder, ids, _imagenet_names())


def _imagenetv2(folder: Path, _split: str) -> Dataset:
    return folders.from_class_folders(folder, {str(i): i for i in range(1000)}, _imagenet_names())


def _objectnet(folder: Path, _split: str) -> Dataset:
    names = _objectnet_classes(folder)  # folder -> name
    ids = {class_folder: i for i, class_folder in enumerate(names)}
    data = folders.from_class_folders(folder / "images", ids, names.values())

    def open_inside(k: int) -> Image.Image:
        image = data.open(k)
        return image.crop((2, 2, image.width - 2, image.height - 2))  # ObjectNet marks its images with a red border

    return replace(data, open=open_inside)


def _objectnet_classes(folder: Path) -> dict[str, str]:
    """Folder name -> class name, for the classes that ImageNet has too, in sorted order of the folders."""
    names = json.loads((folder / "mappings/folder_to_objectnet_label.json").read_text())
    shared = json.loads((folder / "mappings/objectnet_to_imagenet_1k.json").read_text())
    classes = {}
    for class_folder, name in sorted(names.items()):
        if name in shared:
            classes[class_folder] = name
    return classes


def objectnet_classes(root: str | Path = "/datasets") -> list[str]:
    """ObjectNet's class names by class id. InputError if its own files cannot be read."""
    folder = _find("objectnet", "objectnet-1.0", Path(root))
    try:
        return list(_objectnet_classes(folder).values())
    except (OSError, ValueError, LookupError) as error:
        raise InputError(folder / "mappings", f"cannot be read: {named_error(error)}") from error


def objectnet_imagenet_ids(root: str | Path = "/datasets") -> list[list[int]]:
    """For each ObjectNet class id, the ImageNet class ids that mean it: a model of ImageNet is scored by these.

    ObjectNet's files chain them: class -> ImageNet labels, label -> line number (an ILSVRC2012 id) -> class id.
    InputError if one of them is missing or does not fit the others.
    """
    folder = _find("objectnet", "objectnet-1.0", Path(root))
    try:
        shared = json.loads((folder / "mappings/objectnet_to_imagenet_1k.json").read_text())
        lines = json.loads((folder / "mappings/pytorch_to_imagenet_2012_id.json").read_text())
        labels = (folder / "mappings/imagenet_to_label_2012_v2").read_text().splitlines()
        id_of = {labels[line].strip(): int(class_id) for class_id, line in lines.items()}
        ids = []
        for name in _objectnet_classes(folder).values():
            ids.append([id_of[label] for label in shared[name].split("; ")])
        return ids
    except (OSError, ValueError, LookupError) as error:
        raise InputError(folder / "mappings", f"cannot be read: {named_error(error)}") from error


def class_arms(name: str, n_classes: int, root: str | Path = "/datasets") -> dict[int, int]:
    """Class id of a model of `n_classes` -> class id of the data set: the arms of a model conditioned on class ids.

    ImageNet-A has 200 of the 1000; an ObjectNet class may be several of ImageNet's; elsewhere the two are the same.
    """
    if name == "imagenetA":
        lines = (resources.files("timm") / "data/_info/imagenet_a_indices.txt").read_text().split()
        ids = list(map(int, lines))
        return dict(zip(ids, ids, strict=True))
    if name == "objectnet":
        arms = {}
        for k, ids in enumerate(objectnet_imagenet_ids(root)):
            arms |= dict.fromkeys(ids, k)
        return arms
    return dict(enumerate(range(n_classes)))


def model_arms(
    name: str,
    dataset: Dataset,
    model: str,
    n_classes: int,
    root: str | Path = "/datasets",
    called: Sequence[str] = (),
) -> dict[int, int]:
    """`class_arms` of a `model` of `n_classes`. InputError if the classes of the data set are not the model's.

    If both name their classes (`called` are the model's), classes are matched by name, and only those of the data set
    compete. Data of ImageNet and data whose classes are numbers are matched by number.
    """
    if called and dataset.classes and name not in OF_IMAGENET:
        return _arms_by_name(dataset, model, called)
    if dataset.classes and not called and name not in TABLE:
        wanted = "name the folders by class ids, or the model's classes by --classes FILE of eval_prob_dit.py"
        found = f"is of {count(len(dataset.classes), 'class')} by name, those of {model} have none"
        raise InputError(f"--dataset {name}", f"{found}; {wanted}")
    arms = class_arms(name, n_classes, root)
    n = 1000 if name == "objectnet" else len(dataset.classes)
    if n not in (0, n_classes):  # 0: a user's data, whose folders are named by the class ids
        raise InputError(f"--dataset {name}", f"is of {count(n, 'class')}, {model} knows {n_classes}")
    strange = sorted(set(dataset.labels) - set(arms.values()) - {NO_LABEL})
    if strange:
        raise InputError(f"--dataset {name}", f"labels {strange[:10]} are no classes of {model}")
    return arms


OF_IMAGENET = {"imagenet", "imagenetv2", "imagenetA", "objectnet"}  # its class ids are the same everywhere


def _arms_by_name(dataset: Dataset, model: str, called: Sequence[str]) -> dict[int, int]:
    """Class id of the model -> class id of the data set with the same name, as `meanings` compares names."""
    where = f"--dataset {dataset.name}"
    meant = meanings(dataset.classes, {k: [name] for k, name in enumerate(called)})
    arms: dict[int, int] = {}
    strange = []
    for k, (name, ids) in enumerate(zip(dataset.classes, meant, strict=True)):
        if len(ids) > 1:
            raise InputError(where, f"class {name!r} is the name of several classes of {model}")
        if not ids:
            strange.append(repr(name))
        else:
            arms[min(ids)] = k
    if strange:
        raise InputError(where, f"classes {few(strange, 5)} are none of {model}'s: {few(called, 10, '; ')}")
    if len(arms) < len(dataset.classes):
        raise InputError(where, f"several of its classes are one class of {model}")
    return dict(sorted(arms.items()))


# ---- the table ----


@dataclass(frozen=True)
class Source:
    """A data set of the table.

    `folder` is the one that it needs, in which `{}` is its own name of the split; None if it needs no files. `splits`:
    our names of the splits -> its own. read(folder, its own name of the split) reads it.
    """

    folder: str | None
    splits: dict[str, str]
    read: Callable[[Path, str], Dataset]


BOTH = {"train": "train", "test": "test"}
TRAINVAL = {"train": "trainval", "trainval": "trainval", "test": "test"}
UNSPLIT = {"test": "all"}  # no official split: every image is for testing

TABLE = {
    "pets": Source("oxford-iiit-pet", TRAINVAL, partial(_torchvision, "OxfordIIITPet")),
    "flowers": Source("flowers-102", BOTH | {"val": "val"}, partial(_torchvision, "Flowers102")),
    "stl10": Source("stl10_binary", BOTH, partial(_torchvision, "STL10")),
    "mnist": Source("MNIST", BOTH, partial(_torchvision, "MNIST")),
    "fashion-mnist": Source("FashionMNIST", BOTH, partial(_torchvision, "FashionMNIST")),
    "cifar10": Source("cifar-10-batches-py", BOTH, partial(_torchvision, "CIFAR10")),
    "cifar100": Source("cifar-100-python", BOTH, partial(_torchvision, "CIFAR100")),
    "food": Source("food-101", BOTH, partial(_torchvision, "Food101")),
    "aircraft": Source("fgvc-aircraft-2013b", TRAINVAL, partial(_torchvision, "FGVCAircraft")),
    "caltech101": Source("caltech101/101_ObjectCategories", UNSPLIT, _class_folders),
    "eurosat": Source("eurosat/2750", UNSPLIT, _class_folders),
    "imagenet": Source("{}", {"train": "train", "val": "val", "test": "val"}, _synsets),
    "imagenetv2": Source("imagenetv2-matched-frequency-format-val", UNSPLIT, _imagenetv2),
    "imagenetA": Source("imagenet-a", UNSPLIT, _synsets),
    "objectnet": Source("objectnet-1.0", UNSPLIT, _objectnet),
    "digits": Source(None, BOTH, lambda _, split: digits.read_one(split, digits.SEEN, coloured=False)),
    "digits-colour": Source(None, BOTH, lambda _, split: digits.read_one(split, digits.SEEN, coloured=True)),
    "digits-unseen": Source(None, BOTH, lambda _, split: digits.read_one(split, digits.UNSEEN, coloured=True)),
    "digits-two": Source(None, BOTH, lambda _, split: digits.read_two(split)),
}


def _read_of_table(name: str, split: str, root: Path) -> Dataset:
    source = TABLE[name]
    folders.check_split(name, split, source.splits)
    split_there = source.splits[split]
    folder = Path() if source.folder is None else _find(name, source.folder.format(split_there), root)
    try:
        data = source.read(folder, split_there)
    except (InputError, ImportError):
        raise
    except Exception as error:  # torchvision raises whatever the damage leads to
        why = named_error(error).partition(" You can use download=True")[0]
        raise InputError(f"dataset {name!r}", f"{folder} is incomplete or damaged: {why}") from error
    return replace(data, has_splits=source.splits != UNSPLIT)


def _find(name: str, folder: str, root: Path) -> Path:
    """The folder of a data set. InputError if it is not there."""
    looked = [root.expanduser() / name / folder, root.expanduser() / folder]
    for path in looked:
        if path.is_dir():
            return path
    how = "$DATASET_ROOT says where data lies; commands.md, how to get it"
    raise InputError(f"dataset {name!r} not found", f"looked for {looked[0]} and {looked[1]}; {how}")
