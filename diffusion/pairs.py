"""Examples of two images and two captions, caption k for image k: Winoground, data like it, and embedded ones.

    winoground      $DATASET_ROOT/winoground/examples.jsonl if it is there, else facebook/winoground of the hub (gated)
    hf:NAME         a data set of the hub, or a local folder that its library reads
    FOLDER          examples.jsonl, a line each: id, image_0, image_1, caption_0, caption_1, tag; images beside it
    digits-pairs    450 examples of two digits, of handwriting and canvases that training has not seen

A tag sorts examples into groups that are counted apart; it may be missing.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusion import InputError, digits, one_line
from diffusion.images import hub_image, open_rgb

FIELDS = ("image_0", "image_1", "caption_0", "caption_1")
TAGS = ("collapsed_tag", "tag")  # columns; the first that an example has
DIGITS_SEED = 2204  # with an example's index, the seed of its images: changing it changes the embedded data set
SWAPS = {  # tag -> the objects (colour, digit) of image 1, from those of image 0
    "Digit": lambda a, b: ((a[0], b[1]), (b[0], a[1])),
    "Colour": lambda a, b: ((b[0], a[1]), (a[0], b[1])),
    "Place": lambda a, b: (b, a),
}


@dataclass(frozen=True)
class Pairs:
    """Examples by index; `open(k, side)` decodes an image of example k (RGB; OSError if unreadable)."""

    ids: list[str]
    captions: list[tuple[str, str]]
    tags: list[str]  # "" where there is none
    open: Callable[[int, int], Image.Image]

    def __len__(self) -> int:
        return len(self.ids)


def load_pairs(name: str, root: str | Path = "/datasets") -> Pairs:
    """The examples called `name` (see above). InputError: unknown name, no access, missing or damaged data."""
    local = Path(root).expanduser() / "winoground"
    if name == "digits-pairs":
        return _digits_pairs(450)
    if name == "winoground":
        return _folder(local) if (local / "examples.jsonl").exists() else _hub("facebook/winoground")
    if name.startswith("hf:") and name != "hf:":
        return _hub(name.removeprefix("hf:"))
    if os.path.isdir(folder := os.path.expanduser(name)):  # as Path's, but any text will do
        return _folder(Path(folder))
    raise InputError(f"--dataset {name}: wanted winoground, digits-pairs, hf:NAME or a folder with examples.jsonl")


def _pairs(name: str, rows: list[dict], open_image: Callable[[int, int], Image.Image]) -> Pairs:
    if not rows:
        raise InputError(f"{name}: holds no examples")
    return Pairs(
        [str(row.get("id", k)) for k, row in enumerate(rows)],
        [(row["caption_0"], row["caption_1"]) for row in rows],
        [next((str(row[tag]) for tag in TAGS if row.get(tag)), "") for row in rows],
        open_image,
    )


def _folder(folder: Path) -> Pairs:
    path = folder / "examples.jsonl"
    rows, files = [], []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # other line breaks may stand in a caption
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            wrong = [field for field in FIELDS if not isinstance(row.get(field), str) or not row[field].strip()]
        except (ValueError, AttributeError, RecursionError):
            raise InputError(f"{path}, line {number}: is no JSON object") from None
        if wrong:
            raise InputError(f"{path}, line {number}: {wrong[0]} is {row.get(wrong[0])!r}, wanted a text")
        pair = [_image(folder, row[field]) for field in ("image_0", "image_1")]
        if None in pair:
            raise InputError(f"{path}, line {number}: no such image: {row[f'image_{pair.index(None)}']}")
        rows.append(row)
        files.append(pair)
    return _pairs(str(path), rows, lambda k, side: open_rgb(files[k][side]))


def _image(folder: Path, name: str) -> Path | None:
    """Winoground's own file names its images without suffix, and keeps them in a folder of their own."""
    places = [folder / name, folder / "images" / name, folder / "images" / f"{name}.png"]
    return next((place for place in places if os.path.isfile(place)), None)  # as Path's, but any text will do


def _hub(name: str) -> Pairs:
    try:
        import datasets as hub
    except ImportError:
        raise InputError(f"--dataset hf:{name} needs the package 'datasets': pip install -e '.[all]'") from None
    try:
        data = hub.load_dataset(name, split="test")  # the token of `hf auth login`, or HF_TOKEN
    except Exception as error:  # no access, no network, no such data set, broken files, ...
        why = f"{type(error).__name__}: {one_line(error, 200)}"
        how = "if it is gated, accept its terms on its page on huggingface.co, then `hf auth login`"
        how += " (older: `huggingface-cli login`) or HF_TOKEN"
        raise InputError(f"--dataset hf:{name}: cannot be read ({why}); {how}") from None
    if missing := [field for field in FIELDS if field not in data.features]:
        raise InputError(f"--dataset hf:{name}: has no column {', '.join(missing)}; found {', '.join(data.features)}")
    encoded = data.select_columns(["image_0", "image_1"])
    for column in encoded.column_names:
        encoded = encoded.cast_column(column, hub.Image(decode=False))

    def open_image(k: int, side: int) -> Image.Image:
        return hub_image(encoded[k][f"image_{side}"], f"image_{side} of example {k} of hf:{name}")

    rows = list(data.remove_columns(["image_0", "image_1"]))
    for k, row in enumerate(rows):
        for field in ("caption_0", "caption_1"):
            if not row[field]:
                raise InputError(f"--dataset hf:{name}: {field} of example {k} is {row[field]!r}, wanted a text")
    return _pairs(f"hf:{name}", rows, open_image)


def _digits_pairs(n: int) -> Pairs:
    """Two digits of two colours; image 1 has the digits, the colours or the places exchanged, in other handwriting.

    Every object is one that training has shown in that colour, so that only the composition is asked for.
    """
    ink, labels = digits.handwriting("test")
    rows, objects = [], []
    for k in range(n):
        rng = np.random.default_rng([k, DIGITS_SEED])
        tag = list(SWAPS)[k % len(SWAPS)]
        vertical, forward, backward = digits.RELATIONS[rng.integers(2)]
        while True:
            (c1, c2), (d1, d2) = rng.choice(6, 2, replace=False).tolist(), rng.choice(10, 2, replace=False).tolist()
            if {(c1, d1), (c2, d2), (c1, d2), (c2, d1)} <= set(digits.SEEN):
                break
        sides = [((c1, d1), (c2, d2)), SWAPS[tag]((c1, d1), (c2, d2))]
        if rng.random() < 0.5:
            captions = [digits.caption_two(first, second, forward) for first, second in sides]
        else:
            captions = [digits.caption_two(second, first, backward) for first, second in sides]
        rows.append({"caption_0": captions[0], "caption_1": captions[1], "tag": tag})
        objects.append((sides, vertical))

    def open_image(k: int, side: int) -> Image.Image:
        sides, vertical = objects[k]
        rng = np.random.default_rng([k, side, DIGITS_SEED])
        drawn = torch.stack([ink[rng.choice(np.flatnonzero(labels == d))] for _, d in sides[side]])
        colour = torch.tensor([c for c, _ in sides[side]])
        canvas = digits.two(drawn[None], colour[None], np.array([vertical]), rng)[0]  # [3, 32, 32] in 0..1
        return digits.picture(canvas)

    return _pairs("digits-pairs", rows, open_image)
