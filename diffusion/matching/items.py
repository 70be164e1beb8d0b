"""Items of matching benchmarks, in one form: images, captions, which belong together; read from a folder or the hub.

A line of examples.jsonl has either id, image_0, image_1, caption_0, caption_1, tag: two images and two captions, which
belong together in this order; or images, a list of files or of {"file": ..., "box": [left, top, width, height]};
captions, a list; right, a list of [caption, image], both counted from 0; and, if wanted, id, tags, a list, and groups,
{"pair": NAME, ...}. Images lie beside it. A tag sorts items into groups that are counted apart.
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

DIAGONAL = {(0, 0), (1, 1)}  # two captions and two images, which belong together in this order
TAGS = ("collapsed_tag", "tag")  # the first that a line or a row has


@dataclass(frozen=True)
class Shown:
    """An image of an item."""

    file: str  # as the benchmark calls it
    box: tuple[float, float, float, float] | None = None  # the part that is meant: left, top, width, height in pixels


@dataclass(frozen=True)
class Item:
    """n images, k captions, and which caption is right for which image."""

    id: str
    images: tuple[Shown, ...]
    captions: tuple[str, ...]
    right: frozenset[tuple[int, int]]  # (caption, image)
    tags: tuple[str, ...] = ()
    groups: dict[str, str] = field(default_factory=dict)  # kind -> which: items that are also counted as one

    def __post_init__(self):
        """ValueError if this is no item."""
        shape = len(self.captions), len(self.images)
        wrong = [text for text in self.captions if not isinstance(text, str) or not text.strip()]
        if wrong:
            raise ValueError(f"caption {wrong[0]!r:.60}, wanted a text")
        if not all(isinstance(text, str) and text for text in (*self.tags, *self.groups, *self.groups.values())):
            raise ValueError(f"tags {self.tags!r:.60}, groups {self.groups!r:.60}, wanted texts")
        if not all(isinstance(c, int) and isinstance(i, int) for c, i in self.right):
            raise ValueError(f"right {sorted(self.right, key=repr)!r:.60}, wanted whole numbers")
        if not self.right or not all(0 <= c < shape[0] and 0 <= i < shape[1] for c, i in self.right):
            right = f"right {sorted(self.right)!r:.60}, wanted pairs of caption and image"
            raise ValueError(f"{right} of {shape[0]} captions, {shape[1]} images")
        table = self.table
        has_text_score = (table.any(0) & ~table.all(0)).any()
        has_image_score = shape[1] > 1 and (table.sum(1) == 1).any()
        if not has_text_score and not has_image_score:
            raise ValueError(f"{shape[0]} captions and {shape[1]} images, of which none is wrong: nothing is asked")

    @property
    def table(self) -> np.ndarray:
        """Which caption is right for which image, [captions, images] bool."""
        table = np.zeros((len(self.captions), len(self.images)), dtype=bool)
        for pair in self.right:
            table[pair] = True
        return table

    @property
    def is_pair(self) -> bool:
        """Whether these are two images and two captions in order, without boxes."""
        has_box = any(shown.box for shown in self.images)
        return self.right == DIAGONAL and self.table.shape == (2, 2) and not has_box

    @property
    def shown(self) -> list[tuple[str, tuple[float, float, float, float] | None]]:
        """File and box of each image."""
        return [(shown.file, shown.box) for shown in self.images]


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
        """The part of the items that results depend on: captions of plain pairs; all but names of others."""
        if all(item.is_pair for item in self.items):
            return [item.captions for item in self.items]
        return [(item.captions, item.shown, sorted(item.right)) for item in self.items]

    def seen(self, k: int, i: int) -> Image.Image:
        """Image i of item k, cut to its box. OSError if unreadable, or the box is beside it."""
        return cut(self.open(k, i), self.items[k].images[i])


class Once:
    """A cache that drops a value after its last expected use; `keys` are all uses."""

    def __init__(self, keys: Iterable[Hashable]):
        self.left = Counter(keys)
        self.made: dict[Hashable, object] = {}

    def __call__(self, key: Hashable, make: Callable):
        if key not in self.made:
            self.made[key] = make(key)
        self.left[key] -= 1
        return self.made[key] if self.left[key] > 0 else self.made.pop(key)


def cut(image: Image.Image, shown: Shown) -> Image.Image:
    """The part of an image in the box, which is clipped to the image. OSError if nothing is left."""
    if shown.box is None:
        return image
    left, top, width, height = shown.box
    exact = max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height)
    edges = tuple(round(edge) for edge in exact)
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise OSError(f"image {shown.file}: {image.width} x {image.height} pixels, nothing of the box {shown.box}")
    return image.crop(edges)


def pair(id_: str, images: Iterable[str], captions: Iterable[str], *tags: str) -> Item:
    """Two images and two captions, which belong together in this order."""
    return Item(id_, tuple(map(Shown, images)), tuple(captions), frozenset(DIAGONAL), tuple(tag for tag in tags if tag))


def choice(
    id_: str,
    image: str | Shown,
    captions: Iterable[str],
    *tags: str,
    right: Iterable[int] = (0,),
    groups: dict[str, str] | None = None,
) -> Item:
    """One image with several captions, of which those at `right` are right."""
    shown = image if isinstance(image, Shown) else Shown(image)
    return Item(id_, (shown,), tuple(captions), frozenset((c, 0) for c in right), tags, groups or {})


def search(id_: str, images: Iterable[str], caption: str, *tags: str, right: int = 0) -> Item:
    """A caption with several images, of which the one at `right` is right."""
    return Item(id_, tuple(map(Shown, images)), (caption,), frozenset({(0, right)}), tags)


def opener(paths: Iterable[str], what: str, value_range: Sequence[float] | None) -> Callable[[str], Image.Image]:
    """A function that opens one of these files as RGB; OSError if it is unreadable.

    All have one range, as from images.with_ranges. A npy file holds an array of blue, green, red.
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


