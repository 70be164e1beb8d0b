"""Runs on disk: a folder of one file per image, and the `run.json` that says which options produced them."""

import hashlib
import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import torch

from diffusion import InputError

# What published files hold beside tensors: numpy scalars, under their names in numpy 1 and 2. Nothing else is read.
_SCALARS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("int64", "int32", "float32", "float64")),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
]


def sha256(data: bytes | str) -> str:
    """Hex digest of bytes or of a text."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def write_atomic(path: Path, write) -> None:
    """`write(file)` into a temporary file beside `path`, then rename: a reader sees all of it or none of it."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_run(folder: Path, options: dict, about: dict) -> None:
    """Create a run folder, or join the one that is there.

    `options` is everything that can change a number; `about` is what readers need besides (it may grow or shrink: the
    last writer's holds). Raises InputError, naming every difference, when the folder was made with other options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    options = json.loads(json.dumps(options))  # tuples become lists, as they will be when read
    if path.exists():
        there = read_run(folder)["options"]
        differences = [
            f"{key} was {there.get(key)!r}, now {options.get(key)!r}"
            for key in sorted(there.keys() | options.keys())
            if there.get(key) != options.get(key)
        ]
        if differences:
            raise InputError(
                f"{folder} holds a run with other options: {'; '.join(differences)}."
                " Give this one its own folder with --extra NAME, or delete that one"
            )
    elif any(folder.glob("*.pt")):
        raise InputError(f"{folder} holds results but no run.json, so what made them is unknown; use --extra NAME")
    text = json.dumps({"options": options, **about}, indent=1, ensure_ascii=False)
    write_atomic(path, lambda file: file.write(text.encode()))


def read_run(folder: Path) -> dict:
    """The contents of run.json. Raises InputError when it is missing or broken."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text())
        run["options"].items()
        missing = {"images", "arms"} - run.keys()
        if missing:
            raise KeyError(f"no {' and no '.join(sorted(missing))}")
        return run
    except FileNotFoundError:
        raise InputError(f"{folder}: no run.json there, so it is no run folder") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None


def competitors(run: dict) -> tuple[np.ndarray, np.ndarray]:
    """Which class id each row of a run stands for, and the row of each arm.

    Several prompts of a class are one row, the mean of them; class ids that a model is told compete alone, even where
    several mean the same class of the data set.
    """
    classes = np.array([class_id for *_, class_id in run["arms"]], dtype=int)
    if "all_arms" in run:
        return classes, np.arange(len(classes))
    return np.unique(classes, return_inverse=True)


def record_path(folder: Path, total: int, index: int) -> Path:
    """The file of image `index` in a data set of `total`: zero-padded to the width of the last index."""
    return folder / f"{index:0{len(str(total - 1))}d}.pt"


def finished(folder: Path) -> dict[int, Path]:
    """Dataset index -> record, from one listing of the folder."""
    found = {int(m[1]): folder / m[0] for name in os.listdir(folder) if (m := re.fullmatch(r"(\d+)\.pt", name))}
    return dict(sorted(found.items()))


def clean(folder: Path, indices) -> None:
    """Remove the temporary files that a killed writer of these images left."""
    mine = set(indices)
    for name in os.listdir(folder):
        if (m := re.match(r"\.(\d+)\.pt\.", name)) and int(m[1]) in mine:
            (folder / name).unlink(missing_ok=True)


def save_record(path: Path, record: dict) -> None:
    """Save a dict of ints, strings, lists of strings and tensors."""
    write_atomic(path, lambda file: torch.save(record, file))


def load_record(path: Path) -> dict:
    """Load a record, ours or a published one, as plain ints, strings and tensors; never by unpickling code.

    Raises InputError naming the file when it is no record.
    """
    try:
        with torch.serialization.safe_globals(_SCALARS):
            record = torch.load(path, weights_only=True)
        record.update({key: int(record[key]) for key in ("label", "pred") if key == "label" or key in record})
        return record
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a foreign or truncated file makes the reader say
        raise InputError(f"{path} is no record: {' '.join(str(error).split())[:160]}") from None
