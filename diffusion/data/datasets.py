"""One table of data sets, and own data.

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

`digits`, `digits-colour`, `digits-unseen` and `digits-two` need no files. Own data is named by its path: own.py.

Labels are known at once; images are decoded one at a time, when asked for, so one unreadable file costs one image.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import torchvision.datasets as tv
from PIL import Image

from diffusion import InputError
from diffusion.data import digits, folders
from diffusion.data.catalogue import NO_LABEL
from diffusion.data.classnames import meanings
from diffusion.data.depth import check_range
from diffusion.data.images import crop, to_rgb, with_ranges
from diffusion.io.atomic import sha256
from diffusion.io.reading import said
from diffusion.io.wording import few, like

Read = tuple  # labels, classes, open and, of files, their names, groups, candidates: what follows split in Dataset


@dataclass(frozen=True)
class Dataset:
    """Images by index: `labels[k]` is the class id of image k, `open(k)` decodes it (RGB; OSError if unreadable)."""

    name: str
    split: str
    labels: list[int]
    classes: list[str]  # names by class id; empty where the data does not say
    open: Callable[[int], Image.Image]
    files: list[str] = field(default_factory=list)  # of each image, as from the data's folder; [] where unknown
    groups: list[str] = field(default_factory=list)  # of each image, where a table says; [] where not
    candidates: list[tuple[int, list[str]]] = field(default_factory=list)  # of each image: the table's line, classes
    path: str | None = None  # of own data; its `name` is the last part, so that it may be moved
    value_range: tuple[float, float] | None = None  # black and white of images of more than 8 bits, as asked for
    ranges: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # the same as used, of each kind in depth.KINDS

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """What a run notes of the labels, of own data of the files too: one image more would shift the others."""
        return fingerprint(self.labels if self.path is None else list(zip(self.files, self.labels, strict=True)))

    @property
    def labelled(self) -> bool:
        """Whether the images have labels; else each label is NO_LABEL."""
        return NO_LABEL not in self.labels

    def about(self, index: int) -> dict:
        """What a record says of an image: index, label and, of own data, file and the group that a table gives it."""
        said = {"index": index, "label": self.labels[index]} | ({"file": self.files[index]} if self.path else {})
        return said | ({"group": self.groups[index]} if self.groups else {})


def fingerprint(data: list) -> str:
    return f"{len(data)}, sha256 {sha256(repr(data))}"


def load_dataset(
    name: str,
    split: str = "test",
    root: str | Path = "/datasets",
    image_column: str | None = None,
    label_column: str | None = None,
    value_range: Sequence[float] | None = None,
) -> Dataset:
    """The data set called `name` (see above). InputError: unknown name, missing or damaged data, no such split.

    image_column and label_column choose among those of a data set of the hub. value_range: which values of own images
    of more than 8 bits are black and white; by default as images.with_ranges finds them.
    """
    if (image_column or label_column) and not name.startswith("hf:"):
        flag = "image_column" if image_column else "label_column"
        raise InputError(f"--{flag} {image_column or label_column}", f"is for --dataset hf:NAME, not for {name}")
    if value_range is not None and name in TABLE:
        raise InputError("--value_range", f"is for own images of more than 8 bits, not for {name}")
    try:
        if name in TABLE:
            read = _read_known(name, split, Path(root))
        elif name.startswith("hf:") and name != "hf:":
            read = folders.read_hub(name.removeprefix("hf:"), split, image_column, label_column)
        elif name.lower().endswith(folders.TABLES):
            read = folders.read_table(name, split)
        elif os.path.isdir(os.path.expanduser(name)):  # as Path's, but any text will do
            read = folders.read_folder(name, split)
        elif os.path.isfile(os.path.expanduser(name)):
            read = folders.read_image(name, split)
        else:
            known = (
                f"none of {', '.join(TABLE)}, nor hf:NAME, nor a folder that exists, an image, a .csv, .tsv or .jsonl"
            )
            raise InputError(f"dataset {name!r}", f"is {known}{like(name, TABLE)}")
    except ImportError as error:
        missing = f"the package {error.name!r}: pip install {error.name}"
        raise InputError(f"dataset {name!r}", f"needs {missing}") from error
    if name in TABLE:
        return Dataset(name, split, *read)
    labels, classes, images, *rest = read
    value_range = check_range(value_range)
    images = with_ranges(images, f"dataset {name!r}", value_range)
    deep = {"value_range": value_range, "ranges": dict(images.ranges)}
    if name.startswith("hf:"):
        return Dataset(name, split, labels, classes, images, *rest, **deep)
    path = os.path.abspath(os.path.expanduser(name))
    return Dataset(Path(path).name, split, labels, classes, images, *rest, path=path, **deep)


def dataset_of(about: dict, root: str | Path = "/datasets") -> Dataset:
    """The data set of a run, from its run.json. InputError as load_dataset."""
    options = about["options"]
    more = {key: options.get(key) for key in ("image_column", "label_column", "value_range")}
    return load_dataset(about.get("path") or options["dataset"], options["split"], root, **more)


def to_learn(dataset: Dataset, index: int, size: int, interpolation: str) -> torch.Tensor:
    """Image `index` cropped as in images.crop, [3, size, size], for what needs each; InputError: it cannot be read."""
    try:
        return crop(dataset.open(index), size, interpolation)
    except OSError as error:
        raise InputError(f"dataset {dataset.name!r}", f"image {index}: {error}; mend or remove it") from None


def as_seen(dataset: Dataset, index: int, options: dict) -> np.ndarray:
    """Image `index` as the run of these options (of its run.json) cropped it, to look at. [h, w, 3] in 0..1

    Raises InputError when it cannot be read any more.
    """
    size, interpolation = options.get("img_size", 224), options.get("interpolation", "bicubic")
    try:
        image = dataset.open(index)
    except OSError as error:
        raise InputError(f"image {index} of {dataset.name} cannot be read any more", error) from None
    return (crop(image, size, interpolation).permute(1, 2, 0).numpy() + 1) / 2


# ---- readers: each gives labels, classes and a function that opens image k ----


def _arrays(images: np.ndarray, labels: Iterable[int], classes: Iterable[str] = ()) -> Read:
    """images [n, h, w] or [n, h, w, 3] uint8."""
    return [int(label) for label in labels], list(classes), lambda k: to_rgb(Image.fromarray(images[k]))


def _listed(data, paths: str = "_image_files") -> Read:
    """A torchvision data set that keeps paths. Its own loader is passed over: it knows neither EXIF nor deep greys."""
    return folders.files(getattr(data, paths), data._labels, getattr(data, "classes", ()))


def _stored(data) -> Read:
    """A torchvision data set that keeps pixels."""
    return _arrays(np.asarray(data.data), data.targets, data.classes)


def _stl10(folder: Path, split: str) -> Read:
    data = tv.STL10(folder.parent, split)
    return _arrays(data.data.transpose(0, 2, 3, 1), data.labels, getattr(data, "classes", ()))


def _by_name(folder: Path, names: list[str]) -> Read:
    ids = {name: i for i, name in enumerate(names)}
    return folders.tree(folder, ids, names)


def _caltech101(folder: Path, _split: str) -> Read:
    return _by_name(
        folder, [name for name in folders.subfolders(folder) if name != "BACKGROUND_Google"]
    )  # 101, not 102


def _imagenet_names() -> list[str]:
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V2.meta["categories"]


def _synsets(folder: Path, _split: str) -> Read:
    """ImageNet's folders. The ids come from the whole list of 1000, so part of ImageNet keeps the ids of the whole."""
    from timm.data import ImageNetInfo

    ids = {synset: i for i, synset in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    if ids.keys().isdisjoint(os.listdir(folder)) and folders.images_in(folder, deep=False):
        tars = "ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar"
        sort = f"python -c \"import torchvision; torchvision.datasets.ImageNet('{folder.parent}', 'val')\""
        how = f"remove it, put {tars} into {folder.parent}, and run {sort}"
        raise InputError(folder, f"its images are not in folders of their classes, as downloaded; to sort them {how}")
    return folders.tree(folder, ids, _imagenet_names())


def _imagenetv2(folder: Path, _split: str) -> Read:
    return folders.tree(folder, {str(i): i for i in range(1000)}, _imagenet_names())


def _objectnet(folder: Path, _split: str) -> Read:
    names = _objectnet_classes(folder)
    labels, classes, open_image, files, *_ = folders.tree(
        folder / "images", {name: i for i, name in enumerate(names)}, names.values()
    )

    def open_inside(k: int) -> Image.Image:
        image = open_image(k)
        return image.crop((2, 2, image.width - 2, image.height - 2))  # ObjectNet marks its images with a red border

    return labels, classes, open_inside, files


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
        raise InputError(f"{folder / 'mappings'} cannot be read", f"{said(error)}") from error


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
        raise InputError(f"{folder / 'mappings'} cannot be read", f"{said(error)}") from error


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
    name: str,
    dataset: Dataset,
    model: str,
    n_classes: int,
    root: str | Path = "/datasets",
    called: Sequence[str] = (),
) -> dict[int, int]:
    """`class_arms` of a `model` of `n_classes`; InputError where the classes of the data set are not the model's.

    Where both name their classes (`called` are the model's), these are matched by name, and only those compete that
    the data set has. Data of ImageNet and data whose classes are numbers go by number.
    """
    if called and dataset.classes and name not in OF_IMAGENET:
        return _arms_by_name(dataset, model, called)
    if dataset.classes and not called and name not in TABLE:
        wanted = "call the folders by its class ids, or give its class names (--classes FILE of eval_prob_dit.py)"
        said = f"is of {len(dataset.classes)} classes that have names, those of {model} have none"
        raise InputError(f"--dataset {name}", f"{said}; {wanted}")
    arms = class_arms(name, n_classes, root)
    known = len(dataset.classes) if name != "objectnet" else 1000
    if known not in (0, n_classes):  # 0: own data, whose folders are named by the class ids
        raise InputError(f"--dataset {name}", f"is of {known} classes, {model} knows {n_classes}")
    if strange := sorted(set(dataset.labels) - set(arms.values()) - {NO_LABEL}):
        raise InputError(f"--dataset {name}", f"labels {strange[:10]} are no classes of {model}")
    return arms