# ---- examples.jsonl ----


def read_examples(folder: Path, value_range: Sequence[float] | None = None) -> Items:
    """The items of a folder's examples.jsonl. InputError, which names the line, if it holds anything else."""
    path = folder / "examples.jsonl"
    items: list[Item] = []
    files: dict[str, Path] = {}
    for number, line in json_lines(path):
        try:
            row = json.loads(line)
            read = _normal if "images" in row or "captions" in row else _winoground
            item = read(row, len(items))
        except (ValueError, TypeError, RecursionError) as error:
            why = error if isinstance(error, _Wrong) else "is no JSON object"
            raise InputError(f"{path}, line {number}", why) from None
        for shown in item.images:
            found = files.get(shown.file) or _image(folder, shown.file)
            if found is None:
                raise InputError(f"{path}, line {number}", f"no such image: {shown.file}")
            files[shown.file] = found
        items.append(item)
    if not items:
        raise InputError(path, "holds no examples")
    open_file = opener(map(str, files.values()), f"dataset {str(folder)!r}", value_range)
    return Items(items, lambda k, i: open_file(str(files[items[k].images[i].file])))


class _Wrong(ValueError):
    """A line is JSON, but no item."""


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


KEYS = {"id", "images", "captions", "right", "tags", "groups"}


def _normal(row: dict, k: int) -> Item:
    """A line in the normal form."""
    unknown = [key for key in row if key not in KEYS]
    if unknown:
        raise _Wrong(f"{unknown[0]} is there, wanted {', '.join(sorted(KEYS))}; or Winoground's form")
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


def _box(value) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(isinstance(v, int | float) for v in value):
        raise ValueError(f"box {value!r:.60}, wanted left, top, width, height")
    return tuple(value)


def _image(folder: Path, name: str) -> Path | None:
    """The path of an image. Winoground's examples.jsonl names them without suffix, and keeps them in images/."""
    places = [folder / name, folder / "images" / name, folder / "images" / f"{name}.png"]
    return next((place for place in places if os.path.isfile(place)), None)  # unlike Path.is_file, for any text


def tag_of(row: dict) -> str:
    return next((str(row[tag]) for tag in TAGS if row.get(tag)), "")


# ---- the hub ----

WINOGROUND = ("image_0", "image_1", "caption_0", "caption_1")


def read_hub(
    name: str,
    columns: tuple[str, ...] = WINOGROUND,
    item: Callable | None = None,
    split: str = "test",
    value_range: Sequence[float] | None = None,
) -> Items:
    """The items of a data set of the hub; by default it has the columns of Winoground.

    Columns whose names begin with image hold images; item(k, row) makes an item of the other columns, or None: such
    rows are left out and counted in a warning.
    """
    data = rows_of_hub(name, split)
    import datasets

    missing = [each for each in columns if each not in data.features]
    if missing:
        problem = f"has no column {', '.join(missing)}; found {', '.join(data.features)}"
        raise InputError(f"--dataset hf:{name}", problem)
    pictures = [each for each in columns if each.startswith("image")]
    encoded = data.select_columns(pictures)
    for column in pictures:
        encoded = encoded.cast_column(column, datasets.Image(decode=False))
    items, rows = [], []
    for k, row in enumerate(data.remove_columns(pictures)):
        for each in columns:
            if each not in pictures and not row[each]:
                raise InputError(f"--dataset hf:{name}", f"{each} of example {k} is {row[each]!r}, wanted a text")
        made = (item or _of_hub)(k, row)
        if made:
            items.append(made)
            rows.append(k)
    if not items:
        raise InputError(f"hf:{name}", "holds no examples")
    if len(rows) < len(data):
        without = next(k for k in range(len(data)) if k not in rows)
        number = f"{len(data) - len(rows)} of {len(data)} rows"
        left_out = f"{number} make no example and are left out, the first is row {without}"
        warnings.warn(f"hf:{name}: {left_out}", InputWarning, stacklevel=2)

    def place(number: int) -> tuple:
        k, i = divmod(number, len(pictures))
        return hub_cell(encoded[rows[k]][pictures[i]], f"{pictures[i]} of example {rows[k]} of hf:{name}")

    images = with_ranges(ImageFiles(place, len(rows) * len(pictures)), f"dataset 'hf:{name}'", value_range)
    return Items(items, lambda k, i: images(k * len(pictures) + i))


def _of_hub(k: int, row: dict) -> Item:
    images = f"image_0 of example {k}", f"image_1 of example {k}"
    return pair(str(row.get("id", k)), images, (row["caption_0"], row["caption_1"]), tag_of(row))
