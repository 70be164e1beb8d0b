"""A finished run as one file: every record, run.json, notes of failures and the calibration, as parquet.

A row for each record: its index; `fields`, JSON of all that is no tensor, with the type and shape of each tensor;
`int64` and `other`, the numbers of tensors; `errors`; and a CRC-32 of all of these. Other files of the run lie in the
metadata, with a CRC-32 too.

Errors are stored exactly, as differences of their bits: loss by loss and, within a loss, point by point. Neighbours in
this order are alike, and the bits of a positive float, read as a whole number, are about the logarithm: so the
differences have few digits. A loss that goes with a power of the first one is stored as what that does not predict.
"""

import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from diffusion import InputError, one_line
from diffusion.io.atomic import write_atomic
from diffusion.io.wording import count
from diffusion.runs import archive

LISTS = ("errors", "int64")  # columns of lists
GROUP = 500  # records in a row group, which is read at once
KEY = b"diffusion-classifier"  # of the metadata
QUARTERS = (0, 2, 4)  # powers of the first loss that may predict another, in quarters


class Damaged(InputError):
    """A file that is no packed run, or a part of which is damaged: nothing in it counts."""


def is_pack(path: Path) -> bool:
    """Whether a path in place of a run's folder is a file, which must then be a packed run."""
    return os.path.isfile(path)


# ---- one record ----


def _point_major(counts: np.ndarray) -> np.ndarray:
    """The order that sorts the errors of a record, stored arm by arm, by point and then by arm; counts [arms]."""
    first = np.cumsum(counts) - counts
    point = np.arange(counts.sum()) - np.repeat(first, counts)
    return np.argsort(point, kind="stable")


def _has_error_table(record: dict) -> bool:
    """Whether a record's errors are [sum(counts), losses] float32, and can be sorted by point."""
    errors, counts = record.get("errors"), record.get("counts")
    if not (isinstance(errors, np.ndarray) and isinstance(counts, np.ndarray)):
        return False
    return errors.dtype == np.float32 and counts.dtype == np.int64 and errors.shape[:-1] == (int(counts.sum()),)


def _to_differences(errors: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Errors [losses, n] float32 as differences of their bits [losses * n] uint32, and the power of each loss."""
    bits = np.ascontiguousarray(errors).view(np.int32)
    rows: list[np.ndarray] = []
    powers: list[int] = []
    for row in bits:
        tries = {}
        for power in QUARTERS if powers else (0,):
            step = np.diff(row - _predicted(bits[0], power), prepend=np.int32(0))
            tries[power] = ((step << 1) ^ (step >> 31)).view(np.uint32)  # small numbers of either sign become small
        powers.append(min(tries, key=lambda power: np.log2(tries[power] + 1.0).sum()))
        rows.append(tries[powers[-1]])
    return np.concatenate(rows), powers


def _from_differences(stored: np.ndarray, powers: list[int]) -> np.ndarray:
    """The errors [losses, n] float32 of `_to_differences`."""
    table = stored.reshape(len(powers), -1)
    step = (table >> 1).view(np.int32) ^ -(table & 1).view(np.int32)
    bits = np.cumsum(step, 1, dtype=np.int32)
    for k, power in enumerate(powers[1:], 1):
        bits[k] += _predicted(bits[0], power)
    return bits.view(np.float32)


def _predicted(bits: np.ndarray, quarters: int) -> np.ndarray:
    return (bits.astype(np.int64) * quarters // 4).astype(np.int32)


def _encode(record: dict) -> dict:
    """The row of a record of arrays (see archive.py). TypeError: another field, which JSON does not hold."""
    fields: list[list] = []
    whole: list[np.ndarray] = [np.empty(0, np.int64)]
    other = b""
    errors = np.empty(0, np.uint32)
    for key, value in record.items():
        if not isinstance(value, np.ndarray):
            fields.append([key, value])
            continue
        dtype = str(value.dtype)
        entry = [key, dtype, list(value.shape)]
        if key == "errors" and _has_error_table(record):
            errors, powers = _to_differences(value[_point_major(record["counts"])].T)
            entry.append(powers)
        elif dtype == "int64":
            whole.append(value.ravel())
        else:
            other += value.tobytes()
        fields.append(entry)
    row = {"index": record["index"], "fields": json.dumps(fields), "other": other}
    row |= {"int64": np.concatenate(whole), "errors": errors}
    return row | {"crc": _crc(row)}


def _crc(row: dict) -> int:
    crc = zlib.crc32(row["fields"].encode())
    for part in (row["errors"], row["int64"], row["other"]):
        crc = zlib.crc32(part, crc)
    return crc


def _decode(row: dict) -> dict:
    """The record of a row, with arrays in place of tensors."""
    record: dict = {}
    used = {"int64": 0, "other": 0}
    powers = None
    for key, *entry in json.loads(row["fields"]):
        if len(entry) == 1:
            record[key] = entry[0]
            continue
        dtype, shape = entry[:2]
        size = int(np.prod(shape, dtype=np.int64))
        record[key] = np.empty(shape, dtype)
        if len(entry) == 3:
            powers = entry[2]
        elif size:
            column, length = "other", record[key].nbytes  # a column of bytes
            if dtype == "int64":
                column, length = "int64", size
            part = row[column][used[column] : used[column] + length]
            used[column] += length
            record[key] = np.frombuffer(bytearray(part), dtype).reshape(shape)
    if powers is not None:
        order = _point_major(record["counts"])
        record["errors"][order] = _from_differences(row["errors"], powers).T
    return record


def _same(a: dict, b: dict) -> bool:
    """Whether two records of arrays have the same fields with the same values, to the bit."""
    if list(a) != list(b):
        return False
    for x, y in zip(a.values(), b.values(), strict=True):
        if type(x) is not type(y):
            return False
        if isinstance(x, np.ndarray):
            if x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
                return False
        elif repr(x) != repr(y):  # nan equals nan, and a key 1 is not a key "1"
            return False
    return True


# ---- the file ----


def _pyarrow():
    """pyarrow with its parquet part. InputError: it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError("a packed run", "needs the package pyarrow: pip install pyarrow") from None
    return pyarrow


def _schema():
    """The columns of the file."""
    pyarrow = _pyarrow()
    types = {"index": pyarrow.int64(), "fields": pyarrow.string(), "crc": pyarrow.uint32(), "other": pyarrow.binary()}
    types |= {"errors": pyarrow.list_(pyarrow.uint32()), "int64": pyarrow.list_(pyarrow.int64())}
    return pyarrow.schema(list(types.items()))


def _groups(rows: Iterator[dict]) -> Iterator[list[dict]]:
    """Rows in groups of GROUP; itertools.batched is of Python 3.12."""
    while True:
        group = list(itertools.islice(rows, GROUP))
        if not group:
            return
        yield group


def write(path: Path, records: Iterable[tuple[Path, dict]], files: dict) -> int:
    """Write a packed run; the number of records. `records`: path and contents of each; `files`: JSON for the metadata.

    Each record is decoded again and compared, before its row is written. InputError if one cannot be held exactly.
    """
    pyarrow = _pyarrow()
    text = json.dumps(files)
    schema = _schema().with_metadata({KEY: b"%08x %s" % (zlib.crc32(text.encode()), text.encode())})
    written = 0

    def rows() -> Iterator[dict]:
        for source, record in records:
            try:
                arrays = archive.to_arrays(record)
                row = _encode(arrays)
                exact = _same(_decode(row), arrays)
            except TypeError:
                exact = False
            if not exact:
                raise InputError(source, "holds a field that a packed run cannot hold exactly")
            yield row

    def save(file) -> None:
        nonlocal written
        with pyarrow.parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding={"errors.list.element": "BYTE_STREAM_SPLIT", "int64.list.element": "DELTA_BINARY_PACKED"},
            write_page_checksum=True,
        ) as writer:
            for group in _groups(rows()):
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                written += len(group)

    write_atomic(path, save)
    return written


