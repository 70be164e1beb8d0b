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
    lines = (line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {synset: names.strip() for synset, _, names in lines if names.strip()}


def library_file(package: str, requirement: str, file: str) -> Path:
    """A data file of an installed package, found without importing the package, which may take seconds.

    InputError, with the command that installs it, if it is not there.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{package} is not installed", f"it is needed here: pip install --no-deps {requirement}")
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
    matches = [NUMBERED.fullmatch(name) for name in names]
    found = [match for match in matches if match is not None]
    if len(names) < 2 or len(found) < len(names):
        return list(names)
    numbers = sorted(int(match[1]) for match in found)
    words = [match[3] for match in found]
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    one_width = len({len(match[1]) for match in found}) == 1
    padded = any(match[1].startswith("0") for match in found) or all(match[2].startswith(".") for match in found)
    if len({as_tokenized(word) for word in words}) < len(words) or 0 in steps:
        return list(names)
    return words if steps == {1} or (one_width and padded) else list(names)


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
CONSONANT_SOUND = re.compile(  # and those that do so in letters alone: one, European, ewe, uniform, user, a U
    r"onc?e\b|eu|ewe|oui|u$|uk$|u(?:bi|fo|ga|ke|kr|ku|ra|ri|ro|ru|se|si|su|ta|te|ti|to)|uni(?!d|n|m(?!od|an))"
)


def article(words: str) -> str:
    """The indefinite article before some words: "a" or "an", by the sound of the first word.

    Words in capitals that have no vowel, or at most three letters, are spelled, as are a letter alone and one before a
    digit: an LCD screen, a UFO, an X-ray, an F16. Read as words are others: a NASA rocket. The rule is short, so it
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
        loosest = {re.sub(r"(?<=\w)-(?=\w)", " ", _loose(each)) for each in several}
        if name.isascii() and name.isdigit():
            loosest.add(name.lstrip("0") or "0")
        found.append(({name}, {_loose(name)}, loosest))
    return found


def _between_commas(name: str) -> list[str]:
    return [each.strip() for each in name.split(",") if each.strip()]


def meanings(names: Sequence[str], called: Mapping[int, Sequence[str]]) -> list[set[int]]:
    """The classes that each name means: class ids of `called`, class id -> its names. Empty: none.

    The nearest form decides: a class of exactly that name, else one whose name differs in case, blanks or Unicode
    form, else one of the same words (see `_forms`). A class has each of the names between commas in its own. Symbols
    and digits are names as others are: C and C# differ.
    """
    tables: tuple[dict[str, set[int]], ...] = ({}, {}, {})
    owners = [class_id for class_id, several in called.items() for _ in several]
    theirs = list(itertools.chain.from_iterable(called.values()))
    for class_id, name, forms in zip(owners, theirs, _forms(theirs), strict=True):
        each = {name, *_between_commas(name)}
        by_table = (each, set(map(_loose, each)), forms[-1])
        for table, alternatives in zip(tables, by_table, strict=True):
            for form in alternatives:
                table.setdefault(form, set()).add(class_id)
    found = []
    for forms in _forms(names):
        meant: set[int] = set()
        for table, alternatives in zip(tables, forms, strict=True):
            if not meant:
                meant = {class_id for form in alternatives for class_id in table.get(form, set())}
        found.append(meant)
    return found
