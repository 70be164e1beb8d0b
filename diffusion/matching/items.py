"""Items of matching benchmarks, in one form: images, captions, which belong together; own ones, and the hub's.

A line of examples.jsonl has either id, image_0, image_1, caption_0, caption_1, tag: two images, two captions, each its
own; or images, a list of files or of {"file": ..., "box": [left, top, width, height]}; captions, a list; right, a list
of [caption, image], both counted from 0; and, if wanted, id, tags, a list, and groups, {"pair": NAME, ...}. Images lie
beside it. A tag sorts items into groups that are counted apart.
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion import InputError, InputWarning, one_line
from diffusion.data.hub import rows_of_hub
from diffusion.data.images import ImageFiles, hub_cell, listed, open_rgb, to_rgb, with_ranges
from diffusion.io.reading import json_lines

OWN = {(0, 0), (1, 1)}  # of two images and two captions, each its own
TAGS = ("collapsed_tag", "tag")  # the first that a line or a row has


@dataclass(frozen=True)
class Shown:
    """An image of an item."""

    file: str  # as the benchmark calls it
    box: tuple[float, float, float, float] | None = None  # the part that is meant: left, top, width, height in pixels


@dataclass(frozen=True)
class Item:
    """n images, k captions, and what is asked: which caption is right for which image."""

    id: str
    images: tuple[Shown, ...]
    captions: tuple[str, ...]
    right: frozenset[tuple[int, int]]  # (caption, image)
    tags: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)  # kind -> which: items that are also counted as one

    def __post_init__(self):
        """ValueError where this is no item."""
        shape = len(self.captions), len(self.images)
        if wrong := [text for text in self.captions if not isinstance(text, str) or not text.strip()]:
            raise ValueError(f"caption {wrong[0]!r:.60}, wanted a text")
        if not all(isinstance(text, str) and text for text in (*self.tags, *self.groups, *self.groups.values())):
            raise ValueError(f"tags {self.tags!r:.60}, groups {self.groups!r:.60}, wanted texts")
        if not all(isinstance(c, int) and isinstance(i, int) for c, i in self.right):
            raise ValueError(f"right {sorted(self.right, key=repr)!r:.60}, wanted whole numbers")
        if not self.right or not all(0 <= c < shape[0] and 0 <= i < shape[1] for c, i in self.right):
            right = f"right {sorted(self.right)!r:.60}, wanted pairs of caption and image"
            raise ValueError(f"{right} of {shape[0]} captions, {shape[1]} images")
        table = self.table
        if not (table.any(0) & ~table.all(0)).any() and not (shape[1] > 1 and (table.sum(1) == 1).any()):
            raise ValueError(f"{shape[0]} captions and {shape[1]} images, of which none is wrong: nothing is asked")

    @property
    def table(self) -> np.ndarray:
        """Which caption is right for which image, [captions, images] bool."""
        table = np.zeros((len(self.captions), len(self.images)), dtype=bool)
        for pair in self.right:
            table[pair] = True
        return table


@dataclass(frozen=True)
class Items:
    """A benchmark: items by index; `open(k, i)` decodes image i of item k whole (RGB; OSError if unreadable)."""

    items: list[Item]
    open: Callable[[int, int], Image.Image]
    lacking: dict[int, str] = field(default_factory=dict)  # items that cannot be shown -> why

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Item:
        return self.items[k]

    @property
    def data(self) -> list:
        """What a run notes of its items: of pairs their captions, of others all but names."""
        if all(
            item.right == OWN and item.table.shape == (2, 2) and not any(s.box for s in item.images)
            for item in self.items
        ):
            return [item.captions for item in self.items]
        return [(i.captions, [(s.file, s.box) for s in i.images], sorted(i.right)) for i in self.items]

    def seen(self, k: int, i: int) -> Image.Image:
        """Image i of item k, cut to its box. OSError if unreadable, or the box is beside it."""
        image, shown = self.open(k, i), self.items[k].images[i]
        return image if shown.box is None else cut(image, shown)


class Once:
    """Values that are made once, however often their keys come, and kept until they have come for the last time."""

    def __init__(self, keys: Iterable[Hashable]):
        self.left, self.made = Counter(keys), {}

    def __call__(self, key: Hashable, make: Callable):
        if key not in self.made:
            self.made[key] = make(key)
        self.left[key] -= 1
        return self.made[key] if self.left[key] > 0 else self.made.pop(key)


def cut(image: Image.Image, shown: Shown) -> Image.Image:
    """The part of an image in the box; what of the box lies beside the image does not count, OSError where all does."""
    left, top, width, height = shown.box
    edges = max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height)
    edges = tuple(round(edge) for edge in edges)
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise OSError(f"image {shown.file}: {image.width} x {image.height} pixels, nothing of the box {shown.box}")
    return image.crop(edges)


def pair(id_: str, images: Iterable[str], captions: Iterable[str], *tags: str) -> Item:
    """Two images, two captions, each its own."""
    return Item(id_, tuple(map(Shown, images)), tuple(captions), frozenset(OWN), tuple(tag for tag in tags if tag))


def choice(id_: str, image: str | Shown, captions: Iterable[str], *tags: str, right: Iterable[int] = (0,), **groups):
    """An image among whose captions these are right."""
    shown = image if isinstance(image, Shown) else Shown(image)
    return Item(id_, (shown,), tuple(captions), frozenset((c, 0) for c in right), tags, groups)


def search(id_: str, images: Iterable[str], caption: str, *tags: str, right: int = 0) -> Item:
    """A caption for one of these images."""
    return Item(id_, tuple(map(Shown, images)), (caption,), frozenset({(0, right)}), tags)


def opener(paths: Iterable[str], what: str, value_range: Sequence[float] | None) -> Callable[[str], Image.Image]:
    """What opens one of these files as RGB, OSError if unreadable; all by one range, as images.with_ranges.

    A npy file holds an array of blue, green, red.
    """
    pictures = [Path(path) for path in dict.fromkeys(paths) if not path.endswith(".npy")]
    images = with_ranges(listed(pictures), what, value_range)

    def open_file(path: str) -> Image.Image:
        if path.endswith(".npy"):
            return _open_npy(path)
        return open_rgb(path, None, images.ranges, images.guessed)

    return open_file


def _open_npy(path: str) -> Image.Image:
    try:
        return to_rgb(Image.fromarray(np.ascontiguousarray(np.load(path, allow_pickle=False)[..., ::-1])))
    except Exception as error:  # whatever a foreign file makes the readers say
        raise OSError(f"cannot read image {path}: {type(error).__name__}: {one_line(error)}") from error


# ---- own examples ----


def own(folder: Path, value_range: Sequence[float] | None = None) -> Items:
    """The items of a folder's examples.jsonl. InputError, naming the line, where it holds anything else."""
    path = folder / "examples.jsonl"
    items, files = [], {}
    for number, line in json_lines(path):
        try:
            row = json.loads(line)
            item = _normal(row, len(items)) if "images" in row or "captions" in row else _winoground(row, len(items))
        except (ValueError, TypeError, RecursionError) as error:
            why = error if isinstance(error, _Wrong) else "is no JSON object"
            raise InputError(f"{path}, line {number}", why) from None
        for shown in item.images:
            if shown.file not in files and (found := _image(folder, shown.file)) is None:
                raise InputError(f"{path}, line {number}", f"no such image: {shown.file}")
            files[shown.file] = files.get(shown.file) or found
        items.append(item)
    if not items:
        raise InputError(path, "holds no examples")
    open_file = opener(map(str, files.values()), f"dataset {str(folder)!r}", value_range)
    return Items(items, lambda k, i: open_file(str(files[items[k].images[i].file])))


