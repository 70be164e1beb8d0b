"""Items of matching benchmarks, in one form: images, captions, which belong together; read from a folder or the hub.

A line of examples.jsonl has either id, image_0, image_1, caption_0, caption_1, tag: two images and two captions, which
belong together in this order; or images, a list of files or of {"file": ..., "box": [left, top, width, height]};
captions, a list; right, a list of [caption, image], both counted from 0; and, if wanted, id, tags, a list, and groups,
{"pair": NAME, ...}. Images lie beside it. A tag sorts items into groups that are counted apart.
"""

import itertools
import json
import operator
import os
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion import InputError, InputWarning, one_line
from diffusion.data.hub import rows_of_hub
from diffusion.data.images import ImageFiles, hub_cell, listed, open_rgb, to_rgb, with_ranges
from diffusion.io.reading import json_lines
from diffusion.io.wording import count

DIAGONAL = {(0, 0), (1, 1)}  # two captions and two images, which belong together in this order
WINOGROUND = ("image_0", "image_1", "caption_0", "caption_1")  # keys and columns of its form
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
        for text in self.captions:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"caption {text!r:.60}, wanted a text")
        for text in (*self.tags, *self.groups, *self.groups.values()):
            if not isinstance(text, str) or not text:
                raise ValueError(f"tags {self.tags!r:.60}, groups {self.groups!r:.60}, wanted texts")

        for caption, image in self.right:
            if not isinstance(caption, int) or not isinstance(image, int):
                raise ValueError(f"right {sorted(self.right, key=repr)!r:.60}, wanted whole numbers")
        size = f"{count(len(self.captions), 'caption')}, {count(len(self.images), 'image')}"
        possible = itertools.product(range(len(self.captions)), range(len(self.images)))
        if not self.right or not self.right <= set(possible):
            raise ValueError(f"right {sorted(self.right)!r:.60}, wanted pairs of caption and image of {size}")

        if not self.has_text_score and not self.has_image_score:
            raise ValueError(f"{size}, of which none is wrong: nothing is asked")

    @property
    def table(self) -> np.ndarray:
        """Which caption is right for which image, [captions, images] bool."""
        table = np.zeros((len(self.captions), len(self.images)), dtype=bool)
        for pair in self.right:
            table[pair] = True
        return table

    @property
    def has_text_score(self) -> bool:
        """Whether some image has both a right caption and a wrong one."""
        table = self.table
        return bool((table.any(0) & ~table.all(0)).any())

    @property
    def has_image_score(self) -> bool:
        """Whether some caption is right for exactly one of several images."""
        return len(self.images) > 1 and bool((self.table.sum(1) == 1).any())

    @property
    def tag(self) -> str:
        """The first tag, "" if there is none."""
        return self.tags[0] if self.tags else ""

    @property
    def is_pair(self) -> bool:
        """Whether these are two images and two captions in order, without boxes."""
        is_whole = not any(shown.box for shown in self.images)
        return is_whole and self.right == DIAGONAL and len(self.captions) == len(self.images) == 2

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
    paths: Mapping[str, str] = field(default_factory=dict)  # file -> its path on disk, as far as images lie in files

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

    @property
    def located(self) -> dict[int, tuple[str, str]]:
        """Number of an image, counted through all items -> its file and the path of that, if it lies in one."""
        shown = itertools.chain.from_iterable(item.images for item in self.items)
        found = {}
        for number, image in enumerate(shown):
            if image.file in self.paths:
                found[number] = (image.file, self.paths[image.file])
        return found

    def seen(self, k: int, i: int) -> Image.Image:
        """Image i of item k, cut to its box. OSError if unreadable, or the box is beside it."""
        return cut(self.open(k, i), self.items[k].images[i])


class ExpiringCache:
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
    right = round(min(left + width, image.width))
    bottom = round(min(top + height, image.height))
    left = round(max(left, 0))
    top = round(max(top, 0))
    if left >= right or top >= bottom:
        raise OSError(f"image {shown.file}: {image.width} x {image.height} pixels, nothing of the box {shown.box}")
    return image.crop((left, top, right, bottom))


def pair(id_: str, images: Iterable[str], captions: Iterable[str], *tags: str) -> Item:
    """Two images and two captions, which belong together in this order."""
    return Item(id_, tuple(map(Shown, images)), tuple(captions), frozenset(DIAGONAL), tuple(filter(None, tags)))


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
    pictures = [path for path in dict.fromkeys(paths) if not path.endswith(".npy")]
    images = with_ranges(listed(pictures), what, value_range)

    def open_file(path: str) -> Image.Image:
        if path.endswith(".npy"):
            return _open_npy(path)
        return open_rgb(path, None, images.ranges, images.guessed)

    return open_file


def _open_npy(path: str) -> Image.Image:
    try:
        return to_rgb(Image.fromarray(np.ascontiguousarray(np.load(path, allow_pickle=False)[..., ::-1])))
    except Exception as error:  # whatever the readers raise at a foreign file
        found = f"cannot read image {path}: {type(error).__name__}: {one_line(error)}"
        raise OSError(f"{found}; mend or remove it") from error


# ---- examples.jsonl ----


