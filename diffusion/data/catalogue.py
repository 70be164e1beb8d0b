"""Names of data sets, with where each is to be had; splits and resizing. Imports nothing heavy."""

import os
from dataclasses import dataclass

from diffusion.paths import expanded

DATASET_ROOT = expanded(os.environ.get("DATASET_ROOT") or "/datasets")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
SPLITS = ("train", "val", "trainval", "test")
NO_LABEL = -1  # label of an unlabelled image


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it."""

    classes: int
    images: int  # of the test split
    page: str | None = None  # where it is to be had; None: embedded
    torchvision: str | None = None  # its class there, which downloads it (scripts/download.py)
    size: str = "-"  # of the download; "-": not known
    terms: str | None = None  # of its licence; None: see the page


DATASETS = {  # the names in datasets.TABLE
    "pets": Published(
        37, 3_669, "https://www.robots.ox.ac.uk/~vgg/data/pets/", "OxfordIIITPet", "0.8 GB",
        "CC BY-SA 4.0, as the card of timm/oxford-iiit-pet on huggingface.co has it",
    ),
    "flowers": Published(102, 6_149, "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "Flowers102", "0.35 GB"),
    "stl10": Published(10, 8_000, "https://cs.stanford.edu/~acoates/stl10/", "STL10", "2.6 GB"),
    "mnist": Published(
        10, 10_000, "http://yann.lecun.com/exdb/mnist/", "MNIST", "12 MB",
        "CC BY-SA 3.0, as pymvpa.org has it",
    ),
    "fashion-mnist": Published(
        10, 10_000, "https://github.com/zalandoresearch/fashion-mnist", "FashionMNIST", "30 MB",
        "MIT License, Zalando SE",
    ),
    "cifar10": Published(10, 10_000, "https://www.cs.toronto.edu/~kriz/cifar.html", "CIFAR10", "163 MB"),
    "cifar100": Published(100, 10_000, "https://www.cs.toronto.edu/~kriz/cifar.html", "CIFAR100", "161 MB"),
    "food": Published(
        101, 25_250, "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", "Food101", "5 GB",
        "images of Foodspotting; any use beyond scientific fair use is to be negotiated with their owners",
    ),
    "aircraft": Published(
        100, 3_333, "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/", "FGVCAircraft", "2.75 GB",
        "for non-commercial research only; the photographers keep their copyright",
    ),
    "caltech101": Published(
        101, 8_677, "https://data.caltech.edu/records/20086", "Caltech101", "137 MB",
        "CC BY 4.0, as the card of HuggingFaceM4/Caltech-101 on huggingface.co has it",
    ),
    "eurosat": Published(
        10, 27_000, "https://github.com/phelber/eurosat", "EuroSAT", "90 MB",
        "MIT License, as the card of timm/eurosat-rgb on huggingface.co has it",
    ),
    "imagenet": Published(1_000, 50_000, "https://image-net.org/download-images"),
    "imagenetv2": Published(1_000, 10_000, "https://github.com/modestyachts/ImageNetV2"),
    "imagenetA": Published(200, 7_500, "https://github.com/hendrycks/natural-adv-examples"),
    "objectnet": Published(113, 18_574, "https://objectnet.dev"),
    "digits": Published(10, 497),
    "digits-colour": Published(60, 497),
    "digits-unseen": Published(60, 397),
    "digits-two": Published(3_600, 497),
}  # fmt: skip
