"""The embedded data: real handwriting (scikit-learn's `load_digits`) painted in colour on 32x32 canvases.

The last 497 of the 1797 digits are the test split; no model here is trained on them. `UNSEEN` holds the (colour, digit)
pairs that no training canvas shows, alone or beside another digit: captions of them test composition, not memory.
"""

import itertools
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusion.data.dataset import Dataset

SIZE = 32  # pixels of a canvas
SPLITS = {"train": slice(0, 1300), "test": slice(1300, None)}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (60, 90, 250),
    "yellow": (240, 220, 50),
    "purple": (190, 60, 220),
    "white": (235, 235, 235),
}
NAMES = list(COLOURS)
PALETTE = torch.tensor(list(COLOURS.values())) / 255  # [6, 3]
UNSEEN = [(0, 2), (1, 7), (2, 4), (3, 9), (4, 5), (5, 3), (0, 8), (2, 1)]  # (colour, digit)
SEEN = [(c, d) for d in range(10) for c in range(6) if (c, d) not in UNSEEN]  # digit by digit

SEED = 2303  # with an image's index, the seed of its canvas: changing it changes the embedded data sets
RELATIONS = [  # vertical, how the first digit (left or top) stands to the second, and the second to the first
    (False, "to the left of", "to the right of"),
    (True, "above", "below"),
]


@cache
def handwriting(split: str) -> tuple[Tensor, np.ndarray]:
    """Ink [n, 8, 8] in 0..1 and labels [n] of one split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images.reshape(-1, 8, 8) / 16, dtype=torch.float32)
    return images[SPLITS[split]], labels[SPLITS[split]]


def paint(ink: Tensor, colour: Tensor, centre: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Each digit alone on a black canvas: a little rotated, scaled, sheared and moved, drawn from `rng`.

    ink [n, 8, 8], colour [n] (rows of `PALETTE`), centre [n, 2] (x, y) and size [n] in pixels -> [n, 3, 32, 32], 0..1.
    """
    n = len(ink)
    angle, shear = rng.uniform(-0.15, 0.15, n), rng.uniform(-0.15, 0.15, n)
    size = size * rng.uniform(0.9, 1.05, (2, n))  # x, y
    centre = (centre + rng.uniform(-1, 1, (n, 2))) / (SIZE / 2) - 1
    turn = np.stack([np.cos(angle), np.sin(angle) + shear, -np.sin(angle), np.cos(angle)], -1).reshape(n, 2, 2)
    inverse = turn * (SIZE / size).T[:, :, None]  # affine_grid maps the canvas back to the ink
    theta = np.concatenate([inverse, -inverse @ centre[:, :, None]], -1)
    grid = F.affine_grid(torch.tensor(theta, dtype=torch.float32), [n, 1, SIZE, SIZE], align_corners=False)
    drawn = F.grid_sample(ink[:, None], grid, mode="bicubic", align_corners=False).clamp(0, 1)
    return drawn * PALETTE[colour][:, :, None, None]


def one(ink: Tensor, colour: Tensor, rng: np.random.Generator) -> Tensor:
    """Canvases [n, 3, 32, 32] with one large digit in the middle; ink [n, 8, 8], colour [n]."""
    n = len(ink)
    return paint(ink, colour, np.full((n, 2), 16.0), np.full(n, 28.0), rng)


