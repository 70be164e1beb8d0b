"""Embedded matching benchmarks, one of each shape: canvases of held-out handwriting, which training has not seen.

    digits-pairs        2x2, 450: two digits; image 1 has the digits, the colours or the places exchanged
    digits-swap         1x2, 450: the same, one image of each
    digits-replace      1x2, 600: a digit alone (single), one of two (two), a colour (colour), the relation (position)
    digits-add          1x2, 300: the false caption names a colour, or another digit, that is not there
    digits-places       1x4, 400: how two digits stand to each other; pairs of opposites, sets of all four
    digits-order        1x5, 150: the same words in four other orders
    digits-retrieval    6x1, 100: the image of the caption, and five with something exchanged or replaced

Every object is one that training has shown in that colour, so that only the composition is tested. All images of an
item are of different handwriting.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from diffusion.data import digits
from diffusion.matching.items import Item, Items, choice, pair, search

DIGITS_SEED = 2204  # with an example's index, the seed of its images: changing it changes the embedded data sets
SWAPS = {  # tag -> the objects (colour, digit) of image 1, from those of image 0
    "Digit": lambda a, b: ((a[0], b[1]), (b[0], a[1])),
    "Colour": lambda a, b: ((b[0], a[1]), (a[0], b[1])),
    "Place": lambda a, b: (b, a),
}
(_, *SIDES), (_, *HEIGHTS) = digits.RELATIONS
PLACES = [*SIDES, *HEIGHTS]  # "to the left of" and the three others
Canvas = tuple[tuple[tuple[int, int], ...], bool]  # one or two objects (colour, digit), whether they stand vertically
Example = tuple[Item, list[Canvas]]  # an item and the canvas of each of its images


def _draw(canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """An object alone, or two: the first on the left or on top."""
    objects, vertical = canvas
    colours, numbers = zip(*objects, strict=True)
    ink, labels = digits.handwriting("test")
    chosen = [rng.choice(np.flatnonzero(labels == digit)) for digit in numbers]
    colour = torch.tensor(colours)
    if len(objects) == 1:
        return digits.picture(digits.one(ink[chosen], colour, rng)[0])
    return digits.picture(digits.two(ink[chosen][None], colour[None], np.array([vertical]), rng)[0])  # [3, 32, 32]


def _items(examples: Iterable[Example], *seed: int) -> Items:
    """Image i of item k is drawn from the seed (k, i, ..., DIGITS_SEED)."""
    items, canvases = zip(*examples, strict=True)

    def open_image(k: int, i: int) -> Image.Image:
        return _draw(canvases[k][i], np.random.default_rng([k, i, *seed, DIGITS_SEED]))

    return Items(list(items), open_image)


def _two(rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two objects that differ in colour and digit; training has shown both digits in both colours."""
    while True:
        c1, c2 = rng.choice(6, 2, replace=False).tolist()
        d1, d2 = rng.choice(10, 2, replace=False).tolist()
        if {(c1, d1), (c2, d2), (c1, d2), (c2, d1)} <= set(digits.SEEN):
            return (c1, d1), (c2, d2)


def _other(objects: tuple, rng: np.random.Generator, *, keep: int | None = None) -> tuple[int, int]:
    """An object that training has shown, of another colour than these, and of another digit or of the digit `keep`."""
    colours, numbers = zip(*objects, strict=True)
    others = []
    for colour, digit in digits.SEEN:
        is_wanted = digit not in numbers if keep is None else digit == keep
        if is_wanted and colour not in colours:
            others.append((colour, digit))
    return others[rng.integers(len(others))]


def _other_digit(colour: int, digits_shown: Iterable[int], rng: np.random.Generator) -> int:
    """A digit that training has shown in this colour, other than these."""
    others = [digit for seen, digit in digits.SEEN if seen == colour and digit not in digits_shown]
    return others[rng.integers(len(others))]


def _caption(objects: tuple, relations: Sequence[str], turned: bool) -> str:
    """The caption of two objects, from the first to the second or, `turned`, from the second to the first."""
    first, second = objects
    forward, backward = relations
    return digits.caption_two(second, first, backward) if turned else digits.caption_two(first, second, forward)


def _swapped(k: int) -> tuple[str, list[Canvas], list[str]]:
    """The tag, both canvases and both captions of an item."""
    rng = np.random.default_rng([k, DIGITS_SEED])
    tag = list(SWAPS)[k % len(SWAPS)]
    vertical, *relations = digits.RELATIONS[rng.integers(2)]
    first = _two(rng)
    second = SWAPS[tag](*first)
    turned = rng.random() >= 0.5
    captions = [_caption(first, relations, turned), _caption(second, relations, turned)]
    return tag, [(first, vertical), (second, vertical)], captions


def _pair(k: int) -> Example:
    tag, canvases, captions = _swapped(k)
    return pair(str(k), (f"{k}/0", f"{k}/1"), captions, tag), canvases


def _swap(k: int) -> Example:
    tag, canvases, captions = _swapped(k)
    return choice(str(k), f"{k}/0", captions, tag), canvases[:1]