class _Wrong(ValueError):
    """What is wrong with a line that is JSON."""


def _winoground(row: dict, k: int) -> Item:
    """A line in Winoground's form."""
    if not isinstance(row, dict):
        raise ValueError
    fields = ("image_0", "image_1", "caption_0", "caption_1")
    for each in fields:
        if not isinstance(row.get(each), str) or not row[each].strip():
            raise _Wrong(f"{each} is {row.get(each)!r}, wanted a text")
    first, second, *captions = (row[each] for each in fields)
    return pair(str(row.get("id", k)), (first, second), captions, tag_of(row))


def _normal(row: dict, k: int) -> Item:
    """A line in the normal form."""
    known = {"id", "images", "captions", "right", "tags", "groups"}
    if unknown := [key for key in row if key not in known]:
        raise _Wrong(f"{unknown[0]} is there, wanted {', '.join(sorted(known))}; or Winoground's form")
    try:
        images = [each if isinstance(each, dict) else {"file": each} for each in row["images"]]
        shown = tuple(Shown(each["file"], _box(each.get("box"))) for each in images)
        right = frozenset((c, i) for c, i in row["right"])
        if not all(isinstance(each.file, str) and each.file for each in shown):
            raise ValueError(f"images {row['images']!r:.60}, wanted files")
        lists = [row[key] for key in ("images", "captions", "right")] + [row.get("tags", [])]
        if not all(isinstance(each, list) for each in lists):
            raise ValueError("wanted images, captions, right and tags as lists")
        tags, groups = tuple(row.get("tags", [])), dict(row.get("groups", {}))
        return Item(str(row.get("id", k)), shown, tuple(row["captions"]), right, tags, groups)
    except KeyError as error:
        raise _Wrong(f"has no {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise _Wrong(str(error)) from None


def _box(given) -> tuple[float, float, float, float] | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple) or len(given) != 4 or not all(isinstance(v, int | float) for v in given):
        raise ValueError(f"box {given!r:.60}, wanted left, top, width, height")
    return tuple(given)