def read_examples(folder: Path, value_range: Sequence[float] | None = None) -> Items:
    """The items of a folder's examples.jsonl. InputError, which names the line, if it holds anything else."""
    path = folder / "examples.jsonl"
    items: list[Item] = []
    files: dict[str, str] = {}
    for number, line in json_lines(path):
        try:
            row = json.loads(line)
            read = _general if "images" in row or "captions" in row else _winoground
            item = read(row, len(items))
        except (ValueError, TypeError, RecursionError) as error:
            why = error if isinstance(error, _BadItem) else "is no JSON object"
            raise InputError(f"{path}, line {number}", why) from None
        for shown in item.images:
            found = files.get(shown.file) or _image(folder, shown.file)
            if found is None:
                raise InputError(f"{path}, line {number}", f"no such image: {shown.file}")
            files[shown.file] = str(found)
        items.append(item)
    if not items:
        raise InputError(path, "holds no examples")
    open_file = opener(files.values(), f"dataset {str(folder)!r}", value_range)
    return Items(items, lambda k, i: open_file(files[items[k].images[i].file]), paths=files)


class _BadItem(ValueError):
    """A line is JSON, but no item."""


def _winoground(row: dict, k: int) -> Item:
    """A line in Winoground's form."""
    if not isinstance(row, dict):
        raise ValueError
    for each in WINOGROUND:
        if not isinstance(row.get(each), str) or not row[each].strip():
            raise _BadItem(f"{each} is {row.get(each)!r}, wanted a text")
    first, second, *captions = operator.itemgetter(*WINOGROUND)(row)
    return pair(str(row.get("id", k)), (first, second), captions, tag_of(row))


KEYS = {"id", "images", "captions", "right", "tags", "groups"}


def _general(row: dict, k: int) -> Item:
    """A line in the normal form."""
    for key in row:
        if key not in KEYS:
            raise _BadItem(f"{key} is there, wanted {', '.join(sorted(KEYS))}; or Winoground's form")
    row = {"id": k, "tags": [], "groups": {}} | row
    try:
        for key in ("images", "captions", "right", "tags"):
            if not isinstance(row[key], list):
                raise ValueError("wanted images, captions, right and tags as lists")
        images = tuple(map(_shown, row["images"]))
        right = frozenset((caption, image) for caption, image in row["right"])
        return Item(str(row["id"]), images, tuple(row["captions"]), right, tuple(row["tags"]), dict(row["groups"]))
    except KeyError as error:
        raise _BadItem(f"has no {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise _BadItem(str(error)) from None


def _shown(image) -> Shown:
    """An image of a line: the name of a file, or {"file": ..., "box": ...}. ValueError if it is neither."""
    if not isinstance(image, dict):
        image = {"file": image}
    file, box = image["file"], image.get("box")
    if not isinstance(file, str) or not file:
        raise ValueError(f"image {file!r:.60}, wanted a file")
    if box is None:
        return Shown(file)
    is_box = isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)
    if not is_box:
        raise ValueError(f"box {box!r:.60}, wanted left, top, width, height")
    return Shown(file, tuple(box))


def _image(folder: Path, name: str) -> Path | None:
    """The path of an image. Winoground's examples.jsonl names them without suffix, and keeps them in images/."""
    for path in (folder / name, folder / "images" / name, folder / "images" / f"{name}.png"):
        if os.path.isfile(path):  # unlike Path.is_file, for any text
            return path
    return None


def tag_of(row: dict) -> str:
    """The tag of a line or row in Winoground's form, "" if it has none."""
    for key in TAGS:
        if row.get(key):
            return str(row[key])
    return ""


# ---- the hub ----


def read_hub(
    name: str,
    columns: tuple[str, ...] = WINOGROUND,
    item_of: Callable[[int, dict], Item | None] | None = None,
    split: str = "test",
    value_range: Sequence[float] | None = None,
) -> Items:
    """The items of a data set of the hub; by default it has the columns of Winoground.

    Columns whose names begin with image hold images; item_of(k, row) makes an item of the other columns of row k, or
    None: such rows are left out and counted in a warning. InputError if the data cannot be read, lack a column or a
    text, or make no item.
    """
    data = rows_of_hub(name, split)
    import datasets

    missing = [column for column in columns if column not in data.features]
    if missing:
        problem = f"has no column {', '.join(missing)}; found {', '.join(data.features)}"
        raise InputError(f"--dataset hf:{name}", problem)
    pictures = [column for column in columns if column.startswith("image")]
    encoded = data.select_columns(pictures)
    for column in pictures:
        encoded = encoded.cast_column(column, datasets.Image(decode=False))

    item_of = item_of or _of_hub
    items = []
    rows = []
    left_out = []
    for k, row in enumerate(data.remove_columns(pictures)):
        for column in columns:
            if column not in pictures and not row[column]:
                raise InputError(f"--dataset hf:{name}", f"{column} of example {k} is {row[column]!r}, wanted a text")
        item = item_of(k, row)
        if item is None:
            left_out.append(k)
        else:
            items.append(item)
            rows.append(k)
    if not items:
        raise InputError(f"hf:{name}", "holds no examples")
    if left_out:
        number = f"{len(left_out)} of {len(data):,} rows"
        problem = f"{number} make no example and are left out, the first is row {left_out[0]}"
        warnings.warn(f"hf:{name}: {problem}", InputWarning, stacklevel=2)

    def place(number: int) -> tuple:
        k, i = divmod(number, len(pictures))
        return hub_cell(encoded[rows[k]][pictures[i]], f"{pictures[i]} of example {rows[k]} of hf:{name}")

    images = with_ranges(ImageFiles(place, len(rows) * len(pictures)), f"dataset 'hf:{name}'", value_range)
    return Items(items, lambda k, i: images(k * len(pictures) + i))


def _of_hub(k: int, row: dict) -> Item:
    """A row in Winoground's form."""
    images = f"image_0 of example {k}", f"image_1 of example {k}"
    return pair(str(row.get("id", k)), images, (row["caption_0"], row["caption_1"]), tag_of(row))
