"""How two runs differ, in words: a digest is in run.json, and not in a message."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion import one_line
from diffusion.io.wording import count, few, shared

Image = tuple[str | None, int]  # its file, if it has one by which it is named; its label
DIGEST = re.compile(r"(, sha256 )?\b[0-9a-f]{64}\b")
SOURCE = re.compile(r", from (.*?), such as ", re.DOTALL)  # in the line of run.json about the prompts
LONG = 60  # characters: longer prompts are cut in the name of a run
OTHERS = {  # option whose value is a digest, or ends in one -> in words, if both runs have one
    "candidates_from": "its scores or names have changed",
    "candidate_prompts": "the prompts by which CLIP ranks the classes have changed",
    "classes": "the names in the file have changed",
    "noise": "the numbers in the file have changed",
    "prompts": "they have changed",
    "weights": "the numbers in the file have changed",
}


def changed(there: dict, run: dict) -> list[str]:
    """The options in which two run.json differ; one that is None counts as missing."""
    before, after = there["options"], run["options"]
    return [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def options_in_words(there: dict, run: dict, was: Mapping[int, Image], now: Mapping[int, Image]) -> list[str]:
    """How the options of two run.json differ, a text for each option.

    `was` and `now` are images of the two data sets by index, as far as they are at hand.
    """
    before, after = there["options"], run["options"]
    unit = "example" if "examples" in there else "image"
    found = []
    for key in changed(there, run):
        if key == "data":
            found.append(f"data: {data_in_words(before.get(key), after.get(key), was, now, unit=unit)}")
        elif key == "prompts" and there.get("arms") != run.get("arms"):
            found.append(prompts_in_words(there["arms"], run["arms"]))
        else:
            found.append(option_in_words(key, before.get(key), after.get(key)))
    return found


def option_in_words(key: str, was: object, now: object) -> str:
    """How the values of one option differ."""
    before, after = _shown(was), _shown(now)
    if before == after:
        return f"{key}: {OTHERS.get(key, 'its contents have changed')}"
    return f"{key} was {before}, now {after}"


def _shown(value: object) -> str:
    """A value as Python writes it, without its digest."""
    if not isinstance(value, str) or not DIGEST.search(value):
        return repr(value)
    return DIGEST.sub("", value) or "a file"


def prompts_in_words(was: Sequence[Sequence], now: Sequence[Sequence], most: int = 3) -> str:
    """The lines prompt,classname,classidx that only one of two runs has, at most so many of each."""
    gone, new = _only(was, now, most), _only(now, was, most)
    if not gone and not new:
        return "the prompts are the same, in another order"
    found = []
    if gone:
        found.append(f"the prompts had {gone}")
    if new:
        found.append(f"the prompts now have {new}")
    return ", ".join(found)


def _only(these: Sequence[Sequence], others: Sequence[Sequence], most: int) -> str:
    """The first `most` arms of `these` that are not among `others`, as lines of a csv."""
    there = set(map(tuple, others))
    left = [arm for arm in these if tuple(arm) not in there]
    lines = [json.dumps(text, ensure_ascii=False) + f",{name},{k}" for text, name, k in left[:most]]
    more = f" and {len(left) - most} more" if len(left) > most else ""
    return " and ".join(lines) + more


@dataclass(frozen=True)
class Sides:
    """The words for two sides."""

    between: str
    new: str
    gone: str


EARLIER = Sides(", now ", "new", "gone")  # the same data, before and now
BOTH = Sides(" and ", "only the second has", "only the first has")  # two runs


def data_in_words(
    was: str | None,
    now: str | None,
    before: Mapping[int, Image],
    after: Mapping[int, Image],
    *,
    unit: str = "image",
    sides: Sides = EARLIER,
) -> str:
    """How two data sets differ: "59 images, now 60: new five_07.png".

    was and now are their fingerprints, which begin with the number of images; before and after: images of both by
    index, as far as they are at hand. Which are new is only known if all images of before are at hand.
    """
    n_was, n_now = _number(was), _number(now)
    counts = f"{_count(n_was, unit)}{sides.between}{_count(n_now)}"
    files_before, files_after = _files(before), _files(after)
    details = []
    if len(files_before) == n_was:
        details += _those(sides.new, files_after, files_before)
    if len(files_after) == n_now:
        details += _those(sides.gone, files_before, files_after)
    if not details:
        details += _first_change(before, after, sides)
    if not details and n_was == n_now:
        details.append("other files, labels or order")
    return f"{counts}: {', '.join(details)}" if details else counts


def _number(fingerprint: str | None) -> int | None:
    """The number of images that a fingerprint begins with; None for one that does not."""
    match = re.match(r"\d+\b", fingerprint or "")
    return int(match[0]) if match else None


def _count(number: int | None, unit: str | None = None) -> str:
    """A number, perhaps of things; None: it is not known."""
    if number is None:
        return "an unknown number" if unit is None else f"an unknown number of {unit}s"
    return f"{number:,}" if unit is None else count(number, unit)


def _files(images: Mapping[int, Image]) -> dict[str, int]:
    """File -> label, of the images that have a file."""
    return {file: label for file, label in images.values() if file is not None}


def _those(word: str, files: Mapping[str, int], others: Mapping[str, int]) -> list[str]:
    """The first few `files` that are not among the others, after `word`; [] if there is none."""
    left = [file for file in files if file not in others]
    return [f"{word} {few(left)}"] if left else []


def _first_change(before: Mapping[int, Image], after: Mapping[int, Image], sides: Sides) -> list[str]:
    """The first image that is another one; [] if there is none."""
    for index in sorted(before.keys() & after.keys()):
        (old_file, old), (new_file, new) = before[index], after[index]
        if old_file != new_file and None not in (old_file, new_file):
            return [f"image {index}: {old_file}{sides.between}{new_file}"]
        if old != new:
            called = f"image {index}" if new_file is None else new_file
            return [f"{called}: class {old}{sides.between}class {new}"]
    return []


# ---- runs side by side ----


def different_parts(folders: Sequence[Path]) -> list[str]:
    """The folders without the parts that all of them begin and end with."""
    parts = [folder.parts for folder in folders]
    first, last = shared(parts)
    return ["/".join(each[first : len(each) - last]) for each in parts]


def prompts_that_differ(descriptions: Sequence[dict]) -> list[str]:
    """For each run.json of runs on the same images, its prompts in a few words; "" for all if their prompts are alike.

    The template; else the file, and the first prompt that is not that of all runs. "" for a run that has class ids.
    """
    texts = []
    for description in descriptions:
        arms = description.get("arms", [])
        texts.append([text for text, *_ in arms if isinstance(text, str)])
    if len(set(map(tuple, texts)) - {()}) < 2:
        return [""] * len(texts)
    first = 0
    for k, prompts in enumerate(itertools.zip_longest(*texts)):
        if len(set(prompts) - {None}) > 1:
            first = k
            break
    return [_prompts(description, each, first) for description, each in zip(descriptions, texts, strict=True)]


def _prompts(description: dict, texts: list[str], k: int) -> str:
    """The prompts of a run in a few words: the template, or the file and prompt k."""
    if not texts:
        return ""
    found = SOURCE.search(description.get("prompts") or "")
    source = found[1] if found else "--prompts"
    for start in ("the default template ", "--template "):
        if source.startswith(start):
            return _short(source.removeprefix(start))
    example = _short(repr(texts[min(k, len(texts) - 1)]))
    if source == "--prompts":
        return example
    return f"{Path(source).name}: {example}"


def _short(text: str) -> str:
    return one_line(text, LONG)
