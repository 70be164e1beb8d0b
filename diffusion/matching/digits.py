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

from collections.abc import Callable, Sequence

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
OPPOSITES = {name: other for _, *both in digits.RELATIONS for name, other in (both, both[::-1])}
Canvas = tuple[tuple[tuple[int, int], ...], bool]  # one or two objects (colour, digit), whether they stand vertically


def _draw(canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """An object alone, or two: the first on the left or on top."""
    objects, vertical = canvas
    ink, labels = digits.handwriting("test")
    drawn = torch.stack([ink[rng.choice(np.flatnonzero(labels == d))] for _, d in objects])
    colour = torch.tensor([c for c, _ in objects])
    if len(objects) == 1:
        return digits.picture(digits.one(drawn, colour, rng)[0])
    return digits.picture(digits.two(drawn[None], colour[None], np.array([vertical]), rng)[0])  # [3, 32, 32] in 0..1


def _items(items: list[Item], canvases: list[list[Canvas]], *seed: int) -> Items:
    """Items with the canvases of their images. Image i of item k is drawn from the seed (k, i, ..., DIGITS_SEED)."""

    def open_image(k: int, i: int) -> Image.Image:
        return _draw(canvases[k][i], np.random.default_rng([k, i, *seed, DIGITS_SEED]))

    return Items(items, open_image)


def _two(rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two objects that differ in colour and digit; training has shown both digits in both colours."""
    while True:
        c1, c2 = rng.choice(6, 2, replace=False).tolist()
        d1, d2 = rng.choice(10, 2, replace=False).tolist()
        if {(c1, d1), (c2, d2), (c1, d2), (c2, d1)} <= set(digits.SEEN):
            return (c1, d1), (c2, d2)


def _other(objects: tuple, rng: np.random.Generator, *, keep: int | None = None) -> tuple[int, int]:
    """An object that training has shown, of another colour than these, and of another digit or of the digit `keep`."""
    colours = {colour for colour, _ in objects}
    numbers = set(range(10)) - {digit for _, digit in objects} if keep is None else {keep}
    those = [(c, d) for c, d in digits.SEEN if c not in colours and d in numbers]
    return those[rng.integers(len(those))]


def _caption(objects: tuple, relations: Sequence[str], turned: bool) -> str:
    """The caption of two objects, from the first to the second or, `turned`, from the second to the first."""
    first, second = objects
    forward, backward = relations
    return digits.caption_two(second, first, backward) if turned else digits.caption_two(first, second, forward)


def _swapped(n: int):
    """The tag, both canvases and both captions of n items."""
    for k in range(n):
        rng = np.random.default_rng([k, DIGITS_SEED])
        tag = list(SWAPS)[k % len(SWAPS)]
        vertical, *relations = digits.RELATIONS[rng.integers(2)]
        first = _two(rng)
        sides = first, SWAPS[tag](*first)
        turned = rng.random() >= 0.5
        yield tag, [(side, vertical) for side in sides], [_caption(side, relations, turned) for side in sides]


def pairs(n: int = 450) -> Items:
    items = list(_swapped(n))
    made = [pair(str(k), (f"{k}/0", f"{k}/1"), captions, tag) for k, (tag, _, captions) in enumerate(items)]
    return _items(made, [canvases for _, canvases, _ in items])


def swap(n: int = 450) -> Items:
    items = list(_swapped(n))
    made = [choice(str(k), f"{k}/0", captions, tag) for k, (tag, _, captions) in enumerate(items)]
    return _items(made, [canvases[:1] for _, canvases, _ in items], 1)


def _replaced(tag: str, rng: np.random.Generator) -> tuple[Canvas, str, str]:
    vertical, *relations = digits.RELATIONS[rng.integers(2)]
    first, second = _two(rng)
    turned = bool(rng.integers(2))
    if tag == "single":
        others = [d for c, d in digits.SEEN if c == first[0] and d != first[1]]
        other = others[rng.integers(len(others))]
        return ((first,), False), digits.caption_one(first[1], first[0]), digits.caption_one(other, first[0])
    caption = _caption((first, second), relations, turned)
    canvas = (first, second), vertical
    if tag == "position":
        wrong = [name for name in OPPOSITES if name not in caption]
        return canvas, caption, caption.replace(relations[turned], wrong[rng.integers(3)])
    if tag == "colour":
        new = _other((first, second), rng, keep=second[1])
    else:  # the digit, in the same colour
        those = [(c, d) for c, d in digits.SEEN if c == second[0] and d not in (first[1], second[1])]
        new = those[rng.integers(len(those))]
    return canvas, caption, _caption((first, new), relations, turned)


def replace(n: int = 600) -> Items:
    made: list[Item] = []
    canvases: list[list[Canvas]] = []
    for k in range(n):
        tag = ("single", "two", "colour", "position")[k % 4]
        canvas, *captions = _replaced(tag, np.random.default_rng([k, 2, DIGITS_SEED]))
        made.append(choice(str(k), f"{k}/0", captions, tag))
        canvases.append([canvas])
    return _items(made, canvases, 2)


def add(n: int = 300) -> Items:
    made: list[Item] = []
    canvases: list[list[Canvas]] = []
    for k in range(n):
        rng = np.random.default_rng([k, 3, DIGITS_SEED])
        shown, second = _two(rng)
        tag = ("Attribute", "Object")[k % 2]
        if tag == "Attribute":
            captions = digits.caption_one(shown[1]), digits.caption_one(shown[1], second[0])
        else:
            relation = list(OPPOSITES)[rng.integers(4)]
            captions = digits.caption_one(shown[1], shown[0]), digits.caption_two(shown, second, relation)
        made.append(choice(str(k), f"{k}/0", captions, tag))
        canvases.append([((shown,), False)])
    return _items(made, canvases, 3)


def places(n: int = 100) -> Items:
    """n sets; the first caption of an item is right."""
    made: list[Item] = []
    canvases: list[list[Canvas]] = []
    for k in range(n):
        first, second = _two(np.random.default_rng([k, 4, DIGITS_SEED]))
        captions = {name: digits.caption_two(first, second, name) for name in OPPOSITES}
        for vertical, *both in digits.RELATIONS:
            direction = "vertical" if vertical else "horizontal"
            for relation, objects in zip(both, ((first, second), (second, first)), strict=True):
                others = [text for name, text in captions.items() if name != relation]
                groups = {"pair": f"{k} {direction}", "set": str(k)}
                texts = [captions[relation], *others]
                made.append(choice(f"{k} {relation}", f"{len(made)}/0", texts, relation, groups=groups))
                canvases.append([(objects, vertical)])
    return _items(made, canvases, 4)


def _orders(caption: str, rng: np.random.Generator) -> list[str]:
    """The caption, then four orders of its words, as in ARO (arXiv 2210.01936). Each differs from all before.

    Exchanged are the colours and digits; all other words; triples of words; the words within each triple.
    """
    words = caption[:-1].split()
    texts = [caption]
    named = np.array([word in digits.NAMES or word in digits.WORDS for word in words])
    triples = [range(k, min(k + 3, len(words))) for k in range(0, len(words), 3)]

    def among(places: np.ndarray) -> list[int]:
        order = np.arange(len(words))
        order[places] = rng.permutation(places)
        return order.tolist()

    def triples_exchanged() -> list[int]:
        return [k for t in rng.permutation(len(triples)) for k in triples[t]]

    def exchanged_in_triples() -> list[int]:
        return [k for triple in triples for k in rng.permutation(triple)]

    ways = [
        lambda: among(np.flatnonzero(named)),
        lambda: among(np.flatnonzero(~named)),
        triples_exchanged,
        exchanged_in_triples,
    ]
    for way in ways:
        text = caption
        while text in texts:
            text = " ".join(words[k] for k in way()) + "."
        texts.append(text)
    return texts


def order(n: int = 150) -> Items:
    made: list[Item] = []
    canvases: list[list[Canvas]] = []
    for k in range(n):
        rng = np.random.default_rng([k, 5, DIGITS_SEED])
        vertical, *relations = digits.RELATIONS[rng.integers(2)]
        objects = _two(rng)
        made.append(choice(str(k), f"{k}/0", _orders(_caption(objects, relations, bool(rng.integers(2))), rng)))
        canvases.append([(objects, vertical)])
    return _items(made, canvases, 5)


def retrieval(n: int = 100) -> Items:
    made: list[Item] = []
    canvases: list[list[Canvas]] = []
    for k in range(n):
        rng = np.random.default_rng([k, 6, DIGITS_SEED])
        vertical, *relations = digits.RELATIONS[rng.integers(2)]
        first, second = _two(rng)
        shown = [(first, second), *(change(first, second) for change in SWAPS.values())]
        shown += [(first, _other((first, second), rng)), (first, _other((first, second), rng, keep=second[1]))]
        right = int(rng.integers(len(shown)))
        shown[0], shown[right] = shown[right], shown[0]
        caption = _caption((first, second), relations, bool(rng.integers(2)))
        made.append(search(str(k), [f"{k}/{i}" for i in range(len(shown))], caption, right=right))
        canvases.append([(objects, vertical) for objects in shown])
    return _items(made, canvases, 6)


TABLE: dict[str, Callable[[], Items]] = {
    "digits-pairs": pairs,
    "digits-swap": swap,
    "digits-replace": replace,
    "digits-add": add,
    "digits-places": places,
    "digits-order": order,
    "digits-retrieval": retrieval,
}