def _replace(k: int) -> Example:
    rng = np.random.default_rng([k, 2, DIGITS_SEED])
    tag = ("single", "two", "colour", "position")[k % 4]
    vertical, *relations = digits.RELATIONS[rng.integers(2)]
    first, second = _two(rng)
    turned = bool(rng.integers(2))
    canvas = (first, second), vertical
    caption = _caption((first, second), relations, turned)

    if tag == "single":
        canvas = (first,), False
        caption = digits.caption_one(first[1], first[0])
        wrong = digits.caption_one(_other_digit(first[0], first[1:], rng), first[0])
    elif tag == "position":
        others = [place for place in PLACES if place not in caption]
        wrong = caption.replace(relations[turned], others[rng.integers(3)])
    elif tag == "colour":
        wrong = _caption((first, _other((first, second), rng, keep=second[1])), relations, turned)
    else:  # the digit, in the same colour
        new = second[0], _other_digit(second[0], (first[1], second[1]), rng)
        wrong = _caption((first, new), relations, turned)
    return choice(str(k), f"{k}/0", [caption, wrong], tag), [canvas]


def _add(k: int) -> Example:
    rng = np.random.default_rng([k, 3, DIGITS_SEED])
    shown, second = _two(rng)
    tag = ("Attribute", "Object")[k % 2]
    if tag == "Attribute":
        captions = digits.caption_one(shown[1]), digits.caption_one(shown[1], second[0])
    else:
        captions = digits.caption_one(shown[1], shown[0]), digits.caption_two(shown, second, PLACES[rng.integers(4)])
    return choice(str(k), f"{k}/0", captions, tag), [((shown,), False)]


def _places(k: int) -> Iterator[Example]:
    """Set k: an item for each of the four places; the first caption of an item is right."""
    first, second = _two(np.random.default_rng([k, 4, DIGITS_SEED]))
    captions = [digits.caption_two(first, second, place) for place in PLACES]
    for n, place in enumerate(PLACES):
        vertical = place in HEIGHTS
        objects = (first, second) if place in (SIDES[0], HEIGHTS[0]) else (second, first)
        direction = "vertical" if vertical else "horizontal"
        groups = {"pair": f"{k} {direction}", "set": str(k)}
        right_first = [captions[n], *captions[:n], *captions[n + 1 :]]
        item = choice(f"{k} {place}", f"{4 * k + n}/0", right_first, place, groups=groups)
        yield item, [(objects, vertical)]


def _orders(caption: str, rng: np.random.Generator) -> list[str]:
    """The caption, then four orders of its words, as in ARO (arXiv 2210.01936). Each differs from all before.

    Exchanged are the colours and digits; all other words; triples of words; the words within each triple.
    """
    words = np.array(caption[:-1].split())
    is_name = np.isin(words, [*digits.NAMES, *digits.WORDS])
    places = np.arange(len(words))
    triples = np.split(places, places[3::3])

    def among(chosen: np.ndarray) -> np.ndarray:
        order = places.copy()
        order[chosen] = rng.permutation(chosen)
        return order

    ways = [
        lambda: among(np.flatnonzero(is_name)),
        lambda: among(np.flatnonzero(~is_name)),
        lambda: np.concatenate([triples[t] for t in rng.permutation(len(triples))]),
        lambda: np.concatenate([rng.permutation(triple) for triple in triples]),
    ]
    texts = [caption]
    for way in ways:
        text = caption
        while text in texts:
            text = " ".join(words[way()]) + "."
        texts.append(text)
    return texts


def _order(k: int) -> Example:
    rng = np.random.default_rng([k, 5, DIGITS_SEED])
    vertical, *relations = digits.RELATIONS[rng.integers(2)]
    objects = _two(rng)
    caption = _caption(objects, relations, bool(rng.integers(2)))
    return choice(str(k), f"{k}/0", _orders(caption, rng)), [(objects, vertical)]


def _retrieval(k: int) -> Example:
    rng = np.random.default_rng([k, 6, DIGITS_SEED])
    vertical, *relations = digits.RELATIONS[rng.integers(2)]
    first, second = _two(rng)
    shown = [(first, second)]
    for change in SWAPS.values():
        shown.append(change(first, second))
    shown.append((first, _other((first, second), rng)))
    shown.append((first, _other((first, second), rng, keep=second[1])))

    right = int(rng.integers(len(shown)))
    shown[0], shown[right] = shown[right], shown[0]
    caption = _caption((first, second), relations, bool(rng.integers(2)))
    images = [f"{k}/{i}" for i in range(len(shown))]
    return search(str(k), images, caption, right=right), [(objects, vertical) for objects in shown]


TABLE: dict[str, Callable[[], Items]] = {
    "digits-pairs": lambda: _items(map(_pair, range(450))),
    "digits-swap": lambda: _items(map(_swap, range(450)), 1),
    "digits-replace": lambda: _items(map(_replace, range(600)), 2),
    "digits-add": lambda: _items(map(_add, range(300)), 3),
    "digits-places": lambda: _items(itertools.chain.from_iterable(map(_places, range(100))), 4),
    "digits-order": lambda: _items(map(_order, range(150)), 5),
    "digits-retrieval": lambda: _items(map(_retrieval, range(100)), 6),
}
