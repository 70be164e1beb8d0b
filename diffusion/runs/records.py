"""Runs on disk: a folder of one file per image, and the `run.json` that says which options produced them."""

import contextlib
import errno
import io
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffusion import InputError, one_line
from diffusion.data.catalogue import SPLITS
from diffusion.io.atomic import sha256, write_atomic
from diffusion.io.reading import check_zip
from diffusion.io.wording import numbers

# What published files hold beside tensors: numpy scalars, under their names in numpy 1 and 2. Nothing else is read.
_SCALARS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("int64", "int32", "float32", "float64")),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
]


def open_run(folder: Path, options: dict, about: dict) -> None:
    """Create a run folder, or join the one that is there.

    `options` is everything that can change a number; `about` is what readers need besides (it may grow or shrink: the
    last writer's holds). Raises InputError, naming every difference, when the folder was made with other options.
    """
    path = folder / "run.json"
    text = json.dumps({"options": options, **about}, indent=1, ensure_ascii=False)
    run = json.loads(text)  # tuples become lists, as they will be when read
    try:
        text = text.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair of JSON, or what is no UTF-8 in a folder's name
        before = one_line(text[max(error.start - 40, 0) : error.start])
        raise InputError(folder, f"a text that is no Unicode, after {before!r}") from None
    try:
        if max(len(os.fsencode(part)) for part in folder.parts) > 255:  # else the folders above it would be made
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, f"cannot be made ({error.strerror})") from None
    if not os.path.exists(path):
        if any(folder.glob("*.pt")):
            raise InputError(folder, "holds results but no run.json, so what made them is unknown; use --extra NAME")
        with contextlib.suppress(FileExistsError):  # another worker was faster: join its run
            return write_atomic(path, lambda file: file.write(text), replace=False)
    there = read_run(folder)
    if there == run:
        return
    was, now = there["options"], run["options"]
    differences = [
        _prompts_differ(there["arms"], run["arms"])
        if key == "prompts" and there["arms"] != run["arms"]
        else f"{key} was {was.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]
    if differences:
        own = "Give this one its own folder with --extra NAME"
        raise InputError(f"{folder} holds a run with other options", f"{'; '.join(differences)}. {own}")
    write_atomic(path, lambda file: file.write(text))


def _prompts_differ(was: list[list], now: list[list], most: int = 3) -> str:
    """The lines prompt,classname,classidx that only one of two runs has, at most so many of each."""

    def only(these: list[list], others: list[list]) -> str:
        lines = [json.dumps(text, ensure_ascii=False) + f",{name},{k}" for text, name, k in these]
        there = {tuple(arm) for arm in others}
        left = [line for line, arm in zip(lines, these, strict=True) if tuple(arm) not in there]
        return " and ".join(left[:most]) + (f" and {len(left) - most} more" if len(left) > most else "")

    gone, new = only(was, now), only(now, was)
    if not gone and not new:
        return "the prompts are the same, in another order"
    return ", ".join([f"the prompts had {gone}"] * bool(gone) + [f"the prompts now have {new}"] * bool(new))


_SPAN = r"\d{1,9}(-\d{1,9})?"
_RUN = {  # what is read again of a run.json, beside or in its options -> its type, or the texts that it may be
    **dict.fromkeys(["images", "img_size", "schedule"], int),
    **dict.fromkeys(["arms", "n_samples"], list),
    **dict.fromkeys(["dataset", "split"], str),
    **dict.fromkeys(["all_arms", "indices"], f"{_SPAN}( {_SPAN})*"),
    "loss": r"[\w.+-]+",  # one of names.LOSSES, or of a baseline, or the caller's own; records say which they have
    "interpolation": "bilinear|bicubic|lanczos|adm",
    "examples": dict,
}


def read_run(folder: Path) -> dict:
    """The contents of run.json. Raises InputError when it is missing, or broken, or what no script writes."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text())
        told = run | run["options"]
        if missing := {"images", "arms"} - run.keys():
            raise ValueError(f"no {' and no '.join(sorted(missing))}")
        for key in [key for key in _RUN if told.get(key) is not None]:  # None: an option that was not given
            value, wanted = told[key], _RUN[key]
            if not (isinstance(value, wanted) if isinstance(wanted, type) else re.fullmatch(wanted, value)):
                raise ValueError(f"{key} is {value!r:.60}, wanted {getattr(wanted, '__name__', wanted)}")
        for arm in run["arms"]:
            said, name, class_id = arm
            is_id = isinstance(class_id, int) and 0 <= class_id < 2**63
            if not (isinstance(said, str | int) and isinstance(name, str) and is_id):
                raise ValueError(f"an arm is {arm!r:.60}, wanted a prompt or an id, a class's name and a class id")
        return run
    except FileNotFoundError:
        raise InputError(folder, "no run.json there, so it is no run folder") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged", f"{one_line(error)}") from None


def need(folder: Path, run: dict, *keys: str) -> None:
    """Raises InputError where a run lacks one of these."""
    for key in keys:
        if not (run | run["options"]).get(key):
            raise InputError(f"{folder / 'run.json'}", f"no {key} there")


def run_folder(path: Path) -> Path:
    """The folder itself, or the only one in it that is named as a split and holds a run: DiT's are laid out so."""
    if os.path.exists(path / "run.json"):  # as Path's, but any name will do
        return path
    inside = [path / split for split in SPLITS if os.path.exists(path / split / "run.json")]
    if len(inside) > 1:
        raise InputError(path, f"holds runs of {len(inside)} splits, wanted one of {', '.join(map(str, inside))}")
    return inside[0] if inside else path


def record_path(folder: Path, total: int, index: int) -> Path:
    """The file of image `index` in a data set of `total`: zero-padded to the width of the last index."""
    return folder / f"{index:0{len(str(total - 1))}d}.pt"


def _names(folder: Path) -> list[str]:
    """The names of a folder's files. InputError where it cannot be listed."""
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(folder, f"cannot be listed ({error.strerror})") from None


def _numbered(folder: Path, names: list[str], suffix: str) -> dict[int, Path]:
    """Dataset index -> path, in order, of the files of a folder that are named INDEX and the suffix."""
    matches = (re.fullmatch(rf"(\d+)\.{suffix}", name) for name in names)
    return dict(sorted((int(m[1]), folder / m[0]) for m in matches if m))


def finished(folder: Path) -> dict[int, Path]:
    """Dataset index -> record, from one listing of the folder."""
    return _numbered(folder, _names(folder), "pt")


def indices_of(about: dict) -> set[int] | None:
    """The images that the last command of a run chose, from its run.json; None where that does not tell."""
    return set(numbers(about["indices"].split())) if "indices" in about else None


def chosen(folder: Path, about: dict) -> dict[int, Path]:
    """`finished`, of the images that the last command of a run chose, as its run.json says; all where it does not."""
    done, wanted = finished(folder), indices_of(about)
    if wanted is None:
        return done
    return {index: path for index, path in done.items() if index in wanted}


def failed(folder: Path) -> dict[int, Path]:
    """Dataset index -> the note `failed/INDEX.txt` that says why there is no record."""
    notes = folder / "failed"
    return _numbered(notes, _names(notes) if os.path.isdir(notes) else [], "txt")


def check_notes(folder: Path) -> None:
    """Raises InputError where notes cannot be left in a run's folder, as `failed` is something else there."""
    notes = folder / "failed"
    if os.path.lexists(notes) and not os.path.isdir(notes):
        raise InputError(notes, "is no folder, wanted one, or nothing, for notes of images that cannot be read")


def note_failure(path: Path, why: str) -> None:
    """Leave a note beside the record that is not there, until `forget_failure` removes it. InputError: cannot."""
    notes = path.parent / "failed"
    try:
        notes.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(notes, f"cannot be made ({error.strerror})") from None
    write_atomic(notes / f"{path.stem}.txt", lambda file: file.write(f"{why}\n".encode(errors="backslashreplace")))


def read_note(note: Path) -> str:
    """What a note says; of one that cannot be read, that."""
    try:
        return note.read_text(errors="replace").strip()
    except OSError as error:
        return f"{note}: cannot be read ({error.strerror})"


def forget_failure(note: Path) -> None:
    """Remove the note of an image that now has a record; a note that cannot be removed counts no longer."""
    with contextlib.suppress(OSError):
        note.unlink()
        note.parent.rmdir()  # unless others are there


def clean(folder: Path, indices) -> dict[int, Path]:
    """Remove the temporary files that killed writers of these images left; a living writer makes its file again.

    Gives what `finished` does, from the same listing. Files that cannot be removed stay: nobody reads them.
    """
    mine, names = set(indices), _names(folder)
    for name in names:
        m = re.match(r"\.(\d+)\.pt\.|\.run\.json\.", name)
        if m and (m[1] is None or int(m[1]) in mine):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    return _numbered(folder, names, "pt")


# ---- records ----


def fingerprint(options: dict) -> str:
    """What records hold of the options of their run: model, data, prompts, and all else that can change a number.

    An option that is None is one that is not there, as for `open_run`.
    """
    as_read = json.loads(json.dumps(options))  # keys become texts, as in run.json
    chosen = {key: value for key, value in as_read.items() if value is not None}
    return sha256(json.dumps(chosen, sort_keys=True))


@dataclass(frozen=True)
class Expected:
    """What every record of a run agrees with."""

    run: str  # fingerprint of its options
    loss: str | None  # which is stored, and decides; None: any
    arms: int | None  # how many; None: images differ
    class_ids: frozenset[int] | None  # one of which is the answer; None: images differ
    levels: int | None  # of the noise schedule; None: not known


def expected(run: dict, loss: str | None = None) -> Expected:
    """From the contents of run.json; decided by its loss if no other."""
    options, matching = run["options"], "examples" in run
    arms = None if matching else run["arms"]  # the captions of an image are its arms
    return Expected(
        fingerprint(options),
        loss or options.get("loss"),
        len(arms) if arms else None,
        frozenset(class_id for *_, class_id in arms) if arms else None,
        run.get("schedule"),
    )


def save_record(path: Path, record: dict, run: str | None = None) -> None:
    """Save a dict of ints, strings, lists of strings and tensors; `run` is the `fingerprint` of its run's options."""
    stamped = record if run is None else record | {"run": run}
    write_atomic(path, lambda file: torch.save(stamped, file))


def one_point(errors: torch.Tensor, loss: str, among: torch.Tensor | None = None, **about) -> dict:
    """A record, `about` an image, of a model that answers at once: errors [arms], each at the one point there is.

    Of `among` [arms] bool, if given, only those compete.
    """
    one = torch.zeros(1, dtype=torch.int64)
    among = torch.ones(len(errors), dtype=torch.bool) if among is None else among
    measured = {"counts": among.long(), "errors": errors[among, None]}
    measured |= {"losses": [loss], "levels": one, "noise": one.clone()}
    return about | {"nfe": 1} | measured


def _check_origin(record: dict, wanted: Expected) -> None:
    """Raises ValueError where a record is of another run.

    One without the field `run` may be of this run, as far as it agrees with it.
    """
    if record.get("run", wanted.run) != wanted.run:
        raise ValueError("it is of a run with other options")
    if wanted.arms not in (None, len(record["counts"])):
        raise ValueError(f"counts of {len(record['counts'])} arms, the run has {wanted.arms}")
    if wanted.loss not in (None, *record["losses"]):
        raise ValueError(f"no loss {wanted.loss}, it has {', '.join(record['losses'])}")
    answers = {*record.get("candidates", []), *([record["pred"]] if "pred" in record else [])}
    if wanted.class_ids and not answers <= wanted.class_ids:
        raise ValueError(f"class {min(answers - wanted.class_ids)} is none of the run's")
    levels = record["levels"]
    if wanted.levels and not (levels.min() >= 0 and levels.max() < wanted.levels):
        raise ValueError(f"levels from {levels.min()} to {levels.max()}, the run has 0 to {wanted.levels - 1}")


def _check_numbers(record: dict) -> None:
    """Raises ValueError, or what torch says, where a record's numbers are not as `Measured.record` gives them."""
    missing = {"index", "nfe", "losses", "levels", "noise", "counts", "errors"} - record.keys()
    if missing:
        raise ValueError(f"no {' and no '.join(sorted(missing))}")
    for key in ("nfe", "first_nfe"):
        nfe = record.get(key, 1)
        if not (isinstance(nfe, int) and nfe > 0):
            raise ValueError(f"{key} is {nfe!r:.60}, wanted int, at least 1")
    for key in ("between_pairs", "within_pairs"):
        square = record.get(key, 0.0)
        if not (isinstance(square, float) and 0 <= square < math.inf):
            raise ValueError(f"{key} is {square!r:.60}, wanted a number, at least 0")
    candidates = record.get("candidates", [])
    if not (isinstance(candidates, list) and all(isinstance(c, int) for c in candidates)):
        raise ValueError(f"candidates is {candidates!r:.60}, wanted a list of class ids")
    losses, levels, noise, counts, errors = (record[key] for key in ("losses", "levels", "noise", "counts", "errors"))
    if counts.min() < 0 or not 1 <= counts.max() == len(levels) == len(noise):
        raise ValueError(f"counts from {counts.min()} to {counts.max()} of {len(levels)} levels, {len(noise)} noises")
    if list(errors.shape) != [counts.sum(), len(losses)]:
        raise ValueError(f"errors {list(errors.shape)}, wanted {[int(counts.sum()), len(losses)]}")
    if not errors.isfinite().all():
        raise ValueError("errors that are not all finite")
    signs = record.get("signs", torch.ones(len(levels)))
    if signs.shape != levels.shape or not (signs.abs() == 1).all():
        raise ValueError(f"signs {list(signs.shape)}, wanted {list(levels.shape)}, each 1 or -1")
    weights = record.get("weights", torch.ones(len(levels)))
    if weights.shape != levels.shape or not (weights >= 0).all() or not weights.isfinite().all():
        raise ValueError(f"weights {list(weights.shape)}, wanted {list(levels.shape)}, numbers from 0 up")


def _parse(data: bytes) -> dict:
    """What torch.save wrote, as far as it is data. ValueError, or what torch says, where it is damaged or code."""
    if data.startswith(b"PK"):  # else published ones of an older torch, which have no checksum
        check_zip(io.BytesIO(data))
    with torch.serialization.safe_globals(_SCALARS):
        return torch.load(io.BytesIO(data), weights_only=True)


def load_record(path: Path, wanted: Expected | None = None) -> dict:
    """Load a record, ours or a published one, as plain ints, strings and tensors; never by unpickling code.

    Every record is read here, whole, and held against its checksums. With `wanted` it must be one of that run, with
    numbers that are as they should be; a published one will not do. Raises InputError naming the file when it is no
    such record, or another image's.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from None
    try:
        record = _parse(data)
    except Exception as error:  # whatever a foreign or truncated file makes the reader say
        raise InputError(f"{path} is no record", f"{one_line(error)}") from None
    try:
        record.update({key: int(record[key]) for key in ("label", "pred") if key == "label" or key in record})
        if wanted:
            _check_numbers(record)
            _check_origin(record, wanted)
        if "index" in record and path.stem.isdecimal() and record["index"] != int(path.stem):
            raise ValueError(f"it is of image {record['index']}")
        return record
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:  # a foreign file's values
        raise InputError(f"{path} is no record", f"{one_line(error)}") from None
