"""Names of data sets, splits and resizing; imports nothing heavy."""

import os

from diffusion.paths import expanded

DATASET_ROOT = expanded(os.environ.get("DATASET_ROOT") or "/datasets")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
SPLITS = ("train", "val", "trainval", "test")
NO_LABEL = -1  # label of an unlabelled image
DATASETS = (  # the names in datasets.TABLE
    "pets", "flowers", "stl10", "mnist", "fashion-mnist", "cifar10", "cifar100", "food", "aircraft", "caltech101",
    "eurosat", "imagenet", "imagenetv2", "imagenetA", "objectnet", "digits", "digits-colour", "digits-unseen",
    "digits-two",
)  # fmt: skip
