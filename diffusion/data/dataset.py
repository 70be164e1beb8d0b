"""A data set in memory; every reader returns one."""

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from PIL import Image

from diffusion.data.catalogue import NO_LABEL
from diffusion.data.images import ImageFiles


@dataclass(frozen=True)
class Dataset:
    """Images by index, with their labels.

    A reader gives at least the first three fields. Labels are there from the start; images are decoded one at a time,
    when they are asked for, so an unreadable file costs one image. The fields from `name` on are set by
    datasets.load_dataset.
    """

    labels: list[int]  # [n] class ids; NO_LABEL: none
    classes: list[str]  # names by class id; [] if the data has none
    open: Callable[[int], Image.Image]  # image k as RGB; OSError if it is unreadable
    files: list[str] = field(default_factory=list)  # [n] as from the folder of the data; [] if unknown
    groups: list[str] = field(default_factory=list)  # [n]; [] if a table gives none
    candidates: list[tuple[int, list[str]]] = field(default_factory=list)  # [n] line of the table, names of classes

    has_splits: bool = True  # set by a reader, if the data is whole: then all images are those of `split`, "test"

    name: str = ""
    split: str = "test"
    path: str | None = None  # of a user's data; its name is the last part, so the folder may be moved
    value_range: tuple[float, float] | None = None  # black and white of images of more than 8 bits, as asked for
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # the same as used, by kind (depth.KINDS)

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> str:
        """For run.json: the labels and, in a user's data, the files, since one new image would shift others."""
        if self.path is None:
            return fingerprint(self.labels)
        return fingerprint(zip(self.files, self.labels, strict=True))

    @property
    def named_images(self) -> dict[int, tuple[str | None, int]]:
        """Index -> file, in a user's data, and label: what `fingerprint` is made of."""
        files = self.files if self.path else [None] * len(self.labels)
        return dict(enumerate(zip(files, self.labels, strict=True)))

    @property
    def located(self) -> dict[int, tuple[str, str]]:
        """Index -> file and its path, of a user's data in files; {} for other data, whose files are not a user's."""
        if self.path is None or not isinstance(self.open, ImageFiles):
            return {}
        found = {}
        for index, file in enumerate(self.files):
            place, _ = self.open.place(index)
            if isinstance(place, str | os.PathLike):
                found[index] = (file, os.fspath(place))
        return found

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return NO_LABEL not in self.labels

    def record_fields(self, index: int) -> dict:
        """The part of a record on the image: index and label; its file in a user's data; its group if it has one."""
        fields: dict[str, int | str] = {"index": index, "label": self.labels[index]}
        if self.path:
            fields["file"] = self.files[index]
        if self.groups:
            fields["group"] = self.groups[index]
        return fields


def fingerprint(items: Iterable, chunk: int = 10_000) -> str:
    """The number of items, and the digest of their list as Python writes it, made of `chunk` items at a time."""
    digest = hashlib.sha256(b"[")
    number = 0
    left = iter(items)
    for some in iter(lambda: list(itertools.islice(left, chunk)), []):  # itertools.batched is new in Python 3.12
        if number:
            digest.update(b", ")
        digest.update(", ".join(map(repr, some)).encode())
        number += len(some)
    digest.update(b"]")
    return f"{number}, sha256 {digest.hexdigest()}"