def _image(folder: Path, name: str) -> Path | None:
    """Winoground's own file names its images without suffix, and keeps them in a folder of their own."""
    places = [folder / name, folder / "images" / name, folder / "images" / f"{name}.png"]
    return next((place for place in places if os.path.isfile(place)), None)  # as Path's, but any text will do


def tag_of(row: dict) -> str:
    return next((str(row[tag]) for tag in TAGS if row.get(tag)), "")


# ---- the hub ----

WINOGROUND = ("image_0", "image_1", "caption_0", "caption_1")


def hub(
    name: str,
    columns: tuple[str, ...] = WINOGROUND,
    item: Callable | None = None,
    split: str = "test",
    value_range: Sequence[float] | None = None,
) -> Items:
    """A data set of the hub: columns whose names begin with image hold images, item(k, row) makes the others an item.

    None where a row makes none: those are counted in a warning. By default, Winoground's.
    """
    data = rows_of_hub(name, split)
    import datasets

    if missing := [each for each in columns if each not in data.features]:
        raise InputError(
            f"--dataset hf:{name}", f"has no column {', '.join(missing)}; found {', '.join(data.features)}"
        )
    pictures = [each for each in columns if each.startswith("image")]
    encoded = data.select_columns(pictures)
    for column in pictures:
        encoded = encoded.cast_column(column, datasets.Image(decode=False))
    items, rows = [], []
    for k, row in enumerate(data.remove_columns(pictures)):
        for each in columns:
            if each not in pictures and not row[each]:
                raise InputError(f"--dataset hf:{name}", f"{each} of example {k} is {row[each]!r}, wanted a text")
        if made := item(k, row) if item else _of_hub(k, row):
            items.append(made)
            rows.append(k)
    if not items:
        raise InputError(f"hf:{name}", "holds no examples")
    if len(rows) < len(data):
        without = next(k for k in range(len(data)) if k not in rows)
        left = (
            f"{len(data) - len(rows)} of {len(data)} rows make no example and are left out, the first is row {without}"
        )
        warnings.warn(f"hf:{name}: {left}", InputWarning, stacklevel=2)

    def place(number: int) -> tuple:
        k, i = divmod(number, len(pictures))
        return hub_cell(encoded[rows[k]][pictures[i]], f"{pictures[i]} of example {rows[k]} of hf:{name}")

    images = with_ranges(ImageFiles(place, len(rows) * len(pictures)), f"dataset 'hf:{name}'", value_range)
    return Items(items, lambda k, i: images(k * len(pictures) + i))


def _of_hub(k: int, row: dict) -> Item:
    images = f"image_0 of example {k}", f"image_1 of example {k}"
    return pair(str(row.get("id", k)), images, (row["caption_0"], row["caption_1"]), tag_of(row))
