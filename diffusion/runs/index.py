"""The index of a run: the fields of each record that tables need, so that a table need not parse the records.

FOLDER/.index has a line for each record that passed all checks of its run: a CRC-32 of the rest of the line, the
SHA-256 of the record's bytes, a key, and the fields as JSON. The key is a digest of everything else that the fields
depend on: what the run's records must agree with, how they were decided again, and the code that checks and decides.
Readers read and digest the bytes of each record all the same, so a line counts only for exactly these bytes: a record
that changed is parsed again, and a line that is truncated, edited, or of another record, run or version is ignored. The
file may be deleted at any time.
"""

import contextlib
import json
import os
import zlib
from functools import cache
from pathlib import Path

from diffusion.io.atomic import sha256
from diffusion.paths import PACKAGE

NAME = ".index"
CODE = [
    "runs/index.py",
    "runs/records.py",
    "runs/archive.py",
    "runs/results.py",
    "stats/metrics.py",
    "stats/calibration.py",
]
BUFFERED = 500  # lines written at once


@cache
def _code() -> str:
    """Digest of the modules that check records and decide."""
    return sha256("".join(sha256((PACKAGE / name).read_bytes()) for name in CODE))


def key(*depends: str) -> str:
    """Digest of texts on which the fields of a record depend, and of the code that makes them."""
    return sha256("\n".join([_code(), *depends]))


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, bool | int | float | str) for each in value)
    return isinstance(value, bool | int | float | str)


def _crc(data: bytes) -> bytes:
    return b"%08x" % zlib.crc32(data)


class Index:
    """The index of a run folder, as it was when this was made; new lines are appended by `flush`.

    Several processes may append at the same time, since each writes whole lines in one call. If the folder cannot be
    written, there is no index, and nothing else changes.
    """

    def __init__(self, folder: Path, *depends: str, read: bool = True):
        """`depends`: texts on which the fields depend, beside the record; without `read`, only to append."""
        self._path = folder / NAME
        self._key = key(*depends).encode()
        self._lines: dict[bytes, bytes] = {}  # digest of a record -> line
        self._new: list[bytes] = []
        if read:
            with contextlib.suppress(OSError):
                self._read()

    def _read(self) -> None:
        with self._path.open("rb") as file:
            for line in file:
                parts = line.split(b" ", 3)
                if len(parts) == 4 and parts[2] == self._key:
                    self._lines[parts[1]] = line

    def find(self, digest: str, path: Path) -> dict | None:
        """The fields of a record with this digest of its bytes, if it is of the image that the file is named after."""
        line = self._lines.get(digest.encode())
        if line is None:
            return None
        crc, _, rest = line.rstrip(b"\n").partition(b" ")
        if crc != _crc(rest):
            return None
        fields = json.loads(rest.split(b" ", 2)[2])
        if not path.stem.isdecimal() or fields["index"] != int(path.stem):
            return None
        return fields

    def add(self, digest: str, fields: dict) -> None:
        """Note the fields of a record that was checked. If JSON cannot hold one of them exactly, it gets no line."""
        if not all(map(_is_plain, fields.values())):
            return
        rest = b"%s %s %s" % (digest.encode(), self._key, json.dumps(fields).encode())
        self._new.append(b"%s %s\n" % (_crc(rest), rest))
        if len(self._new) >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Append the new lines."""
        if not self._new:
            return
        data = b"\n" + b"".join(self._new)  # the line break ends the line of a writer that was killed
        self._new = []
        with contextlib.suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, data)
            finally:
                os.close(file)
