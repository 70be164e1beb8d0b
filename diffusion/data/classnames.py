"""Names of classes: the words of a name, and which class a name means."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from diffusion import InputError

SYNSET = re.compile(r"(n\d{8})(?:[-_. ]+(.+))?")  # n02119789; n02085620-Chihuahua, as Stanford Dogs has them
NUMBERED = re.compile(r"(\d+)([._) -]+)([^\W\d_].*)")  # 001.Black_footed_Albatross


def as_tokenized(text: str) -> str:
    """A text as CLIP's tokenizers normalise it: Unicode NFC, lower case, one blank between words."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


@functools.cache
def lemmas() -> dict[str, str]:
    """WordNet id -> its names, such as "kit fox, Vulpes macrotis": the list that timm 1.0 ships; {} without timm."""
    try:
        path = library_file("timm", "timm", "data/_info/imagenet_synset_to_lemma.txt")
    except InputError:
        return {}
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        synset, _, names = line.partition("\t")
        if names.strip():
            found[synset] = names.strip()
    return found


def library_file(package: str, requirement: str, file: str) -> Path:
    """A data file of an installed package, found without importing the package, which may take seconds.

    InputError, with the command that installs it, if it is not there.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(package, f"not installed, and needed here: pip install --no-deps {requirement}")
    return Path(spec.submodule_search_locations[0], file)


def is_untranslated(name: str) -> bool:
    """Whether a name is a WordNet id that `lemmas` does not have."""
    match = SYNSET.fullmatch(name)
    return match is not None and match[2] is None and name not in lemmas()


def _without_numbers(names: Sequence[str]) -> list[str]:
    """Names such as 001.Albatross without their numbers, if all names are numbered; else as they are.

    They are numbered if every name begins with another number, followed by other words; and the numbers are
    consecutive, or are of one width with zeros before them or points after them. So "2_euro, 50_cent" keep theirs.
    """
    digits = []
    marks = []
    words = []
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match is None:
            return list(names)
        digits.append(match[1])
        marks.append(match[2])
        words.append(match[3])

    n = len(names)
    numbers = set(map(int, digits))
    if n < 2 or len(numbers) < n or len(set(map(as_tokenized, words))) < n:
        return list(names)
    is_consecutive = max(numbers) - min(numbers) == n - 1
    is_one_width = len(set(map(len, digits))) == 1
    is_marked = any(number.startswith("0") for number in digits) or all(mark.startswith(".") for mark in marks)
    return words if is_consecutive or (is_one_width and is_marked) else list(names)


def words_of(names: Sequence[str]) -> list[str]:
    """The words for classes in a prompt: WordNet ids translated, numbers before all names left out, blanks for _.

    A WordNet id becomes the first of its names. A name without words stays as it is.
    """
    found = []
    for name in _without_numbers(names):
        match = SYNSET.fullmatch(name)
        if match is not None:
            name = match[2] or lemmas().get(match[1], name).split(",")[0]
        found.append(" ".join(name.replace("_", " ").split()) or name)
    return found


# ---- a or an ----

VOWEL_SOUND = re.compile(  # words that begin with the sound of a vowel: hour, an X, an 8, an 11, an 1800, an 18000
    r"h(?:eir|onest|onou?r|ors$|our(?!i))|[aefhilmnorsx]$|8\d*$|1[18](?:\d\d|(?:\d{3})+)?$|y[^aeiou]|[aeiou]"
)
CONSONANT_SOUND = re.compile(  # words that begin with a vowel in letters alone: one, European, ewe, uniform, user, a U
    r"onc?e\b|eu|ewe|oui|u$|uk$|u(?:bi|fo|ga|ke|kr|ku|ra|ri|ro|ru|se|si|su|ta|te|ti|to)|uni(?!d|n|m(?!od|an))"
)


def article(words: str) -> str:
    """The indefinite article before some words: "a" or "an", by the sound of the first word.

    Words in capitals that have no vowel, or at most three letters, are spelled, as are a letter alone and one before a
    digit: an LCD screen, a UFO, an X-ray, an F16. Others are read as words: a NASA rocket. The rule is short, so it
    errs on rare words (an unionized atom, a ukase).
    """
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().replace("'", "")
    first = re.search(r"[A-Za-z]+|\d+", plain)
    if first is None:
        return "a"
    word = first[0]
    after = plain[first.end() : first.end() + 1]
    is_spelled = word.isupper() and (len(word) <= 3 or not set(word) & set("AEIOUY"))
    if word.isalpha() and (is_spelled or after.isdigit()):
        word = word[0]
    has_vowel_sound = VOWEL_SOUND.match(word.lower()) and not CONSONANT_SOUND.match(word.lower())
    return "an" if has_vowel_sound else "a"


# ---- misspelt names ----


def one_edit_apart(a: str, b: str) -> bool:
    """Whether two names of three letters or more differ in case, one letter, or two neighbours exchanged.

    Digits count: "class 1" and "class 2" are two names.
    """
    if a == b or min(len(a), len(b)) < 3:
        return False
    a, b = a.casefold(), b.casefold()
    start = _n_common(a, b)
    rest_a, rest_b = a[start:], b[start:]
    end = _n_common(rest_a[::-1], rest_b[::-1])
    left_a, left_b = rest_a[: len(rest_a) - end], rest_b[: len(rest_b) - end]
    if any(map(str.isdigit, left_a + left_b)):
        return False
    is_exchange = len(left_a) == 2 and left_a == left_b[::-1]
    return is_exchange or max(len(left_a), len(left_b)) < 2


def _n_common(a: str, b: str) -> int:
    """How many letters both begin with."""
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return k
    return min(len(a), len(b))


def misspelt(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of names one edit apart, the first of which has one image, or a tenth of the second's or fewer.

    counts: name of a class -> its images. The second has three images or more.
    """
    alike: dict[str, list[str]] = {}  # a name, or one without one letter -> the names that become it
    for name in counts:
        word = name.casefold()
        for form in {word, *(word[:k] + word[k + 1 :] for k in range(len(word)))}:
            alike.setdefault(form, []).append(name)

    found: dict[tuple[str, str], None] = {}
    for names in alike.values():
        for rare, usual in itertools.permutations(names, 2):
            is_rare = counts[usual] >= 3 and counts[rare] <= max(1, counts[usual] / 10)
            if is_rare and one_edit_apart(rare, usual):
                found[rare, usual] = None
    return list(found)


