"""csv, json lines and npy files, checked as they are read."""

import csv
import math
import zipfile
from array import array
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diffusion import InputError, one_line
from diffusion.paths import shipped

FOLDER = 0x10  # the attribute of MS-DOS in a zip archive's directory


def check_zip(archive: Path | BinaryIO) -> None:
    """Compare every part of a zip archive, as torch.save writes them, with its checksum (CRC-32).

    torch.load (2.14) does not: a tensor with a flipped bit comes back as another number. Nor does it read a part that
    the archive's directory marks as a folder: such a tensor is whatever was in memory. ValueError if it is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            damaged = opened.testzip()
            folders = [part.filename for part in opened.infolist() if part.external_attr & FOLDER]
    except OSError:
        raise
    except Exception as error:  # a flipped bit of a header may ask for any method, password, size or name
        raise ValueError(f"a damaged zip archive: {one_line(error)}") from None
    if damaged:
        raise ValueError(f"{damaged} in it is damaged: its checksum is another")
    if folders:
        raise ValueError(f"{folders[0]} in it is damaged: it is marked as a folder")


def check_pt(path: Path) -> None:
    """Apply `check_zip` to a file that torch.save wrote; its older form, no zip, has no checksums.

    InputError if it is damaged or cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            check_zip(path)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(path, error) from None


def read_npy(path: Path, where: str, hint: str = "") -> np.ndarray:
    """The array in a npy file. InputError at `where`, ending with the hint, if there is none."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, MemoryError, RecursionError) as error:  # a header may ask for any size
        raise InputError(where, f"cannot be read as npy ({error}){hint}") from None


def json_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Pairs of (number, line) for the lines of a file that are not blank. InputError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other line breaks may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})") from None
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


# ---- csv ----


@dataclass(frozen=True)
class Table:
    """Columns of a table, as text, and the line of the file that each row ends on."""

    lines: MutableSequence[int]  # [rows]
    columns: dict[str, list]  # name -> [rows]

    def __len__(self) -> int:
        return len(self.lines)


def _delimiter(path: str | Path, header: str) -> str:
    marks = "\t,;" if str(path).lower().endswith(".tsv") else ",;\t"
    return next((mark for mark in marks if mark in header), marks[0])


def csv_header(path: str | Path) -> list[str]:
    """The names of a csv's columns, in lower case; [] if it cannot be read (`read_csv` says why)."""
    try:
        with open(shipped(path), encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            reader = csv.reader([header], delimiter=_delimiter(path, header), skipinitialspace=True)
            return list(filter(None, _header(reader)))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _header(reader) -> list[str]:
    """The first row of a csv, in lower case; [] if there is none."""
    return [column.strip().lower() for column in next(reader, [])]


def read_csv(path: str | Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """The `columns` of a csv, and those `optional` ones that it has. InputError names the line at fault.

    Fields are separated by commas, or by the semicolons or tabs of the header. Blanks after them do not count, nor
    does the case of a column's name. The csv module and not pandas reads them: it keeps "None" and "nan" as they are,
    counts lines, and leaves rows with an unquoted comma too long, where pandas 3.1 may move every column by one.
    """
    try:
        with open(shipped(path), encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(path, file.readline())
            file.seek(0)
            table = _read_csv(csv.reader(file, strict=True, delimiter=delimiter, skipinitialspace=True), path,
                              columns, optional)  # fmt: skip
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({named_error(error)}); Excel saves such as 'CSV UTF-8'") from error
    except (OSError, csv.Error) as error:
        raise InputError(path, f"cannot be read as csv: {named_error(error)}") from error
    return table


def _read_csv(reader, path: str | Path, columns: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    header = _header(reader)
    missing = [column for column in columns if column not in header]
    if missing:
        found = ", ".join(header) or "an empty file"
        raise InputError(path, f"no column {', '.join(missing)}; found {found}")
    wanted = [*columns, *(column for column in optional if column in header)]
    table = Table(array("q"), {column: [] for column in wanted})

    places = [(header.index(column), table.columns[column]) for column in wanted]
    width = len(header)
    for row in reader:
        if not row:  # a blank line
            continue
        if len(row) != width:
            sizes = f"{len(row)} fields, wanted {width}"
            raise InputError(f"{path}, line {reader.line_num}", f"{sizes}; quote a text that has commas")
        table.lines.append(reader.line_num)
        for place, cells in places:
            cells.append(row[place])

    if not table.lines:
        raise InputError(path, f"no row below the header {','.join(header)}")
    return table


def read_numbers(path: Path, key: str, keys: range, column: str, most: float, wanted: str) -> dict[int, float]:
    """The numbers of a csv with the columns `key` and `column`, by key: each one of `keys`, once. Ascending

    Numbers are from 0 to `most`; `wanted` describes them for the error. InputError names the line at fault.
    """
    table = read_csv(path, (key, column))
    found: dict[int, float] = {}
    for line, at, cell in zip(table.lines, table.columns[key], table.columns[column], strict=True):
        if not (is_id(at) and int(at) in keys):
            raise InputError(f"{path}, line {line}", f"{key} is {at!r}, wanted an integer in {keys[0]}..{keys[-1]}")
        if int(at) in found:
            raise InputError(f"{path}, line {line}", f"{key} {int(at)} stands there twice")
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not 0 <= number <= most:
            raise InputError(f"{path}, line {line}", f"{column} is {cell!r}, wanted {wanted}")
        found[int(at)] = number
    return dict(sorted(found.items()))


def is_id(text: str) -> bool:
    """Whether a text is a whole number from 0 up that fits into an int64."""
    return text.strip().isascii() and text.strip().isdigit() and len(text) < 19


def named_error(error: Exception) -> str:
    """An error's type and message, in one line."""
    return f"{type(error).__name__}: {one_line(error, None)}"
