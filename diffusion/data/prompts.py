"""Prompts and the classes that they are for; the weights of noise levels."""

import itertools
import os
import re
import runpy
import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diffusion import InputError, InputWarning
from diffusion.data.catalogue import DATASETS, NO_LABEL
from diffusion.data.classnames import (
    article,
    as_tokenized,
    is_untranslated,
    library_file,
    meanings,
    one_edit_apart,
    words_of,
)
from diffusion.data.folders import Folder
from diffusion.io.reading import Table, is_id, read_csv, read_numbers
from diffusion.io.wording import count, few, split_weight
from diffusion.paths import DATA, shipped

PROMPTS = DATA / "prompts"
FILE_COLUMNS = ("lora", "embedding")  # columns of files that a prompt adds to the model for itself
SAME_PROMPTS = {"imagenetv2": "imagenet", "digits-unseen": "digits-colour"}  # scored with the prompts of another


@dataclass(frozen=True)
class Prompts:
    """One entry per arm: the prompt, the name of its class and the class id; the group of the class, if there are any.

    loras and embeddings are the files that a prompt adds to the model for itself, as --lora and --embeddings take them.
    """

    texts: list[str]
    names: list[str]
    classes: list[int]
    groups: list[str] | None = None
    loras: list[tuple[str, ...]] | None = None
    embeddings: list[tuple[str, ...]] | None = None
    numbered: bool = False  # the csv has no class ids: names are classes, numbered as they come
    source: str = field(default="", compare=False)  # the file or option that the prompts come from

    def __str__(self) -> str:
        """One line: how many, their source, and three of them."""
        n = len(self.texts)
        some = [repr(self.texts[k]) for k in sorted({0, n // 2, n - 1})]
        number = f"{count(n, 'prompt')} of {count(len(set(self.classes)), 'class')}"
        return f"{number}, from {self.source}, such as {', '.join(some)}"


# ---- csv ----


def read_prompts(path: str | Path, *, added: bool = False) -> Prompts:
    """The arms in a csv with columns prompt,classname[,classidx] and, if classes have groups, group.

    Without classidx, classes are the names, numbered in the order of the csv. `added`: also the columns lora and
    embedding, which are refused otherwise. InputError names the file and the line at fault.
    """
    table = read_csv(path, ("prompt", "classname"), ("classidx", "group", *FILE_COLUMNS))
    columns = table.columns
    names = list(map(str.strip, columns["classname"]))
    numbered = "classidx" not in columns
    ids = _numbered(names) if numbered else columns["classidx"]
    _check_rows(path, table, names, ids, numbered)
    classes = list(map(int, ids))
    if len(set(classes)) < 2:
        same = f"classname {names[0]!r}" if numbered else f"classidx {classes[0]}"
        raise InputError(path, f"every prompt has {same}, wanted at least two classes")

    files = {}
    for column in FILE_COLUMNS:
        if column in columns:
            files[column] = _files_of_cells(Path(path), table.lines, column, columns[column])
            if files[column] and not added:
                raise InputError(path, f"column {column}: is for eval_prob_adaptive.py alone; wanted a csv without it")
    return Prompts(
        columns["prompt"],
        names,
        classes,
        columns.get("group"),
        files.get("lora"),
        files.get("embedding"),
        numbered,
        str(path),
    )


def _numbered(names: list[str]) -> list[str]:
    """The number of each name, in the order in which names appear."""
    number_of: dict[str, int] = {}
    return [str(number_of.setdefault(name, len(number_of))) for name in names]


def _check_rows(path: str | Path, table: Table, names: list[str], ids: list[str], numbered: bool) -> None:
    """InputError for an empty prompt or name, a class id that is no whole number, a class in two groups."""
    texts = table.columns["prompt"]
    groups = table.columns.get("group", [None] * len(table))
    group_of: dict[int, str | None] = {}
    for line, text, name, class_id, group in zip(table.lines, texts, names, ids, groups, strict=True):
        if not text.strip():
            raise InputError(f"{path}, line {line}", "the prompt is empty")
        if numbered and not name:
            raise InputError(f"{path}, line {line}", "the classname is empty, wanted one, or a column classidx")
        if not is_id(class_id):
            raise InputError(f"{path}, line {line}", f"classidx is {class_id!r}, wanted an integer from 0 up")
        above = group_of.setdefault(int(class_id), group)
        if group != above:
            raise InputError(f"{path}, line {line}", f"class {class_id} is in group {group!r}, and above in {above!r}")


def _files_of_cells(path: Path, lines: Sequence[int], column: str, cells: list[str]) -> list[tuple[str, ...]] | None:
    """The files that each cell of a column names, those beside the csv by their path; None if no cell names any."""
    found = []
    for line, cell in zip(lines, cells, strict=True):
        try:
            words = shlex.split(cell)
        except ValueError as error:
            raise InputError(f"{path}, line {line}", f"{column} is {cell!r}: {error}") from None
        files = []
        for word in words:
            name = word
            if column == "lora":
                name, _ = split_weight(word, f"{path}, line {line}: lora")
            if os.path.exists(path.parent / name) or os.path.exists(name):
                word = str(path.parent / word)
            files.append(word)
        found.append(tuple(files))
    return found if any(found) else None


def prompts_file(dataset: str) -> str:
    """The name of the csv in prompts/ that a data set of the table is scored with."""
    return f"{SAME_PROMPTS.get(dataset, dataset).replace('-', '_')}_prompts.csv"


def csv_of(dataset: str) -> Path | None:
    """The csv that a data set of the table is scored with: prompts/DATASET_prompts.csv, here or as it ships with us.

    None for a user's data, which are paths, and for a data set that has none.
    """
    csv = Path("prompts", prompts_file(dataset))
    if dataset in DATASETS or (not os.path.exists(dataset) and os.path.exists(shipped(csv))):
        return shipped(csv)
    return None


# ---- prompts that are alike ----


def duplicates(prompts: Prompts) -> list[tuple[str, list[str]]]:
    """Prompts that stand for more than one class, each with the names of the classes."""
    return [(same[0], names) for same, names in _groups_alike(prompts, str)]


def near_duplicates(prompts: Prompts) -> list[str]:
    """Warnings of prompts of several classes whose differences CLIP's tokenizers drop."""
    found = []
    for texts, names in _groups_alike(prompts, as_tokenized):
        if len(texts) > 1:
            differ = f"{few(list(map(ascii, texts)))} differ in case, blanks or Unicode form alone"
            alike = f"with a tokenizer that drops these, as CLIP's do, {' and '.join(names)} cannot be told apart"
            found.append(f"{differ}: {alike}")
    return found


def _groups_alike(prompts: Prompts, form: Callable[[str], str]) -> list[tuple[list[str], list[str]]]:
    """Prompts of one form, with the same files, that stand for several classes: their texts, the names of the classes.

    The form of a prompt is form(text).
    """
    none = [()] * len(prompts.texts)
    added = zip(prompts.loras or none, prompts.embeddings or none, strict=True)
    found: dict[tuple, tuple[dict[str, None], dict[int, str]]] = {}
    for text, name, class_id, files in zip(prompts.texts, prompts.names, prompts.classes, added, strict=True):
        same, names = found.setdefault((form(text), files), ({}, {}))
        same[text] = None
        names.setdefault(class_id, name)
    alike = []
    for texts, classnames in found.values():
        if len(classnames) > 1:
            alike.append((list(texts), list(classnames.values())))
    return alike


def warn_of_alike(prompts: Prompts) -> None:
    """Warn of `duplicates` and `near_duplicates`."""
    for prompt, names in duplicates(prompts):
        alike = f"{prompt!r} stands for {' and '.join(names)}: they cannot be told apart"
        warnings.warn(alike, InputWarning, stacklevel=2)
    for alike in near_duplicates(prompts):
        warnings.warn(alike, InputWarning, stacklevel=2)


# ---- templates ----

DEFAULT_TEMPLATE = "a photo of a(n) {}."
DEFAULT_SOURCE = "the default template "  # begins the source of prompts by it
OPEN_CLIP_SETS = {  # name -> that of open_clip's list: templates published for CLIP
    "openai-imagenet": "OPENAI_IMAGENET_TEMPLATES",
    "simple-imagenet": "SIMPLE_IMAGENET_TEMPLATES",
}
GAP = re.compile(r"(?:\b(a)\(n\) )?\{\}", re.IGNORECASE)


def templates_of(words: Sequence[str]) -> list[str]:
    """Templates, each with {} for the name of the class, from templates and names of sets of them (OPEN_CLIP_SETS).

    InputError for one without {}, with a(n) elsewhere than before it, or that stands there twice.
    """
    found: list[str] = []
    for word in words:
        if word in OPEN_CLIP_SETS:
            path = library_file("open_clip", "open_clip_torch", "zero_shot_metadata.py")
            functions = runpy.run_path(str(path))[OPEN_CLIP_SETS[word]]  # name of a class -> prompt
            found += [function("{}") for function in functions]
            continue
        where = f"--template {word!r}"
        if "{}" not in word:
            sets = ", ".join(OPEN_CLIP_SETS)
            raise InputError(where, f"has no {{}} for the name of the class, and is none of {sets}")
        if "a(n)" in GAP.sub("", word).lower():
            raise InputError(where, "a(n), which becomes a or an, must stand directly before {}")
        found.append(word)
    for template, n in Counter(found).items():
        if n > 1:
            raise InputError(f"--template {template!r}", "is there twice")
    return found


def filled(template: str, words: str) -> str:
    """A template with the words of a class for {}, and a or an, by the sound of these words, for a(n) before it."""

    def fill(gap: re.Match) -> str:
        if gap[1] is None:
            return words
        return f"{gap[1]}{article(words)[1:]} {words}"

    return GAP.sub(fill, template)


def by_templates(classes: Mapping[int, str], templates: Sequence[str], source: str) -> Prompts:
    """The prompts of classes, class id -> its name: one for each template, class by class."""
    texts = []
    names = []
    ids = []
    for (class_id, name), words in zip(classes.items(), words_of(list(classes.values())), strict=True):
        for template in templates:
            texts.append(filled(template, words))
            names.append(name)
            ids.append(class_id)
    return Prompts(texts, names, ids, source=source)


# ---- the prompts of a data set ----


def prompts_for(
    name: str,
    labels: list[int],
    classes: list[str],
    path: Path | None = None,
    texts: list[str] | None = None,
    *,
    added: bool = False,
    templates: Sequence[str] | None = None,
) -> Prompts:
    """The prompts of the csv at `path`, or of the csv of the data set `name`, or of DEFAULT_TEMPLATE if it has none.

    labels      class ids of its images, NO_LABEL: none
    classes     names by class id, [] if the data has none
    texts       the prompts themselves, for images without labels
    templates   as templates_of takes them, filled with the names of classes, in place of the csv of the data set
    added       as in read_prompts

    `_classes_of` maps the classes of a csv to those of the data. InputError if these are not prompts for the classes of
    the data set. Warns of classes with the same prompt, and of prompts whose words are not the name of the class.
    """
    csv = csv_of(name)
    if templates and (path or texts):
        flag = "--prompt_path" if path else "--prompts"
        raise InputError(f"--template {templates[0]!r}", f"not with {flag}, which has whole prompts")
    called = _names_by_class(name, labels, classes) if path else {}
    if texts:
        prompts = _typed_prompts(texts, name, labels, classes, path)
    elif path:
        prompts = read_prompts(path, added=added)
        prompts = replace(prompts, classes=_classes_of(prompts, called, path, name), numbered=False)
    elif csv:
        prompts = read_prompts(csv)
        if templates:
            prompts = _from_templates(dict(zip(prompts.classes, prompts.names, strict=True)), templates)
    elif len(classes) < 2:
        flags = "--prompts or --prompt_path" if NO_LABEL in labels else "--prompt_path"
        why = f"{_why_no_classes(name, classes)}; wanted two classes or more to choose from, by {flags}"
        raise InputError(f"--dataset {name}", f"{why}{_class_of(name)}")
    else:
        prompts = _from_templates(dict(enumerate(classes)), templates)
        _warn_of_words(name, classes, words_of(classes))

    missing = sorted(set(labels) - set(prompts.classes) - {NO_LABEL})
    if missing:
        words = []
        for k in missing[:10]:
            words.append(f"{k} ({classes[k]})" if k < len(classes) else str(k))
        problem = f"no class {', '.join(words)} there, which images of {name} have; wanted a prompt for each class"
        problem += _like_missing(missing, classes, prompts)
        raise InputError(path or csv or "prompts", problem)
    unused = sorted(set(prompts.classes) - set(range(len(classes))))
    if unused and classes and csv:  # without a csv of the data set they are distractors
        raise InputError(path or csv, f"class ids {unused[:10]} there, {name} has only 0..{len(classes) - 1}")
    if path:
        _warn_of_others(prompts, called, path, name)
        _warn_of_misspelt(prompts, called, path, name)
    warn_of_alike(prompts)
    return prompts


def _why_no_classes(name: str, classes: list[str]) -> str:
    """Why there is no choice between classes of a data set."""
    if classes:
        return f"has the class {classes[0]!r} alone"
    if os.path.isdir(os.path.expanduser(name)):
        return "holds images but no class folders"
    return "has no names of classes"


def _class_of(name: str) -> str:
    """Suffix of an error: the folder of which this one may be a class, as other folders in it hold images too."""
    folder = os.path.expanduser(name)
    parent = os.path.normpath(os.path.join(folder, os.pardir))
    if not os.path.isdir(folder):
        return ""
    try:
        with_images = [beside for beside in Folder(parent).folders if beside.images(deep=False)]
    except OSError:
        return ""
    if len(with_images) < 2:
        return ""
    return f"; if it is one class of {parent}, --dataset {parent}"


def _typed_prompts(texts: list[str], name: str, labels: list[int], classes: list[str], path: Path | None) -> Prompts:
    """The prompts of the option --prompts, a class each. InputError if labels or a csv are there too."""
    if path:
        raise InputError("--prompts", f"not with --prompt_path {path}, which has prompts; wanted one of the two")
    if NO_LABEL not in labels:
        some = f" ({few(classes, 3)})" if classes else ""
        wanted = "wanted --template, or --prompt_path with the class of each prompt"
        raise InputError("--prompts", f"the images of {name} have labels{some}; {wanted}")
    if len(texts) < 2 or not all(map(str.strip, texts)):
        raise InputError(f"--prompts {' '.join(map(repr, texts))}", "wanted at least two texts")
    return Prompts(texts, texts, list(range(len(texts))), source="--prompts")


def _from_templates(names: Mapping[int, str], templates: Sequence[str] | None) -> Prompts:
    """The prompts of classes, class id -> name, by templates as they are typed, or by the default one."""
    if not templates:
        return by_templates(names, [DEFAULT_TEMPLATE], f"{DEFAULT_SOURCE}{DEFAULT_TEMPLATE!r}")
    return by_templates(names, templates_of(templates), f"--template {' '.join(map(repr, templates))}")


def _warn_of_words(name: str, classes: list[str], words: list[str]) -> None:
    """Warn of prompts with other words than the name of the class, and of WordNet ids in prompts."""
    changed = []
    for classname, word in zip(classes, words, strict=True):
        if word not in (classname, " ".join(classname.replace("_", " ").split())):
            changed.append(f"{classname!r} is {word!r}")
    if changed:
        how = "WordNet ids are translated and numbers before names left out"
        warnings.warn(f"--dataset {name}: in prompts {how}: {few(changed)}", InputWarning, stacklevel=3)
    untranslated = list(filter(is_untranslated, words))
    if untranslated:
        ids = f"WordNet ids stand in prompts as they are: {few(list(map(repr, untranslated)))}"
        how = "timm's list does not have them, or timm is not installed; --prompt_path has prompts in words"
        warnings.warn(f"--dataset {name}: {ids}; {how}", InputWarning, stacklevel=3)


def _names_by_class(name: str, labels: list[int], classes: list[str]) -> dict[int, list[str]]:
    """Class id -> names of the class, or its number if it has none.

    Names are those in the data and, for a data set of the table, those in its prompts. Both are needed: torchvision
    calls ImageNet's classes 657 and 744 "missile" and "projectile", the prompts published for CLIP call both "missile".
    """
    if not classes:
        return {label: [str(label)] for label in sorted(set(labels) - {NO_LABEL})}
    called = {class_id: [classname] for class_id, classname in enumerate(classes)}
    csv = PROMPTS / prompts_file(name)
    if name in DATASETS and csv.is_file():
        published = read_prompts(csv)
        for class_id, classname in zip(published.classes, published.names, strict=True):
            if class_id in called:
                called[class_id].append(classname)
    return called


def _classes_of(prompts: Prompts, called: dict[int, list[str]], path: Path, name: str) -> list[int]:
    """The class id, in the data set `name`, of each prompt of a csv; `called`: class id there -> names.

    classidx is the class as long as no name of one class is a name of another one. Else the names decide in a user's
    data, if every name means one class, whatever the order of the csv; a class that the data does not have gets a new
    id. A data set of the table keeps classidx; a csv in another order is refused. Without classidx the names decide.
    """
    named: dict[int, set[int]] = {}  # class of the csv -> classes of the data that have one of its names
    owners: dict[str, set[int]] = {}  # name -> classes of the csv
    for classname, class_id, meant in zip(prompts.names, prompts.classes, meanings(prompts.names, called), strict=True):
        named.setdefault(class_id, set()).update(meant)
        owners.setdefault(classname, set()).add(class_id)
    if prompts.numbered and called:
        return _by_name(prompts, named, called, path, name)
    if prompts.numbered:
        return prompts.classes

    shared: set[int] = set()  # classes of the csv that have a name in common with another
    for classes in owners.values():
        if len(classes) > 1:
            shared |= classes
    contrary = {}  # those whose names are of other classes than their classidx
    for class_id, meant in named.items():
        if meant and class_id not in meant | shared:
            contrary[class_id] = meant
    if contrary and name not in DATASETS and not shared:
        return _by_name(prompts, named, called, path, name)
    if contrary:
        agreeing = sum(k in meant for k, meant in named.items())
        first = min(contrary)
        classname = prompts.names[prompts.classes.index(first)]
        there = min(contrary[first])
        is_there = f"is {called[first][0]!r}" if first in called else "has no images"
        problem = f"classname {classname!r} has classidx {first}, which in {name} {is_there}"
        problem += f"; {classname!r} is {there} there"
        exchanged = any(meant & contrary.keys() for meant in contrary.values())
        if exchanged or len(contrary) > agreeing or name not in DATASETS:
            raise InputError(path, problem)
        warnings.warn(f"{path}: {problem}; classidx counts", InputWarning, stacklevel=3)
    return prompts.classes


def _warn_of_others(prompts: Prompts, called: dict[int, list[str]], path: Path, name: str) -> None:
    """Warn of classes of the csv that classidx maps to a class of another name.

    For a data set of the table, only if this is so for all of them. A name that is the class's number does not count.
    """
    if all(names == [str(k)] for k, names in called.items()):
        return  # the data has no names
    named = set()  # classes of the csv that have a name of a class of the data
    for class_id, meant in zip(prompts.classes, meanings(prompts.names, called), strict=True):
        if meant:
            named.add(class_id)
    taken: dict[str, None] = {}  # each once
    for classname, class_id in zip(prompts.names, prompts.classes, strict=True):
        is_number = classname.lstrip("0") == str(class_id).lstrip("0")
        if class_id in called and class_id not in named and not is_number:
            taken[f"{classname!r} is taken for {called[class_id][0]!r}"] = None

    if not taken or (named and name in DATASETS):
        return
    what = f"classnames that {name} does not have" if named else f"none of its classnames is a class of {name}"
    warnings.warn(f"{path}: {what}: {few(taken, 2, '; ')}", InputWarning, stacklevel=3)


def _warn_of_misspelt(prompts: Prompts, called: dict[int, list[str]], path: Path, name: str) -> None:
    """Warn of a classname of no class of the data that is one edit from the name of one."""
    found: dict[str, None] = {}
    for text, classname, class_id in zip(prompts.texts, prompts.names, prompts.classes, strict=True):
        if class_id in called:
            continue
        for near in itertools.chain.from_iterable(called.values()):
            if one_edit_apart(classname, near):
                found[f"{classname!r} (prompt {text!r}) is no class there, {near!r} is"] = None
    if found:
        warnings.warn(f"{path}: a misspelling for {name}? {few(found, 3, '; ')}", InputWarning, stacklevel=3)


def _like_missing(missing: list[int], classes: list[str], prompts: Prompts) -> str:
    """Suffix of an error: the classname of a csv, of no class of the data, that is one edit from a missing class."""
    for k in missing:
        for classname, class_id in zip(prompts.names, prompts.classes, strict=True):
            if k < len(classes) <= class_id and one_edit_apart(classname, classes[k]):
                return f"; is {classname!r} there a misspelling of {classes[k]!r}?"
    return ""


def _by_name(
    prompts: Prompts, named: dict[int, set[int]], called: dict[int, list[str]], path: Path, name: str
) -> list[int]:
    """Class ids by names alone. InputError if a name is of several classes, or no name is a class of the data."""
    names: dict[int, str] = {}
    for class_id, classname in zip(prompts.classes, prompts.names, strict=True):
        names.setdefault(class_id, classname)

    matched: dict[int, list[int]] = {}  # class of the data -> classes of the csv that mean it
    unmatched = []
    for class_id, meant in named.items():
        if len(meant) > 1:
            classes = ", ".join(f"{k} ({called[k][0]})" for k in sorted(meant))
            raise InputError(path, f"classname {names[class_id]!r} is a name of the classes {classes} of {name}")
        if meant:
            matched.setdefault(min(meant), []).append(class_id)
        else:
            unmatched.append(class_id)
    if not matched:
        classes = few([repr(several[0]) for several in called.values()])
        found = few(list(map(repr, names.values())))
        raise InputError(path, f"no column classidx, and no classname ({found}) is a class of {name} ({classes})")

    for k, several in matched.items():
        if len(several) > 1 and not prompts.numbered:
            both = few([repr(names[class_id]) for class_id in several])
            alike = f"classnames {both} have a classidx each, and are one class of {name}: {called[k][0]!r}"
            raise InputError(path, alike)
    if unmatched and name in DATASETS:
        first = names[unmatched[0]]
        raise InputError(path, f"classname {first!r} is no class of {name}, and there is no column classidx")

    new = itertools.count(1 + max([*called, *unmatched]))
    id_of = {}
    for k, several in matched.items():
        id_of |= dict.fromkeys(several, k)
    for class_id in unmatched:
        is_free = not prompts.numbered and class_id not in called
        id_of[class_id] = class_id if is_free else next(new)
    return [id_of[class_id] for class_id in prompts.classes]


def read_level_weights(path: Path | None, T: int) -> np.ndarray:
    """The weight of an error at each of T levels, from a csv with the columns level,weight. [T] float64, of mean 1

    Weights are interpolated between the levels of the csv, and constant beyond them; without a csv they are all 1.
    InputError names the file and the line at fault.
    """
    if path is None:
        return np.ones(T)
    weights = read_numbers(path, "level", range(T), "weight", 1e9, "a number from 0 up")
    table = np.interp(np.arange(T), list(weights), list(weights.values()))
    if not table.any():
        raise InputError(path, "every weight is 0")
    return table / table.mean()
