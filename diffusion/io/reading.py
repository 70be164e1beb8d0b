"""csv, json lines and npy files, checked as they are read."""

import csv
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diffusion import InputError, one_line
from diffusion.paths import shipped

FOLDER = 0x10  # the attribute of MS-DOS in a zip archive's directory


def check_zip(archive: Path | BinaryIO) -> None:
    """Compare every part of a zip archive, as torch.save writes them, with its checksum (CRC-32).

    torch.load (2.14) does not: a flipped bit of a tensor comes back as another number. Nor does it read a part that the
    archive's directory calls a folder: a tensor of that is whatever was in memory. ValueError: damaged.
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
    """`check_zip` of a file that torch.save wrote. InputError: damaged. Its older form, no zip, has no checksums."""
    try:
        if zipfile.is_zipfile(path):
            check_zip(path)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(path, error) from None


def read_npy(path: Path, given: str, otherwise: str = "") -> np.ndarray:
    """The array in a npy file; InputError, beginning with what was `given`, where it is none."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, MemoryError, RecursionError) as error:  # a header may ask for any size
        raise InputError(given, f"cannot be read as npy ({error}){otherwise}") from None


def json_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbers of a file's lines that are not blank, and these; InputError where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other line breaks may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})") from None
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _delimiter(path: str | Path, header: str) -> str:
    marks = "\t,;" if str(path).lower().endswith(".tsv") else ",;\t"
    return next((mark for mark in marks if mark in header), marks[0])


def read_header(path: str | Path) -> list[str]:
    """The columns of a csv; [] where it cannot be read, of which `read_rows` says why."""
    try:
        with open(shipped(path), encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            columns = next(csv.reader([header], delimiter=_delimiter(path, header), skipinitialspace=True), [])
            return [column.strip().lower() for column in columns if column.strip()]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def read_rows(path: str | Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[int, list[str]]:
    """Line number -> the fields of `columns` and of those `optional` ones that there are, as text.

    Fields are separated by commas, or by what the header has: semicolons or tabs; blanks after them do not count, nor
    does the case of a column's name.
    The csv module and not pandas: it keeps "None" and "nan" as they are, counts lines, and leaves rows with an
    unquoted comma too long, where pandas moves every column by one.
    """
    rows = {}
    try:
        with open(shipped(path), encoding="utf-8-sig", newline="") as file:
            by = _delimiter(path, file.readline())
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=by, skipinitialspace=True)
            header = [column.strip().lower() for column in next(reader, [])]
            missing = [column for column in columns if column not in header]
            columns += tuple(column for column in optional if column in header)
            if missing:
                found = ", ".join(header) or "an empty file"
                raise InputError(path, f"no column {', '.join(missing)}; found {found}")
            for row in reader:
                if not row:  # a blank line
                    continue
                if len(row) != len(header):
                    sizes = f"{len(row)} fields, wanted {len(header)}"
                    raise InputError(f"{path}, line {reader.line_num}", f"{sizes}; quote a text that has commas")
                rows[reader.line_num] = [row[header.index(column)] for column in columns]
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({said(error)}); Excel saves such as 'CSV UTF-8'") from error
    except (OSError, csv.Error) as error:
        raise InputError(path, f"cannot be read as csv: {said(error)}") from error
    if not rows:
        raise InputError(path, f"no row below the header {','.join(header)}")
    return rows


def read_numbers(path: Path, key: str, keys: range, column: str, most: float, wanted: str) -> dict[int, float]:
    """What a csv with the columns `key` and `column` says of whole numbers: each one of `keys`, once. Ascending

    Values are from 0 to `most`, or else not what was `wanted`. InputError names the file and the line at fault.
    """
    found: dict[int, float] = {}
    for line, (at, value) in read_rows(path, (key, column)).items():
        if not (is_id(at) and int(at) in keys):
            raise InputError(f"{path}, line {line}", f"{key} is {at!r}, wanted an integer in {keys[0]}..{keys[-1]}")
        if int(at) in found:
            raise InputError(f"{path}, line {line}", f"{key} {int(at)} stands there twice")
        try:
            found[int(at)] = float(value)
        except ValueError:
            found[int(at)] = math.nan
        if not 0 <= found[int(at)] <= most:
            raise InputError(f"{path}, line {line}", f"{column} is {value!r}, wanted {wanted}")
    return dict(sorted(found.items()))


def read_curve(path: Path, column: str, least: int, most: int) -> dict[int, float]:
    """Accuracies, as shares, of a csv with the columns `column`,accuracy: integers in least..most, percent. Ascending

    InputError names the file and the line at fault.
    """
    curve = read_numbers(path, column, range(least, most + 1), "accuracy", 100, "percent, from 0 to 100")
    if max(curve.values()) <= 1:
        raise InputError(path, "no accuracy is above 1, wanted percent")
    return {at: accuracy / 100 for at, accuracy in curve.items()}


def is_id(text: str) -> bool:
    """Whether a text is a whole number from 0 up."""
    return text.strip().isascii() and text.strip().isdigit() and len(text) < 19  # an int64


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, None)}"