def two(ink: Tensor, colour: Tensor, vertical: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Canvases [n, 3, 32, 32] with two small digits; the first is on the left or, if `vertical` [n], on top.

    ink [n, 2, 8, 8], colour [n, 2].
    """
    n = len(ink)
    first = np.where(vertical[:, None], [[16.0, 8.0]], [[8.0, 16.0]])
    centre = np.stack([first, 32 - first], 1).reshape(2 * n, 2)
    drawn = paint(ink.flatten(0, 1), colour.flatten(), centre, np.full(2 * n, 16.0), rng)
    return drawn.view(n, 2, 3, SIZE, SIZE).amax(1)


def picture(canvas: Tensor) -> Image.Image:
    """The image of a canvas [3, 32, 32] in 0..1."""
    return Image.fromarray((canvas * 255).round().byte().permute(1, 2, 0).numpy())


def colours_of(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """The colours of each digit 0..9 in `pairs` (colour, digit)."""
    found: list[list[int]] = [[] for _ in range(10)]
    for colour, digit in pairs:
        found[digit].append(colour)
    return found


def caption_one(digit: int, colour: int | None = None) -> str:
    """The caption of a digit alone, with or without its colour."""
    if colour is None:
        return f"a photo of the number {WORDS[digit]}."
    return f"a photo of a {NAMES[colour]} {WORDS[digit]}."


def caption_two(first: tuple[int, int], second: tuple[int, int], relation: str = "to the left of") -> str:
    """`first` and `second` are (colour, digit); `relation` is how the first stands to the second."""
    (c1, d1), (c2, d2) = first, second
    return f"a photo of a {NAMES[c1]} {WORDS[d1]} {relation} a {NAMES[c2]} {WORDS[d2]}."


def names_of_one() -> list[str]:
    """The class names of digits-colour, by class id: 10 colour + digit."""
    return list(map(" ".join, itertools.product(NAMES, WORDS)))


def names_of_two() -> list[str]:
    """The class names of digits-two, by class id: 60 times the left digit's id in `names_of_one`, plus the right's."""
    return list(map(" to the left of a ".join, itertools.product(names_of_one(), repeat=2)))


# ---- as data sets ----


def read_one(split: str, pairs: list[tuple[int, int]], coloured: bool) -> Dataset:
    """Large digits, one on each canvas: every handwritten one for which `pairs` (colour, digit) has a colour.

    Each is drawn in one of those colours. Image k has its own generator, so it does not depend on which others are
    opened. With `coloured` the class id is colour * 10 + digit, else the digit.
    """
    ink, digit = handwriting(split)
    colours = colours_of(pairs)
    has_colour = np.array(list(map(bool, colours)))
    kept = np.flatnonzero(has_colour[digit]).tolist()

    def choose(j: int) -> tuple[int, np.random.Generator]:
        rng = np.random.default_rng([j, SEED])
        return int(rng.choice(colours[digit[j]])), rng

    def open_canvas(k: int) -> Image.Image:
        j = kept[k]
        colour, rng = choose(j)
        return picture(one(ink[j : j + 1], torch.tensor([colour]), rng)[0])

    labels = digit[kept].tolist()
    if not coloured:
        return Dataset(labels, list(WORDS), open_canvas)
    chosen = [choose(j)[0] for j in kept]
    return Dataset((10 * np.array(chosen) + labels).tolist(), names_of_one(), open_canvas)


def read_two(split: str) -> Dataset:
    """As many canvases as there are digits: digit j to the left of another, each in a colour seen in training.

    The class id is 60 times the left one's among the 60 of digits-colour, plus the right one's.
    """
    ink, digit = handwriting(split)
    colours = colours_of(SEEN)

    def choose(j: int) -> tuple[list[int], list[int], np.random.Generator]:
        """The two digits, their colours, and the generator that goes on to draw them."""
        rng = np.random.default_rng([2, j, SEED])
        other = int(rng.integers(len(ink)))
        colour = int(rng.choice(colours[digit[j]]))
        colour_of_other = int(rng.choice(colours[digit[other]]))
        return [j, other], [colour, colour_of_other], rng

    def open_canvas(j: int) -> Image.Image:
        both, colour, rng = choose(j)
        return picture(two(ink[both][None], torch.tensor([colour]), np.array([False]), rng)[0])

    labels = []
    for j in range(len(ink)):
        both, colour, _ = choose(j)
        left, right = 10 * np.array(colour) + digit[both]
        labels.append(int(60 * left + right))
    return Dataset(labels, names_of_two(), open_canvas)
