"""Lists and numbers in messages: the first few, the nearest name, ranges."""

import difflib
import math
import os
from collections.abc import Collection, Iterable, Sequence

from diffusion import InputError


def like(name: str, known: Iterable[str]) -> str:
    """What ends a refusal of a name: the known one that is nearest, if any is near."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def few(each: Collection, most: int = 3, between: str = ", ") -> str:
    """The first of many, for a message."""
    return between.join([*map(str, list(each)[:most]), *["..."] * (len(each) > most)])


def shared(names: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many parts all begin with and, of what is left, how many all end with; of every name one part is left."""

    def alike(most: int, step: int) -> int:
        return next((k for k in range(most) if len({name[::step][k] for name in names}) > 1), most)

    shortest = min(map(len, names))
    first = alike(shortest - 1, 1)
    return first, alike(shortest - 1 - first, -1)


# ---- numbers as words ----


def bounds(words: Iterable[str]) -> list[tuple[int, int]]:
    """First and last number of words such as 7 and 0-99."""
    ends = [[int(end) for end in word.split("-")] for word in words]
    return [(first_last[0], first_last[-1]) for first_last in ends]


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


def split_weight(given: str, flag: str = "--lora") -> tuple[str, float]:
    """A LoRA as it is given, `A` or `A:0.7`, as its name and its weight; a file's own name may hold colons."""
    name, colon, number = given.rpartition(":")
    if not colon or os.path.exists(os.path.expanduser(given)):
        return given, 1.0
    try:
        weight = float(number)
    except ValueError:
        return given, 1.0
    if not math.isfinite(weight) or weight == 0:
        raise InputError(f"{flag} {given}", f"a weight of {number} changes nothing that can be measured")
    return name, weight
