"""A user's images in a table: csv, tsv or jsonl.

Columns are path,label[,group][,candidates][,split]. Paths are taken as they are, or from the table's folder. A table
without the column label has images without labels. `candidates` are written cat;dog;lynx, in jsonl a list will do;
`split` is train, val or test, for --split.
"""

import ast
import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PureWindowsPath

from diffusion import InputError
from diffusion.data.catalogue import NO_LABEL
from diffusion.data.dataset import Dataset
from diffusion.data.folders import check_split, class_ids, split_of, warn_of_misspelt
from diffusion.data.images import listed
from diffusion.io.reading import Table, csv_header, json_lines, read_csv
from diffusion.io.wording import count

SUFFIXES = (".csv", ".tsv", ".jsonl")
OPTIONAL = ("label", "group", "candidates", "split")
NO_CLASS = {  # what spreadsheets and pandas write if there is no value
    "#N/A", "#N/A N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


def read_table(name: str, split: str) -> Dataset:
    """The images of a table. Class ids are those of the whole table, whatever the split.

    InputError names the line at fault. Columns and not rows are handled, since a table may have a million rows.
    """
    path = Path(os.path.expanduser(name))  # Path.expanduser refuses ~nobody
    table = _read_json_lines(path) if path.suffix.lower() == ".jsonl" else _read_csv(path)
    for key in FILLED:
        if key in table.columns:
            table.columns[key] = [cell.strip() for cell in table.columns[key]]
    _check_filled(path, table)
    chosen = _rows_of_split(name, path, table, split)
    columns = {}
    for key, cells in table.columns.items():
        columns[key] = [cells[k] for k in chosen]

    places, names = _places(path.parent, columns["path"])
    if not any(os.path.exists(os.path.join(path.parent, place)) for place in places):
        where = "paths are taken as they are, or from the folder of the table"
        first = path.parent / places[0]
        raise InputError(path, f"none of its {count(len(places), 'image')} is there, such as {first}; {where}")

    labels = [NO_LABEL] * len(chosen)
    classes: list[str] = []
    if "label" in columns:
        ids, classes = class_ids(table.columns["label"])
        labels = [ids[label] for label in columns["label"]]
        warn_of_misspelt(name, Counter(table.columns["label"]))
    candidates = []
    if "candidates" in columns:
        lines = [table.lines[k] for k in chosen]
        candidates = list(zip(lines, map(partial(_candidates, path), lines, columns["candidates"]), strict=True))
    groups, has_splits = columns.get("group", []), "split" in table.columns
    return Dataset(labels, classes, listed(places, path.parent), names, groups, candidates, has_splits)


FILLED = ("path", "label", "group")  # columns whose cells must not be empty


def _read_csv(path: Path) -> Table:
    """The columns of a csv or tsv. InputError names the line at fault."""
    header = csv_header(path)
    is_unlabelled = bool(header) and set(header) <= {"path", "candidates", "split"}
    columns = ("path",) if is_unlabelled else ("path", "label")
    table = read_csv(path, columns, OPTIONAL[1:])
    _check_labels(path, table)
    return table


def _check_labels(path: Path, table: Table) -> None:
    """InputError if a cell holds what other programs write for no label, or a list of labels."""
    labels = table.columns.get("label", [])
    for label in dict.fromkeys(labels):
        problem = _why_no_label(label.strip())
        if problem:
            line = table.lines[labels.index(label)]
            raise InputError(f"{path}, line {line}", f"label is {label.strip()!r}, {problem}")


def _why_no_label(text: str) -> str:
    """Why a text is not taken for a label; "" if it is one."""
    if text in NO_CLASS:
        return "which spreadsheets and pandas write for none; a class of this name can stand in a jsonl"
    if text.startswith(("[", "(", "{")) and _is_list(text):
        return "wanted one class for each image"
    return ""


def _is_list(text: str) -> bool:
    """Whether a text is a list or the like as Python writes it."""
    try:
        return isinstance(ast.literal_eval(text), list | tuple | set | dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _check_filled(path: Path, table: Table) -> None:
    """InputError if a path, a label or a group is empty."""
    empty = []  # (row, column) of the first empty cell of each column
    for key in FILLED:
        cells = table.columns.get(key, [])
        if "" in cells:
            empty.append((cells.index(""), key))
    if empty:
        k, key = min(empty)
        raise InputError(f"{path}, line {table.lines[k]}", f"the {key} is empty")


def _rows_of_split(name: str, path: Path, table: Table, split: str) -> Sequence[int]:
    """The rows whose column `split` names this split; all, if the table has no such column. InputError: none."""
    if "split" not in table.columns:
        check_split(name, split, ["test"])
        return range(len(table))
    cells = table.columns["split"]
    split_by_cell: dict[str, str] = {}
    for cell in dict.fromkeys(cells):
        meant = split_of(cell.strip())
        if meant is None:
            line = table.lines[cells.index(cell)]
            raise InputError(f"{path}, line {line}", f"split is {cell!r}, wanted train, val or test")
        split_by_cell[cell] = meant
    if split not in split_by_cell.values():
        found = f"its column split has {', '.join(sorted(set(split_by_cell.values())))}"
        raise InputError(f"dataset {name!r}", f"no split {split!r}: {found}")
    return [k for k, cell in enumerate(cells) if split_by_cell[cell] == split]


def _candidates(path: Path, line: int, cell: str | list | None) -> list[str]:
    """The classes that a cell names: a list, or a text with semicolons between them; none if it is empty."""
    if cell is None:
        return []
    parts = cell if isinstance(cell, list) else str(cell).split(";")
    stripped = map(str.strip, map(str, parts))
    names = list(filter(None, stripped))
    if len(names) == 1:
        wanted = "wanted two classes or more, as in cat;dog, or nothing, which is all of them"
        raise InputError(f"{path}, line {line}", f"candidates is {names[0]!r}, {wanted}")
    for name, n in Counter(names).items():
        if n > 1:
            raise InputError(f"{path}, line {line}", f"candidates has {name!r} twice")
    return names


def _read_json_lines(path: Path) -> Table:
    """Columns path and, if the first line has them, label, group (not without label), candidates and split.

    All are texts except candidates, which may be lists. InputError names the line at fault.
    """
    table = Table(array("q"), {})
    for number, line in json_lines(path):
        try:
            row = json.loads(line)
            keys = ["path", *(key for key in OPTIONAL if key in row)]
            if not table.columns:
                columns = list(keys)
                if "label" not in row and "group" in row:
                    columns.remove("group")
                table.columns.update((key, []) for key in columns)
            cells = {key: row[key] for key in table.columns}
        except (ValueError, KeyError, TypeError, RecursionError):
            wanted = list(table.columns) if len(table.columns) > 1 else ["path", "label"]
            raise InputError(f"{path}, line {number}", f"is no JSON object with {' and '.join(wanted)}") from None
        for key in keys:
            if key not in table.columns and key != "group":
                raise InputError(f"{path}, line {number}", f"has {key}, the first line has none")
        table.lines.append(number)
        for key, value in cells.items():
            if key != "candidates":
                value = _text_of(path, number, key, value)
            table.columns[key].append(value)
    if not table.lines:
        raise InputError(path, "holds no line")
    return table


def _text_of(path: Path, line: int, key: str, value: object) -> str:
    """A text or a number of a jsonl as text. InputError for null, nan, lists and objects, which are no value."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not isinstance(value, str) and not is_number:
        raise InputError(f"{path}, line {line}", f"{key} is {value!r:.60}, wanted a text or a number")
    return str(value)


# ---- paths ----


def _places(folder: Path, cells: list[str]) -> tuple[list[str], list[str]]:
    """Paths as from the folder, and the names of the files: as from the folder, or the last part of a path elsewhere.

    Only cells that are not plain go through pathlib, which takes 20 times as long.
    """
    start = os.path.join(folder, "")
    places = []
    names = []
    for cell in cells:
        if not _is_plain(cell):
            path = _resolved(folder, cell)
            inside = path.is_relative_to(folder)
            place = path.relative_to(folder).as_posix() if inside else str(path)
            name = place if inside else path.name
        elif not cell.startswith("/"):
            place = name = cell
        else:
            place = cell
            name = cell[len(start) :] if cell.startswith(start) else os.path.basename(cell)
        places.append(place)
        names.append(name)
    return places, names


def _is_plain(cell: str) -> bool:
    """Whether a path is already as pathlib would write it, and without ~ and backslashes."""
    if cell.startswith(("~", "./")) or cell.endswith(("/", "/.")):
        return False
    return "\\" not in cell and "//" not in cell and "/./" not in cell


def _resolved(folder: Path, cell: str) -> Path:
    """A path in a table: as it is, or as Windows would write it."""
    path = folder / os.path.expanduser(cell)
    if "\\" in cell and not path.exists():
        return folder / PureWindowsPath(cell).as_posix()
    return path
