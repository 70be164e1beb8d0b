"""The records that this project writes, read without torch.load, which takes many times as long for so small a file.

torch.save makes a zip archive: `data.pkl`, a pickle of the record in which each tensor names its storage, and the bytes
of each storage in a part of its own. `parse` reads exactly this form. For anything else it returns None, and torch.load
decides.

Tensors are arrays of numpy here: what only prints or exports a run need not import torch, which takes seconds, and half
a gigabyte if it was built for CUDA.
"""

import io
import pickle
import struct
import sys
import zlib

import numpy as np

STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8",
}  # fmt: skip

# Of PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16.
LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
ENDS = struct.Struct("<4sQ2H2L4Q 4sLQL 4s4H2LH")  # the end of zip64, its locator, and the end of older archives
PREFIX = "archive/"  # of every part, if torch.save writes into memory
STORED = 0  # the method of a part that is not compressed
ENCRYPTED = 1  # a bit of the flags


class OtherForm(Exception):
    """A file is not of the form that is read here."""


def parse(data: bytes) -> dict | None:
    """The record in a file of torch.save, with arrays in place of tensors; None: the file is of another form.

    Every part of the file is compared with its checksum. No code of it runs: its pickle may name tensors and nothing
    else.
    """
    try:
        parts = _parts(data)
        record = _Unpickler(bytearray(data), parts).load()
    except Exception:  # a foreign file may lead to any: torch.load decides, and says why
        return None
    return record if isinstance(record, dict) else None


def _parts(data: bytes) -> dict[str, tuple[int, int]]:
    """Name -> begin and end of each part of an archive whose checksums are right. OtherForm; struct.error."""
    end = len(data) - ENDS.size
    found = ENDS.unpack_from(data, end)
    count, size, start = found[7:10]
    of_zip64 = (b"PK\6\6", 44, *found[2:4], 0, 0, count, count, size, start)
    of_both = (*of_zip64, b"PK\6\7", 0, end, 1, b"PK\5\6", 0, 0, count, count, size, start, 0)
    if found != of_both or start + size != end:
        raise OtherForm

    view = memoryview(data)
    parts: dict[str, tuple[int, int]] = {}
    at = start
    for _ in range(count):
        entry = CENTRAL.unpack_from(data, at)
        mark, _, _, flags, method, _, _, crc, packed, size, name_size, extra, comment, disk, _, attributes, head = entry
        name = data[at + CENTRAL.size : at + CENTRAL.size + name_size]
        at += CENTRAL.size + name_size + extra + comment
        if mark != b"PK\1\2" or method != STORED or flags & ENCRYPTED or packed != size or disk or attributes:
            raise OtherForm

        local = LOCAL.unpack_from(data, head)
        begin = head + LOCAL.size + local[-2] + local[-1]
        same_name = data[head + LOCAL.size : head + LOCAL.size + local[-2]] == name
        if local[0] != b"PK\3\4" or not same_name or begin + size > start:
            raise OtherForm
        if zlib.crc32(view[begin : begin + size]) != crc:
            raise OtherForm
        parts[name.decode("ascii")] = begin, begin + size

    if at != end or len(parts) != count:
        raise OtherForm
    begin, end = parts[f"{PREFIX}byteorder"]
    if data[begin:end] != b"little" or sys.byteorder != "little":
        raise OtherForm
    return parts


class _MakeArray:
    """Stands for torch._utils._rebuild_tensor_v2; without attributes, so that no pickle can change it."""

    __slots__ = ()

    def __call__(self, storage, offset, size, stride, requires_grad, hooks):
        if not isinstance(storage, np.ndarray) or requires_grad or hooks is not None:
            raise OtherForm
        length = 1
        for along, step in zip(reversed(size), reversed(stride), strict=True):
            if step != length or along < 1:
                raise OtherForm
            length *= along
        if not 0 <= offset <= offset + length <= len(storage):
            raise OtherForm
        return storage[offset : offset + length].reshape(size)


class _NoHooks:
    """Stands for collections.OrderedDict, the hooks of a tensor: there are none."""

    __slots__ = ()

    def __call__(self) -> None:
        return None


FOUND = {("torch._utils", "_rebuild_tensor_v2"): _MakeArray(), ("collections", "OrderedDict"): _NoHooks()}
FOUND |= {("torch", name): kind for name, kind in STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    """Unpickles a record; all that a pickle may name is in FOUND, none of which is a class or can be changed."""

    def __init__(self, data: bytearray, parts: dict[str, tuple[int, int]]):
        begin, end = parts[f"{PREFIX}data.pkl"]
        super().__init__(io.BytesIO(data[begin:end]))
        self._data = data
        self._parts = parts

    def find_class(self, module: str, name: str):
        try:
            return FOUND[module, name]
        except KeyError:
            raise OtherForm from None

    def persistent_load(self, pid) -> np.ndarray:
        """The numbers of a storage, a view of the file's bytes."""
        kind, dtype, key, device, count = pid
        if kind != "storage" or dtype not in STORAGES.values() or device != "cpu":
            raise OtherForm
        begin, end = self._parts[f"{PREFIX}data/{key}"]
        size = np.dtype(dtype).itemsize
        if count * size != end - begin or begin % size:
            raise OtherForm
        return np.frombuffer(self._data, dtype, count, begin)


def to_arrays(record: dict) -> dict:
    """The record with arrays in place of tensors. TypeError: numpy has no such numbers."""
    return {key: value.numpy() if hasattr(value, "numpy") else value for key, value in record.items()}


def to_tensors(record: dict) -> dict:
    """The record with tensors in place of arrays, which share their memory."""
    import torch

    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in record.items()}
