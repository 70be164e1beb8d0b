"""Which images of a data set a run measures, and in which order."""

import warnings

import numpy as np

from diffusion import InputError, InputWarning
from diffusion.core.search import van_der_corput
from diffusion.data import catalogue
from diffusion.data.datasets import Dataset, load_dataset
from diffusion.evaluate.config import RunConfig
from diffusion.io.reading import read_npy
from diffusion.io.wording import few


def dataset_of(config: RunConfig) -> Dataset:
    """The data set that the options name. InputError as load_dataset."""
    return load_dataset(
        config.dataset,
        config.split,
        catalogue.DATASET_ROOT,
        config.image_column,
        config.label_column,
        config.value_range,
    )


def choose_images(config: RunConfig, labels: list, most: int | None = None) -> tuple[list[int], list[int]]:
    """The dataset indices of the run, ascending (the first `most`), and those of this worker.

    labels [images] of the data set: --per_class and --limit, which come after --subset_path, are spread over them.
    InputError: a --subset_path that cannot be read, or that lists other than indices of the data set.
    """
    chosen = list(range(len(labels)))
    if config.subset_path:
        chosen = _read_subset(config, len(labels))
    chosen = spread_over(chosen, labels, config.per_class, config.limit)[:most]
    return chosen, chosen[config.worker_idx :: config.n_workers]


def _read_subset(config: RunConfig, n_images: int) -> list[int]:
    where = f"--subset_path {config.subset_path}"
    indices = read_npy(config.subset_path, where)
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or len(indices) == 0:
        raise InputError(where, f"holds {indices.dtype} {list(indices.shape)}, wanted a list of indices")
    indices = np.unique(indices)
    if indices[0] < 0 or indices[-1] >= n_images:
        outside = indices[0] if indices[0] < 0 else indices[-1]
        raise InputError(where, f"index {outside} is outside the data set's 0..{n_images - 1}")
    return indices.tolist()


def spread_order(n: int) -> list[int]:
    """range(n) in an order whose every beginning is spread over all of it: floor(n v) of van der Corput's shares v. [n]

    A place that comes again is passed over.
    """
    if n == 0:
        return []
    bits = (n - 1).bit_length()
    return list(dict.fromkeys(n * m >> bits for m in van_der_corput(bits)))


def by_label(indices: list[int], labels: list) -> dict:
    """Label -> the indices of its images, in their order."""
    images: dict = {}
    for index in indices:
        images.setdefault(labels[index], []).append(index)
    return images


def spread_over(indices: list[int], labels: list, per_class: int | None, limit: int | None) -> list[int]:
    """`per_class` images of each label, then `limit` of all, ascending; None: no limit.

    A smaller choice is a part of a larger one. All are the beginning of one order: the k-th images of all labels come
    before any (k + 1)-th, and labels, and the images of each, come in the order of `spread_order`. Warns of labels that
    have fewer than `per_class` images.
    """
    if per_class is None and limit is None:
        return sorted(indices)
    images = by_label(indices, labels)
    ordered_labels = sorted(images)
    if per_class is not None:
        fewer = []
        for label in ordered_labels:
            if len(images[label]) < per_class:
                fewer.append(f"{label} ({len(images[label])})")
        if fewer:
            found = f"--per_class {per_class}: fewer images of class {few(fewer, 10)}"
            warnings.warn(found, InputWarning, stacklevel=2)

    order = []
    for place, k in enumerate(spread_order(len(ordered_labels))):
        of_label = images[ordered_labels[k]]
        for turn, n in enumerate(spread_order(len(of_label))[:per_class]):
            order.append((turn, place, of_label[n]))
    order.sort()
    return sorted(index for _, _, index in order[:limit])


def in_turns(indices: list[int], labels: list) -> list[int]:
    """The same images in an order whose every beginning has its share of each label: accuracy means something early."""
    if not indices:
        return []
    images = np.array(indices)
    _, label = np.unique([labels[index] for index in indices], return_inverse=True)
    counts = np.bincount(label)
    order = np.argsort(label, kind="stable")
    turn = np.empty(len(images))
    turn[order] = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (turn + 0.5) / counts[label]  # how far an image comes among those of its label
    return images[np.lexsort((images, share))].tolist()