class Pack:
    """An open packed run."""

    def __init__(self, path: Path):
        """Damaged if the file is no packed run, or is damaged."""
        self.path = path
        pyarrow = _pyarrow()
        try:
            self._file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
            crc, text = self._file.schema_arrow.metadata[KEY].split(b" ", 1)
            if crc != b"%08x" % zlib.crc32(text):
                raise ValueError("the checksum of its metadata is another")
            if not self._file.schema_arrow.equals(_schema()):
                raise ValueError("it has other columns")
            self.files: dict = json.loads(text)
            indices = self._file.read(["index"]).column("index").to_pylist()
        except Exception as error:  # pyarrow raises many kinds for a foreign or damaged file
            raise self._damaged(error) from None
        if len(indices) != self.files["records"]:
            raise self._damaged(f"{count(len(indices), 'record')}, wanted {self.files['records']}")
        self.place = {index: divmod(k, GROUP) for k, index in enumerate(indices)}
        self._group = -1
        self._columns: dict = {}

    def _damaged(self, why: Exception | str) -> Damaged:
        return Damaged(self.path, f"is no packed run, or a damaged one: {one_line(why)}")

    def _read_group(self, group: int) -> None:
        table = self._file.read_row_group(group, use_threads=False)
        self._columns = {"fields": table.column("fields"), "other": table.column("other")}
        self._columns["crc"] = table.column("crc").to_numpy()
        for name in LISTS:
            lists = table.column(name).combine_chunks()
            self._columns[name] = lists.offsets.to_numpy(), lists.values.to_numpy()
        self._group = group

    def record(self, index: int) -> dict:
        """The record of an image, with arrays in place of tensors. Raises Damaged."""
        return _decode(self._row(index))

    def fields(self, index: int) -> dict:
        """All of the record of an image that is no tensor. Raises Damaged, also for its tensors."""
        found = {}
        for key, *entry in json.loads(self._row(index)["fields"]):
            if len(entry) == 1:
                found[key] = entry[0]
        return found

    def _row(self, index: int) -> dict:
        group, k = self.place[index]
        try:
            if group != self._group:
                self._read_group(group)
            row = {name: self._columns[name][k].as_py() for name in ("fields", "other")}
            for name in LISTS:
                offsets, values = self._columns[name]
                row[name] = values[offsets[k] : offsets[k + 1]]
            if _crc(row) != self._columns["crc"][k]:
                raise ValueError("its checksum is another")
            return row
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            raise self._damaged(f"image {index}: {error}") from None


@lru_cache(maxsize=4)
def _opened(path: Path, size: int, changed: int) -> Pack:
    return Pack(path)


def opened(path: Path) -> Pack:
    """A packed run, opened once as long as the file stays as it is. Raises Damaged."""
    state = path.stat()
    return _opened(path, state.st_size, state.st_mtime_ns)
