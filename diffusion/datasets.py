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

`digits`, `digits-colour`, `digits-unseen` and `digits-two` need no files. Own data is named by its path: a folder of
class folders (or of `train`, `val`, `test` folders of those), or a csv with columns path,label. `hf:NAME` is a data set
of the Hugging Face hub, or a local folder that its library reads.

Labels are known at once; images are decoded one at a time, when asked for, so one unreadable file costs one image.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torchvision.datasets as tv
from PIL import Image

from diffusion import InputError, digits
from diffusion.files import is_id, read_rows, said, sha256
from diffusion.images import crop, hub_image, open_rgb, to_rgb
from diffusion.names import SPLITS

Read = tuple[list[int], list[str], Callable[[int], Image.Image]]  # labels, classes, open


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

    @property
    def fingerprint(self) -> str:
        """What a run notes of the labels: an image more or less would shift the others."""
        return fingerprint(self.labels)


def fingerprint(data: list) -> str:
    return f"{len(data)}, sha256 {sha256(repr(data))}"


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


def as_seen(dataset: Dataset, index: int, options: dict) -> np.ndarray:
    """Image `index` as the run of these options (of its run.json) cropped it, to look at. [h, w, 3] in 0..1

    Raises InputError when it cannot be read any more.
    """
    size, interpolation = options.get("img_size", 224), options.get("interpolation", "bicubic")
    try:
        image = dataset.open(index)
    except OSError as error:
        raise InputError(f"image {index} of {dataset.name} cannot be read any more: {error}") from None
    return (crop(image, size, interpolation).permute(1, 2, 0).numpy() + 1) / 2


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
    inside = os.listdir(folder)
    if ids.keys().isdisjoint(inside) and any(map(_is_image, inside)):
        tars = "ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar"
        sort = f"python -c \"import torchvision; torchvision.datasets.ImageNet('{folder.parent}', 'val')\""
        how = f"remove it, put {tars} into {folder.parent}, and run {sort}"
        raise InputError(f"{folder}: its images are not in folders of their classes, as downloaded; to sort them {how}")
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
        raise InputError(f"{folder / 'mappings'} cannot be read: {said(error)}") from error


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
        raise InputError(f"{folder / 'mappings'} cannot be read: {said(error)}") from error


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
    "digits": Source(None, BOTH, lambda f, s: digits.read_one(s, digits.SEEN, coloured=False)),
    "digits-colour": Source(None, BOTH, lambda f, s: digits.read_one(s, digits.SEEN, coloured=True)),
    "digits-unseen": Source(None, BOTH, lambda f, s: digits.read_one(s, digits.UNSEEN, coloured=True)),
    "digits-two": Source(None, BOTH, lambda f, s: digits.read_two(s)),
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
        why = said(error).partition(" You can use download=True")[0]
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
    if all(is_id(name) for name in names):
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
    rows = read_rows(path, ("path", "label"))
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
        raise InputError(f"dataset 'hf:{name}' cannot be read: {said(error)}") from error
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


def _is_image(file: str) -> bool:
    return file.lower().endswith(tv.folder.IMG_EXTENSIONS) and not file.startswith(".")