# ---- which class a name means ----


def _loose(name: str) -> str:
    """A name without the differences of case, Unicode form, and blanks or _ between words."""
    return as_tokenized(name.replace("_", " ")) or name


def _forms(names: Sequence[str]) -> list[tuple[set[str], set[str], set[str]]]:
    """The forms of each name, from the exact to the loosest: the name itself, `_loose`, and its words.

    Its words include each of several names between commas, as in "tench, Tinca tinca", and those of a WordNet id.
    Hyphens between letters count as blanks; zeros before a number do not count.
    """
    found = []
    for name, words in zip(names, words_of(names), strict=True):
        several = [name, words, *_between_commas(name), *_between_commas(lemmas().get(name, ""))]
        loosest = {re.sub(r"(?<=\w)-(?=\w)", " ", loose) for loose in map(_loose, several)}
        if name.isascii() and name.isdigit():
            loosest.add(name.lstrip("0") or "0")
        found.append(({name}, {_loose(name)}, loosest))
    return found


def _between_commas(name: str) -> list[str]:
    """The names between the commas of a name."""
    parts = map(str.strip, name.split(","))
    return list(filter(None, parts))


def meanings(names: Sequence[str], called: Mapping[int, Sequence[str]]) -> list[set[int]]:
    """The classes that each name means: class ids of `called`, class id -> its names. Empty: none.

    The nearest form decides: a class of exactly that name, else one whose name differs in case, blanks or Unicode
    form, else one of the same words (see `_forms`). Each part between commas is a name of a class too. Symbols and
    digits count as letters do: C and C# differ.
    """
    owners: list[int] = []
    names_of_classes: list[str] = []
    for class_id, several in called.items():
        owners += [class_id] * len(several)
        names_of_classes += several

    tables: tuple[dict[str, set[int]], ...] = ({}, {}, {})  # from the exact form to the loosest: form -> class ids
    for class_id, name, (*_, loosest) in zip(owners, names_of_classes, _forms(names_of_classes), strict=True):
        exact = {name, *_between_commas(name)}
        for table, forms in zip(tables, (exact, set(map(_loose, exact)), loosest), strict=True):
            for form in forms:
                table.setdefault(form, set()).add(class_id)

    found = []
    for by_table in _forms(names):
        meant: set[int] = set()
        for table, forms in zip(tables, by_table, strict=True):
            for form in forms:
                meant |= table.get(form, set())
            if meant:
                break
        found.append(meant)
    return found