OF_IMAGENET = {"imagenet", "imagenetv2", "imagenetA", "objectnet"}  # its class ids are the same everywhere


def _arms_by_name(dataset: Dataset, model: str, called: Sequence[str]) -> dict[int, int]:
    """Class id of the model -> class id of the data set, of the same name, as `meanings` compares them."""
    meant = meanings(dataset.classes, {k: [name] for k, name in enumerate(called)})
    strange = [repr(name) for name, ids in zip(dataset.classes, meant, strict=True) if not ids]
    if strange:
        found = f"classes {few(strange, 5)} are none of {model}'s: {few(called, 10, '; ')}"
        raise InputError(f"--dataset {dataset.name}", found)
    several = [name for name, ids in zip(dataset.classes, meant, strict=True) if len(ids) > 1]
    if several:
        raise InputError(f"--dataset {dataset.name}", f"class {several[0]!r} is the name of several classes of {model}")
    arms = {min(ids): k for k, ids in enumerate(meant)}
    if len(arms) < len(dataset.classes):
        raise InputError(f"--dataset {dataset.name}", f"several of its classes are one class of {model}")
    return dict(sorted(arms.items()))


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
    "eurosat": Source("eurosat/2750", UNSPLIT, lambda f, s: _by_name(f, folders.subfolders(f))),
    "imagenet": Source("{}", {"train": "train", "val": "val", "test": "val"}, _synsets),
    "imagenetv2": Source("imagenetv2-matched-frequency-format-val", UNSPLIT, _imagenetv2),
    "imagenetA": Source("imagenet-a", UNSPLIT, _synsets),
    "objectnet": Source("objectnet-1.0", UNSPLIT, _objectnet),
    "digits": Source(None, BOTH, lambda f, s: digits.read_one(s, digits.SEEN, coloured=False)),
    "digits-colour": Source(None, BOTH, lambda f, s: digits.read_one(s, digits.SEEN, coloured=True)),
    "digits-unseen": Source(None, BOTH, lambda f, s: digits.read_one(s, digits.UNSEEN, coloured=True)),
    "digits-two": Source(None, BOTH, lambda f, s: digits.read_two(s)),
}


def _read_known(name: str, split: str, root: Path) -> Read:
    source = TABLE[name]
    folders.check_split(name, split, source.splits)
    theirs = source.splits[split]
    folder = None if source.folder is None else _find(name, source.folder.format(theirs), root)
    try:
        return source.read(folder, theirs)
    except (InputError, ImportError):
        raise
    except Exception as error:  # torchvision raises whatever the damage leads to
        why = said(error).partition(" You can use download=True")[0]
        raise InputError(f"dataset {name!r}", f"{folder} is incomplete or damaged: {why}") from error


def _find(name: str, folder: str, root: Path) -> Path:
    looked = [root.expanduser() / name / folder, root.expanduser() / folder]
    for path in looked:
        if path.is_dir():
            return path
    how = "$DATASET_ROOT says where data lies; commands.md, how to get it"
    raise InputError(f"dataset {name!r} not found", f"looked for {looked[0]} and {looked[1]}; {how}")
