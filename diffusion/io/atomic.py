"""Files that a reader sees whole or not at all, and digests."""

import errno
import hashlib
import os
import socket
from pathlib import Path

from diffusion import InputError, one_line


def sha256(data: bytes | str) -> str:
    """Hex digest of bytes or of a text."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name; FileExistsError if the name is taken. Without hard links, the last writer wins."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        temporary.replace(path)


def write_atomic(path: Path, write, replace: bool = True) -> None:
    """`write(file)` into a temporary file beside `path`, then rename: a reader sees all of it or none of it.

    Without `replace` the first of several writers wins; FileExistsError for the others. InputError, with `path` as it
    was before, if the disk is full, the folder cannot be written, and the like.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        for last in (False, False, True):
            try:
                with temporary.open("wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                if replace:
                    temporary.replace(path)
                else:
                    _link(temporary, path)
                return
            except FileNotFoundError:  # another worker took our temporary file for a dead worker's: try again
                if last:
                    raise
            finally:
                temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if a write fails
        raise InputError(path, f"cannot be written ({one_line(error)})") from error
