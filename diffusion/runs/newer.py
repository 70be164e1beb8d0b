"""Images of a user that were changed after they were measured, as far as the dates of files show it."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from diffusion import InputWarning
from diffusion.io.wording import few
from diffusion.runs import pack

Files = Mapping[int, tuple[str, str]]  # image by index or number -> its name, the path of its file


def newer(files: Files, done: Mapping[int, Path]) -> list[int]:
    """The images, ascending, whose files were modified after their records were written.

    `done`: image -> path of its record, which in a packed run has the date of the pack. Nothing is read. An image or a
    record that is not there is left out.
    """
    dates: dict[Path, int] = {}  # of packed runs
    found = []
    for index in sorted(done):
        if index not in files:
            continue
        record = done[index]
        try:
            changed = os.stat(files[index][1]).st_mtime_ns
            if record.parent in dates:
                written = dates[record.parent]
            else:
                written = _date(record, dates)
        except OSError:
            continue
        if changed > written:
            found.append(index)
    return found


def _date(record: Path, dates: dict[Path, int]) -> int:
    """When a record was written, in nanoseconds; that of a packed run is added to `dates`. OSError: it is not there."""
    try:
        return os.stat(record).st_mtime_ns
    except NotADirectoryError:
        dates[record.parent] = os.stat(record.parent).st_mtime_ns
        return dates[record.parent]


def in_words(files: Files, done: Mapping[int, Path]) -> str:
    """How many images are newer than their records, and which; "" if there is none."""
    found = newer(files, done)
    if not found:
        return ""
    number = f"{len(found):,} images are newer than their records"
    if len(found) == 1:
        number = "1 image is newer than its record"
    names = few([files[index][0] for index in found])
    records = [done[index] for index in found]
    again = f"remove their records ({few(records)}) to measure them again"
    if pack.is_pack(records[0].parent):
        again = "measure them again under --extra NAME, as this run is packed"
    return f"{number}: {names}; if they were changed, {again}"


def warn(files: Files, done: Mapping[int, Path]) -> None:
    """Warn of images that are newer than their records, in one line."""
    words = in_words(files, done)
    if words:
        warnings.warn(words, InputWarning, stacklevel=2)
