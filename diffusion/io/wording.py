"""Lists and numbers in messages: the first few, the nearest name, ranges."""

import difflib
import itertools
import math
import os
from collections.abc import Collection, Iterable, Sequence

from diffusion import InputError


def like(name: str, names: Iterable[str]) -> str:
    """Suffix of an unknown-name error: the nearest of the `names` that there are, if one is near."""
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def few(items: Collection, most: int = 3, between: str = ", ") -> str:
    """The first few items, for a message."""
    words = [str(item) for item in itertools.islice(items, most)]
    if len(items) > most:
        words.append("...")
    return between.join(words)


def shared(names: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many parts all names begin with and, in the rest, how many all end with; one part of each name is left."""
    shortest = min(map(len, names))
    first = _alike(names, shortest - 1)
    last = _alike([name[::-1] for name in names], shortest - 1 - first)
    return first, last


def _alike(names: Sequence[Sequence[str]], most: int) -> int:
    """How many parts, at most `most`, all names begin with."""
    for k in range(most):
        if len({name[k] for name in names}) > 1:
            return k
    return most


# ---- numbers as words ----


def count(number: int, noun: str) -> str:
    """A number of things in words: 1 image, 2 images, 3 classes."""
    if number == 1:
        return f"{number:,} {noun}"
    return f"{number:,} {noun}es" if noun.endswith("s") else f"{number:,} {noun}s"


def have(number: int, noun: str) -> str:
    """`count` with its verb: 1 image has, 2 images have."""
    verb = "has" if number == 1 else "have"
    return f"{count(number, noun)} {verb}"


def with_split(data: str, split: str | None) -> str:
    """A data set in words: pets, test split; its name alone without a split."""
    return data if split is None else f"{data}, {split} split"


def in_bytes(number: float) -> str:
    """Bytes in words: 12.3 kB, 3.4 MB, 12.1 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e3:,.1f} kB"


def bounds(words: Iterable[str]) -> list[tuple[int, int]]:
    """First and last number of words such as 7 and 0-99."""
    found = []
    for word in words:
        ends = [int(end) for end in word.split("-")]
        found.append((ends[0], ends[-1]))
    return found


def numbers(words: Iterable[str]) -> list[int]:
    """Ascending numbers from words such as 7 and 0-99."""
    return sorted({n for first, last in bounds(words) for n in range(first, last + 1)})


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as words that `numbers` reads: "0-99 200"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    return " ".join("-".join(map(str, run)) for run in runs)


def split_weight(lora: str, flag: str = "--lora") -> tuple[str, float]:
    """Name and weight of a LoRA, which is written `A` or `A:0.7`; the name of a file may itself hold colons."""
    name, colon, number = lora.rpartition(":")
    if not colon or os.path.exists(os.path.expanduser(lora)):
        return lora, 1.0
    try:
        weight = float(number)
    except ValueError:
        return lora, 1.0
    if not math.isfinite(weight) or weight == 0:
        raise InputError(f"{flag} {lora}", f"a weight of {number} changes nothing that can be measured")
    return name, weight
